import json

import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import ScheduleConfig, sigmas
from lcv_jax.flow.solver import euler_step

KINDS = {"plain": "base", "distill": "distilled", "enhance_hf": "enhance_hf", "refine": "refine"}


@pytest.fixture(scope="module")
def official(request):
    return json.loads((request.config.rootpath / "tests" / "goldens" / "schedule.json").read_text())


def test_every_official_schedule(official):
    assert len(official["cases"]) > 10
    for case in official["cases"]:
        options = {"t_thresh": case["t_thresh"]} if "t_thresh" in case else {}
        ours = sigmas(KINDS[case["variant"]], case["num_inference_steps"], shift=official["shift"], **options)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, case["sigmas"], atol=1e-6, rtol=0)
        # Not one unit in the last place may differ.
        np.testing.assert_array_equal(ours[:-1] * np.float32(1000), np.asarray(case["timesteps"], np.float32))
        assert len(ours) - 1 == case.get("dit_calls", len(ours) - 1)


def test_official_euler_traces(official):
    """The official scheduler is handed the negated velocity."""
    for trace in official["step_traces"]:
        kind = "distilled" if trace["use_distill"] else "base"
        levels = sigmas(kind, trace["num_inference_steps"], shift=official["shift"])
        x = jnp.asarray(trace["sample"])
        for step, t, t_next in zip(trace["steps"], levels[:-1], levels[1:], strict=True):
            x = euler_step(x, -jnp.asarray(step["model_output"]), t, t_next)
            np.testing.assert_allclose(x, step["prev_sample"], atol=1e-5)


def test_published_step_counts():
    assert len(sigmas("base", 50)) == 51
    assert len(sigmas("enhance_hf", 50)) == 57
    assert len(sigmas("refine", 50)) == 6
    assert len(sigmas("distilled", 16)) == 17


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_levels_fall_to_zero(kind, steps):
    levels = sigmas(kind, steps)
    assert (np.diff(levels) < 0).all()
    assert levels[-1] == 0
    assert levels[0] <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("cosine", 4), "schedule 'cosine' is not known"),
        (("base", 0), "steps=0"),
        (("distilled", 51), "at most 50"),
    ],
)
def test_bad_schedules_raise(call, message):
    with pytest.raises(InputError, match=message):
        sigmas(*call)
    with pytest.raises(InputError, match="t_thresh=0"):
        sigmas("refine", 4, t_thresh=0)


def test_scheduler_config(checkpoint_dir):
    data = json.loads((checkpoint_dir / "scheduler" / "scheduler_config.json").read_text())
    assert ScheduleConfig.from_json(data).shift == 12.0
    assert ScheduleConfig.from_json(ScheduleConfig(3.0).to_json()) == ScheduleConfig(3.0)
    assert ScheduleConfig().to_json().items() <= data.items()
    with pytest.raises(InputError, match="use_karras_sigmas=True: expected False"):
        ScheduleConfig.from_json(data | {"use_karras_sigmas": True})
    for shift in (None, 0, "12", True):
        with pytest.raises(InputError, match="expected a positive number"):
            ScheduleConfig.from_json(data | {"shift": shift})
    with pytest.raises(InputError, match=r"_class_name='UniPCMultistepScheduler': expected 'FlowMatchEuler"):
        ScheduleConfig.from_json(data | {"_class_name": "UniPCMultistepScheduler"})
    with pytest.raises(InputError, match=r"file\.json: unknown field 'solver_order': expected only shift"):
        ScheduleConfig.from_json(data | {"solver_order": 2}, where="file.json")


def test_only_the_shift_has_to_be_there():
    assert ScheduleConfig.from_json({"shift": 3}) == ScheduleConfig(3)
    with pytest.raises(InputError, match="scheduler config: field 'shift' is missing"):
        ScheduleConfig.from_json({})
