"""Import and export of whole checkpoints: bit for bit, all or nothing."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import weakref

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcv_jax.checkpoint import convert, layout, store
from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.tensorfile import TensorInfo
from lcv_jax.errors import InputError

FOLDERS = (*layout.COMPONENTS, "tokenizer", "scheduler")
HERE = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bits(source):
    """Everything a source holds: name -> dtype, shape, bytes."""
    return {name: (info.dtype.name, info.shape, source.read(name).tobytes()) for name, info in source.tensors.items()}


def others(root):
    """All files that are not weights: relative path -> bytes."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in pathlib.Path(root).rglob("*")
        if path.is_file() and "params" not in path.parts and path.parts[-2] in ("lora", "tokenizer", "scheduler")
    }


@pytest.fixture(scope="module")
def ours(checkpoint_dir, tmp_path_factory):
    """The golden checkpoint in our layout, dtypes kept."""
    dst = tmp_path_factory.mktemp("import") / "ours"
    done = convert.import_checkpoint(checkpoint_dir, dst, dtype="keep", check_finite=True)
    assert done == convert.Converted(tensors=303, read=9_683_310, written=9_683_310)
    return dst


@pytest.fixture(scope="module")
def small(checkpoint_dir, tmp_path_factory):
    """One model's folder."""
    return shutil.copytree(checkpoint_dir / "text_encoder", tmp_path_factory.mktemp("small") / "text_encoder")


@pytest.mark.smoke
def test_there_and_back_bit_for_bit(checkpoint_dir, ours, tmp_path):
    back = tmp_path / "deeper" / "official"
    convert.export_checkpoint(ours, back, max_shard_size=1_500_000)
    for name in layout.COMPONENTS:
        assert bits(SafetensorsSource(back / name)) == bits(SafetensorsSource(checkpoint_dir / name))
        config = (back / name / "config.json").read_bytes()
        assert config == (checkpoint_dir / name / "config.json").read_bytes()
    assert others(back) == others(ours) == others(checkpoint_dir)
    assert sorted(p.name for p in (back / "dit").iterdir()) == [
        "config.json",
        *(f"diffusion_pytorch_model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)),
        "diffusion_pytorch_model.safetensors.index.json",
    ]
    assert (back / "text_encoder" / "model.safetensors").is_file()
    index = json.loads((back / "dit" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 4_862_720}
    for shard in (back / "dit").glob("*.safetensors"):
        with safetensors.safe_open(shard, "numpy") as file:
            assert file.metadata() == {"format": "pt"}
            assert all(index["weight_map"][name] == shard.name for name in file.keys())  # noqa: SIM118
        assert sum(v.nbytes for v in safetensors.numpy.load_file(shard).values()) <= 1_500_000


def test_a_single_shard_equals_the_published_file(checkpoint_dir, ours, tmp_path):
    convert.export_checkpoint(ours / "vae", tmp_path / "back")
    assert _left(tmp_path / "back") == ["config.json", "diffusion_pytorch_model.safetensors"]
    for name in _left(tmp_path / "back"):
        assert (tmp_path / "back" / name).read_bytes() == (checkpoint_dir / "vae" / name).read_bytes()


def test_both_layouts_load_to_the_same_params(checkpoint_dir, ours, abstract):
    one, two = (
        load_params(layout.open_source(root / "dit"), layout.COMPONENTS["dit"].table, abstract["dit"])
        for root in (checkpoint_dir, ours)
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, two))


def test_dtypes_of_an_import(checkpoint_dir, small, tmp_path):
    """By default models are stored in bfloat16, but the VAE as it is; float32 widens."""
    done = convert.import_checkpoint(small, tmp_path / "a")
    assert (done.read, done.written) == (732_416, 366_208)
    stored = layout.open_source(tmp_path / "a")
    assert _left(tmp_path / "a") == ["config.json", "params"]
    original = SafetensorsSource(checkpoint_dir / "text_encoder")
    for name in original.tensors:
        np.testing.assert_array_equal(stored.read(name), original.read(name).astype(ml_dtypes.bfloat16))
    assert {c.name: c.dtype for c in layout.COMPONENTS.values()} == {
        "dit": "bfloat16",
        "text_encoder": "bfloat16",
        "vae": None,
    }
    convert.import_checkpoint(tmp_path / "a", tmp_path / "b", dtype="float32")
    wide = layout.open_source(tmp_path / "b")
    assert {info.dtype.name for info in wide.tensors.values()} == {"float32"}


def test_any_orbax_reader_reads_ours(ours, checkpoint_dir):
    source = SafetensorsSource(checkpoint_dir / "text_encoder")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore((ours / "text_encoder" / "params").absolute())
    assert {name: np.asarray(value).tobytes() for name, value in tree.items()} == {
        name: source.read(name).tobytes() for name in source.tensors
    }


@HERE
@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple), min_size=1, max_size=6),
    st.sampled_from([np.dtype("float32"), np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)]),
    st.integers(1, 4000),
)
def test_any_tensors_survive_store_and_shards(tmp_path_factory, shapes, dtype, max_shard_size):
    """Bit patterns, NaNs included, through our store and through shards of any size."""
    folder = tmp_path_factory.mktemp("any")
    rng = np.random.default_rng(len(shapes))
    arrays = {
        f"blocks.{i}.w.weight": rng.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
        .view(dtype)
        .reshape(shape)
        for i, shape in enumerate(shapes)
    }
    infos = {name: TensorInfo(value.shape, value.dtype) for name, value in arrays.items()}
    store.save(folder / store.PARAMS, infos, arrays.__getitem__)
    stored = store.OrbaxSource(folder)
    expected = {name: (v.dtype.name, v.shape, v.tobytes()) for name, v in arrays.items()}
    assert bits(stored) == expected
    convert.write_shards(folder, "model", stored.tensors, stored.read, max_shard_size)
    assert bits(SafetensorsSource(folder)) == expected


