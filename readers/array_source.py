"""`ArraySource`: the examples of a data set by number, as NumPy arrays, without TensorFlow.

A shard's index says where each record is, so that one `pread`, or one request to a bucket, gets it; its checksum is
verified and its key compared with the one that was written there. Both are held in 16 bytes a record and the text of
the keys, loaded shard by shard when first needed.
"""

from __future__ import annotations

import operator
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.example import KEY, LABEL
from npy2tfrecord.formats.manifest import Manifest
from npy2tfrecord.formats.shard import ArrayForm, key_of, label_of
from npy2tfrecord.formats.tfrecord import unframe
from npy2tfrecord.storage.in_flight import InFlight
from npy2tfrecord.storage.open_files import OpenFile
from readers import splits
from readers.manifests import Paths, find_sets, load_manifest
from readers.options import Features, ReadOptions
from readers.outputs import LENGTH, columns_of, fill, name_columns
from readers.shards.example_parser import Templates
from readers.shards.heads import read_sizes
from readers.shards.index import Keys, Table, load_keys, load_table
from readers.shards.presence import check_shards, open_shard
from readers.windows import START, Windows, choose_axes

# An example: a record of a shard, where its window begins if windows are read, and its place in the list that is made.
_Wanted = tuple[int, int, int]
# What makes a column's value of a record, the numbers of its data set's classes and where a window begins.
_Value = Callable[[Mapping[str, Any], "tuple[int, ...] | None", int], Any]
Example = Any  # a dict of arrays, an array or a tuple, in each other too, as `features` says

_MAX_OPEN = 128  # shards kept open by one source
_GAP_BYTES = 64 * 2**10  # between records that are still read together
_RUN_BYTES = 8 * 2**20  # that are read together at most
_IDLE_SECONDS = 2.0  # that threads wait for the next list
_HELD_BYTES = 64 * 2**20  # of runs that are read at the same time


class _Counted(NamedTuple):
    """The windows of these shards' examples, as `Windows` has them: a copy of a source needn't count them again."""

    shards: tuple[str, ...]  # their hashes
    ends: np.ndarray


class _Run(NamedTuple):
    """Examples of rising records of one shard that are read together, and where each record is in the file."""

    shard: int
    wanted: Sequence[_Wanted]
    offsets: Sequence[int]
    sizes: Sequence[int]

    @property
    def size(self) -> int:
        return self.offsets[-1] + self.sizes[-1] - self.offsets[0]


