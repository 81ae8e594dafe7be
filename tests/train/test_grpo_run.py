"""Runs of GRPO: what an iteration does, what it leaves, and what is refused."""

import dataclasses
import functools
import json
import logging
import subprocess
import sys

import jax
import numpy as np
import pytest

import devices
import rewarded
import together
import training as shared
from lcv_jax.checkpoint import __main__ as checkpoints
from lcv_jax.checkpoint.lora import load_lora
from lcv_jax.data.video import read_metadata
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.lora import LoRAConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.objectives.grpo import GRPO, advantages
from lcv_jax.rewards.protocol import RewardSettings
from lcv_jax.sample.rollout import Exploration
from lcv_jax.train import command
from lcv_jax.train.config import keep, read_recipe
from lcv_jax.train.grpo import GRPOTraining
from lcv_jax.train.grpo_config import PromptConfig, RolloutConfig, ShownConfig
from lcv_jax.train.loop import End
from lcv_jax.train.prompts import read_prompts


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    with shared.programs_kept(tmp_path_factory.mktemp("programs")):
        yield


@pytest.mark.slow
def test_a_run_continues_as_if_nothing_had_been(tmp_path):
    """To the last bit, state and metrics; and leaves videos with their rewards, and a LoRA file."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = rewarded.config()
    assert command.train(config, str(whole)) == (2, End.FINISHED)
    command.train(dataclasses.replace(config, steps=1), str(parts))
    assert command.train(config, str(parts)) == (2, End.FINISHED)
    shared.same(shared.whole(config, parts, 2), shared.whole(config, whole, 2))
    assert rewarded.lines(parts) == rewarded.lines(whole)
    first, last = rewarded.lines(whole)
    assert {"loss", "kl", "ratio", "grad_norm", "dropped groups", "reward toy-text", "reward std toy-text"} <= set(last)
    assert first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["kl"] < 1e-9 < last["kl"]
    record = json.loads((whole / "metrics.jsonl").read_text().splitlines()[0])
    parts_of = [record[f"seconds {name}"] for name in ("rollout", "decoding", "rewards", "update")]
    assert record["seconds"] == pytest.approx(sum(parts_of), rel=1e-3)
    videos = sorted((whole / "samples/0000002").iterdir())
    assert [video.name for video in videos] == ["000-00.mp4", "000-01.mp4", "001-00.mp4"]
    told = read_metadata(videos[0])
    assert told["rewards"].keys() == {"toy-visual", "toy-text"}
    assert told["advantage"] == pytest.approx(-read_metadata(videos[1])["advantage"], abs=1e-6)
    exported = tmp_path / "a.safetensors"
    assert checkpoints.main(["export", str(whole / "checkpoints/2"), str(exported)]) == 0
    adapter = load_lora(exported, zoo.abstract_params(config.model, FLOAT32), dtype=np.dtype(np.float32))
    assert adapter["blocks"]["attn"]["qkv"]["down"].shape == (3, 128, 3 * 2)


@pytest.fixture(scope="module")
def run():
    """training, given, rounds, with a reward of contrast; of pictures, which are quick."""
    config, reward = rewarded.config(), rewarded.Contrast()
    config = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, frames=1))
    return *rewarded.rounds(config, reward), reward


def adapters(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.trained)]


def test_an_iteration(run):
    """What is told of rewards is what they said; each video is judged once, with its own prompt."""
    training, given, rounds, reward = run
    state, prompts = training.start(), next(training.feed)
    before = adapters(state)
    state, metrics = rounds(state, prompts, given)
    texts, scores = reward.told[-1]
    asked = [training.prompts[number] for number in np.asarray(prompts.numbers)]
    assert texts == [asked[0]] * 2 + [asked[1]] * 2
    assert float(metrics["reward contrast"].value) == pytest.approx(scores.mean(), rel=1e-5)
    assert float(metrics["reward std contrast"].value) == pytest.approx(scores.reshape(2, 2).std(1).mean(), rel=1e-3)
    # At the start there is no divergence, and every ratio is 1: the loss is that of advantages, which sum to 0.
    assert np.abs(advantages(scores.reshape(1, 2, 2), [1.0])).max() == pytest.approx(1, rel=1e-5)
    assert abs(float(metrics["loss"].value)) < 1e-3
    assert any((one != other).any() for one, other in zip(before, adapters(state), strict=True))
    assert int(state.step) == 1


def test_a_group_without_a_score_is_left_out_and_counted(run):
    training, given, rounds, reward = run
    prompts = next(training.feed)
    reward.unscored = (training.prompts[int(prompts.numbers[0])],)
    _, metrics = rounds(training.start(), prompts, given)
    reward.unscored = ()
    assert float(metrics["dropped groups"].value) == 1
    assert float(metrics["ratio"].count) == 2
    assert float(metrics["reward contrast"].value) == pytest.approx(reward.told[-1][1][2:].mean(), rel=1e-5)
    assert float(metrics["finite"].value) == 1


def test_a_video_that_is_no_number_is_found(run):
    """Here by a prompt that has become NaN; the other prompt's videos are as they were."""
    training, given, rounds, _ = run
    state, prompts = training.start(), next(training.feed)
    roll = functools.partial(rounds._programs[0].roll, state.trained, state.key, np.int32(0), given)
    latents, finite, _ = roll(prompts)
    assert np.asarray(finite).all()
    broken = prompts.text.states.at[0].set(np.nan)
    text = dataclasses.replace(prompts.text, states=broken)
    after, finite, _ = roll(dataclasses.replace(prompts, text=text))
    np.testing.assert_array_equal(finite, [False, False, True, True])
    np.testing.assert_array_equal(after[2:], latents[2:])


