"""The Hopper kernels without a GPU: the battery in JAX's GPU interpret mode with its race detection, schedules against
sets, and lowering for CUDA at the real shapes.
"""

import dataclasses
import functools
import itertools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call as interpreter
from jax.experimental.pallas import mosaic_gpu as plgpu

from benchmarks import bsa_gpu_measure
from bsa_battery import HOPPER_CASES, TOLERANCES, Battery, Case, Transformations
from lcv_kernels.pallas.block_sparse_attention import mosaic_gpu, mosaic_gpu_schedule, mosaic_gpu_stream
from lcv_kernels.pallas.block_sparse_attention.mosaic_gpu import Config, Tiling
from lcv_kernels.pallas.block_sparse_attention.registry import Call

BLOCKS = (64, 128, 192, 256, 320, 512, 1024)


def interpret_params():
    if hasattr(plgpu, "InterpretGPUParams"):
        return plgpu.InterpretGPUParams(detect_races=True)
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams  # JAX 0.10

    return InterpretGPUParams(detect_races=True)


@pytest.fixture
def h100():
    """Traces as for an H100, on a machine that has none."""
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        yield


class Interpreted:
    """How the battery runs the kernels here."""

    config = None
    dtypes = ("bfloat16",)
    small_dtype = "bfloat16"
    small = Case("small", heads=1, d=64, block_q=64, block_k=64, rows=3, columns=4, select="ragged")

    @pytest.fixture(autouse=True)
    def _no_races(self, h100):
        """Newer JAX raises at the first race, 0.10 goes on and remembers; a failure leaves state behind."""
        interpreter.reset_gpu_interpret_mode_state()
        yield
        races = interpreter.get_races()
        interpreter.reset_gpu_interpret_mode_state()
        assert races is None or not races.races_found

    def attend(self, *arrays, **sizes):
        return mosaic_gpu.attend(*arrays, **sizes, config=self.config, interpret=interpret_params())


# An odd number of blocks on both sides, rows without a key, more stages than tiles and fewer.
QUICK = (
    Case("pairs of 64 channels", d=64, block_q=64, block_k=64, heads=1, rows=3, columns=5, select="ragged"),
    Case("blocks of two tiles, 128 channels", d=128, block_q=128, block_k=128, heads=1, rows=1, columns=2, value=0.0),
)


@pytest.mark.smoke
class TestInterpreted(Interpreted, Battery):
    cases = QUICK


class TestThreeConsumersAndTwoStages(Interpreted, Battery):
    cases = QUICK[:1]
    config = Config(Tiling(3, 64, 2), Tiling(3, 64, 2), Tiling(1, 64, 2))


@pytest.mark.slow
class TestInterpretedEverything(Interpreted, Transformations):
    cases = HOPPER_CASES
    # Interpreted kernels are ordered callbacks, which JAX refuses in remat; that case is lowered below.
    test_is_safe_under_remat_inside_scan = None


@pytest.mark.slow
class TestInterpretedFloat16(Interpreted, Battery):
    cases = HOPPER_CASES[:3]
    dtypes = ("float16",)
    tolerances = MappingProxyType({"float16": (2e-3, 4e-3)})


def test_a_tile_that_is_handed_back_before_it_is_read_is_a_race(h100, monkeypatch):
    """The detector sees what it should: the one fault that the ring of stages is there to prevent."""

    def take_and_release(channel, slot):
        plgpu.barrier_wait(channel.full.at[slot])
        plgpu.barrier_arrive(channel.free.at[slot])
        return channel.ring.at[slot]

    monkeypatch.setattr(mosaic_gpu_stream.Channel, "take", take_and_release)
    monkeypatch.setattr(mosaic_gpu_stream.Channel, "release", lambda channel, slot: None)
    q, k = jnp.ones((1, 64, 1, 64), jnp.bfloat16), jnp.ones((1, 320, 1, 64), jnp.bfloat16)
    indices, counts = jnp.arange(5, dtype=jnp.int32).reshape(1, 1, 1, 5), jnp.full((1, 1, 1), 5, jnp.int32)
    config = Config(*[Tiling(1, 64, 2)] * 3)
    run = functools.partial(mosaic_gpu.attend, block_q=64, block_k=64, config=config, interpret=interpret_params())
    interpreter.reset_gpu_interpret_mode_state()
    try:
        jax.block_until_ready(jax.jit(run)(q, k, k, indices, counts))
        found = interpreter.get_races().races_found
    except jax.errors.JaxRuntimeError as error:  # JAX after 0.10
        found = "RACE DETECTED" in str(error)
    finally:
        interpreter.reset_gpu_interpret_mode_state()
    assert found


