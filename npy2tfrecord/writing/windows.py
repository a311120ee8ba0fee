"""Many records at once: laid out in a buffer, their values read in the order of the sources, then written together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from crc32c import crc32c

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, feet
from npy2tfrecord.planning.plan import Column
from npy2tfrecord.sources.array_reader import ArrayReader
from npy2tfrecord.storage.in_flight import Batch
from npy2tfrecord.storage.kept import memory_of
from npy2tfrecord.storage.local import Ranges, WholeFiles, is_passing
from npy2tfrecord.writing.encoding import PIECE_BYTES, Encoding, StartAgain
from npy2tfrecord.writing.record_layout import scatter

_MOST_OPEN = 32  # files that are open at once so that many ranges of each can be under way


class Window:
    """Records that are laid out in a buffer together, and what is under way for them.

    Record i of the window is to be between `starts[i]` and `ends[i]`, int64.
    """

    def __init__(self, first: int, last: int, sizes: np.ndarray, buffer: memoryview) -> None:
        self.first, self.last = first, last
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        self.buffer = buffer
        self.crcs: list[int | None] = [None] * len(sizes)
        self.reads: list[Batch | _Spread] = []  # in the order in which their errors count

    def close(self) -> None:
        """Close what was left open when something failed."""
        for each in self.reads:
            if isinstance(each, _Spread):
                each.close()


@dataclass
class _Group:
    """Records of a window whose values are in one source; with `rows`, each is one row of it."""

    source: int
    records: list[int]
    rows: np.ndarray | None = None
    reader: ArrayReader | None = None
    error: InputError | OSError | None = None  # that it can't be opened
    odd: list[int] = field(default_factory=list)  # places in `records` that are to be read with care


@dataclass
class _Spread:
    """Ranges of a few open sources that are under way."""

    feature: int
    groups: list[_Group]
    batch: Batch

    def close(self) -> None:
        for group in self.groups:
            if group.reader is not None:
                group.reader.close()


class Windows:
    """The windows of one shard."""

    def __init__(self, shard: Encoding) -> None:
        self._shard = shard
        self._values_bytes = bytearray()  # of one feature in a window, for statistics

    def begin(self, first: int, last: int) -> Window:
        """Lay a window out, and begin to read its values."""
        sizes = self._shard.spec.record_sizes[first:last]
        if not self._shard.requests.target:
            self._shard.use_same_buffer()  # the same one again, which is in the processor's cache
        window = Window(first, last, sizes, self._shard.buffer(int(sizes.sum())))
        self._shard.forms.put(window.buffer, first, window.starts)
        for f in range(len(self._shard.spec.columns)):
            if self._shard.spec.rows is None:
                self._begin_values(f, window)
            else:
                self._begin_rows(f, window)
        return window

    def finish(self, window: Window) -> None:
        """Give the sink a window, when all of it is there."""
        for each in window.reads:
            if isinstance(each, Batch):
                self._shard.requests.wait(each)
            else:
                self._finish_spread(each, window)
        crcs = [crc for crc in window.crcs if crc is not None]
        if len(crcs) < len(window.crcs):
            pairs = zip(self._data(window), window.crcs, strict=True)
            crcs = [crc32c(data) if crc is None else crc for data, crc in pairs]
        buffer, ends = window.buffer, window.ends
        scatter(buffer, ends - FOOT_BYTES, feet(crcs))
        left_out = self._shard.bad.keys() & range(window.first, window.last)
        for f, column in enumerate(self._shard.spec.columns):
            if column.channels:
                self._take_moments(f, column, window, left_out)
        if not left_out:
            self._shard.sink.write(buffer[: ends[-1]])
            return
        for record, (start, end) in enumerate(zip(window.starts.tolist(), ends.tolist(), strict=True), window.first):
            if record not in left_out:
                self._shard.sink.write(buffer[start:end])

    def _values(self, f: int, window: Window) -> list[memoryview]:
        """Where in the buffer the values of one feature go."""
        ids, buffer = self._shard.forms.ids[window.first : window.last], window.buffer
        places = window.starts + self._shard.forms.places[ids, f]
        ends = (places + self._shard.forms.lengths[ids, f]).tolist()
        return [buffer[place:end] for place, end in zip(places.tolist(), ends, strict=True)]

    def _data(self, window: Window) -> list[memoryview]:
        """Where in the buffer the data is that a record's CRC is of."""
        buffer = window.buffer
        starts, ends = (window.starts + HEAD_BYTES).tolist(), (window.ends - FOOT_BYTES).tolist()
        return [buffer[start:end] for start, end in zip(starts, ends, strict=True)]

    def _begin_values(self, f: int, window: Window) -> None:
        """Begin to read one feature's values, sources in order.

        A record's CRC is computed at once, while its values are in the processor's cache, if it has no other feature.
        """
        first, last = window.first, window.last
        column = self._shard.spec.columns[f]
        views = self._values(f, window)
        sources = column.sources[first:last].tolist()
        order = np.argsort(column.sources[first:last], kind="stable").tolist()
        header_of_form = [form.raws[f] for form in self._shard.forms.forms]
        raws = [header_of_form[i] for i in self._shard.forms.ids[first:last].tolist()]
        column_paths, column_stamps = column.paths, column.stamps
        paths = [column_paths[source] for source in sources]

        def with_care(i: int) -> None:
            try:
                self._shard.read_whole(column, sources[i], views[i])
            except (InputError, OSError) as error:
                self._shard.failed(first + i, paths[i], error)

        def odd(i: int, error: OSError | None) -> None:
            if error is not None and not is_passing(error):
                self._shard.failed(first + i, paths[i], error)
            else:
                with_care(i)

        def all_with_care(numbers: Iterator[int]) -> None:
            for i in numbers:
                with_care(i)

        if any(raw is None for raw in header_of_form):
            careful = [i for i in order if raws[i] is None]
            order = [i for i in order if raws[i] is not None]
            window.reads.append(self._shard.requests.submit(all_with_care, careful, paths.__getitem__))
        if self._shard.requests.target and (large := [i for i in order if len(views[i]) > PIECE_BYTES]):
            order = [i for i in order if len(views[i]) <= PIECE_BYTES]
            self._begin_spread(f, window, [_Group(sources[i], [i]) for i in large])
        data = self._data(window) if len(self._shard.spec.columns) == 1 else []
        if column.places is not None and (memory := memory_of(column.kept)) is not None:
            order = self._take_kept(column, memory, raws, views, sources, order)
        whole: type[WholeFiles] = WholeFiles
        if column.in_bucket:
            from npy2tfrecord.storage.object_files import WholeObjects  # not read where it isn't needed

            whole = WholeObjects
        files = whole(
            paths=paths,
            starts=[raw or b"" for raw in raws],
            views=views,
            stamps=[column_stamps[source] for source in sources],
            odd=odd,
            data=data,
            digest=crc32c,
            digests=window.crcs,
        )
        window.reads.append(self._shard.requests.submit(files.read, order, paths.__getitem__))

    def _take_kept(
        self,
        column: Column,
        memory: memoryview,
        raws: list[bytes | None],
        views: list[memoryview],
        sources: list[int],
        order: list[int],
    ) -> list[int]:
        """Copy the values of files that were kept whole; returns those of `order` that were not."""
        places, others = column.places, []
        assert places is not None
        for i in order:
            place, raw = places[sources[i]], raws[i]
            if place < 0 or raw is None:
                others.append(i)
            else:
                view = views[i]
                view[:] = memory[place + len(raw) : place + len(raw) + len(view)]
        return others

    def _begin_rows(self, f: int, window: Window) -> None:
        """The same for rows: each source is opened once, and its rows are read in their order."""
        first, last = window.first, window.last
        column = self._shard.spec.columns[f]
        assert self._shard.spec.rows is not None
        rows, sources = self._shard.spec.rows[first:last], column.sources[first:last]
        order = np.lexsort((rows, sources))
        if self._shard.bad:  # as found by an earlier attempt: a file that is gone must not be opened again
            order = order[[first + i not in self._shard.bad for i in order.tolist()]]
        begins = np.flatnonzero(np.diff(sources[order], prepend=-1)).tolist()
        groups = []
        for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
            records = order[begin:end]
            groups.append(_Group(int(sources[records[0]]), records.tolist(), rows[records]))
        if len(groups) <= _MOST_OPEN and not self._shard.spec.reads_whole_files:
            self._begin_spread(f, window, groups)
            return
        views = self._values(f, window)

        def read(numbers: Iterator[int]) -> None:
            for k in numbers:
                self._read_group(f, window, groups[k], views)

        paths = column.paths
        window.reads.append(self._shard.requests.submit(read, range(len(groups)), lambda k: paths[groups[k].source]))

    def _read_group(self, f: int, window: Window, group: _Group, views: list[memoryview]) -> None:
        """Read the rows of one source."""
        column, rows = self._shard.spec.columns[f], group.rows
        assert rows is not None
        try:
            reader = self._shard.open(column, group.source)
            try:
                group.odd = list(reader.read_rows([views[i] for i in group.records], rows))
                self._read_odd(column, window, group, reader, views)
                reader.finish()
            finally:
                reader.close()
        except (InputError, OSError) as error:
            self._source_failed(column, group.source, error)

    def _read_odd(
        self, column: Column, window: Window, group: _Group, reader: ArrayReader, views: list[memoryview]
    ) -> None:
        """Read with care what could not be read as it is."""
        for k in group.odd:
            i = group.records[k]
            row = 0 if group.rows is None else int(group.rows[k])
            try:
                reader.read(views[i], row * len(views[i]))
            except InputError as error:
                problem = error if group.rows is None else error.in_row(row)
                self._shard.failed(window.first + i, column.paths[group.source], problem)

    def _source_failed(self, column: Column, source: int, error: InputError | OSError) -> None:
        """Not one row failed, but the file: rows of it that are written already must go too."""
        for record in np.flatnonzero(column.sources == source).tolist():
            self._shard.failed(record, column.paths[source], error)
        raise StartAgain from None

    def _begin_spread(self, f: int, window: Window, groups: list[_Group]) -> None:
        """Open sources, all at once, and begin to read ranges of them: of rows, or pieces of large values."""
        column, views = self._shard.spec.columns[f], self._values(f, window)
        paths = column.paths

        def open_them(numbers: Iterator[int]) -> None:
            for k in numbers:
                try:
                    groups[k].reader = self._shard.open(column, groups[k].source)
                except (InputError, OSError) as error:
                    groups[k].error = error

        self._shard.requests.run(open_them, range(len(groups)), lambda k: paths[groups[k].source])
        owners: list[tuple[_Group, range]] = []  # of each range: the group, and the places of its records there
        sources, offsets, buffers = [], [], []
        for group in groups:
            if group.reader is None:
                continue
            wanted = [views[i] for i in group.records]
            ranges = group.reader.ranges(wanted, group.rows, PIECE_BYTES)
            if ranges is None:
                group.odd = list(range(len(wanted)))
                continue
            for places, offset, pieces in ranges:
                owners.append((group, places))
                sources.append(group.reader.file)
                offsets.append(offset)
                buffers.append(pieces)
        files = Ranges(
            files=sources,
            offsets=offsets,
            views=buffers,
            odd=lambda number, error: owners[number][0].odd.extend(owners[number][1]),
        )
        batch = self._shard.requests.submit(files.read, range(len(sources)), lambda k: paths[owners[k][0].source])
        window.reads.append(_Spread(f, groups, batch))

    def _finish_spread(self, spread: _Spread, window: Window) -> None:
        """See to it that the ranges are there, and that no file changed meanwhile."""
        self._shard.requests.wait(spread.batch)
        column, views = self._shard.spec.columns[spread.feature], self._values(spread.feature, window)
        for group in spread.groups:
            try:
                if group.error is not None:
                    raise group.error
                assert group.reader is not None
                self._read_odd(column, window, group, group.reader, views)
                group.reader.finish()
            except (InputError, OSError) as error:
                if group.rows is not None:
                    self._source_failed(column, group.source, error)
                self._shard.failed(window.first + group.records[0], column.paths[group.source], error)
        spread.close()

    def _take_moments(self, f: int, column: Column, window: Window, left_out: set[int]) -> None:
        """Take a window's values of one feature into its statistics, records of one size together."""
        views = self._values(f, window)
        dtype, moments = column.cast.out_dtype, self._shard.moments[column.feature]
        own = self._shard.channels_of(column)
        by_size: dict[tuple[int, int], list[memoryview]] = {}
        for i, (view, source) in enumerate(
            zip(views, column.sources[window.first : window.last].tolist(), strict=True), window.first
        ):
            if i not in left_out and len(view):
                by_size.setdefault((len(view), own[column.header_ids[source]]), []).append(view)
        for (size, channels), alike in by_size.items():
            if len(self._values_bytes) < size * len(alike):
                self._values_bytes = bytearray(size * len(alike))
            values = np.frombuffer(self._values_bytes, dtype, size * len(alike) // dtype.itemsize)
            np.concatenate([np.frombuffer(view, dtype) for view in alike], out=values)
            moments.add(values.reshape(len(alike), -1), channels)
