"""Reading the headers of `.npy` files, by tasks that may run in parallel, while more files are still being found."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.dtypes import dtype_from_name
from npy2tfrecord.formats.npy import (
    FIRST_READ_BYTES,
    MAGIC,
    Header,
    check_size,
    cut_in_header,
    header_size,
    parse_header,
)
from npy2tfrecord.options import LOCAL_BACKENDS, Options
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.sources.finder import Batch, FoundByFeature, collect
from npy2tfrecord.sources.table import FileSet, unreadable
from npy2tfrecord.storage.in_flight import InFlight, remember, requests_for
from npy2tfrecord.storage.kept import KeptFiles
from npy2tfrecord.storage.local import FileStarts, is_passing, patiently
from npy2tfrecord.storage.open_files import open_source

_FILES_PER_TASK = 1024
_TASKS_UNDER_WAY = 1  # besides the one that is waited for
_FILES_PER_FAR_TASK = 4096  # of a cluster, to which handing out a task costs 2 or 3 ms


class FileHeaders(NamedTuple):
    """The headers of some files of one feature, from number `start` on."""

    feature: str | None
    start: int
    raws: list[bytes]  # distinct headers
    ids: np.ndarray  # of each file, its number in `raws`, or -1; int32
    stamps: np.ndarray  # int64
    failed: list[tuple[int, InputError]]
    kept: int = -1  # the number of the memory that small files are kept in
    places: np.ndarray | None = None  # of each file in it, or -1; int64


Task = tuple[str | None, int, list[tuple[bytes, int]], list[bytes]]
"""The arguments of `read_headers`."""

Run = Callable[[Callable[..., FileHeaders], Iterator[Task], Callable[[], None]], Iterator[FileHeaders]]
"""A way to run tasks: it calls the function with each tuple of arguments and gives the results in any order.

