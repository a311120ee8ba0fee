"""Writing one shard: records laid out in a large buffer, filled in the order of the sources.

A record is a computed prefix, the values as read, and a checksum, so nothing is built and then
copied. Records are put into the buffer at the places they will have in the file, but their values
are read in the order in which the sources lie on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

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
from npy2tfrecord.sources.array_reader import ArrayReader, changed
from npy2tfrecord.sources.table import stamp, unreadable
from npy2tfrecord.writing.record_layout import Forms, scatter
from npy2tfrecord.writing.shard_copier import copy_shard
from npy2tfrecord.writing.sink import Compressor
from npy2tfrecord.writing.statistics import Moments

_LARGE_RECORD_BYTES = 2**16  # on average; of large files a few at a time stay in the processor's cache
BUFFER_BYTES = 4 * 2**20  # a worker's; records that fit are laid out in it, larger ones pass through
LARGE_BUFFER_BYTES = 128 * 2**20  # the same where each time it is filled costs a pass over a whole file


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard as written, in temporary files that are still to be given their names."""

    shard: ShardInfo
    sources_hash: str  # empty where it is not known which files the shard was made of
    compressor: str | None = None  # its name and version, where it compressed the shard
    left_out: tuple[tuple[int, Skipped], ...] = ()  # positions in the plan's shard
    moments: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # of each feature, if asked for

    @classmethod
    def of(cls, shard: ShardInfo) -> ShardEntry:
        """A shard of which only the manifest is known."""
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
    spec: ShardSpec | CopySpec, stem: str, *, compression: str, skip: bool, sync: bool, read_back: bool
) -> ShardEntry:
    """Write a shard to `stem` + ".shard", its index and its keys beside it; with `read_back`, compare with the disk.

    Raises `InputError` for a source that cannot be read, or leaves its example out if `skip`, were it the last of them;
    `OutputError` when the files cannot be written. Temporary files stay behind then.
    """
    path = stem + ".shard"
    bad: dict[int, InputError] = {}
    try:
        handle = syscalls.open(path, syscalls.WRITE_FLAGS, 0o666)
        try:
            while True:
                sink = Compressor(handle, compression)
                if isinstance(spec, CopySpec):
                    copy_shard(spec, sink)
                    moments: dict[str, Moments] | None = {}
                else:
                    moments = encode_shard(spec, sink, bad, skip)
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
        shard=ShardInfo(spec.file, len(sizes), content.bytes, content.hash, content.tail, sink.unpacked),
        sources_hash=spec.sources_hash,
        compressor=sink.name,
        left_out=tuple((i, Skipped(display(bad[i].where), bad[i].problem)) for i in sorted(bad)),
        moments={name: one.state() for name, one in moments.items()},
    )


def encode_shard(spec: ShardSpec, sink: Sink, bad: dict[int, InputError], skip: bool) -> dict[str, Moments] | None:
    """Give `sink` the bytes of a shard without the records in `bad`; returns the features' statistics.

    Returns None when a record that was given in part turned out to be unreadable. It is in `bad` then, and the shard is
    to be encoded again. Raises `InputError` instead unless `skip`.
    """
    shard = _ShardWriter(spec, sink, bad, skip)
    try:
        shard.write()
    except _StartAgain:
        return None
    return shard.moments


class _Window(NamedTuple):
    """Records that are laid out in the buffer together: where each starts and ends there, int64."""

    first: int
    last: int
    starts: np.ndarray
    ends: np.ndarray


class _StartAgain(Exception):
    """A record that was partly written turned out to be unreadable: write the shard without it."""


