"""Near-duplicates go, clusters are found and called by what they are about, and weights follow density by hand."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest

from chat_server import busy, serving
from lcv_jax.data.curation import records
from lcv_jax.data.curation.balance import FILE, Balance, check_balance, read_balance, told
from lcv_jax.data.curation.clusters import balanced, cluster, top_terms
from lcv_jax.data.curation.speakers import ModelSettings
from lcv_jax.errors import InputError
from libraries import clip, library, write

SUBJECTS = ("a dog runs on the beach", "a tram crosses the city at night", "a cook cuts onions in a kitchen")
ONE_EACH = Balance(clips_each=4)


def points(counts, width=24, spread=0.3, seed=0):
    """Around orthogonal directions; (N, width) and (N,) which."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(counts)), counts)
    return np.eye(width)[which] + spread * rng.normal(size=(len(which), width)) / np.sqrt(width), which


def clips(counts, **fields):
    """Of three subjects, with embeddings that tell them."""
    vectors, which = points(counts)
    return [
        clip(f"{at:04d}", f"{SUBJECTS[of]}, number {at}", embedding=vector.tolist(), **fields)
        for at, (vector, of) in enumerate(zip(vectors, which, strict=True))
    ]


@pytest.mark.smoke
def test_weights_by_hand():
    """Shares 4/5 and 1/5 with alpha 1/2: 5/4 ** 1/2 to 5 ** 1/2, one to two; the mean of 1, 1, 1, 1, 2 is 6/5."""
    density = np.array([0.8, 0.8, 0.8, 0.8, 0.2])
    np.testing.assert_allclose(balanced(density, 0.5, 5), np.array([1, 1, 1, 1, 2]) / 1.2)
    np.testing.assert_allclose(balanced(density, 0, 5), 1)
    np.testing.assert_allclose(balanced(density, 1, 5), [0.625] * 4 + [2.5])


