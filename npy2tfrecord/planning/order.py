"""The order of examples, which follows from their keys alone, so that it is the same however the sources were divided.

In order, examples are sorted by the directories of their keys, then by the rest of the key, then by the number of the
row. Shuffled, they are sorted by a hash of the key and the seed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import repeat
from typing import Any, Protocol

import numpy as np
from xxhash import xxh3_64_intdigest

from npy2tfrecord.errors import UsageError, display

_SHOWN = 5  # keys, in a message
_DIGITS = re.compile(rb"([0-9]+)")


class Keyed(Protocol):
    """Examples or records that have keys."""

    splits: np.ndarray | None  # the number of its split, where it is given
    split_names: tuple[str, ...]

    @property
    def known(self) -> object:
        """What earlier data sets hold, None where nothing was left out because of them."""

    def __len__(self) -> int: ...

    def keys(self, first: int = 0, last: int | None = None) -> list[bytes]:
        """The keys of all, or of a range of them."""

    def key_hashes(self, seed: int = 0) -> np.ndarray:
        """XXH3-64 of each key, uint64."""

    def sorted(self, members: np.ndarray, *, natural: bool) -> np.ndarray:
        """Those of these numbers in the order of their keys, see `sort_keys`."""

    def find_in_keys(self, pattern: str, option: str) -> tuple[list[str], np.ndarray]:
        """What a regular expression finds in the keys: distinct texts, and which each key has."""

    def directory_names(self, depth: int, purpose: str) -> tuple[list[bytes], np.ndarray]:
        """The names of the directories at `depth` below the root, sorted, and the number of each one's."""


class TextFinder:
    """What a regular expression finds in keys: the first group that takes part, or else all that matches."""

    def __init__(self, pattern: str, option: str, *, allow_empty: bool = True) -> None:
        self._pattern, self._option, self._allow_empty = re.compile(pattern), option, allow_empty
        self._number_of: dict[str, int] = {}
        self._lacking: list[bytes] = []

    def find(self, keys: list[bytes]) -> np.ndarray:
        """The number of the text in each key, int64."""
        numbers = np.empty(len(keys), dtype=np.int64)
        for i, key in enumerate(keys):
            match = self._pattern.search(os.fsdecode(key))
            text = "" if match is None else next((each for each in match.groups() if each is not None), match[0])
            if match is None or not (text or self._allow_empty):
                self._lacking.append(key)
            numbers[i] = self._number_of.setdefault(text, len(self._number_of))
        return numbers

    def texts(self) -> list[str]:
        """The distinct texts by number. Raises `UsageError`, which names the option, if a key has none."""
        if self._lacking:
            shown = ", ".join(map(display, self._lacking[:_SHOWN]))
            count = "1 key" if len(self._lacking) == 1 else f"{len(self._lacking)} keys"
            raise UsageError(f"{self._option} {self._pattern.pattern!r} finds nothing in {count}, e.g. {shown}")
        return list(self._number_of)


def hash_keys(keys: Iterable[bytes], seed: int = 0) -> np.ndarray:
    """XXH3-64 of each key, uint64."""
    return np.array(list(map(xxh3_64_intdigest, keys, repeat(seed))), dtype=np.uint64)


def sort_keys(keys: list[bytes], *, rows: bool, natural: bool = False) -> np.ndarray:
    """The numbers of the keys in order: int64.

    A directory's own examples come before those of its subdirectories. Names are compared as bytes, one directory
    after the other: `a`, `b`, `a/x`, `a/b/x`, `a-b/x`. With `rows`, keys end in `#` and a number, which counts as one.
    In `natural` order all numbers do; names that differ in leading zeros alone are compared as bytes.
    """
    if natural:
        return np.array(sorted(range(len(keys)), key=lambda i: _natural_key(keys[i], rows)), dtype=np.int64)
    directories: dict[bytes, list[int]] = {}
    for i, key in enumerate(keys):
        directories.setdefault(key[: key.rfind(b"/") + 1], []).append(i)
    order: list[int] = []
    for directory in sorted(directories, key=lambda name: name.replace(b"/", b"\0")):
        members = directories[directory]
        if rows:
            members.sort(key=lambda i: _split_row(keys[i]))
        else:
            members.sort(key=keys.__getitem__)
        order += members
    return np.array(order, dtype=np.int64)


def natural_key(key: bytes) -> Any:
    """What to sort a key by so that numbers in it count as numbers: its directories, then its name."""
    *directories, name = map(_parts, key.split(b"/"))
    return directories, name


def _natural_key(key: bytes, rows: bool) -> Any:
    name, row = _split_row(key) if rows else (key, 0)
    return natural_key(name), name, row


def _parts(name: bytes) -> list[tuple[bytes, int, bytes]]:
    """`frame_010.b` is `frame_`, 2 digits, `10`, then `.b`: more digits are a larger number, none is made of them."""
    texts = _DIGITS.split(name)
    numbers = [digits.lstrip(b"0") for digits in texts[1::2]]
    return [(text, len(number), number) for text, number in zip(texts[::2], [*numbers, b""], strict=True)]


def _split_row(key: bytes) -> tuple[bytes, int]:
    name, _, row = key.rpartition(b"#")
    return name, int(row)


def shuffle(hashes: np.ndarray) -> np.ndarray | None:
    """The numbers of the examples in the order of their hashes, None where two have the same."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    return None if (ordered[1:] == ordered[:-1]).any() else order
