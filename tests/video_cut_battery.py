"""The autoencoder on eight virtual devices against one, a program of its own: prints {check: fault or ""} as JSON.

Its argument is a list of names as JSON, of `CHECKS` and `SLOW`.
"""

import dataclasses
import functools
import json
import math
import pathlib
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.table import VAE
from lcv_jax.models.precision import BFLOAT16, FLOAT32, Precision
from lcv_jax.models.vae import VAEConfig, WanVAE
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.parallel.hlo_collectives import read_collectives
from lcv_jax.parallel.video_cut import VideoCut

SIZES = {"data": 2, "fsdp": 2, "context": 2, "tensor": 1}
ALL = tuple(SIZES)
DEEP = VAEConfig(4, 2, (1, 1, 2), 1, (True, True), (0.0, 0.0), (1.0, 1.0))
SHALLOW = VAEConfig(4, 2, (1, 2), 1, (True,), (0.0, 0.0), (1.0, 1.0))
TOLERANCE = 2e-6  # of numbers around 1


def mesh_of(sizes):
    auto = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=auto)


def normal(seed, *shape):
    """seed: a number, or a generator that goes on."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def params_of(config):
    video = jax.ShapeDtypeStruct((1, 1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(WanVAE(config, FLOAT32).init, jax.random.key(0), video)["params"]
    rng = np.random.default_rng(0)

    def leaf(s):
        return normal(rng, *s.shape) / (math.prod(s.shape[:-1]) if len(s.shape) > 1 else 4) ** 0.5

    return jax.tree.map(leaf, shapes)


@dataclasses.dataclass(frozen=True)
class Case:
    """Latents of `size` (T, h, w), and the video that they are as large as, cut over SIZES' devices."""

    size: tuple[int, int, int]
    config: VAEConfig = SHALLOW
    space: tuple[str, ...] = ALL
    frames: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()
    precision: Precision = FLOAT32
    videos: int = 1

    @property
    def one(self):
        return VAECoder(self.config, self.precision)

    @property
    def cut(self):
        return VideoCut(mesh_of(SIZES), self.space, self.frames, self.batch)

    @property
    def many(self):
        return VAECoder(self.config, self.precision, cut=self.cut)

    @property
    def params(self):
        return jax.tree.map(lambda p: jnp.asarray(p, self.precision.param), params_of(self.config))

    @property
    def latents(self):
        return normal(0, self.videos, *self.size, self.config.z_dim)

    @property
    def video(self):
        factor, (T, h, w) = self.config.spatial_factor, self.size
        return np.tanh(normal(1, self.videos, self.config.temporal_factor * (T - 1) + 1, h * factor, w * factor, 3))


def close(many, one, atol=TOLERANCE):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), b, atol=atol, rtol=0), many, one)


def decodes(case):
    close(case.many.decode(case.params, case.latents), case.one.decode(case.params, case.latents))


def encodes(case):
    close(case.many.encode(case.params, case.video), case.one.encode(case.params, case.video))


def streams():
    """Uneven rows; parameters at rest in shards; the pieces of a stream."""
    case = Case((3, 9, 3))
    shard = NamedSharding(case.cut.mesh, P("fsdp"))
    params = jax.tree.map(lambda p: jax.device_put(p, shard) if p.shape[0] % 2 == 0 else p, case.params)
    pieces = list(case.many.decode_stream(params, [case.latents]))
    assert [p.shape for p in pieces] == [(1, 1, 18, 6, 3), (1, 2, 18, 6, 3), (1, 2, 18, 6, 3)]
    close(np.concatenate(pieces, axis=1), case.one.decode(case.params, case.latents))
    posteriors = list(case.many.encode_stream(params, np.split(case.video, [1, 2], axis=1)))
    mean = np.concatenate([p.mean for p in posteriors], axis=1)
    close(mean, case.one.encode(case.params, case.video).mean)


def outputs_stay_cut():
    """Pixels lie where they were made when they divide."""
    case = Case((1, 16, 3))
    (piece,) = case.many.decode_stream(case.params, [case.latents])
    assert piece.sharding.shard_shape(piece.shape) == (1, 1, 4, 6, 3), piece.sharding


def same_gradients(case, loss, *arguments):
    """loss(coder, *arguments): the same value and the same gradients of all arguments."""
    run = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(1, 1 + len(arguments)))), static_argnums=0)
    (many, found), (one, expected) = (run(coder, *arguments) for coder in (case.many, case.one))
    close(many, one)
    for (path, ours), gradient in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(gradient).max()
        assert scale > 0, path
        np.testing.assert_allclose(ours, gradient, atol=2e-5 * scale, rtol=0, err_msg=jax.tree_util.keystr(path))


def decoder_gradients(case):
    def loss(coder, params, z):
        return jnp.mean((coder.decode(params, z) - case.video) ** 2)

    params = {name: case.params[name] for name in ("decoder", "post_quant_conv")}
    same_gradients(case, loss, params, case.latents)


