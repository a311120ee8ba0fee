"""Reading the headers of `.npy` files, in parallel, while more files are still being found."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.npy import (
    FIRST_READ_BYTES,
    MAGIC,
    Header,
    check_size,
    cut_in_header,
    header_size,
    parse_header,
)
from npy2tfrecord.jobs import forks, pool
from npy2tfrecord.options import Options
from npy2tfrecord.sources.finder import FileSet, Found
from npy2tfrecord.sources.table import unreadable

_FILES_PER_TASK = 1024
_FILES_PER_FAR_TASK = 4096  # of a cluster, to which handing out a task costs 2 or 3 ms
_TASKS_FOR_FORKS = 3  # below, forking takes longer than reading the headers
_TASKS_FOR_PROCESSES = 30  # the same for processes that start anew

Tell = Callable[[int, int], None]
"""Told how many files are found, and how many of their headers are read."""


class Part(NamedTuple):
    """The headers of some files that follow each other."""

    name: str | None  # of the feature
    start: int
    raws: list[bytes]  # distinct headers
    ids: np.ndarray  # of each file, which of them, or -1; int32
    stamps: np.ndarray  # int64
    failed: list[tuple[int, InputError]]


@dataclass
class _Cursor:
    """How far the files of a feature are given out."""

    name: str | None
    files: FileSet
    size: int  # files of a task
    start: int = 0
    directory: int = 0
    taken: int = 0  # files of that directory

    def tasks(self, *, is_all: bool) -> Iterator[tuple[str | None, int, list[tuple[bytes, int]], list[bytes]]]:
        """Batches of what is found and not given out; a last, smaller one only if that `is_all`."""
        files = self.files
        while len(files) - self.start >= (1 if is_all else self.size):
            stop = min(self.start + self.size, len(files))
            needed, dirs = stop - self.start, []
            while needed:
                length = files.dir_lengths[self.directory]
                count = min(needed, length - self.taken)
                dirs.append((files.dirs[self.directory], count))
                needed -= count
                self.taken += count
                if self.taken == length:
                    self.directory, self.taken = self.directory + 1, 0
            yield self.name, self.start, dirs, files.names[self.start : stop]
            self.start = stop


def read_all(
    found: dict[str | None, Found], options: Options, steps: Iterable[None], tell: Tell | None
) -> dict[str | None, list[Part]]:
    """The headers of all `.npy` files of every feature, in no order; `steps` finds them, a directory at a time."""
    parts: dict[str | None, list[Part]] = {}
    scanned = 0

    def tick() -> None:
        if tell is not None:
            tell(sum(len(each.npy) + len(each.npz) for each in found.values()), scanned)

    for part in _read(found, options, steps, tick):
        parts.setdefault(part.name, []).append(part)
        scanned += len(part.ids)
        tick()
    return parts


def _read(
    found: dict[str | None, Found], options: Options, steps: Iterable[None], tick: Callable[[], None]
) -> Iterator[Part]:
    jobs, backend = pool.effective_jobs(options.jobs), options.backend
    is_local, can_fork = pool.is_local(backend), pool.can_fork()
    if not can_fork:  # joblib takes tasks in a thread of its own: nothing is to be found there
        for _ in steps:
            pass
    tasks = _tasks(found, steps, _FILES_PER_TASK if is_local else _FILES_PER_FAR_TASK)
    few = _TASKS_FOR_FORKS if can_fork else _TASKS_FOR_PROCESSES
    first = list(islice(tasks, few))
    if is_local and (jobs == 1 or len(first) < few):
        for task in chain(first, tasks):
            yield _read_headers(*task)
    elif is_local and can_fork:
        yield from forks.run(_read_headers, chain(first, tasks), jobs=jobs, tick=tick)
    else:
        yield from pool.run(_read_headers, chain(first, tasks), jobs=jobs, backend=backend)


def _tasks(
    found: dict[str | None, Found], steps: Iterable[None], size: int
) -> Iterator[tuple[str | None, int, list[tuple[bytes, int]], list[bytes]]]:
    cursors: dict[str | None, _Cursor] = {}
    for is_all in chain((False for _ in steps), (True,)):
        for name, each in found.items():
            cursor = cursors.setdefault(name, _Cursor(name, each.npy, size))
            yield from cursor.tasks(is_all=is_all)


_known_header = lru_cache(maxsize=4096)(parse_header)


def _read_headers(name: str | None, start: int, dirs: list[tuple[bytes, int]], names: list[bytes]) -> Part:
    opening, flags, reading, closing, fstat = (
        syscalls.open,
        syscalls.READ_FLAGS,
        syscalls.pread,
        syscalls.close,
        syscalls.fstat,
    )
    known: dict[bytes, tuple[int, int]] = {}  # header: its number, the size of its file
    header_of: dict[bytes, tuple[int, int]] = {}  # the same by the first bytes of a file
    ids = [-1] * len(names)
    stamps = [0] * len(names)
    failed: list[tuple[int, InputError]] = []
    rest = iter(names)
    paths = (directory + each for directory, count in dirs for each in islice(rest, count))
    for i, path in enumerate(paths):
        try:
            handle = opening(path, flags)
            try:
                status = fstat(handle)
                begin = reading(handle, FIRST_READ_BYTES, 0)
                match = header_of.get(begin)
                if match is None or match[1] != status.st_size:
                    header = read_header(handle, begin, status, path)
                    match = known.setdefault(header.raw, (len(known), header.file_size))
                    if len(header.raw) == len(begin):
                        header_of[begin] = match
            finally:
                closing(handle)
            ids[i] = match[0]
            stamps[i] = hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
        except InputError as error:
            failed.append((i, error))
        except OSError as error:
            failed.append((i, special(path) or unreadable(path, error)))
    return Part(name, start, list(known), np.array(ids, dtype=np.int32), np.array(stamps, dtype=np.int64), failed)


def read_header(handle: int, begin: bytes, status: os.stat_result, path: bytes) -> Header:
    """The header of an open `.npy` file that begins with `begin`. Raises `InputError`."""
    if not stat.S_ISREG(status.st_mode):
        raise InputError(path, _kind_of(status.st_mode), "a regular file")
    size = header_size(begin, path)
    raw = begin[:size]
    if size > len(raw):
        raw += syscalls.pread(handle, size - len(raw), len(raw))
    if size > len(raw):
        raise cut_in_header(path, f"{len(raw)} of {size} bytes")
    try:
        header = _known_header(raw)
    except InputError:
        header = parse_header(raw, path)  # for an error that says where
    if status.st_size != header.file_size:
        check_size(header, status.st_size, path, behind=syscalls.pread(handle, len(MAGIC), header.file_size))
    return header


def special(path: bytes) -> InputError | None:
    """The error for a pipe, socket or the like: reading it fails in ways that don't say what it is."""
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            return InputError(path, _kind_of(mode), "a regular file")
    return None


def _kind_of(mode: int) -> str:
    for test, kind in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return kind
    return "a special file"
