"""Every recipe is what the report says, can be changed from the command line, and a run tells when it is another's."""

import dataclasses
import json
import subprocess
import sys

import pytest

import caches
import devices
from lcv_jax.data.batching import batch_size
from lcv_jax.data.sizes import Sizes
from lcv_jax.errors import InputError
from lcv_jax.models.lora import CFG_STEP_LINEARS, REFINEMENT_LINEARS
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.train import build
from lcv_jax.train.config import SparseConfig, TrainConfig, keep, read_recipe

CONFIGS = sorted(path for path in (devices.ROOT / "configs").glob("*.py") if "curation" not in path.stem)
# SPEC 8: tasks, sizes, rate, iterations.
REPORT = {
    "stage1": ("images", {"256p"}, 1e-4, 285_000),
    "stage2": ("images t2v", {"256p"}, 1e-4, 140_000),
    "stage3": ("images t2v i2v vc", {"256p"}, 5e-5, 164_000),
    "stage4": ("images t2v i2v vc", {"480p"}, 5e-5, 36_000),
    "stage5": ("images t2v i2v vc", {"480p", "720p"}, 2e-5, 53_000),
    "sft": ("images t2v i2v vc", {"480p", "720p"}, 1e-5, 7_500),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_tells_what_it_is(path):
    config, about = read_recipe(path)
    for word in ("python train.py configs/" + path.name, "Hardware:", "Time:", "Expected:"):
        assert word in about
    assert "ever run" in about or "Not run yet" in about or "measured" in about
    if isinstance(config, TrainConfig):
        assert len(config.data.weights) == len(config.data.paths)
    assert config.to_json() == {"trains": config.trains} | json.loads(json.dumps(dataclasses.asdict(config)))


@pytest.mark.parametrize("name", REPORT)
def test_stages_have_the_reports_numbers(name):
    config, _ = read_recipe(devices.ROOT / f"configs/{name}.py")
    tasks, sizes, rate, steps = REPORT[name]
    assert (config.optimizer.rate, config.steps) == (rate, steps)
    assert {path.split("-")[-1] for path in config.data.paths} == sizes
    assert any("images" in path for path in config.data.paths) == ("images" in tasks)
    shares = config.data.batches.tasks
    assert (shares.i2v > 0) == ("i2v" in tasks)
    assert (shares.vc > 0) == ("vc" in tasks)
    assert (config.objective.condition_noise.probability > 0) == ("vc" in tasks)


@pytest.mark.parametrize(("name", "steps"), [("cfg_distill", 2_000), ("consistency", 3_000)])
def test_distillations_have_the_reports_numbers(name, steps):
    config, _ = read_recipe(devices.ROOT / f"configs/{name}.py")
    toy, _ = read_recipe(devices.ROOT / f"configs/toy_{name}.py")
    assert (config.optimizer.rate, config.steps) == (5e-5, steps)
    assert (config.lora.rank, config.lora.alpha, config.lora.modules) == (128, 64, CFG_STEP_LINEARS)
    assert config.lora.alpha / config.lora.rank == toy.lora.alpha / toy.lora.rank
    assert (config.objective.shift, toy.objective.shift) == (12, 3)
    for one in (config, toy):
        shares = one.data.batches.tasks
        assert min(shares.t2v, shares.i2v, shares.vc) > 0
        assert (one.init_lora is not None) == (name == "consistency")
        assert all(getattr(one, build._READ[tree][0]) is not None for tree in one.objective.reads)


def test_refinement_has_the_reports_numbers():
    """Dense, then block sparse behind it; blocks are those that the model is sampled with."""
    for world, rank in (("", 128), ("toy_", 16)):
        dense, sparse = (
            read_recipe(devices.ROOT / f"configs/{world}{name}.py")[0] for name in ("refine", "refine_bsa")
        )
        assert (dense.attention, dense.init_lora) == (None, None)
        assert sparse.init_lora.endswith(f"/checkpoints/{dense.steps}")
        bsa = sparse.model.bsa_params
        assert sparse.attention == SparseConfig(bsa.chunk_3d_shape_q, bsa.sparsity)
        assert bsa.sparsity == 0.9375
        for config in (dense, sparse):
            assert (config.lora.rank, config.lora.alpha) == (rank, rank / 2)
            assert config.lora.modules == REFINEMENT_LINEARS
            assert config.objective.t_thresh == 0.5
    published = [read_recipe(devices.ROOT / f"configs/{name}.py")[0] for name in ("refine", "refine_bsa")]
    assert [(config.optimizer.rate, config.steps) for config in published] == [(5e-5, 500)] * 2


def command(*args):
    program = [sys.executable, "train.py", *map(str, args)]
    return subprocess.run(program, cwd=devices.ROOT, env=devices.environment(), capture_output=True, text=True)


def test_help_tells_the_keys_and_unknown_ones_are_refused():
    shown = command("configs/toy_laptop.py", "--help").stdout
    assert "--optimizer.rate" in shown
    assert "--data.batches.tokens" in shown
    refused = command("configs/toy_laptop.py", "--out", "x", "--optimizer.speed", "3")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert "Unrecognized options: --optimizer.speed" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    refused = command("configs/toy_laptop.py", "--out", "x", "--optimizer.rate", "-1")
    assert refused.returncode == 2
    assert "rate=-1.0: expected a number above 0" in refused.stderr


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "no such recipe: expected a Python file such as configs/toy"),
        ("x = 1", "recipe.py: cannot be run .AttributeError"),
        ("import nothing_here", "recipe.py: cannot be run .ModuleNotFoundError"),
        (
            "from lcv_jax.data.clip_batches import ClipSet\ndef config(): return ClipSet('toy:1', '32x32x1', size=3)",
            "recipe.py: cannot be run .TypeError: .*unexpected keyword argument 'size'",
        ),
        ("def config(): return 3", r"config\(\) gave int, expected one of a run"),
        ("from lcv_jax.train.optimizer import AdamW\nAdamW(rate=0)", "optimizer, rate=0: expected a number above 0"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, match):
    path = tmp_path / "recipe.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_recipe(path)


