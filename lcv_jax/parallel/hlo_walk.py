"""What a program executes: every instruction of its HLO with how often it runs.

A loop counts as often as it runs, a computation that is called twice twice, of a conditional's branches the dearest.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from lcv_jax.errors import InputError
from lcv_jax.parallel.hlo_text import Computation, Instruction, Module
from lcv_jax.parallel.hlo_trips import trip_count

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Found(Generic[Item]):
    """item: what an instruction was read as. times: how often it runs."""

    item: Item
    times: int


@dataclasses.dataclass(frozen=True)
class Walk(Generic[Item]):
    """A way to look at a program.

    read: an instruction as items, none when it is of no interest; what it calls is then walked. cost: of one item,
    which chooses among a conditional's branches. what: is counted, for the errors ("its FLOPs").
    """

    read: Callable[[Computation, Instruction], Sequence[Item]]
    cost: Callable[[Item], int]
    what: str

    def items(self, module: Module) -> Iterator[Found[Item]]:
        """All items that one run of the module executes. Raises InputError where one stands in a loop whose trip count
        is not known."""
        return self._computation(module, module.entry)

    def _computation(self, module: Module, name: str) -> Iterator[Found[Item]]:
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            items = self.read(computation, instruction)
            if items:
                yield from (Found(item, 1) for item in items)
            elif instruction.opcode == "while":
                yield from self._loop(module, computation, instruction)
            elif instruction.opcode == "conditional":
                yield from max(self._branches(module, instruction), key=self._total)
            elif instruction.opcode in ("fusion", "call") or instruction.opcode.endswith("-start"):
                for called in instruction.called("calls") + instruction.called("to_apply"):
                    yield from self._computation(module, called)

    def _branches(self, module: Module, conditional: Instruction) -> Iterator[list[Found[Item]]]:
        for key in ("branch_computations", "true_computation", "false_computation"):
            for branch in conditional.called(key):
                yield list(self._computation(module, branch))

    def _total(self, found: list[Found[Item]]) -> int:
        return sum(f.times * self.cost(f.item) for f in found)

    def _loop(self, module: Module, computation: Computation, loop: Instruction) -> Iterator[Found[Item]]:
        (body,) = loop.called("body")
        once = list(self._computation(module, body))
        if not once:
            return
        trips = trip_count(module, computation, loop)
        if trips is None:
            raise InputError(
                f"loop {loop.name!r} ({loop.source or 'source unknown'}): its trip count is not known from the "
                f"program, so {self.what} cannot be counted; expected a loop of fixed length: use lax.scan"
            )
        for found in once:
            yield dataclasses.replace(found, times=found.times * trips)
