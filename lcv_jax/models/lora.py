"""New LoRA adapters: zero at first, so that they change nothing until they are trained."""

import dataclasses
import math
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError

Array = jax.Array
BLOCK_LINEARS = r"blocks/(attn|cross_attn|ffn)/.+"
"""The linear layers of self-attention, cross-attention and feed-forward, as the report trains them (SPEC 8)."""
CFG_STEP_LINEARS = r"blocks/(attn/(qkv|proj)|cross_attn/(q_linear|kv_linear)|ffn/w[123])"
"""Those of the published LoRA for distilled sampling: all of them but cross-attention's last (SPEC 7)."""
REFINEMENT_LINEARS = rf"{CFG_STEP_LINEARS}|(blocks|final_layer)/adaLN_modulation|final_layer/linear"
"""Those of the published LoRA for refinement: the same, all modulations, and the last layer (SPEC 7)."""


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """rank: of each group of a fused projection. alpha: the adapter's output is scaled by alpha / rank. modules: a
    regular expression that the paths of the adapted layers match as a whole."""

    rank: int = 128
    alpha: float = 64.0
    modules: str = BLOCK_LINEARS

    def __post_init__(self):
        if self.rank < 1:
            raise InputError(f"LoRA, rank={self.rank}: expected at least 1")
        if not self.alpha > 0:
            raise InputError(f"LoRA, alpha={self.alpha}: expected a number above 0")


def init_lora(config: LoRAConfig, abstract: Mapping[str, Any], key: Array) -> dict[str, Any]:
    """An adapter tree for the DiT with `abstract` parameters, float32, to be used under jax.jit or jax.eval_shape.

    Nested dicts that mirror the modules and end in {"down", "up", "scale"} as `layers.Dense` reads them, stacked over
    blocks. down is uniform in +-1 / sqrt(in), up is 0. A layer's numbers depend on its path and the key only. Raises
    InputError if the expression matches no layer.
    """
    pattern = re.compile(config.modules)
    tree = _init(config, abstract, key, pattern, "")
    if not tree:
        raise InputError(f"LoRA, modules={config.modules!r} matches no linear layer, such as blocks/attn/qkv")
    return tree


def _init(
    config: LoRAConfig, abstract: Mapping[str, Any], key: Array, pattern: re.Pattern, path: str
) -> dict[str, Any]:
    """The adapters of all matching layers below `path`."""
    out = {}
    for name, below in abstract.items():
        where = f"{path}{name}"
        if not isinstance(below, Mapping):
            continue
        if "kernel" in below:
            if pattern.fullmatch(where):
                own = jax.random.fold_in(key, zlib.crc32(where.encode()))
                out[name] = _adapter(config, below["kernel"].shape, own, stacked=where.startswith("blocks/"))
        elif inner := _init(config, below, key, pattern, f"{where}/"):
            out[name] = inner
    return out


def _adapter(config: LoRAConfig, shape: tuple[int, ...], key: Array, *, stacked: bool) -> dict[str, Array]:
    """shape: of the kernel, (in, out) or (in, G, out), stacked ones with the layers in front."""
    layers, (width, *groups, out) = (shape[:1], shape[1:]) if stacked else ((), shape)
    count = math.prod(groups)
    bound = 1 / math.sqrt(width)
    down = jax.random.uniform(key, (*layers, width, count * config.rank), jnp.float32, -bound, bound)
    return {
        "down": down,
        "up": jnp.zeros((*layers, count, config.rank, out), jnp.float32),
        "scale": jnp.full(layers, config.alpha / config.rank, jnp.float32),
    }
