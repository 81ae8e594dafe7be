"""A plan as text and as JSON."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from lcv_jax.models.precision import FLOAT32
from lcv_jax.parallel import plan_traffic
from lcv_jax.parallel.footprint import HOST
from lcv_jax.parallel.plan import Asked, Estimate, Memory, step_moment
from lcv_jax.parallel.plan_compile import Compiled, Refused
from lcv_jax.parallel.plan_devices import GB

ANALYTIC = "arithmetic, bfloat16, fused attention"


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is known of a plan. compiled: None where nothing was compiled."""

    asked: Asked
    estimate: Estimate
    compiled: Compiled | Refused | None = None

    @property
    def on_tpu(self) -> bool:
        """Whether the compiler's figures are those of the device itself."""
        return self.asked.device.tpu is not None and self.compiled is not None

    @property
    def memory(self) -> Memory:
        """By arithmetic, or for a TPU with the compiler's temporaries, the activations among them."""
        memory = self.estimate.memory
        if not (self.on_tpu and isinstance(self.compiled, Compiled)):
            return memory
        gradients = memory.gradients  # the compiler counts them among the temporaries
        temporaries = max(self.compiled.temporaries - gradients, 0)
        return dataclasses.replace(memory, activations=None, temporaries=temporaries)

    @property
    def total(self) -> int:
        return self.compiled.needed if isinstance(self.compiled, Refused) else self.memory.total

    @property
    def fits(self) -> bool:
        return not isinstance(self.compiled, Refused) and self.total <= self.asked.device.usable

    @property
    def flops(self) -> float:
        return self.compiled.flops if self.on_tpu and isinstance(self.compiled, Compiled) else self.estimate.flops

    @property
    def sent(self) -> Mapping[str, float]:
        """Bytes that a device sends in a step, by kind of collective."""
        if self.on_tpu and isinstance(self.compiled, Compiled):
            return self.compiled.sent
        return plan_traffic.sent_by_kind(self.estimate.traffic, self.asked.mesh)

    @property
    def source(self) -> str:
        return self.compiled.source if self.on_tpu else ANALYTIC

    @property
    def ratio(self) -> float:
        """Seconds of communication at the links' full rate over seconds of products at the peak."""
        asked = self.asked
        sent = self.estimate.traffic_seconds(asked.mesh, asked.device)
        return sent / self.estimate.compute_seconds(asked.device)

    @property
    def expected_temporaries(self) -> int:
        """What arithmetic expects of the compiled program of virtual CPU devices: float32, attention not fused."""
        return self.estimate.memory.gradients + step_moment(self.asked, FLOAT32, HOST).total


def lines(report: Report) -> Iterator[str]:
    """The output of the command."""
    r, asked = report, report.asked
    task, T = asked.task, asked.task.latents(asked.architecture)
    yield f"plan: {asked.model}, {task.name}, {asked.mesh.devices} x {asked.device.name}, mesh {asked.mesh}"
    video = f"{task.size[0]} x {task.size[1]} x {task.frames}, latents {T[0]} x {T[1]} x {T[2]}"
    extra = f"remat {asked.remat}" if task.kind == "train" else f"{task.passes} passes of the network a sample"
    yield f"step: {task.kind}, {video}, {task.attention} attention, batch {asked.batch}, {extra}"
    yield f"tokens per device: {asked.tokens:,}"
    yield f"bytes per device: {_gb(r.total)} of {_gb(asked.device.usable)} usable ({r.source})"
    for name, value in dataclasses.asdict(r.memory).items():
        if value is None:
            yield f"  {name}: among the temporaries"
        elif value:
            yield f"  {name}: {_gb(value)}"
    yield f"FLOPs per device: {r.flops / 1e15:.3f} PFLOP, {r.flops / asked.device.flops:.2f} s at the peak"
    yield f"sent per device: {_gb(sum(r.sent.values()))}" + _kinds(r.sent)
    yield f"communication over compute: {r.ratio:.2f} (links and products at their full rates, nothing overlapped)"
    yield from _compared(r)
    yield f"fits: {'yes' if r.fits else 'no'}"


def _compared(r: Report) -> Iterator[str]:
    if r.compiled is None:
        return
    yield f"compiled: {r.compiled.source}, {r.compiled.seconds:.0f} s"
    if isinstance(r.compiled, Refused):
        yield f"  refused: it would need {_gb(r.compiled.needed)}"
        return
    c = r.compiled
    if not r.on_tpu:
        expected = r.expected_temporaries
        share = expected / c.temporaries
        yield f"  temporaries: {_gb(c.temporaries)}; by arithmetic {_gb(expected)}, {share:.2f} of it"
    least = r.estimate.flops
    yield f"  FLOPs: {c.flops / 1e15:.3f} PFLOP; by arithmetic {least / 1e15:.3f}, {least / c.flops:.2f} of it"
    # Everything that is sent is as wide as the compute dtype.
    width = 1 if r.on_tpu else FLOAT32.compute.itemsize / r.asked.precision.compute.itemsize
    expected = {
        kind: width * sent for kind, sent in plan_traffic.sent_by_kind(r.estimate.traffic, r.asked.mesh).items()
    }
    yield f"  sent: {_gb(sum(c.sent.values()))}{_kinds(c.sent)}"
    yield f"    by arithmetic {_gb(sum(expected.values()))}{_kinds(expected)}"


def record(report: Report) -> dict[str, Any]:
    """The report as JSON values; bytes, FLOPs and seconds are plain numbers."""
    r, asked = report, report.asked
    found: dict[str, Any] = {
        "model": asked.model,
        "task": asked.task.name,
        "device": asked.device.name,
        "devices": asked.mesh.devices,
        "mesh": asked.mesh.sizes,
        "batch": asked.batch,
        "remat": asked.remat,
        "tokens": asked.tokens,
        "bytes": r.total,
        "usable": asked.device.usable,
        "memory": dataclasses.asdict(r.memory),
        "flops": r.flops,
        "sent": dict(r.sent),
        "communication_over_compute": r.ratio,
        "fits": r.fits,
        "source": r.source,
        "compiled": None if r.compiled is None else dataclasses.asdict(r.compiled),
    }
    if isinstance(r.compiled, Compiled) and not r.on_tpu:
        found["expected_temporaries"] = r.expected_temporaries
        found["expected_flops"] = r.estimate.flops
        found["expected_sent"] = plan_traffic.sent_by_kind(r.estimate.traffic, asked.mesh)
    return found


def _kinds(sent: Mapping[str, float]) -> str:
    return f" ({', '.join(f'{kind} {_gb(size)}' for kind, size in sent.items())})" if sent else ""


def _gb(size: float) -> str:
    return f"{size / GB:.2f} GB"