class _Slow:
    """A write that keeps its array until it is waited for, as one to a slow disk would."""

    def __init__(self, future, values):
        self.future, self.values = future, values

    def result(self, timeout=None):
        self.values = None
        return self.future.result(timeout)


def test_two_tensors_at_most_are_held(tmp_path, monkeypatch):
    """What bounds an import's memory: when a tensor is read, only the one before it is still being written."""
    tensors = {f"t{i}": TensorInfo((1000,), np.dtype("float32")) for i in range(6)}
    held, alive = [], []
    serialize, disk = ocp.type_handlers.NumpyHandler.serialize, []

    async def slow(handler, values, *args):
        writes = [_Slow(future, values) for future in await serialize(handler, values, *args)]
        disk.extend(writes)
        return writes

    def read(name):
        # A write that is done may take a moment until its thread lets the array go.
        deadline = time.monotonic() + 1
        while (count := sum(ref() is not None for ref in held)) > 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        alive.append(count)
        array = np.full(1000, len(held), np.float32)
        held.append(weakref.ref(array))
        return array

    monkeypatch.setattr(ocp.type_handlers.NumpyHandler, "serialize", slow)
    store.save(tmp_path / "params", tensors, read)
    assert len(alive) == 6
    assert max(alive) == 1


def test_split_by_hand():
    tensors = {n: TensorInfo((size,), np.dtype("uint8")) for n, size in zip("dcba", (4, 3, 9, 2), strict=True)}
    assert convert.split(tensors, 7) == [["a"], ["b"], ["c", "d"]]
    assert convert.split(tensors, 11) == [["a", "b"], ["c", "d"]]
    assert convert.split(tensors, 18) == [["a", "b", "c", "d"]]


def _left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_existing_destination_is_refused(small, tmp_path):
    (tmp_path / "dst").mkdir()
    with pytest.raises(InputError, match=r"dst: exists already: expected a new folder"):
        convert.import_checkpoint(small, tmp_path / "dst")
    assert list((tmp_path / "dst").iterdir()) == []


def test_destination_inside_the_source_is_refused(small):
    with pytest.raises(InputError, match=r"lies inside the source"):
        convert.import_checkpoint(small, small / "ours")
    assert "ours" not in _left(small)


def test_destination_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/dst: cannot be written .*choose another place"):
        convert.import_checkpoint(small, tmp_path / "file" / "dst")


