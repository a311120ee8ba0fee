"""Copying records of existing shards into a new one, their checksums checked on the way.

A window of the new shard is filled in the order in which its records lie in the old ones; neighbours are read by one
call, each to its own place. Nothing is decoded. Where a label becomes another, what stands before it is made anew.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from crc32c import crc32c

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, InputError, OutputError, display
from npy2tfrecord.formats.example import example_start, label_entry
from npy2tfrecord.formats.shard import unpacked
from npy2tfrecord.formats.tfrecord import FOOT_BYTES, FRAME_BYTES, HEAD_BYTES, feet, foot, head
from npy2tfrecord.planning.records import CopySpec
from npy2tfrecord.sources.record_sets import SourceShard, damaged, open_shard
from npy2tfrecord.storage.in_flight import InFlight, remember, remembered

BUFFER_BYTES = 4 * 2**20
_MOST_VIEWS = 512  # of one read; systems allow 1,024
_GAP_BYTES = 4096  # between records that are read together all the same
_MAX_OPEN = 64  # shards
_PIECE_BYTES = 1 << 20


class Sink(Protocol):
    def write(self, data: memoryview) -> None: ...


def copy_shard(spec: CopySpec, sink: Sink, in_flight: int | None = None) -> None:
    """Give `sink` the bytes of a shard. Raises `InputError` for a record that is not what was written."""
    requests = InFlight(in_flight, begin=remembered())
    with _Sources(spec, requests) as sources, requests:  # whose threads end before the files are closed
        first, room = 0, BUFFER_BYTES
        buffer = memoryview(bytearray(min(BUFFER_BYTES, spec.size)))
        for i, size in enumerate(spec.record_sizes.tolist()):
            if size > room and i > first:
                _copy_window(spec, sources, buffer, first, i, sink)
                first, room = i, BUFFER_BYTES
            if size > BUFFER_BYTES:
                _copy_large(spec, sources, buffer, i, sink)
                first = i + 1
            else:
                room -= size
        _copy_window(spec, sources, buffer, first, len(spec), sink)
        remember(requests.target)


class _Sources:
    """The files that hold a shard's records, opened when they are needed."""

    def __init__(self, spec: CopySpec, requests: InFlight) -> None:
        self._spec = spec
        self._requests = requests
        self._handles: dict[int, int] = {}

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles.values():
            syscalls.close(handle)

    def read_all(self, ranges: list[tuple[int, list[memoryview], int]]) -> None:
        """Read ranges (shard, views, offset), sorted by shard, many at a time where storage waits."""
        first = 0
        while first < len(ranges):
            shards: dict[int, None] = {}
            last = first
            while last < len(ranges) and (ranges[last][0] in shards or len(shards) < _MAX_OPEN):
                shards[ranges[last][0]] = None
                last += 1
            self._open(shards)

            def read(numbers: Iterator[int]) -> None:
                for i in numbers:
                    self._read(*ranges[i])

            self._requests.run(read, range(first, last), lambda i: os.fsencode(self._spec.paths[ranges[i][0]]))
            first = last

    def read(self, shard: int, views: list[memoryview], offset: int) -> None:
        """Fill the views, one behind the other in the file. Raises `InputError` where the file is shorter."""
        self._open({shard: None})
        self._read(shard, views, offset)

    def _open(self, shards: dict[int, None]) -> None:
        missing = [shard for shard in shards if shard not in self._handles]
        if len(self._handles) + len(missing) > _MAX_OPEN:
            for shard in [shard for shard in self._handles if shard not in shards]:
                syscalls.close(self._handles.pop(shard))
        for shard in missing:
            self._handles[shard] = _open(self._spec, shard)

    def _read(self, shard: int, views: list[memoryview], offset: int) -> None:
        handle, wanted = self._handles[shard], sum(map(len, views))
        try:
            done = syscalls.preadv(handle, views, offset) if syscalls.preadv else 0
            for view in views if done < wanted else ():  # a read may be cut short without the file being so
                if syscalls.read_into(handle, view, offset) < len(view):
                    raise damaged(self._spec.shards[shard], f"the file ends before {offset + len(view)} bytes")
                offset += len(view)
        except OSError as error:
            raise damaged(self._spec.shards[shard], error.strerror or str(error)) from None


