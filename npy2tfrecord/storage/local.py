"""Files of a local or network file system: the loops over requests that `InFlight` runs.

A kind of storage is a module like this one: what identifies the state of a file there, and a loop for each kind of
request. The loops run once for every file, so they look up as little as they can, and leave to `odd` whatever isn't
as it should be: who asked reads that one file again with care, and finds out what is wrong.
"""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from npy2tfrecord import syscalls
from npy2tfrecord.storage.errors import ChangedObjectError
from npy2tfrecord.storage.kept import MOST_FILE_BYTES, KeptFiles
from npy2tfrecord.storage.open_files import STAMP_FACTOR, STAMP_MASK, OpenFile, stamp

_PASSING = frozenset({errno.ESTALE, errno.EAGAIN, errno.EINTR})  # a server that was restarted, a file that was replaced
_PAUSES_SECONDS = (0.01, 0.05, 0.25)

Result = TypeVar("Result")


def is_passing(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, is one that passes by itself."""
    if isinstance(error, OSError) and error.errno in _PASSING and not isinstance(error, ChangedObjectError):
        return True
    return error.__cause__ is not None and is_passing(error.__cause__)


def patiently(call: Callable[[], Result]) -> Result:
    """What `call` returns. Errors that pass by themselves are waited for a few times; all others are raised at once."""
    for pause in _PAUSES_SECONDS:
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                raise
        time.sleep(pause)
    return call()


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeFiles:
    """Requests for whole files, in columns.

    File i must hold `starts[i]`, then what fills `views[i]`, then nothing, and have the stamp `stamps[i]`. Then the
    digest of `data[i]` is put into `digests[i]`, unless `data` is empty.
    """

    paths: Sequence[bytes]
    starts: Sequence[bytes]
    views: Sequence[memoryview]
    stamps: Sequence[int]
    odd: Callable[[int, OSError | None], None]
    data: Sequence[memoryview]
    digest: Callable[[memoryview], int]
    digests: list[int | None]

    def read(self, numbers: Iterator[int]) -> None:
        """Read those files: open, one read of start, values and a byte more, status, close."""
        paths, starts, views, stamps, odd = self.paths, self.starts, self.views, self.stamps, self.odd
        data, digest, digests = self.data, self.digest, self.digests
        opening, flags, closing = syscalls.open, syscalls.READ_FLAGS, syscalls.close
        fstat, readv = syscalls.fstat, syscalls.readv
        began, tail = bytearray(), bytearray(1)
        for i in numbers:
            start, view = starts[i], views[i]
            if len(began) != len(start):
                began = bytearray(len(start))
            try:
                handle = opening(paths[i], flags)
                try:
                    count = readv(handle, (began, view, tail))
                    status = fstat(handle)
                finally:
                    closing(handle)
            except OSError as error:
                odd(i, error)
                continue
            if (
                count == len(start) + len(view)  # a read may be cut short without the file being so
                and began == start
                and (status.st_size * STAMP_FACTOR + status.st_mtime_ns) & STAMP_MASK == stamps[i]
            ):
                if data:
                    digests[i] = digest(data[i])
            else:
                odd(i, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStarts:
    """Requests for the first `size` bytes of files, and their status.

    Small files are read whole where `kept` gives a memory and that has room.

    What is known of a start stands in `known`: the size that the file must have, and a number, which is put into
    `ids[i]`, with the stamp in `stamps[i]` and the place in `kept`, or -1, in `places[i]`. Of all others `take` gets
    number, start, the file's size and stamp, the place in `kept`, or -1, and whether it can have more. It returns how
    many bytes it needs when these are too few, and is called once more with as many of them as there are.
    """

    paths: Sequence[bytes]
    size: int
    take: Callable[[int, bytes, int, int, int, bool], int]
    odd: Callable[[int, OSError], None]
    known: Mapping[bytes, tuple[int, int]]
    ids: list[int]
    stamps: list[int]
    places: list[int]
    kept: Callable[[], KeptFiles | None] = lambda: None

    def read(self, numbers: Iterator[int]) -> None:
        """Read the start of those files: open, status, one read, close."""
        paths, size, take, kept, known = self.paths, self.size, self.take, self.kept(), self.known
        ids, stamps, places, odd = self.ids, self.stamps, self.places, self.odd
        opening, flags, closing = syscalls.open, syscalls.READ_FLAGS, syscalls.close
        fstat, pread, readv = syscalls.fstat, syscalls.pread, syscalls.readv
        room = end = 0  # in what is kept, for the next files
        for i in numbers:
            try:
                handle = opening(paths[i], flags)
                try:
                    status, place = fstat(handle), -1
                    length = status.st_size
                    if kept is not None and 0 < length <= MOST_FILE_BYTES:
                        while room + length >= end and kept is not None:
                            room, end = kept.room()
                            kept = kept if room < end else None
                    if kept is not None and 0 < length <= MOST_FILE_BYTES:
                        place = room
                        room += length
                        count = readv(handle, (kept.memory[place : room + 1],))  # a byte more than the file has
                        start = bytes(kept.memory[place : place + min(count, size)])
                        after = fstat(handle)
                        if count != length or after.st_size != length or after.st_mtime_ns != status.st_mtime_ns:
                            place = -1  # cut short, or it is being written
                    else:
                        start = pread(handle, size, 0)
                    match = known.get(start)
                    if match is not None and match[0] == status.st_size:
                        ids[i], places[i] = match[1], place
                        stamps[i] = (status.st_size * STAMP_FACTOR + status.st_mtime_ns) & STAMP_MASK
                    elif not stat.S_ISREG(status.st_mode):
                        odd(i, OSError(errno.EINVAL, "not a regular file"))
                    elif wanted := take(i, start, length, stamp(status), place, True):
                        start += pread(handle, wanted - len(start), len(start))
                        take(i, start, length, stamp(status), place, False)
                finally:
                    closing(handle)
            except OSError as error:
                odd(i, error)
        if kept is not None:
            kept.give_back(room, end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Requests for ranges of open files: what is at `offsets[i]` of `files[i]` fills the buffers `views[i]`.

    `odd` gets the number of a range that wasn't filled, and the reason where the storage gave one.
    """

    files: Sequence[OpenFile]
    offsets: Sequence[int]
    views: Sequence[Sequence[memoryview]]
    odd: Callable[[int, OSError | None], None]

    def read(self, numbers: Iterator[int]) -> None:
        """Read those ranges: one call each."""
        files, offsets, views, odd = self.files, self.offsets, self.views, self.odd
        for i in numbers:
            try:
                count = files[i].readv(views[i], offsets[i])
            except OSError as error:
                odd(i, error)
                continue
            if count != sum(map(len, views[i])):
                odd(i, None)