def test_too_little_room(small, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"dst: 36\d.\d KB needed, 1.0 KB free on this disk: make room, or choose"):
        convert.import_checkpoint(small, tmp_path / "dst")
    assert _left(tmp_path) == []
    (tmp_path / "dst.tmp-999999999").mkdir()
    with pytest.raises(
        InputError, match=r"make room \(.*/dst.tmp-999999999: left by an interrupted import .*removed\)"
    ):
        convert.import_checkpoint(small, tmp_path / "dst")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (366_208, "366.2 KB"), (5 * 10**6, "5.0 MB")),
        *((83_149_999_999, "83.1 GB"), (2 * 10**12, "2.0 TB"), (10**17, "100000.0 TB")),
    ],
)
def test_amounts(size, text):
    assert convert.amount(size) == text


def test_only_folders_of_ended_processes_are_leftovers(small, tmp_path):
    """Neither a running import's, nor one to another place, nor the user's own."""
    for name in (f"dst.tmp-{os.getppid()}", "dst.tmp-999999999", "other.tmp-999999999", "dst.tmp-x", "dst.tmp-9" * 2):
        (tmp_path / name).mkdir()
    assert convert.import_checkpoint(small, tmp_path / "dst").leftovers == (tmp_path / "dst.tmp-999999999",)
    (tmp_path / f"new.tmp-{os.getpid()}").mkdir()
    with pytest.raises(InputError, match=rf"new.tmp-{os.getpid()}: left by an interrupted .* remove it"):
        convert.import_checkpoint(small, tmp_path / "new")
    assert f"new.tmp-{os.getpid()}" in _left(tmp_path)


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_source_that_is_no_checkpoint(tmp_path, path):
    with pytest.raises(InputError, match=r"expected .*dit/, vae/, text_encoder/"):
        convert.import_checkpoint(tmp_path / path, tmp_path / "dst")


def test_nan_leaves_nothing_behind(copy, rewrite, tmp_path):
    folder = copy("text_encoder")
    last = sorted(folder.glob("*.safetensors"))[-1]
    name = sorted(safetensors.numpy.load_file(last))[-1]
    rewrite(last, lambda tensors: tensors[name].__setitem__(0, np.nan))
    dst = tmp_path / "out" / "dst"
    with pytest.raises(InputError, match=f"{last.name}: key '{name}' is nan"):
        convert.import_checkpoint(folder, dst, check_finite=True)
    assert _left(dst.parent) == []
    convert.import_checkpoint(folder, dst)
    assert _left(dst.parent) == ["dst"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 4}, r"key 'blocks.3.* is missing, expected shape .* of config.json: complete the download"),
        ({"hidden_size": 256}, r"has shape .*, expected .* for the DiT of config.json: use the config"),
        ({"hidden": 3}, r"config.json: .*hidden"),
    ],
)
def test_config_that_does_not_fit_is_found_before_anything_is_written(copy, tmp_path, change, message):
    folder = copy("dit")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        convert.import_checkpoint(folder, tmp_path / "out" / "dst")
    assert not (tmp_path / "out").exists()


def _edit(file, **change):
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def _without(name):
    return lambda root: shutil.rmtree(root / name)


def _foreign_lora(root):
    tensors = safetensors.numpy.load_file(root / "lora" / "cfg_step_lora.safetensors")
    tensors = {name.replace("blocks___lorahyphen___0", "blocks___lorahyphen___9"): v for name, v in tensors.items()}
    safetensors.numpy.save_file(tensors, root / "lora" / "other.safetensors")


def _other_alias(root):
    index = root / "text_encoder" / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    shard = root / "text_encoder" / weight_map["shared.weight"]
    tensors = safetensors.numpy.load_file(shard)
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + np.float32(1)
    safetensors.numpy.save_file(tensors, shard)
    _edit(index, weight_map=weight_map | {"encoder.embed_tokens.weight": shard.name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (_without(name), rf"/{name}: folder is missing: expected the checkpoint's {name}; complete")
            for name in FOLDERS
        ),
        (lambda root: (root / "scheduler" / "scheduler_config.json").unlink(), "scheduler_config.json: no such file"),
        (
            lambda root: _edit(root / "scheduler" / "scheduler_config.json", shift="12"),
            "config.json: shift='12': expected",
        ),
        (lambda root: _edit(root / "vae" / "config.json", z_dim=8), "vae/config.json: latents_mean="),
        (_foreign_lora, r"lora/other.safetensors: module 'blocks.9.* the DiT has 3 blocks: give a LoRA of this model"),
        (_other_alias, r"key 'encoder.embed_tokens.weight' is .* but 'shared.weight' in .*expected the same values"),
    ],
)
def test_a_checkpoint_that_could_not_be_sampled_is_not_imported(checkpoint_dir, tmp_path, change, message):
    root = shutil.copytree(checkpoint_dir, tmp_path / "src")
    change(root)
    with pytest.raises(InputError, match=message):
        convert.import_checkpoint(root, tmp_path / "dst")
    assert _left(tmp_path) == ["src"]


