"""What a traced program is made of."""

from collections.abc import Iterator
from typing import Any

import jax

EXACT = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)


def equations(program: Any) -> Iterator[Any]:
    """The equations of a jaxpr and of all that lie within it."""
    for equation in getattr(program, "jaxpr", program).eqns:
        yield equation
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program)
        for program in filter(_is_program, inner):
            yield from equations(program)


def operand_dtypes(program: Any) -> dict[str, set[str]]:
    """Primitive -> the dtypes of its operands."""
    found: dict[str, set[str]] = {}
    for equation in equations(program):
        found.setdefault(equation.primitive.name, set()).update(str(v.aval.dtype) for v in equation.invars)
    return found


def precisions(program: Any) -> dict[str, set[Any]]:
    """Precisions of a program's products, by primitive: EXACT, or None for what the backend likes."""
    found: dict[str, set[Any]] = {}
    for equation in equations(program):
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.setdefault(equation.primitive.name, set()).add(equation.params["precision"])
    return found


def _is_program(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
