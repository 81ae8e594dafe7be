"""Which blocks every layer selects in every step of a refinement, against the official runs (goldens README 3)."""

import json

import numpy as np
import pytest

from lcv_jax.sample import refine
from lcv_jax.sample.denoise import denoise
from lcv_jax.sample.options import Options
from selections import NotingAttention, assert_selected


@pytest.mark.parametrize("case", ["A", "B", "C", "D"])
def test_selections(request, pipe, goldens, case):
    name = f"pipeline_refine_{case}"
    meta = json.loads((request.config.rootpath / "tests" / "goldens" / "pipeline_meta.json").read_text())[name]
    g = goldens(name)
    asked = refine.request(
        pipe.opened,
        g["stage1_video"],
        Options(
            size=tuple(meta["bucket"]),
            steps=meta["num_inference_steps"],
            max_text_tokens=meta["max_sequence_length"],
            posterior="mode",
            output="latents",
        ),
        condition=None if meta["condition"] is None else g[meta["condition"]],
        num_cond_frames=meta["num_cond_frames"],
        spatial_only=meta["spatial_refine_only"],
        t_thresh=meta["t_thresh"],
        noise=np.moveaxis(g["randn_like_0"], 1, -1),
    )
    conditioning = refine.prepare(pipe, asked, meta["prompt"])
    network = pipe.network("config")
    noting = NotingAttention.like(network.attention)
    latents = denoise(network.clone(attention=noting), pipe.variables(("refinement",)), conditioning)
    np.testing.assert_allclose(latents, np.moveaxis(g["final_latents"], 1, -1), atol=1e-3, rtol=0)
    calls = [g[f"bsa_select_call{call}"] for call in range(sum("bsa_select" in name for name in g))]
    steps = len(g["timesteps"])
    assert {len(call) for call in calls} == {steps}
    official = [call[step] for step in range(steps) for call in calls]
    assert_selected(noting, official, asked.plan.window.cond_latents)
