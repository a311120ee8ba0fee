"""Records that are larger than a buffer: they pass through in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from crc32c import crc32c

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.tfrecord import HEAD_BYTES, foot
from npy2tfrecord.planning.plan import Column
from npy2tfrecord.sources.array_reader import ArrayReader
from npy2tfrecord.storage.in_flight import Batch
from npy2tfrecord.writing.encoding import PIECE_BYTES, WAITING_BUFFER_BYTES, Encoding, StartAgain


class LargeRecords:
    """The large records of one shard."""

    def __init__(self, shard: Encoding) -> None:
        self._shard = shard

    def write(self, record: int) -> None:
        if record in self._shard.bad:
            return
        spec, sink = self._shard.spec, self._shard.sink
        form = self._shard.forms.of(record)
        between, payloads = form.between, form.lengths
        literal = self._shard.forms.start_of(record)
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
            if f > first and size + payload > self._shard.room:
                runs.append(range(first, f))
                first, size = f, 0
            size += payload
        return [*runs, range(first, len(payloads))]

    def _read_together(self, record: int, features: range, payloads: tuple[int, ...]) -> list[memoryview]:
        """The values of some features of a record, read at the same time where storage waits."""
        spec = self._shard.spec
        ends = np.cumsum([payloads[f] for f in features]).tolist()
        buffer = self._shard.buffer(ends[-1])
        views = [buffer[end - payloads[f] : end] for f, end in zip(features, ends, strict=True)]
        row = 0 if spec.rows is None else int(spec.rows[record])

        def read(numbers: Iterator[int]) -> None:
            for k in numbers:
                column = spec.columns[features[k]]
                try:
                    self._shard.read_whole(column, int(column.sources[record]), views[k], row * len(views[k]))
                except InputError as error:
                    self._large_failed(record, features[k], error)

        paths = [spec.columns[f].paths[int(spec.columns[f].sources[record])] for f in features]
        self._shard.requests.run(read, range(len(features)), paths.__getitem__)
        return views

    def _large_failed(self, record: int, f: int, error: InputError) -> None:
        """A record of which a part may be written already can't be read."""
        rows, column = self._shard.spec.rows, self._shard.spec.columns[f]
        problem = error if rows is None else error.in_row(int(rows[record]))
        self._shard.failed(record, column.paths[int(column.sources[record])], problem)
        raise StartAgain from None

    def _give(self, column: Column, source: int, piece: memoryview, crc: int) -> int:
        """Give the sink values of a large record; returns the CRC with them taken in."""
        self._shard.sink.write(piece)
        if column.channels:
            own = self._shard.channels_of(column)[column.header_ids[source]]
            self._shard.moments[column.feature].add_piece(np.frombuffer(piece, dtype=column.cast.out_dtype), own)
        return crc32c(piece, crc)

    def _end_value(self, column: Column, source: int) -> None:
        """Note that a large value has been given in whole."""
        if column.channels:
            self._shard.moments[column.feature].end_record(self._shard.channels_of(column)[column.header_ids[source]])

    def _pass_through(self, column: Column, source: int, start: int, size: int, crc: int) -> int:
        """Give the sink `size` bytes of a source's values, in pieces; returns the CRC with them taken in.

        Where storage waits, as many pieces as two buffers hold are under way while they are given on in order.
        """
        under_way: deque[tuple[memoryview, memoryview, Batch]] = deque()  # slot, the part of it in use, its request
        slots: list[memoryview] = []
        reader = self._shard.open(column, source)
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
                self._shard.requests.wait(batch)
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
        if not (self._shard.requests.target and reader.is_direct):
            self._shard.use_same_buffer()  # the same one again, which is in the processor's cache
            return [self._shard.buffer(self._shard.room)[: self._shard.room // size * size]]
        step = PIECE_BYTES // size * size
        buffers = [self._shard.buffer(WAITING_BUFFER_BYTES) for _ in range(2)]
        return [each[i : i + step] for each in buffers for i in range(0, len(each) - step + 1, step)]

    def _begin_piece(self, reader: ArrayReader, piece: memoryview, start: int, rest: int) -> Batch:
        def read(numbers: Iterator[int]) -> None:
            for _ in numbers:
                reader.read(piece, start, rest - len(piece))

        return self._shard.requests.submit(read, (0,), lambda _: reader.path)
