"""Our models against arrays dumped from another implementation, block by block.

A dump is an npz file in the other implementation's terms: channels first, timesteps in [0, 1000], module names
of the official code. docs/verify.md lists the names and shows how to write one. Several cases may share a file,
told apart by a prefix of all their names, as in the golden files.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.checkpoint import layout
from lcv_jax.checkpoint.load import load_params
from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT
from lcv_jax.models.precision import Precision
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.vae import WanVAE

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One array of a dump against ours. error: largest absolute difference. std: of the reference."""

    name: str
    error: float
    std: float

    def ok(self, tolerance: float) -> bool:
        """Whether the error is at most `tolerance` standard deviations of the reference; NaN is not."""
        return self.error <= tolerance * self.std


def verify(root: os.PathLike[str] | str, reference: os.PathLike[str] | str, dtype: str) -> list[Comparison]:
    """Runs the inputs of the dump `reference` through a checkpoint, in either layout, and compares all outputs.

    root: a checkpoint or one model's folder. dtype: "float32" or "bfloat16". Raises InputError.
    """
    dump = read_dump(reference)
    runs = [(name, prefix) for name, run in _RUNS.items() for prefix in _prefixes(dump, run.inputs)]
    if not runs:
        raise InputError(
            f"{reference}: no inputs found: expected one of "
            f"{', '.join(name for run in _RUNS.values() for name in run.inputs)}; see docs/verify.md"
        )
    models = {}
    compared = []
    for name, prefix in runs:
        if name not in models:
            models[name] = _load(pathlib.Path(root), name, dtype)
        case = {key.removeprefix(prefix): value for key, value in dump.items() if key.startswith(prefix)}
        ours = _RUNS[name].run(*models[name], case, Precision.named(dtype))
        compared += [_compare(f"{prefix}{key}", value, case[key]) for key, value in ours.items() if key in case]
    if not compared:
        raise InputError(f"{reference}: inputs but no outputs to compare with: add some; see docs/verify.md")
    return compared


