"""Planning: which example goes where, decided before the first byte of output.

Nothing here reads or writes. The same examples and options give the same plan on every machine:
the order comes from a fixed mixing function, not from a library's random generator.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from hashlib import blake2b

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.example import Layout, key_entry_head_size, label_entry
from npy2tfrecord.formats.feature_summary import channels_of, count_labels
from npy2tfrecord.formats.manifest import SPLIT_PATTERN, Hash, LabelCounts, shard_name
from npy2tfrecord.formats.npy import Header
from npy2tfrecord.formats.npz import Member
from npy2tfrecord.formats.tfrecord import FRAME_BYTES, MAX_DATA_BYTES
from npy2tfrecord.options import DEFAULT_SPLIT, Options
from npy2tfrecord.planning.joiner import Examples
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.sources.table import SourceTable

_KEYS_AT_ONCE = 1 << 16
_SHOWN = 5  # examples of what is wrong, in a message


@dataclass(frozen=True)
class Column:
    """One feature of a shard: its distinct sources in the order they are best read, and which example has which."""

    feature: str
    cast: Cast
    headers: list[Header]
    header_ids: list[int]
    dirs: list[bytes]
    dir_keys: list[bytes]
    dir_ids: list[int]  # of each source
    names: list[bytes]
    suffix: bytes
    stamps: list[int]
    members: list[Member] | None
    sources: np.ndarray  # of each example, in the order of writing
    channels: int  # for statistics; 0 when there are none

    @cached_property
    def paths(self) -> list[bytes]:
        """The path of each source."""
        dirs = self.dirs
        return [dirs[d] + name for d, name in zip(self.dir_ids, self.names, strict=True)]

    def keys(self) -> list[bytes]:
        """The key of each source."""
        dir_keys, cut = self.dir_keys, -len(self.suffix)
        return [dir_keys[d] + name[:cut] for d, name in zip(self.dir_ids, self.names, strict=True)]


@dataclass(frozen=True)
class ShardSpec:
    """All a worker needs to write one shard."""

    file: str
    columns: tuple[Column, ...]
    rows: np.ndarray | None
    labels: np.ndarray | None
    record_sizes: np.ndarray  # int64, framing included, in the order of writing

    def __len__(self) -> int:
        return len(self.record_sizes)

    @property
    def size(self) -> int:
        return int(self.record_sizes.sum())

    @property
    def reads_whole_files(self) -> bool:
        """Whether any row costs a pass over its file: each column of a Fortran-ordered array has a value of it."""
        if self.rows is None:
            return False
        turned = any(not header.is_c_order for column in self.columns for header in column.headers)
        return turned or any(member.deflated for column in self.columns for member in column.members or ())

    def part(self, first: int, last: int) -> ShardSpec:
        """The same shard with some of its records only."""
        here = slice(first, last)
        return replace(
            self,
            columns=tuple(replace(column, sources=column.sources[here]) for column in self.columns),
            rows=None if self.rows is None else self.rows[here],
            labels=None if self.labels is None else self.labels[here],
            record_sizes=self.record_sizes[here],
        )

    @cached_property
    def record_keys(self) -> list[bytes]:
        """The key of every record."""
        keys, sources = self.columns[0].keys(), self.columns[0].sources.tolist()
        if self.rows is None:
            return [keys[source] for source in sources]
        return [b"%s#%d" % (keys[source], row) for source, row in zip(sources, self.rows.tolist(), strict=True)]

    @property
    def sources_hash(self) -> str:
        """Tells whether the files behind this shard are still those that were scanned."""
        seen = Hash()
        for column in self.columns:
            seen.update(np.array(column.stamps, dtype=np.int64).tobytes())
        return seen.hexdigest()


@dataclass
class Split:
    """The examples of a split in the order of writing; shard k has those from `cuts[k]` to `cuts[k + 1]`."""

    name: str
    order: np.ndarray
    cuts: np.ndarray

    def shards(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each shard's file name and examples, in the order of writing."""
        count = len(self.cuts) - 1
        for k in range(count):
            yield shard_name(self.name, k, count), self.order[self.cuts[k] : self.cuts[k + 1]]


@dataclass
class Plan:
    """What will be written: sizes of all records, and where each goes."""

    examples: Examples
    casts: tuple[Cast, ...]
    record_sizes: np.ndarray
    splits: tuple[Split, ...]
    channels: tuple[int, ...]  # of each feature, for statistics

    @property
    def files(self) -> list[str]:
        """The names of all shards."""
        return [file for split in self.splits for file, _ in split.shards()]

    def shard_sizes(self) -> dict[str, int]:
        """The bytes of every shard."""
        return {
            file: int(self.record_sizes[members].sum()) for split in self.splits for file, members in split.shards()
        }

    def count_labels(self, split: Split, left_out: np.ndarray) -> LabelCounts | None:
        """How many examples of a split have which label, without those `left_out`; None where that is not told."""
        if self.examples.labels is None:
            return None
        kept = np.setdiff1d(split.order, left_out) if len(left_out) else split.order
        return count_labels(self.examples.labels[kept], named=bool(self.examples.classes))

    def shards(self, wanted: set[str] | None = None) -> Iterator[ShardSpec]:
        """The shards to write, one by one; those in `wanted` only, if given."""
        for split in self.splits:
            for file, members in split.shards():
                if wanted is None or file in wanted:
                    yield self._shard(file, members)

    def _shard(self, file: str, ids: np.ndarray) -> ShardSpec:
        examples = self.examples
        columns = tuple(
            _column(table, sources[ids], cast, channels)
            for table, sources, cast, channels in zip(
                examples.tables, examples.sources, self.casts, self.channels, strict=True
            )
        )
        return ShardSpec(
            file=file,
            columns=columns,
            rows=None if examples.rows is None else examples.rows[ids],
            labels=None if examples.labels is None else examples.labels[ids],
            record_sizes=self.record_sizes[ids],
        )


