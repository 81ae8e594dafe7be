"""Whole runs of the official pipeline, reproduced from the same inputs and noise (goldens README 3 and 4.8)."""

import json

import numpy as np
import pytest

WHOLE_RUN = 1e-3


def channels_last(x):
    return np.moveaxis(x, 1, -1)


@pytest.fixture(scope="module")
def meta(request):
    return json.loads((request.config.rootpath / "tests" / "goldens" / "pipeline_meta.json").read_text())


class Recorder:
    """Keeps what the steps made."""

    def __init__(self):
        self.latents = []

    def __call__(self, step):
        self.latents.append(np.asarray(step.latents))


def run(pipe, goldens, meta, case):
    """Calls our task as the official method was called; returns latents, the steps' latents and the golden."""
    g, m = goldens(case), meta[case]
    steps = Recorder()
    options = {
        "negative_prompt": m.get("negative_prompt", ""),
        "steps": m["num_inference_steps"],
        "guidance": m["guidance_scale"],
        "distilled": m["use_distill"],
        "latents": channels_last(g["latents"]),
        "size": tuple(m["bucket"]) if "bucket" in m else (m["height"], m["width"]),
        "num_frames": m["num_frames"],
        "max_text_tokens": m["max_sequence_length"],
        "posterior": "mode",
        "output": "latents",
        "on_step": steps,
    }
    if m["method"] == "generate_t2v":
        out = pipe.text_to_video(m["prompt"], **options)
    elif m["method"] == "generate_i2v":
        out = pipe.image_to_video(g["image"], m["prompt"], **options)
    else:
        task = {
            "num_cond_frames": m["num_cond_frames"],
            "kv_cache": m["use_kv_cache"],
            "enhance_hf": m["enhance_hf"],
        }
        out = pipe.continue_video(g["video"], m["prompt"], **task, **options)
    return out, steps.latents, g


CASES = (
    "pipeline_t2v_cfg",
    "pipeline_t2v_distill",
    "pipeline_i2v_cfg",
    "pipeline_vc_cache_hf",
    "pipeline_vc_cache_plain",
    "pipeline_vc_nocache",
    "pipeline_vc_distill",
)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.smoke) if c == "pipeline_t2v_distill" else c for c in CASES]
)
def test_every_step_and_the_result_equal_the_official_run(pipe, goldens, meta, case):
    out, steps, g = run(pipe, goldens, meta, case)
    assert len(steps) == len(g["step_latents"]) == len(g["timesteps"])
    for ours, official in zip(steps, g["step_latents"], strict=True):
        np.testing.assert_allclose(ours, channels_last(official), atol=WHOLE_RUN, rtol=0)
    np.testing.assert_allclose(out, channels_last(g["final_latents"]), atol=WHOLE_RUN, rtol=0)


@pytest.mark.parametrize("case", ["A", "B", "C", "D"])
def test_refinement(pipe, goldens, meta, case):
    """Spatial, spatial and temporal, with a video and with an image in front (README 4.9)."""
    g, m = goldens(f"pipeline_refine_{case}"), meta[f"pipeline_refine_{case}"]
    steps = []
    options = {
        "condition": None if m["condition"] is None else g[m["condition"]],
        "num_cond_frames": m["num_cond_frames"],
        "spatial_only": m["spatial_refine_only"],
        "t_thresh": m["t_thresh"],
        "noise": channels_last(g["randn_like_0"]),
        "size": tuple(m["bucket"]),
        "steps": m["num_inference_steps"],
        "max_text_tokens": m["max_sequence_length"],
        "posterior": "mode",
    }
    out = pipe.refine(g["stage1_video"], m["prompt"], output="latents", on_step=steps.append, **options)
    assert len(steps) == len(g["timesteps"])
    np.testing.assert_allclose(out, channels_last(g["final_latents"]), atol=WHOLE_RUN, rtol=0)
    if "video_np_s8" in g:
        video = pipe.refine(g["stage1_video"], m["prompt"], **options)
        assert video.shape == tuple(g["video_np_shape"])
        # Bytes against floats: half a level.
        np.testing.assert_allclose(video[:, :, ::8, ::8] / 255, g["video_np_s8"], atol=WHOLE_RUN + 0.5 / 255)


def test_text_states_and_masks(pipe, goldens, meta):
    for case in CASES:
        g, m = goldens(case), meta[case]
        for prefix, prompt in (("prompt", m["prompt"]), ("negative", m.get("negative_prompt"))):
            if prompt is None or f"{prefix}_embeds_valid" not in g:
                continue
            text = pipe.encode_prompt(prompt, m["max_sequence_length"])
            mask = g[f"{prefix}_attention_mask"] > 0
            np.testing.assert_array_equal(text.mask, mask)
            np.testing.assert_allclose(np.asarray(text.states)[mask], g[f"{prefix}_embeds_valid"], atol=1e-4, rtol=0)


@pytest.mark.smoke
def test_decoded_video(pipe, goldens):
    g = goldens("pipeline_t2v_cfg")
    video = pipe.decode_video(channels_last(g["final_latents"]))
    np.testing.assert_allclose((video + 1) / 2, g["video_np"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["pipeline_i2v_cfg", "pipeline_vc_cache_hf"])
def test_condition_latents(pipe, goldens, case):
    g = goldens(case)
    z = pipe.encode_video(channels_last(g["cond_pixels"]))
    np.testing.assert_allclose(z, channels_last(g["cond_latents_normalized"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("loras", "name"),
    [
        ((), "base"),
        (("cfg_step",), "cfg_step"),
        (("refinement",), "refinement"),
        (("cfg_step", "refinement"), "both"),
    ],
)
def test_adapters_add_up(pipe, goldens, loras, name):
    from lcv_jax import TextStates

    g = goldens("dit_lora")
    latents = channels_last(g["hidden_states"])
    t = np.broadcast_to(g["timestep"][:, None] / 1000, latents.shape[:2])
    text = TextStates(g["encoder_hidden_states"][:, 0], g["encoder_attention_mask"] > 0)
    out = pipe.velocity(latents, t, text, loras=loras)
    np.testing.assert_allclose(out, channels_last(g[f"output_{name}"]), atol=1e-4, rtol=0)
    if name == "base":
        np.testing.assert_allclose(out, channels_last(g["output_after_disable"]), atol=1e-4, rtol=0)
