"""Where the records of a shard are and which keys they have, by the files beside it. No TensorFlow here.

Links are followed, since caches of data sets are made of links.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, display
from npy2tfrecord.formats.manifest import index_name, keys_name
from npy2tfrecord.formats.shard import decode_index, decode_keys, encode_keys
from readers.manifests import PlacedShard
from readers.splits import Part

_THREADS = 16  # a network file system answers many requests at once
_LINE_BYTES = 40  # of an index, at most

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
        return self._lines[start : int(self._ends[record]) + 1] == encode_keys([key])

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

    return _load(os.path.join(info.directory, index_name(info.file)), info.examples * _LINE_BYTES, decode)


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
    # The keys are in the records too, so a longer file is not read: escaped they have at most twice the bytes.
    limit = 2 * info.bytes + info.examples
    return _load(os.path.join(info.directory, keys_name(info.file)), limit, lambda data: Keys(data, info.examples))


def _load(path: str, limit: int, decode: Callable[[bytes], Loaded]) -> Loaded:
    try:
        with os.fdopen(syscalls.open_regular(path), "rb") as file:
            return decode(file.read(limit + 1))
    except DamageError as error:
        raise DamageError(f"{display(path)}: {error}") from None
    except OSError as error:
        raise DamageError(f"{display(path)}: {error.strerror or error}; it is needed to find records") from error
