"""A corpus of short videos whose cuts, borders, copies, texts, blur, marks and camera moves are known.

    python -m benchmarks.curation_corpus --out FOLDER [--font NotoSansCJK.ttc] [--groups camera text] [--seed 0]

It writes videos/NAME.mp4 and truth.json, a `Video` for each. A seed and the packages' versions decide all of them,
whatever groups are asked for. Chinese texts are left out without a font that has them. About 7 minutes on one core.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence

import av
import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from benchmarks.curation_pictures import MOVES, PICTURES, Look, any_look
from lcv_jax.data.files import replacing

TRUTH = "truth.json"
SIZES = ((320, 180), (426, 240), (480, 270), (640, 360), (360, 360), (270, 480))
RATES = (24, 25, 30)
ENGLISH = ("Breaking news tonight", "SALE ENDS SUNDAY", "Chapter One: The River", "Subscribe for more videos")
CHINESE = ("今日新闻快报", "大减价最后三天", "第一章 河流与山", "欢迎关注我们的频道")


@dataclasses.dataclass(frozen=True)
class Change:
    """From a shot to the next. kind: hard, dissolve or fade. Frames start to end, exclusive, are of both; a hard cut
    has none, and start is the first frame of the new shot."""

    kind: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Video:
    """group: what it is made to measure. crop: x, y, width, height of what is no border. copy_of: the same bytes; like:
    the same picture encoded, scaled or cropped anew. text: en, zh or none; text_area: share of the frame that its box
    takes. blur: standard deviation in pixels. mark: opacity of a watermark, 0 for none. moving: whether what is behind
    a mark moves. camera: of MOVES, None where none is told; speed: widths, log zoom or radians a second."""

    name: str
    group: str
    size: tuple[int, int]
    fps: int
    frames: int
    crop: tuple[int, int, int, int]
    changes: tuple[Change, ...] = ()
    copy_of: str | None = None
    like: str | None = None
    how: str = ""
    text: str | None = None
    text_area: float = 0.0
    blur: float = 0.0
    mark: float = 0.0
    moving: bool = True
    camera: str | None = None
    speed: float = 0.0


Made = tuple[Video, Iterator[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Maker:
    """rng: of a group. font: a file with Chinese letters, None without one."""

    rng: np.random.Generator
    seed: int
    font: str | None

    def form(self, number: int) -> tuple[tuple[int, int], int]:
        """Size and rate, each in turn."""
        return SIZES[number % len(SIZES)], RATES[number // 2 % len(RATES)]

    def look(self, number: int, seconds: float, **fixed: object) -> Look:
        return any_look(self.rng, *self.form(number), seconds, **fixed)

    def draw(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def child(self) -> np.random.Generator:
        return np.random.default_rng(self.rng.integers(1 << 62))


def plain(name: str, group: str, look: Look, **more: object) -> Video:
    width, height = look.size
    return Video(name, group, look.size, look.fps, look.count, (0, 0, width, height), **more)


# Groups: each gives videos one by one, and makes their frames when they are asked for.


def edited(make: Maker) -> Iterator[Made]:
    """Several shots: hard cuts, dissolves, fades through black, and what are no cuts: flashes, things that rush by, and
    whip pans."""
    kinds = ["hard"] * 28 + ["dissolve"] * 12 + ["fade"] * 10 + ["mixed"] * 10
    for number, kind in enumerate(kinds):
        shots = [
            make.look(number, make.draw(2.3, 3.2), ground=ground) for ground in _apart(make, 4 - (number % 3 == 2))
        ]
        disturbed = number % 2 == 1
        if disturbed:
            shots = [dataclasses.replace(shot, things=3, fast=1.5) for shot in shots]
        ways = ["hard", "dissolve", "fade"] if kind == "mixed" else [kind]
        joints = [str(make.rng.choice(ways)) for _ in shots[1:]]
        yield _joined(f"edited-{number:02d}-{kind}", shots, joints, make, disturbed)


def rushing(make: Maker) -> Iterator[Made]:
    """One shot each, with nothing that is a cut: flashes, whip pans, things that rush by, light that changes."""
    for number in range(20):
        what = ("flash", "whip", "things", "light")[number % 4]
        look = make.look(number, make.draw(3, 5), things=4 if what == "things" else 1, fast=2.5)
        if what == "whip":
            look = dataclasses.replace(look, move="whip")
        frames = look.frames(make.child())
        if what == "flash":
            frames = _flashed(frames, make.child().integers(20, look.count - 20, 3))
        if what == "light":
            frames = (
                np.clip(frame * (1 - 0.5 * np.sin(2.5 * n / look.fps) ** 2), 0, 255).astype(np.uint8)
                for n, frame in enumerate(frames)
            )
        yield plain(f"rushing-{number:02d}-{what}", "rushing", look, how=what), frames


def bordered(make: Maker) -> Iterator[Made]:
    """Letterboxes, pillarboxes and both, of even and odd widths; every third is a dark picture; some have none."""
    for number in range(48):
        kind = ("letter", "pillar", "both", "none")[number % 4]
        light = 0.3 if number % 3 == 2 else 1.0
        look = make.look(number, make.draw(2.2, 3), light=light)
        width, height = look.size
        up = int(make.rng.integers(6, height // 6)) if kind in ("letter", "both") else 0
        left = int(make.rng.integers(6, width // 6)) if kind in ("pillar", "both") else 0
        down, right = (side + int(make.rng.integers(0, 2)) * 2 if side else 0 for side in (up, left))
        inner = dataclasses.replace(look, size=(width - left - right, height - up - down))
        pad = ((up, down), (left, right), (0, 0))
        frames = (np.pad(frame, pad) for frame in inner.frames(make.child()))
        video = plain(f"bordered-{number:02d}-{kind}{'-dark' * (light < 1)}", "bordered", look, how=kind)
        yield dataclasses.replace(video, crop=(left, up, *inner.size)), frames


def copied(make: Maker) -> Iterator[Made]:
    """Twelve originals; of each a copy of the same bytes, and the same encoded worse, smaller, cropped, or all."""
    for number in range(12):
        look = dataclasses.replace(make.look(number, 2.5, things=2), ground=number)
        first, seed = f"copied-{number:02d}", int(make.rng.integers(1 << 62))
        yield plain(first, "copied", look), look.frames(np.random.default_rng(seed))
        yield plain(f"{first}-same", "copied", look, copy_of=first), iter(())
        for how in (("encoded", "smaller"), ("cropped", "all"))[number % 2]:
            yield _again(first, how, look, look.frames(np.random.default_rng(seed)))


def written(make: Maker) -> Iterator[Made]:
    """Words over a picture: titles and lines below, on a box or not."""
    for number in range(28):
        language = ("en", "zh")[number % 2]
        look = dataclasses.replace(make.look(number, 2.5), size=SIZES[2 + number % 2])
        words = (ENGLISH if language == "en" else CHINESE)[number // 2 % 4]
        seed, box = make.child(), number % 3 == 0
        if language == "zh" and make.font is None:
            continue
        layer, area = _words(words, look.size, make.font if language == "zh" else None, seed, box)
        frames = (_over(frame, layer) for frame in look.frames(seed))
        yield plain(f"written-{number:02d}-{language}", "written", look, text=language, text_area=area), frames


def blurred(make: Maker) -> Iterator[Made]:
    """Every other one out of focus."""
    for number in range(36):
        look = dataclasses.replace(make.look(number // 2, 2.2), ground=number)
        sigma = (0.0, make.draw(0.006, 0.014) * look.size[0])[number % 2]
        frames = look.frames(make.child())
        if sigma:
            frames = (cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames)
        yield plain(f"blurred-{number:02d}", "blurred", look, blur=round(sigma, 2)), frames


def marked(make: Maker) -> Iterator[Made]:
    """A logo in a corner, of four opacities or none, over shots that move, and over pictures that do not."""
    for number in range(40):
        opacity = (0.25, 0.4, 0.6, 0.9, 0.0)[number % 5]
        moving = number // 5 % 2 == 0
        size = SIZES[2 + number % 2]
        if moving:
            shots = [make.look(number, 2.3, ground=ground) for ground in _apart(make, 2)]
            shots = [dataclasses.replace(shot, size=size) for shot in shots]
        else:
            shots = [dataclasses.replace(make.look(number, 3.0), size=size, move="static", things=1, fast=0.1)]
        how = "moving" if moving else "static"
        video, frames = _joined(f"marked-{number:02d}-{how}", shots, ["hard"] * (len(shots) - 1), make, False)
        layer = _logo(size, opacity, make.child())
        shown = (_over(frame, layer) for frame in frames) if opacity else frames
        yield dataclasses.replace(video, group="marked", mark=opacity, moving=moving), shown


def turned(make: Maker) -> Iterator[Made]:
    """Every move of a camera at several speeds, over different pictures, some with things that move in front."""
    speeds = {"pan": (0.06, 0.15, 0.4), "tilt": (0.06, 0.12, 0.25), "zoom": (0.08, 0.2, 0.4), "roll": (0.1, 0.25, 0.5)}
    for number, (move, at, again) in enumerate(itertools.product(MOVES, range(3), range(3))):
        kind = move.split("_")[0]
        speed = speeds.get(kind, (0.004, 0.008, 0.014) if kind == "shake" else (0.0,) * 3)[at]
        look = make.look(number, 2.4, move=move, speed=speed, things=again, ground=(number * 7) % PICTURES)
        look = dataclasses.replace(look, fast=0.15)
        yield plain(f"turned-{number:02d}-{move}", "turned", look, camera=move, speed=speed), look.frames(make.child())


GROUPS: dict[str, Callable[[Maker], Iterator[Made]]] = {
    "edited": edited,
    "rushing": rushing,
    "bordered": bordered,
    "copied": copied,
    "written": written,
    "blurred": blurred,
    "marked": marked,
    "turned": turned,
}


def write_corpus(
    out: pathlib.Path, groups: Sequence[str] = (), font: str | None = None, seed: int = 0, most: int | None = None
) -> list[Video]:
    """Writes what is missing of the corpus and returns its truth. groups: by default all. font: a file with Chinese
    letters. most: videos of each group."""
    found: list[Video] = []
    for name in groups or GROUPS:
        rng = np.random.default_rng([seed, *name.encode()])
        for video, frames in itertools.islice(GROUPS[name](Maker(rng, seed, font)), most):
            path = out / "videos" / f"{video.name}.mp4"
            if path.is_file():
                pass
            elif video.copy_of:
                shutil.copyfile(path.with_name(f"{video.copy_of}.mp4"), path)
            else:
                _encode(path, video, frames)
            found.append(video)
    (out / TRUTH).write_text(json.dumps([dataclasses.asdict(video) for video in found], indent=1) + "\n", "utf-8")
    return found


def _encode(path: pathlib.Path, video: Video, frames: Iterator[np.ndarray]) -> None:
    """As files on the web are: less well than `write_video` does, and several times faster."""
    with replacing(path) as aside, av.open(str(aside), "w", format="mp4") as file:
        crf = "32" if video.how in ("encoded", "all") else "20"
        stream = file.add_stream("libx264", rate=video.fps, options={"crf": crf, "preset": "veryfast"})
        stream.width, stream.height = video.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        count = 0
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            count += 1
        file.mux(stream.encode(None))
    if count != video.frames:
        raise ValueError(f"{video.name}: {count} frames, and its truth says {video.frames}")


def read_truth(out: pathlib.Path) -> list[Video]:
    """Of a corpus that was written, by name."""
    found = []
    for told in json.loads((out / TRUTH).read_text("utf-8")):
        changes = tuple(Change(**change) for change in told.pop("changes"))
        lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
        found.append(Video(**{**told, **lists}, changes=changes))
    return found


def _apart(make: Maker, count: int) -> list[int]:
    """Pictures that differ."""
    return [int(number) for number in make.rng.choice(PICTURES, count, replace=False)]


def _joined(name: str, shots: Sequence[Look], joints: Sequence[str], make: Maker, disturbed: bool) -> Made:
    """Shots one behind the other. disturbed: with a flash in the middle of each."""
    changes, at = [], 0
    spans = [int(make.rng.integers(10, 22)) for _ in joints]
    for shot, joint, span in zip(shots, joints, spans, strict=False):
        end = at + shot.count
        spread = {"hard": 0, "dissolve": span, "fade": span}[joint]
        # A dissolve shows both for its span; a fade takes as long on each side of black.
        first = end - spread
        last = {"hard": end, "dissolve": end, "fade": end + spread}[joint]
        changes.append(Change(joint, first, last))
        at = end - (spread if joint == "dissolve" else 0)
    count = at + shots[-1].count
    seeds = [make.child() for _ in shots]

    def frames() -> Iterator[np.ndarray]:
        tail: list[np.ndarray] = []
        for number, shot in enumerate(shots):
            made = list(shot.frames(seeds[number]))
            if disturbed:
                made = list(_flashed(iter(made), [shot.count // 2]))
            if number and joints[number - 1] == "fade":
                made = _faded(made, spans[number - 1])
            for k, old in enumerate(tail):
                made[k] = cv2.addWeighted(old, 1 - (k + 1) / (len(tail) + 1), made[k], (k + 1) / (len(tail) + 1), 0)
            tail, joint = [], joints[number] if number < len(joints) else "hard"
            if joint == "dissolve":
                made, tail = made[: -spans[number]], made[-spans[number] :]
            if joint == "fade":
                made = _faded(made[::-1], spans[number])[::-1]
            yield from made

    width, height = shots[0].size
    return Video(name, "edited", shots[0].size, shots[0].fps, count, (0, 0, width, height), tuple(changes)), frames()


def _faded(frames: list[np.ndarray], span: int) -> list[np.ndarray]:
    """Out of black in the first frames."""
    return [(frame * (k / span)).astype(np.uint8) for k, frame in enumerate(frames[:span])] + frames[span:]


def _flashed(frames: Iterator[np.ndarray], at: Sequence[int]) -> Iterator[np.ndarray]:
    """Two bright frames, as of another camera's flash."""
    bright = {int(k) + more: (0.75, 0.4)[more] for k in at for more in (0, 1)}
    for number, frame in enumerate(frames):
        share = bright.get(number, 0.0)
        yield (frame * (1 - share) + 255 * share).astype(np.uint8) if share else frame


