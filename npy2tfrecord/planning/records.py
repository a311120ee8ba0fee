"""The records of existing data sets, and the plan by which they are put into other shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from npy2tfrecord.errors import InputError, display
from npy2tfrecord.formats.example import label_entry
from npy2tfrecord.formats.manifest import Hash, LabelCounts
from npy2tfrecord.formats.tfrecord import FRAME_BYTES
from npy2tfrecord.options import Options
from npy2tfrecord.planning.feature_summary import count_labels
from npy2tfrecord.planning.order import TextFinder, hash_keys, sort_keys
from npy2tfrecord.planning.plan import Arrangement, Split
from npy2tfrecord.planning.planner import arrange, varint_sizes
from npy2tfrecord.planning.splits import split_examples
from npy2tfrecord.planning.united import United
from npy2tfrecord.sources.record_sets import RecordTable, SourceShard

_KEYS_AT_ONCE = 1 << 16


@dataclass(kw_only=True)
class Records:
    """The records of data sets by their keys.

    `labels`, where they are needed: the label of each, and what it becomes.
    """

    table: RecordTable
    rows: bool
    labels: tuple[np.ndarray, np.ndarray] | None = None
    splits: np.ndarray | None = None  # the number of its split, where records stay in it
    split_names: tuple[str, ...] = ()
    known: None = None
    _hashes: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # by seed

    def __len__(self) -> int:
        return len(self.table.keys)

    def keys(self, first: int = 0, last: int | None = None) -> list[bytes]:
        """The keys of all records, or of a range of them."""
        return self.table.keys[first:last]

    def key_hashes(self, seed: int = 0) -> np.ndarray:
        """XXH3-64 of each key, uint64."""
        if seed not in self._hashes:
            self._hashes[seed] = hash_keys(self.table.keys, seed)
        return self._hashes[seed]

    def sorted(self, members: np.ndarray, *, natural: bool) -> np.ndarray:
        """These records in the order of their keys."""
        keys = [self.table.keys[i] for i in members.tolist()]
        return np.asarray(members[sort_keys(keys, rows=self.rows, natural=natural)])

    def find_in_keys(self, pattern: str, option: str) -> tuple[list[str], np.ndarray]:
        """What a regular expression finds in the keys: distinct texts, and which each key has."""
        finder = TextFinder(pattern, option)
        codes = finder.find(self.table.keys)
        return finder.texts(), codes

    def directory_names(self, depth: int, purpose: str) -> tuple[list[bytes], np.ndarray]:
        """The names of the directories at `depth` in the keys, sorted, and the number of each record's."""
        names = []
        for key in self.table.keys:
            parts = key.split(b"/", depth + 1)
            if len(parts) < depth + 2:
                raise InputError("", f"key {display(key)!r} is in no directory", f"{purpose} the first directory")
            names.append(parts[depth])
        used = sorted(set(names))
        numbers = {name: i for i, name in enumerate(used)}
        return used, np.fromiter((numbers[name] for name in names), np.int64, len(names))

    def check_distinct(self) -> None:
        """Raise `InputError` for a key that two records have."""
        hashes = self.key_hashes()
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        if not (ordered[1:] == ordered[:-1]).any():
            return
        seen: dict[bytes, int] = {}
        shards, ids = self.table.shards, self.table.shard_ids
        for record, key in enumerate(self.table.keys):
            if key in seen:
                other = shards[ids[seen[key]]]
                raise InputError(
                    shards[ids[record]].path,
                    f"key {display(key)!r} is also in {display(other.path)}",
                    "every key once: leave one of the sets out, or convert from sources with other keys",
                )
            seen[key] = record