@pytest.mark.slow
class TestOnDevice(Transformations):
    """The same on a Hopper GPU, where there is one; benchmarks/bsa_gpu.py begins with it."""

    cases = HOPPER_CASES
    dtypes = ("bfloat16", "float16")
    tolerances = MappingProxyType(TOLERANCES | {"float16": (2e-3, 4e-3)})
    small_dtype = "bfloat16"
    small = Interpreted.small

    @pytest.fixture(autouse=True)
    def _hopper(self):
        device = jax.devices()[0]
        if not mosaic_gpu.HOPPER.search(device.device_kind):
            pytest.skip(f"needs a Hopper GPU, not {device.device_kind!r}")

    def attend(self, *arrays, **sizes):
        return mosaic_gpu.attend(*arrays, **sizes)


def sets(entries, offsets, group):
    """For every row block, the set of its columns; and how many tiles each group loads."""
    found, loads = [], []
    for start, stop in itertools.pairwise(np.asarray(offsets)):
        members = [set() for _ in range(group)]
        for entry in np.asarray(entries)[start:stop]:
            for member in range(group):
                if entry >> member & 1:
                    members[member].add(int(entry >> group))
        found += members
        loads.append(stop - start)
    return found, loads


@settings(max_examples=25, deadline=None)
@given(data=st.data(), group=st.integers(1, 3))
def test_schedule_holds_every_pair_and_loads_a_shared_column_once(data, group):
    num_rows, num_columns, most = 5, 7, 4
    picks = data.draw(
        st.lists(st.lists(st.integers(0, 6), unique=True, max_size=most), min_size=num_rows, max_size=num_rows)
    )
    counts = jnp.asarray([[[len(pick) for pick in picks]]], jnp.int32)
    indices = jnp.asarray([[[pick + [3] * (most - len(pick)) for pick in picks]]], jnp.int32)
    rows, columns, valid = mosaic_gpu_schedule.pairs(indices, counts)
    schedule = mosaic_gpu_schedule.merge(rows, columns, valid, num_rows=num_rows, num_columns=num_columns, group=group)
    found, loads = sets(schedule.entries[0, 0], schedule.offsets[0, 0], group)
    chosen = [set(pick) for pick in picks]
    assert found[:num_rows] == chosen
    assert not any(found[num_rows:])
    assert loads == [len(set().union(*chosen[i : i + group])) for i in range(0, num_rows, group)]
    inverse = mosaic_gpu_schedule.merge(columns, rows, valid, num_rows=num_columns, num_columns=num_rows, group=group)
    found, _ = sets(inverse.entries[0, 0], inverse.offsets[0, 0], group)
    assert found[:num_columns] == [{q for q in range(num_rows) if k in chosen[q]} for k in range(num_columns)]


def test_schedule_is_sorted_and_counts_a_pair_that_is_listed_twice_once():
    rows, columns = jnp.asarray([[[1, 0, 1, 0, 1]]]), jnp.asarray([[[4, 4, 2, 4, 2]]])
    schedule = mosaic_gpu_schedule.merge(rows, columns, jnp.ones_like(rows, bool), num_rows=2, num_columns=5, group=2)
    np.testing.assert_array_equal(schedule.entries[0, 0], [2 << 2 | 0b10, 4 << 2 | 0b11, 0, 0, 0])
    np.testing.assert_array_equal(schedule.offsets[0, 0], [0, 2])


def test_schedule_refuses_more_pairs_than_can_be_numbered():
    empty = jnp.zeros((1, 1, 0), jnp.int32)
    with pytest.raises(ValueError, match="65536 x 65536 blocks in groups of 2: too many pairs"):
        mosaic_gpu_schedule.merge(empty, empty, empty == 0, num_rows=1 << 16, num_columns=1 << 16, group=2)