def _open(spec: CopySpec, shard: int) -> int:
    info, path = spec.shards[shard], spec.paths[shard]
    if path == info.path:
        return open_shard(info)
    try:
        return syscalls.open_regular(path)
    except OSError as error:
        raise OutputError.from_os("read again", path, error) from error


def _old_start(spec: CopySpec, record: int, size: int) -> bytes:
    """What stands at the start of a record by its size, key and label."""
    key = spec.record_keys[record]
    try:
        start = head(size - FRAME_BYTES) + example_start(size - FRAME_BYTES, len(key)) + key
    except DamageError:
        raise _other_record(spec, record) from None
    return start if spec.labels is None else start + label_entry(int(spec.labels[0][record]))


def _new_start(spec: CopySpec, record: int) -> bytes:
    """The same with the new label."""
    assert spec.labels is not None
    key, size = spec.record_keys[record], int(spec.record_sizes[record]) - FRAME_BYTES
    return head(size) + example_start(size, len(key)) + key + label_entry(int(spec.labels[1][record]))


def _is_relabelled(spec: CopySpec, record: int) -> bool:
    return spec.labels is not None and spec.labels[0][record] != spec.labels[1][record]


def _copy_window(spec: CopySpec, sources: _Sources, buffer: memoryview, first: int, last: int, sink: Sink) -> None:
    """Copy the records from `first` to `last`, which fit into the buffer together."""
    if first == last:
        return
    ends = np.cumsum(spec.record_sizes[first:last])
    starts = (ends - spec.record_sizes[first:last]).tolist()
    stops = ends.tolist()
    sizes = spec.sizes[first:last].tolist()
    olds = [_old_start(spec, first + i, size) for i, size in enumerate(sizes)]
    views: list[list[memoryview]] = [[buffer[start:stop]] for start, stop in zip(starts, stops, strict=True)]
    relabelled: dict[int, bytes] = {}
    if spec.labels is not None:
        for i in np.flatnonzero(spec.labels[0][first:last] != spec.labels[1][first:last]).tolist():
            new = relabelled[i] = _new_start(spec, first + i)
            views[i] = [memoryview(bytearray(len(olds[i]))), buffer[starts[i] + len(new) : stops[i]]]
    _read_window(spec, sources, first, views)
    crcs = []
    for i, (start, stop, old) in enumerate(zip(starts, stops, olds, strict=True)):
        changed = relabelled.get(i)
        if changed is None:
            if buffer[start : start + len(old)] != old:
                raise _other_record(spec, first + i)
            crcs.append(crc32c(buffer[start + HEAD_BYTES : stop - FOOT_BYTES]))
            continue
        begun, rest = views[i]
        if begun != old:
            raise _other_record(spec, first + i)
        if foot(crc32c(rest[:-FOOT_BYTES], crc32c(begun[HEAD_BYTES:]))) != rest[-FOOT_BYTES:]:
            raise _wrong_crc(spec, first + i)
        buffer[start : start + len(changed)] = changed
        crcs.append(crc32c(buffer[start + HEAD_BYTES : stop - FOOT_BYTES]))
        buffer[stop - FOOT_BYTES : stop] = foot(crcs[-1])
    places = (ends - FOOT_BYTES)[:, None] + np.arange(FOOT_BYTES)
    right = (np.frombuffer(buffer, dtype=np.uint8)[places] == feet(crcs)).all(axis=1)
    if not right.all():
        raise _wrong_crc(spec, first + int(np.argmin(right)))
    sink.write(buffer[: stops[-1]])


