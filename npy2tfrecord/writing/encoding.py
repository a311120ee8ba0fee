"""What all parts of encoding a shard share: its plan, the sink, buffers, requests, and what became of its sources."""

from __future__ import annotations

from typing import Protocol

from npy2tfrecord.errors import InputError
from npy2tfrecord.planning.feature_summary import channels_of
from npy2tfrecord.planning.plan import Column, ShardSpec
from npy2tfrecord.sources.array_reader import ArrayReader
from npy2tfrecord.sources.table import unreadable
from npy2tfrecord.storage.in_flight import requests_for
from npy2tfrecord.storage.kept import new_memory
from npy2tfrecord.storage.local import patiently
from npy2tfrecord.writing.record_layout import Forms
from npy2tfrecord.writing.statistics import Moments

_LARGE_RECORD_BYTES = 2**16  # on average; of large files a few at a time stay in the processor's cache
BUFFER_BYTES = 4 * 2**20  # a worker's; records that fit are laid out in it, larger ones pass through
WAITING_BUFFER_BYTES = 24 * 2**20  # each of two, where storage waits: one is filled while the other is written
_WAITING_RECORDS = 256  # that such a buffer should hold, so that enough of them can be under way
PIECE_BYTES = 4 * 2**20  # of large values that are read at once, where storage waits
LARGE_BUFFER_BYTES = 128 * 2**20  # the same where each time it is filled costs a pass over a whole file

_spare: list[memoryview] = []  # buffers of earlier shards: new memory costs as much as reading into it


class Sink(Protocol):
    def write(self, data: memoryview) -> None: ...


def forget_buffers() -> None:
    """Give back the memory that this process has kept for its next shards."""
    _spare.clear()


class StartAgain(Exception):
    """A record that was partly written turned out to be unreadable: write the shard without it."""


class Encoding:
    """The state of one shard while it is encoded.

    Records in `bad` are left out; those that turn out to be unreadable are added to it, if `skip`. There are two
    buffers: where storage waits, one is filled while the other is written.
    """

    def __init__(
        self, spec: ShardSpec, sink: Sink, bad: dict[int, InputError], skip: bool, in_flight: int | None
    ) -> None:
        self.spec = spec
        self.skip = skip
        self.bad = bad
        self.moments = {c.feature: Moments(c.channels) for c in spec.columns if c.channels}
        self.sink = sink
        self.requests = requests_for(in_bucket=any(c.in_bucket for c in spec.columns), limit=in_flight)
        self.forms = Forms(spec)
        self._is_direct = all(None not in form.raws for form in self.forms.forms)
        self._buffers = [_spare.pop() if _spare else memoryview(b"") for _ in range(2)]

    @property
    def room(self) -> int:
        """The bytes of a window; a larger record passes through in pieces."""
        spec = self.spec
        if spec.reads_whole_files:
            return LARGE_BUFFER_BYTES
        mean = spec.size // len(spec)
        if self.requests.target and self._is_direct:  # else what turns and casts them would take as much again
            return min(max(BUFFER_BYTES, _WAITING_RECORDS * mean), WAITING_BUFFER_BYTES)
        return BUFFER_BYTES // 4 if spec.rows is None and mean > _LARGE_RECORD_BYTES else BUFFER_BYTES

    def buffer(self, size: int) -> memoryview:
        """A buffer that nothing under way is in: of the two, the one that was not given last."""
        self._buffers.reverse()
        if len(self._buffers[0]) < size:
            self._buffers[0] = new_memory(max(size, min(self.room, self.spec.size)))
        return self._buffers[0]

    def channels_of(self, column: Column) -> list[int]:
        """How many channels records with each header have by themselves."""
        first = 0 if self.spec.rows is None else 1
        return [channels_of(header.shape[first:], column.cast.to_name) for header in column.headers]

    def failed(self, record: int, path: bytes, error: InputError | OSError) -> None:
        problem = error if isinstance(error, InputError) else unreadable(path, error)
        if not self.skip:
            raise problem from error
        self.bad.setdefault(record, problem)

    def open(self, column: Column, source: int) -> ArrayReader:
        return patiently(
            lambda: ArrayReader(
                column.paths[source],
                column.headers[column.header_ids[source]],
                column.cast,
                column.stamps[source],
                column.members[source] if column.members else None,
            )
        )

    def read_whole(self, column: Column, source: int, view: memoryview, start: int = 0) -> None:
        def read() -> None:
            reader = self.open(column, source)
            try:
                reader.read(view, start)
                reader.finish()
            finally:
                reader.close()

        patiently(read)

    def use_same_buffer(self) -> None:
        """Let `buffer` give the one that it gave last, which is in the processor's cache."""
        self._buffers.reverse()

    def keep_buffers(self) -> None:
        """Leave the buffers to the next shard. Not after an error: something may still be read into them."""
        _spare.extend(self._buffers)
