"""How often a loop of an HLO module runs.

XLA's CPU and GPU compilers write the trip count of a counted loop beside it; where they do not (TPU), it is
worked out from the counter: its start, its step and the bound of the loop's condition.
"""

import dataclasses

from lcv_jax.parallel.hlo_text import Computation, Instruction, Module

_UNCHANGED = ("copy", "bitcast", "convert", "reshape")
_MIRRORED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}


@dataclasses.dataclass(frozen=True)
class _Scalar:
    """An integer of the loop: element `index` of its state plus `offset`; index None is the constant
    `offset`.
    """

    index: int | None
    offset: int


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """The number of times that `loop`, a while of `computation`, runs its body; None when the text does not
    tell.
    """
    known = loop.backend_config().get("known_trip_count")
    if known is not None:
        return int(known["n"])
    (condition,) = loop.called("condition")
    compared = _comparison(module, module.computations[condition], ())
    if compared is None:
        return None
    direction, left, right = compared
    bounds = [_bounds(module, computation, loop, side) for side in (left, right)]
    if None in bounds:
        return None
    (start, step), (limit, limit_step) = bounds
    if limit_step:  # the counter stands on the right
        start, step, limit, limit_step, direction = limit, limit_step, start, step, _MIRRORED.get(direction)
    if limit_step or not step:
        return None
    if direction in ("LT", "LE") and step > 0:
        return len(range(start, limit + (direction == "LE"), step))
    if direction in ("GT", "GE") and step < 0:
        return len(range(start, limit - (direction == "GE"), step))
    return None


def _bounds(module: Module, computation: Computation, loop: Instruction, side: _Scalar) -> tuple[int, int] | None:
    """Value at the first test and step per iteration of one side of the loop's comparison."""
    if side.index is None:
        return side.offset, 0
    (body_name,) = loop.called("body")
    body = module.computations[body_name]
    state = computation.instructions[loop.operands[0]]
    update = body.instructions[body.root]
    if state.opcode != "tuple" or update.opcode != "tuple":
        return None
    first = _scalar(module, computation, state.operands[side.index], ())
    after = _scalar(module, body, update.operands[side.index], ())
    if first is None or first.index is not None or after is None or after.index != side.index:
        return None
    return first.offset + side.offset, after.offset


def _comparison(
    module: Module, computation: Computation, arguments: tuple[_Scalar | None, ...]
) -> tuple[str, _Scalar, _Scalar] | None:
    """Direction and sides of the comparison that a loop's condition returns."""
    root = computation.instructions[computation.root]
    if root.opcode in ("fusion", "call"):
        (called,) = root.called("calls") + root.called("to_apply")
        inner = tuple(_scalar(module, computation, operand, arguments) for operand in root.operands)
        return _comparison(module, module.computations[called], inner)
    if root.opcode != "compare":
        return None
    left, right = (_scalar(module, computation, operand, arguments) for operand in root.operands)
    return None if left is None or right is None else (root.attribute("direction"), left, right)


def _scalar(
    module: Module, computation: Computation, name: str, arguments: tuple[_Scalar | None, ...]
) -> _Scalar | None:
    """What an integer instruction is, None when it is not a constant or an element of the state plus a
    constant.

    arguments: what the computation's parameters are, () for a loop's body or condition, whose one parameter
    is the state.
    """
    instruction = computation.instructions[name]
    if instruction.opcode == "parameter" and arguments:
        return arguments[int(instruction.inside)]
    if instruction.opcode == "constant":
        digits = instruction.inside.removeprefix("-").isdecimal()
        return _Scalar(None, int(instruction.inside)) if digits else None
    if instruction.opcode == "get-tuple-element":
        whole = computation.instructions[instruction.operands[0]]
        return _Scalar(instruction.integers("index")[0], 0) if whole.opcode == "parameter" else None
    inner = tuple(_scalar(module, computation, operand, arguments) for operand in instruction.operands)
    if not inner or None in inner:
        return None
    if instruction.opcode in _UNCHANGED:
        return inner[0]
    if instruction.opcode in ("fusion", "call"):
        (called,) = instruction.called("calls") + instruction.called("to_apply")
        target = module.computations[called]
        return _scalar(module, target, target.root, inner)
    if instruction.opcode == "add":
        return _sum(*inner)
    if instruction.opcode == "subtract" and inner[1].index is None:
        return _Scalar(inner[0].index, inner[0].offset - inner[1].offset)
    return None


def _sum(left: _Scalar, right: _Scalar) -> _Scalar | None:
    if left.index is not None and right.index is not None:
        return None
    return _Scalar(left.index if right.index is None else right.index, left.offset + right.offset)
