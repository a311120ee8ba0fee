"""The messages of the packages, found in their source: the class of the error, and its text with placeholders.

A placeholder is the name of what stands there, in capitals: `PATH: no such directory`.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from npy2tfrecord import errors

ROOT = Path(__file__).resolve().parent.parent
CLASSES = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.Error)
}
# Functions that make an error from texts that are their arguments: the class of the error.
MAKERS = {"damaged": "InputError", "refuse": "UsageError", "_conflict": "ConflictError", "changed": "UnstableError"}
MANIFEST_PARSING = "npy2tfrecord/formats/manifest_parsing.py"  # where `fail` is a method of a member of the manifest
_MAX_DEPTH = 2  # of names, and functions, that stand for other ones
_MAX_VARIANTS = 12  # of a message that is put together from parts


# What names stand for in a scope; with parentheses behind it, a name is that of a function.
Names = dict[str, list[ast.AST]]


@dataclass(frozen=True, order=True)
class Message:
    """A text that an error has, and the module where it is made."""

    module: str
    kind: str
    text: str


@functools.cache
def messages() -> tuple[Message, ...]:
    """All messages of both packages, each once."""
    found: set[Message] = set()
    for package in ("npy2tfrecord", "readers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found.update(_messages_of(path))
    return tuple(sorted(found))


def _messages_of(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_bytes(), path)
    module = str(path.relative_to(ROOT))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    constants = _assigned(tree.body) | {f"{function.name}()": [function] for function in functions}
    seen = set()
    for scope in (*reversed(functions), tree):  # the innermost function first, which has what its names stand for
        names = constants | (_assigned(scope.body) if isinstance(scope, ast.FunctionDef) else {})
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and id(node) not in seen:
                seen.add(id(node))
                yield from (Message(module, kind, " ".join(text.split())) for kind, text in _texts(module, node, names))


def _assigned(body: list[ast.stmt]) -> Names:
    """What the names of a function, or of a module, stand for."""
    names: Names = {}
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                names.setdefault(node.targets[0].id, []).append(node.value)
    return names


def _texts(module: str, call: ast.Call, names: Names) -> Iterator[tuple[str, str]]:
    """The class and the texts of an error that this call makes, if it does: not those of placeholders alone."""
    function, arguments = call.func, call.args
    name = getattr(function, "id", "") or getattr(function, "attr", "")
    if name == "from_os":
        for doing in _variants(arguments[0], names):
            yield "OutputError", f"cannot {doing} PATH: REASON. Run the same command again to resume."
    elif name == "fail" and module == MANIFEST_PARSING and isinstance(function, ast.Attribute):
        for expected in _variants(arguments[0], names):
            yield "DamageError", f"MEMBER: found VALUE, expected {expected}"
    elif name in MAKERS or (name in CLASSES and arguments):
        kind = MAKERS.get(name, name)
        rest = arguments[issubclass(CLASSES[kind], errors.InputError) :]  # without the place, which is no text
        for texts in itertools.product(*(_variants(each, names) for each in rest)):
            text = "; expected ".join(text for text in texts if text)
            if re.search("[a-z]{2}", text.replace("expected", "")):
                yield kind, text


def _variants(node: ast.AST, names: Names, depth: int = 0) -> list[str]:
    """The texts that an expression may have, with placeholders for what is not known."""
    if isinstance(node, ast.Starred):
        return _variants(node.value, names, depth)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and depth < _MAX_DEPTH:
        for function in names.get(f"{node.func.id}()", ()):
            assert isinstance(function, ast.FunctionDef)
            inside = names | _assigned(function.body)
            values = [each.value for each in ast.walk(function) if isinstance(each, ast.Return) and each.value]
            texts = _distinct(text for value in values for text in _variants(value, inside, depth + 1))
            if any(re.search("[a-z]{3}", text) for text in texts):
                return texts
    if isinstance(node, ast.Tuple):  # what was found and what was expected
        parts = itertools.product(*(_variants(part, names, depth) for part in node.elts))
        return _distinct("; expected ".join(text for text in texts if text) for texts in parts)
    if isinstance(node, ast.Constant):
        return [str(node.value)] if isinstance(node.value, (str, int)) else ["…"]
    if isinstance(node, ast.JoinedStr):
        return _joined([_variants(part, names, depth) for part in node.values])
    if isinstance(node, ast.FormattedValue):
        return _variants(node.value, names, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined([_variants(node.left, names, depth), _variants(node.right, names, depth)])
    if isinstance(node, ast.IfExp):
        return _distinct(_variants(node.body, names, depth) + _variants(node.orelse, names, depth))
    if isinstance(node, ast.Name) and depth < _MAX_DEPTH:
        meant = [value for value in names.get(node.id, ()) if _is_text(value)]
        if meant:
            return _distinct(text for value in meant for text in _variants(value, names, depth + 1))
    return [_placeholder(node)]


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add) and (_is_text(node.left) or _is_text(node.right))
    return isinstance(node, ast.JoinedStr)


def _joined(parts: list[list[str]]) -> list[str]:
    return _distinct("".join(texts) for texts in itertools.islice(itertools.product(*parts), _MAX_VARIANTS))


def _distinct(texts: Iterator[str] | list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _placeholder(node: ast.AST) -> str:
    """The name in capitals of what an expression is: `display(shard.path)` is PATH."""
    last = ""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr not in _SAYING_NOTHING:
            last = last or part.attr
        elif isinstance(part, ast.Name) and part.id not in _SAYING_NOTHING:
            last = last or part.id
    name = re.sub("_+", "-", last.strip("_")).upper()
    return name if len(name) > 1 else "N" if name == "N" else "…"


_SAYING_NOTHING = {
    *("display", "join", "repr", "len", "str", "map", "sorted", "min", "max", "sum", "int", "list", "os", "fspath"),
    *("bytes", "self", "strerror", "get", "tolist", "rstrip", "hex", "type", "basename", "path", "rows"),
} - {"path"}
