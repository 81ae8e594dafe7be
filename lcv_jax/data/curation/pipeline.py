"""From settings to a library: which stages there are, what of each is still to be done, and doing it."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

from lcv_jax.data.curation import records
from lcv_jax.data.curation.advance import advance
from lcv_jax.data.curation.annotate import Annotation
from lcv_jax.data.curation.balance import Balance, read_balance
from lcv_jax.data.curation.captioning import Captioning
from lcv_jax.data.curation.embedding import Embedding
from lcv_jax.data.curation.engines import EngineSettings
from lcv_jax.data.curation.ingest import Ingest
from lcv_jax.data.curation.library import Library, held, write_table
from lcv_jax.data.curation.packaging import Packaging
from lcv_jax.data.curation.packing import Packing
from lcv_jax.data.curation.selection import Selection, select
from lcv_jax.data.curation.shots import Shots
from lcv_jax.data.curation.stage import Stage, Status
from lcv_jax.data.files import replacing
from lcv_jax.errors import InputError

CLIPS = "clips.parquet"
"""The record of every clip, written anew by every run."""
RUN = "run.json"
"""Of the last run: the folders of its stages, and the other libraries that it knew."""
STAGES = ("ingest", "shots", "clips", "annotate", "caption", "embed", "balance", "select", "pack")
"""In order. The first six work item by item, the others on all clips at once."""


@dataclasses.dataclass(frozen=True)
class Curation:
    """What a run is made of; configs/curation*.py hold some. select: of each training stage, by its name."""

    ingest: Ingest = dataclasses.field(default_factory=Ingest)
    shots: Shots = dataclasses.field(default_factory=Shots)
    clips: Packaging = dataclasses.field(default_factory=Packaging)
    annotate: Annotation = dataclasses.field(default_factory=Annotation)
    caption: Captioning = dataclasses.field(default_factory=Captioning)
    embed: Embedding = dataclasses.field(default_factory=Embedding)
    balance: Balance = dataclasses.field(default_factory=Balance)
    select: tuple[Selection, ...] = ()
    pack: Packing = dataclasses.field(default_factory=Packing)
    engine: EngineSettings = dataclasses.field(default_factory=EngineSettings)

    def item_stages(self) -> tuple[Stage, ...]:
        """The stages that work item by item, in order."""
        shots = dataclasses.replace(self.shots, known=self.ingest.known)
        return self.ingest, shots, self.clips, self.annotate, self.caption, self.embed


def run(config: Curation, out: str, only: Sequence[str] = (), again: Sequence[Status] = ()) -> Library:
    """Does what is still to be done: all stages, or `only` some, whose earlier ones then are taken as they are.

    again: items that ended so in an earlier run are done once more. Raises InputError on bad settings, missing packages
    or weights, before the stage that needs them begins, and if another run works on the library; what is done is kept.
    """
    if unknown := set(only) - set(STAGES):
        raise InputError(f"--only {sorted(unknown)[0]}: no such stage, expected some of {', '.join(STAGES)}")
    if "://" in out:
        raise InputError(
            f"--out {out}: expected a local folder, that all workers see; videos may lie in an object store, "
            "and so may datasets (--pack.out)"
        )
    library = Library(pathlib.Path(out), known=config.ingest.known)
    with held(library.root):
        return _run(config, library, set(only or STAGES), again)


def _run(config: Curation, library: Library, wanted: Set[str], again: Sequence[Status]) -> Library:
    for stage in config.item_stages():
        about = {"version": stage.version, **stage.decides()}
        if stage.name in wanted:
            library = library.with_stage(stage.name, stage.schema, about, stage.after)
            _note(library)
            advance(stage, library, config.engine, again)
        else:
            library = library.with_stage_if_run(stage.name, stage.schema, about, stage.after)
    if "shots" not in library.tables:
        return library
    if "balance" in wanted:
        config.balance.run(library)
    clips = records.clip_records(library, read_balance(library))
    write_table(library.root / CLIPS, clips)
    for selection in config.select:
        if "select" in wanted:
            select(library, clips, selection)
    for selection in config.select:
        if "pack" in wanted:
            config.pack.run(library, selection)
    return library


def open_library(out: str) -> Library:
    """The library as its last run left it."""
    root = pathlib.Path(out)
    try:
        last: Mapping[str, Any] = json.loads((root / RUN).read_text("utf-8"))
        keys, known = dict(last["stages"]), tuple(last["known"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out}: is no library of curation ({error}), expected a folder that run wrote") from error
    schemas = {stage.name: stage.schema for stage in Curation().item_stages()}
    return Library(root, known=known).opened({name: key for name, key in keys.items() if name in schemas}, schemas)


def _note(library: Library) -> None:
    last = {"stages": {name: table.key for name, table in library.tables.items()}, "known": list(library.known)}
    with replacing(library.root / RUN) as aside:
        aside.write_text(json.dumps(last, indent=1) + "\n", "utf-8")
