"""What tests ask of traced programs."""

from collections.abc import Iterator

from jax.extend import core


def equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """All equations of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def product_precisions(jaxpr: core.Jaxpr) -> set[str]:
    """Precisions of all matrix products and convolutions, as text."""
    names = ("dot_general", "conv_general_dilated")
    return {str(eqn.params["precision"]) for eqn in equations(jaxpr) if eqn.primitive.name in names}
