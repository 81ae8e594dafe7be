"""Plans: their arithmetic by hand, and the command, which compiles a full-size step on virtual devices."""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.flops import forward_flops
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.remat import Remat
from lcv_jax.parallel import plan_devices, plan_tasks, plan_traffic
from lcv_jax.parallel.__main__ import main
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.plan import Asked, estimate, step_flops
from lcv_jax.parallel.plan_compile import Compiled, measure, needed_bytes, target
from lcv_jax.parallel.plan_devices import DEVICES
from lcv_jax.parallel.plan_report import Report, lines
from lcv_jax.parallel.plan_residuals import TracedAttention, residuals
from lcv_jax.parallel.plan_search import choose
from lcv_jax.parallel.plan_tasks import TASKS, TEXT_TOKENS
from lcv_jax.parallel.plan_traffic import Block, Repeated, Traffic
from lcv_jax.parallel.rules import SAMPLING, TRAINING

ROOT = pathlib.Path(__file__).parents[2]
MODEL = zoo.ARCHITECTURES["longcat-13b"]
H100 = DEVICES["h100-80gb"]
PARAMETERS = 13_581_071_424


def asked(task, mesh="data=1", device="h100-80gb", remat=Remat.FULL, **more):
    config = MeshConfig.parse(mesh)
    found = Asked("longcat-13b", TASKS[task], config, DEVICES[device], 0, remat, **more)
    return dataclasses.replace(found, batch=found.cut.batch)


class TestTasks:
    @pytest.mark.parametrize(
        ("task", "latents", "tokens"),
        [
            ("t2v-480p", (24, 60, 104), 37_440),
            ("refine-720p", (48, 88, 160), 168_960),
            ("train-256p", (24, 32, 32), 6_144),
            ("train-480p", (24, 60, 104), 37_440),
            ("train-720p", (24, 88, 160), 84_480),
        ],
    )
    def test_sizes_are_the_published_ones(self, task, latents, tokens):
        assert TASKS[task].latents(MODEL) == latents
        assert math.prod(TASKS[task].grid(MODEL)) == tokens

    def test_refinement_keeps_165_of_2640_key_blocks(self):
        assert TASKS["refine-720p"].kept(MODEL) == 165 / 2640
        assert TASKS["t2v-480p"].kept(MODEL) == 1

    def test_a_model_without_sparse_attention_cannot_be_planned_with_it(self):
        plain = dataclasses.replace(MODEL, dit=dataclasses.replace(MODEL.dit, bsa_params=None))
        with pytest.raises(InputError, match="refine-720p: the model's config tells no sparsity"):
            TASKS["refine-720p"].kept(plain)


class TestDevices:
    def test_a_gpu_keeps_a_tenth_in_reserve_and_a_tpus_compiler_its_own(self):
        assert H100.usable == 72e9
        assert DEVICES["tpu-v5p"].usable == 95 * 2**30

    @pytest.mark.parametrize(
        ("device", "count", "name"),
        [
            ("tpu-v5p", 64, "v5p:4x4x4"),
            ("tpu-v5p", 8, "v5p:2x2x2"),
            ("tpu-v5p", 128, "v5p:4x4x8"),
            ("tpu-v6e", 32, "v6e:4x8"),
        ],
    )
    def test_slices_are_as_near_to_a_cube_as_they_can(self, device, count, name):
        assert DEVICES[device].topology(count) == name

    @pytest.mark.parametrize("count", [2, 12])
    def test_what_is_no_slice_raises(self, count):
        with pytest.raises(InputError, match=f"{count} devices are no slice of a TPU"):
            DEVICES["tpu-v5p"].topology(count)


class TestMemory:
    def test_training_holds_sixteen_bytes_a_parameter_over_what_cuts_them(self):
        whole = estimate(asked("train-256p")).memory
        assert whole.params == whole.gradients == 4 * PARAMETERS
        assert whole.optimizer == 8 * PARAMETERS
        assert estimate(asked("train-256p", ema=1)).memory.ema == 4 * PARAMETERS
        for mesh in ("fsdp=8", "context=8", "fsdp=2,context=4"):
            cut = estimate(asked("train-256p", mesh)).memory
            assert whole.params / 8 < cut.params < 1.01 * whole.params / 8  # vectors are whole everywhere
        assert estimate(asked("train-256p", "data=8")).memory.params == whole.params

    def test_full_remat_keeps_the_stream_of_every_block(self):
        stream = 2 * MODEL.dit.hidden_size * 6_144 * MODEL.dit.depth
        kept = [estimate(asked("train-256p", remat=remat)).memory.activations for remat in Remat]
        by_name = dict(zip(Remat, kept, strict=True))
        assert stream < by_name[Remat.FULL] < 1.3 * stream
        assert by_name[Remat.FULL] < by_name[Remat.ATTENTION] < by_name[Remat.DOTS] < by_name[Remat.NONE]

    def test_tokens_cut_over_context_divide_activations(self):
        one, eight = (estimate(asked("train-720p", mesh)).memory for mesh in ("data=1", "context=8"))
        assert eight.activations == pytest.approx(one.activations / 8, rel=0.02)

    def test_sampling_holds_all_three_models_in_bfloat16(self):
        config = (MODEL.dit, MODEL.text_encoder, MODEL.vae)
        leaves = [leaf for c in config for leaf in jax.tree.leaves(zoo.abstract_params(c, BFLOAT16))]
        memory = estimate(asked("t2v-480p")).memory
        assert memory.params == sum(2 * math.prod(leaf.shape) for leaf in leaves)
        assert memory.gradients == memory.optimizer == 0


