"""The record of a clip: one schema for all that curation finds, which grows from stage to stage.

Each stage's rows are a part of it, beside the id of what they are about. `clip_records` joins them: a clip that a stage
has not seen has nulls there. VERSION is in the files' metadata, as "lcv_jax.clips", and changes with the schema.
"""

import pyarrow as pa

from lcv_jax.data.curation.library import Library
from lcv_jax.errors import InputError

VERSION = 1
VERSION_KEY = b"lcv_jax.clips"


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


_S, _B, _I, _L, _F = pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.float32()
_STRINGS = pa.list_(pa.string())
_BOX = pa.list_(pa.float32(), 4)

SOURCES = _schema(
    ("source_id", _S),  # as the list says, otherwise the path under the folder that was given
    ("uri", _S),
    ("md5", _S),
    ("bytes", _L),
    ("codec", _S),
    ("source_width", _I),  # as displayed
    ("source_height", _I),
    ("source_fps", pa.float64()),  # average
    ("source_frames", _L),  # as the container says, null where it does not
    ("source_seconds", pa.float64()),
    ("bitrate", pa.float64()),  # bits a second of the whole file
    ("pixel_format", _S),
    ("rotation", _I),  # degrees clockwise
    ("variable_rate", _B),
    ("license", _S),  # as the list says
    ("told_caption", _S),  # as the list says
)
"""Of a source, a video file."""

SHOTS = _schema(
    ("clip_id", _S),  # sha1(md5:start:end:crop)[:16]
    ("source_id", _S),
    ("shot", _I),  # number in the source
    ("start_frame", _L),  # in decoded frames of the source; end is exclusive
    ("end_frame", _L),
    ("start_s", pa.float64()),  # of timestamps
    ("end_s", pa.float64()),
    ("cut_in", _S),  # hard, gradual, edge (of the source), split (of a long shot)
    ("cut_out", _S),
    ("crop", pa.list_(pa.int32(), 4)),  # x, y, width, height in displayed pixels: what is no border
    ("overlay", _BOX),  # x, y, width, height as shares of the crop: a mark that stays over shots; null for none
)
"""Of a clip: where it lies in its source."""

CLIPS = _schema(
    ("clip_id", _S),
    ("file", _S),  # under the library
    ("file_md5", _S),
    ("file_bytes", _L),
    ("width", _I),
    ("height", _I),
    ("fps", pa.float64()),
    ("frames", _I),
    ("seconds", pa.float64()),
)
"""Of a clip's own file."""

SCORES = _schema(
    ("clip_id", _S),
    ("blur", _F),  # variance of the Laplacian of luminance at 720 lines, median over frames: small is blurred
    ("blur_p10", _F),  # its 10th percentile
    ("dark", _F),  # share of pixels with luminance below 16
    ("bright", _F),  # above 239
    ("texture_entropy", _F),  # of the gray-level co-occurrence matrix, bits
    ("texture_contrast", _F),
    ("texture_homogeneity", _F),
    ("texture_energy", _F),
    ("texture_correlation", _F),
    ("flow", _F),  # mean optical flow, percent of the frame's width a second
    ("flow_p90", _F),
    ("camera", _STRINGS),  # of static, pan_left, pan_right, tilt_up, tilt_down, zoom_in, zoom_out, roll, shake
    ("camera_rates", pa.list_(pa.float32(), 4)),  # pan, tilt: widths a second; log zoom, roll in radians: a second
    ("camera_shake", _F),
    ("camera_inliers", _F),  # share of the flow that the camera explains
    ("text_area", _F),  # share of the frame under text that was read, mean over frames
    ("text_area_max", _F),
    ("text", _S),  # what was read, most often first
    ("watermark", _F),  # 0 to 1
    ("watermark_method", _S),  # overlay, text, or the name of a model
    ("aesthetic", _F),  # of a model, null without one
    ("phash", pa.list_(pa.int64())),  # 64-bit perceptual hashes of frames spread over the clip
)
"""Of a clip: what the scorers said."""

CAPTION = pa.struct(
    [
        ("kind", _S),  # told, basic, summary, composed, translated
        ("language", _S),  # en, zh
        ("text", _S),
        ("model", _S),
        ("seed", _L),  # of what was drawn, null where nothing was
    ]
)
CAPTIONS = _schema(
    ("clip_id", _S),
    ("captions", pa.list_(CAPTION)),
    ("shot_size", _S),
    ("lens", _S),
    ("style", _S),
    ("colour_tone", _S),
    ("invalid_answers", _I),  # of models, that were not of the form asked for; null where no model was asked
)
"""Of a clip: in words."""

EMBEDDINGS = _schema(("clip_id", _S), ("embedding", pa.list_(pa.float32())), ("embedding_model", _S))
"""Of a clip's English caption. Not a part of the record, being long."""

BALANCE = _schema(
    ("clip_id", _S),
    ("duplicate_of", _S),  # a clip that looks the same and stays; null for those that stay
    ("cluster", _I),
    ("cluster_name", _S),
    ("cluster_distance", _F),
    ("density", _F),  # share of the clips in its cluster
    ("weight", _F),  # of sampling, mean 1
)
"""Of a clip: what it is among all."""

PARTS = {"ingest": SOURCES, "shots": SHOTS, "clips": CLIPS, "annotate": SCORES, "caption": CAPTIONS, "balance": BALANCE}
"""What each stage adds to the record. Sources are joined by source_id, all else by clip_id."""


def clip_schema() -> pa.Schema:
    """Of the record: all parts, each id once."""
    fields = {field.name: field for part in (SHOTS, SOURCES, CLIPS, SCORES, CAPTIONS, BALANCE) for field in part}
    return pa.schema(list(fields.values()), metadata={VERSION_KEY: str(VERSION).encode()})


def clip_records(library: Library, balance: pa.Table | None = None) -> pa.Table:
    """The record of every clip that has been cut, in the order of ids. balance: rows of BALANCE, if there are any."""
    schema = clip_schema()
    table = library.table("shots").rows()
    joined = {"ingest": "source_id", "clips": "clip_id", "annotate": "clip_id", "caption": "clip_id"}
    for name, key in joined.items():
        found = library.tables[name].rows() if name in library.tables else PARTS[name].empty_table()
        table = _joined(table, found, key)
    table = _joined(table, BALANCE.empty_table() if balance is None else balance, "clip_id")
    return table.select(schema.names).cast(schema).sort_by("clip_id").replace_schema_metadata(schema.metadata)


def _joined(table: pa.Table, more: pa.Table, key: str) -> pa.Table:
    """A left outer join that takes lists, which pyarrow's does not."""
    at = {name: row for row, name in enumerate(more.column(key).to_pylist())}
    rows = pa.array([at.get(name) for name in table.column(key).to_pylist()], pa.int64())
    taken = (
        more.take(rows)
        if len(more)
        else pa.table({field.name: pa.nulls(len(table), field.type) for field in more.schema})
    )
    for name in more.schema.names:
        if name != key:
            table = table.append_column(more.schema.field(name), taken.column(name))
    return table


def check_version(table: pa.Schema, where: str) -> None:
    """Raises InputError unless a file of clip records is of this version."""
    found = (table.metadata or {}).get(VERSION_KEY)
    if found != str(VERSION).encode():
        said = "no version" if found is None else f"version {found.decode(errors='replace')}"
        raise InputError(f"{where}: has {said} of the clip record, expected {VERSION}; make it again with run")
