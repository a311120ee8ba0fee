"""Where the records of a shard are and which keys they have, by the files beside it. No TensorFlow here.

Links are followed, since caches of data sets are made of links.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from npy2tfrecord.errors import DamageError, display
from npy2tfrecord.formats.manifest import index_name, keys_name
from npy2tfrecord.formats.shard import decode_index, decode_keys, encode_keys, index_limit, keys_limit
from readers.manifests import PlacedShard
from readers.splits import Part

_THREADS = 32  # a network file system or a bucket answers many requests at once

Loaded = TypeVar("Loaded")


class Table(NamedTuple):
    """The offsets (int64) and sizes (uint32) of a shard's records: 12 bytes a record."""

    offsets: np.ndarray
    sizes: np.ndarray


class Keys:
    """The keys of a shard's records: the lines of their file, and 4 bytes a record for where each ends.

    Raises `DamageError` for what is not `count` lines.
    """

    def __init__(self, lines: bytes, count: int) -> None:
        decode_keys(lines)  # raises
        ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
        if len(ends) != count:
            raise DamageError(f"{len(ends)} keys, expected {count}")
        self._lines = lines
        self._ends = ends.astype(np.uint32 if len(lines) < 2**32 else np.int64)

    def is_at(self, record: int, key: bytes) -> bool:
        """Whether a record's key is this one."""
        start = int(self._ends[record - 1]) + 1 if record else 0
        line = self._lines[start : int(self._ends[record])]
        return line == (key if b"\\" not in key and b"\n" not in key else encode_keys([key])[:-1])

    def find(self, key: bytes) -> int | None:
        """The number of the record with this key."""
        line = encode_keys([key])
        start = 0 if self._lines.startswith(line) else self._lines.find(b"\n" + line) + 1
        if not start and not self._lines.startswith(line):
            return None
        return int(np.searchsorted(self._ends, start, side="left"))


def load_table(info: PlacedShard) -> Table:
    """The table of a shard's records. Raises `DamageError` unless they fill the shard one behind the other."""

    def decode(data: bytes) -> Table:
        offsets, sizes = decode_index(data, info.examples, info.bytes)
        return Table(offsets, sizes.astype(np.uint32))

    return _load(info, index_name(info.file), index_limit(info), decode)


def find_offsets(shards: Sequence[PlacedShard], parts: Sequence[Part], compression: str) -> list[int | None]:
    """Where each part begins in its shard, by the index; None where only reading what is before leads there.

    So it is in compressed shards, and in those without a readable index, for the records can be read all the same.
    """
    wanted: dict[int, list[int]] = {}
    for part in parts:
        if part.first and compression == "none":
            wanted.setdefault(part.shard, []).append(part.first)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda shard: _offsets_of(shards[shard], wanted[shard]), wanted)
    offsets = {(shard, first): offset for shard, each in zip(wanted, found, strict=True) for first, offset in each}
    return [offsets.get((part.shard, part.first)) if part.first else 0 for part in parts]


def _offsets_of(info: PlacedShard, records: Sequence[int]) -> list[tuple[int, int]]:
    try:
        table = load_table(info)
    except DamageError:
        return []
    return [(record, int(table.offsets[record])) for record in records]


def load_keys(info: PlacedShard) -> Keys:
    """The keys of a shard's records. Raises `DamageError` unless there is one for each."""
    return _load(info, keys_name(info.file), keys_limit(info), lambda data: Keys(data, info.examples))


def _load(info: PlacedShard, name: str, limit: int, decode: Callable[[bytes], Loaded]) -> Loaded:
    path = os.path.join(info.directory, name)
    try:
        return decode(info.files.read(name, limit + 1))
    except DamageError as error:
        raise DamageError(f"{display(path)}: {error}") from None
    except OSError as error:
        raise DamageError(f"{display(path)}: {error.strerror or error}; it is needed to find records") from error