class TestResiduals:
    """What a float32 block keeps, in arrays as wide as the model: worked out by reading the block."""

    MODEL = DiT(MODEL.dit, FLOAT32, TracedAttention(), TracedAttention("text"))
    WIDTH = 4 * 4096

    def test_full_remat_keeps_one_array(self):
        layer, _ = residuals(self.MODEL.clone(remat=Remat.FULL))
        assert (layer.cut, layer.whole) == (0, pytest.approx(self.WIDTH))

    def test_attention_adds_its_output(self):
        layer, _ = residuals(self.MODEL.clone(remat=Remat.ATTENTION))
        log_sum_exps = 4 * MODEL.dit.num_heads
        assert layer.cut == pytest.approx(self.WIDTH, abs=2 * log_sum_exps)

    def test_heads_and_inner_widths_are_cut_and_the_stream_is_not(self):
        layer, _ = residuals(self.MODEL)
        inner = 5 * 4 * MODEL.dit.ffn_size  # w1 x, its sigmoid and product, w3 x, and their product
        assert layer.cut > inner
        assert layer.bytes(100, 0, 4) == pytest.approx(100 * (layer.cut / 4 + layer.whole), abs=1)


class TestFlops:
    def test_one_device_computes_the_forward_pass_once_for_each_row(self):
        grid = TASKS["t2v-480p"].grid(MODEL)
        least = forward_flops(MODEL.dit, Geometry(grid), TEXT_TOKENS, batch=2)
        assert step_flops(asked("t2v-480p")) == pytest.approx(least)

    def test_devices_share_the_work_but_for_padding_and_text(self):
        one, eight = (step_flops(asked("t2v-480p", mesh)) for mesh in ("data=1", "context=8"))
        assert one / 8 < eight < 1.02 * one / 8

    def test_training_runs_forward_twice_and_backward_for_twice_as_much(self):
        grid = TASKS["train-720p"].grid(MODEL)
        forward = forward_flops(MODEL.dit, Geometry(grid), TEXT_TOKENS)
        attention = 4 * MODEL.dit.hidden_size * math.prod(grid) ** 2 * MODEL.dit.depth
        full = step_flops(asked("train-720p"))
        assert full == pytest.approx(4 * forward + attention / 2)
        kept = step_flops(asked("train-720p", remat=Remat.ATTENTION))
        assert full - kept == pytest.approx(attention)