def _column(table: SourceTable, sources: np.ndarray, cast: Cast, channels: int) -> Column:
    distinct, local = np.unique(sources, return_inverse=True)
    used, header_ids = np.unique(table.header_ids[distinct], return_inverse=True)
    files = table.file_ids[distinct]
    used_dirs, dir_ids = np.unique(table.dir_ids[files], return_inverse=True)
    names = table.files.names
    return Column(
        feature=table.feature,
        cast=cast,
        headers=[table.headers[i] for i in used.tolist()],
        header_ids=header_ids.reshape(-1).tolist(),
        dirs=[table.files.dirs[d] for d in used_dirs.tolist()],
        dir_keys=[table.files.dir_keys[d] for d in used_dirs.tolist()],
        dir_ids=dir_ids.reshape(-1).tolist(),
        names=[names[f] for f in files.tolist()],
        suffix=table.suffix,
        stamps=table.stamps[distinct].tolist(),
        members=[table.members[i] for i in distinct.tolist()] if table.members else None,
        sources=local.reshape(-1).astype(np.int32),
        channels=channels,
    )


def plan(examples: Examples, options: Options) -> Plan:
    """Decide every record's size and place.

    Raises `InputError` for a record of 2 GiB or more, `UsageError` for what cannot be met.
    """
    casts = _choose_casts(examples, options)
    record_sizes = _record_sizes(examples, casts)
    splits = []
    for name, members in _split(examples, options):
        order = members[np.argsort(_mix(members, options.seed), kind="stable")] if options.shuffle else members
        count = options.num_shards or _shard_count(int(record_sizes[members].sum()), int(options.shard_size))
        splits.append(Split(name, order, _cut(record_sizes[order], min(count, len(order)))))
    channels = tuple(_channels(t, c, options) for t, c in zip(examples.tables, casts, strict=True))
    return Plan(examples, casts, record_sizes, tuple(splits), channels)


def _choose_casts(examples: Examples, options: Options) -> tuple[Cast, ...]:
    features = {table.feature for table in examples.tables}
    for name in options.casts:
        if name is not None and name not in features:
            raise UsageError(f"dtype {name}:{options.casts[name]}: no such feature; there are {', '.join(features)}")
    return tuple(
        Cast.of(table.headers[0].dtype.name, options.casts.get(table.feature, options.casts.get(None)), table.feature)
        for table in examples.tables
    )


def _channels(table: SourceTable, cast: Cast, options: Options) -> int:
    """How many channels the feature's statistics have, 0 when none are asked for."""
    if not options.stats:
        return 0
    shapes = [header.shape[1:] if options.rows else header.shape for header in table.headers]
    same_last = len({shape[-1:] for shape in shapes}) == 1
    return channels_of(shapes[0] if same_last else (), cast.to_name)


def _varint_sizes(values: np.ndarray) -> np.ndarray:
    return np.searchsorted(2 ** np.arange(7, 63, 7), values, side="right") + 1


def _record_sizes(examples: Examples, casts: tuple[Cast, ...]) -> np.ndarray:
    """Bytes of every record, framing included: the sizes that `example.Layout` gives, in columns."""
    sizes = examples.key_sizes()
    lengths, inverse = np.unique(sizes, return_inverse=True)
    sizes = sizes + np.array([key_entry_head_size(n) for n in lengths.tolist()], dtype=np.int64)[inverse.reshape(-1)]
    for table, sources, cast in zip(examples.tables, examples.sources, casts, strict=True):
        by_header = np.empty(len(table.headers), dtype=np.int64)
        for i, header in enumerate(table.headers):
            shape = header.shape if examples.rows is None else header.shape[1:]
            layout = Layout.of(((table.feature, cast.to_name, shape, cast.nbytes(shape)),))
            size = len(layout.described) + len(layout.payload_heads[0]) + layout.payload_sizes[0]
            by_header[i] = min(size, 2**32)  # too large is too large; sums stay within 64 bits
        sizes += by_header[table.header_ids[sources]]
    if examples.labels is not None:
        labels, inverse = np.unique(examples.labels, return_inverse=True)
        entry_sizes = np.array([len(label_entry(label)) for label in labels.tolist()], dtype=np.int64)
        sizes += entry_sizes[inverse.reshape(-1)]
    sizes += 1 + _varint_sizes(sizes)
    if sizes.max(initial=0) > MAX_DATA_BYTES:
        i = int(np.argmax(sizes))
        raise UsageError(
            f"{display(examples.tables[0].where(int(examples.sources[0][i])))}: a record of"
            f" {'4 GiB or more' if sizes[i] > 2**32 else f'{sizes[i]} bytes'}, expected less than 2 GiB, which is all"
            " that a tf.train.Example can hold: cut the array, or convert its rows with --rows"
        )
    return sizes + FRAME_BYTES