def test_a_video_that_is_no_number_has_no_score(run, caplog):
    """However its black frames are judged."""
    training, given, rounds, reward = run
    (program,) = rounds._programs

    def roll(*args):
        latents, finite, batch = program.roll(*args)
        return latents.at[1].set(np.nan), finite.at[1].set(False), batch

    rounds._programs[0] = dataclasses.replace(program, roll=roll)
    _, metrics = rounds(training.start(), next(training.feed), given)
    rounds._programs[0] = program
    assert float(metrics["dropped groups"].value) == 1
    assert float(metrics["reward contrast"].value) == pytest.approx(reward.told[-1][1][2:].mean(), rel=1e-5)
    assert float(metrics["finite"].value) == 1
    assert "iteration 1: 1 videos are NaN or infinite and left out" in caplog.text


def test_without_any_score_nothing_is_updated(run, caplog):
    """And when that goes on, the run ends."""
    training, given, rounds, reward = run
    state, seen = training.start(), next(training.feed)
    _, usual = rounds(training.start(), seen, given)
    reward.unscored = tuple(training.prompts)
    before = adapters(state)
    with caplog.at_level(logging.WARNING):
        for number in range(1, training.config.patience):
            state, metrics = rounds(state, next(training.feed), given)
            assert metrics.keys() == usual.keys()
            assert float(metrics["dropped groups"].value) == 2
            assert int(state.step) == number
        for one, other in zip(before, adapters(state), strict=True):
            np.testing.assert_array_equal(one, other)
        assert "iteration 1: none of 2 groups has all its rewards, so nothing is updated" in caplog.text
        with pytest.raises(InputError, match="for the 5th time in a row: expected rewards that answer"):
            rounds(state, next(training.feed), given)
    reward.unscored = ()


@pytest.mark.slow
def test_several_updates_by_one_rollout():
    """The second is by a policy that did not draw its videos; an iteration stays one step."""
    training, given, rounds = rewarded.rounds(rewarded.config(updates=2), rewarded.Contrast())
    state, metrics = rounds(training.start(), next(training.feed), given)
    assert int(state.step) == 1
    (count,) = {int(leaf) for leaf in jax.tree.leaves(state.optimizer) if np.ndim(leaf) == 0}
    assert count == 2
    assert float(metrics["ratio"].count) == 8
    assert float(metrics["ratio"].value) != 1
    assert float(metrics["finite"].value) == 1