class _ShardWriter:
    """The state of one shard while it is written.

    Records in `bad` are left out; those that turn out to be unreadable are added to it, if `skip`.
    """

    def __init__(self, spec: ShardSpec, sink: Sink, bad: dict[int, InputError], skip: bool) -> None:
        self.spec = spec
        self.skip = skip
        self.bad = bad
        self.moments = {c.feature: Moments(c.channels) for c in spec.columns if c.channels}
        self._sink = sink
        self._sizes: list[int] = spec.record_sizes.tolist()
        self._forms = Forms(spec)
        self._room = LARGE_BUFFER_BYTES if spec.reads_whole_files else BUFFER_BYTES
        if spec.rows is None and spec.size > _LARGE_RECORD_BYTES * len(spec):
            self._room //= 4
        # A large record passes through the buffer in pieces of whole values.
        self._room = max([self._room, *(c.cast.itemsize for c in spec.columns)])
        self._buffer = memoryview(bytearray(min(self._room, spec.size)))
        self._start = bytearray()
        self._tail = bytearray(1)
        self._values_bytes = bytearray()  # of one feature in a window, for statistics

    def write(self) -> None:
        for first, last in self._windows():
            if self._sizes[first] > len(self._buffer):
                self._write_large(first)
            else:
                self._write_window(first, last)

    def _windows(self) -> list[tuple[int, int]]:
        """Ranges of records that fit into the buffer together; a larger record is a range by itself."""
        windows, first, room = [], 0, self._room
        for i, size in enumerate(self._sizes):
            if size > room and i > first:
                windows.append((first, i))
                first, room = i, self._room
            room -= size
        windows.append((first, len(self._sizes)))
        return windows

    # --- many records at once

    def _write_window(self, first: int, last: int) -> None:
        ends = np.cumsum(self.spec.record_sizes[first:last])
        window = _Window(first, last, ends - self.spec.record_sizes[first:last], ends)
        self._forms.put(self._buffer, first, window.starts)
        for f in range(len(self.spec.columns)):
            crcs = self._fill(f, window) if self.spec.rows is None else self._fill_rows(f, window)
        scatter(self._buffer, ends - FOOT_BYTES, feet(crcs))
        left_out = self.bad.keys() & range(first, last)
        for f, column in enumerate(self.spec.columns):
            if column.channels:
                self._take_moments(f, column, window, left_out)
        if not left_out:
            self._sink.write(self._buffer[: ends[-1]])
            return
        for record, (start, end) in enumerate(zip(window.starts.tolist(), ends.tolist(), strict=True), first):
            if record not in left_out:
                self._sink.write(self._buffer[start:end])

    def _values(self, f: int, window: _Window) -> list[memoryview]:
        """Where in the buffer the values of one feature go."""
        ids, buffer = self._forms.ids[window.first : window.last], self._buffer
        places = window.starts + self._forms.places[ids, f]
        ends = (places + self._forms.lengths[ids, f]).tolist()
        return [buffer[place:end] for place, end in zip(places.tolist(), ends, strict=True)]

    def _data(self, window: _Window) -> list[memoryview]:
        """Where in the buffer the data is that a record's CRC is of."""
        buffer = self._buffer
        starts, ends = (window.starts + HEAD_BYTES).tolist(), (window.ends - FOOT_BYTES).tolist()
        return [buffer[start:end] for start, end in zip(starts, ends, strict=True)]

    def _fill(self, f: int, window: _Window) -> list[int]:
        """Put one feature's values into the buffer, sources in order; returns the CRC of each record, of the last one.

        This is the loop that runs once for every file, so it looks up as little as it can.
        """
        first, last = window.first, window.last
        column, is_last = self.spec.columns[f], f == len(self.spec.columns) - 1
        views, data, crcs = self._values(f, window), self._data(window) if is_last else [], [0] * (last - first)
        began, tail = self._start, self._tail
        header_of_form = [form.raws[f] for form in self._forms.forms]
        raws = [header_of_form[i] for i in self._forms.ids[first:last].tolist()]
        sources, paths, stamps = column.sources[first:last].tolist(), column.paths, column.stamps
        opening, flags, closing = syscalls.open, syscalls.READ_FLAGS, syscalls.close
        fstat, readv = syscalls.fstat, syscalls.readv
        for i in np.argsort(column.sources[first:last], kind="stable").tolist():
            source, view, raw = sources[i], views[i], raws[i]
            try:
                if raw is None:
                    self._read_whole(column, source, view)
                else:
                    if len(began) != len(raw):
                        began = bytearray(len(raw))
                    # Header, values and one byte more in a single call: the file must end where it did.
                    handle = opening(paths[source], flags)
                    try:
                        count = readv(handle, (began, view, tail))
                        status = fstat(handle)
                    finally:
                        closing(handle)
                    if count != len(raw) + len(view):  # a read may be cut short without the file being so
                        self._read_whole(column, source, view)
                    elif began != raw or stamp(status) != stamps[source]:
                        raise changed(paths[source])
            except (InputError, OSError) as error:
                self._failed(first + i, paths[source], error)
            if is_last:  # the record is complete, and in the processor's cache
                crcs[i] = crc32c(data[i])
        return crcs

    def _fill_rows(self, f: int, window: _Window) -> list[int]:
        """The same for rows: each source is opened once, and its rows are read in their order."""
        first, last = window.first, window.last
        column, is_last = self.spec.columns[f], f == len(self.spec.columns) - 1
        assert self.spec.rows is not None
        views, data, crcs = self._values(f, window), self._data(window) if is_last else [], [0] * (last - first)
        rows, sources = self.spec.rows[first:last], column.sources[first:last]
        order = np.lexsort((rows, sources))
        groups = np.flatnonzero(np.diff(sources[order], prepend=-1)).tolist()
        for begin, end in zip(groups, [*groups[1:], len(order)], strict=True):
            group = order[begin:end]
            source = int(sources[group[0]])
            if self.bad:  # as found by an earlier attempt: a file that is gone must not be opened again
                group = np.array([i for i in group.tolist() if first + i not in self.bad], dtype=np.int64)
                if not len(group):
                    continue
            records, wanted = group.tolist(), rows[group]
            try:
                reader = self._open(column, source)
                try:
                    for k in reader.read_rows([views[i] for i in records], wanted):
                        i, row = records[k], int(wanted[k])
                        try:
                            reader.read(views[i], row * len(views[i]))
                        except InputError as error:
                            self._failed(first + i, column.paths[source], error.in_row(row))
                    if is_last:
                        for i in records:
                            crcs[i] = crc32c(data[i])
                    reader.finish()
                finally:
                    reader.close()
            except (InputError, OSError) as error:
                # Not one row, but the file: rows of it that are written already must go too.
                for record in np.flatnonzero(column.sources == source).tolist():
                    self._failed(record, column.paths[source], error)
                raise _StartAgain from None
        return crcs

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
        return ArrayReader(
            column.paths[source],
            column.headers[column.header_ids[source]],
            column.cast,
            column.stamps[source],
            column.members[source] if column.members else None,
        )

    def _read_whole(self, column: Column, source: int, view: memoryview) -> None:
        reader = self._open(column, source)
        try:
            reader.read(view, 0)
            reader.finish()
        finally:
            reader.close()

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
        for f, (column, payload) in enumerate(zip(spec.columns, payloads, strict=True)):
            if f:
                crc = crc32c(between[f - 1], crc)
                sink.write(memoryview(between[f - 1]))
            source = int(column.sources[record])
            start = 0 if spec.rows is None else int(spec.rows[record]) * payload
            own = self._channels_of(column)[column.header_ids[source]]
            whole = column.cast.itemsize
            step = len(self._buffer) // whole * whole
            try:
                reader = self._open(column, source)
                try:
                    for done in range(0, payload, step):
                        piece = self._buffer[: min(step, payload - done)]
                        reader.read(piece, start + done, payload - done - len(piece))
                        crc = crc32c(piece, crc)
                        sink.write(piece)
                        if column.channels:
                            self.moments[column.feature].add_piece(np.frombuffer(piece, column.cast.out_dtype), own)
                    if column.channels:
                        self.moments[column.feature].end_record(own)
                    reader.finish()
                finally:
                    reader.close()
            except InputError as error:
                problem = error if spec.rows is None else error.in_row(int(spec.rows[record]))
                self._failed(record, column.paths[source], problem)
                raise _StartAgain from None
        sink.write(memoryview(foot(crc)))