def test_capped_weights_have_mean_1():
    """With the last at 1.5 four share 3.5."""
    density = np.array([0.8, 0.8, 0.8, 0.8, 0.2])
    np.testing.assert_allclose(balanced(density, 1, 1.5), [0.875] * 4 + [1.5])
    np.testing.assert_allclose(balanced(density, 1, 1), 1)
    density = np.random.default_rng(0).dirichlet(np.ones(9))
    each = np.repeat(density, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    weights = balanced(each, 0.7, 1.3)
    assert weights.mean() == pytest.approx(1)
    assert weights.max() <= 1.3 + 1e-12
    free = weights < 1.3
    ratio = weights[free] / each[free] ** -0.7
    np.testing.assert_allclose(ratio, ratio[0])


def test_close_clusters_are_merged_and_the_same_each_time():
    vectors, which = points((60, 40, 20))
    found = cluster(vectors, 8, 1.0, 0)
    assert [len(members) for members in found.nearest] == [60, 40, 20]
    np.testing.assert_array_equal(found.labels, which)
    again = cluster(vectors, 8, 1.0, 0)
    np.testing.assert_array_equal(found.distances, again.distances)
    assert len(cluster(vectors, 8, 0.0, 0).nearest) == 8
    first = found.nearest[0]
    centre = vectors[which == 0] / np.linalg.norm(vectors[which == 0], axis=1, keepdims=True)
    centre = centre.mean(0) / np.linalg.norm(centre.mean(0))
    cosine = vectors[first[0]] @ centre / np.linalg.norm(vectors[first[0]])
    assert found.distances[first[0]] == pytest.approx(1 - cosine, abs=1e-5)
    assert found.distances[first[0]] == found.distances[which == 0].min()


def test_terms_are_those_that_others_do_not_say():
    names = top_terms([["the red dog runs", "a dog sleeps"], ["the red tram waits", "a tram goes"]], terms=1)
    assert names == ["dog", "tram"]
    assert top_terms([["the"], [""]]) == ["", ""]


def test_balance_of_a_library(tmp_path):
    made = library(tmp_path, clips((16, 8, 4)))
    table = ONE_EACH.run(made)
    assert table.schema.equals(records.BALANCE)
    rows = table.to_pylist()
    assert [row["cluster"] for row in rows] == [0] * 16 + [1] * 8 + [2] * 4
    weights = np.array([row["weight"] for row in rows])
    assert weights.mean() == pytest.approx(1)
    assert weights[-1] / weights[0] == pytest.approx(2)
    assert "dog" in rows[0]["cluster_name"]
    assert "city" in rows[16]["cluster_name"]
    assert read_balance(made).equals(table)
    check_balance(made)
    assert told(table).startswith("balance: 28 clips, 0 of them near-duplicates; 3 clusters, 0 clips without")


def test_what_looks_the_same_goes(tmp_path):
    """The larger one stays; weights of the others have mean 1."""
    rows = clips((8, 4, 4))
    hashes = np.random.default_rng(1).integers(1, 2**62, (16, 4)).tolist()
    rows = [row | {"phash": some} for row, some in zip(rows, hashes, strict=True)]
    rows[0]["phash"] = rows[5]["phash"] = [value ^ 1 for value in rows[15]["phash"]]
    rows[5] |= {"width": 1280, "height": 720}
    found = ONE_EACH.run(library(tmp_path, rows)).to_pylist()
    assert {row["clip_id"]: row["duplicate_of"] for row in found if row["duplicate_of"]} == {
        "0000": "0005",
        "0015": "0005",
    }
    assert (found[0]["weight"], found[0]["cluster"]) == (0, None)
    assert np.mean([row["weight"] for row in found if row["duplicate_of"] is None]) == pytest.approx(1)


def test_clips_without_embedding_have_weight_1(tmp_path, caplog):
    rows = [*clips((16, 8, 4)), clip("x", None), clip("y", "A hat.", embedding=[0.0] * 24), clip("z", file=None)]
    with caplog.at_level(logging.WARNING):
        found = ONE_EACH.run(library(tmp_path, rows)).to_pylist()
    assert [row["clip_id"] for row in found[-2:]] == ["x", "y"]
    assert [(row["cluster"], row["weight"]) for row in found[-2:]] == [(None, 1.0)] * 2
    assert np.mean([row["weight"] for row in found]) == pytest.approx(1)
    assert "2 of 30 clips have no embedding" in caplog.text


def test_few_clips(tmp_path):
    found = Balance().run(library(tmp_path / "three", clips((1, 1, 1)))).to_pylist()
    assert [(row["cluster"], row["weight"], row["density"]) for row in found] == [(0, 1.0, 1.0)] * 3
    assert len(Balance().run(library(tmp_path / "none", []))) == 0
    (only,) = Balance(clips_each=1).run(library(tmp_path / "one", clips((1,)))).to_pylist()
    assert (only["cluster"], only["weight"]) == (0, 1.0)


def test_it_is_done_again_only_where_something_changed(tmp_path):
    made = library(tmp_path, clips((8, 4, 4)))
    before = ONE_EACH.run(made)
    time = (tmp_path / FILE).stat().st_mtime_ns
    assert ONE_EACH.run(made).equals(before)
    assert (tmp_path / FILE).stat().st_mtime_ns == time
    assert not Balance(clips_each=4, alpha=1).run(made).equals(before)
    write(made, "clips", [clip("new")])
    assert len(ONE_EACH.run(made)) == 17


def test_a_balance_of_other_rows_is_told(tmp_path):
    made = library(tmp_path, clips((8, 4, 4)))
    with pytest.raises(InputError, match=r"has no balance.parquet; run balance"):
        check_balance(made)
    ONE_EACH.run(made)
    other = library(tmp_path, clips((8, 4, 4)), caption="another model")
    with pytest.raises(InputError, match=r"was made of other rows of caption; run balance again"):
        check_balance(other)
    pq.write_table(pq.read_table(tmp_path / FILE).drop(["weight"]), tmp_path / FILE)
    with pytest.raises(InputError, match=r"has other fields than expected; remove it"):
        read_balance(made)
    (tmp_path / FILE).write_bytes(b"no table")
    with pytest.raises(InputError, match=r"balance.parquet: cannot be read"):
        read_balance(made)


def test_embeddings_that_are_none_are_refused(tmp_path):
    rows = clips((2, 2, 2))
    rows[0]["embedding"] = [1.0, 2.0]
    with pytest.raises(InputError, match="embeddings of 2, 24 numbers, expected all of one width"):
        Balance().run(library(tmp_path / "widths", rows))
    rows[0]["embedding"] = [float("nan")] * 24
    with pytest.raises(InputError, match="an embedding holds NaN or infinity"):
        Balance().run(library(tmp_path / "nan", rows))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"cap": 0.5}, "cap=0.5: expected at least 1"),
        ({"alpha": 2}, "alpha=2: expected 0, all clips equal"),
        ({"clusters": 0}, "clusters=0: expected at least 1"),
        ({"merge": -1}, "merge=-1: expected at least 0"),
    ],
)
def test_settings_that_are_none(wrong, match):
    with pytest.raises(InputError, match=match):
        Balance(**wrong)


def test_a_namer_that_is_not_there_is_told_before_clustering(tmp_path):
    namer = ModelSettings(url="http://127.0.0.1:9/v1", name="m", retries=0, timeout_s=2)
    with pytest.raises(InputError, match=r"model m at http://127.0.0.1:9/v1"):
        Balance(namer=namer).run(library(tmp_path, clips((2, 2, 2))))


def test_a_model_names_clusters_and_what_is_no_name_is_told(tmp_path, caplog):
    """It is shown the captions of a cluster each, and asked once, as long as nothing changes."""

    def answer(asked):
        if "dog" in asked.text:
            return '"Dogs on\n a beach".'
        return busy(500, "broken") if "tram" in asked.text else "A very long sentence about cooks. " * 4

    rows = clips((16, 8, 4))
    with serving(answer) as server, caplog.at_level(logging.WARNING):
        namer = ModelSettings(url=server.url, name="m", retries=0, timeout_s=10)
        made = library(tmp_path, rows)
        table = Balance(clips_each=4, namer=namer).run(made)
        questions = [asked.text for asked in server.asked]
        assert Balance(clips_each=4, namer=namer).run(made).equals(table)
        assert len(server.asked) == len(questions) == 3
    names = [row["cluster_name"] for row in table.to_pylist()]
    assert names[0] == "Dogs on a beach"
    assert "city" in names[16]
    assert "cook" in names[24]
    (question,) = [text for text in questions if "dog" in text]
    assert question.count("\n- a dog runs on the beach, number") == 12
    assert "tram" not in question
    assert "no name for the cluster of city" in caplog.text
    assert "is no name for the cluster of" in caplog.text
    assert "500" in caplog.text
