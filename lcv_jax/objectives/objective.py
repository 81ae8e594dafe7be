"""What every objective takes and returns."""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from lcv_jax.data.loader import Reads
from lcv_jax.flow.schedule import ScheduleConfig
from lcv_jax.models.dit import DiT
from lcv_jax.models.layers import lora_collection
from lcv_jax.models.umt5 import TextStates

Array = jax.Array
Tree = Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "lora", "reference", "ema", "prompts"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Trees:
    """Everything that an objective may read besides its batch; one of the trees is trained, the others are given.

    params: the model's parameters. lora: active adapters by name (models/lora.py). reference: adapters of another
    version of the model, frozen. ema: running mean of what is trained, where the run keeps one. prompts: encoded
    prompts that are the same for all samples, by name, (1, L, D).
    """

    params: Tree = None
    lora: Tree = None
    reference: Tree = None
    ema: Tree = None
    prompts: Mapping[str, TextStates] = dataclasses.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Tree]:
        """What the model is applied with."""
        return self.with_adapters(self.lora)

    def with_adapters(self, lora: Tree) -> dict[str, Tree]:
        """The same with other adapters by name, None for none at all."""
        return {"params": self.params} | ({} if lora is None else {"lora": lora_collection(lora)})


@functools.partial(jax.tree_util.register_dataclass, data_fields=["total", "count"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Average:
    """A mean that is still open: sums of numbers and how many they are, float32, of any one shape.

    Micro-batches, steps and evaluation batches add up to the mean over all samples, whatever their sizes.
    """

    total: Array
    count: Array

    @classmethod
    def of(cls, values: Array) -> "Average":
        """The mean of all `values`."""
        return cls(jnp.sum(values, dtype=jnp.float32), jnp.float32(values.size))

    def __add__(self, other: "Average") -> "Average":
        return Average(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> Array:
        """NaN where nothing was counted."""
        return self.total / self.count


Metrics = dict[str, Average]


class Objective(Protocol):
    def __call__(self, trees: Trees, batch: Any, keys: Array) -> tuple[Array, Metrics]:
        """The mean loss () over the batch, and what else is worth knowing.

        batch: a pytree whose leaves have the samples on their first axis. keys: (B,), one for each sample, so that a
        sample's randomness does not depend on the batch it is in.
        """


@dataclasses.dataclass(frozen=True)
class Settings(abc.ABC):
    """What a config says of an objective of the transformer, and what that needs. Each lies in its objective's file.

    reads: the trees that it cannot do without, of "lora", "reference" and "ema". records: what it reads of the data's.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    records: ClassVar[Reads] = Reads.LATENTS

    @property
    def prompts(self) -> Mapping[str, str]:
        """Texts of the encoded prompts that it reads, by their names in `Trees.prompts`."""
        return {}

    @property
    def schedule(self) -> ScheduleConfig | None:
        """The one that it is trained for; None is any."""
        return None

    @abc.abstractmethod
    def of(self, model: DiT) -> Objective:
        """The objective as a value."""
