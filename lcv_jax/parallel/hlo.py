"""FLOPs of a compiled program, counted in its optimised HLO.

XLA's own cost analysis counts the body of a loop once, so 48 scanned blocks read as one. Here every product
is multiplied by how often it runs.

What is counted: `dot`, `convolution`, the matrix product custom calls that state their dimension numbers
(cuBLAS) and cuDNN's fused attention, wherever they stand: in fusions, calls, asynchronous computations, loops
and branches. A multiplication and its addition are 2 FLOPs; element-wise work is not counted. Backends differ
in what they call a product: on a TPU a matrix product is a convolution, and a product with a vector may
become multiply and reduce, which is not seen. The count is of one device's program.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Protocol

from lcv_jax.errors import InputError
from lcv_jax.parallel.hlo_text import Computation, Instruction, parse
from lcv_jax.parallel.hlo_walk import Walk


class Compiled(Protocol):
    """What `jax.jit(f).lower(...).compile()` returns."""

    def as_text(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Product:
    """One product of the program.

    kind: "dot", "convolution" or a custom call's target. flops: of one execution. times: how often it runs.
    computation: where it stands in the HLO. source: the operation it came from,
    "jit(f)/while/body/dot_general".
    """

    kind: str
    flops: int
    times: int
    computation: str
    source: str

    @property
    def total(self) -> int:
        return self.flops * self.times


@dataclasses.dataclass(frozen=True)
class Flops:
    """What `count_flops` found. uncounted: custom calls whose work is not known, target -> executions."""

    products: tuple[Product, ...]
    uncounted: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(product.total for product in self.products)

    @property
    def convolutions(self) -> int:
        return sum(product.total for product in self.products if product.kind == "convolution")

    @property
    def dots(self) -> int:
        """Matrix products: all but the convolutions."""
        return self.total - self.convolutions


def count_flops(program: Compiled | str) -> Flops:
    """Counts the products of a compiled program or of its optimised HLO text.

    A loop counts as often as it runs, a conditional as its most expensive branch, a computation that is
    called twice twice. Products of a convolution with padding or with the zeros that dilation inserts are not
    counted, as in XLA's own analysis.

    Raises InputError for a text that is no optimised HLO, for a loop around products whose trip count is not
    known, and for a product it cannot count.
    """
    module = parse(program if isinstance(program, str) else program.as_text())
    products, uncounted = [], collections.Counter()
    walk = Walk(_work, lambda work: work.flops or 0, "its FLOPs")
    for found in walk.items(module):
        work = found.item
        if work.flops is None:
            uncounted[work.kind] += found.times
        else:
            products.append(Product(work.kind, work.flops, found.times, work.computation, work.source))
    return Flops(tuple(products), dict(uncounted))


@dataclasses.dataclass(frozen=True)
class _Work:
    """One execution of a product, or of a custom call of unknown work (flops None)."""

    kind: str
    flops: int | None
    computation: str
    source: str


def _work(computation: Computation, instruction: Instruction) -> tuple[_Work, ...]:
    kind = instruction.opcode
    if kind == "dot":
        flops = _dot(computation, instruction)
    elif kind == "convolution":
        flops = _convolution(computation, instruction)
    elif kind == "custom-call":
        kind = instruction.attribute("custom_call_target").strip('"')
        flops = _custom_call(computation, instruction)
    elif "dot" in kind.split("-"):  # ragged-dot, scaled-dot
        raise InputError(f"{instruction.name!r}: products of kind {kind!r} are not counted; write it as a dot")
    else:
        return ()
    return (_Work(kind, flops, computation.name, instruction.source),)


def _dot(computation: Computation, dot: Instruction) -> int:
    contracted = dot.integers("lhs_contracting_dims")
    left = computation.shape(dot.operands[0])
    return 2 * math.prod(dot.shapes[0]) * math.prod(left[axis] for axis in contracted)


def _custom_call(computation: Computation, call: Instruction) -> int | None:
    """FLOPs of a library's product, None when the call does not tell."""
    config = call.backend_config()
    found = _find(config, "intermediate_tensor_shape")
    if found is not None:
        # Fused attention: scores (B, h, N, K). Forward two products, backward five (the scores are
        # recomputed).
        scores = math.prod(int(size) for size in found["dimensions"])
        products = 5 if "Backward" in call.attribute("custom_call_target") else 2
        return 2 * products * scores * computation.shape(call.operands[0])[-1]
    numbers = _find(config, "dot_dimension_numbers")
    if numbers is None:
        return None
    left = computation.shape(call.operands[0])
    contracted = math.prod(left[int(axis)] for axis in numbers["lhs_contracting_dimensions"])
    return 2 * math.prod(call.shapes[0]) * contracted


def _find(config: object, key: str) -> dict | None:
    """The first value under `key` at any depth of nested dicts."""
    if not isinstance(config, dict):
        return None
    if key in config:
        return config[key]
    return next((found for value in config.values() if (found := _find(value, key)) is not None), None)


def _convolution(computation: Computation, convolution: Instruction) -> int:
    """2 x (products of one spatial axis with its window, over all axes) x batch x features out x features
    in.
    """
    left, kernel, out = re.fullmatch(r"(\w+)_(\w+)->(\w+)", convolution.attribute("dim_labels")).groups()
    image = dict(zip(left, computation.shape(convolution.operands[0]), strict=True))
    weights = dict(zip(kernel, computation.shape(convolution.operands[1]), strict=True))
    result = dict(zip(out, convolution.shapes[0], strict=True))
    pairs = 1
    for axis, window in enumerate(_windows(convolution.attribute("window"), len(left) - 2)):
        pairs *= window.pairs(image[str(axis)], weights[str(axis)], result[str(axis)])
    return 2 * pairs * result["b"] * result["f"] * weights["i"]


@dataclasses.dataclass(frozen=True)
class _Window:
    """How a convolution's kernel moves along one axis."""

    stride: int
    low: int  # padding before the first element
    dilation: int  # of the image: zeros between its elements, plus one
    kernel_dilation: int

    def pairs(self, image: int, kernel: int, out: int) -> int:
        """How many (output position, kernel position) meet an element of the image: no padding, no inserted
        zero.
        """
        count = 0
        for tap in range(kernel):
            first = tap * self.kernel_dilation - self.low
            places = range(first, first + out * self.stride, self.stride)
            count += sum(0 <= place <= (image - 1) * self.dilation and place % self.dilation == 0 for place in places)
        return count


def _windows(text: str, axes: int) -> list[_Window]:
    """Reads "{size=3x3 stride=2x2 pad=1_1x1_1 lhs_dilate=2x2 rhs_dilate=1x1}"; what is absent is 1, padding
    0.
    """
    fields = dict(field.split("=") for field in text.strip("{}").split())

    def along(key: str, default: str) -> list[str]:
        return fields[key].split("x") if key in fields else [default] * axes

    return [
        _Window(int(stride), int(pad.split("_")[0]), int(dilation), int(kernel_dilation))
        for stride, pad, dilation, kernel_dilation in zip(
            along("stride", "1"),
            along("pad", "0_0"),
            along("lhs_dilate", "1"),
            along("rhs_dilate", "1"),
            strict=True,
        )
    ]
