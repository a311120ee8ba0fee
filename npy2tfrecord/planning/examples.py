"""The examples of a conversion, in columns."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.manifest import Skipped
from npy2tfrecord.planning.order import TextFinder, hash_keys, sort_keys
from npy2tfrecord.sources.table import SourceTable

_KEYS_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Known:
    """What earlier sets hold: the examples that have a source now, and the keys that have none (`gone`).

    Of these examples, `changed` are those whose record has another size now.
    """

    examples: int
    gone: int
    changed: int

    def to_json(self) -> dict[str, int]:
        """The counts as `manifest.json` holds them."""
        return {"examples": self.examples, "gone": self.gone, "changed": self.changed}


@dataclass
class Examples:
    """What will be records, in columns: example i has source `sources[f][i]` of feature f.

    With rows, it is row `rows[i]` of each source. The key is that of the first feature's source.
    """

    tables: tuple[SourceTable, ...]
    sources: tuple[np.ndarray, ...]
    rows: np.ndarray | None = None
    labels: np.ndarray | None = None  # int64 or float32
    classes: tuple[str, ...] | None = None  # empty for plain numbers, None without labels
    splits: np.ndarray | None = None  # the number of its split, where a table has them
    split_names: tuple[str, ...] = ()
    skipped: list[Skipped] = field(default_factory=list)
    known: Known | None = None  # what earlier data sets hold, where such examples are left out
    _hashes: dict[int, np.ndarray] = field(default_factory=dict, repr=False)  # by seed

    def __len__(self) -> int:
        return len(self.sources[0])

    @property
    def label_dtype(self) -> str:
        return "int64" if self.labels is None else self.labels.dtype.name

    def key(self, example: int) -> bytes:
        key = self.tables[0].key(int(self.sources[0][example]))
        return key if self.rows is None else key + b"#%d" % self.rows[example]

    def keys(self, first: int = 0, last: int | None = None) -> list[bytes]:
        """The keys of all examples, or of a range of them: ten million at once are a gigabyte."""
        sources = self.sources[0][first:last]
        if self.rows is None:
            return self.tables[0].take(sources).keys()
        distinct, local = np.unique(sources, return_inverse=True)
        keys, rows = self.tables[0].take(distinct).keys(), self.rows[first:last]
        return [b"%s#%d" % (keys[i], row) for i, row in zip(local.reshape(-1).tolist(), rows.tolist(), strict=True)]

    def key_hashes(self, seed: int = 0) -> np.ndarray:
        """XXH3-64 of each key, uint64."""
        if seed not in self._hashes:
            starts = range(0, len(self), _KEYS_AT_ONCE)
            parts = [hash_keys(self.keys(first, first + _KEYS_AT_ONCE), seed) for first in starts]
            self._hashes[seed] = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
        return self._hashes[seed]

    def sorted(self, members: np.ndarray, *, natural: bool) -> np.ndarray:
        """These examples in the order of their keys."""
        distinct, local = np.unique(self.sources[0][members], return_inverse=True)
        ranks = np.empty(len(distinct), dtype=np.int64)
        keys = self.tables[0].take(distinct).keys()
        ranks[sort_keys(keys, rows=False, natural=natural)] = np.arange(len(distinct))
        rows = np.zeros(len(members), dtype=np.int64) if self.rows is None else self.rows[members]
        return np.asarray(members[np.lexsort((rows, ranks[local.reshape(-1)]))])

    def file_key(self, example: int) -> bytes:
        """The key without the number of a row."""
        return self.tables[0].key(int(self.sources[0][example]))

    def find_in_keys(
        self, pattern: str, option: str, *, of_files: bool = False, allow_empty: bool = True
    ) -> tuple[list[str], np.ndarray]:
        """What a regular expression finds in the keys, or those `of_files`: distinct texts, and which each example has.

        The text is that of the first group that takes part, or else all that matches. Raises `UsageError`, which names
        the `option`, for keys in which it finds nothing.
        """
        finder = TextFinder(pattern, option, allow_empty=allow_empty)
        codes = np.empty(len(self), dtype=np.int64)
        for first in range(0, len(self), _KEYS_AT_ONCE):
            last = min(first + _KEYS_AT_ONCE, len(self))
            if of_files:
                distinct, local = np.unique(self.sources[0][first:last], return_inverse=True)
                keys = self.tables[0].take(distinct).keys()
            else:
                keys, local = self.keys(first, last), np.arange(last - first)
            codes[first:last] = finder.find(keys)[local.reshape(-1)]
        return finder.texts(), codes

    def key_sizes(self) -> np.ndarray:
        """Bytes of each key, without making the keys."""
        table = self.tables[0]
        if table.key_by is not None:
            lengths = np.fromiter(map(len, table.keys()), dtype=np.int64, count=len(table))
            return self._with_rows(lengths[self.sources[0]])
        names = np.fromiter(map(len, table.files.names), dtype=np.int64, count=len(table.files))
        dirs = np.fromiter(map(len, table.files.dir_keys), dtype=np.int64, count=len(table.files.dir_keys))
        sizes = names[table.file_ids] + dirs[table.dir_ids[table.file_ids]] - len(table.suffix)
        if table.key_members is not None:
            inside = (len(os.fsencode(member.name)) + 1 for member in table.key_members)
            sizes = sizes + np.fromiter(inside, dtype=np.int64, count=len(table))
        return self._with_rows(np.asarray(sizes[self.sources[0]]))

    def _with_rows(self, sizes: np.ndarray) -> np.ndarray:
        """Sizes of keys with what a row adds."""
        if self.rows is not None:
            digits = np.searchsorted(10 ** np.arange(1, 19), self.rows, side="right") + 1
            sizes += digits + 1
        return sizes

    def take(self, examples: np.ndarray) -> None:
        """Keep only these examples."""
        self.sources = tuple(source[examples] for source in self.sources)
        self.rows = None if self.rows is None else self.rows[examples]
        self.labels = None if self.labels is None else self.labels[examples]
        self.splits = None if self.splits is None else self.splits[examples]
        self._hashes.clear()

    def directory_names(self, depth: int, purpose: str) -> tuple[list[bytes], np.ndarray]:
        """The names of the directories at `depth` below the root, sorted, and the number of each example's.

        Raises `InputError`, which says the `purpose`, where an example is in no such directory.
        """
        table = self.tables[0]
        parts = [key.split(b"/") for key in table.files.dir_keys]
        names = [each[depth] if len(each) > depth + 1 else None for each in parts]
        directories = table.dir_ids[table.file_ids][self.sources[0]]
        lacking = np.array([name is None for name in names], dtype=bool)[directories]
        if lacking.any():
            raise InputError(
                table.path(int(self.sources[0][int(np.argmax(lacking))])),
                f"{int(lacking.sum())} sources like this one are in no directory",
                f"{purpose} the {'second' if depth else 'first'} directory below the source's root",
            )
        used = sorted({names[d] or b"" for d in np.unique(directories).tolist()})
        numbers = {name: i for i, name in enumerate(used)}
        by_directory = np.array([numbers.get(name or b"", -1) for name in names], dtype=np.int64)
        return used, by_directory[directories]