def _again(first: str, how: str, look: Look, frames: Iterator[np.ndarray]) -> Made:
    """The same, encoded by write_corpus with less quality, smaller, or cropped by 4 % on each side."""
    width, height = look.size
    x, y = (round(0.04 * side) if how in ("cropped", "all") else 0 for side in look.size)
    share = 0.75 if how in ("smaller", "all") else 1.0
    size = tuple(int(share * (side - 2 * cut)) // 2 * 2 for side, cut in ((width, x), (height, y)))
    cut = (cv2.resize(frame[y : height - y, x : width - x], size, interpolation=cv2.INTER_AREA) for frame in frames)
    made = dataclasses.replace(look, size=size)
    return plain(f"{first}-{how}", "copied", made, like=first, how=how), cut


def _words(
    words: str, size: tuple[int, int], font: str | None, rng: np.random.Generator, box: bool
) -> tuple[np.ndarray, float]:
    """A layer of float32 RGB and alpha, and the share of the frame under the words' box."""
    width, height = size
    letters = height * rng.uniform(0.07, 0.12)
    made = PIL.ImageFont.truetype(font, letters) if font else PIL.ImageFont.load_default(letters)
    layer = PIL.Image.new("RGBA", size)
    draw = PIL.ImageDraw.Draw(layer)
    left, top, right, bottom = draw.textbbox((0, 0), words, font=made)
    x = (width - right) * rng.uniform(0.2, 0.8)
    y = height * rng.choice([0.08, 0.5, 0.8])
    outline = [x + left - 4, y + top - 3, x + right + 4, y + bottom + 3]
    if box:
        draw.rectangle(outline, fill=(20, 20, 30, 200))
    draw.text((x, y), words, font=made, fill=(250, 250, 240, 255), stroke_width=0 if box else 2, stroke_fill=(0, 0, 0))
    return np.asarray(layer).astype(np.float32), round((right - left) * (bottom - top) / (width * height), 4)


def _logo(size: tuple[int, int], opacity: float, rng: np.random.Generator) -> np.ndarray:
    """A ring with a star in it, white with a dark rim, in a corner."""
    width, height = size
    radius = int(height * rng.uniform(0.055, 0.085))
    layer = np.zeros((height, width, 4), np.float32)
    corner = rng.integers(0, 2, 2)
    x, y = (int(side * (0.03 + 0.94 * far)) + radius * (1 - 2 * far) for side, far in zip(size, corner, strict=True))
    angles = np.arange(10) * np.pi / 5 + rng.uniform(0, 1)
    lengths = np.where(np.arange(10) % 2, 0.3, 0.75) * radius
    star = np.stack([x + lengths * np.cos(angles), y + lengths * np.sin(angles)], -1).astype(np.int32)
    for grey, thick in ((30, 2), (255, 0)):
        colour = (grey, grey, grey, 255)
        cv2.circle(layer, (int(x), int(y)), radius, colour, radius // 5 + 1 + thick, cv2.LINE_AA)
        cv2.fillPoly(layer, [star], colour, cv2.LINE_AA)
    return layer * np.array([1, 1, 1, opacity], np.float32)


def _over(frame: np.ndarray, layer: np.ndarray) -> np.ndarray:
    share = layer[..., 3:] / np.float32(255)
    return (frame * (1 - share) + layer[..., :3] * share).astype(np.uint8)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--font", help="a file with Chinese letters")
    parser.add_argument("--groups", nargs="*", default=(), choices=tuple(GROUPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, help="videos of each group")
    asked = parser.parse_args(args)
    found = write_corpus(asked.out, asked.groups, asked.font, asked.seed, asked.most)
    print(f"{len(found)} videos, {sum(video.frames for video in found)} frames: {asked.out}")


if __name__ == "__main__":
    main()
