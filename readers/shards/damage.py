"""Finding the damaged records of shards beforehand, so that they alone can be left out. No TensorFlow here.

After a damaged record TensorFlow's reader continues with the next file. It can't be sent to the next
record of the same one. So `on_corrupt="skip"` reads all shards once, by their indexes and with several
threads, and the pipeline is built from the parts between what is damaged.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import IO

import numpy as np

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.example import KEY, parse_example
from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, unframe
from npy2tfrecord.syscalls import usable_cores
from readers.manifests import PlacedShard
from readers.shards.index import Keys, load_keys, load_table
from readers.shards.presence import open_shard
from readers.splits import Part

_CHUNK_BYTES = 8 * 2**20
_SHOWN = 5


class DamageWarning(UserWarning):
    """Damaged records were left out."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """One damaged record."""

    shard: int
    record: int
    offset: int
    key: str | None
    problem: str


def find(shards: Sequence[PlacedShard], parts: Sequence[Part], compression: str) -> list[Damaged]:
    """The damaged records of the shards that these parts are of.

    Raises `DamageError` where a shard is not what was written, but none of its records shows it.
    """
    if compression != "none":
        raise UsageError(
            f"on_corrupt='skip' needs the index; in {compression}-compressed shards records can't be found"
        )
    used = sorted({part.shard for part in parts})
    with ThreadPoolExecutor(max(1, min(len(used), usable_cores()))) as pool:
        return [bad for found in pool.map(lambda i: _check(i, shards[i]), used) for bad in found]


def without(parts: Sequence[Part], damaged: Sequence[Damaged]) -> tuple[Part, ...]:
    """What is left of the parts."""
    bad = {(each.shard, each.record) for each in damaged}
    left = []
    for part in parts:
        first = part.first
        for record in sorted(record for shard, record in bad if shard == part.shard):
            if first <= record < part.first + part.count:
                left.append(Part(part.shard, first, record - first))
                first = record + 1
        left.append(Part(part.shard, first, part.first + part.count - first))
    return tuple(part for part in left if part.count)


def warn(shards: Sequence[PlacedShard], damaged: Sequence[Damaged]) -> None:
    """Say how many records are left out, and which."""
    lines = [
        f"\n  record {each.record} of {display(shards[each.shard].path)} at offset "
        f"{each.offset}, key {display(each.key) if each.key is not None else 'unknown'}: {each.problem}"
        for each in damaged[:_SHOWN]
    ]
    if len(damaged) > _SHOWN:
        lines.append(f"\n  and {len(damaged) - _SHOWN} more")
    count = f"{len(damaged)} damaged record{'s' if len(damaged) > 1 else ''}"
    warnings.warn(f"{count} left out:{''.join(lines)}", DamageWarning, stacklevel=4)


def _check(shard: int, info: PlacedShard) -> list[Damaged]:
    offsets, sizes = load_table(info)
    found: list[Damaged] = []
    path, seen = info.path, Hash()
    with _opened(info) as file:
        for record, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
            data = memoryview(file.read(size))
            seen.update(data)
            try:
                unframe(data)
            except DamageError as error:
                found.append(Damaged(shard, record, offset, _key(data), str(error)))
    intact = seen.hexdigest() == info.hash
    if not intact:
        bad = {each.record for each in found}
        known = load_keys(info)
        with _opened(info) as file:
            found += _misplaced(file, shard, offsets, sizes, known, bad)
        found.sort(key=attrgetter("record"))
    if not found and not intact:
        problem = "every record is whole, but they are not those that were written; run npy2tfrecord verify"
        raise DamageError(f"{display(path)}: {problem}")
    return found


def _misplaced(
    file: IO[bytes], shard: int, offsets: np.ndarray, sizes: np.ndarray, known: Keys, bad: set[int]
) -> list[Damaged]:
    """The records of a shard, except the `bad` ones, that are whole and have another key than was written there."""
    found = []
    problem = "a whole record, but not the one that was written there"
    for record, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        key = _key(memoryview(file.read(size)))
        if record not in bad and (key is None or not known.is_at(record, key.encode("utf-8", "surrogateescape"))):
            found.append(Damaged(shard, record, offset, key, problem))
    return found


@contextmanager
def _opened(info: PlacedShard) -> Iterator[IO[bytes]]:
    try:
        with os.fdopen(open_shard(info, compare_tail=False), "rb", buffering=_CHUNK_BYTES) as file:
            yield file
    except OSError as error:
        raise DamageError(f"{display(info.path)}: {error.strerror or error}") from error


def _key(record: memoryview) -> str | None:
    try:
        value = parse_example(record[HEAD_BYTES:-FOOT_BYTES]).get(KEY)
    except (DamageError, IndexError, ValueError):
        return None
    return str(value, "utf-8", "surrogateescape") if isinstance(value, memoryview) else None
