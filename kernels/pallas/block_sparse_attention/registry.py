"""Which implementation runs: one ordered table, asked in one place.

The first implementation that supports a call is taken; which one, and why those before it were not, is logged once.
An implementation that is asked for by name runs or says why it cannot.
"""

import dataclasses
import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

import jax

from lcv_kernels.pallas.block_sparse_attention import reference, xla

logger = logging.getLogger(__name__)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Call:
    """What decides which implementation runs.

    platform, device_kind: of the device that is compiled for, "gpu" and "NVIDIA H200" say. dtype: of q, k and v.
    block_q, block_k: tokens of a block. keys: tokens of k. selected: R, the most key blocks of a row.
    """

    platform: str
    device_kind: str
    dtype: str
    head_dim: int
    block_q: int
    block_k: int
    keys: int
    selected: int


class Attend(Protocol):
    """An implementation of `attend_blocks` that returns both outputs, differentiable in q, k and v."""

    def __call__(
        self, q: Array, k: Array, v: Array, indices: Array, counts: Array, *, block_q: int, block_k: int, config: Any
    ) -> tuple[Array, Array]: ...


@dataclasses.dataclass(frozen=True)
class Implementation:
    """attend: the computation. refuses: why it does not support a call with this config, None if it does.

    The config is of the implementation's own type, or None for the one it knows best.
    """

    attend: Attend
    refuses: Callable[[Call, Any], str | None]


def choose(call: Call, name: str | None, config: Any) -> Attend:
    """The implementation that runs `call`.

    Raises ValueError for an unknown name, for one that does not support the call, and when no implementation does.
    """
    return _IMPLEMENTATIONS[chosen(call, name, config)].attend


def chosen(call: Call, name: str | None, config: Any) -> str:
    """The name of what `choose` gives: for those whose config depends on it."""
    return _choose(call, name, config)


def target_device() -> tuple[str, str]:
    """(platform, kind) of the device that is compiled for: the abstract mesh's where it names one, else the default."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.devices()[0]
    return device.platform, device.device_kind


@functools.cache
def _choose(call: Call, name: str | None, config: Any) -> str:
    if name is not None:
        if name not in _IMPLEMENTATIONS:
            known = ", ".join(map(repr, _IMPLEMENTATIONS))
            raise ValueError(f"implementation {name!r} is not known: expected None or one of {known}")
        if reason := _IMPLEMENTATIONS[name].refuses(call, config):
            raise ValueError(f"implementation {name!r} does not support this call: {reason}")
        return name
    reasons = []
    for candidate in _AUTOMATIC:
        reason = _IMPLEMENTATIONS[candidate].refuses(call, config) or _UNPROVED.get(candidate)
        if reason is None:
            slow = call.platform == "gpu" and candidate == "xla"
            because = "".join(f"; not {reason}" for reason in reasons)
            _log_once(logging.WARNING if slow else logging.INFO, f"block sparse attention: {candidate}{because}")
            return candidate
        reasons.append(f"{candidate}: {reason}")
    raise ValueError(f"no implementation supports this call: {'; '.join(reasons)}")


@functools.cache
def _log_once(level: int, message: str) -> None:
    logger.log(level, message)


def _mosaic_gpu_refuses(call: Call, config: Any) -> str | None:
    if call.platform not in ("gpu", "cuda"):
        return f"it needs a Hopper GPU, not {call.device_kind!r} ({call.platform})"
    try:
        kernels = _mosaic_gpu()
    except ImportError as error:
        return f"this JAX cannot load its kernels: {error}"
    return kernels.refuses(call, config)


def _mosaic_gpu_attend(*arrays: Array, **settings: Any) -> tuple[Array, Array]:
    return _mosaic_gpu().attend(*arrays, **settings)


def _mosaic_gpu():
    """The kernels' module, which only those import who use it: an `attend` and a `refuses` as of Implementation."""
    return importlib.import_module("lcv_kernels.pallas.block_sparse_attention.mosaic_gpu")


def _xla_attend(*arrays: Array, config: xla.XlaConfig | None, **settings: int) -> tuple[Array, Array]:
    return xla.attend(*arrays, config=config or xla.config_for(target_device()[0]), **settings)


def _xla_refuses(call: Call, config: Any) -> str | None:
    if config is not None and not isinstance(config, xla.XlaConfig):
        return f"its config is an XlaConfig, not {config!r}"
    return None


def _reference_attend(*arrays: Array, config: None, **settings: int) -> tuple[Array, Array]:
    return reference.attend(*arrays, **settings)


def _reference_refuses(call: Call, config: Any) -> str | None:
    return None if config is None else f"it takes no config, not {config!r}"


_IMPLEMENTATIONS = {
    "mosaic_gpu": Implementation(_mosaic_gpu_attend, _mosaic_gpu_refuses),
    "xla": Implementation(_xla_attend, _xla_refuses),
    "reference": Implementation(_reference_attend, _reference_refuses),
}
# In the order in which they are asked when none is named.
_AUTOMATIC = ("mosaic_gpu", "xla")
# Why one is not taken unless it is named. To be emptied with the results of benchmarks/bsa_gpu.py on a Hopper GPU.
_UNPROVED = {"mosaic_gpu": "it has not run on a GPU yet (docs/kernels.md), name it to use it"}
