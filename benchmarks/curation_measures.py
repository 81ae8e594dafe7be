"""How right each stage of curation is about the corpus: counts, precision, recall."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.curation_corpus import Change, Video
from benchmarks.curation_pictures import MOVES
from lcv_jax.data.curation.balance import read_balance
from lcv_jax.data.curation.ingest import unique_sources
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.shown import read_clips

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Records of clips in order, by the name of their video."""
TEXT_AREA, WATERMARK = 0.002, 0.5
"""Above these a clip counts as having text, or a watermark."""
NEAR = 1
"""Frames by which a cut may be off."""
BORDER = 2
"""Pixels by which a border may be."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """right: found and true. found: all that was. true: all that is. wrong: which were missed (-) or made up (+)."""

    case: str
    right: int
    found: int
    true: int
    wrong: tuple[str, ...] = ()

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.found + self.true) if self.found + self.true else 1.0


def measured(library: Library, videos: Sequence[Video]) -> list[Measured]:
    """Of the stages that have been run, for a library whose sources are the corpus."""
    seen = [video for video in videos if not video.copy_of]
    bare = [video for video in seen if not video.text]  # a title that stays is a mark as well
    same = {video.name: video.copy_of for video in videos if video.copy_of}  # either may be the one that stays
    rows = _by_video(library.table("shots").rows().to_pylist(), same)
    found = [*cuts(rows, seen), *borders(rows, seen), exact_copies(library, videos)]
    if "annotate" not in library.tables:
        return found
    rows = _by_video(read_clips(library).to_pylist(), same)
    return [
        *found,
        *near_copies(library, rows, videos),
        *flagged(rows, seen, "text", lambda row: row["text_area"] > TEXT_AREA, lambda video: video.text or ""),
        *flagged(rows, bare, "watermark", lambda row: row["watermark"] > WATERMARK, _mark),
        blur(rows, seen),
        *camera(rows, seen),
    ]


def _by_video(rows: Iterable[Mapping[str, Any]], same: Mapping[str, str]) -> Rows:
    found: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["source_id"], row["start_frame"])):
        name = row["source_id"].removesuffix(".mp4")
        found[same.get(name, name)].append(row)
    return found


def cuts(rows: Rows, videos: Iterable[Video]) -> list[Measured]:
    """Boundaries between the clips of a video, against its changes. What is found at a true change of another kind is
    right for neither: it is counted as found where it was, and the true one as missed."""
    hard, soft = _Count("hard cuts"), _Count("dissolves and fades")
    clean, kept = _Count("clips that hold one shot only"), _Count("videos of which clips are left")
    for video in videos:
        if rows[video.name]:
            kept.found(True, video.name)
        else:
            kept.missed(video.name)
        clips = [row for row in rows[video.name] if row["cut_in"] != "split"]
        found = [
            (before["end_frame"], after["start_frame"])
            for before, after in zip(rows[video.name], rows[video.name][1:], strict=False)
            if after["cut_in"] != "split"
        ]
        left = list(video.changes)
        for start, end in found:
            match = next((one for one in left if _meets(one, start, end)), None)
            count = hard if start == end else soft
            if match is not None:
                left.remove(match)
                count = hard if match.kind == "hard" else soft
            count.found(match is not None, f"{video.name}@{start}")
        for one in left:
            (hard if one.kind == "hard" else soft).missed(f"{video.name}@{one.start}")
        for row in clips:
            pure = not any(_within(one, row["start_frame"], row["end_frame"]) for one in video.changes)
            clean.found(pure, f"{video.name}@{row['start_frame']}")
    return [hard.measured(), soft.measured(), clean.measured(), kept.measured()]


def _meets(one: Change, start: int, end: int) -> bool:
    if one.kind == "hard":
        return start - NEAR <= one.start <= end + NEAR and end - start <= 10
    return start <= one.end + NEAR and end >= one.start - NEAR


def _within(one: Change, start: int, end: int) -> bool:
    """Whether a change is inside of a clip, by more than may be off."""
    first, last = one.start, max(one.end, one.start)
    return start + NEAR < last and end - NEAR > first and not (first <= start + NEAR and one.kind == "hard")


def borders(rows: Rows, videos: Iterable[Video]) -> list[Measured]:
    """Crops that are right within BORDER pixels on each side; and crops of videos that have no border."""
    with_border, without = _Count("borders"), _Count("pictures without borders")
    for video in videos:
        whole = video.crop == (0, 0, *video.size)
        for row in rows[video.name][:1]:
            right = max(abs(a - b) for a, b in zip(_edges(row["crop"]), _edges(video.crop), strict=True)) <= BORDER
            count = without if whole else with_border
            count.told(right, f"{video.name}: {row['crop']}, is {list(video.crop)}")
        if not rows[video.name] and not whole:
            with_border.missed(video.name)
    return [with_border.measured(), without.measured()]


def _edges(crop: Sequence[int]) -> tuple[int, int, int, int]:
    x, y, width, height = crop
    return x, y, x + width, y + height


def exact_copies(library: Library, videos: Iterable[Video]) -> Measured:
    _, found = unique_sources(library, ())
    names = {name.removesuffix(".mp4"): of.removesuffix(".mp4") for name, of in found.items()}
    count = _Count("exact copies")
    true = {frozenset((video.name, video.copy_of)) for video in videos if video.copy_of}
    for pair in (frozenset(one) for one in names.items()):
        count.found(pair in true, "=".join(sorted(pair)))
        true.discard(pair)
    for pair in true:
        count.missed("=".join(sorted(pair)))
    return count.measured()


def near_copies(library: Library, rows: Rows, videos: Iterable[Video]) -> list[Measured]:
    """Clips that balance leaves out, by what was done to them, against families of one original."""
    videos = list(videos)
    family = {video.name: (video.like or video.copy_of or video.name) for video in videos}
    varied = {video.like for video in videos if video.like}
    of_clip = {row["clip_id"]: name for name, clips in rows.items() for row in clips}
    found = {row["clip_id"]: row["duplicate_of"] for row in read_balance(library).to_pylist() if row["duplicate_of"]}
    left_out: set[str] = set()
    count = _Count("near copies")
    for clip, stays in found.items():
        name, other = of_clip[clip], of_clip[stays]
        if name == other:  # a shot that was divided where nothing changes, which is counted elsewhere
            continue
        right = family[name] == family[other]
        count.found(right, f"{name}={other}")
        left_out |= {name} if right else set()
    for first in sorted(varied):
        there = [name for name, of in family.items() if of == first and rows[name]]
        for name in sorted(set(there) - left_out)[1:]:  # one of them stays
            count.missed(name)
    return [count.measured()]


def flagged(rows: Rows, videos: Iterable[Video], what: str, is_found: Any, is_true: Any) -> list[Measured]:
    """Clips that have something, in all; and by kind, how many of those that have it are found."""
    whole, kinds = _Count(f"{what}, clips"), {}
    for video in videos:
        kind = is_true(video)
        for row in rows[video.name]:
            found = is_found(row)
            if kind:
                kinds.setdefault(kind, _Count(f"{what}, {kind}"))
            for count in (whole, kinds.get(kind)):
                if count is not None and found:
                    count.found(bool(kind), f"{video.name}@{row['start_frame']}")
                elif count is not None and kind:
                    count.missed(f"{video.name}@{row['start_frame']}")
    return [whole.measured(), *(kinds[kind].measured() for kind in sorted(kinds))]


def _mark(video: Video) -> str:
    return f"{video.mark:g} over what {'moves' if video.moving else 'rests'}" if video.mark else ""


def blur(rows: Rows, videos: Iterable[Video]) -> Measured:
    """Pairs of a blurred and a sharp clip whose scores are in the right order: the area under the curve."""
    scores: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
    for video in videos:
        if video.group == "blurred":
            scores[video.blur > 0] += [(row["blur"], video.name) for row in rows[video.name]]
    pairs = [(low, high) for low in scores[True] for high in scores[False]]
    wrong = [f"{low[1]}>{high[1]}" for low, high in pairs if low[0] >= high[0]]
    return Measured("blur, pairs in order", len(pairs) - len(wrong), len(pairs), len(pairs), tuple(wrong))


def camera(rows: Rows, videos: Iterable[Video]) -> list[Measured]:
    """Clips whose labels are the one that is true; and by label."""
    whole, kinds = _Count("camera moves"), {move: _Count(f"camera, {move}") for move in MOVES}
    for video in videos:
        if video.camera is None:
            continue
        for row in rows[video.name]:
            said = tuple(row["camera"] or ())
            right = said == (video.camera,)
            named = f"{video.name} {video.speed:g}: {'+'.join(said) or 'none'}"
            whole.told(right, named)
            for label in {*said, video.camera}:
                if label in said:
                    kinds[label].found(label == video.camera, named)
                else:
                    kinds[label].missed(named)
    return [whole.measured(), *(count.measured() for count in kinds.values())]


class _Count:
    """What `found` is told to be false is made up; of what is `missed`, nothing was found."""

    def __init__(self, case: str):
        self._case, self._right, self._found, self._missed = case, 0, 0, 0
        self._wrong: list[str] = []

    def found(self, right: bool, name: str) -> None:
        self._found += 1
        self._right += right
        self._wrong += [] if right else [f"+{name}"]

    def told(self, right: bool, name: str) -> None:
        """Of what everything is one of several: what is wrongly told is missed as well."""
        self.found(right, name)
        self._missed += not right

    def missed(self, name: str) -> None:
        self._missed += 1
        self._wrong.append(f"-{name}")

    def measured(self) -> Measured:
        return Measured(self._case, self._right, self._found, self._right + self._missed, tuple(self._wrong))
