"""Open files of a local or network file system, and what any open file can do: `object_files` has those of a bucket."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from npy2tfrecord import syscalls
from npy2tfrecord.paths import is_bucket

PIECE_BYTES = 4 * 2**20  # of a file that is read from its start to its end

# Odd, so that two sizes with the same time never have the same stamp, nor two times with the same size.
STAMP_FACTOR = 0x9E3779B97F4A7C15
STAMP_MASK = 2**63 - 1


def stamp(status: os.stat_result) -> int:
    """A file's size and time of modification as one number of 63 bits: another one means that the content changed.

    The inode and the time of the last change of status have no part in it. Both change without the content: by
    `chmod`, by a hard link, and on network file systems that number their files anew.
    """
    return (status.st_size * STAMP_FACTOR + status.st_mtime_ns) & STAMP_MASK


class OpenFile(Protocol):
    """A file that is read at any place. What can't be read is an `OSError`.

    Reading up to `gap` bytes that nobody wants costs less than another request.
    """

    gap: int

    @property
    def size(self) -> int: ...

    def stamp(self) -> int:
        """A number of 63 bits: another one means that the content has changed since."""

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset` on, fewer where the file ends before."""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset`, as far as the file goes; returns the bytes read."""

    def readv(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill buffers one after the other, in one request; returns the bytes read, maybe fewer than there are."""

    def forget(self) -> None:
        """Let the system forget its own copy, so that what is read comes from the disk."""

    def pieces(self) -> Iterator[memoryview]:
        """The bytes from the start to the end, in pieces of some megabytes."""

    def close(self) -> None: ...


class LocalFile:
    """An open file that is closed, at the latest, when nothing holds it any more."""

    gap = 0

    def __init__(self, handle: int) -> None:
        self.handle = handle

    @property
    def size(self) -> int:
        return syscalls.fstat(self.handle).st_size

    def stamp(self) -> int:
        return stamp(syscalls.fstat(self.handle))

    def read(self, size: int, offset: int) -> bytes:
        return syscalls.pread(self.handle, size, offset)

    def read_into(self, view: memoryview, offset: int) -> int:
        return syscalls.read_into(self.handle, view, offset)

    def readv(self, views: Sequence[memoryview], offset: int) -> int:
        if syscalls.preadv is not None:
            return syscalls.preadv(self.handle, views, offset)
        count = 0
        for view in views:
            count += syscalls.read_into(self.handle, view, offset + count)
        return count

    def forget(self) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def pieces(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(PIECE_BYTES))
        position = 0
        while count := self.read_into(buffer, position):
            yield buffer[:count]
            position += count

    def close(self) -> None:
        handle, self.handle = self.handle, -1
        if handle >= 0:
            syscalls.close(handle)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.handle >= 0:  # maybe at the end of Python, when modules have nothing in them any more
            close(self.handle)


def open_source(path: bytes, expected: int | None = None) -> OpenFile:
    """A source, open. An object in a bucket whose stamp isn't the one `expected` can't be read."""
    if is_bucket(path):
        from npy2tfrecord.storage.object_files import ObjectFile  # not read where it isn't needed

        return ObjectFile.at(path, expected)
    return LocalFile(syscalls.open(path, syscalls.READ_FLAGS))
