"""The text of an optimised HLO module, read into computations and instructions.

Only what counting needs is read: names, shapes, operands, called computations and attributes. The grammar is
that of `compiled.as_text()`: one instruction a line,

    ROOT %dot.1 = f32[64,128]{1,0} dot(%a, %b), lhs_contracting_dims={1}, ..., metadata={op_name="..."}
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping

from lcv_jax.errors import InputError

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*->.*\{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_BRACKETS = {"(": ")", "{": "}", "[": "]"}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """shapes, dtypes: of the result's arrays, several for a tuple; dtypes as HLO writes them, "bf16". inside: the text
    between the opcode's parentheses.
    """

    name: str
    opcode: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    inside: str
    attributes: str

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        return tuple(_NAME.findall(self.inside))

    def attribute(self, key: str) -> str:
        """The text after `key=`, brackets included; "" when absent."""
        found = re.search(rf"(?:^|[ ,]){key}=", self.attributes)
        if found is None:
            return ""
        rest = self.attributes[found.end() :]
        if rest[:1] in _BRACKETS:
            return rest[: _closing(rest, 0) + 1]
        return re.match(r'"[^"]*"|[^\s,]*', rest)[0]

    def integers(self, key: str) -> tuple[int, ...]:
        """The numbers of an attribute such as lhs_contracting_dims={1,2}; () when absent."""
        return tuple(int(number) for number in re.findall(r"-?\d+", self.attribute(key)))

    def called(self, key: str) -> list[str]:
        """Names of the computations that an attribute such as calls=%a or branch_computations={%a, %b}
        lists.
        """
        return _NAME.findall(self.attribute(key))

    def backend_config(self) -> Mapping:
        """The backend's JSON; empty when there is none or it is another format."""
        try:
            config = json.loads(self.attribute("backend_config") or "{}")
        except json.JSONDecodeError:
            return {}
        return config if isinstance(config, dict) else {}

    @property
    def source(self) -> str:
        """The operation it came from, "" when unknown."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A named list of instructions; root is the name of the one whose value it returns."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an instruction's (first) array."""
        return self.instructions[name].shapes[0]


@dataclasses.dataclass(frozen=True)
class Module:
    """computations: by name. entry: the name of the one that the program runs."""

    computations: Mapping[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Reads the text of an optimised HLO module. Raises InputError when it is none."""
    computations, entry = {}, None
    name, instructions, root = None, {}, ""
    for line in text.splitlines():
        if name is None:
            if header := _HEADER.match(line):
                name, instructions, root = header[2], {}, ""
                entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, instructions, root)
            name = None
        elif start := _START.match(line):
            instruction = _instruction(start[2], line[start.end() :])
            instructions[instruction.name] = instruction
            root = instruction.name if start[1] else root
    if entry not in computations:
        raise InputError(
            f"no ENTRY computation in a text that starts {text[:40]!r}: expected optimised HLO; "
            "pass jax.jit(f).lower(...).compile()"
        )
    return Module(computations, entry)


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    close = _closing(rest, opcode.end() - 1)
    arrays = _ARRAY.findall(rest[:end])
    shapes = tuple(tuple(int(size.removeprefix("<=")) for size in sizes.split(",") if size) for _, sizes in arrays)
    dtypes = tuple(dtype for dtype, _ in arrays)
    return Instruction(name, opcode[1], shapes, dtypes, rest[opcode.end() : close], rest[close + 1 :])


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`; brackets inside quotes do not count."""
    opening, closing = text[start], _BRACKETS[text[start]]
    depth, quoted = 0, False
    for index in range(start, len(text)):
        character = text[index]
        if character == '"' and text[index - 1] != "\\":
            quoted = not quoted
        elif not quoted and character == opening:
            depth += 1
        elif not quoted and character == closing:
            depth -= 1
            if depth == 0:
                return index
    raise InputError(f"unbalanced {opening!r} in the HLO line that starts {text[:60]!r}: the text is truncated")
