"""`python -m lcv_jax.data.toy --out FOLDER`: writes clips of the toy world, their captions and a contact sheet."""

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from lcv_jax.command_line import parse, status
from lcv_jax.data.files import replacing
from lcv_jax.data.images import write_png
from lcv_jax.data.toy.drawing import check_size, render
from lcv_jax.data.toy.facts import sample
from lcv_jax.data.toy.sheet import contact_sheet
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

_ON_THE_SHEET = 12


@dataclasses.dataclass(frozen=True)
class Toy:
    """Write clips of the toy world, or pictures, to look at."""

    out: str
    """Folder; gets 0000.mp4 (or .png), ..., captions.jsonl and sheet.png."""
    count: int = 12
    """How many."""
    size: Annotated[str, tyro.conf.arg(metavar="HxW")] = "96x160"
    """Height and width in pixels, at least 32 each; of videos even."""
    frames: int = 13
    """Of each clip; 1 makes pictures."""
    objects: tuple[int, ...] = (1, 2, 3)
    """How many objects a clip may have."""
    seed: int = 0
    """Of the first clip; the next ones follow."""
    fps: int = 15
    """Frames a second."""

    def run(self) -> None:
        size = parse_size(self.size)
        check_size(size, self.frames)
        if self.frames > 1 and (size[0] % 2 or size[1] % 2):
            raise InputError(f"--size {self.size}: expected even sides for a video")
        if self.count < 1:
            raise InputError(f"--count {self.count}: expected at least 1")
        folder = pathlib.Path(self.out)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--out {folder}: is not a folder; choose another name")
        clips, lines = [], []
        for seed in range(self.seed, self.seed + self.count):
            facts = sample(seed, self.objects)
            clip, captions = render(facts, seed, size, self.frames)
            name = f"{seed:04d}.{'mp4' if self.frames > 1 else 'png'}"
            told = {"file": name, "seed": seed, **captions, "facts": facts.to_json()}
            if self.frames > 1:
                write_video(folder / name, clip, self.fps, told)
            else:
                write_png(folder / name, clip[0], told)
            lines.append(json.dumps(told, ensure_ascii=False))
            clips = [*clips, clip] if len(clips) < _ON_THE_SHEET else clips
        with replacing(folder / "captions.jsonl") as aside:
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_png(folder / "sheet.png", contact_sheet(clips, columns=2))
        print(f"{folder}: {self.count} clips, captions.jsonl, sheet.png")


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "96x160". Raises InputError on anything else."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"--size {text}: expected HEIGHTxWIDTH, such as 96x160")
    return int(match[1]), int(match[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    left = "the clips so far are whole, the last one is not there"
    return status(lambda: parse(Toy, argv, prog="python -m lcv_jax.data.toy").run(), left)


if __name__ == "__main__":
    sys.exit(main())
