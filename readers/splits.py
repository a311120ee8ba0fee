"""Which records of which shards to read: slices of a split, shares of workers, lanes. Pure arithmetic, no I/O."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.manifest import Manifest, ShardInfo

LEAST_LANES = 4  # that are read at the same time, where there is so much
_UNEVEN = 1.25  # times as long as the others may the first lane be

_SLICE = re.compile(r"(?P<name>[^\[\]]+?)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive records of one shard (or of one sequence of sources): `first` to `first + count`."""

    shard: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Selection:
    """The records that were asked for: of one split, in the order of its shards."""

    split: str
    shards: tuple[ShardInfo, ...]
    parts: tuple[Part, ...]

    @property
    def examples(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def example_bytes(self) -> float:
        """Mean size of a record of the split."""
        return sum(s.bytes for s in self.shards) / max(1, sum(s.examples for s in self.shards))


def select(manifest: Manifest, split: str | None) -> Selection:
    """The records of a split or of a slice of one, such as `train[:80%]`; None is the only split there is."""
    if split is None:
        if len(manifest.splits) != 1:
            raise UsageError(f"several splits here, say which: {_names(manifest.splits)}")
        (split,) = manifest.splits
    match = _SLICE.fullmatch(split) if isinstance(split, str) else None
    if match is None:
        raise UsageError(f"split={split!r}: expected a name, or a slice such as 'train[:80%]' or 'train[100:200]'")
    name = match["name"]
    if name not in manifest.splits:
        raise UsageError(f"no split {name!r} here; there are {_names(manifest.splits)}")
    shards = tuple(manifest.splits[name])
    total = sum(shard.examples for shard in shards)
    start = _boundary(match["start"], total, 0)
    stop = _boundary(match["stop"], total, total)
    parts = cut([shard.examples for shard in shards], start, max(start, stop))
    return Selection(name, shards, parts)


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


def lanes(parts: Sequence[Part], batch: int, count: int, *, seekable: bool = True) -> list[tuple[Part, ...]]:
    """Cut the parts into at most `count` runs of whole batches that are read at the same time.

    Taking a batch from every lane in turn, the smaller one that may be left over is the very last.
    Where the middle of a part isn't `seekable`, but only reached by reading what is before, lanes begin
    where parts do, or a few batches behind, as far as that leaves them equally long.
    """
    bounds = [0, *accumulate(part.count for part in parts)]
    starts = None if seekable else _starts_at_parts(bounds, batch, count)
    if starts is None:
        count = count if seekable else min(count, max(len(parts), LEAST_LANES))
        batches = -(-bounds[-1] // batch)
        # No lane is longer than the last one, which has the smaller batch.
        starts = [even_split(batches, lane, count)[0] * batch for lane in range(count)] + [bounds[-1]]
    return [_narrow(parts, bounds, start, stop) for start, stop in pairwise(starts) if stop > start]


def _starts_at_parts(bounds: Sequence[int], batch: int, count: int) -> list[int] | None:
    """The bounds of lanes that start at parts, or a few records behind; None where the parts are too uneven for that.

    Only the first lane may end with a smaller batch, so it is made the longest, by a batch. Every other lane holds
    whole batches: it starts at the first record of a part behind which their number is a multiple of the batch. With
    batches of 4 and 2 lanes, four parts of 10 records are cut at 24, four parts of 9 at 20.
    """
    total, parts = bounds[-1], len(bounds) - 1
    least = min(LEAST_LANES, count)
    # When most lanes have ended, enough are left to keep a machine busy.
    fitting = (n for n in range(min(count, parts), least - 1, -1) if parts % n == 0 or parts % n >= least)
    lanes = next(fitting, 0)
    if lanes < 2:
        return None
    begins = [bounds[-(-lane * parts // lanes)] for lane in range(1, lanes)]
    starts = [0, *(total - (total - begin) // batch * batch for begin in begins), total]
    longest = max(stop - start for start, stop in pairwise(starts[1:]))
    excess = longest // batch + 1 - -(-starts[1] // batch)
    starts[1] += max(0, excess) * batch
    even = excess <= 2 and starts[1] <= starts[2] and starts[1] <= longest * _UNEVEN + 2 * batch
    return starts if even else None


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