class TestTraffic:
    BLOCK = Block(weights=800.0, stream=100.0, inner=100.0, heads=8, depth=2)

    def sent(self, traffic, mesh):
        return plan_traffic.sent_by_kind(traffic, mesh)

    def test_sampling_gathers_weights_once_and_changes_tokens_for_heads_four_times(self):
        mesh = MeshConfig(fsdp=2, context=2)
        sent = self.sent(plan_traffic.sampling(self.BLOCK, mesh, SAMPLING), mesh)
        assert sent == {"all-gather": 2 * 400, "all-to-all": 2 * 4 * 100 * 3 / 4}

    def test_where_heads_do_not_divide_keys_and_values_go_around(self):
        mesh = MeshConfig(context=3)
        sent = self.sent(plan_traffic.sampling(self.BLOCK, mesh, SAMPLING), mesh)
        assert sent == {"collective-permute": 2 * 2 * 200}

    def test_training_gathers_twice_and_scatters_gradients(self):
        mesh = MeshConfig(data=2, fsdp=2)
        sent = self.sent(plan_traffic.training(self.BLOCK, mesh, TRAINING, Repeated.under(Remat.FULL)), mesh)
        assert sent == {"all-gather": 2 * 2 * 400, "reduce-scatter": 2 * 400, "all-reduce": 2 * 400}

    def test_weights_cut_over_context_too_are_gathered_and_scattered_there(self):
        mesh, rules = MeshConfig(fsdp=2, context=2), dataclasses.replace(TRAINING, embed=("fsdp", "context"))
        sent = self.sent(plan_traffic.training(self.BLOCK, mesh, rules, Repeated.under(Remat.FULL)), mesh)
        weights = {"all-gather": 2 * 2 * 600, "reduce-scatter": 2 * 600}
        assert sent == weights | {"all-to-all": 2 * 12 * 100 / 2}

    def test_tensor_parallelism_sums_after_every_part_of_a_block(self):
        mesh = MeshConfig(tensor=2)
        sent = self.sent(plan_traffic.training(self.BLOCK, mesh, TRAINING, Repeated.under(Remat.FULL)), mesh)
        assert sent == {"all-reduce": 2 * 9 * 100}

    def test_kept_attention_is_not_exchanged_whole_again(self):
        mesh = MeshConfig(context=2)
        runs = {
            remat: self.sent(plan_traffic.training(self.BLOCK, mesh, TRAINING, Repeated.under(remat)), mesh)[
                "all-to-all"
            ]
            for remat in Remat
        }
        once = 2 * 100 / 2
        assert runs == {"none": 8 * once, "dots": 12 * once, "attention": 11 * once, "full": 12 * once}

    @pytest.mark.parametrize(
        ("mesh", "axes", "seconds"),
        [
            (MeshConfig(fsdp=8), ("fsdp",), 7 * 1e9 / H100.link),
            # Two nodes: half of what is gathered comes from the other one, through eight ports, in 20 ms; what is
            # passed on inside a node takes longer.
            (MeshConfig(fsdp=16), ("fsdp",), 15 * 1e9 / H100.link),
            # One member of the group in each node.
            (MeshConfig(data=2, fsdp=8), ("data",), 1e9 / H100.network),
            (MeshConfig(data=2, fsdp=8), ("context",), 0),
        ],
    )
    def test_an_all_gather_takes_as_long_as_the_slowest_link(self, mesh, axes, seconds):
        assert Traffic("x", "all-gather", 1e9, axes, 1).seconds(mesh, H100) == pytest.approx(seconds)

    def test_other_collectives_between_nodes(self):
        mesh, sixteen = MeshConfig(context=16), ("context",)
        ring = Traffic("x", "collective-permute", 1e9, sixteen, 15).seconds(mesh, H100)
        assert ring == pytest.approx(15e9 / H100.network)
        exchanged = Traffic("x", "all-to-all", 16e9, sixteen, 1).seconds(mesh, H100)
        assert exchanged == pytest.approx(8e9 / H100.network)
        slow = dataclasses.replace(H100, network=1e9)
        summed = Traffic("x", "all-reduce", 16e9, sixteen, 1).seconds(mesh, slow)
        assert summed == pytest.approx(2 * 16e9 / 2 / 8 / slow.network)


class TestChoice:
    def test_the_chosen_mesh_fits_and_none_that_fits_is_faster(self):
        found = choose(asked("train-480p"), 8)
        assert Report(found, estimate(found)).fits
        assert found.batch == found.cut.batch

        def seconds(plan):
            step = estimate(plan)
            return (step.compute_seconds(H100) + step.traffic_seconds(plan.mesh, H100)) / plan.batch

        for mesh in ("context=8", "fsdp=8", "fsdp=4,context=2", "fsdp=2,tensor=4"):
            other = asked("train-480p", mesh)
            assert not Report(other, estimate(other)).fits or seconds(found) <= seconds(other)

    def test_more_than_a_node_samples_more_videos(self):
        found = choose(asked("t2v-480p"), 64)
        assert found.mesh.data == found.batch == 8

    def test_the_largest_training_shape_fits_on_64_devices_of_80_gb_but_not_on_one(self):
        for count, fits in ((1, False), (64, True)):
            found = choose(asked("train-720p"), count)
            assert Report(found, estimate(found)).fits is fits

    def test_only_powers_of_two_are_chosen_for(self):
        with pytest.raises(InputError, match="--devices 12: a mesh is chosen for powers of two"):
            choose(asked("t2v-480p"), 12)