def _shard_count(size: int, shard_size: int) -> int:
    """Shards of at most about `shard_size`: one, or a multiple of 4, so that 2 or 4 workers end at the same time."""
    count = -(-size // shard_size)
    return count if count == 1 else -(-count // 4) * 4


def _mix(values: np.ndarray, seed: int) -> np.ndarray:
    """64 well-mixed bits for each number: SplitMix64 (Steele, Lea and Flood, 2014) of the number and the seed."""
    start = int.from_bytes(blake2b(seed.to_bytes(8, "little"), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _cut(sizes: np.ndarray, count: int) -> np.ndarray:
    """Where to cut so that `count` shards have about the same bytes, and none is empty."""
    ends = np.cumsum(sizes)
    targets = [int(ends[-1]) * k // count for k in range(1, count)]
    middles = ends - sizes // 2
    cuts = np.searchsorted(middles, np.array(targets, dtype=np.int64))
    steps = np.arange(1, count)
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - steps) + steps  # at least one each from the left …
    cuts = np.minimum(np.maximum(cuts, steps), len(sizes) - count + steps)  # … and from the right
    return np.concatenate([[0], cuts, [len(sizes)]]).astype(np.int64)


# --- splits -------------------------------------------------------------------------------------


def _split(examples: Examples, options: Options) -> list[tuple[str, np.ndarray]]:
    """The name and the examples, ascending, of every split."""
    everything = np.arange(len(examples))
    if options.split == "dirs":
        folders, directories = examples.first_folders(0)
        outside = np.array([folder is None for folder in folders], dtype=bool)[directories]
        if outside.any():
            i = int(np.argmax(outside))
            raise InputError(
                examples.tables[0].path(int(examples.sources[0][i])),
                f"{int(outside.sum())} sources like this one are in no folder",
                "split 'dirs' takes the split from the first folder below the source's root",
            )
        names = sorted({folders[d] or b"" for d in np.unique(directories).tolist()})
        for name in names:
            if not SPLIT_PATTERN.fullmatch(os.fsdecode(name)):
                raise UsageError(
                    f"split 'dirs': folder {display(name)!r} cannot be a split's name, for which letters, digits,"
                    " '_' and '-' are expected: rename it, or leave it out with --exclude"
                )
        numbers = np.array([names.index(f) if f in names else -1 for f in folders], dtype=np.int64)[directories]
        return [(os.fsdecode(name), np.flatnonzero(numbers == i)) for i, name in enumerate(names)]
    if not options.fractions:
        return [(DEFAULT_SPLIT, everything)]
    bounds, total = [], Fraction(0)
    for _, fraction in options.fractions:
        total += fraction
        bounds.append(min(int(total * 2**64), 2**64 - 1))
    bounds[-1] = 2**64 - 1
    places = _places(examples, options)
    numbers = np.searchsorted(np.array(bounds, dtype=np.uint64), places, side="left")
    splits = [(name, np.flatnonzero(numbers == i)) for i, (name, _) in enumerate(options.fractions)]
    for name, members in splits:
        if not len(members):
            by_group = f" in groups by {options.split_by!r}" if options.split_by is not None else ""
            raise UsageError(
                f"split {name!r} would be empty: {len(examples)} examples{by_group} are too few for its fraction"
            )
    return splits


def _group(match: re.Match[str]) -> str:
    """What the first group that took part has found, or the whole expression."""
    return next((group for group in match.groups() if group is not None), match[0])


def _places(examples: Examples, options: Options) -> np.ndarray:
    """A number in [0, 2**64) for each example, by its key (or what `split_by` finds in it) and the seed alone."""
    seed = options.seed.to_bytes(8, "little")
    places = np.empty(len(examples), dtype=np.uint64)
    search = None if options.split_by is None else re.compile(options.split_by).search
    lacking: list[bytes] = []
    for first in range(0, len(examples), _KEYS_AT_ONCE):
        keys = examples.keys(first, first + _KEYS_AT_ONCE)
        if search is not None:
            found = list(map(search, map(os.fsdecode, keys)))
            lacking += [key for key, match in zip(keys, found, strict=True) if match is None]
            keys = [os.fsencode(_group(match)) if match else b"" for match in found]
        places[first : first + len(keys)] = np.frombuffer(
            b"".join(blake2b(key, digest_size=8, key=seed).digest() for key in keys), dtype="<u8"
        )
    if lacking:
        shown = ", ".join(map(display, lacking[:_SHOWN]))
        raise UsageError(f"split_by {options.split_by!r} finds nothing in {len(lacking)} keys, e.g. {shown}")
    return places
