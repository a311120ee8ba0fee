"""Which records of which shards to read: slices of a split, shares of workers, runs. Pure arithmetic, no I/O."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import cast

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.manifest import Manifest
from readers.manifests import PlacedShard

_EXPECTED = "a name, a slice such as 'train[:80%]' or 'train[100:200]', or several such as 'train+val[:50%]'"
_SLICE = re.compile(r"(?P<name>[^\[\]]+?)(?:\[(?P<start>-?\d{1,18}%?)?:(?P<stop>-?\d{1,18}%?)?\])?")


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive records of one shard (or of one sequence of sources): `first` to `first + count`."""

    shard: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Selection:
    """The records that were asked for: of the shards of all splits that were named, in their order."""

    shards: tuple[PlacedShard, ...]
    parts: tuple[Part, ...]

    @property
    def examples(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def example_bytes(self) -> float:
        """Mean size of a record of these splits."""
        return sum(s.bytes for s in self.shards) / max(1, sum(s.examples for s in self.shards))


def select(manifest: Manifest, split: str | None) -> Selection:
    """The records of a split, of a slice of one (`train[:80%]`), or of several (`f0+f1`); None is the only split."""
    if split is None:
        if len(manifest.splits) != 1:
            raise UsageError(f"several splits here, say which: {_names(manifest.splits)}")
        (split,) = manifest.splits
    if not isinstance(split, str):
        raise UsageError(f"split={split!r}: expected {_EXPECTED}")
    shards: list[PlacedShard] = []
    begins: dict[str, int] = {}  # where a split's shards are among all of them
    parts: list[Part] = []
    for term in split.split("+"):
        match = _SLICE.fullmatch(term.strip())
        if match is None:
            raise UsageError(f"split={split!r}: expected {_EXPECTED}")
        name = match["name"]
        if name not in manifest.splits:
            raise UsageError(f"no split {name!r} here; there are {_names(manifest.splits)}")
        sizes = [shard.examples for shard in manifest.splits[name]]
        if name not in begins:
            begins[name] = len(shards)
            shards += cast("Sequence[PlacedShard]", manifest.splits[name])  # as `load_manifest` makes them
        start = _boundary(match["start"], sum(sizes), 0)
        stop = _boundary(match["stop"], sum(sizes), sum(sizes))
        parts += (replace(part, shard=begins[name] + part.shard) for part in cut(sizes, start, max(start, stop)))
    return Selection(tuple(shards), tuple(parts))


def _names(splits: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in splits)


def _boundary(text: str | None, total: int, default: int) -> int:
    """Where a slice starts or ends, as Python counts; per cent are rounded to the nearest example."""
    if text is None:
        return default
    if text.endswith("%"):
        percent = int(text[:-1])
        if abs(percent) > 100:
            raise UsageError(f"{text} of a split: expected at most 100%")
        # Half-way cases go up, so that neighbouring slices always meet.
        position = (abs(percent) * total * 2 + 100) // 200
        position = total - position if text.startswith("-") else position
    else:
        position = int(text)
        position += total if position < 0 else 0
    return min(max(position, 0), total)


def cut(sizes: Sequence[int], start: int, stop: int) -> tuple[Part, ...]:
    """The parts that cover examples `start` to `stop` of shards with these numbers of examples."""
    return _cut([0, *accumulate(sizes)], start, stop)


def _cut(bounds: Sequence[int], start: int, stop: int) -> tuple[Part, ...]:
    parts = []
    position = start
    shard = bisect_right(bounds, start) - 1
    while position < stop:
        count = min(stop, bounds[shard + 1]) - position
        if count:
            parts.append(Part(shard, position - bounds[shard], count))
        position += count
        shard += 1
    return tuple(parts)


def narrow(parts: Sequence[Part], start: int, stop: int) -> tuple[Part, ...]:
    """Examples `start` to `stop` of what these parts hold."""
    return _narrow(parts, [0, *accumulate(part.count for part in parts)], start, stop)


def _narrow(parts: Sequence[Part], bounds: Sequence[int], start: int, stop: int) -> tuple[Part, ...]:
    return tuple(
        Part(parts[piece.shard].shard, parts[piece.shard].first + piece.first, piece.count)
        for piece in _cut(bounds, start, stop)
    )


def even_split(total: int, index: int, count: int) -> tuple[int, int]:
    """Where share `index` of `count` starts and ends; sizes differ by at most one."""
    return total * index // count, total * (index + 1) // count


def share(parts: Sequence[Part], index: int, count: int) -> tuple[Part, ...]:
    """What worker `index` of `count` reads: disjoint, complete, and balanced to one example."""
    total = sum(part.count for part in parts)
    return narrow(parts, *even_split(total, index, count))


def left(parts: Sequence[Part], stops: Sequence[tuple[int, int]]) -> tuple[Part, ...]:
    """What is left of an epoch after stops: (examples consumed in all, by how many workers that read their shares).

    Workers stop after the same step, so each has consumed as many examples, or all of a share that is smaller.
    """
    for examples, workers in stops:
        shares = [share(parts, i, workers) for i in range(workers)]
        sizes = [sum(part.count for part in each) for each in shares]
        consumed = examples // workers
        if consumed > max(sizes):
            raise UsageError(
                f"start: {examples} examples consumed by {workers} workers, but there were {sum(sizes)} left"
            )
        parts = tuple(
            part for each, size in zip(shares, sizes, strict=True) for part in narrow(each, min(consumed, size), size)
        )
    return tuple(parts)


def runs(parts: Sequence[Part], batch: int, most: int, *, seekable: bool = True) -> list[tuple[Part, ...]]:
    """Cut the parts into consecutive runs of `most` whole batches, which lanes read side by side.

    Only the last batch of the last run may be smaller. Where the middle of a part isn't `seekable`, but only reached
    by reading what is before, a run begins at the first whole batch of a part, and may be longer than `most`.
    """
    bounds = [0, *accumulate(part.count for part in parts)]
    total, size = bounds[-1], batch * most
    starts = list(range(0, total, size)) if seekable else [0]
    for bound in () if seekable else bounds[1:-1]:
        start = -(-bound // batch) * batch
        if start >= starts[-1] + size and start < total:
            starts.append(start)
    return [_narrow(parts, bounds, start, stop) for start, stop in pairwise([*starts, total]) if stop > start]


def split_up(parts: Sequence[Part], pieces: int) -> tuple[Part, ...]:
    """At least `pieces` parts where there are examples enough, by cutting the given ones evenly."""
    if not parts or len(parts) >= pieces:
        return tuple(parts)
    each = -(-pieces // len(parts))
    return tuple(
        Part(part.shard, part.first + a, b - a)
        for part in parts
        for a, b in (even_split(part.count, i, min(each, part.count)) for i in range(min(each, part.count)))
    )
