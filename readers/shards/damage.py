"""Finding the damaged records of shards beforehand, so that they alone can be left out. No TensorFlow here.

After a damaged record TensorFlow's reader continues with the next file. It can't be sent to the next
record of the same one. So `on_corrupt="skip"` reads all shards once, by their indexes and with several
threads, and the pipeline is built from the parts between what is damaged.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from typing import IO

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.example import KEY, parse_example
from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, unframe
from npy2tfrecord.syscalls import usable_cores
from readers.manifests import PlacedShard
from readers.shards.index import Keys, load_keys, load_table
from readers.splits import Part

_CHUNK_BYTES = 8 * 2**20
_SHOWN = 5


class DamageWarning(UserWarning):
    """Damaged or missing records were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A damaged record, or several that are missing for the same reason."""

    shard: int
    record: int
    offset: int
    key: str | None
    problem: str
    count: int = 1

    def describe(self, path: str) -> str:
        """Which records of which file, and what is wrong with them."""
        where = f"of {display(path)} at offset {self.offset}"
        if self.count > 1:
            return f"records {self.record} to {self.record + self.count - 1} {where}: {self.problem}"
        key = display(self.key) if self.key is not None else "unknown"
        return f"record {self.record} {where}, key {key}: {self.problem}"


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
    left = []
    for part in parts:
        first, end = part.first, part.first + part.count
        here = ((each.record, each.record + each.count) for each in damaged if each.shard == part.shard)
        for start, stop in sorted(here):
            left.append(Part(part.shard, first, min(start, end) - first))
            first = max(first, stop)
        left.append(Part(part.shard, first, end - first))
    return tuple(part for part in left if part.count > 0)


def warn(shards: Sequence[PlacedShard], damaged: Sequence[Damaged]) -> None:
    """Say how many records are left out, and which."""
    lines = [f"\n  {each.describe(shards[each.shard].path)}" for each in damaged[:_SHOWN]]
    if len(damaged) > _SHOWN:
        lines.append(f"\n  and {len(damaged) - _SHOWN} more")
    lost = sum(each.count for each in damaged)
    count = f"{lost} damaged or missing record{'s' if lost > 1 else ''}"
    warnings.warn(f"{count} left out:{''.join(lines)}", DamageWarning, stacklevel=4)


def _check(shard: int, info: PlacedShard) -> list[Damaged]:
    path = info.path
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        return (
            [
                Damaged(
                    shard=shard, record=0, offset=0, key=None, problem=error.strerror or str(error), count=info.examples
                )
            ]
            if info.examples
            else []
        )
    if size > info.bytes:
        raise DamageError(f"{display(path)}: {size} bytes, expected {info.bytes} by the manifest")
    offsets, sizes = load_table(info)
    whole = int(np.searchsorted(offsets + sizes, size, side="right"))  # records before a cut
    found, seen = [], Hash()
    if whole < info.examples:
        problem = f"the file ends at {size} bytes, expected {info.bytes} by the manifest"
        found = [
            Damaged(
                shard=shard,
                record=whole,
                offset=int(offsets[whole]),
                key=None,
                problem=problem,
                count=info.examples - whole,
            )
        ]
    places = [*zip(offsets[:whole].tolist(), sizes[:whole].tolist(), strict=True)]
    try:
        with _opened(path) as file:
            for record, (offset, length) in enumerate(places):
                data = memoryview(file.read(length))
                seen.update(data)
                try:
                    unframe(data)
                except DamageError as error:
                    found.append(Damaged(shard=shard, record=record, offset=offset, key=_key(data), problem=str(error)))
        intact = seen.hexdigest() == info.hash
        if not intact:
            with _opened(path) as file:
                found += _misplaced(file, shard, places, load_keys(info), {each.record for each in found})
    except OSError as error:
        raise DamageError(f"{display(path)}: {error.strerror or error}") from error
    if not found and not intact:
        problem = "every record is whole, but they are not those that were written; run npy2tfrecord verify"
        raise DamageError(f"{display(path)}: {problem}")
    return sorted(found, key=attrgetter("record"))


def _misplaced(
    file: IO[bytes], shard: int, places: Sequence[tuple[int, int]], known: Keys, bad: set[int]
) -> list[Damaged]:
    """The records of a shard, except the `bad` ones, that are whole and have another key than was written there."""
    found = []
    problem = "a whole record, but not the one that was written there"
    for record, (offset, size) in enumerate(places):
        key = _key(memoryview(file.read(size)))
        if record not in bad and (key is None or not known.is_at(record, key.encode("utf-8", "surrogateescape"))):
            found.append(Damaged(shard=shard, record=record, offset=offset, key=key, problem=problem))
    return found


def _opened(path: str) -> IO[bytes]:
    return os.fdopen(syscalls.open_regular(path), "rb", buffering=_CHUNK_BYTES)


def _key(record: memoryview) -> str | None:
    try:
        value = parse_example(record[HEAD_BYTES:-FOOT_BYTES]).get(KEY)
    except (DamageError, IndexError, ValueError):
        return None
    return str(value, "utf-8", "surrogateescape") if isinstance(value, memoryview) else None
