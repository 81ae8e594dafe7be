"""Distillation of guidance: its target by hand on a linear network, and that of sampling on the real one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linear_model
import training
from lcv_jax.errors import InputError
from lcv_jax.flow.path import noised
from lcv_jax.flow.schedule import ScheduleConfig, sigmas
from lcv_jax.models.lora import LoRAConfig, init_lora
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.cfg_distill import CFGDistill, CFGDistillation
from lcv_jax.objectives.distillation import PARTS, frame_levels
from lcv_jax.objectives.objective import Trees
from lcv_jax.sample.defaults import NEGATIVE_PROMPT
from lcv_jax.sample.denoise import guided_velocity, with_negative
from lcv_jax.train.step import sample_keys

KEYS = sample_keys(jax.random.key(5), 4)
LINEAR = CFGDistill(linear_model.Linear(), CFGDistillation(guidance=3.0))
W, UP = 0.5, 0.25


def trees(up=UP, negative=(1.0, -2.0)) -> Trees:
    states = np.float32([[negative]])
    prompts = {"negative": TextStates(states, np.ones((1, 1), bool))}
    return Trees(params={"w": jnp.float32(W)}, lora=linear_model.adapter(up), prompts=prompts)


def by_hand(batch, draw, shift, up=UP):
    """Student's velocity less the target, of noisy frames, in double precision."""
    t = sigmas("distilled", 50, shift=shift)[np.asarray(draw.step)]
    x, text = linear_model.noisy(batch, draw.noise, t), linear_model.text_mean(batch.text)
    student, cond, uncond = ((x * w + c)[:, batch.num_cond :] for w, c in ((W + up, text), (W, text), (W, -0.5)))
    axes = (1, 2, 3, 4)
    s = (cond * uncond).sum(axes, keepdims=True) / (np.square(uncond).sum(axes, keepdims=True) + 1e-8)
    return student - (s * uncond + 3 * (cond - s * uncond)), x[:, batch.num_cond :]


@pytest.mark.smoke
@pytest.mark.parametrize("num_cond", [0, 2])
def test_loss_and_gradient_by_hand(num_cond):
    """The teacher has no adapter, and gives no gradient although it is made of the same parameters."""
    batch = linear_model.batch(num_cond)
    draw = LINEAR.draw(batch, KEYS)
    error, x = by_hand(batch, draw, 12.0)
    gradient = jax.value_and_grad(lambda t: LINEAR.evaluate(t, batch, draw), has_aux=True, allow_int=True)
    (loss, metrics), grads = gradient(trees())
    assert float(loss) == pytest.approx(np.square(error).mean(), rel=1e-5)
    assert float(metrics["loss"].value) == float(loss)
    assert float(grads.lora["trained"]["layer"]["up"]) == pytest.approx((2 * error * x).mean(), rel=1e-4)
    assert float(grads.params["w"]) == float(grads.lora["trained"]["layer"]["up"])
    assert not np.any(grads.prompts["negative"].states)
    by_step = metrics["error by step"]
    assert by_step.count.shape == (PARTS,)
    np.testing.assert_array_equal(by_step.count, np.histogram(np.asarray(draw.step) // 5, PARTS, (0, PARTS))[0])
    assert float(by_step.total.sum()) == pytest.approx(float(metrics["loss"].total), rel=1e-6)


def test_nothing_is_to_be_learnt_where_both_prompts_say_the_same():
    """Then guidance changes nothing, and a student without its adapter is the teacher."""
    batch = linear_model.batch()
    same = TextStates(np.full((4, 3, 2), -0.5, np.float32), batch.text.mask)
    loss, _ = LINEAR(trees(up=0.0, negative=(-0.5, -0.5)), dataclasses.replace(batch, text=same), KEYS)
    assert float(loss) < 1e-10


def test_every_step_of_the_schedule_is_drawn_as_often_and_alike_in_any_batch():
    batch = linear_model.batch(size=5000)
    draw = LINEAR.draw(batch, sample_keys(jax.random.key(0), 5000))
    np.testing.assert_allclose(np.bincount(draw.step, minlength=50), 100, atol=45)
    levels = LINEAR.settings.levels
    assert levels.shape == (51,)
    assert (levels[0], levels[-1]) == (1, 0)
    few = LINEAR.draw(linear_model.batch(size=2), KEYS[2:])
    np.testing.assert_array_equal(few.noise, LINEAR.draw(linear_model.batch(), KEYS).noise[2:])
    times = frame_levels(linear_model.batch(num_cond=2, size=1), jnp.float32([0.25]))
    np.testing.assert_array_equal(times, [[0, 0, 0.25]])


def test_the_teacher_is_guided_sampling():
    """With the real network: what the sampler computes behind cached condition frames."""
    model, num_cond = training.dit(), 1
    params = training.awake(training.init(model))
    lora = {"trained": init_lora(LoRAConfig(rank=2), params, jax.random.key(1))}
    batch, negative = training.batch(size=2, num_cond=num_cond), training.empty_prompt()
    objective = CFGDistill(model, CFGDistillation(negative_prompt=""))
    draw = objective.draw(batch, KEYS[:2])
    draw = dataclasses.replace(draw, step=jnp.full(2, 17))
    t = jnp.asarray(objective.settings.levels)[draw.step]
    x = noised(batch.latents, draw.noise, frame_levels(batch, t)[:, :, None, None, None])
    given = Trees(params=params, lora=lora, prompts={"negative": negative})

    @jax.jit
    def both(given):
        variables = {"params": given.params}
        cache = model.apply(variables, x[:, :num_cond], method="condition").cache
        rows = [np.pad(a, ((0, 0), (0, 2), (0, 0))[: a.ndim]).repeat(2, 0) for a in (negative.states, negative.mask)]
        text = with_negative(TextStates(*rows), batch.text)
        times = jnp.broadcast_to(t[:, None], (2, 3 - num_cond))
        sampled = guided_velocity(model, variables, x[:, num_cond:], times, text, cache, jnp.float32(4.0))
        return (
            sampled,
            objective.target(given, batch, x, draw.step)[:, num_cond:],
            objective.evaluate(given, batch, draw),
        )

    sampled, target, (loss, _) = both(given)
    np.testing.assert_allclose(target, sampled, atol=2e-5)
    assert float(loss) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guidance": 1.0}, r"guidance=1\.0: expected a number above 1"),
        ({"guidance": float("nan")}, r"guidance=nan"),
        ({"shift": 0.0}, r"distillation: shift=0\.0: expected a positive number"),
    ],
)
def test_bad_settings_raise(change, message):
    with pytest.raises(InputError, match=message):
        CFGDistillation(**change)


def test_settings_tell_what_they_need():
    settings = CFGDistillation()
    assert settings.prompts == {"negative": NEGATIVE_PROMPT}
    assert settings.reads == ("lora",)
    assert settings.schedule == ScheduleConfig(12.0)


def test_a_prompt_that_is_not_there_raises():
    with pytest.raises(InputError, match="there is no encoded prompt 'negative'"):
        LINEAR(dataclasses.replace(trees(), prompts={}), linear_model.batch(), KEYS)
