"""Reads the library's source as syntax trees and says where the rules of the house are broken.

Rooms import only from rooms that come before them, whatever form the import takes and wherever it stands. The
functions take the directory that holds the package, so that tests can plant violations in a package of their
own.
"""

import ast
import pathlib
from collections.abc import Iterator

PACKAGE = "lcv_jax"
KERNELS = "lcv_kernels"
GROUND = ("errors", "published", "command_line")
"""Below all rooms; a later one may import an earlier one."""
ROOMS = (
    "ops",
    "models",
    "flow",
    "parallel",
    "checkpoint",
    "data",
    "sample",
    "rewards",
    "objectives",
    "train",
    "eval",
    "app",
)
"""From the ground up. The kernels lie below them, `lcv_jax/__init__.py` above."""
MAY_IMPORT_ANY_ROOM = ("__main__.py", "data/cache.py")
NOWHERE = ("diffusers", "pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
ONLY_IN = {"flax": ("models",), "torch": ("rewards", "data/curation")}
"""Of the package, the folders whose files may import it."""


def sources(root: pathlib.Path, folder: str = PACKAGE) -> list[pathlib.Path]:
    """Python files under root/folder; none when there is no such folder."""
    return sorted((root / folder).rglob("*.py"))


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import in a file that lies in `package`, also inside functions.

    `from a import b` gives "a.b", which may be a module or a name of it. Constant arguments of import_module
    and __import__ count.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((node.lineno, ".".join((*names, alias.name))) for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
            yield from ((node.lineno, name) for name in map(_text, node.args[:1]) if name)


def broken_arrows(root: pathlib.Path) -> list[str]:
    """Imports that do not point down, one line each: "lcv_jax/ops/a.py:3: ops may not import models"."""
    found = []
    for path in sources(root) + sources(root, "kernels"):
        file = path.relative_to(root)
        for line, name in imports(_tree(path), file.parts[:-1]):
            fault = _fault(file, name.split("."))
            if fault:
                found.append(f"{file.as_posix()}:{line}: {fault}")
    return found


def _fault(file: pathlib.Path, name: list[str]) -> str:
    """What is wrong with `file` importing the dotted `name`; "" when nothing is."""
    if file.parts[0] == "kernels":
        return f"kernels may not import {name[0]}" if name[0] == PACKAGE else ""
    inside = file.parts[1:]
    room = inside[0].removesuffix(".py")
    if name[0] in NOWHERE:
        return f"{name[0]} may not be imported"
    folders = [folder.as_posix() for folder in pathlib.PurePosixPath(*inside).parents]
    if name[0] in ONLY_IN and not set(ONLY_IN[name[0]]) & set(folders):
        return f"{name[0]} may be imported in {' and '.join(ONLY_IN[name[0]])} only"
    if name[0] != PACKAGE:
        return ""
    if room in ("__init__", "__main__"):
        return ""
    floors = (*GROUND, *ROOMS)
    if room not in floors:
        return f"room {room!r} is not in the list of rooms"
    target = name[1] if len(name) > 1 else ""
    if target == "__version__":
        return ""
    if target not in floors:
        return f"{room} may not import {'.'.join(name)}: neither a room nor {' nor '.join(GROUND)}"
    allowed = floors if _any_room(inside) else floors[: floors.index(room) + 1]
    return "" if target in allowed else f"{room} may not import {target}"


def _any_room(inside: tuple[str, ...]) -> bool:
    return "/".join(inside) in MAY_IMPORT_ANY_ROOM or inside[-1] in MAY_IMPORT_ANY_ROOM


def unsafe_loads(root: pathlib.Path) -> list[str]:
    """Calls that may run code from a file: allow_pickle with anything but False, weights_only likewise but
    True.
    """
    found = []
    for path in sources(root):
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.keyword) or node.arg not in ("allow_pickle", "weights_only"):
                continue
            safe = node.arg == "weights_only"
            if not (isinstance(node.value, ast.Constant) and node.value.value is safe):
                found.append(f"{path.relative_to(root).as_posix()}:{node.value.lineno}: {node.arg}")
    return found


def import_time_environment(root: pathlib.Path) -> list[str]:
    """Where os.environ, os.getenv or the like are touched while a module is being imported."""
    return [
        f"{path.relative_to(root).as_posix()}:{node.lineno}: {_last_name(node)}"
        for path in sources(root)
        for node in _at_import(_tree(path))
        if isinstance(node, ast.Attribute | ast.Name) and _last_name(node) in ("environ", "getenv", "putenv")
    ]


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: everything but the bodies of functions."""
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from _at_import(child)


def undocumented(root: pathlib.Path) -> list[str]:
    """Files without a docstring."""
    return [path.relative_to(root).as_posix() for path in sources(root) if not ast.get_docstring(_tree(path))]


def too_long(root: pathlib.Path, limit: int) -> list[str]:
    """Files of more than `limit` lines, kernels not looked at."""
    lengths = ((path, len(path.read_text().splitlines())) for path in sources(root))
    return [f"{path.relative_to(root).as_posix()}: {lines}" for path, lines in lengths if lines > limit]


def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _last_name(node: ast.expr) -> str:
    """ "c" of the expression a.b.c, "" of what is no name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    """The string that a constant holds, "" of anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
