"""Reading the values of a source: little-endian, in C order, a bounded piece at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.npy import Header
from npy2tfrecord.formats.npz import Member, MemberStream
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.sources.cast import Cast, overflow
from npy2tfrecord.sources.table import changed, unreadable
from npy2tfrecord.storage.open_files import OpenFile, open_source

BLOCK_BYTES = 16 * 2**20  # of a Fortran-ordered array, put into C order at once
_ROWS_AT_ONCE = 512  # buffers of one call; systems take 1,024
_RANGE_BYTES = 2**30  # of rows that follow each other, read at once
_RUN_BYTES = 4096  # from this size on, a run of a column gets a read of its own
_CAST_BYTES = 2**20  # values that are cast at once


class ArrayReader:
    """An open source. `read` gives any piece of its values in the form in which they are written.

    Memory: nothing beyond a piece for arrays in C order. For Fortran order, three times
    max(`BLOCK_BYTES`, one index of the first axis), or the array where that is less.
    """

    def __init__(self, path: bytes, header: Header, cast: Cast, stamped: int, member: Member | None = None) -> None:
        self.path = path
        self.where = path if member is None else path + b"[" + os.fsencode(member.name) + b"]"
        self._header = header
        cast = cast.for_dtype(header.dtype)
        self._cast = None if cast.is_exact else cast
        self._stamp = stamped
        self.is_direct = cast.is_exact and header.is_plain and member is None
        self._block: tuple[int, np.ndarray] | None = None  # first row, rows in C order
        try:
            self.file: OpenFile = open_source(path, stamped)
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            self._member = None if member is None else MemberStream(self.file, member, self.where)
            if not is_bucket(path):  # there, every answer shows that the object is the one that was scanned
                start = bytearray(len(header.raw))
                self._read_raw(memoryview(start), -len(start))
                if start != header.raw:
                    raise changed(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.file.close()

    def finish(self) -> None:
        """Close the file. Raises `InputError` if it changed while it was read."""
        try:
            now = self.file.stamp()
        except OSError as error:
            raise unreadable(self.path, error) from error
        finally:
            self.close()
        if now != self._stamp:
            raise changed(self.path)

    def read(self, view: memoryview, start: int, rest: int = 0) -> None:
        """Fill `view` with the values from byte `start` on, as they are written.

        Raises `InputError` for values that do not fit; its count includes the next `rest` bytes.
        """
        if self._cast is None:
            self._read_values(view, start)
            return
        cast = self._cast
        wide, narrow = cast.source_itemsize, cast.itemsize
        out = np.frombuffer(view, dtype=cast.out_dtype)
        first = start // narrow
        step = _CAST_BYTES // wide
        scratch = bytearray(min(len(out), step) * wide)
        bad = 0
        for i in range(0, len(out), step):
            piece = out[i : i + step]
            raw = memoryview(scratch)[: len(piece) * wide]
            self._read_values(raw, (first + i) * wide)
            bad += cast.apply(np.frombuffer(raw, dtype=self._native_dtype()), piece)
        if bad:
            raise overflow(self.where, bad + self._count_misfits(first + len(out), rest // narrow, cast), cast)

    def read_rows(self, views: list[memoryview], rows: np.ndarray) -> Iterable[int]:
        """Fill each view with a row, consecutive rows in one call. `rows` are int64 and ascend.

        Returns the numbers of the views that were not filled: `read` fills them, or raises the reason.
        """
        ranges = self.ranges(views, rows)
        if ranges is None:
            return range(len(views))
        missed: list[int] = []
        for places, offset, buffers in ranges:
            try:
                count = self.file.readv(buffers, offset)
            except OSError:
                count = -1
            if count != sum(map(len, buffers)):
                missed += places
        return missed

    def ranges(
        self, views: list[memoryview], rows: np.ndarray | None, most: int = _RANGE_BYTES
    ) -> list[tuple[range, int, list[memoryview]]] | None:
        """What to read so that each view is filled with a row; without `rows`, so that the only view is, with all.

        Gives which views, from which offset of the file, into which buffers, not many more than `most` bytes at a time.
        None where the values are not to be read as they are.
        """
        if not self.is_direct:
            return None
        begin, size = self._header.data_offset, len(views[0])
        if rows is None:
            return [(range(1), begin + i, [views[0][i : i + most]]) for i in range(0, size, most)]
        at_once = min(_ROWS_AT_ONCE, max(1, most // max(1, size)))
        offsets = (begin + rows * size).tolist()
        near = 1 + self.file.gap // max(1, size)  # rows that are read together, with those between them
        unwanted = memoryview(bytearray(self.file.gap))
        steps = np.diff(rows)
        ranges = []
        first = 0
        for end in [*(np.flatnonzero((steps < 1) | (steps > near)) + 1).tolist(), len(views)]:
            while first < end:
                last = min(end, first + at_once)
                buffers = views[first:last]
                if near > 1:
                    buffers = _with_gaps(buffers, offsets[first:last], unwanted)
                ranges.append((range(first, last), offsets[first], buffers))
                first = last
        return ranges

    def _count_misfits(self, first: int, count: int, cast: Cast) -> int:
        bad, step = 0, _CAST_BYTES // cast.source_itemsize
        for i in range(first, first + count, step):
            raw = memoryview(bytearray(min(step, first + count - i) * cast.source_itemsize))
            self._read_values(raw, i * cast.source_itemsize)
            values = np.frombuffer(raw, dtype=self._native_dtype())
            bad += cast.apply(values, np.empty(len(values), dtype=cast.out_dtype))
        return bad

    def _native_dtype(self) -> np.dtype:
        return self._header.dtype.newbyteorder("<")

    def _read_values(self, view: memoryview, start: int) -> None:
        """Fill `view` with the values from byte `start` on, in C order, little-endian, not cast."""
        if not self._header.is_c_order:
            self._read_turned(view, start)
        else:
            self._read_raw(view, start)
        if view and not self._header.is_little_endian:
            part = self._header.dtype.itemsize // (2 if self._header.dtype.kind == "c" else 1)
            np.frombuffer(view, dtype=f"u{part}").byteswap(inplace=True)

    def _read_raw(self, view: memoryview, start: int) -> None:
        """Fill `view` with the data from byte `start` on, as it is in the file."""
        offset = len(self._header.raw) + start
        try:
            if self._member is not None:
                count = self._member.read_into(view, offset)
            else:
                count = self.file.read_into(view, offset)
        except OSError as error:
            raise unreadable(self.path, error) from error
        if count != len(view):
            raise InputError(self.where, f"ends after {offset + count} bytes", f"{self._header.file_size} bytes")

    # In Fortran order the file holds columns: for each index of the other axes, all values along axis 0.

    def _read_turned(self, view: memoryview, start: int) -> None:
        shape, itemsize = self._header.shape, self._header.dtype.itemsize
        row_bytes = math.prod(shape[1:]) * itemsize
        done = 0
        while done < len(view):
            row, skip = divmod(start + done, row_bytes)
            first, block = self._rows_from(row)
            flat = block.reshape(-1).view(np.uint8)
            begin = (row - first) * row_bytes + skip
            piece = flat[begin : begin + len(view) - done]
            np.frombuffer(view, dtype=np.uint8)[done : done + len(piece)] = piece
            done += len(piece)

    def _rows_from(self, row: int) -> tuple[int, np.ndarray]:
        """The block of rows that holds `row`, kept from the last call where possible."""
        if self._block is not None and self._block[0] <= row < self._block[0] + len(self._block[1]):
            return self._block
        shape, dtype = self._header.shape, np.dtype(f"V{self._header.dtype.itemsize}")
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        rows = max(1, BLOCK_BYTES // row_bytes)
        first = row // rows * rows
        rows = min(rows, shape[0] - first)
        self._block = None
        columns = math.prod(shape[1:])
        turned = np.empty((columns, rows), dtype=dtype)  # in the file's order, these rows only
        run, column = rows * dtype.itemsize, shape[0] * dtype.itemsize
        if rows == shape[0] or run >= _RUN_BYTES or column > BLOCK_BYTES:
            view = turned.view(np.uint8).reshape(-1).data
            if rows == shape[0]:
                self._read_raw(view, 0)
            else:
                for i in range(columns):
                    self._read_raw(view[i * run : (i + 1) * run], i * column + first * dtype.itemsize)
        else:
            step = max(1, BLOCK_BYTES // column)
            piece = np.empty((min(step, columns), shape[0]), dtype=dtype)
            for i in range(0, columns, step):
                part = piece[: min(step, columns - i)]
                self._read_raw(part.view(np.uint8).reshape(-1).data, i * column)
                turned[i : i + len(part)] = part[:, first : first + rows]
        # Axes 1 and up are reversed in the file; axis 0 is its last.
        block = turned.reshape((*reversed(shape[1:]), rows)).transpose()
        self._block = first, np.ascontiguousarray(block)
        return self._block


def _with_gaps(views: list[memoryview], offsets: list[int], unwanted: memoryview) -> list[memoryview]:
    """The views, and between them what takes the bytes that nobody wants."""
    buffers, end = [], offsets[0]
    for view, offset in zip(views, offsets, strict=True):
        if end < offset:
            buffers.append(unwanted[: offset - end])
        buffers.append(view)
        end = offset + len(view)
    return buffers
