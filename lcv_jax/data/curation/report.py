"""`report.html`: what a library holds, to be looked at: counts, reasons, distributions, and clusters with pictures.

One file that needs nothing else and runs no script. All text in it that was found, told or generated is escaped, and
its policy would keep a browser from loading or running anything even if it were not.
"""

import base64
import collections
import html
import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa

from lcv_jax.data.curation.balance import read_balance, told
from lcv_jax.data.curation.captioning import clip_frames
from lcv_jax.data.curation.embedding import english
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.selection import FOLDER, Selected, read_selected
from lcv_jax.data.curation.shown import read_clips, summary
from lcv_jax.data.files import replacing
from lcv_jax.errors import InputError

FILE = "report.html"
HISTOGRAMS = (
    ("seconds", "Length", "seconds", False),
    ("short_side", "Short side", "pixels", False),
    ("fps", "Frames a second", "", False),
    ("blur", "Sharpness", "variance of the Laplacian", True),
    ("flow", "Motion", "percent of the width a second", True),
    ("text_area", "Text", "share of the frame", False),
    ("watermark", "Watermark", "score", False),
    ("aesthetic", "Aesthetic", "score", False),
    ("texture_entropy", "Texture entropy", "bits", False),
    ("weight", "Weight in sampling", "mean 1", False),
)
"""Field, title, unit, and whether it is shown on a logarithmic scale where values are of several magnitudes."""
LABELS = (("camera", "Camera"), ("shot_size", "Shot size"), ("style", "Style"), ("colour_tone", "Colour tone"))
_CLUSTERS, _PICTURES = 48, 6
"""Shown: clusters, and of each clips, the closest to its centre."""
_WIDTH, _QUALITY = 240, 80
_BINS = 32
_INK, _BAR = "#334155", "#4f7cac"
_STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #1e293b; background: #f6f7f9; }
body { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 0; } p { margin: 0 0 12px; color: #64748b; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); }
.tiles { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); margin-top: 20px; }
.card { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 24px; font-weight: 600; } .tile span { color: #64748b; font-size: 13px; }
.card img.plot { width: 100%; height: auto; display: block; }
.note { color: #64748b; font-size: 13px; overflow-wrap: anywhere; }
pre { background: #fff; border: 1px solid #e2e8f0; border-radius: 10px; padding: 14px 16px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, monospace; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: 110px 1fr 52px; gap: 8px; align-items: center; font-size: 13px; }
.bar i { display: block; height: 10px; border-radius: 3px; background: #4f7cac; min-width: 1px; }
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.wide .bar { grid-template-columns: minmax(110px, 30%) 1fr 52px; } .bar span { overflow-wrap: anywhere; }
.cluster { margin-bottom: 14px; } .cluster header { display: flex; gap: 12px; align-items: baseline; flex-wrap: wrap; }
.cluster h3 { overflow-wrap: anywhere; }
.clips { display: grid; gap: 8px; grid-template-columns: repeat(6, 1fr); margin-top: 10px; }
.clips figure { margin: 0; min-width: 0; } figcaption { font-size: 12px; line-height: 1.35; color: #475569;
  display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical; overflow: hidden; margin-top: 4px; }
.clips img, .none { width: 100%; aspect-ratio: 16 / 9; object-fit: contain; background: #0f172a; border-radius: 6px;
  display: block; } .none { color: #cbd5e1; font-size: 11px; padding: 6px; box-sizing: border-box; overflow: hidden; }
table { border-collapse: collapse; width: 100%; font-size: 13px; background: #fff; }
td, th { text-align: right; padding: 5px 10px; border-bottom: 1px solid #e2e8f0; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere; }
@media (max-width: 760px) { .clips { grid-template-columns: repeat(3, 1fr); } pre { white-space: pre; } }
"""


def write_report(library: Library) -> pathlib.Path:
    """Writes the report of a library that has been run; returns its path. Raises InputError where there is no record,
    or matplotlib is missing."""
    clips = read_clips(library)
    balance = read_balance(library)
    rows = [row for row in clips.to_pylist() if row["file"] is not None]
    kept = [row for row in rows if row["duplicate_of"] is None]
    parts = [
        f"<h1>Curation of {_text(library.root.resolve().name)}</h1>",
        f"<p>{_text(told(balance) if balance is not None else 'balance has not been run')}</p>",
        _tiles(library, clips, rows, kept),
        "<h2>Stages</h2>",
        f"<pre>{_text(summary(library))}</pre>",
        "<h2>Clips</h2>",
        f"<p>Of the {len(kept):,} clips that have a file and are no near-duplicates.</p>",
        _distributions(kept),
        *_clusters(library, kept),
        *_selections(library),
    ]
    text = _PAGE.format(title=_text(library.root.resolve().name), style=_STYLE, body="\n".join(parts))
    path = library.root / FILE
    with replacing(path) as aside:
        aside.write_text(text, "utf-8")
    return path


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Curation of {title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><style>{style}</style></head>
<body>
{body}
</body></html>
"""


def _tiles(library: Library, clips: pa.Table, rows: Sequence[Any], kept: Sequence[Any]) -> str:
    sources = len(library.tables["ingest"].rows(["source_id"])) if "ingest" in library.tables else 0
    size = sum(row["file_bytes"] or 0 for row in rows)
    clusters = len({row["cluster"] for row in kept} - {None})
    captions = sum(len(row["captions"] or ()) for row in kept)
    numbers = {
        "sources": f"{sources:,}",
        "clips cut": f"{len(clips):,}",
        "clips kept": f"{len(kept):,}",
        "length of those": _length(sum(row["seconds"] or 0 for row in kept)),
        "of files": f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB",
        "captions": f"{captions:,}",
        "clusters": f"{clusters:,}",
    }
    tiles = (f'<div class="card tile"><b>{number}</b><span>{name}</span></div>' for name, number in numbers.items())
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _distributions(kept: Sequence[Mapping[str, Any]]) -> str:
    cards = []
    for field, title, unit, logarithmic in HISTOGRAMS:
        values = np.array([value for row in kept if (value := _value(row, field)) is not None], np.float64)
        if len(values):
            missing = f", {len(kept) - len(values):,} without" if len(values) < len(kept) else ""
            note = f"median {np.median(values):.4g}, from {values.min():.4g} to {values.max():.4g}{missing}"
            plot = histogram(values, unit, logarithmic)
            cards.append(f'<div class="card"><h3>{title}</h3>{plot}<div class="note">{note}</div></div>')
    for field, title in LABELS:
        found = collections.Counter(label for row in kept for label in _labels(row[field]))
        if found:
            cards.append(f'<div class="card"><h3>{title}</h3>{_bars(found.most_common(12), len(kept))}</div>')
    return f'<div class="grid">{"".join(cards)}</div>'


def _value(row: Mapping[str, Any], field: str) -> float | None:
    return min(row["width"], row["height"]) if field == "short_side" else row[field]


def _labels(value: Any) -> Iterable[str]:
    return value if isinstance(value, list) else () if value is None else (value,)


def histogram(values: np.ndarray, unit: str, logarithmic: bool) -> str:
    """An <img> with a histogram of values (N,). unit: our own words, no one else's."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"report needs matplotlib ({error}); install it: pip install 'lcv_jax[curate]'") from error
    low, high = values.min(), values.max()
    low_shown = max(low, high / 1e6)
    logarithmic = logarithmic and high > 10 * low_shown > 0
    if logarithmic:
        edges = np.geomspace(low_shown, high, _BINS + 1)
    elif high > low:
        edges = np.linspace(low, high, _BINS + 1)
    else:
        edges = np.linspace(low - 0.5, low + 0.5, _BINS + 1)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "lcv_jax", "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.2, 1.9), layout="constrained")
        axes = figure.subplots()
        axes.hist(np.clip(values, edges[0], edges[-1]), edges, color=_BAR)
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlabel(f"{unit}, log scale" if logarithmic else unit, color=_INK)
        axes.tick_params(colors=_INK, length=3)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color="#e2e8f0")
        axes.set_axisbelow(True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    return f'<img class="plot" alt="histogram" src="{_data("image/svg+xml", written.getvalue())}">'


def _bars(counts: Sequence[tuple[str, int]], whole: int) -> str:
    most = max(count for _, count in counts)
    return "".join(
        f'<div class="bar"><span>{_text(label)}</span><i style="width: {100 * count / most:.1f}%"></i>'
        f"<span>{100 * count / whole:.1f} %</span></div>"
        for label, count in counts
    )


def _clusters(library: Library, kept: Sequence[Mapping[str, Any]]) -> list[str]:
    members: dict[int, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for row in kept:
        if row["cluster"] is not None:
            members[row["cluster"]].append(row)
    if not members:
        return []
    ranked = sorted(members.values(), key=len, reverse=True)
    more = f" These are the {_CLUSTERS} largest." if len(ranked) > _CLUSTERS else ""
    said = f"Clusters of captions: {len(ranked):,}. Of each the clips closest to its centre are shown.{more}"
    sizes = _bars([(rows[0]["cluster_name"], len(rows)) for rows in ranked[:_CLUSTERS]], sum(map(len, ranked)))
    head = ["<h2>Clusters</h2>", f"<p>{said}</p>", f'<div class="card cluster wide"><h3>Sizes</h3>{sizes}</div>']
    return [*head, *(_cluster(library, rows) for rows in ranked[:_CLUSTERS])]


def _cluster(library: Library, rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    nearest = sorted(rows, key=lambda row: (row["cluster_distance"], row["clip_id"]))[:_PICTURES]
    note = f"{len(rows):,} clips, {100 * first['density']:.1f} %, weight {first['weight']:.2f}"
    figures = "".join(
        f"<figure>{_picture(library, row)}<figcaption>{_text(english(row['captions'] or ()) or row['clip_id'])}"
        "</figcaption></figure>"
        for row in nearest
    )
    head = f'<header><h3>{_text(first["cluster_name"])}</h3><span class="note">{note}</span></header>'
    return f'<section class="card cluster">{head}<div class="clips">{figures}</div></section>'


def _picture(library: Library, row: Mapping[str, Any]) -> str:
    """The clip's middle frame; why there is none, where it cannot be read."""
    try:
        (frame,) = clip_frames(library.root / row["file"], row["frames"], 1, _WIDTH)
    except InputError as error:
        return f'<div class="none">{_text(str(error))}</div>'
    written = io.BytesIO()
    PIL.Image.fromarray(frame).save(written, "JPEG", quality=_QUALITY)
    return f'<img alt="{_text(row["clip_id"])}" src="{_data("image/jpeg", written.getvalue())}">'


def _selections(library: Library) -> list[str]:
    names = sorted(path.stem for path in (library.root / FOLDER).glob("*.json") if "." not in path.stem)
    return ["<h2>Selections</h2>", *(_selection(read_selected(library, name)) for name in names)] if names else []


def _selection(selected: Selected) -> str:
    whole = sum(group.weight * group.clips for group in selected.groups)
    rows = "".join(
        f"<tr><td>{_text(group.list)}</td><td>{group.clips:,}</td><td>{group.weight:.3f}</td>"
        f"<td>{100 * group.weight * group.clips / whole:.1f} %</td></tr>"
        for group in selected.groups
    )
    asked = selected.asked
    form = f"{asked['size']}, {', '.join(map(str, asked['frames']))} frames at {asked['fps']} a second"
    head = "<tr><th>group</th><th>clips</th><th>weight</th><th>share</th></tr>"
    where = f'<div class="note">{_text("where " + asked["where"])}<br>{_text(form)}</div>'
    return f'<section class="card cluster"><h3>{_text(selected.name)}</h3>{where}<table>{head}{rows}</table></section>'


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