@dataclass(frozen=True, kw_only=True, eq=False)
class CopySpec:
    """All a worker needs to write one shard of records that exist: record i is in `shards[shard_ids[i]]`.

    `paths` are the unpacked bytes of the shards. With `labels`, the first is that of each record, the second what it
    becomes.
    """

    file: str
    shards: tuple[SourceShard, ...]
    paths: tuple[str, ...]
    shard_ids: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    record_keys: list[bytes]
    labels: tuple[np.ndarray, np.ndarray] | None
    record_sizes: np.ndarray  # int64, framing included, in the order of writing

    def __len__(self) -> int:
        return len(self.record_sizes)

    @property
    def size(self) -> int:
        return int(self.record_sizes.sum())

    @property
    def sources_hash(self) -> str:
        """A hash of what the shards hold and of the places in them."""
        seen = Hash()
        for shard in self.shards:
            seen.update(shard.info.hash.encode())
        for column in (self.shard_ids, self.offsets, *(self.labels or ())):
            seen.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        return str(seen.hexdigest())


@dataclass(frozen=True, kw_only=True, eq=False)
class MergePlan(Arrangement):
    """Which records go into which shards, and the file that holds the unpacked bytes of each source shard."""

    records: Records
    united: United
    paths: tuple[str, ...]

    def count_labels(self, split: Split) -> LabelCounts | None:
        """How many records of a split have which label, None where nobody counts."""
        if self.records.labels is None:
            return self.united.label_counts.get(split.name)
        return count_labels(self.records.labels[1][split.order], named=bool(self.united.classes))

    def count_reads(self) -> int:
        """How many small files are to be opened: none to speak of."""
        return 0

    @property
    def is_kept(self) -> bool:
        """Whether the values are in this process's memory already."""
        return False

    def used_shards(self, wanted: set[str]) -> list[int]:
        """The numbers of the source shards that hold the records of the shards in `wanted`."""
        ids = self.records.table.shard_ids
        parts = [np.unique(ids[m]) for split in self.splits for file, m in split.shards() if file in wanted]
        return np.unique(np.concatenate(parts)).tolist() if parts else []

    def shards(self, wanted: set[str] | None = None) -> Iterator[CopySpec]:
        """The shards to write, one by one; those in `wanted` only, if given."""
        for split in self.splits:
            for file, members in split.shards():
                if wanted is None or file in wanted:
                    yield self._shard(file, members)

    def _shard(self, file: str, members: np.ndarray) -> CopySpec:
        table, labels = self.records.table, self.records.labels
        used, local = np.unique(table.shard_ids[members], return_inverse=True)
        return CopySpec(
            file=file,
            shards=tuple(table.shards[i] for i in used.tolist()),
            paths=tuple(self.paths[i] for i in used.tolist()),
            shard_ids=local.reshape(-1).astype(np.int32),
            offsets=table.offsets[members],
            sizes=table.sizes[members],
            record_keys=[table.keys[i] for i in members.tolist()],
            labels=None if labels is None else (labels[0][members], labels[1][members]),
            record_sizes=self.record_sizes[members],
        )


def plan_merge(records: Records, united: United, options: Options, *, resplit: bool) -> MergePlan:
    """Decide each record's place; unless `resplit`, it stays in its split.

    Raises `InputError` for a key that is there twice, `UsageError` for what cannot be met.
    """
    records.check_distinct()
    table = records.table
    if not resplit:
        number_of = {name: i for i, name in enumerate(united.splits)}
        records.split_names = united.splits
        records.splits = np.array([number_of[shard.split] for shard in table.shards])[table.shard_ids]
    splits = [(name, members) for name, members in split_examples(records, options) if len(members)]
    sizes = table.sizes if records.labels is None else _relabelled_sizes(table.sizes, *records.labels)
    return MergePlan(
        records=records,
        united=united,
        record_sizes=sizes,
        splits=arrange(records, splits, sizes, options),
        paths=tuple(shard.path for shard in table.shards),
    )


def _relabelled_sizes(sizes: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The sizes of records when their labels have become others."""

    def entry_sizes(labels: np.ndarray) -> np.ndarray:
        distinct, inverse = np.unique(labels, return_inverse=True)
        return np.array([len(label_entry(n)) for n in distinct.tolist()], dtype=np.int64)[inverse.reshape(-1)]

    content = sizes - FRAME_BYTES - 1  # the length of the features, and they
    features = content - 1
    for _ in range(4):
        features = content - varint_sizes(features)
    features = features + entry_sizes(new) - entry_sizes(old)
    return np.asarray(FRAME_BYTES + 1 + varint_sizes(features) + features)
