"""Packing: selections to datasets that training reads, through the cache tool, and the mixture that weights them.

    OUT/datasets/NAME/0-1f0c2d3e     the dataset of a group of the selection; the digest is of its list
    selections/NAME.mixture.json     paths and weights of the datasets

Each dataset's index.json is its manifest: bytes and checksums of shards, the clips in each, and as "made_of" the
selection with its condition and the library's tables.
"""

import dataclasses
import json
from typing import Any, Literal

from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.selection import FOLDER, Group, Selected, Selection, read_selected
from lcv_jax.data.files import replacing
from lcv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Packing:
    """checkpoint: whose autoencoder and text encoder encode; None leaves the lists as they are. out: folder, or gs://
    or s3://; by default the library's. The others are as those of lcv_jax.data.cache."""

    checkpoint: str | None = None
    out: str | None = None
    factor: int = 16
    posterior: Literal["mode", "sample"] = "mode"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    compute_dtype: Literal["bfloat16", "float32"] | None = None
    max_text_tokens: int = 512
    shard_records: int = 64
    batch: int = 1
    mesh: str = "data=1"

    def run(self, library: Library, selection: Selection) -> None:
        """Encodes what has not been yet, writes the mixture and prints how to train on it. Raises InputError where the
        selection has not been made, was made with other settings, or is one that the cache refuses."""
        found = read_selected(library, selection.name)
        if found.asked != json.loads(json.dumps(dataclasses.asdict(selection))):
            raise InputError(f"selection {selection.name}: its settings have changed since; run select")
        if self.checkpoint is None:
            lists = ", ".join(str(library.root / group.list) for group in found.groups)
            print(f"pack {selection.name}: no --pack.checkpoint, so nothing is encoded; lists: {lists}")
            return
        paths, tokens = [], []
        for number, group in enumerate(found.groups):
            place = f"{self.out or library.root}/datasets/{found.name}/{number}-{group.digest}"
            forms = self._encode(library, selection, found, group, place)
            paths.append(place)
            tokens.append(group.weight * sum(t * h * w for t, h, w in forms))
            print(f"pack {selection.name}: {place}: {len(forms)} records of {group.clips} clips")
        weights = [round(share / sum(tokens), 6) for share in tokens]
        with replacing(library.root / FOLDER / f"{found.name}.mixture.json") as aside:
            aside.write_text(json.dumps({"paths": paths, "weights": weights}, indent=1) + "\n", "utf-8")
        told = " ".join(paths), " ".join(map(str, weights))
        print(f"pack {selection.name}: python train.py RECIPE --data.paths {told[0]} --data.weights {told[1]}")

    def _encode(
        self, library: Library, selection: Selection, found: Selected, group: Group, place: str
    ) -> list[tuple[int, int, int]]:
        """The forms of a dataset's records."""
        from lcv_jax.data.cache import Cache
        from lcv_jax.data.shards import tell_origin

        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "out"}
        index = Cache(
            source=str(library.root / group.list),
            out=place,
            size=selection.size,
            frames=selection.frames,
            fps=selection.fps,
            **own,
        ).run()
        made_of: dict[str, Any] = {"selection": found.asked, "tables": found.tables}
        tell_origin(place, made_of | {"group": dataclasses.asdict(group)})
        return [form for shard in index.shards for form in shard.forms]
