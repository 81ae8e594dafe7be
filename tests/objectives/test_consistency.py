"""Consistency in phases: the map and its end, the target by hand on a linear network, and what it falls back to."""

import dataclasses
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linear_model
import training
from lcv_jax.errors import InputError
from lcv_jax.flow.path import move
from lcv_jax.flow.schedule import sigmas
from lcv_jax.models.lora import LoRAConfig, init_lora
from lcv_jax.objectives.consistency import Consistency, ConsistencyDistill, mean_velocity
from lcv_jax.objectives.objective import Trees
from lcv_jax.train.step import sample_keys

KEYS = sample_keys(jax.random.key(5), 4)
STEPS = jnp.int32([0, 1, 2, 49])
W, UP, TEACHER, MEAN = 0.5, 0.25, -0.125, 0.375


def objective(bend=0.75, **settings) -> ConsistencyDistill:
    return ConsistencyDistill(linear_model.Linear(bend), Consistency(**settings))


def trees(up=UP, teacher=TEACHER, mean=MEAN) -> Trees:
    lora, reference, ema = map(linear_model.adapter, (up, teacher, mean))
    return Trees(params={"w": jnp.float32(W)}, lora=lora, reference=reference, ema=ema)


def drawn(one, batch, steps=STEPS):
    return dataclasses.replace(one.draw(batch, KEYS), step=steps)


def test_phases_end_where_the_sampler_stops():
    """16 phases end at the levels that 16 steps visit; a phase has the three or four steps of the grid between."""
    settings = Consistency()
    ends, visited = settings.ends, sigmas("distilled", 16)
    np.testing.assert_array_equal(np.unique(ends)[::-1], visited[1:])
    lengths = np.unique(ends, return_counts=True)[1]
    assert sorted(lengths) == [3] * 14 + [4] * 2
    np.testing.assert_array_equal(ends[:4], [visited[1]] * 3 + [visited[2]])
    assert (ends <= settings.levels[1:]).all()
    np.testing.assert_array_equal(Consistency(phases=1).ends, 0)
    np.testing.assert_array_equal(Consistency(phases=50).ends, settings.levels[1:])


ARRAYS = st.lists(st.floats(-8, 8, width=32, allow_subnormal=False), min_size=3, max_size=3).map(np.float32)


@pytest.mark.smoke
@hypothesis.given(x=ARRAYS, first=ARRAYS, second=ARRAYS, step=st.integers(0, 49), phases=st.integers(1, 50))
@hypothesis.settings(deadline=None, max_examples=30)
def test_the_map_is_the_identity_at_its_end_and_the_target_lands_where_both_lead(x, first, second, step, phases):
    """Exact at the end: there the target is the teacher's velocity to the last bit, whatever the mean says."""
    settings = Consistency(phases=phases)
    t, t_next, end = settings.levels[step], settings.levels[step + 1], settings.ends[step]
    np.testing.assert_array_equal(move(x, second, end, end), x)
    target = np.asarray(mean_velocity(first, second, t, t_next, end))
    if t_next == end:
        np.testing.assert_array_equal(target, first)
    np.testing.assert_allclose(move(x, target, t, end), move(move(x, first, t, t_next), second, t_next, end), atol=2e-5)


@pytest.mark.parametrize("num_cond", [0, 2])
@pytest.mark.parametrize("phases", [16, 1])
def test_loss_and_gradient_by_hand(num_cond, phases):
    """Teacher's step, then the mean's map; the student's gradient alone. With one phase the end is 0: consistency."""
    one, batch = objective(phases=phases, shift=3.0), linear_model.batch(num_cond)
    draw = drawn(one, batch)
    levels = np.float64(sigmas("distilled", 50, shift=3.0))
    visited = np.float64(sigmas("distilled", phases, shift=3.0))
    t, t_next = (levels[np.asarray(draw.step) + i] for i in (0, 1))
    end = np.array([max(level for level in visited if level <= after) for after in t_next])
    if phases == 1:
        np.testing.assert_array_equal(end, 0)
    x, text = linear_model.noisy(batch, draw.noise, t), linear_model.text_mean(batch.text)
    t, t_next, end = (a[:, None, None, None, None] for a in (t, t_next, end))

    def v(up, x, t):
        return (W + up) * x + 0.75 * t + text

    after = x + (t - t_next) * v(TEACHER, x, t)
    landed = after + (t_next - end) * v(MEAN, after, t_next)
    error = (v(UP, x, t) - (landed - x) / (t - end))[:, num_cond:]
    gradient = jax.value_and_grad(lambda trees: one.evaluate(trees, batch, draw), has_aux=True)
    (loss, _), grads = gradient(trees())
    assert float(loss) == pytest.approx(np.square(error).mean(), rel=1e-4)
    mine = float(grads.lora["trained"]["layer"]["up"])
    assert mine == pytest.approx((2 * error * x[:, num_cond:]).mean(), rel=1e-3)
    assert float(grads.params["w"]) == mine
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((grads.reference, grads.ema)))


