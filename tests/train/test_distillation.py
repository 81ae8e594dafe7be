"""Both distillations as runs, one behind the other, up to the file that distilled sampling takes."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

import caches
import devices
import training
from dit_goldens import read_config, read_params
from lcv_jax.checkpoint import __main__ as checkpoints
from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.lora import load_lora
from lcv_jax.data.video import read_metadata, read_video
from lcv_jax.errors import InputError
from lcv_jax.models.layers import lora_collection
from lcv_jax.models.lora import BLOCK_LINEARS, CFG_STEP_LINEARS, LoRAConfig, init_lora
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.cfg_distill import CFGDistillation
from lcv_jax.objectives.consistency import Consistency
from lcv_jax.objectives.objective import Trees
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.train import command, samples
from lcv_jax.train.build import ADAPTER, DiTTraining
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.config import DataConfig, SampleConfig, keep, read_recipe
from lcv_jax.train.loop import End
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import create
from lcv_jax.train.step import jitted, make_step
from lcv_jax.train.weights import read_trained

ENCODING = dataclasses.replace(caches.ENCODING, text_width=64)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    with training.programs_kept(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory, checkpoint_dir):
    """Distillation of guidance, from the golden checkpoint's model; the data's empty prompt is the negative one."""
    base, _ = read_recipe(training.RECIPE)
    place = caches.dataset(tmp_path_factory.mktemp("data"), [(2, 4, 4)] * 7, encoding=ENCODING)
    return dataclasses.replace(
        base,
        model=read_config(checkpoint_dir),
        data=dataclasses.replace(base.data, paths=(place,)),
        objective=CFGDistillation(negative_prompt=""),
        lora=LoRAConfig(rank=2, alpha=1.0, modules=CFG_STEP_LINEARS),
        init=str(checkpoint_dir),
        steps=2,
        ema_decay=0.5,
    )


@pytest.fixture(scope="module")
def guided(config, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("cfg")
    assert command.train(config, str(run)) == (2, End.FINISHED)
    return run


@pytest.fixture(scope="module")
def behind(config, guided):
    return dataclasses.replace(
        config, objective=Consistency(phases=16), init_lora=str(guided / "checkpoints/2"), steps=4, save_every=2
    )


@pytest.fixture(scope="module")
def consistent(behind, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("consistency")
    assert command.train(behind, str(run)) == (4, End.FINISHED)
    return run


def adapters(config, run, step, weights="trained"):
    abstract = DiTTraining.of(config).abstract.trained
    return flatten(read_trained(run / f"checkpoints/{step}", abstract, weights)[ADAPTER])


def test_guidance_is_distilled_into_the_lora(config, guided):
    (first, second) = training.lines(guided)
    assert first["loss"] > 0
    assert second["grad_norm"] > 0
    assert len(first["error by step"]) == 10
    ups = [leaf for name, leaf in adapters(config, guided, 2).items() if name.endswith("up")]
    assert len(ups) == 7
    assert all(np.abs(leaf).max() > 0 for leaf in ups)


def test_teacher_and_student_begin_with_the_first_stages_mean(behind, config, guided):
    run = DiTTraining.of(behind)
    mean = adapters(config, guided, 2, "ema")
    for tree in (run.start().trained, run.given().reference):
        jax.tree.map(np.testing.assert_array_equal, flatten(tree[ADAPTER]), mean)
    last = adapters(config, guided, 2)
    assert any(not np.array_equal(mean[name], last[name]) for name in mean)


def test_the_teacher_stays_and_the_student_moves(behind, consistent, config, guided):
    mean = adapters(config, guided, 2, "ema")
    student = adapters(behind, consistent, 4)
    assert all(np.abs(student[name] - mean[name]).max() > 0 for name in mean if not name.endswith("scale"))
    assert all(line["loss"] > 0 for line in training.lines(consistent))


def test_a_run_that_was_stopped_goes_on_to_the_last_bit(behind, consistent, tmp_path):
    """With the running mean that targets are made of."""
    command.train(dataclasses.replace(behind, steps=2), str(tmp_path))
    command.train(behind, str(tmp_path))
    training.same(training.whole(behind, tmp_path, 4), training.whole(behind, consistent, 4))
    assert training.lines(tmp_path) == training.lines(consistent)


def test_the_file_is_what_distilled_sampling_takes(behind, consistent, checkpoint_dir, tmp_path):
    """Exported where a pipeline looks for it, it is active under its name, adds to others, and can be begun with."""
    own = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_dir, own)
    file = own / "lora/cfg_step_lora.safetensors"
    file.unlink()
    args = ["export", str(consistent / "checkpoints/4"), str(file), "--dtype", "float32"]
    assert checkpoints.main(args) == 0
    student = adapters(behind, consistent, 4, "ema")
    params = read_params(checkpoint_dir, behind.model)
    back = load_lora(file, params)
    jax.tree.map(np.testing.assert_array_equal, flatten(back), student)
    assert float(student["blocks/attn/qkv/scale"][0]) == 0.5

    pipe = Pipeline.from_pretrained(own, dtype="float32")
    rng = np.random.default_rng(0)
    z, states = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 2, 4, 4, 16), (1, 3, 64)))
    t, mask = np.float32([[0.5, 0.5]]), np.ones((1, 3), bool)
    refinement = load_lora(own / "lora/refinement_lora.safetensors", params, dtype=np.float32)
    variables = {"params": params, "lora": lora_collection({"cfg_step": back, "refinement": refinement})}
    stacked = pipe.velocity(z, t, TextStates(states, mask), loras=("cfg_step", "refinement"))
    np.testing.assert_allclose(stacked, jax.jit(pipe.dit.apply)(variables, z, t, states, mask), atol=1e-5)

    again = dataclasses.replace(behind, init_lora=str(file))
    jax.tree.map(np.testing.assert_array_equal, flatten(DiTTraining.of(again).start().trained[ADAPTER]), student)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lora": None}, "lora is not set: CFGDistillation trains adapters of the model that teaches it"),
        (
            {"objective": Consistency()},
            "init_lora is not set: Consistency has a teacher with the LoRA that the run begins with: give --init-lora",
        ),
        (
            {"objective": Consistency(), "init_lora": "x.safetensors", "ema_decay": None},
            "ema_decay is not set: Consistency learns from the running mean of what it trains",
        ),
        (
            {"objective": CFGDistillation()},
            "data: hold no states of the negative prompt 'overexposed .*--negative-prompt",
        ),
    ],
)
def test_what_is_missing_is_told_at_once(config, change, match):
    with pytest.raises(InputError, match=match):
        DiTTraining.of(dataclasses.replace(config, **change))


def test_what_does_not_fit_is_refused(config, behind, guided, checkpoint_dir, tmp_path):
    shifted = dataclasses.replace(config.objective, shift=3.0)
    with pytest.raises(InputError, match=r"trains for sampling with shift=3.0, .* has shift=12.0: expected the same"):
        DiTTraining.of(dataclasses.replace(config, objective=shifted, checkpoint=str(checkpoint_dir)))
    pretraining, _ = read_recipe(training.RECIPE)
    with pytest.raises(InputError, match="init_lora without lora"):
        DiTTraining.of(dataclasses.replace(pretraining, init_lora="x.safetensors"))
    wider = dataclasses.replace(behind, lora=dataclasses.replace(behind.lora, rank=3))
    with pytest.raises(InputError, match=r"has shape .*, expected .*: it is of another model"):
        DiTTraining.of(wider).start()
    file = str(checkpoint_dir / "lora/cfg_step_lora.safetensors")
    with pytest.raises(
        InputError, match=r"has shape .*, expected .*: it is a LoRA of another rank, or of other layers"
    ):
        DiTTraining.of(dataclasses.replace(behind, init_lora=file)).start()
    rank = load_lora(file, read_params(checkpoint_dir, config.model))["blocks"]["attn"]["proj"]["up"].shape[2]
    fits = dataclasses.replace(behind, init_lora=file, lora=LoRAConfig(rank=rank, modules=BLOCK_LINEARS))
    assert DiTTraining.of(fits).start().trained[ADAPTER]["blocks"]["attn"]["proj"]["up"].shape[2] == rank
    missing = str(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match=r"missing.safetensors: "):
        DiTTraining.of(dataclasses.replace(behind, init_lora=missing)).start()


@pytest.mark.slow
def test_samples_are_made_as_the_student_is_sampled(config, checkpoint_dir, tmp_path):
    """On the way, with the LoRA as it stands; clips are drawn and encoded while training."""
    prompts = ("A red circle.", "一颗星")
    live = dataclasses.replace(
        config,
        data=DataConfig(("toy:20 32x32x5",), dataclasses.replace(config.data.batches, text_tokens=32)),
        checkpoint=str(checkpoint_dir),
        samples=SampleConfig(
            every=2, prompts=prompts, height=32, width=32, frames=5, steps=2, guidance=1.0, distilled=True
        ),
    )
    command.train(live, str(tmp_path))
    training_run = DiTTraining.of(live)
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(training_run.abstract).state
    pipe = samples.pipeline_of(training_run, training_run.trees(state, training_run.given()))
    shown = {"size": (32, 32), "num_frames": 5, "max_text_tokens": 32, "steps": 2, "seed": 1, "output": "latents"}
    distilled, plain = (pipe.text_to_video(prompts[1], distilled=way, **shown) for way in (True, False))
    assert np.abs(distilled - plain).max() > 1e-3
    file = tmp_path / "samples/0000002/01.mp4"
    assert read_metadata(file)["distilled"] is True
    clip, *made = (np.float32(frames) for frames in (read_video(file).frames, *map(pipe.frames, (distilled, plain))))
    ours, other = (np.abs(clip - frames).mean() for frames in made)
    assert ours < other


@pytest.mark.slow
def test_a_student_learns_what_guidance_makes(config):
    """As far as an adapter of rank 4 can, of a network of random weights."""
    model = training.dit()
    params = training.awake(training.init(model))
    adam = AdamW(rate=1e-2, warmup=0, weight_decay=0).make()
    step = jitted(make_step(CFGDistillation(guidance=3.0, negative_prompt="").of(model), adam, trained="lora"))
    state = create({ADAPTER: init_lora(LoRAConfig(rank=4), params, jax.random.key(1))}, adam, jax.random.key(0))
    given = Trees(params=params, prompts={"negative": training.empty_prompt()})
    losses = []
    for _ in range(200):
        state, metrics = step(state, training.batch(0, 8), given)
        losses.append(float(metrics["loss"].value))
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])


def test_a_resumed_run_keeps_its_teacher(tmp_path):
    """Which it reads again; a run that only began with a LoRA does not."""
    for recipe, teaches in (("toy_consistency", True), ("toy_refine_bsa", False)):
        config, _ = read_recipe(devices.ROOT / f"configs/{recipe}.py")
        (tmp_path / recipe).mkdir()
        keep(tmp_path / recipe, config, resumed=False)
        other = dataclasses.replace(config, init_lora="other")
        if not teaches:
            keep(tmp_path / recipe, other, resumed=True)
            continue
        with pytest.raises(InputError, match=r"init_lora was .*, is 'other'"):
            keep(tmp_path / recipe, other, resumed=True)
