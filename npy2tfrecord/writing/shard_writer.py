"""Writing one shard: records laid out in a large buffer, filled in the order of the sources.

A record is a computed prefix, the values as read, and a checksum, so nothing is built and then copied.
Records are laid out in the buffer as they will be in the file. Their values are read in the order of the
sources on the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from crc32c import crc32c

from npy2tfrecord import syscalls
from npy2tfrecord.errors import InputError, OutputError, display
from npy2tfrecord.formats.manifest import ShardInfo, Skipped
from npy2tfrecord.formats.shard import content_of, encode_index, encode_keys
from npy2tfrecord.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, feet, foot
from npy2tfrecord.planning.feature_summary import channels_of
from npy2tfrecord.planning.plan import Column, ShardSpec
from npy2tfrecord.planning.records import CopySpec
from npy2tfrecord.sources.array_reader import ArrayReader
from npy2tfrecord.sources.table import unreadable
from npy2tfrecord.storage.in_flight import Batch, remember, requests_for
from npy2tfrecord.storage.kept import memory_of, new_memory
from npy2tfrecord.storage.local import Ranges, WholeFiles, is_passing, patiently
from npy2tfrecord.writing.record_layout import Forms, scatter
from npy2tfrecord.writing.shard_copier import copy_shard
from npy2tfrecord.writing.sink import Compressor
from npy2tfrecord.writing.statistics import Moments

_LARGE_RECORD_BYTES = 2**16  # on average; of large files a few at a time stay in the processor's cache
BUFFER_BYTES = 4 * 2**20  # a worker's; records that fit are laid out in it, larger ones pass through
WAITING_BUFFER_BYTES = 24 * 2**20  # each of two, where storage waits: one is filled while the other is written
_WAITING_RECORDS = 256  # that such a buffer should hold, so that enough of them can be under way
_PIECE_BYTES = 4 * 2**20  # of large values that are read at once, where storage waits
_MOST_OPEN = 32  # files that are open at once so that many ranges of each can be under way
LARGE_BUFFER_BYTES = 128 * 2**20  # the same where each time it is filled costs a pass over a whole file

_spare: list[memoryview] = []  # buffers of earlier shards: new memory costs as much as reading into it


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file of a shard as it was put into a bucket: what the store says about it, and the hash of its content."""

    name: str
    size: int
    etag: str | None
    version: str | None
    hash: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard as written: in temporary files that do not have their final names yet, or in a bucket under these."""

    shard: ShardInfo
    sources_hash: str  # of the stamps of its source files; empty where they are unknown
    compressor: str | None = None  # its name and version, where it compressed the shard
    left_out: tuple[tuple[int, Skipped], ...] = ()  # positions in the plan's shard
    moments: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # of each feature, if asked for
    uploads: tuple[Upload, ...] = ()  # index, keys and shard, where they are in a bucket

    @classmethod
    def of(cls, shard: ShardInfo) -> ShardEntry:
        """The entry of a shard that is known from its manifest alone."""
        return cls(shard=shard, sources_hash="")

    @property
    def file(self) -> str:
        return self.shard.file

    @property
    def examples(self) -> int:
        return self.shard.examples


class Sink(Protocol):
    def write(self, data: memoryview) -> None: ...


def write_shard(
    spec: ShardSpec | CopySpec,
    stem: str,
    *,
    compression: str,
    skip: bool,
    sync: bool,
    read_back: bool,
    in_flight: int | None = None,
) -> ShardEntry:
    """Write a shard to `stem` + ".shard", its index and its keys beside it; with `read_back`, compare with the disk.

    With `skip`, an example whose source can't be read is left out, even if none is left; otherwise it is an
    `InputError`. With `read_back`, the shard is read from the disk and compared. Raises `OutputError` when the files
    can't be written; they stay as they are then.
    """
    path = stem + ".shard"
    bad: dict[int, InputError] = {}
    try:
        handle = syscalls.open(path, syscalls.WRITE_FLAGS, 0o666)
        try:
            while True:
                sink = Compressor(handle, compression)
                if isinstance(spec, CopySpec):
                    copy_shard(spec, sink, in_flight)
                    moments: dict[str, Moments] | None = {}
                else:
                    moments = encode_shard(spec, sink, bad, skip, in_flight)
                if moments is not None:
                    break
                syscalls.truncate(handle)
            sink.finish()
            content, size = sink.content, syscalls.fstat(handle).st_size
            if size != content.bytes:
                raise OutputError(f"{display(path)} has {size} bytes after {content.bytes} were written")
            if sync:
                syscalls.fsync(handle)
        finally:
            syscalls.close(handle)
        sizes = np.delete(spec.record_sizes, sorted(bad))
        keys = [key for i, key in enumerate(spec.record_keys) if i not in bad] if bad else spec.record_keys
        syscalls.write_file(stem + ".idx", encode_index(sizes), sync=sync)
        syscalls.write_file(stem + ".keys", encode_keys(keys), sync=sync)
        if read_back:
            with syscalls.opened(path) as handle:
                found = content_of(handle, from_disk=True)
            if found != content:
                raise OutputError(
                    f"{display(path)} was written with the hash {content.hash}, the disk gives {found.hash}"
                )
    except (InputError, OutputError):
        raise
    except OSError as error:
        raise OutputError.from_os("write", path, error) from error
    return ShardEntry(
        shard=ShardInfo(
            file=spec.file,
            examples=len(sizes),
            bytes=content.bytes,
            hash=content.hash,
            tail=content.tail,
            unpacked=sink.unpacked,
        ),
        sources_hash=spec.sources_hash,
        compressor=sink.name,
        left_out=tuple((i, Skipped(display(bad[i].where), bad[i].problem)) for i in sorted(bad)),
        moments={name: one.state() for name, one in moments.items()},
    )


def forget_buffers() -> None:
    """Give back the memory that this process has kept for its next shards."""
    _spare.clear()


def encode_shard(
    spec: ShardSpec, sink: Sink, bad: dict[int, InputError], skip: bool, in_flight: int | None = None
) -> dict[str, Moments] | None:
    """Give `sink` the bytes of a shard without the records in `bad`; returns the features' statistics.

    Returns None when a record that was given in part turned out to be unreadable. It is in `bad` then, and the shard is
    to be encoded again. Raises `InputError` instead unless `skip`. `in_flight` limits the requests under way.
    """
    shard = _ShardWriter(spec, sink, bad, skip, in_flight)
    try:
        shard.write()
    except _StartAgain:
        return None
    return shard.moments


class _StartAgain(Exception):
    """A record that was partly written turned out to be unreadable: write the shard without it."""


class _Window:
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


class _ShardWriter:
    """The state of one shard while it is written.

    Records in `bad` are left out; those that turn out to be unreadable are added to it, if `skip`.

    Where storage answers at once, one buffer is filled and written at a time. Where it doesn't, the reads of one
    window are under way while the one before is written.
    """

    def __init__(
        self, spec: ShardSpec, sink: Sink, bad: dict[int, InputError], skip: bool, in_flight: int | None
    ) -> None:
        self.spec = spec
        self.skip = skip
        self.bad = bad
        self.moments = {c.feature: Moments(c.channels) for c in spec.columns if c.channels}
        self._sink = sink
        self._requests = requests_for(in_bucket=any(c.in_bucket for c in spec.columns), limit=in_flight)
        self._sizes: list[int] = spec.record_sizes.tolist()
        self._forms = Forms(spec)
        self._is_direct = all(None not in form.raws for form in self._forms.forms)
        self._buffers = [_spare.pop() if _spare else memoryview(b"") for _ in range(2)]
        self._values_bytes = bytearray()  # of one feature in a window, for statistics

    def write(self) -> None:
        under_way: list[_Window] = []  # one, where storage waits
        try:
            with self._requests:
                for first, last in self._ranges():
                    if self._sizes[first] > self._room:
                        self._finish_all(under_way)
                        self._write_large(first)
                        continue
                    under_way.append(self._begin(first, last))
                    if self._requests.target:
                        self._finish_all(under_way, but=1)
                    else:
                        self._finish_all(under_way)
                self._finish_all(under_way)
                remember(self._requests.target)
        finally:
            for window in under_way:
                window.close()
        _spare.extend(self._buffers)  # not after an error: something may still be read into them

    def _finish_all(self, windows: list[_Window], but: int = 0) -> None:
        while len(windows) > but:
            self._finish(windows[0])
            del windows[0]

    @property
    def _room(self) -> int:
        """The bytes of a window; a larger record passes through in pieces."""
        spec = self.spec
        if spec.reads_whole_files:
            return LARGE_BUFFER_BYTES
        mean = spec.size // len(spec)
        if self._requests.target and self._is_direct:  # else what turns and casts them would take as much again
            return min(max(BUFFER_BYTES, _WAITING_RECORDS * mean), WAITING_BUFFER_BYTES)
        return BUFFER_BYTES // 4 if spec.rows is None and mean > _LARGE_RECORD_BYTES else BUFFER_BYTES

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """Ranges of records that fit into a buffer together; a larger record is a range by itself."""
        ends = np.cumsum(self.spec.record_sizes)
        first = start = 0
        while first < len(ends):
            last = max(first + 1, int(np.searchsorted(ends, start + self._room, side="right")))
            yield first, last
            first, start = last, int(ends[last - 1])

    def _buffer(self, size: int) -> memoryview:
        """A buffer that nothing under way is in: of the two, the one that was not given last."""
        self._buffers.reverse()
        if len(self._buffers[0]) < size:
            self._buffers[0] = new_memory(max(size, min(self._room, self.spec.size)))
        return self._buffers[0]

    # --- many records at once

    def _begin(self, first: int, last: int) -> _Window:
        """Lay a window out, and begin to read its values."""
        sizes = self.spec.record_sizes[first:last]
        if not self._requests.target:
            self._buffers.reverse()  # the same one again, which is in the processor's cache
        window = _Window(first, last, sizes, self._buffer(int(sizes.sum())))
        self._forms.put(window.buffer, first, window.starts)
        for f in range(len(self.spec.columns)):
            if self.spec.rows is None:
                self._begin_values(f, window)
            else:
                self._begin_rows(f, window)
        return window

    def _finish(self, window: _Window) -> None:
        """Give the sink a window, when all of it is there."""
        for each in window.reads:
            if isinstance(each, Batch):
                self._requests.wait(each)
            else:
                self._finish_spread(each, window)
        crcs = [crc for crc in window.crcs if crc is not None]
        if len(crcs) < len(window.crcs):
            pairs = zip(self._data(window), window.crcs, strict=True)
            crcs = [crc32c(data) if crc is None else crc for data, crc in pairs]
        buffer, ends = window.buffer, window.ends
        scatter(buffer, ends - FOOT_BYTES, feet(crcs))
        left_out = self.bad.keys() & range(window.first, window.last)
        for f, column in enumerate(self.spec.columns):
            if column.channels:
                self._take_moments(f, column, window, left_out)
        if not left_out:
            self._sink.write(buffer[: ends[-1]])
            return
        for record, (start, end) in enumerate(zip(window.starts.tolist(), ends.tolist(), strict=True), window.first):
            if record not in left_out:
                self._sink.write(buffer[start:end])

    def _values(self, f: int, window: _Window) -> list[memoryview]:
        """Where in the buffer the values of one feature go."""
        ids, buffer = self._forms.ids[window.first : window.last], window.buffer
        places = window.starts + self._forms.places[ids, f]
        ends = (places + self._forms.lengths[ids, f]).tolist()
        return [buffer[place:end] for place, end in zip(places.tolist(), ends, strict=True)]

    def _data(self, window: _Window) -> list[memoryview]:
        """Where in the buffer the data is that a record's CRC is of."""
        buffer = window.buffer
        starts, ends = (window.starts + HEAD_BYTES).tolist(), (window.ends - FOOT_BYTES).tolist()
        return [buffer[start:end] for start, end in zip(starts, ends, strict=True)]

    def _begin_values(self, f: int, window: _Window) -> None:
        """Begin to read one feature's values, sources in order.

        A record's CRC is computed at once, while its values are in the processor's cache, if it has no other feature.
        """
        first, last = window.first, window.last
        column = self.spec.columns[f]
        views = self._values(f, window)
        sources = column.sources[first:last].tolist()
        order = np.argsort(column.sources[first:last], kind="stable").tolist()
        header_of_form = [form.raws[f] for form in self._forms.forms]
        raws = [header_of_form[i] for i in self._forms.ids[first:last].tolist()]
        column_paths, column_stamps = column.paths, column.stamps
        paths = [column_paths[source] for source in sources]

        def with_care(i: int) -> None:
            try:
                self._read_whole(column, sources[i], views[i])
            except (InputError, OSError) as error:
                self._failed(first + i, paths[i], error)

        def odd(i: int, error: OSError | None) -> None:
            if error is not None and not is_passing(error):
                self._failed(first + i, paths[i], error)
            else:
                with_care(i)

        def all_with_care(numbers: Iterator[int]) -> None:
            for i in numbers:
                with_care(i)

        if any(raw is None for raw in header_of_form):
            careful = [i for i in order if raws[i] is None]
            order = [i for i in order if raws[i] is not None]
            window.reads.append(self._requests.submit(all_with_care, careful, paths.__getitem__))
        if self._requests.target and (large := [i for i in order if len(views[i]) > _PIECE_BYTES]):
            order = [i for i in order if len(views[i]) <= _PIECE_BYTES]
            self._begin_spread(f, window, [_Group(sources[i], [i]) for i in large])
        data = self._data(window) if len(self.spec.columns) == 1 else []
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
        window.reads.append(self._requests.submit(files.read, order, paths.__getitem__))

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

    def _begin_rows(self, f: int, window: _Window) -> None:
        """The same for rows: each source is opened once, and its rows are read in their order."""
        first, last = window.first, window.last
        column = self.spec.columns[f]
        assert self.spec.rows is not None
        rows, sources = self.spec.rows[first:last], column.sources[first:last]
        order = np.lexsort((rows, sources))
        if self.bad:  # as found by an earlier attempt: a file that is gone must not be opened again
            order = order[[first + i not in self.bad for i in order.tolist()]]
        begins = np.flatnonzero(np.diff(sources[order], prepend=-1)).tolist()
        groups = []
        for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
            records = order[begin:end]
            groups.append(_Group(int(sources[records[0]]), records.tolist(), rows[records]))
        if len(groups) <= _MOST_OPEN and not self.spec.reads_whole_files:
            self._begin_spread(f, window, groups)
            return
        views = self._values(f, window)

        def read(numbers: Iterator[int]) -> None:
            for k in numbers:
                self._read_group(f, window, groups[k], views)

        paths = column.paths
        window.reads.append(self._requests.submit(read, range(len(groups)), lambda k: paths[groups[k].source]))

    def _read_group(self, f: int, window: _Window, group: _Group, views: list[memoryview]) -> None:
        """Read the rows of one source."""
        column, rows = self.spec.columns[f], group.rows
        assert rows is not None
        try:
            reader = self._open(column, group.source)
            try:
                group.odd = list(reader.read_rows([views[i] for i in group.records], rows))
                self._read_odd(column, window, group, reader, views)
                reader.finish()
            finally:
                reader.close()
        except (InputError, OSError) as error:
            self._source_failed(column, group.source, error)

    def _read_odd(
        self, column: Column, window: _Window, group: _Group, reader: ArrayReader, views: list[memoryview]
    ) -> None:
        """Read with care what could not be read as it is."""
        for k in group.odd:
            i = group.records[k]
            row = 0 if group.rows is None else int(group.rows[k])
            try:
                reader.read(views[i], row * len(views[i]))
            except InputError as error:
                problem = error if group.rows is None else error.in_row(row)
                self._failed(window.first + i, column.paths[group.source], problem)

    def _source_failed(self, column: Column, source: int, error: InputError | OSError) -> None:
        """Not one row failed, but the file: rows of it that are written already must go too."""
        for record in np.flatnonzero(column.sources == source).tolist():
            self._failed(record, column.paths[source], error)
        raise _StartAgain from None

    def _begin_spread(self, f: int, window: _Window, groups: list[_Group]) -> None:
        """Open sources, all at once, and begin to read ranges of them: of rows, or pieces of large values."""
        column, views = self.spec.columns[f], self._values(f, window)
        paths = column.paths

        def open_them(numbers: Iterator[int]) -> None:
            for k in numbers:
                try:
                    groups[k].reader = self._open(column, groups[k].source)
                except (InputError, OSError) as error:
                    groups[k].error = error

        self._requests.run(open_them, range(len(groups)), lambda k: paths[groups[k].source])
        owners: list[tuple[_Group, range]] = []  # of each range: the group, and the places of its records there
        sources, offsets, buffers = [], [], []
        for group in groups:
            if group.reader is None:
                continue
            wanted = [views[i] for i in group.records]
            ranges = group.reader.ranges(wanted, group.rows, _PIECE_BYTES)
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
        batch = self._requests.submit(files.read, range(len(sources)), lambda k: paths[owners[k][0].source])
        window.reads.append(_Spread(f, groups, batch))

    def _finish_spread(self, spread: _Spread, window: _Window) -> None:
        """See to it that the ranges are there, and that no file changed meanwhile."""
        self._requests.wait(spread.batch)
        column, views = self.spec.columns[spread.feature], self._values(spread.feature, window)
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
                self._failed(window.first + group.records[0], column.paths[group.source], error)
        spread.close()

    def _take_moments(self, f: int, column: Column, window: _Window, left_out: set[int]) -> None:
        """Take a window's values of one feature into its statistics, records of one size together."""
        views = self._values(f, window)
        dtype, moments = column.cast.out_dtype, self.moments[column.feature]
        own = self._channels_of(column)
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

    def _channels_of(self, column: Column) -> list[int]:
        """How many channels records with each header have by themselves."""
        first = 0 if self.spec.rows is None else 1
        return [channels_of(header.shape[first:], column.cast.to_name) for header in column.headers]

    def _failed(self, record: int, path: bytes, error: InputError | OSError) -> None:
        problem = error if isinstance(error, InputError) else unreadable(path, error)
        if not self.skip:
            raise problem from error
        self.bad.setdefault(record, problem)

    def _open(self, column: Column, source: int) -> ArrayReader:
        return patiently(
            lambda: ArrayReader(
                column.paths[source],
                column.headers[column.header_ids[source]],
                column.cast,
                column.stamps[source],
                column.members[source] if column.members else None,
            )
        )

    def _read_whole(self, column: Column, source: int, view: memoryview, start: int = 0) -> None:
        def read() -> None:
            reader = self._open(column, source)
            try:
                reader.read(view, start)
                reader.finish()
            finally:
                reader.close()

        patiently(read)

    # --- a record that is larger than the buffer

    def _write_large(self, record: int) -> None:
        if record in self.bad:
            return
        spec, sink = self.spec, self._sink
        form = self._forms.of(record)
        between, payloads = form.between, form.lengths
        literal = self._forms.start_of(record)
        crc = crc32c(literal[HEAD_BYTES:])
        sink.write(memoryview(literal))
        for together in self._features_together(payloads):
            values = self._read_together(record, together, payloads) if len(together) > 1 else []
            for f in together:
                column, payload = spec.columns[f], payloads[f]
                if f:
                    crc = crc32c(between[f - 1], crc)
                    sink.write(memoryview(between[f - 1]))
                if values:
                    crc = self._give(column, int(column.sources[record]), values[f - together[0]], crc)
                    self._end_value(column, int(column.sources[record]))
                    continue
                source = int(column.sources[record])
                start = 0 if spec.rows is None else int(spec.rows[record]) * payload
                try:
                    crc = self._pass_through(column, source, start, payload, crc)
                    self._end_value(column, source)
                except InputError as error:
                    self._large_failed(record, f, error)
        sink.write(memoryview(foot(crc)))

    def _features_together(self, payloads: tuple[int, ...]) -> list[range]:
        """The features of a large record, in runs that fit into a buffer; a larger one is a run by itself."""
        runs, first, size = [], 0, 0
        for f, payload in enumerate(payloads):
            if f > first and size + payload > self._room:
                runs.append(range(first, f))
                first, size = f, 0
            size += payload
        return [*runs, range(first, len(payloads))]

    def _read_together(self, record: int, features: range, payloads: tuple[int, ...]) -> list[memoryview]:
        """The values of some features of a record, read at the same time where storage waits."""
        spec = self.spec
        ends = np.cumsum([payloads[f] for f in features]).tolist()
        buffer = self._buffer(ends[-1])
        views = [buffer[end - payloads[f] : end] for f, end in zip(features, ends, strict=True)]
        row = 0 if spec.rows is None else int(spec.rows[record])

        def read(numbers: Iterator[int]) -> None:
            for k in numbers:
                column = spec.columns[features[k]]
                try:
                    self._read_whole(column, int(column.sources[record]), views[k], row * len(views[k]))
                except InputError as error:
                    self._large_failed(record, features[k], error)

        paths = [spec.columns[f].paths[int(spec.columns[f].sources[record])] for f in features]
        self._requests.run(read, range(len(features)), paths.__getitem__)
        return views

    def _large_failed(self, record: int, f: int, error: InputError) -> None:
        """A record of which a part may be written already can't be read."""
        rows, column = self.spec.rows, self.spec.columns[f]
        problem = error if rows is None else error.in_row(int(rows[record]))
        self._failed(record, column.paths[int(column.sources[record])], problem)
        raise _StartAgain from None

    def _give(self, column: Column, source: int, piece: memoryview, crc: int) -> int:
        """Give the sink values of a large record; returns the CRC with them taken in."""
        self._sink.write(piece)
        if column.channels:
            own = self._channels_of(column)[column.header_ids[source]]
            self.moments[column.feature].add_piece(np.frombuffer(piece, dtype=column.cast.out_dtype), own)
        return crc32c(piece, crc)

    def _end_value(self, column: Column, source: int) -> None:
        """Note that a large value has been given in whole."""
        if column.channels:
            self.moments[column.feature].end_record(self._channels_of(column)[column.header_ids[source]])

    def _pass_through(self, column: Column, source: int, start: int, size: int, crc: int) -> int:
        """Give the sink `size` bytes of a source's values, in pieces; returns the CRC with them taken in.

        Where storage waits, as many pieces as two buffers hold are under way while they are given on in order.
        """
        under_way: deque[tuple[memoryview, memoryview, Batch]] = deque()  # slot, the part of it in use, its request
        slots: list[memoryview] = []
        reader = self._open(column, source)
        try:
            taken = done = 0
            while done < size:
                if not under_way:
                    slots = self._slots(column, reader)
                while taken < size and slots:
                    slot = slots.pop()
                    piece = slot[: size - taken]
                    under_way.append((slot, piece, self._begin_piece(reader, piece, start + taken, size - taken)))
                    taken += len(piece)
                slot, piece, batch = under_way.popleft()
                self._requests.wait(batch)
                crc = self._give(column, source, piece, crc)
                done += len(piece)
                slots.append(slot)
            reader.finish()
        finally:
            reader.close()
        return crc

    def _slots(self, column: Column, reader: ArrayReader) -> list[memoryview]:
        """Where pieces of a value go: one place, or many where storage waits and any piece can be read by itself."""
        size = column.cast.itemsize
        if not (self._requests.target and reader.is_direct):
            self._buffers.reverse()  # the same one again, which is in the processor's cache
            return [self._buffer(self._room)[: self._room // size * size]]
        step = _PIECE_BYTES // size * size
        buffers = [self._buffer(WAITING_BUFFER_BYTES) for _ in range(2)]
        return [each[i : i + step] for each in buffers for i in range(0, len(each) - step + 1, step)]

    def _begin_piece(self, reader: ArrayReader, piece: memoryview, start: int, rest: int) -> Batch:
        def read(numbers: Iterator[int]) -> None:
            for _ in numbers:
                reader.read(piece, start, rest - len(piece))

        return self._requests.submit(read, (0,), lambda _: reader.path)