def test_a_resumed_run_says_what_changed(tmp_path):
    config, _ = read_recipe(devices.ROOT / "configs/toy_laptop.py")
    keep(tmp_path, config, resumed=False)
    data = dataclasses.replace(config.data, paths=("elsewhere",), threads=1)
    model = dataclasses.replace(config.model, bsa_params=None)
    keep(tmp_path, dataclasses.replace(config, steps=5, mesh="fsdp=2", model=model, data=data), resumed=True)
    other = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, rate=2e-4), seed=4)
    with pytest.raises(
        InputError, match=r"optimizer/rate was 0.001, is 0.0002; seed was 0, is 4; choose another --out"
    ):
        keep(tmp_path, other, resumed=True)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(InputError, match=r"config.json: cannot be read"):
        keep(tmp_path, config, resumed=True)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config.json: expected a JSON object"):
        keep(tmp_path, config, resumed=True)


@pytest.mark.parametrize("name", [*REPORT, "lora", "cfg_distill"])
def test_batches_of_every_size_fit_the_mesh(name):
    """And hold most of the tokens asked for, in pictures as in clips of 93 frames."""
    config, _ = read_recipe(devices.ROOT / f"configs/{name}.py")
    mesh = MeshConfig.parse(config.mesh)
    copies = 1 if -1 in mesh.sizes.values() else mesh.data * mesh.fsdp
    for resolution in REPORT.get(name, (None, {"480p"}))[1]:
        for height, width in Sizes.of(resolution).sizes:
            for frames in (1, 24):
                form = (frames, height // 8, width // 8)
                size = batch_size(form, (1, 2, 2), config.data.batches.tokens, config.data.batches.multiple)
                assert size % (copies * config.accumulate) == 0
                each = frames * (height // 16) * (width // 16)
                assert 0.45 < size * each / config.data.batches.tokens < 1.15


@pytest.mark.slow
def test_the_published_model_is_planned_on_64_devices(tmp_path):
    """Everything up to the weights, on virtual devices: shapes, shardings, batches that divide."""
    encoding = dataclasses.replace(caches.ENCODING, text_width=4096, max_text_tokens=512)
    images = caches.dataset(tmp_path / "images", [(1, 60, 104)], encoding=encoding)
    videos = caches.dataset(tmp_path / "videos", [(24, 60, 104)], encoding=encoding)
    args = ["configs/stage4.py", "--out", tmp_path / "run", "--dry-run", "--data.paths", images, videos]
    program = [sys.executable, "train.py", *map(str, args), "--checkpoint", "None", "--init", "None"]
    env = devices.environment(64)
    done = subprocess.run(program, cwd=devices.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "13,581,071,424 parameters trained; mesh data=1, fsdp=64, context=1, tensor=1; 36,000 steps" in done.stdout
    assert "64 x 24x60x104 vc behind 4: 2,396,160 tokens" in done.stdout
    assert "0:1x60x104 0.250, 1:24x60x104 0.750" in done.stdout
    assert not (tmp_path / "run").exists()