class ArraySource:
    """`len(source)` examples; `source[i]` is one, `source[2:5]` or `source[[3, 1, 2]]` a list of them.

    An example is a dict of arrays by feature, with `key` (a str) and `label` (an int, or a float for float32) where
    there is one; `features` chooses as in `load_dataset`. With `window` and `hop` the examples are windows of the
    arrays, as there, with `start`. Arrays are writable and the caller's own. Works from any thread, in forked and
    spawned processes, and pickles as the path and what was asked for, with how many windows each example has.
    """

    def __init__(
        self,
        path: Paths,
        *,
        split: str | None = None,
        features: Features = None,
        window: int | None = None,
        hop: int | None = None,
        _counted: _Counted | None = None,
    ) -> None:
        self._path = find_sets(path)
        self._split = split
        options = ReadOptions(features=features, window=window, hop=hop)  # validated
        self._features, self._window, self._hop = options.features, options.window, options.hop
        self.manifest: Manifest = load_manifest(self._path)
        if self.manifest.compression != "none":
            raise UsageError(
                f"{display(self._path[0])}: its shards are {self.manifest.compression}-compressed, so that no record "
                "can be found by itself; read them with readers.load_dataset, or convert with --compression none"
            )
        selection = splits.select(self.manifest, split)
        self._structure = name_columns(self.manifest, self._features, self._window is not None)
        self._columns = columns_of(self._structure)
        self._is_flat = self._structure == {column: column for column in self._columns}
        for column in self._columns:
            if column.endswith(LENGTH):
                raise UsageError(f"{column!r}: arrays here have their own shape; there is no length to ask for")
        self._shards = selection.shards
        self._parts = selection.parts
        self._ends = list(accumulate(part.count for part in self._parts))
        used = [info for info in self.manifest.features if info.name in self._columns]
        axes = choose_axes(used, self._window) if self._window is not None else {}
        check_shards([self._shards[part.shard] for part in self._parts])
        self._windows = self._count_windows(axes, _counted)
        self._values = [(column, _value_of(column, self.manifest, self._windows)) for column in self._columns]
        self._start()

    def _count_windows(self, axes: Mapping[str, int], counted: _Counted | None) -> Windows | None:
        if self._window is None or self._hop is None:
            return None
        if counted is not None and counted.shards == self._shard_hashes():
            return Windows(axes, self._window, self._hop, counted.ends)
        name, axis = next(iter(axes.items()))
        size = self.manifest.feature(name).shape[axis]
        if size is None:
            sizes = read_sizes(self._shards, self._parts, self.manifest, axes)
        else:
            sizes = np.full(self._examples, size, np.int64)
        return Windows.of_sizes(axes, self._window, self._hop, sizes)

    def _start(self) -> None:
        self._templates = Templates(info.name for info in self.manifest.features)
        self._tables: dict[int, Table] = {}
        self._keys: dict[int, Keys] = {}
        self._files: dict[int, OpenFile] = {}
        self._seen: set[int] = set()  # shards that were open
        self._lock = threading.Lock()
        self._most_waiting = max((shard.files.in_flight for shard in self._shards), default=0)
        self._in_flight: tuple[int, InFlight] | None = None  # the process it is of, and the reads of lists

    def _shard_hashes(self) -> tuple[str, ...]:
        return tuple(shard.hash for shard in self._shards)

    def __reduce__(self) -> tuple[Any, ...]:
        counted = None if self._windows is None else _Counted(self._shard_hashes(), self._windows.ends)
        return _remake, (self._path, self._split, self._features, self._window, self._hop, counted)

    def __repr__(self) -> str:
        paths = self._path if len(self._path) > 1 else self._path[0]
        windows = f", window={self._window}, hop={self._hop}" if self._windows is not None else ""
        return f"ArraySource({paths!r}, split={self._split!r}{windows}, examples={len(self)})"

    def __len__(self) -> int:
        return self._examples if self._windows is None else len(self._windows)

    @property
    def _examples(self) -> int:
        """Records that were asked for, whole."""
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Example]:
        """All examples in order, many read at a time."""
        most = _HELD_BYTES - _RUN_BYTES if self._most_waiting else 0
        held, count, size = list[_Run](), 0, 0
        for shard, examples in self._stretches():
            runs = [*self._cut(shard, [(*example, count + i) for i, example in enumerate(examples)])]
            held += runs
            count += len(examples)
            size += sum(run.size for run in runs)
            if size > most:
                yield from self._read_runs(held, count)
                held, count, size = [], 0, 0
        yield from self._read_runs(held, count)

    def _stretches(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """All records in order and where their windows begin, as many at a time as are read together; their shard."""
        for part, end in zip(self._parts, self._ends, strict=True):
            self._load_shards([part.shard])
            table = self._table(part.shard)
            offsets = table.offsets
            last = part.first + part.count
            record = part.first
            while record < last:
                whole = int(offsets[record])
                stop = int(np.searchsorted(offsets, whole + _RUN_BYTES, side="right"))
                run = range(record, max(record + 1, min(stop, last)))
                before = end - part.count - part.first
                examples = [(i, begin) for i in run for begin in self._starts(before + i)]
                if examples:
                    yield part.shard, examples
                record = run.stop

    @overload
    def __getitem__(self, index: SupportsIndex) -> Example: ...
    @overload
    def __getitem__(self, index: slice | Iterable[SupportsIndex]) -> list[Example]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._read_many(range(len(self))[index])
        if isinstance(index, Iterable):
            return self._read_many([operator.index(i) for i in index])
        shard, record, begin = self._find(operator.index(index))
        if self._most_waiting:
            self._load_shards([shard])
        offsets, sizes = self._table(shard)
        run = _Run(shard, ((record, begin, 0),), (int(offsets[record]),), (int(sizes[record]),))
        found: list[Example] = [None]
        self._read_run(run, found)
        return found[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """What torch.utils.data.DataLoader asks a batch with."""
        return self._read_many(indices)

    def index_of(self, key: str) -> int:
        """The number of the example with this key, or of its first window. Raises `KeyError` where there is none."""
        data = key.encode("utf-8", "surrogateescape")
        for part, end in zip(self._parts, self._ends, strict=True):
            record = self._keys_of(part.shard).find(data)
            if record is not None and part.first <= record < part.first + part.count:
                position = end - part.count + record - part.first
                if self._windows is None:
                    return position
                if self._windows.starts(position):
                    return self._windows.first(position)
        raise KeyError(f"no {self._noun} has the key {key!r}")

    def close(self) -> None:
        """Close the shards. They are opened again when they are needed."""
        with self._lock:
            self._files.clear()

    # --- finding ---------------------------------------------------------------------------------

    @property
    def _noun(self) -> str:
        return "example" if self._windows is None else "window"

    def _starts(self, position: int) -> Sequence[int]:
        """Where the windows of a record begin; 0 for a whole one."""
        return (0,) if self._windows is None else self._windows.starts(position)

    def _find(self, index: int) -> tuple[int, int, int]:
        """An example's shard, its record there, and where its window begins."""
        count = len(self)
        position = index + count if index < 0 else index
        if not 0 <= position < count:
            raise IndexError(f"{self._noun} {index} of {count}")
        begin = 0
        if self._windows is not None:
            position, begin = self._windows.find(position)
        part = bisect_right(self._ends, position)
        start = self._ends[part - 1] if part else 0
        return self._parts[part].shard, self._parts[part].first + position - start, begin

    def _table(self, shard: int) -> Table:
        """Where the records of a shard are."""
        table = self._tables.get(shard)
        if table is None:
            table = self._tables[shard] = load_table(self._shards[shard])
        return table

    def _keys_of(self, shard: int) -> Keys:
        """The keys of a shard's records."""
        keys = self._keys.get(shard)
        if keys is None:
            keys = self._keys[shard] = load_keys(self._shards[shard])
        return keys

    def _load_shards(self, shards: Sequence[int]) -> None:
        """Load what is known of these shards: the files beside them, and whether they are those of the manifest."""
        missing = [shard for shard in shards if shard not in self._tables or shard not in self._keys]
        if len(missing) < 2 and not self._most_waiting:
            return  # whoever needs it loads it
        tasks = [(load, shard) for shard in missing for load in (self._table, self._keys_of, self._file)]

        def load(numbers: Iterator[int]) -> None:
            for i in numbers:
                task, shard = tasks[i]
                task(shard)

        self._requests().run(load, range(len(tasks)))

    def _file(self, shard: int) -> OpenFile:
        file = self._files.get(shard)
        if file is None:
            # An object that has the same ETag still need not be looked at again.
            info = self._shards[shard]
            file = open_shard(info, with_tail=not (info.is_in_bucket and shard in self._seen))
            self._seen.add(shard)
            with self._lock:
                file = self._files.setdefault(shard, file)
                while len(self._files) > _MAX_OPEN:
                    self._files.pop(next(iter(self._files)))  # the one opened first
        return file

    # --- reading ---------------------------------------------------------------------------------

    def _read_many(self, indices: Sequence[int]) -> list[Example]:
        """In the order asked for, but read in the order of the shards, neighbours together."""
        places = [(*self._find(index), i) for i, index in enumerate(indices)]
        places.sort()
        by_shard = {shard: [each[1:] for each in group] for shard, group in groupby(places, operator.itemgetter(0))}
        self._load_shards([*by_shard])
        runs = [run for shard, wanted in by_shard.items() for run in self._cut(shard, wanted)]
        return self._read_runs(runs, len(places))

    def _cut(self, shard: int, wanted: Sequence[_Wanted]) -> Iterator[_Run]:
        """Runs of examples of rising records: what lies close together is read by one call."""
        table = self._table(shard)
        records = [each[0] for each in wanted]
        offsets, sizes = table.offsets[records].tolist(), table.sizes[records].tolist()
        first = 0
        for i in range(1, len(wanted) + 1):
            if i < len(wanted):
                gap = offsets[i] - offsets[i - 1] - sizes[i - 1]
                if gap <= _GAP_BYTES and offsets[i] - offsets[first] <= _RUN_BYTES:
                    continue
            yield _Run(shard, wanted[first:i], offsets[first:i], sizes[first:i])
            first = i

    def _requests(self) -> InFlight:
        """The reads of this process that are under way: its threads end soon after a list is read."""
        if self._in_flight is None or self._in_flight[0] != os.getpid():  # a fork has no threads of its parent
            self._in_flight = os.getpid(), InFlight(begin=self._most_waiting, idle=_IDLE_SECONDS)
        return self._in_flight[1]

    def _read_runs(self, runs: Sequence[_Run], count: int) -> list[Example]:
        """The `count` examples of runs, in their places. Many runs are read at a time where storage waits."""
        found: list[Example] = [None] * count

        def read(numbers: Iterator[int]) -> None:
            for i in numbers:
                self._read_run(runs[i], found)

        first = size = 0
        for i, run in enumerate(runs):
            size += run.size
            if i + 1 == len(runs) or size + _RUN_BYTES > _HELD_BYTES:
                if first < i:
                    self._requests().run(read, range(first, i + 1))
                else:
                    self._read_run(run, found)
                first, size = i + 1, 0
        return found

    def _read_run(self, run: _Run, found: list[Example]) -> None:
        """Read a run by one call, and put its examples into their places."""
        shard, base = run.shard, run.offsets[0]
        data = memoryview(bytearray(run.size))
        self._read(shard, data, base)
        keys, classes = self._keys_of(shard), self._shards[shard].classes
        parsed, columns = -1, dict[str, Any]()
        for (record, begin, place), offset, size in zip(run.wanted, run.offsets, run.sizes, strict=True):
            try:
                if record != parsed:  # its windows come one behind the other
                    columns = self._templates.parse(unframe(data[offset - base : offset - base + size]))
                    if not keys.is_at(record, key_of(columns)):
                        raise DamageError("a whole record, but not the one that was written there")
                    parsed = record
                found[place] = self._decode(columns, classes, begin)
            except DamageError as error:
                path = display(self._shards[shard].path)
                raise DamageError(f"{path}: record {record} at offset {offset}: {error}") from None

    def _read(self, shard: int, data: memoryview, offset: int) -> None:
        file = self._file(shard)  # held while it is read: another thread may drop it from those kept open
        problem = ""
        try:
            done = file.read_into(data, offset)
            if done < len(data):
                problem = f"ends at {offset + done} bytes, before a record does"
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            path = self._shards[shard].path
            raise DamageError(f"{display(path)}: {problem}")

    def _decode(self, columns: Mapping[str, Any], classes: tuple[int, ...] | None, begin: int) -> Example:
        values = {column: value(columns, classes, begin) for column, value in self._values}
        return values if self._is_flat else fill(self._structure, values)


def _value_of(column: str, manifest: Manifest, windows: Windows | None) -> _Value:
    if column == START and windows is not None:
        return lambda columns, classes, begin: begin
    if column == LABEL:
        return lambda columns, classes, begin: renumbered(label_of(columns, manifest), classes)
    if column == KEY:
        return lambda columns, classes, begin: str(key_of(columns), "utf-8", "surrogateescape")
    info = manifest.feature(column)
    form, dtype = ArrayForm(info), info.array_dtype
    # A copy: aligned, writable, and not holding on to its neighbours.
    if windows is not None and column in windows.axes:
        return lambda columns, classes, begin: windows.cut(form.array_of(columns), column, begin).astype(dtype)
    return lambda columns, classes, begin: form.array_of(columns).astype(dtype)


def renumbered(label: float, classes: tuple[int, ...] | None) -> float:
    """What a record's label means among all data sets. Raises `DamageError` for one that is no class of its own."""
    if classes is None:
        return label
    if not isinstance(label, int) or not 0 <= label < len(classes):
        raise DamageError(f"label {label} is none of the {len(classes)} classes")
    return classes[label]


def _remake(
    path: list[str],
    split: str | None,
    features: Features,
    window: int | None,
    hop: int | None,
    counted: _Counted | None,
) -> ArraySource:
    return ArraySource(path, split=split, features=features, window=window, hop=hop, _counted=counted)