def lower(dtype, N, K, heads, d, block_q, block_k, kept, config=None):
    """The module of a forward and a backward pass, lowered for CUDA."""

    def both(q, k, v, indices, counts):
        attend = functools.partial(mosaic_gpu.attend, block_q=block_q, block_k=block_k, config=config)
        outputs, pull = jax.vjp(lambda *x: attend(*x, indices, counts), q, k, v)
        return outputs, pull(outputs)

    shapes = ((1, N, heads, d), (1, K, heads, d), (1, K, heads, d))
    rows = (1, heads, N // block_q)
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    arguments += [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((*rows, kept), rows)]
    return jax.jit(both).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", [24 * 28 * 56, 48 * 44 * 80])
def test_lowers_for_cuda_at_the_real_shapes(h100, tokens):
    text = lower(jnp.bfloat16, tokens, tokens, 32, 128, 64, 64, tokens // 64 // 16)
    for name in ("bsa_forward", "bsa_dq", "bsa_dkv"):
        assert name in text
    assert text.count("custom_call @mosaic_gpu") == 3


def test_lowers_for_cuda_as_the_gradient_of_a_rematerialised_scan(h100):
    x = jax.ShapeDtypeStruct((1, 192, 2, 64), jnp.bfloat16)
    indices, counts = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, 2, 3, 2), (1, 2, 3)))

    def loss(q, k, v, indices, counts):
        @jax.checkpoint
        def layer(x, _):
            return mosaic_gpu.attend(x, k, v, indices, counts, block_q=64, block_k=64)[0], ()

        return jax.lax.scan(layer, q, length=2)[0].astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, x, x, indices, counts)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == 4  # the forward kernel again before the backward ones


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("block_k", BLOCKS)
@pytest.mark.parametrize("block_q", [64, 128])
def test_lowers_for_cuda_with_every_kind_of_block(h100, block_q, block_k, head_dim):
    text = lower(jnp.float16, 3 * block_q, 5 * block_k, 2, head_dim, block_q, block_k, 2)
    assert text.count("custom_call @mosaic_gpu") == 3


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("kernel", "resident"), [("forward", 1), ("dq", 2), ("dkv", 2)])
def test_every_cut_that_the_benchmark_tries_lowers(h100, kernel, resident, head_dim):
    cuts = list(bsa_gpu_measure.tilings(head_dim, resident))
    assert len(cuts) > 5
    for cut in cuts:
        config = dataclasses.replace(mosaic_gpu.choose(head_dim, 64, 64), **{kernel: cut})
        text = lower(jnp.bfloat16, 320, 448, 1, head_dim, 64, 64, 3, config)
        assert text.count("custom_call @mosaic_gpu") == 3


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("block_q", [64, 128])
def test_the_rule_cuts_every_kind_of_block(block_q, head_dim):
    for block_k in BLOCKS:
        assert mosaic_gpu.supports(jnp.bfloat16, head_dim, block_q, block_k) is None


@pytest.mark.parametrize(
    ("dtype", "sizes", "reason"),
    [
        ("float32", (64, 64, 64), "float32: the tensor cores take"),
        ("bfloat16", (96, 64, 64), "head dimension 96"),
        ("bfloat16", (64, 32, 64), "query blocks of 32 tokens"),
        ("bfloat16", (64, 64, 96), "key blocks of 96 tokens"),
        ("bfloat16", (64, 64, 2048), "key blocks of 2048 tokens"),
    ],
)
def test_says_what_is_not_supported(dtype, sizes, reason):
    assert reason in mosaic_gpu.supports(dtype, *sizes)


@pytest.mark.parametrize(
    ("changed", "sizes", "reason"),
    [
        ({"forward": Tiling(2, 64, 6)}, (128, 64, 64), "forward: .* bytes of shared memory, of which there are"),
        ({"forward": Tiling(3, 64, 2)}, (64, 128, 64), "3 tiles of 64 tokens and blocks of 128 do not divide"),
        ({"dkv": Tiling(2, 128, 2)}, (64, 64, 64), "dkv: streamed tiles of 128 tokens do not divide blocks of 64"),
    ],
)
def test_refuses_a_config_that_does_not_cut_the_blocks(changed, sizes, reason):
    config = dataclasses.replace(mosaic_gpu.choose(*sizes), **changed)
    head_dim, block_q, block_k = sizes
    q = jnp.zeros((1, block_q, 1, head_dim), jnp.bfloat16)
    k = jnp.zeros((1, block_k, 1, head_dim), jnp.bfloat16)
    one = jnp.ones((1, 1, 1), jnp.int32)
    with pytest.raises(ValueError, match=reason):
        mosaic_gpu.attend(q, k, k, one[..., None], one, block_q=block_q, block_k=block_k, config=config)


@pytest.mark.parametrize(
    ("values", "match"),
    [((4, 64, 2), "consumers=4: 1, 2 or 3"), ((2, 96, 2), "tile=96"), ((2, 64, 1), "stages=1")],
)
def test_refuses_a_tiling_that_cannot_be(values, match):
    with pytest.raises(ValueError, match=match):
        Tiling(*values)


@pytest.mark.parametrize(
    ("changed", "config", "reason"),
    [
        ({}, None, None),
        ({"device_kind": "NVIDIA GH200 480GB"}, None, None),
        ({"device_kind": "NVIDIA A100-SXM4-80GB"}, None, "Hopper GPU, not 'NVIDIA A100-SXM4-80GB'"),
        ({"platform": "cpu", "device_kind": "cpu"}, None, "Hopper GPU, not 'cpu'"),
        ({}, "fast", "its config is a mosaic_gpu.Config, not 'fast'"),
        ({"dtype": "float32"}, None, "float32"),
    ],
)
def test_takes_calls_on_hopper_gpus_only(changed, config, reason):
    call = Call("gpu", "NVIDIA H200", "bfloat16", 128, 64, 64, 4096, 4)
    answer = mosaic_gpu.refuses(dataclasses.replace(call, **changed), config)
    assert answer is None if reason is None else reason in answer
