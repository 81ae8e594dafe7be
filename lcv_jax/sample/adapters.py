"""The LoRAs of one DiT by name: those that were loaded, and the checkpoint's own, read when first asked for."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from lcv_jax.checkpoint import lora
from lcv_jax.models.layers import lora_collection
from lcv_jax.sample.opened import Opened


class Adapters:
    """Loaded LoRAs are kept: the one thing in a pipeline that changes after it was made."""

    def __init__(self, opened: Opened):
        self._opened = opened
        self._loaded: dict[str, Any] = {}

    def load(self, path: str | os.PathLike[str], name: str, scale: float = 1.0) -> None:
        """Reads a LoRA file under a name, in place of what had it. scale multiplies the file's own."""
        opened = self._opened
        where = functools.partial(opened.placement.lora, opened.dit.config, opened.dit_abstract)
        adapter = lora.load_lora(path, opened.dit_abstract, dtype=opened.precision.param, shardings=where)
        self._loaded[name] = _scaled(adapter, scale)

    def put(self, adapter: Mapping[str, Any], name: str) -> None:
        """Takes a LoRA tree that is loaded already, in place of what had the name."""
        self._loaded[name] = adapter

    def trees(self, names: Sequence[str]) -> dict[str, Any]:
        """The LoRA trees of these names. Raises InputError on a name that nothing has."""
        for name in names:
            if name not in self._loaded:
                self.load(self._opened.lora_file(name), name)
        return {name: self._loaded[name] for name in names}

    def collection(self, names: Sequence[str]) -> dict[str, Any]:
        """The "lora" collection in which these are active. Raises InputError on a name that nothing has."""
        return lora_collection(self.trees(names))


def _scaled(tree: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """A LoRA tree whose scales are multiplied by `scale`."""
    return {
        key: _scaled(value, scale) if isinstance(value, Mapping) else value * scale if key == "scale" else value
        for key, value in tree.items()
    }