@pytest.mark.slow
def test_parts_and_micro_batches_change_nothing(run):
    """But rounding. Several forms take turns."""
    training, given, rounds, _ = run
    size = (32, 32)
    rollout = dataclasses.replace(training.config.rollout, parts=2, sizes=(size, (32, 48)))
    config = dataclasses.replace(training.config, rollout=rollout, accumulate=2)
    cut, _, cut_rounds = rewarded.rounds(config, rewarded.Contrast())
    prompts = next(training.feed)
    state, metrics = rounds(training.start(), prompts, given)
    other, told = cut_rounds(cut.start(), prompts, given)
    assert float(told["grad_norm"].value) == pytest.approx(float(metrics["grad_norm"].value), rel=1e-3)
    for one, two in zip(adapters(state), adapters(other), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)
    other, _ = cut_rounds(other, prompts, given)
    assert int(other.step) == 2


@dataclasses.dataclass
class Bright(rewarded.Contrast):
    """sign: 1 wants bright pictures, -1 dark ones."""

    sign: int = 1

    def __call__(self, frames, prompts):
        scores = np.float32([self.sign * picture.mean() for picture in frames])
        self.told.append((list(prompts), scores))
        return scores


@pytest.mark.slow
def test_what_is_rewarded_becomes_more():
    """Of a random model's pictures the mean level, up or down, far more than pictures of one prompt differ."""
    base = rewarded.config(objective=GRPO(Exploration(steps=2), beta=0.0))
    rollout = dataclasses.replace(base.rollout, prompts=4, group=4, frames=1)
    optimizer = dataclasses.replace(base.optimizer, weight_decay=0, epsilon=1e-12)
    ends = {}
    for sign in (1, -1):
        reward = Bright(sign=sign)
        training, given, rounds = rewarded.rounds(
            dataclasses.replace(base, rollout=rollout, optimizer=optimizer), reward
        )
        state = training.start()
        for _ in range(15):
            state, _ = rounds(state, next(training.feed), given)
        ends[sign] = sign * np.mean([scores.mean() for _, scores in reward.told[-5:]])
    assert ends[1] - ends[-1] > 5


