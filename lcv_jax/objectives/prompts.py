"""Encoded prompts that are the same for all samples, in the form of a batch's text."""

import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Trees

EMPTY, NEGATIVE = "empty", "negative"
"""Names among `Trees.prompts`: of the empty prompt, and of the one that guidance leads away from."""


def prompt(trees: Trees, name: str, like: TextStates) -> TextStates:
    """The prompt of a name, (1, L, D) in the dtype of the batch's text `like` (B, L, D).

    It gets padding up to L: how much padding there is changes what the network sees, because it may be attended to.
    Raises InputError if there is no such prompt, or it does not go with the text.
    """
    if name not in trees.prompts:
        raise InputError(f"there is no encoded prompt {name!r}: give its states among the trees' prompts")
    found = trees.prompts[name]
    (rows, length, width), (_, L, D) = found.states.shape, like.states.shape
    if rows != 1 or length > L or width != D:
        raise InputError(
            f"the prompt {name!r} has states {(rows, length, width)}: expected one row of at most {L} tokens of {D}, "
            "like the batch's text; encode it with the same text encoder and length"
        )
    states = jnp.pad(found.states, ((0, 0), (0, L - length), (0, 0))).astype(like.states.dtype)
    return TextStates(states, jnp.pad(found.mask, ((0, 0), (0, L - length))))
