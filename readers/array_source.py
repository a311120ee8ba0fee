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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.example import KEY, LABEL
from npy2tfrecord.formats.manifest import Manifest
from npy2tfrecord.formats.shard import array_of, key_of, label_of
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


class _Wanted(NamedTuple):
    """An example: a record of a shard, and where its window begins, if windows are read."""

    record: int
    start: int


class _Run(NamedTuple):
    """Examples of a shard that are read together, and the place in a list that each goes to."""

    shard: int
    base: int  # offset in the file
    size: int
    wanted: list[tuple[_Wanted, int]]


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
        for column in self._columns:
            if column.endswith(LENGTH):
                raise UsageError(f"{column!r}: arrays here have their own shape; there is no length to ask for")
        self._infos = {info.name: (info, info.array_dtype) for info in self.manifest.features}
        self._shards = selection.shards
        self._parts = selection.parts
        self._ends = list(accumulate(part.count for part in self._parts))
        used = [info for info in self.manifest.features if info.name in self._columns]
        axes = choose_axes(used, self._window) if self._window is not None else {}
        check_shards([self._shards[part.shard] for part in self._parts])
        self._windows = self._count_windows(axes, _counted)
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
        if not self._most_waiting:
            for shard, wanted in self._stretches():
                yield from self._read_wanted(shard, wanted)
            return
        held, size = list[_Run](), 0
        for shard, wanted in self._stretches():
            run = self._run_of(shard, wanted)
            held.append(run)
            size += run.size
            if size > _HELD_BYTES - _RUN_BYTES:
                yield from self._read_runs(held)
                held, size = [], 0
        yield from self._read_runs(held)

    def _stretches(self) -> Iterator[tuple[int, list[_Wanted]]]:
        """All examples in order, as many at a time as are read together, with their shard."""
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
                wanted = [_Wanted(i, start) for i in run for start in self._starts(before + i)]
                if wanted:
                    yield part.shard, wanted
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
        shard, wanted = self._find(operator.index(index))
        if self._most_waiting:
            self._load_shards([shard])
        return next(self._read_wanted(shard, (wanted,)))

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

    def _find(self, index: int) -> tuple[int, _Wanted]:
        count = len(self)
        position = index + count if index < 0 else index
        if not 0 <= position < count:
            raise IndexError(f"{self._noun} {index} of {count}")
        begin = 0
        if self._windows is not None:
            position, begin = self._windows.find(position)
        part = bisect_right(self._ends, position)
        start = self._ends[part - 1] if part else 0
        return self._parts[part].shard, _Wanted(self._parts[part].first + position - start, begin)

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
        self._load_shards(sorted({shard for shard, _, _ in places}))
        found: list[Example] = [None] * len(places)
        held, size = list[_Run](), 0
        for run in self._runs(places):
            if held and size + run.size > _HELD_BYTES:
                self._decode_runs(held, found)
                held, size = [], 0
            held.append(run)
            size += run.size
        self._decode_runs(held, found)
        return found

    def _runs(self, places: Sequence[tuple[int, _Wanted, int]]) -> Iterator[_Run]:
        """What is read by one call each, of (shard, example, place in the list) in rising order."""
        start = 0
        while start < len(places):
            shard, (first, _), _ = places[start]
            offsets, sizes = self._table(shard)
            stop = start + 1
            while stop < len(places) and places[stop][0] == shard:
                before, record = places[stop - 1][1].record, places[stop][1].record
                gap = offsets[record] - offsets[before] - sizes[before]
                if gap > _GAP_BYTES or offsets[record] - offsets[first] > _RUN_BYTES:
                    break
                stop += 1
            last = places[stop - 1][1].record
            base = int(offsets[first])
            wanted = [(each, place) for _, each, place in places[start:stop]]
            yield _Run(shard, base, int(offsets[last]) + int(sizes[last]) - base, wanted)
            start = stop

    def _requests(self) -> InFlight:
        """The reads of this process that are under way: its threads end soon after a list is read."""
        if self._in_flight is None or self._in_flight[0] != os.getpid():  # a fork has no threads of its parent
            self._in_flight = os.getpid(), InFlight(begin=self._most_waiting, idle=_IDLE_SECONDS)
        return self._in_flight[1]

    def _decode_runs(self, runs: Sequence[_Run], found: list[Example]) -> None:
        """Read runs, many at a time where storage waits, and put their examples into their places."""
        data = [memoryview(bytearray(run.size)) for run in runs]

        def read(numbers: Iterator[int]) -> None:
            for i in numbers:
                self._read(runs[i].shard, data[i], runs[i].base)

        if len(runs) == 1:
            read(iter((0,)))
        elif runs:
            self._requests().run(read, range(len(runs)))
        for run, bytes_read in zip(runs, data, strict=True):
            examples = self._decode_run(run.shard, [each for each, _ in run.wanted], bytes_read)
            for (_, place), example in zip(run.wanted, examples, strict=True):
                found[place] = example

    def _run_of(self, shard: int, wanted: Sequence[_Wanted]) -> _Run:
        """The run that holds these examples, of rising records, in their order."""
        offsets, sizes = self._table(shard)
        base, last = int(offsets[wanted[0].record]), wanted[-1].record
        size = int(offsets[last]) + int(sizes[last]) - base
        return _Run(shard, base, size, [(each, place) for place, each in enumerate(wanted)])

    def _read_runs(self, runs: Sequence[_Run]) -> Iterator[Example]:
        """The examples of runs, in their order."""
        moved, count = list[_Run](), 0
        for run in runs:
            moved.append(run._replace(wanted=[(each, count + place) for each, place in run.wanted]))
            count += len(run.wanted)
        found: list[Example] = [None] * count
        self._decode_runs(moved, found)
        yield from found

    def _read_wanted(self, shard: int, wanted: Sequence[_Wanted]) -> Iterator[Example]:
        """Examples of rising records of one shard, by one read."""
        run = self._run_of(shard, wanted)
        data = memoryview(bytearray(run.size))
        self._read(shard, data, run.base)
        return self._decode_run(shard, wanted, data)

    def _decode_run(self, shard: int, wanted: Sequence[_Wanted], data: memoryview) -> Iterator[Example]:
        """Examples of rising records of one shard, from the bytes that hold them."""
        offsets, sizes = self._table(shard)
        keys = self._keys_of(shard)
        base = int(offsets[wanted[0].record])
        parsed, columns = -1, dict[str, Any]()
        for record, begin in wanted:
            start = int(offsets[record]) - base
            try:
                if record != parsed:  # its windows come one behind the other
                    columns = self._templates.parse(unframe(data[start : start + int(sizes[record])]))
                    if not keys.is_at(record, key_of(columns)):
                        raise DamageError("a whole record, but not the one that was written there")
                    parsed = record
                example = self._decode(columns, self._shards[shard].classes, begin)
            except DamageError as error:
                file = self._shards[shard].path
                raise DamageError(f"{display(file)}: record {record} at offset {base + start}: {error}") from None
            yield example

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

    def _decode(self, columns: Mapping[str, Any], classes: tuple[int, ...] | None, start: int) -> Example:
        return fill(self._structure, {column: self._value(columns, column, classes, start) for column in self._columns})

    def _value(self, columns: Mapping[str, Any], column: str, classes: tuple[int, ...] | None, start: int) -> Any:
        if column == START and self._windows is not None:
            return start
        value = columns.get(column)
        if column == LABEL:
            return renumbered(label_of(columns, self.manifest), classes)
        if not isinstance(value, memoryview):
            raise DamageError(f"the example has no {column!r}")
        if column == KEY:
            return str(value, "utf-8", "surrogateescape")
        info, dtype = self._infos[column]
        array = array_of(columns, info)
        if self._windows is not None and column in self._windows.axes:
            array = self._windows.cut(array, column, start)
        return array.astype(dtype)  # a copy: aligned, writable, and not holding on to its neighbours


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
