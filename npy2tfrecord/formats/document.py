"""Reading a JSON document that may hold anything: typed getters, whose errors say where in it."""

from __future__ import annotations

import re
from typing import Any

from npy2tfrecord.errors import DamageError


class Node:
    """A value of a JSON document that knows its path, for errors that say where."""

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    def fail(self, expected: str) -> DamageError:
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else shown[:60] + "…"
        return DamageError(f"{self.path or 'the top level'}: found {shown}, expected {expected}")

    def mapping(self) -> dict[str, Node]:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        prefix = f"{self.path}." if self.path else ""
        return {name: Node(value, f"{prefix}{name}") for name, value in self.value.items()}

    def get(self, name: str) -> Node:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        if name not in self.value:
            raise DamageError(f"{self.path or 'the top level'}: no member {name!r}")
        return Node(self.value[name], f"{self.path}.{name}" if self.path else name)

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.fail("a list")
        return [Node(value, f"{self.path}[{i}]") for i, value in enumerate(self.value)]

    def string(self, pattern: re.Pattern[str] | None = None) -> str:
        if not isinstance(self.value, str) or (pattern and not pattern.fullmatch(self.value)):
            raise self.fail(f"a string like {pattern.pattern}" if pattern else "a string")
        return self.value

    def integer(self) -> int:
        if type(self.value) is not int or not 0 <= self.value < 2**63:
            raise self.fail("an integer, 0 or more")
        return self.value

    def signed_integer(self) -> int:
        if type(self.value) is not int or not -(2**63) <= self.value < 2**63:
            raise self.fail("an integer of 64 bits")
        return self.value

    def integers(self) -> tuple[int, ...]:
        return tuple(item.integer() for item in self.items())
