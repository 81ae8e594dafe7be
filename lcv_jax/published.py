"""Published JSON files, read strictly: a key that is not understood is refused by name, never passed over.

Every message begins with `where`: the file that was read, or what is described when no file was.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Collection, Mapping
from typing import Any

from lcv_jax.errors import InputError

_NOTHING: Mapping[str, Any] = {}


def fields(
    where: str,
    data: Mapping[str, Any],
    cls: type,
    *,
    renamed: Mapping[str, str] = _NOTHING,
    fixed: Mapping[str, Any] = _NOTHING,
    optional: Collection[str] = (),
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The values that a JSON object gives to the fields of the dataclass `cls`, under our names, lists as tuples.

    renamed: our name -> the published one. fixed: keys of which we compute one value only. optional: published names
    of fields and fixed keys that may be absent; all others must be there. ignored: names, or patterns such as
    "enable_*", that do not change what is computed; names that begin with "_" never do. Raises InputError on other
    keys, missing keys and other values of fixed ones; the fields' values are checked by `cls`.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: {data!r}: expected a JSON object")
    names = {renamed.get(field.name, field.name): field.name for field in dataclasses.fields(cls)}
    for key, value in fixed.items():
        expect(data.get(key, value) == value, where, key, data.get(key), f"{value!r}, the only value supported")
    patterns = ("_*", *ignored)
    for key in data:
        if key not in names and key not in fixed and not any(fnmatch.fnmatchcase(key, p) for p in patterns):
            raise InputError(
                f"{where}: unknown field {key!r}: expected only {', '.join(sorted(names))}; "
                "check that the file belongs to this model"
            )
    if missing := sorted({*names, *fixed} - {*data, *optional}):
        raise InputError(f"{where}: field {missing[0]!r} is missing: take the file from the published checkpoint")
    return {ours: _frozen(data[key]) for key, ours in names.items() if key in data}


def expect(holds: bool, where: str, name: str, value: object, expected: str) -> None:
    """Raises InputError unless `holds`."""
    if not holds:
        raise InputError(f"{where}: {name}={value!r}: expected {expected}")


def positive(where: str, name: str, value: object, kind: type = int) -> None:
    """Raises InputError unless `value` is a positive whole number, or with kind=float a positive number."""
    whole = "whole " if kind is int else ""
    expect(is_number(value, kind) and value > 0, where, name, value, f"a positive {whole}number")


def positives(where: str, name: str, value: object, count: int) -> None:
    """Raises InputError unless `value` is a tuple of `count` positive whole numbers."""
    good = isinstance(value, tuple) and len(value) == count and all(is_number(v) and v > 0 for v in value)
    expect(good, where, name, value, f"{count} positive whole numbers")


def is_number(value: object, kind: type = int) -> bool:
    """Whether `value` is a finite number: a whole one for int, any for float; true and false are none."""
    kinds = int if kind is int else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