It takes one task after the other from the iterator, as more files are found. The last argument is to be called now and
then meanwhile, and reports progress.
"""

Report = Callable[[int, int], None]
"""Called with the number of files that are found, and of those whose headers are read."""


def run_here(
    function: Callable[..., FileHeaders], tasks: Iterator[Task], tick: Callable[[], None]
) -> Iterator[FileHeaders]:
    """The simplest way to run tasks: in this process, one after the other."""
    for task in tasks:
        yield function(*task)


def read_all(
    batches: Iterable[Batch], options: Options, run: Run, report: Report | None
) -> tuple[FoundByFeature, dict[str | None, list[FileHeaders]]]:
    """All files of the batches, and the headers of the `.npy` files of each feature, in any order."""
    found: FoundByFeature = {}
    headers: dict[str | None, list[FileHeaders]] = {}
    scanned = 0

    def tick() -> None:
        if report is not None:
            report(sum(map(len, found.values())), scanned)

    tasks = _tasks(batches, found, _FILES_PER_TASK if options.backend in LOCAL_BACKENDS else _FILES_PER_FAR_TASK)
    for some in run(read_headers, tasks, tick):
        headers.setdefault(some.feature, []).append(some)
        scanned += len(some.ids)
        tick()
    return found, headers


def _tasks(batches: Iterable[Batch], found: FoundByFeature, size: int) -> Iterator[Task]:
    """Tasks of `size` files of one feature each, the last ones smaller; what the batches hold is added to `found`."""
    cursors: dict[str | None, _Cursor] = {}
    for batch in batches:
        collect([batch], found)
        if batch.feature not in cursors:
            cursors[batch.feature] = _Cursor(batch.feature, found[batch.feature].npy, size)
        yield from cursors[batch.feature].tasks(size)
    for cursor in cursors.values():
        yield from cursor.tasks(1)


@dataclass
class _Cursor:
    """How many files of a feature are given out."""

    feature: str | None
    files: FileSet
    size: int  # files of a task
    start: int = 0
    directory: int = 0
    taken: int = 0  # files of that directory

    def tasks(self, least: int) -> Iterator[Task]:
        """Tasks for the files that are found and not given out, as long as these are `least` or more."""
        files = self.files
        while len(files) - self.start >= least:
            stop = min(self.start + self.size, len(files))
            needed, directories = stop - self.start, []
            while needed:
                length = files.dir_lengths[self.directory]
                count = min(needed, length - self.taken)
                directories.append((files.dirs[self.directory], count))
                needed -= count
                self.taken += count
                if self.taken == length:
                    self.directory, self.taken = self.directory + 1, 0
            yield self.feature, self.start, directories, files.names[self.start : stop]
            self.start = stop


_known_header = lru_cache(maxsize=4096)(parse_header)


def read_headers(
    feature: str | None, start: int, directories: list[tuple[bytes, int]], names: list[bytes]
) -> FileHeaders:
    """The headers of the files `names`: so many in the first directory, so many in the next, and so on."""
    with requests_for(in_bucket=is_bucket(directories[0][0]), limit=None) as requests:
        task = _HeaderTask(feature, start, directories, names)
        task.begin(requests)
        headers = task.finish(requests)
        remember(requests.target)
        return headers


def read_here(tasks: Iterable[Task], requests: InFlight, kept: KeptFiles | None) -> Iterator[FileHeaders]:
    """What `read_headers` returns for every task, in order.

    Where storage waits, the files of the next task are under way before those of one are all there, and small files are
    read whole as long as `kept` has room for them. (Elsewhere memory for them takes as long as opening them again.)
    """
    under_way: deque[_HeaderTask] = deque()
    for arguments in tasks:
        under_way.append(_HeaderTask(*arguments))
        under_way[-1].begin(requests, kept)
        while under_way and (len(under_way) > _TASKS_UNDER_WAY or not requests.target):
            yield under_way.popleft().finish(requests)
    while under_way:
        yield under_way.popleft().finish(requests)


class _HeaderTask:
    """The headers of some files while they are read."""

    def __init__(
        self, feature: str | None, start: int, directories: list[tuple[bytes, int]], names: list[bytes]
    ) -> None:
        self._feature, self._start = feature, start
        rest = iter(names)
        self._paths = [directory + each for directory, count in directories for each in islice(rest, count)]
        self._known: dict[bytes, tuple[int, int]] = {}  # by a header: the size of its file, its number
        self._header_of: dict[bytes, tuple[int, int]] = {}  # the same by the first bytes of a file
        self._ids = [-1] * len(names)
        self._stamps = [0] * len(names)
        self._places = [-1] * len(names)
        self._failed: list[tuple[int, InputError]] = []
        self._lock = threading.Lock()

    def begin(self, requests: InFlight, kept: KeptFiles | None = None) -> None:
        self._kept_number = -1 if kept is None else kept.number
        starts: type[FileStarts] = FileStarts
        if is_bucket(self._paths[0]):
            from npy2tfrecord.storage.object_files import ObjectStarts  # not read where it isn't needed

            starts = ObjectStarts
        self._files = starts(
            paths=self._paths,
            size=FIRST_READ_BYTES,
            take=self._take,
            odd=self._odd,
            known=self._header_of,
            ids=self._ids,
            stamps=self._stamps,
            places=self._places,
            kept=lambda: kept if requests.target else None,
        )
        self._batch = requests.submit(self._files.read, range(len(self._paths)), self._paths.__getitem__)

    def finish(self, requests: InFlight) -> FileHeaders:
        requests.wait(self._batch)
        return FileHeaders(
            self._feature,
            self._start,
            list(self._known),
            np.array(self._ids, dtype=np.int32),
            np.array(self._stamps, dtype=np.int64),
            sorted(self._failed, key=lambda failure: failure[0]),
            self._kept_number,
            np.array(self._places, dtype=np.int64) if self._kept_number >= 0 else None,
        )

    def _take(self, i: int, begin: bytes, length: int, stamped: int, place: int, can_have_more: bool) -> int:
        """Take the start of a file that is not known yet."""
        path = self._paths[i]
        try:
            size = header_size(begin, path)
            if size > len(begin) and can_have_more:
                return size
            header = check_header(begin[:size], size, length, path)
        except InputError as error:
            self._failed.append((i, error))
            return 0
        with self._lock:
            match = self._known.setdefault(header.raw, (header.file_size, len(self._known)))
        if len(header.raw) == len(begin):
            self._header_of[begin] = match
        self._ids[i], self._stamps[i], self._places[i] = match[1], stamped, place
        return 0

    def _odd(self, i: int, error: OSError) -> None:
        path = self._paths[i]
        try:
            if is_passing(error):
                again = replace(self._files, odd=_raise)
                patiently(lambda: again.read(iter((i,))))
                return
        except OSError as last:
            error = last
        self._failed.append((i, special(path) or unreadable(path, error)))


def _raise(_: int, error: OSError) -> None:
    raise error


def check_header(raw: bytes, size: int, length: int, path: bytes) -> Header:
    """The header of a `.npy` file of `length` bytes, from its first ones.

    Raises `InputError`, also where it has less than `size` bytes.
    """
    if size > len(raw):
        raise cut_in_header(path, f"{len(raw)} of {size} bytes")
    try:
        header = _known_header(raw)
    except InputError:
        header = parse_header(raw, path)  # for an error that names the file
    if length != header.file_size:
        check_size(header, length, path, behind=_bytes_behind(path, header.file_size))
    return header


def _bytes_behind(path: bytes, end: int) -> bytes:
    """The first bytes of a file behind its array; none where they cannot be read."""
    with contextlib.suppress(OSError), contextlib.closing(open_source(path)) as file:
        return file.read(len(MAGIC), end)
    return b""


def special(path: bytes) -> InputError | None:
    """The error for a pipe, a socket or the like, whose reading fails with an error that does not name its kind."""
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


# --- void arrays: np.save makes them of the dtypes of ml_dtypes ---------------------------------


def with_void_dtype(header: Header, options: Options) -> Header:
    """The header with the dtype that `options.void_dtype` gives to void arrays, where it fits."""
    if header.dtype.kind != "V" or options.void_dtype is None:
        return header
    dtype = dtype_from_name(options.void_dtype)
    return replace(header, dtype=dtype) if dtype.itemsize == header.dtype.itemsize else header


def is_void(header: Header) -> bool:
    """Whether nothing is known of the values but their size."""
    return type(header.dtype) is np.dtypes.VoidDType


def void_error(where: bytes, header: Header, options: Options) -> InputError:
    """The error for a void array whose dtype nobody gave."""
    found = f"an array of void (raw bytes), dtype '{header.dtype.str}'"
    if options.void_dtype:
        return InputError(where, found, f"items of the size of {options.void_dtype}")
    expected = "numbers; if these are bfloat16 or float8 (np.save drops their names), say --void-dtype"
    return InputError(where, found, expected)
