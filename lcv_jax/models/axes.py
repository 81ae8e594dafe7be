"""The logical axes of every parameter, by its path: what a mesh may cut. `parallel/rules.py` says by which devices.

Vectors (norms' scales, most biases) are whole everywhere: they are a ten-thousandth of the weights, and gathering them
would cost a message each. A bias of what is cut by heads is cut with it.
"""

import re
from collections.abc import Mapping
from typing import Any

from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.layers import KERNEL_SCALE
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae_config import VAEConfig

Names = tuple[str | None, ...]

# Pattern of a path, and the names of its axes without the one that stacked blocks have in front.
_DIT = (
    (r"x_embedder/proj/kernel", (None, None, None, None, "embed")),
    (r"t_embedder/mlp_\d/kernel", (None, None)),
    (r"y_embedder/y_proj_\d/kernel", (None, "embed")),
    (r"(blocks|final_layer)/adaLN_modulation/kernel", (None, None, "embed")),
    (r"blocks/attn/qkv/kernel", ("embed", None, "heads")),
    (r"blocks/cross_attn/q_linear/kernel", ("embed", "heads")),
    (r"blocks/cross_attn/kv_linear/kernel", ("embed", None, "heads")),
    (r"blocks/(attn|cross_attn)/proj/kernel", ("heads", "embed")),
    (r"blocks/ffn/w[13]/kernel", ("embed", "mlp")),
    (r"blocks/ffn/w2/kernel", ("mlp", "embed")),
    (r"final_layer/linear/kernel", ("embed", None)),
    (r"blocks/(attn/qkv|cross_attn/kv_linear)/bias", (None, "heads")),
    (r"blocks/cross_attn/q_linear/bias", ("heads",)),
    (r"(blocks|final_layer)/adaLN_modulation/bias", (None, None)),
    (r".*/(bias|scale)", (None,)),
)
_UMT5 = (
    (r"shared/embedding", ("vocab", "embed")),
    (r"block/attention/[qkv]/kernel", ("embed", "heads")),
    (r"block/attention/o/kernel", ("heads", "embed")),
    (r"block/attention/relative_attention_bias/embedding", (None, "heads")),
    (r"block/ffn/wi_[01]/kernel", ("embed", "mlp")),
    (r"block/ffn/wo/kernel", ("mlp", "embed")),
    (r".*/scale", (None,)),
)
_VAE = (
    (r".*/(conv1|conv2|conv_in|conv_out|time_conv)/kernel", (None, None, None, None, "channels")),
    (r".*/resample/kernel", (None, None, None, "channels")),
    (r"(.*/)?(conv_shortcut|to_qkv|proj|quant_conv|post_quant_conv)/kernel", (None, "channels")),
    (r".*(bias|gamma)", (None,)),
)
_TABLES = {DiTConfig: (_DIT, "blocks/"), UMT5Config: (_UMT5, "block/"), VAEConfig: (_VAE, None)}


def parameter_axes(config: DiTConfig | UMT5Config | VAEConfig, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """A tree like a model's parameters with the logical axes of each leaf. abstract: jax.ShapeDtypeStruct leaves.

    Raises KeyError for a parameter that the table lacks, ValueError where its axes are not as many as the leaf's.
    """
    table, stacked = _TABLES[type(config)]
    return _walk(abstract, "", table, stacked)


def lora_axes(kernel: Names, *, stacked: bool) -> dict[str, Names]:
    """The logical axes of an adapter's arrays, from those of its module's kernel, (in, out) or (in, G, out).

    kernel: with the axis of stacked blocks in front, if it has one.
    """
    layers = kernel[:1] if stacked else ()
    first, last = kernel[len(layers)], kernel[-1]
    return {"down": (*layers, first, None), "up": (*layers, None, None, last), "scale": layers}


def _scale_axes(kernel: Names) -> Names:
    """Of a quantised kernel's scales, one an output: like a bias, cut with what is cut by heads or inner width."""
    return tuple(None if name == "embed" else name for name in kernel[1:])


def _walk(tree: Mapping[str, Any], prefix: str, table: tuple, stacked: str | None) -> dict[str, Any]:
    out = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out[key] = _walk(value, f"{path}/", table, stacked)
            continue
        # The first that fits is meant: a rule for all vectors stands last.
        sought = f"{prefix}kernel" if key == KERNEL_SCALE else path
        names = next((names for pattern, names in table if re.fullmatch(pattern, sought)), None)
        if names is None:
            raise KeyError(f"{path!r}: no rule says which logical axes this parameter has")
        names = _scale_axes(names) if key == KERNEL_SCALE else names
        names = (None, *names) if stacked and path.startswith(stacked) else names
        if len(names) != len(value.shape):
            raise ValueError(f"{path!r} has shape {value.shape}, its logical axes are {names}")
        out[key] = names
    return out