def read_dump(path: os.PathLike[str] | str) -> dict[str, np.ndarray]:
    """The arrays of an npz file; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as an npz file of arrays ({reason}): write it anew") from None


def table(compared: list[Comparison], tolerance: float) -> str:
    """The comparisons as aligned text."""
    width = max(len("name"), *(len(c.name) for c in compared))
    lines = [f"{'name':<{width}}  max abs error  reference std  ok"]
    for c in compared:
        verdict = "ok" if c.ok(tolerance) else "NO"
        lines.append(f"{c.name:<{width}}  {c.error:13.3e}  {c.std:13.3e}  {verdict}")
    return "\n".join(lines)


def _prefixes(dump: Arrays, inputs: tuple[str, ...]) -> list[str]:
    """Prefixes of the cases that hold any of `inputs`: "" or those that end in "_"."""
    pattern = re.compile(rf"(|.*_)(?:{'|'.join(inputs)})")
    found = {match[1] for name in dump if (match := pattern.fullmatch(name))}
    return sorted(prefix for prefix in found if not prefix.endswith("encoder_"))


def _load(root: pathlib.Path, name: str, dtype: str):
    """Config and parameters of one model."""
    component = layout.COMPONENTS[name]
    single = (root / "config.json").is_file()
    if single and layout.component_of(root) != component:
        held = layout.component_of(root).name
        raise InputError(f"{root}: holds the {held}, the dump is of the {name}: give that folder")
    model = layout.open_model(component, root if single else layout.folder(root, name))
    return model.config, load_params(model.source, component.table, model.abstract, dtype=dtype)


def _compare(name: str, ours: jax.Array, reference: np.ndarray) -> Comparison:
    ours = np.asarray(ours, np.float32)
    if ours.size != reference.size:
        raise InputError(
            f"key {name!r} of the dump has shape {list(reference.shape)}, expected {list(ours.shape)}: "
            "dump the outputs that belong to the inputs"
        )
    reference = reference.astype(np.float32)
    error = np.abs(ours.reshape(reference.shape) - reference).max()
    return Comparison(name, float(error), float(reference.std()))


def _dit(config, params, case: Arrays, precision: Precision) -> dict[str, jax.Array]:
    """Token states (B, N, D) after the patch embedding and each block, embeddings, and the velocity."""
    latents = _last(case["hidden_states"])
    t = np.asarray(case["timestep"], np.float32) / 1000
    t = np.broadcast_to(t if t.ndim == 2 else t[:, None], latents.shape[:2])
    states = _need(case, "encoder_hidden_states")[:, 0]
    mask = case.get("encoder_attention_mask")
    num_cond = int(case.get("num_cond_latents", 0))
    model = DiT(config, precision)

    @jax.jit
    def run(params, latents, t, states, mask):
        kept = {"mutable": ["intermediates"], "num_cond": num_cond}
        return model.apply({"params": params}, latents, t, states, mask, **kept)

    velocity, kept = run(params, latents, t, states, None if mask is None else mask.astype(bool))
    kept = kept["intermediates"]
    named = {"hidden_patch_embed": kept["patch_embed"][0], "t_emb": kept["t_emb"][0], "y_emb": kept["y_emb"][0]}
    named |= _hidden(kept["blocks"])
    return named | {"output": _first(velocity)}


def _text_encoder(config, params, case: Arrays, precision: Precision) -> dict[str, jax.Array]:
    """States (B, L, D) after each block and after the final norm."""
    model = UMT5Encoder(config, precision)

    @jax.jit
    def run(params, ids, mask):
        return model.apply({"params": params}, ids, mask, mutable=["intermediates"])

    mask = _need(case, "attention_mask").astype(bool)
    states, kept = run(params, case["input_ids"].astype(np.int32), mask)
    return _hidden(kept["intermediates"]["block"]) | {"last_hidden_state": states}


def _vae(config, params, case: Arrays, precision: Precision) -> dict[str, jax.Array]:
    """Every module's output (B, C, F, H, W) under its official name, the posterior, the decoded pixels."""
    model = WanVAE(config, precision)
    named: dict[str, jax.Array] = {}

    @jax.jit
    def encode(params, video):
        return model.apply({"params": params}, video, method="encode", capture_intermediates=True)

    @jax.jit
    def decode(params, z):
        return model.apply({"params": params}, z, method="decode", capture_intermediates=True)

    if "video" in case:
        video = _last(case["video"])
        whole = (video.shape[1] - 1) // config.temporal_factor * config.temporal_factor + 1
        posterior, kept = encode(params, video[:, :whole])
        named |= _modules(kept["intermediates"])
        named |= {"enc_mean": _first(posterior.mean), "enc_logvar": _first(posterior.logvar)}
    if "latent_denormalized" in case:
        pixels, kept = decode(params, _last(case["latent_denormalized"]))
        named |= _modules(kept["intermediates"])
        named["decoded"] = _first(pixels)
    return named


@dataclasses.dataclass(frozen=True)
class _Run:
    """inputs: names in a dump of which any one makes a case. run: (config, params, case, precision) -> outputs."""

    inputs: tuple[str, ...]
    run: Callable[..., dict[str, jax.Array]]


_RUNS = {
    "dit": _Run(("hidden_states",), _dit),
    "text_encoder": _Run(("input_ids",), _text_encoder),
    "vae": _Run(("video", "latent_denormalized"), _vae),
}


def _need(case: Arrays, name: str) -> np.ndarray:
    if name not in case:
        raise InputError(f"key {name!r} is missing from the dump: expected all inputs; see docs/verify.md")
    return case[name]


def _hidden(blocks: Mapping) -> dict[str, jax.Array]:
    return {f"hidden_block_{i}": state for i, state in enumerate(blocks["hidden"][0])}


def _modules(tree: Mapping, name: str = "") -> dict[str, jax.Array]:
    """Outputs of all modules: {"encoder.down_blocks.3": (B, C, F, H, W), ...}."""
    named = {}
    for key, value in tree.items():
        if key == "__call__" and isinstance(value[0], jax.Array):
            named[name] = _first(value[0])
        elif isinstance(value, Mapping):
            official = re.sub(r"_([0-9]+)$", r".\1", key)
            named |= _modules(value, f"{name}.{official}".lstrip("."))
    return named


def _last(array: np.ndarray) -> np.ndarray:
    """Channels first to channels last."""
    return np.moveaxis(np.asarray(array, np.float32), 1, -1)


def _first(array: jax.Array) -> jax.Array:
    return jnp.moveaxis(array, -1, 1)