def test_a_compiled_step_is_read():
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    found = measure(jax.jit(lambda x: jnp.tanh(x @ x) @ x).lower(x), "here")
    assert isinstance(found, Compiled)
    assert (found.flops, found.arguments, found.sent) == (2 * 2 * 64**3, 4 * 64 * 64, {})


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (33.54G) "
            "exceeds available HBM (15.75G).",
            int(33.54 * 2**30),
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.5G of 15.75G hbm.", int(24.5 * 2**30)),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 512.00M of 128M vmem.", None),
        ("INTERNAL: Used 24.5G of 15.75G hbm.", None),
        ("RESOURCE_EXHAUSTED: too many attempts", None),
    ],
)
def test_a_compilers_refusal_tells_what_it_wanted(message, needed):
    assert needed_bytes(message) == needed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task t2v --device h100-80gb --mesh fsdp=8", "--task 't2v' is not known: expected one of t2v-480p, refine"),
        ("--task t2v-480p --device h100 --mesh fsdp=8", "--device 'h100' is not known: expected one of h100-80gb"),
        (
            "--task t2v-480p --device h100-80gb --mesh fsdp=8 --model x",
            "--model 'x' is not known: expected one of long",
        ),
        ("--task t2v-480p --device h100-80gb --mesh fspd=8", "axis 'fspd' is not known"),
        ("--task t2v-480p --device h100-80gb", "give either --mesh, such as fsdp=8,context=8, or --devices"),
        ("--task t2v-480p --device h100-80gb --mesh fsdp=2 --devices 8", "give either --mesh, such as"),
        ("--task t2v-480p --device h100-80gb --mesh context=2 --batch -1", "--batch -1: expected at least 1"),
        ("--task t2v-480p --device h100-80gb --mesh context=2 --batch 0", "--batch 0: expected at least 1"),
        ("--task t2v-480p --device h100-80gb --devices -8", "--devices -8: expected at least 1"),
        ("--task t2v-480p --device h100-80gb --mesh context=100000000", "expected at most 65536 devices"),
        ("--task t2v-480p --device h100-80gb --mesh fsdp=-1", "expected the size of every axis"),
        ("--task t2v-480p --device h100-80gb --mesh tensor=3", "tensor=3 does not divide the 32 heads"),
        ("--task train-256p --device h100-80gb --mesh data=2,fsdp=2 --batch 6", "cuts the batch over data and fsdp"),
        ("--task train-256p --device h100-80gb --mesh fsdp=2 --remat some", "remat 'some' is not known"),
        ("--task t2v-480p --device h100-80gb --mesh fsdp=2 --out plan.txt", "expected a name that ends in .json"),
        ("--task t2v-480p --device tpu-v5p --mesh fsdp=3", "3 devices are no slice of a TPU"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("lcv_jax.parallel.__main__._start_backend", lambda *_: None)  # this process has its backend
    assert main(["plan", *arguments.split(" ")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_a_tpu_without_its_compiler_is_one_line():
    with pytest.raises(InputError, match=r"--device tpu-v5p: no compiler for v5p:2x2x2: install libtpu"):
        target(asked("t2v-480p", "fsdp=8", "tpu-v5p"))


def test_what_does_not_fit_says_so():
    found = asked("train-720p", "fsdp=8")
    text = "\n".join(lines(Report(found, estimate(found))))
    assert "fits: no" in text
    assert re.search(r"bytes per device: 12\d\.\d\d GB of 72\.00 GB usable", text)


def planned(folder, arguments):
    """What the command writes; it runs alone, because it chooses the number of devices."""
    out = folder / "plan.json"
    done = subprocess.run(
        [sys.executable, "-m", "lcv_jax.parallel", "plan", *arguments.split(" "), "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()) | {"printed": done.stdout}


def test_the_command_compiles_a_full_size_step_for_eight_devices(tmp_path):
    """Arithmetic and compiler agree on what 8 devices compute and send, and about on what they hold."""
    plan = planned(tmp_path, "--task t2v-480p --mesh fsdp=4,context=2 --device h100-80gb")
    assert "fits: yes" in plan["printed"].splitlines()
    assert "bytes per device: 12." in plan["printed"]
    assert "arithmetic, bfloat16, fused attention" in plan["printed"]
    compiled = plan["compiled"]
    assert plan["tokens"] == 2 * 37_440 // 8
    assert plan["expected_flops"] == pytest.approx(compiled["flops"], rel=0.01)
    assert 0.8 < plan["expected_temporaries"] / compiled["temporaries"] < 1.5
    # float32 is twice as wide as what the plan counts.
    assert 2 * plan["expected_sent"]["all-to-all"] == pytest.approx(compiled["sent"]["all-to-all"], rel=0.01)
    assert 2 * plan["expected_sent"]["all-gather"] == pytest.approx(compiled["sent"]["all-gather"], rel=0.25)


def test_the_table_of_tasks_and_devices_raises_for_others():
    with pytest.raises(InputError, match="--task 'x' is not known"):
        plan_tasks.named("x")
    with pytest.raises(InputError, match="--device 'x' is not known"):
        plan_devices.named("x")


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp=2,context=2,tensor=2", "data=2,fsdp=2,context=2"])
def test_a_training_step_of_full_size_computes_and_sends_what_arithmetic_says(tmp_path, mesh):
    plan = planned(tmp_path, f"--task train-256p --mesh {mesh} --device h200-141gb")
    compiled = plan["compiled"]
    assert plan["expected_flops"] == pytest.approx(compiled["flops"], rel=0.02)
    assert 0.7 < plan["expected_temporaries"] / compiled["temporaries"] < 1.5
    assert 2 * sum(plan["expected_sent"].values()) == pytest.approx(sum(compiled["sent"].values()), rel=0.2)
