"""The bytes of one shard: records laid out in a large buffer, filled in the order of the sources.

A record is a computed prefix, the values as read, and a checksum, so nothing is built and then copied.
Records are laid out in the buffer as they will be in the file. Their values are read in the order of the
sources on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.planning.plan import ShardSpec
from npy2tfrecord.storage.in_flight import remember
from npy2tfrecord.writing.encoding import Encoding, Sink, StartAgain
from npy2tfrecord.writing.large_records import LargeRecords
from npy2tfrecord.writing.statistics import Moments
from npy2tfrecord.writing.windows import Window, Windows


def encode_shard(
    spec: ShardSpec, sink: Sink, bad: dict[int, InputError], skip: bool, in_flight: int | None = None
) -> dict[str, Moments] | None:
    """Give `sink` the bytes of a shard without the records in `bad`; returns the features' statistics.

    Returns None when a record that was given in part turned out to be unreadable. It is in `bad` then, and the shard is
    to be encoded again. Raises `InputError` instead unless `skip`. `in_flight` limits the requests under way.
    """
    shard = Encoding(spec, sink, bad, skip, in_flight)
    try:
        _encode(shard)
    except StartAgain:
        return None
    return shard.moments


def _encode(shard: Encoding) -> None:
    """Give the sink one record after the other.

    Where storage answers at once, one window is filled and written at a time. Where it doesn't, the reads of one are
    under way while the one before is written.
    """
    windows, large_records = Windows(shard), LargeRecords(shard)
    under_way: list[Window] = []  # one, where storage waits

    def finish(but: int = 0) -> None:
        while len(under_way) > but:
            windows.finish(under_way[0])
            del under_way[0]

    try:
        with shard.requests:
            for first, last in _ranges(shard):
                if int(shard.spec.record_sizes[first]) > shard.room:
                    finish()
                    large_records.write(first)
                else:
                    under_way.append(windows.begin(first, last))
                    finish(but=1 if shard.requests.target else 0)
            finish()
            remember(shard.requests.target)
    finally:
        for window in under_way:
            window.close()
    shard.keep_buffers()


def _ranges(shard: Encoding) -> Iterator[tuple[int, int]]:
    """Ranges of records that fit into a buffer together; a larger record is a range by itself."""
    ends = np.cumsum(shard.spec.record_sizes)
    first = start = 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, start + shard.room, side="right")))
        yield first, last
        first, start = last, int(ends[last - 1])
