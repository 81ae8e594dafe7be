"""The report shows what the library holds, and nothing in it is taken for markup."""

import base64
import io
import re
import sys
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest

from lcv_jax.data.curation import records
from lcv_jax.data.curation.balance import Balance, read_balance
from lcv_jax.data.curation.library import write_table
from lcv_jax.data.curation.pipeline import CLIPS
from lcv_jax.data.curation.report import histogram, write_report
from lcv_jax.data.curation.selection import Selection, select
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from libraries import clip, library

BAD = "<script>alert('x')</script><img src=x onerror=alert(1)> \" & $\\frac$"


class Page(HTMLParser):
    """Its tags with attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of twelve clips of two clusters with hostile words everywhere; one file is green, one broken, one gone."""
    root = tmp_path_factory.mktemp("library")
    rows = [
        clip(
            f"{n:03d}",
            f"{BAD} {'dog' if n < 6 else 'tram'} {n}",
            embedding=(np.eye(4)[int(n >= 6)] + 0.01 * n * np.eye(4)[3]).tolist(),
            source_id=BAD,
            camera=["pan_left" if n % 2 else BAD],
            style=BAD,
            blur=float(10 ** (n / 4)),
            file_bytes=1000,
            frames=5,
        )
        for n in range(12)
    ]
    green = np.full((5, 64, 96, 3), (0, 200, 0), np.uint8)
    write_video(root / "clips" / "000.mp4", green, 15)
    (root / "clips" / "001.mp4").write_bytes(b"broken")
    made = library(root, rows)
    Balance(clips_each=6).run(made)
    clips = records.clip_records(made, read_balance(made))
    write_table(root / CLIPS, clips)
    select(made, clips, Selection("stage", f"blur > 1 OR text = '{BAD.replace(chr(39), chr(39) * 2)}'"))
    path = write_report(made)
    assert path == root / "report.html"
    return made, path.read_text("utf-8")


def test_counts_and_names_are_there(page):
    shown = Page(page[1]).text
    assert "balance: 12 clips, 0 of them near-duplicates; 2 clusters" in shown
    assert re.search(r"annotate\s+12\s+0\s+0\s+12", shown)
    assert "6 clips, 50.0 %" in shown
    assert "dog" in shown
    assert "selections/stage.0.jsonl" in shown
    assert "median" in shown


def test_nothing_is_taken_for_markup(page):
    text = page[1]
    found = Page(text)
    tags = {tag for tag, _ in found.tags}
    assert "script" not in tags
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert BAD in found.text
    (policy,) = [given["content"] for tag, given in found.tags if given.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(given["src"].startswith("data:image/") for tag, given in found.tags if tag == "img")
    assert not re.search(r"https?://", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_pictures_are_of_the_clips_and_broken_ones_are_told(page):
    found = Page(page[1])
    (picture,) = [given["src"] for tag, given in found.tags if tag == "img" and "jpeg" in given["src"]]
    image = PIL.Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    assert image.size == (96, 64)
    np.testing.assert_allclose(np.asarray(image).mean((0, 1)), (0, 200, 0), atol=12)
    assert "001.mp4" in found.text
    assert "is not a readable video" in found.text


def test_the_same_library_gives_the_same_bytes(page):
    assert write_report(page[0]).read_text("utf-8") == page[1]


def test_histograms_of_any_values():
    for values in ([1.0], [0.0, 0.0], [-1.0, 2.0], [0.0, 1e-3, 1e3], [1e-9, 1e9]):
        for logarithmic in (False, True):
            source = re.search(
                r'src="data:image/svg\+xml;base64,([^"]+)"', histogram(np.array(values), "", logarithmic)
            )
            assert base64.b64decode(source[1]).lstrip().startswith(b"<?xml")


def test_a_library_without_clips_has_a_report(tmp_path):
    made = library(tmp_path, [])
    write_table(tmp_path / CLIPS, records.clip_records(made))
    assert "balance has not been run" in Page(write_report(made).read_text("utf-8")).text


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"clips.parquet: cannot be read .*expected the record that run writes"):
        write_report(library(tmp_path, []))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"report needs matplotlib .*pip install 'lcv_jax\[curate\]'"):
        histogram(np.array([1.0]), "", False)