def _read_window(spec: CopySpec, sources: _Sources, first: int, views: list[list[memoryview]]) -> None:
    """Read the records from `first` on into their views, in the order in which they lie on the disk."""
    last = first + len(views)
    ids, offsets, sizes = spec.shard_ids[first:last], spec.offsets[first:last], spec.sizes[first:last]
    order = np.lexsort((offsets, ids))
    ids, begins = ids[order], offsets[order]
    stops = begins + sizes[order]
    gaps = begins[1:] - stops[:-1]
    breaks = np.flatnonzero((ids[1:] != ids[:-1]) | (gaps > _GAP_BYTES)) + 1
    gap = memoryview(bytearray(_GAP_BYTES))
    records, gap_sizes, places = order.tolist(), [*gaps.tolist(), 0], begins.tolist()
    ranges: list[tuple[int, list[memoryview], int]] = []
    for begin, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(records)], strict=True):
        shard = int(ids[begin])
        for part in range(begin, end, _MOST_VIEWS // 4):
            stop = min(part + _MOST_VIEWS // 4, end)
            wanted: list[memoryview] = []
            for k in range(part, stop):
                wanted += views[records[k]]
                if k + 1 < stop and gap_sizes[k]:
                    wanted.append(gap[: gap_sizes[k]])
            ranges.append((shard, wanted, places[part]))
    sources.read_all(ranges)


def _copy_large(spec: CopySpec, sources: _Sources, buffer: memoryview, record: int, sink: Sink) -> None:
    """Copy a record that is larger than the buffer, in pieces."""
    shard, offset, size = int(spec.shard_ids[record]), int(spec.offsets[record]), int(spec.sizes[record])
    old = _old_start(spec, record, size)
    begun = memoryview(bytearray(len(old)))
    sources.read(shard, [begun], offset)
    if begun != old:
        raise _other_record(spec, record)
    is_relabelled = _is_relabelled(spec, record)
    new = _new_start(spec, record) if is_relabelled else old
    old_crc, new_crc = crc32c(old[HEAD_BYTES:]), crc32c(new[HEAD_BYTES:])
    sink.write(memoryview(new))
    done, end = len(old), size - FOOT_BYTES
    while done < end:
        piece = buffer[: min(len(buffer), end - done)]
        sources.read(shard, [piece], offset + done)
        old_crc = crc32c(piece, old_crc)
        if is_relabelled:
            new_crc = crc32c(piece, new_crc)
        sink.write(piece)
        done += len(piece)
    last = buffer[:FOOT_BYTES]
    sources.read(shard, [last], offset + end)
    if last != foot(old_crc):
        raise _wrong_crc(spec, record)
    sink.write(memoryview(foot(new_crc if is_relabelled else old_crc)))


def _other_record(spec: CopySpec, record: int) -> InputError:
    return _damaged(spec, record, "another record than the files beside the shard say")


def _wrong_crc(spec: CopySpec, record: int) -> InputError:
    return _damaged(spec, record, "the CRC of the record's data is wrong")


def _damaged(spec: CopySpec, record: int, found: str) -> InputError:
    shard = spec.shards[int(spec.shard_ids[record])]
    where = f"record at offset {spec.offsets[record]}, key {display(spec.record_keys[record])!r}"
    return damaged(shard, f"{where}: {found}")


# --- compressed shards ------------------------------------------------------------------------------------------------


def unpack_shard(shard: SourceShard, size: int, path: str) -> None:
    """Write the `size` unpacked bytes of a compressed shard to a file at `path`. Raises `InputError`."""
    done = 0
    try:
        with syscalls.opened(path, syscalls.WRITE_FLAGS) as handle:
            for piece in _unpacked_pieces(shard):
                done += len(piece)
                if done > size:
                    break
                syscalls.write_all(handle, piece)
    except (InputError, OutputError):
        raise
    except OSError as error:
        raise OutputError.from_os("write", path, error) from error
    if done != size:
        raise damaged(shard, f"{'more' if done > size else done} bytes once it is unpacked, {size} by its index")


def _unpacked_pieces(shard: SourceShard) -> Iterator[bytes]:
    with os.fdopen(open_shard(shard), "rb") as packed:
        file = unpacked(packed, shard.compression)
        try:
            while piece := file.read(_PIECE_BYTES):
                yield piece
        except (zlib.error, EOFError, OSError) as error:
            raise damaged(shard, f"damaged compression ({error})") from None
