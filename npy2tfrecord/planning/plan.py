"""The plan: what will be written, and where. Values only; `planner` decides them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from npy2tfrecord.formats.manifest import Hash, LabelCounts, shard_name
from npy2tfrecord.formats.npy import Header
from npy2tfrecord.formats.npz import Member
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.feature_summary import count_labels
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.sources.table import SourceTable, file_keys


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One feature of a shard: its distinct sources, in the order in which they are read best, and each example's."""

    feature: str
    cast: Cast  # of the first header; `for_dtype` gives that of another
    headers: list[Header]
    header_ids: list[int]
    dirs: list[bytes]
    dir_keys: list[bytes]
    dir_ids: list[int]  # of each source
    names: list[bytes]
    suffix: bytes
    key_by: str | None
    in_splits: bool
    stamps: list[int]
    members: list[Member] | None
    members_are_examples: bool
    sources: np.ndarray  # of each example, in the order of writing
    channels: int  # for statistics; 0 when there are none
    kept: int = -1  # the number of the memory that small files are kept in
    places: list[int] | None = None  # of each source in it, or -1

    @cached_property
    def paths(self) -> list[bytes]:
        """The path of each source."""
        dirs = self.dirs
        return [dirs[d] + name for d, name in zip(self.dir_ids, self.names, strict=True)]

    @property
    def in_bucket(self) -> bool:
        """Whether the sources are objects in a bucket."""
        return is_bucket(self.dirs[0])

    def keys(self) -> list[bytes]:
        """The key of each source."""
        members = self.members if self.members_are_examples else None
        return file_keys(self.dir_keys, self.dir_ids, self.names, self, members)


@dataclass(frozen=True, kw_only=True, eq=False)
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
        """Whether reading any one row costs a pass over its file.

        It does in Fortran order, where each column holds one value of the row, and in deflated archives.
        """
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
        """A hash of the stamps of all sources: another one means that one of them has changed."""
        seen = Hash()
        for column in self.columns:
            seen.update(np.array(column.stamps, dtype=np.int64).tobytes())
        return seen.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """The examples of a split in the order of writing; shard k has those from `cuts[k]` to `cuts[k + 1]`."""

    name: str
    order: np.ndarray
    cuts: np.ndarray

    def shards(self) -> Iterator[tuple[str, np.ndarray]]:
        """The file name and the examples of each shard."""
        count = len(self.cuts) - 1
        for k in range(count):
            yield shard_name(self.name, k, count), self.order[self.cuts[k] : self.cuts[k + 1]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrangement:
    """Which record goes into which shard, and the bytes of each, framing included."""

    record_sizes: np.ndarray
    splits: tuple[Split, ...]

    @property
    def files(self) -> list[str]:
        """The names of all shards."""
        return [file for split in self.splits for file, _ in split.shards()]

    def files_of_part(self, number: int, count: int) -> list[str]:
        """The shards of one of `count` parts, which are numbered from 1: every `count`-th."""
        return self.files[number - 1 :: count]

    def shard_sizes(self) -> dict[str, int]:
        """The bytes of every shard."""
        return {
            file: int(self.record_sizes[members].sum()) for split in self.splits for file, members in split.shards()
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan(Arrangement):
    """What will be written: sizes of all records, and where each goes."""

    examples: Examples
    casts: tuple[Cast, ...]
    channels: tuple[int, ...]  # of each feature, for statistics

    def count_reads(self) -> int:
        """How many reads it takes: one a source, unless its file was kept whole, or one a row."""
        if self.examples.rows is not None:
            return len(self.record_sizes) * len(self.examples.tables)
        return sum(
            len(sources) if table.places is None else int(np.count_nonzero(table.places[sources] < 0))
            for table, sources in zip(self.examples.tables, self.examples.sources, strict=True)
        )

    @property
    def is_kept(self) -> bool:
        """Whether the values of all sources are in this process's memory already."""
        return all(table.places is not None for table in self.examples.tables) and not self.count_reads()

    def count_labels(self, split: Split, left_out: np.ndarray) -> LabelCounts | None:
        """How many examples of a split have which label, without those `left_out`; None where nobody counts."""
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
        key_by=table.key_by,
        in_splits=table.in_splits,
        stamps=table.stamps[distinct].tolist(),
        members=[table.members[i] for i in distinct.tolist()] if table.members else None,
        members_are_examples=table.members_are_examples,
        sources=local.reshape(-1).astype(np.int32),
        channels=channels,
        kept=table.kept,
        places=None if table.places is None else table.places[distinct].tolist(),
    )
