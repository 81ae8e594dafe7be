"""One strict table: official tensor names <-> paths of our parameter pytrees, in both directions.

A `Rule` pairs an official name with a path of ours and says how the axes move. Both are templates:
`{layer}` is a block's number, official "blocks.7.attn.qkv.weight" being row 7 of the scanned
"blocks/attn/qkv/kernel"; `{a}`, `{b}`, ... are other numbers and are kept in our path. Official tensors
are in PyTorch's axis order.

The table never guesses. `Table.locate` raises on a name that no rule or more than one rule matches; who loads
compares the result with the model's abstract parameters: missing and mis-shaped tensors raise as well.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Axes:
    """Official axes to ours: drop `ones` trailing axes of size 1, transpose by `order`, and split the last axis into
    (groups, the rest) where several projections are fused in it."""

    order: tuple[int, ...] | None = None
    ones: int = 0
    groups: int = 1

    def ours(self, tensor: np.ndarray) -> np.ndarray:
        """A view in our axis order."""
        if self.ones:
            tensor = tensor.reshape(tensor.shape[: tensor.ndim - self.ones])
        if self.order is not None:
            tensor = tensor.transpose(self.order)
        return tensor if self.groups == 1 else tensor.reshape(*tensor.shape[:-1], self.groups, -1)

    def official(self, tensor: np.ndarray) -> np.ndarray:
        """The inverse of `ours`."""
        if self.groups > 1:
            tensor = tensor.reshape(self._joined(tensor.shape))
        if self.order is not None:
            tensor = tensor.transpose(np.argsort(self.order))
        return tensor.reshape(tensor.shape + (1,) * self.ones)

    def official_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The official shape of a tensor that has `shape` with us."""
        shape = self._joined(shape)
        order = range(len(shape)) if self.order is None else np.argsort(self.order)
        return tuple(shape[i] for i in order) + (1,) * self.ones

    def official_cut(self, spec: Sequence[Any]) -> tuple[Any, ...]:
        """How an official tensor can be cut so that no device gets more than ours with the partition spec `spec`.

        spec: one entry for each of our axes. Slices of each of several fused projections are no slice of the whole:
        such an axis stays whole.
        """
        spec = tuple(spec) if self.groups == 1 else (*spec[:-2], None)
        order = range(len(spec)) if self.order is None else np.argsort(self.order)
        return tuple(spec[i] for i in order) + (None,) * self.ones

    def _joined(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape) if self.groups == 1 else (*shape[:-2], shape[-2] * shape[-1])


SAME = Axes()
LINEAR = Axes((1, 0))  # (out, in) -> (in, out)
CONV2 = Axes((2, 3, 1, 0))  # (out, in, h, w) -> (h, w, in, out)
CONV3 = Axes((2, 3, 4, 1, 0))  # (out, in, t, h, w) -> (t, h, w, in, out)
PATCH = Axes((1, 2, 3, 4, 0))  # (out, in, t, h, w) -> (in, t, h, w, out)
POINT2 = Axes((1, 0), ones=2)  # 1 x 1 convolution as a linear layer
POINT3 = Axes((1, 0), ones=3)
GAMMA2 = Axes(ones=2)  # (channels, 1, 1) -> (channels,)
GAMMA3 = Axes(ones=3)


