"""Muon on eight devices against one, for the parameters of all three models, as a program that prints as JSON the
largest differences and how much of the moments the first device holds; and how a mesh is refused."""

import json

import jax
import numpy as np

import training
from lcv_jax.errors import InputError
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.models.zoo import abstract_params
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.train.encoders import placed
from lcv_jax.train.optimizer import Muon
from lcv_jax.train.state import create, state_shardings

MODELS = {
    "dit": training.TINY,
    "text_encoder": UMT5Config(vocab_size=16, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2),
    "vae": VAEConfig(8, 2, (1, 1), 1, (True,), latents_mean=(0.0,) * 2, latents_std=(1.0,) * 2),
}
OPTIMIZER = Muon(rate=0.1, warmup=2).make()


def random(abstract, seed: int):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract)


def advanced(model, mesh: str):
    """A state after two steps with random gradients, on the mesh."""
    place, abstract = MeshPlacement(MeshConfig.parse(mesh).make(), TRAINING), abstract_params(model, FLOAT32)
    trained = place.params(model, abstract)

    def start(params):
        return create(params, OPTIMIZER, jax.random.key(0))

    where = state_shardings(jax.eval_shape(start, abstract), trained, OPTIMIZER)
    state = jax.jit(start, out_shardings=where)(random(abstract, 0))

    def step(moments, gradients, params):
        updates, moments = OPTIMIZER.update(gradients, moments, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), moments

    step = jax.jit(step, out_shardings=(trained, where.optimizer))
    params, moments = state.trained, state.optimizer
    for seed in (1, 2):
        gradients = jax.tree.map(jax.device_put, random(abstract, seed), trained)
        params, moments = step(moments, gradients, params)
    return params, moments


def main() -> None:
    out = {}
    for name, model in MODELS.items():
        # The transformer's two layers are shared by the copies that data makes.
        one, many = (advanced(model, mesh) for mesh in ("data=1", "data=2,fsdp=4" if name == "dit" else "fsdp=8"))
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
        leaves = jax.tree.leaves(many[1])
        here = sum(shard.data.nbytes for x in leaves for shard in x.addressable_shards if shard.device.id == 0)
        out[name] = {
            "difference": max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs),
            "share": here / sum(x.nbytes for x in leaves),
        }
    try:
        placed("data=2,context=4", ("data", "fsdp"))
    except InputError as error:
        out["refused"] = str(error)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
