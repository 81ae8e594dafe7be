"""What must hold for any weights: seeds, batches, sizes, and clear refusals."""

import re

import numpy as np
import PIL.Image
import pytest

from lcv_jax import Pipeline, TextStates
from lcv_jax.checkpoint import convert
from lcv_jax.data import images
from lcv_jax.errors import InputError
from lcv_jax.sample import memory, opened

SMALL = {"size": (32, 48), "num_frames": 5, "steps": 2, "max_text_tokens": 16}


def clip(frames, height=40, width=56):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_a_video_depends_on_its_seed_and_not_on_its_batch(pipe):
    run = {**SMALL, "output": "latents"}
    both = pipe.text_to_video(["a cat", "a dog"], seed=3, **run)
    again = pipe.text_to_video(["a cat", "a dog"], seed=3, **run)
    np.testing.assert_array_equal(both, again)
    alone = pipe.text_to_video("a dog", seed=4, **run)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)
    assert np.abs(pipe.text_to_video("a dog", seed=5, **run) - alone).max() > 0.1


@pytest.mark.parametrize("posterior", ["mode", "sample"])
def test_continuations_of_a_batch_are_alone_too(pipe, posterior):
    run = {**SMALL, "num_frames": 9, "num_cond_frames": 5, "enhance_hf": False, "posterior": posterior}
    run["output"] = "latents"
    video = clip(6)
    both = pipe.continue_video(video, ["a cat", "a dog"], seed=[1, 2], **run)
    alone = pipe.continue_video(video, "a dog", seed=2, **run)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)
    condition_differs = np.abs(both[0, :2] - both[1, :2]).max() > 1e-3
    assert condition_differs == (posterior == "sample")


def test_frames_come_out_as_bytes_of_the_right_size(pipe):
    frames = pipe.text_to_video("a cat", guidance=1, **SMALL)
    assert frames.dtype == np.uint8
    assert frames.shape == (1, 5, 32, 48, 3)
    image = pipe.text_to_video("a cat", guidance=1, **(SMALL | {"num_frames": 1}))
    assert image.shape == (1, 1, 32, 48, 3)


def test_an_image_may_be_pil_or_bytes_and_sets_the_size(pipe):
    pixels = clip(1)[0]
    options = SMALL | {"output": "latents", "posterior": "mode"}
    a = pipe.image_to_video(pixels, "a cat", **options)
    b = pipe.image_to_video(PIL.Image.fromarray(pixels), "a cat", **options)
    np.testing.assert_array_equal(a, b)


def test_given_noise_is_not_modified(pipe):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1, 3, 4, 6, 16)).astype(np.float32)
    before = noise.copy()
    run = {**SMALL, "num_frames": 9, "num_cond_frames": 5, "output": "latents", "latents": noise}
    first = pipe.continue_video(clip(5), "a cat", **run)
    np.testing.assert_array_equal(noise, before)
    np.testing.assert_array_equal(first, pipe.continue_video(clip(5), "a cat", **run))


def test_frames_not_4n_plus_1_are_rounded_with_a_warning(pipe, caplog):
    out = pipe.text_to_video("a cat", guidance=1, output="latents", **(SMALL | {"num_frames": 6}))
    assert out.shape[1] == 2
    assert "6" in caplog.text


def test_a_cancelled_run_stops_at_once(pipe):
    class Stop(Exception):
        pass

    seen = []

    def on_step(step):
        seen.append(step.index)
        raise Stop

    with pytest.raises(Stop):
        pipe.text_to_video("a cat", on_step=on_step, **SMALL)
    assert seen == [0]


def test_bfloat16_runs_and_stays_near(checkpoint_dir, pipe):
    low = Pipeline.from_pretrained(checkpoint_dir, dtype="bfloat16")
    run = {**SMALL, "output": "latents", "guidance": 1}
    exact, ours = (p.text_to_video("a cat", **run) for p in (pipe, low))
    assert ours.dtype == np.float32
    assert np.abs(ours - exact).mean() < 0.05 * exact.std()


def test_adapters_can_be_scaled_and_are_named(pipe, checkpoint_dir):
    z, t = np.ones((1, 1, 4, 4, 16), np.float32), np.full((1, 1), 0.5, np.float32)
    text = pipe.encode_prompt("a cat", 8)
    file = checkpoint_dir / "lora" / "cfg_step_lora.safetensors"
    pipe.load_lora(file, "none", scale=0.0)
    pipe.load_lora(file, "half", scale=0.5)
    base = pipe.velocity(z, t, text)
    np.testing.assert_allclose(base, pipe.velocity(z, t, text, loras=("none",)), atol=1e-5)
    assert np.abs(base - pipe.velocity(z, t, text, loras=("half",))).max() > 1e-3
    with pytest.raises(InputError, match="LoRA 'mine' is not loaded"):
        pipe.velocity(z, t, text, loras=("mine",))


def test_bytes_made_on_the_device_are_the_hosts(pipe):
    latents = np.random.default_rng(0).normal(size=(2, 2, 4, 6, 16)).astype(np.float32)
    floats = np.concatenate([pipe.decode_video(row[None]) for row in latents])
    np.testing.assert_array_equal(pipe.frames(latents), images.to_uint8(floats))


