"""The port of TransNetV2 against what the published implementation said, and what it refuses."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import transnet_case
from lcv_jax.data.curation.detectors import Seen, Transition, TransNet
from lcv_jax.data.curation.transnet import Architecture, Network, Scores, load, prepared, scores
from lcv_jax.errors import InputError

SMALL = Architecture(**transnet_case.SIZE)


@pytest.fixture(scope="module")
def drawn():
    return transnet_case.weights(SMALL.shapes())


@pytest.fixture(scope="module")
def network(drawn):
    return Network(prepared(drawn, SMALL), SMALL)


def scored(network, frames):
    found = Scores(network)
    for frame in frames:
        found.take(frame)
    return found.all()


def test_scores_are_those_of_the_published_implementation(network):
    golden = np.load(transnet_case.GOLDEN)
    one_hot, many_hot = scored(network, transnet_case.frames())
    assert golden["one_hot"].std() > 0.002
    assert golden["many_hot"].std() > 0.002
    np.testing.assert_allclose(one_hot, golden["one_hot"], atol=2e-6)
    np.testing.assert_allclose(many_hot, golden["many_hot"], atol=2e-6)


@pytest.mark.parametrize("count", [1, 50, 51, 101])
def test_each_frame_has_its_scores(network, count):
    """Windows as published: 25 times the first frame, all frames, the last one until a window is full."""
    frames = transnet_case.frames(count)
    one_hot, many_hot = scored(network, frames)
    assert one_hot.shape == many_hot.shape == (count,)
    tail = 25 + 50 - (count % 50 or 50)
    padded = np.concatenate([frames[:1].repeat(25, 0), frames, frames[-1:].repeat(tail, 0)])
    windows = [padded[start : start + 100][None] for start in range(0, len(padded) - 99, 50)]
    whole = np.concatenate([scores(network.weights, window, SMALL)[0, 25:75] for window in windows])
    np.testing.assert_allclose(np.stack([one_hot, many_hot], -1), whole[:count], atol=2e-6)


def test_no_frames_have_no_scores(network):
    assert [found.shape for found in scored(network, [])] == [(0,), (0,)]


def test_the_published_network_has_its_size():
    shapes = Architecture().shapes()
    trained = [shape for name, shape in shapes.items() if "running" not in name]
    assert sum(int(np.prod(shape)) for shape in trained) == 7_616_258
    assert shapes["fc1.weight"] == (1024, 3 * 6 * 256 + 256)
    assert shapes["SDDCNN.2.DDCNN.1.Conv3D_8.layers.1.weight"] == (64, 128, 3, 1, 1)


def test_a_file_is_read(tmp_path, drawn, network):
    counters = {"SDDCNN.0.DDCNN.0.bn.num_batches_tracked": np.zeros((), np.int64)}
    save_file(drawn | counters, tmp_path / "x.safetensors")
    read = load(tmp_path / "x.safetensors", SMALL)
    assert read.weights.keys() == network.weights.keys()
    for name, value in read.weights.items():
        np.testing.assert_array_equal(value, network.weights[name])


def test_other_files_are_refused(tmp_path, drawn):
    path = tmp_path / "x.safetensors"
    fewer = {name: value for name, value in drawn.items() if name != "fc1.bias"}
    for given, match in (
        (fewer, r"1 weights are missing, such as fc1\.bias; convert the published file as docs/curation/shots"),
        (drawn | {"more": np.zeros(1, np.float32)}, "1 weights are unknown, such as more"),
        (drawn | {"fc1.bias": np.zeros(3, np.float32)}, r"fc1\.bias is \(3,\), expected \(16,\)"),
    ):
        save_file(given, path)
        with pytest.raises(InputError, match=match):
            load(path, SMALL)
    with pytest.raises(InputError, match="no such file: expected a safetensors"):
        load(tmp_path / "none.safetensors", SMALL)
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="pickle files"):
        load(tmp_path / "x.pth", SMALL)


def test_the_network_is_a_detector(network):
    """One that says "transition" to everything, as its heads' biases say so, finds one that holds all frames."""
    certain = Network(dict(network.weights) | {"cls_layer2.bias": np.float32([50])}, SMALL)
    running = TransNet(one_hot=0.999).open(certain)
    frames = transnet_case.frames(60)
    for number, frame in enumerate(frames):
        running.take(number, frame, frame)
    flat = np.zeros(60, np.float32)
    assert running.found(Seen(flat, flat, flat, 25)) == [Transition(0, 60)]