@pytest.mark.slow
def test_eight_devices_are_one():
    """Videos, scores, gradients and the LoRA after two iterations; nothing leaves its place."""
    report = devices.report(devices.ROOT / "tests/train/sharded_grpo.py")
    assert report["moved"] > 1e-3
    for mesh in ("data=2,fsdp=4", "fsdp=2,context=2,tensor=2"):
        assert report[mesh]["scores"] < 0.05, mesh  # levels of 255; a pixel may be rounded either way
        assert report[mesh]["difference"] < 2e-4, mesh
        assert report[mesh]["grad_norm"] < 1e-3, mesh
        assert report[mesh]["stays"], mesh


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Each decodes and judges its own pictures; of those that both hold, the first judges all."""
    for name, mesh, count in (("one", "data=1", 1), ("data", "data=2", 2), ("context", "context=2", 2)):
        port = together.free_port()
        several = ["--coordinator", f"localhost:{port}", "--num-processes", str(count), "--process-id"]
        command = ["train.py", "tests/train/grpo_recipe.py", "--out", tmp_path / name, "--mesh", mesh]
        commands = [command + ([*several, str(i)] if count > 1 else []) for i in range(count)]
        for ended in together.Together(commands, 1, devices.ROOT).ended(600):
            assert ended.code == 0, ended.err
    one = rewarded.lines(tmp_path / "one")
    for name in ("data", "context"):
        for found, want in zip(rewarded.lines(tmp_path / name), one, strict=True):
            assert found.keys() == want.keys()
            for metric in ("reward toy-visual", "reward toy-text", "grad_norm", "ratio"):
                assert found[metric] == pytest.approx(want[metric], rel=2e-3), metric
        # Of those that the first process has judged.
        shown = ["000-00.png", "000-01.png", "001-00.png"][: 2 if name == "data" else 3]
        assert sorted(picture.name for picture in (tmp_path / name / "samples/0000002").iterdir()) == shown


def test_a_run_is_planned(run):
    """As --dry-run prints it."""
    told = command.plan(run[0])
    assert "parameters of a LoRA of rank 2 trained; mesh data=1, fsdp=1, context=1, tensor=1; 2 steps" in told
    assert "2 prompts x 2 videos of 32x32x1: 16 tokens" in told


def test_options_reach_single_rewards():
    """And what is refused is told in one line."""
    for weight, code, told in ((0, 2, "weights of rewards [0.0, 0.0, 0.0]"), (1, 0, "--rewards.0.url")):
        args = [f"--rewards.{i}.weight={weight}" for i in range(3)] + ["--help"] * weight
        program = [sys.executable, "train.py", "configs/toy_grpo.py", "--out", "nowhere", *args]
        done = subprocess.run(program, cwd=devices.ROOT, env=devices.environment(), capture_output=True, text=True)
        assert done.returncode == code
        assert told in done.stdout + done.stderr
        assert code == 0 or len(done.stderr.splitlines()) == 1


def test_the_recipe_is_the_reports():
    """SPEC 8."""
    config, _ = read_recipe(devices.ROOT / "configs/grpo.py")
    rollout, objective = config.rollout, config.objective
    assert (rollout.steps, rollout.guidance, rollout.group, rollout.prompts) == (16, 4.0, 4, 64)
    assert (objective.exploration.steps, objective.exploration.a, objective.exploration.tau) == (6, 1.0, 0.45)
    assert (objective.beta, objective.clip) == (3e-4, None)
    assert (config.lora.rank, config.lora.alpha, config.optimizer.rate, config.steps) == (128, 64.0, 1e-4, 500)
    assert [reward.weight for reward in config.rewards] == [1.0] * 4
    assert config.updates == 1


def test_a_resumed_run_may_move_its_rewards_but_not_weigh_them_otherwise(tmp_path):
    config = rewarded.config()
    keep(tmp_path, config, resumed=False)
    moved = (RewardSettings("toy-visual", url="http://h:1", timeout_s=9), config.rewards[1])
    keep(tmp_path, dataclasses.replace(config, rewards=moved, patience=9), resumed=True)
    weighed = (config.rewards[0], dataclasses.replace(config.rewards[1], weight=1.0))
    with pytest.raises(InputError, match=r"rewards/1/weight was 2\.0, is 1\.0; choose another --out"):
        keep(tmp_path, dataclasses.replace(config, rewards=weighed), resumed=True)
    keep(tmp_path, dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, parts=2)), resumed=True)
    with pytest.raises(InputError, match=r"init was .*, is 'other'"):  # the model under the LoRA is read again
        keep(tmp_path, dataclasses.replace(config, init="other"), resumed=True)
    with pytest.raises(InputError, match="lora/rank was 2, is 4"):
        keep(tmp_path, dataclasses.replace(config, lora=LoRAConfig(4, 2.0)), resumed=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rewards": ()}, "rewards: none given, expected at least one"),
        ({"rewards": (RewardSettings("toy-text", weight=0.0),)}, "their sum is 0; expected numbers from 0 with a sum"),
        ({"objective": GRPO(Exploration(steps=4))}, "exploration.steps=4 of 3 steps of sampling"),
        ({"updates": 0}, "updates=0: expected at least 1"),
        ({"patience": 0}, "patience=0: expected at least 1"),
        ({"init": None}, "init: a LoRA needs the model that it adapts"),
    ],
)
def test_bad_configs_raise(change, match):
    with pytest.raises(InputError, match=match):
        rewarded.config(**change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"group": 1}, "rollout, group=1: expected at least 2 videos of each prompt"),
        ({"prompts": 0}, "rollout, prompts=0: expected at least 1"),
        ({"guidance": 0.5}, "rollout, guidance=0.5: expected a number from 1"),
        ({"guidance": float("inf")}, "rollout, guidance=inf: expected a number from 1"),
        ({"fps": 0}, "rollout, fps=0: expected a number above 0"),
        ({"sizes": ()}, "rollout, sizes: none given"),
    ],
)
def test_bad_rollouts_raise(change, match):
    with pytest.raises(InputError, match=match):
        RolloutConfig(**change)


def test_bad_prompts_and_samples_raise():
    with pytest.raises(InputError, match="prompts, tokens=0, seed=0: expected at least 1 token"):
        PromptConfig("toy:1", tokens=0)
    with pytest.raises(InputError, match="seed=-1: expected at least 1 token and a seed from 0"):
        PromptConfig("toy:1", seed=-1)
    with pytest.raises(InputError, match="samples, every=-1, count=4: expected numbers from 0"):
        ShownConfig(every=-1)


def test_prompts_with_seeds_of_their_own_are_refused(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a", "seed": 9}\n')
    with pytest.raises(InputError, match="has negative prompts or seeds, expected prompts alone"):
        read_prompts(str(path), 0, 5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lora": LoRAConfig(rank=129)}, "LoRA, rank=129: the model's layers are 128 wide: expected at most that"),
        ({"rollout": {"sizes": ((32, 40),)}}, "sizes: 32x40: expected multiples of 16"),
        ({"rollout": {"frames": 6}}, "a video of 6 frames cannot be encoded"),
        ({"rollout": {"parts": 3}}, "with rollout.parts=3 and 1 devices that share a batch, expected the number of"),
        ({"accumulate": 8}, "with accumulate=8 and 1 devices"),
        ({"model": {"in_channels": 8}}, "makes latents of channels 16, the model takes 8"),
        ({"model": {"caption_channels": 8}}, "makes text states of width 64, the model takes 8"),
        ({"prompts": {"source": "toy:0"}}, "prompts 'toy:0': expected toy:COUNT, a number of prompts above 0"),
        ({"rewards": (RewardSettings("toy-text", url="http://127.0.0.1:9", timeout_s=1),)}, "127.0.0.1:9"),
        ({"rewards": (RewardSettings("beauty"),)}, "reward 'beauty': expected one of"),
    ],
)
def test_what_cannot_be_run_is_refused_before_weights_are_read(change, match):
    config = rewarded.config()
    inner = {
        name: dataclasses.replace(getattr(config, name), **value)
        for name, value in change.items()
        if isinstance(value, dict)
    }
    with pytest.raises(InputError, match=match):
        GRPOTraining.of(dataclasses.replace(config, **change | inner))


def test_prompts_that_a_reward_cannot_judge_are_refused(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n")
    config = rewarded.config()
    prompts = dataclasses.replace(config.prompts, source=str(path))
    with pytest.raises(InputError, match="caption 'a cat': not a sentence of the toy world"):
        GRPOTraining.of(dataclasses.replace(config, prompts=prompts))


@pytest.mark.slow
def test_a_lora_of_another_rank_is_refused(tmp_path):
    """To begin with. One that fits is taken."""
    config = rewarded.config(steps=1)
    command.train(config, str(tmp_path / "run"))
    first = str(tmp_path / "run/checkpoints/1")
    began = GRPOTraining.of(dataclasses.replace(config, init_lora=first)).start()
    state, _ = shared.whole(config, tmp_path / "run", 1)
    np.testing.assert_array_equal(
        began.trained["trained"]["blocks"]["ffn"]["w1"]["up"],
        state[".trained['trained']['blocks']['ffn']['w1']['up']"],
    )
    wider = dataclasses.replace(config, init_lora=first, lora=LoRAConfig(4, 2.0))
    with pytest.raises(InputError, match="it is of another model"):
        GRPOTraining.of(wider).start()