def test_a_result_that_is_not_finite_is_refused(pipe, checkpoint_dir):
    pipe.load_lora(checkpoint_dir / "lora" / "cfg_step_lora.safetensors", "broken", scale=float("nan"))
    with pytest.raises(InputError, match="sampling gave NaN or infinity"):
        pipe.text_to_video("a cat", loras="broken", guidance=1, **SMALL)


def test_our_layout_gives_the_same_bits(pipe, checkpoint_dir, tmp_path):
    convert.import_checkpoint(checkpoint_dir, tmp_path / "ours", dtype="keep")
    ours = Pipeline.from_pretrained(tmp_path / "ours", dtype="float32")
    run = {**SMALL, "output": "latents", "distilled": True, "num_frames": 1}
    np.testing.assert_array_equal(ours.text_to_video("a cat", **run), pipe.text_to_video("a cat", **run))


def test_the_readmes_example_runs(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    (block,) = re.findall(r"```python\n(.*?)```", (request.config.rootpath / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(block, names)
    assert names["video"].shape == names["frames"].shape
    assert names["v"].shape == names["z"].shape


def test_an_empty_prompt_is_encoded(pipe):
    text = pipe.encode_prompt("", 8)
    assert text.mask.sum() == 1
    assert text.states.shape == (1, 8, 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.text_to_video("a", **(SMALL | {"size": (30, 48)})), "30"),
        (lambda p: p.text_to_video("a", latents=np.zeros((1, 2, 4, 5, 16)), **SMALL), "latents of shape"),
        (lambda p: p.image_to_video(clip(2), "a", **SMALL), "2 frames given as an image"),
        (lambda p: p.image_to_video(clip(1)[0], "a", **(SMALL | {"num_frames": 1})), "leaves nothing to generate"),
        (lambda p: p.image_to_video(np.zeros((1, 1, 3), np.uint8), "a", **SMALL), "1 x 1"),
        (lambda p: p.image_to_video(clip(1)[0] / 255.0, "a", **SMALL), "uint8"),
        (lambda p: p.continue_video(clip(4), "a", num_cond_frames=5, **SMALL), "4 frames, fewer than"),
        (lambda p: p.continue_video(clip(6), "a", num_cond_frames=6, **SMALL), "6 frames cannot be encoded"),
        (lambda p: p.continue_video(clip(6), "a", num_cond_frames=5, **SMALL), "leaves nothing to generate"),
        (lambda p: p.continue_video(clip(13), "a", enhance_hf=True, distilled=True, **SMALL), "cannot be combined"),
        (lambda p: p.continue_video(clip(9), "a", num_cond_frames=5.0, **SMALL), r"num_cond_frames=5\.0"),
        (lambda p: p.continue_video(clip(13), "a", kv_cache="no", **SMALL), "kv_cache='no'"),
        (lambda p: p.continue_video(clip(13), "a", enhance_hf="auto", **SMALL), "enhance_hf='auto'"),
        (lambda p: p.text_to_video([], **SMALL), "no prompt"),
        (lambda p: p.text_to_video(3, **SMALL), "prompt=3: expected a string"),
        (lambda p: p.text_to_video("a", loras=["mine"], **SMALL), "LoRA 'mine' is not loaded"),
        (lambda p: p.encode_video(np.zeros((1, 5, 16, 16, 3), np.float32), seed=-1), "seed=-1"),
        (lambda p: p.encode_video(np.zeros((1, 4, 16, 16, 3), np.float32)), "4 frames cannot be encoded"),
        (lambda p: p.encode_video(np.zeros((1, 5, 16, 16, 3), np.uint8)), "floats in"),
        (lambda p: p.encode_video(np.zeros((1, 5, 16, 16, 3), np.float32), posterior="mean"), "posterior='mean'"),
        (lambda p: p.text_to_video("a", latents=np.full((1, 2, 4, 6, 16), np.nan), **SMALL), "hold NaN"),
        (lambda p: p.decode_video(np.zeros((1, 2, 4, 6, 15))), r"expected \(B, T, h, w, 16\)"),
        (lambda p: p.text_to_video("caf\udce9", **SMALL), "no text"),
        (lambda p: p.velocity(np.zeros((1, 2, 4, 4, 16)), np.zeros(1), text(p)), r"expected \(B, T\)"),
        (lambda p: p.velocity(np.zeros((1, 2, 4, 4, 16)), np.zeros((1, 2)), text(p), sparse="config"), "sparse"),
        (lambda p: p.text_to_video("a", **(SMALL | {"size": (16384, 16384), "num_frames": 4001})), "device memory"),
    ],
)
def test_bad_calls_raise(pipe, call, message):
    with pytest.raises(InputError, match=message):
        call(pipe)


def text(pipe):
    return TextStates(np.zeros((1, 4, 64), np.float32), np.ones((1, 4), bool))


def test_weights_that_do_not_fit_are_not_read(checkpoint_dir, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    monkeypatch.setattr(opened, "load_params", None)
    with pytest.raises(InputError, match=r"checkpoint in float32 needs about .* use bfloat16"):
        Pipeline.from_pretrained(checkpoint_dir, dtype="float32")


def test_a_mesh_that_cannot_be_is_refused(checkpoint_dir):
    with pytest.raises(InputError, match="mesh fsdp=4 needs 4 devices, there are 1: make an axis smaller"):
        Pipeline.from_pretrained(checkpoint_dir, mesh="fsdp=4")
