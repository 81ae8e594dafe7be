"""Runs of a refinement LoRA: dense, then block sparse behind it, and which data they take."""

import dataclasses

import jax
import numpy as np
import pytest

import caches
import training
from dit_goldens import read_config, read_params
from lcv_jax.checkpoint import __main__ as checkpoints
from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.lora import load_lora
from lcv_jax.data.batching import Tasks
from lcv_jax.data.loader import Settings
from lcv_jax.data.pairs import Pairs
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.lora import REFINEMENT_LINEARS, LoRAConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.objectives.pretrain import Pretraining
from lcv_jax.objectives.refine import Refinement
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.train import command
from lcv_jax.train.build import ADAPTER, DiTTraining
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.config import DataConfig, SparseConfig, TrainConfig
from lcv_jax.train.loop import End
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import create
from lcv_jax.train.weights import read_model, read_trained


def dataset(folder, pairs):
    encoding = dataclasses.replace(caches.ENCODING, pairs=pairs)
    return caches.dataset(folder, [(2, 8, 8)] * 4, encoding=encoding)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    place = dataset(tmp_path_factory.mktemp("pairs"), Pairs("spatial", cond_frames=1, multiple=1))
    base = TrainConfig(
        model=training.TINY,
        data=DataConfig(paths=(place,), batches=Settings(tokens=64, text_tokens=6, tasks=Tasks())),
        objective=Refinement(),
        optimizer=AdamW(rate=1e-2, warmup=0),
        steps=2,
        ema_decay=None,
        save_every=2,
        log_every=1,
        dtype="float32",
        mesh="data=1",
    )
    first = tmp_path_factory.mktemp("model")
    params = training.awake(training.init(training.dit()))
    with Checkpoints(first) as saved:
        saved.save(1, create(params, base.optimizer.make(), jax.random.key(0)), {})
    lora = LoRAConfig(rank=2, alpha=1.0, modules=REFINEMENT_LINEARS)
    return dataclasses.replace(base, lora=lora, init=str(first / "checkpoints/1"))


@pytest.fixture(scope="module")
def dense(config, tmp_path_factory):
    run = tmp_path_factory.mktemp("dense")
    assert command.train(config, str(run)) == (2, End.FINISHED)
    return run


def test_a_dense_run_is_exported_in_the_published_form(config, dense, tmp_path):
    assert all(np.isfinite(line["loss"]) for line in training.lines(dense))
    file = tmp_path / "refinement_lora.safetensors"
    assert checkpoints.main(["export", str(dense / "checkpoints/2"), str(file)]) == 0
    found = flatten(load_lora(file, zoo.abstract_params(config.model, FLOAT32)))
    modules = {name.rpartition("/")[0] for name in found}
    own = {"attn/qkv", "attn/proj", "cross_attn/q_linear", "cross_attn/kv_linear", "ffn/w1", "ffn/w2", "ffn/w3"}
    blocks = {f"blocks/{name}" for name in own | {"adaLN_modulation"}}
    assert modules == blocks | {"final_layer/adaLN_modulation", "final_layer/linear"}
    assert all(np.abs(found[f"{name}/up"]).max() > 0 for name in modules)


@pytest.fixture(scope="module")
def sparse(config, dense) -> TrainConfig:
    return dataclasses.replace(
        config, attention=SparseConfig((1, 2, 2), 0.5), init_lora=str(dense / "checkpoints/2"), steps=1
    )


def test_a_sparse_run_begins_with_the_dense_ones_lora(sparse, dense):
    opened = DiTTraining.of(sparse)
    assert opened.model.attention == BlockSparseAttention((1, 2, 2), (1, 2, 2), 0.5)
    (kind,) = opened.kinds
    assert kind.name == "2 x 2x8x8 i2v behind 1"
    assert kind.batch.upsampled.shape == kind.batch.latents.shape
    begun = flatten(jax.device_get(opened.start().trained[ADAPTER]))
    saved = flatten(read_trained(dense / "checkpoints/2", opened.abstract.trained)[ADAPTER])
    for name, value in saved.items():
        np.testing.assert_array_equal(begun[name], value)
    assert np.abs(begun["final_layer/linear/up"]).max() > 0


@pytest.mark.slow
def test_a_sparse_run_goes_on_from_there(sparse, tmp_path):
    assert command.train(sparse, str(tmp_path)) == (1, End.FINISHED)
    assert np.isfinite(training.lines(tmp_path)[0]["loss"])


def test_pretraining_takes_pairs_for_plain_clips(config):
    """With the tasks that it draws itself."""
    plain = DiTTraining.of(dataclasses.replace(config, objective=Pretraining(), lora=None, init=None))
    (kind,) = plain.kinds
    assert (kind.name, kind.batch.upsampled) == ("2 x 2x8x8 t2v", None)
    assert next(plain.feed).upsampled is None


def test_what_refinement_cannot_learn_from_is_refused(config, tmp_path):
    def of(place):
        return DiTTraining.of(dataclasses.replace(config, data=dataclasses.replace(config.data, paths=(place,))))

    with pytest.raises(InputError, match="holds no pairs, which refinement learns from: write the cache with --pairs"):
        of(caches.dataset(tmp_path / "plain", [(2, 8, 8)]))
    with pytest.raises(InputError, match=r"padded to multiples of 4 latents, .* pads to 1: cache them with --latent-m"):
        of(dataset(tmp_path / "fours", Pairs("spatial")))


def test_a_checkpoint_of_other_sparse_blocks_is_the_same_model(checkpoint_dir):
    """No weight depends on them."""
    model = read_config(checkpoint_dir)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = zoo.abstract_params(model, FLOAT32)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    assert model.bsa_params is not None
    loaded = read_model(str(checkpoint_dir), dataclasses.replace(model, bsa_params=None), abstract)
    jax.tree.map(np.testing.assert_array_equal, loaded, read_params(checkpoint_dir, model))