def test_nothing_is_to_be_learnt_on_straight_paths():
    """Where the velocity is the same everywhere, the teacher is consistent already."""
    batch = linear_model.batch()
    one = objective(bend=0.0)
    straight = dataclasses.replace(trees(up=-W, teacher=-W, mean=-W))
    for steps in (STEPS, jnp.int32([10, 20, 30, 40])):
        loss, _ = one.evaluate(straight, batch, drawn(one, batch, steps))
        assert float(loss) < 1e-12


def test_the_teacher_is_right_in_the_last_step_of_a_phase_and_with_50_phases_everywhere():
    """Steps 2, 5, 45 and 49 end phases of 16: a student that is the teacher has no error, one that is another has."""
    batch = linear_model.batch()
    last, first = jnp.int32([2, 5, 45, 49]), jnp.int32([0, 3, 6, 48])
    for phases, steps, zero in ((16, last, True), (16, first, False), (50, first, True), (1, last, False)):
        one = objective(phases=phases)
        loss, _ = one.evaluate(trees(TEACHER, TEACHER, MEAN), batch, drawn(one, batch, steps))
        assert (float(loss) == 0) == zero
        assert float(one.evaluate(trees(UP, TEACHER, MEAN), batch, drawn(one, batch, steps))[0]) > 0


@dataclasses.dataclass(frozen=True)
class Table:
    """v = w x, with a w of its own for each level that it was made for."""

    levels: tuple[float, ...]

    def apply(self, variables, x, t, states, mask, *, num_cond=0):
        (w,) = (one["up"] for one in variables["lora"]["layer"]["adapters"].values())
        at = jnp.abs(t[:, -1:] - jnp.float32(self.levels)).argmin(-1)
        return w[at][:, None, None, None, None] * x


@pytest.mark.smoke
def test_16_steps_of_the_student_are_50_of_the_teacher():
    """A student that has learnt its targets, from the last step to the first, lands where the teacher does."""
    settings = Consistency(phases=16, shift=3.0)
    levels = settings.levels
    one, batch = ConsistencyDistill(Table(tuple(levels.tolist())), settings), linear_model.batch()
    t = np.float64(levels)
    teacher = ((1 - t) * 0.25 - t) / (np.square(1 - t) * 0.25 + np.square(t))  # of data with variance 1/4
    student, x = np.zeros(51), jnp.ones_like(batch.latents)

    @jax.jit
    def target(student, step):
        known = Trees(reference=linear_model.adapter(teacher), ema=linear_model.adapter(student))
        return one.target(known, batch, x, jnp.full(4, step))

    for step in reversed(range(50)):
        student[step] = target(jnp.float32(student), step)[0, 0, 0, 0, 0]

    def landed(w, visited):
        x = 1.0
        for t, t_next in itertools.pairwise(visited):
            x += (float(t) - float(t_next)) * w[np.abs(levels - t).argmin()] * x
        return x

    fewer = sigmas("distilled", 16, shift=3.0)
    assert landed(student, fewer) == pytest.approx(landed(teacher, levels), rel=1e-4)
    assert abs(landed(teacher, fewer) / landed(teacher, levels) - 1) > 0.02


def test_the_real_network_and_its_adapters():
    """Student, teacher and mean are one model with other adapters; only the student's have a gradient."""
    model = training.dit()
    params = training.awake(training.init(model))
    adapters = training.awake(init_lora(LoRAConfig(rank=2), params, jax.random.key(1)), scale=0.3)
    one, batch = ConsistencyDistill(model, Consistency(phases=50)), training.batch(size=2, num_cond=1)
    draw = dataclasses.replace(one.draw(batch, KEYS[:2]), step=jnp.int32([0, 30]))

    @jax.jit
    def gradient(lora, reference, ema):
        given = Trees(params=params, reference={"trained": reference}, ema={"trained": ema})
        loss = lambda lora: one.evaluate(dataclasses.replace(given, lora={"trained": lora}), batch, draw)[0]  # noqa: E731
        return jax.value_and_grad(loss)(lora)

    other = jax.tree.map(lambda x: x + 0.1, adapters)
    loss, grads = gradient(adapters, adapters, other)
    assert float(loss) < 1e-10
    loss, grads = gradient(adapters, other, adapters)
    assert float(loss) > 1e-4
    assert all(
        np.abs(leaf).max() > 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
        if path[-1].key in ("up", "down")
    )


@pytest.mark.parametrize("phases", [0, 51])
def test_bad_settings_raise(phases):
    with pytest.raises(InputError, match=f"consistency, phases={phases}: expected a number from 1 to 50"):
        Consistency(phases=phases)


def test_settings_tell_what_they_need():
    assert Consistency().reads == ("lora", "reference", "ema")
    assert Consistency().prompts == {}
