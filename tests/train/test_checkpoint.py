"""Checkpoints without mocks: what is saved is what is used, damage is refused, the ones before stay whole."""

import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import training
from lcv_jax.errors import InputError
from lcv_jax.objectives.pretrain import ConditionNoise, Pretrain, Pretraining
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import abstract_state, create, state_shardings
from lcv_jax.train.step import jitted, make_step

# When writing fails, Orbax leaves a coroutine behind, which is found in whatever test comes next.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OPTIMIZER = AdamW(rate=1e-2, warmup=3).make()
HERE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


@pytest.fixture(scope="module")
def params():
    return training.awake(training.init(training.dit()))


@pytest.fixture(scope="module")
def step():
    objective = Pretrain(training.dit(), Pretraining(condition_noise=ConditionNoise(0.5)))
    return jitted(make_step(objective, OPTIMIZER, ema_decay=0.9))


def start(params):
    return create(params, OPTIMIZER, jax.random.key(7), ema=True)


def place(state, optimizer=OPTIMIZER):
    """Shapes and shardings of a state on one device."""
    abstract = jax.eval_shape(lambda: state)
    return abstract_state(abstract, state_shardings(abstract, jax.tree.map(lambda _: HERE, state.trained), optimizer))


def advance(step, state, numbers):
    for number in numbers:
        state, metrics = step(state, training.batch(number, num_cond=2), training.given())
        assert metrics["finite"].value == 1
    return state


def numbers(state):
    return [
        np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(state)
    ]


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, numbers(one), numbers(other))


def test_a_restored_run_is_the_undisturbed_one_to_the_last_bit(tmp_path, params, step):
    """Optimizer, mean, key and number of steps all come from the checkpoint: with any of them fresh the bits differ.
    The state is donated while its checkpoint is still being written."""
    undisturbed = advance(step, start(params), range(5))
    with Checkpoints(tmp_path) as checkpoints:
        state = advance(step, start(params), range(2))
        saved = numbers(state)
        checkpoints.save(2, state, {"at": 2})
        state = advance(step, state, range(2, 4))
        checkpoints.save(4, state, {"at": 4})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest == 4
        restored = checkpoints.restore(place(undisturbed), 2)
        assert restored.data == {"at": 2}
        jax.tree.map(np.testing.assert_array_equal, numbers(restored.state), saved)
        same(advance(step, restored.state, range(2, 5)), undisturbed)
        same(advance(step, checkpoints.restore(place(undisturbed)).state, range(4, 5)), undisturbed)


def small(value=1.0, names=("a", "b"), size=4):
    return create({name: jnp.full(size, value) for name in names}, OPTIMIZER, jax.random.key(0))


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest is None
        for number in (1, 2, 3, 3):
            checkpoints.save(number, small(number), {})
        checkpoints.wait()
        assert sorted(int(p.name) for p in checkpoints.path.iterdir() if p.name.isdigit()) == [2, 3]
        np.testing.assert_array_equal(checkpoints.restore(place(small())).state.trained["a"], 3)
        with pytest.raises(InputError, match="no checkpoint of step 1: expected one of those there, 2, 3"):
            checkpoints.restore(place(small()), 1)


def test_a_checkpoint_of_something_else_raises(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(), {})
        checkpoints.wait()
        with pytest.raises(InputError, match=r"mu/a has shape \(4,\), expected \(5,\)"):
            checkpoints.restore(place(small(names=("a",), size=5)))
        with pytest.raises(InputError, match=r"/b has shape \(4,\), expected no such array"):
            checkpoints.restore(place(small(names=("a",))))
        with pytest.raises(InputError, match=r"c has shape none \(it is not there\), expected \(4,\)"):
            checkpoints.restore(place(small(names=("a", "b", "c"))))
        sgd = optax.sgd(0.1)
        with pytest.raises(InputError, match=r"optimizer/.* of another model, optimizer"):
            checkpoints.restore(place(create({"a": jnp.ones(4), "b": jnp.ones(4)}, sgd, jax.random.key(0)), sgd))


@pytest.mark.parametrize("damage", ["metadata", "arrays"])
def test_damage_raises_and_the_one_before_can_be_had(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        for number in (1, 2):
            checkpoints.save(number, small(number), {})
        checkpoints.wait()
        folder = checkpoints.path / "2" / "state"
    if damage == "metadata":
        (folder / "_METADATA").write_text("{")
    else:
        for path in folder.iterdir():
            if path.name == "d" or path.name.startswith("ocdbt"):
                shutil.rmtree(path)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(InputError, match=r"/2: damaged or incomplete checkpoint .*remove this folder"):
            checkpoints.restore(place(small()))
        np.testing.assert_array_equal(checkpoints.restore(place(small()), 1).state.trained["a"], 1)


def test_what_a_killed_run_left_is_not_a_checkpoint(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small(), {})
        path = checkpoints.path
    shutil.copytree(path / "1", path / "2.orbax-checkpoint-tmp-17")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest == 1
        checkpoints.save(2, small(), {})
        checkpoints.wait()
        assert sorted(p.name for p in path.iterdir() if p.is_dir()) == ["1", "2"]


def test_a_full_disk_is_told_and_the_one_before_stays(tmp_path):
    """The system refuses to let any file grow beyond 64 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = small()
    noise = np.random.default_rng(0).normal(size=1 << 18)  # what cannot be compressed
    large = create({"a": jnp.asarray(noise)}, OPTIMIZER, jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, before, {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        try:
            checkpoints.save(2, large, {})
            with pytest.raises(InputError, match=r"a checkpoint cannot be written .*make room"):
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest == 1
        same(checkpoints.restore(place(before)).state, before)


def test_a_folder_that_cannot_be_made_raises(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a checkpoint cannot be written"):
        Checkpoints(tmp_path / "file")