def test_progress_begins_when_all_checks_have_passed(small, tmp_path):
    seen = []
    convert.import_checkpoint(small, tmp_path / "dst", progress=lambda *at: seen.append(at))
    assert (seen[0], seen[-1]) == ((0, 732_416), (732_416, 732_416))
    seen.clear()
    with pytest.raises(InputError, match="exists already"):
        convert.import_checkpoint(small, tmp_path / "dst", progress=lambda *at: seen.append(at))
    assert seen == []


def test_damaged_store(ours, tmp_path):
    shutil.copytree(ours / "text_encoder", tmp_path / "t")
    (chunk,) = (p for p in (tmp_path / "t" / "params" / "shared.weight").iterdir() if not p.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:100])
    source = store.OrbaxSource(tmp_path / "t")
    with pytest.raises(InputError, match=r"params/shared.weight: damaged or incomplete Orbax checkpoint .*again"):
        source.read("shared.weight")
    chunk.unlink()
    with pytest.raises(InputError, match=r"damaged or incomplete"):
        store.OrbaxSource(tmp_path / "t").read("shared.weight")
    (tmp_path / "t" / "params" / "_METADATA").unlink()
    with pytest.raises(InputError, match=r"damaged or incomplete"):
        store.OrbaxSource(tmp_path / "t")
    with pytest.raises(InputError, match=r"no such folder: expected an Orbax checkpoint"):
        store.OrbaxSource(tmp_path / "nothing")


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", "[" * 100_000, '{"tree_metadata": {"x": 1}}'])
def test_damaged_metadata_is_one_error_and_no_warning(ours, tmp_path, capfd, caplog, text):
    shutil.copytree(ours / "text_encoder", tmp_path / "t")
    (tmp_path / "t" / "params" / "_METADATA").write_text(text)
    with pytest.raises(InputError, match=r"params/_METADATA: damaged or incomplete Orbax checkpoint .*again$") as error:
        store.OrbaxSource(tmp_path / "t")
    assert "\n" not in str(error.value)
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    tensors = {"x": TensorInfo((2,), np.dtype("float32"))}
    with pytest.raises(InputError, match=r"file/params: cannot be written .*choose another place"):
        store.save(tmp_path / "file" / "params", tensors, lambda name: np.zeros(2, np.float32))


def test_disk_that_fills_up_while_a_tensor_is_written(tmp_path):
    """A limit on the size of files stands for the full disk."""
    code = """
import resource, signal, sys
import numpy as np
from lcv_jax.checkpoint import store
from lcv_jax.checkpoint.tensorfile import TensorInfo
from lcv_jax.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
tensors = {name: TensorInfo((size,), np.dtype("float32")) for name, size in (("a", 10), ("b", 10**6), ("c", 10))}
try:
    store.save(sys.argv[1], tensors, lambda name: np.zeros(tensors[name].shape, np.float32))
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "params")], capture_output=True, text=True)
    assert "params: cannot be written" in done.stdout, done.stderr[-2000:]
    assert not (tmp_path / "params").exists()


_SLOW_IMPORT = """
import sys, time
from lcv_jax.checkpoint import convert

def progress(done, total):
    print(done, flush=True)
    time.sleep(0.2)

convert.import_checkpoint(sys.argv[1], sys.argv[2], progress=progress)
"""


def test_killed_import_leaves_no_destination(small, tmp_path):
    dst = tmp_path / "dst"
    command = [sys.executable, "-c", _SLOW_IMPORT, str(small), str(dst)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline()
        assert process.stdout.readline()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert _left(tmp_path) == [f"dst.tmp-{process.pid}"]
    assert convert.import_checkpoint(small, dst).leftovers == (tmp_path / f"dst.tmp-{process.pid}",)
    assert "dst" in _left(tmp_path)
    assert len(layout.open_source(dst).tensors) == 32
