"""The order of examples, which follows from their keys alone, so that it is the same however the sources were divided.

In order, examples are sorted by the directories of their keys, then by the rest of the key, then by the number of the
row. Shuffled, they are sorted by a hash of the key and the seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Protocol

import numpy as np
from xxhash import xxh3_64_intdigest


class Keyed(Protocol):
    """Examples or records that have keys."""

    def __len__(self) -> int: ...

    def keys(self, first: int = 0, last: int | None = None) -> list[bytes]:
        """The keys of all, or of a range of them."""

    def key_hashes(self, seed: int = 0) -> np.ndarray:
        """XXH3-64 of each key, uint64."""

    def sorted(self, members: np.ndarray) -> np.ndarray:
        """Those of these numbers in the order of their keys."""

    def directory_names(self, depth: int, purpose: str) -> tuple[list[bytes], np.ndarray]:
        """The names of the directories at `depth` below the root, sorted, and the number of each one's."""


def hash_keys(keys: Iterable[bytes], seed: int = 0) -> np.ndarray:
    """XXH3-64 of each key, uint64."""
    return np.array(list(map(xxh3_64_intdigest, keys, repeat(seed))), dtype=np.uint64)


def sort_keys(keys: list[bytes], *, rows: bool) -> np.ndarray:
    """The numbers of the keys in order: int64.

    A directory's own examples come before those of its subdirectories. Names are compared as bytes, one directory
    after the other: `a`, `b`, `a/x`, `a/b/x`, `a-b/x`. With `rows`, keys end in `#` and a number, which counts as one.
    """
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


def _split_row(key: bytes) -> tuple[bytes, int]:
    name, _, row = key.rpartition(b"#")
    return name, int(row)


def shuffle(hashes: np.ndarray) -> np.ndarray | None:
    """The numbers of the examples in the order of their hashes, None where two have the same."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    return None if (ordered[1:] == ordered[:-1]).any() else order
