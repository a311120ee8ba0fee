"""The system calls that write output or open a source, in one place.

Everything that could fail on a bad disk goes through here, so that a fault can be put in front of
every call, one at a time, by a test.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # not blocking: a pipe among the sources must not hang us
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
APPEND_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_PIECE_BYTES = 1 << 20

open = os.open
close = os.close
fstat = os.fstat
pread = os.pread
readv = os.readv
preadv = os.preadv if hasattr(os, "preadv") else None
write = os.write
fsync = os.fsync
rename = os.replace
unlink = os.unlink
mkdir = os.mkdir
rmdir = os.rmdir


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_into(handle: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset`, as far as the file goes; returns the bytes read."""
    done = 0
    while done < len(view):
        if preadv:
            count = preadv(handle, [view[done:]], offset + done)
        else:
            data = pread(handle, len(view) - done, offset + done)
            count = len(data)
            view[done : done + count] = data
        if not count:
            break
        done += count
    return done


def read_up_to(handle: int, limit: int) -> bytes:
    """A file's bytes, up to `limit`; memory grows with what is really there."""
    pieces, position = [], 0
    while position < limit and (piece := pread(handle, min(_PIECE_BYTES, limit - position), position)):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def open_regular(path: bytes | str, flags: int = READ_FLAGS) -> int:
    """Open a file for reading. Raises `OSError` for a pipe or a device: reading it might never end."""
    handle = open(path, flags)
    try:
        if not stat.S_ISREG(fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
    except BaseException:
        close(handle)
        raise
    return handle


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Write all of `data`: a single call may write less."""
    view = memoryview(data)
    while view:
        view = view[write(handle, view) :]


def write_file(path: str, data: bytes, *, sync: bool) -> None:
    """Write a new file and, if asked to, wait until it is on the disk."""
    handle = open(path, WRITE_FLAGS, 0o666)
    try:
        write_all(handle, data)
        if sync:
            fsync(handle)
    finally:
        close(handle)


def truncate(handle: int) -> None:
    """Make an open file empty again."""
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)


def sync_directory(path: str) -> None:
    """Wait until the names in a directory are on the disk."""
    handle = open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync(handle)
    finally:
        close(handle)


def make_directory(path: str) -> None:
    """Make a directory unless it is there."""
    with contextlib.suppress(FileExistsError):
        mkdir(path, 0o777)
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:  # a link that leads nowhere
        is_directory = False
    if not is_directory:
        raise NotADirectoryError(20, "Not a directory", path)


@contextlib.contextmanager
def opened(path: bytes | str, flags: int = READ_FLAGS) -> Iterator[int]:
    """An open file's descriptor, closed at the end."""
    handle = open(path, flags)
    try:
        yield handle
    finally:
        close(handle)