@dataclasses.dataclass(frozen=True)
class Rule:
    """official: template of the tensor's name. path: template of ours, '/' between levels."""

    official: str
    path: str
    axes: Axes = SAME

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        return _pattern(self.official)

    @functools.cached_property
    def path_pattern(self) -> re.Pattern[str]:
        return _pattern(self.path)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an official tensor lives: a leaf of our pytree, and its row if blocks are stacked."""

    path: str
    layer: int | None
    axes: Axes


@dataclasses.dataclass(frozen=True)
class Table:
    """All rules of one model. aliases: official names that repeat another tensor and may be left out."""

    model: str
    rules: tuple[Rule, ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def locate(self, name: str) -> Place:
        """Where the official tensor `name` goes; raises InputError unless exactly one rule matches."""
        hits = [(rule, m) for rule in self.rules if (m := rule.pattern.fullmatch(name))]
        if len(hits) != 1:
            what = "is not a tensor of" if not hits else f"matches {len(hits)} rules of"
            raise InputError(f"key {name!r} {what} the {self.model} model: remove it or check the model's kind")
        rule, match = hits[0]
        numbers = match.groupdict()
        layer = numbers.pop("layer", None)
        return Place(rule.path.format(**numbers), None if layer is None else int(layer), rule.axes)

    def names(self, path: str, layers: int | None) -> list[tuple[str, Place]]:
        """Official names that make up our leaf `path`; layers: rows of a stacked leaf, ignored for others."""
        hits = [(rule, m) for rule in self.rules if (m := rule.path_pattern.fullmatch(path))]
        if len(hits) != 1:
            raise KeyError(f"{path!r} is described by {len(hits)} rules of the {self.model} table, expected one")
        rule, match = hits[0]
        if "{layer}" not in rule.official:
            return [(rule.official.format(**match.groupdict()), Place(path, None, rule.axes))]
        return [
            (rule.official.format(layer=i, **match.groupdict()), Place(path, i, rule.axes)) for i in range(layers or 0)
        ]


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(re.escape(p) if i % 2 == 0 else rf"(?P<{p}>0|[1-9]\d*)" for i, p in enumerate(parts)))


def _linear(official: str, path: str, bias: bool = True, groups: int = 1) -> tuple[Rule, ...]:
    rules = (Rule(f"{official}.weight", f"{path}/kernel", dataclasses.replace(LINEAR, groups=groups)),)
    return (*rules, Rule(f"{official}.bias", f"{path}/bias", Axes(groups=groups))) if bias else rules


def _conv(official: str, path: str, axes: Axes) -> tuple[Rule, ...]:
    return (Rule(f"{official}.weight", f"{path}/kernel", axes), Rule(f"{official}.bias", f"{path}/bias"))


def _attention(official: str, path: str, projections: Mapping[str, int]) -> tuple[Rule, ...]:
    """projections: by name, how many are fused."""
    rules = [r for p, groups in projections.items() for r in _linear(f"{official}.{p}", f"{path}/{p}", groups=groups)]
    rules += [Rule(f"{official}.{n}.weight", f"{path}/{n}/scale") for n in ("q_norm", "k_norm")]
    return tuple(rules)


DIT = Table(
    "DiT",
    (
        *_conv("x_embedder.proj", "x_embedder/proj", PATCH),
        *_linear("t_embedder.mlp.{a}", "t_embedder/mlp_{a}"),
        *_linear("y_embedder.y_proj.{a}", "y_embedder/y_proj_{a}"),
        *_linear("blocks.{layer}.adaLN_modulation.1", "blocks/adaLN_modulation", groups=6),
        Rule("blocks.{layer}.pre_crs_attn_norm.weight", "blocks/pre_crs_attn_norm/scale"),
        Rule("blocks.{layer}.pre_crs_attn_norm.bias", "blocks/pre_crs_attn_norm/bias"),
        *_attention("blocks.{layer}.attn", "blocks/attn", {"qkv": 3, "proj": 1}),
        *_attention("blocks.{layer}.cross_attn", "blocks/cross_attn", {"q_linear": 1, "kv_linear": 2, "proj": 1}),
        *_linear("blocks.{layer}.ffn.w1", "blocks/ffn/w1", bias=False),
        *_linear("blocks.{layer}.ffn.w2", "blocks/ffn/w2", bias=False),
        *_linear("blocks.{layer}.ffn.w3", "blocks/ffn/w3", bias=False),
        *_linear("final_layer.adaLN_modulation.1", "final_layer/adaLN_modulation", groups=2),
        *_linear("final_layer.linear", "final_layer/linear"),
    ),
)

_T5 = "encoder.block.{layer}.layer"
UMT5 = Table(
    "umT5",
    (
        Rule("shared.weight", "shared/embedding"),
        *(_linear(f"{_T5}.0.SelfAttention.{p}", f"block/attention/{p}", bias=False)[0] for p in "qkvo"),
        Rule(
            f"{_T5}.0.SelfAttention.relative_attention_bias.weight",
            "block/attention/relative_attention_bias/embedding",
        ),
        Rule(f"{_T5}.0.layer_norm.weight", "block/attention_norm/scale"),
        *(_linear(f"{_T5}.1.DenseReluDense.{p}", f"block/ffn/{p}", bias=False)[0] for p in ("wi_0", "wi_1", "wo")),
        Rule(f"{_T5}.1.layer_norm.weight", "block/ffn_norm/scale"),
        Rule("encoder.final_layer_norm.weight", "final_norm/scale"),
    ),
    aliases=(("encoder.embed_tokens.weight", "shared.weight"),),
)


def _residual(official: str, path: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{official}.norm1.gamma", f"{path}/norm1/gamma", GAMMA3),
        *_conv(f"{official}.conv1", f"{path}/conv1", CONV3),
        Rule(f"{official}.norm2.gamma", f"{path}/norm2/gamma", GAMMA3),
        *_conv(f"{official}.conv2", f"{path}/conv2", CONV3),
        *_conv(f"{official}.conv_shortcut", f"{path}/conv_shortcut", POINT3),
    )


def _resample(official: str, path: str) -> tuple[Rule, ...]:
    return (
        *_conv(f"{official}.resample.1", f"{path}/resample", CONV2),
        *_conv(f"{official}.time_conv", f"{path}/time_conv", CONV3),
    )


def _coder(side: str) -> tuple[Rule, ...]:
    return (
        *_conv(f"{side}.conv_in", f"{side}/conv_in", CONV3),
        *_residual(f"{side}.mid_block.resnets.{{a}}", f"{side}/mid_block/resnets_{{a}}"),
        Rule(f"{side}.mid_block.attentions.0.norm.gamma", f"{side}/mid_block/attention/norm/gamma", GAMMA2),
        *_conv(f"{side}.mid_block.attentions.0.to_qkv", f"{side}/mid_block/attention/to_qkv", POINT2),
        *_conv(f"{side}.mid_block.attentions.0.proj", f"{side}/mid_block/attention/proj", POINT2),
        Rule(f"{side}.norm_out.gamma", f"{side}/norm_out/gamma", GAMMA3),
        *_conv(f"{side}.conv_out", f"{side}/conv_out", CONV3),
    )


VAE = Table(
    "VAE",
    (
        *_coder("encoder"),
        *_residual("encoder.down_blocks.{a}", "encoder/down_blocks_{a}"),
        *_resample("encoder.down_blocks.{a}", "encoder/down_blocks_{a}"),
        *_coder("decoder"),
        *_residual("decoder.up_blocks.{a}.resnets.{b}", "decoder/up_blocks_{a}/resnets_{b}"),
        *_resample("decoder.up_blocks.{a}.upsamplers.0", "decoder/up_blocks_{a}/upsampler"),
        *_conv("quant_conv", "quant_conv", POINT3),
        *_conv("post_quant_conv", "post_quant_conv", POINT3),
    ),
)
