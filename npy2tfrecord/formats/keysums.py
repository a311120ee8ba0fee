"""Sums over the keys of a shard's records, by which a reader notices whole records that are in the wrong place.

A record's own checksum holds wherever it is. So every shard has two sums over its keys, as Fletcher's checksum has
them (IEEE Transactions on Communications 30(1), 1982), modulo the prime 2**31 - 1: they differ when records were
exchanged, doubled or put in another order. The arithmetic is made for TensorFlow's 64-bit operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

MODULUS = 2**31 - 1
ITEM_BYTES = 4  # of a residue in a file


class KeySums(NamedTuple):
    """Of residues r: the sum of all r[i], and that of all i * r[i], both modulo 2**31 - 1."""

    plain: int
    weighted: int


def residue(key: bytes | memoryview) -> int:
    """A key, read as a little-endian integer, modulo 2**31 - 1."""
    return int.from_bytes(key, "little") % MODULUS


def residues(keys: Iterable[bytes]) -> np.ndarray:
    """The residue of every key: little-endian uint32, as they stand in a file."""
    return np.array([int.from_bytes(key, "little") % MODULUS for key in keys], dtype="<u4")


def key_sums(values: np.ndarray) -> KeySums:
    """The sums over residues."""
    terms = values.astype(np.int64)
    places = np.arange(len(terms), dtype=np.int64) % MODULUS
    return KeySums(int(terms.sum() % MODULUS), int((places * terms % MODULUS).sum() % MODULUS))


def joined(parts: Sequence[tuple[KeySums, int]]) -> KeySums:
    """The sums over parts that follow each other, from each one's own and its number of records."""
    plain = weighted = start = 0
    for sums, count in parts:
        plain += sums.plain
        weighted += sums.weighted + start * sums.plain
        start += count
    return KeySums(plain % MODULUS, weighted % MODULUS)
