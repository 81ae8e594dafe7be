"""Reading facts from text states: what the toy world's text encoder is trained for.

A caption's states are good when a small linear reader finds in them what the caption tells. The reader is the same for
all languages, so sentences that tell the same get states that read the same. It is thrown away after training.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lcv_jax.data.toy.caption_batches import Captions
from lcv_jax.data.toy.facts import COLOURS
from lcv_jax.data.toy.labels import KINDS, OF_GROUND, OF_OBJECTS
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.objectives.objective import Average, Metrics, Trees

Array = jax.Array
F32 = jnp.float32
ENCODER, READER = "encoder", "reader"
"""Names of the two parts of what is trained."""


def init_reader(config: UMT5Config, key: Array) -> dict[str, Any]:
    """An untrained reader of states of width D, float32: "queries" (colours + 1, D), the last one for the ground; by
    kind a linear layer, "kernel" (D, classes) and "bias" (classes,), which all colours share."""
    D, keys = config.d_model, jax.random.split(key, 1 + len(KINDS))
    reader: dict[str, Any] = {"queries": jax.random.normal(keys[0], (len(COLOURS) + 1, D), F32)}
    for each, (kind, classes) in zip(keys[1:], KINDS.items(), strict=True):
        kernel = jax.random.normal(each, (D, len(classes)), F32) / D**0.5
        reader[kind] = {"kernel": kernel, "bias": jnp.zeros(len(classes), F32)}
    return reader


def read(reader: Mapping[str, Any], states: Array, mask: Array) -> dict[str, Array]:
    """Logits of the classes by kind, float32: (B, colours, classes) of objects, (B, 1, classes) of the ground.

    states: (B, L, D). mask: (B, L) bool, True somewhere in each row. Each query pools the states of the tokens that it
    attends to; a linear layer reads the result.
    """
    states = states.astype(F32)
    with jax.default_matmul_precision("highest"):
        weights = jnp.einsum("sd,bld->bsl", reader["queries"], states) / states.shape[-1] ** 0.5
        weights = jax.nn.softmax(jnp.where(mask[:, None, :], weights, jnp.finfo(F32).min), axis=-1)
        pooled = jnp.einsum("bsl,bld->bsd", weights, states)
        places = dict.fromkeys(OF_OBJECTS, slice(0, -1)) | dict.fromkeys(OF_GROUND, slice(-1, None))
        return {
            kind: pooled[:, place] @ reader[kind]["kernel"] + reader[kind]["bias"] for kind, place in places.items()
        }


@dataclasses.dataclass(frozen=True)
class CaptionReading:
    """The objective as a value. model: with float32 parameters and any compute dtype."""

    model: UMT5Encoder

    def __call__(self, trees: Trees, batch: Captions, keys: Array) -> tuple[Array, Metrics]:
        """See `objective.Objective`. Reads trees.params: {"encoder": the model's parameters, "reader": a reader}.
        Nothing is random, so the keys are not used.

        Metrics: "loss", a caption's sum of cross entropies; "read", the share of captions read without a mistake;
        "read by kind", the same of each of KINDS in their order.
        """
        del keys
        states = self.model.apply({"params": trees.params[ENCODER]}, batch.ids, batch.mask)
        logits = read(trees.params[READER], states, batch.mask)
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(logits[kind], batch.labels[kind]).sum(-1) for kind in KINDS
        ]
        loss = sum(losses[1:], losses[0])
        right = jnp.stack([(logits[kind].argmax(-1) == batch.labels[kind]).all(-1) for kind in KINDS], axis=-1)
        by_kind = Average(right.sum(0, dtype=F32), jnp.full(len(KINDS), len(right), F32))
        return loss.mean(), {"loss": Average.of(loss), "read": Average.of(right.all(-1)), "read by kind": by_kind}