def gradients(case):
    """Through the posterior and back."""

    def loss(coder, params, video):
        posterior = coder.encode(params, video)
        z = posterior.mean + 0.1 * jnp.exp(0.5 * posterior.logvar)
        return jnp.mean((coder.decode(params, z) - video) ** 2) + 1e-3 * jnp.mean(posterior.logvar**2)

    same_gradients(case, loss, case.params, case.video)


def bfloat16():
    """Apart by less than bfloat16 is from float32, where the compiler rounds after every operation as it is told."""
    case = Case((3, 5, 3), precision=BFLOAT16)
    exact = dataclasses.replace(case, precision=FLOAT32)

    def decode(coder, params):
        run = jax.jit(coder.decode, compiler_options={"xla_allow_excess_precision": False})
        return np.asarray(run(params, case.latents))

    one, many = (decode(coder, case.params) for coder in (case.one, case.many))
    assert many.dtype == np.float32
    assert np.abs(many - one).mean() < 0.5 * np.abs(one - decode(exact.one, exact.params)).mean()


def official_numbers():
    """The golden checkpoint's numbers: three levels, one without time."""
    goldens = pathlib.Path(__file__).parent / "goldens"
    config = VAEConfig.from_json(json.loads((goldens / "checkpoint/vae/config.json").read_text()))
    model = WanVAE(config, FLOAT32)
    video = jax.ShapeDtypeStruct((1, 1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)["params"]
    params = load_params(SafetensorsSource(goldens / "checkpoint/vae"), VAE, shapes)
    coder = VAECoder(config, FLOAT32, cut=VideoCut(mesh_of(SIZES), ("data",), ("fsdp", "context")))
    with np.load(goldens / "vae.npz") as arrays:
        golden = {name: np.moveaxis(array, 1, -1) for name, array in arrays.items() if name.startswith("f17_")}
    close(coder.encode(params, golden["f17_video"]).mean, golden["f17_enc_mean"], atol=1e-4)
    close(coder.decode(params, golden["f17_latent_denormalized"]), golden["f17_decoded"], atol=1e-4)


def only_the_border_is_sent():
    """Of a stream's later chunk: of each convolution's input one row of pixels to either side, keys and values."""
    case = Case((2, 16, 3))
    model, z = case.one.model, jax.ShapeDtypeStruct((1, 1, 16, 3, 2), jnp.float32)
    step = jax.jit(functools.partial(case.cut.step, model, "decode"))
    _, state = jax.eval_shape(step, case.params, None, z)
    sent = read_collectives(step.lower(case.params, state, z).compile())
    # Channels at 3 columns and 1 frame: in, four of the middle, four of the first level; then the upsampler's input, 2
    # frames; then at 6 columns and 2 frames four of the second level and out.
    values = 3 * (2 + 4 * 8 + 4 * 8 + 2 * 8) + 2 * 6 * (5 * 4)
    permuted = sum(c.total for c in sent if c.kind == "collective-permute")
    assert permuted == 4 * 2 * values, (permuted, 4 * 2 * values)
    gathered = sum(c.total for c in sent if c.kind == "all-gather")
    assert gathered == 7 * 4 * (2 * 3) * (2 * 8), gathered
    assert {c.kind for c in sent} == {"collective-permute", "all-gather"}


CHECKS = {
    "decoding, space 8, uneven rows, some devices empty": lambda: decodes(Case((3, 9, 3))),
    "encoding, space 4 x 2, uneven columns": lambda: encodes(Case((3, 4, 5))),
    "decoding, space 4 x time 2": lambda: decodes(
        Case((5, 5, 3), DEEP, space=("data", "context"), frames=("fsdp",)),
    ),
    "encoding, space 4 x time 2": lambda: encodes(
        Case((5, 5, 3), DEEP, space=("data", "context"), frames=("fsdp",)),
    ),
    "decoding, time 8, axes in any order": lambda: decodes(
        Case((9, 2, 2), space=("tensor",), frames=("context", "data", "fsdp")),
    ),
    "decoding, space 4 x batch 2": lambda: decodes(
        Case((2, 5, 3), space=("fsdp", "context"), batch=("data",), videos=2),
    ),
    "streams": streams,
    "outputs stay cut": outputs_stay_cut,
    "gradients of the decoder, space 2 x time 2 x batch 2": lambda: decoder_gradients(
        Case((3, 3, 2), space=("fsdp",), frames=("context",), batch=("data",), videos=2)
    ),
    "bfloat16": bfloat16,
    "only the border is sent": only_the_border_is_sent,
}
SLOW = {
    "gradients, space 8": lambda: gradients(Case((2, 9, 3))),
    "gradients, space 4 x time 2": lambda: gradients(
        Case((3, 3, 2), space=("fsdp", "context"), frames=("data",)),
    ),
    "official numbers, space 2 x time 4": official_numbers,
}


def main(names):
    # Compiling is most of the work, and less of it changes no result beyond rounding.
    jax.config.update("jax_disable_most_optimizations", True)
    faults = {}
    for name in names:
        try:
            (CHECKS | SLOW)[name]()
            faults[name] = ""
        except Exception:
            faults[name] = traceback.format_exc(limit=-4)
    print(json.dumps(faults))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
