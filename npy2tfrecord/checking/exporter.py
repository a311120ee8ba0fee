"""Exporting: a data set's arrays back to `.npy` files, as `np.save` would write them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from npy2tfrecord import cleanup, syscalls
from npy2tfrecord.errors import ConflictError, DamageError, OutputError, UsageError, display
from npy2tfrecord.formats.example import Value, parse_example
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest
from npy2tfrecord.formats.npy import write_header
from npy2tfrecord.formats.shard import array_of, key_of, records_in
from npy2tfrecord.options import Options
from npy2tfrecord.paths import local_path, place
from npy2tfrecord.storage import set_files
from npy2tfrecord.storage.in_flight import Batch, InFlight
from npy2tfrecord.storage.set_files import sequential

_MOST_OPEN = 256  # directories
_MOST_HELD, _MOST_HELD_BYTES = 1024, 16 * 2**20  # files in memory, and their bytes; twice that while they are written
_JOINED_BYTES = 64 * 2**10  # of values that are copied, so that one call writes them and their header
_END_SECONDS, _POLL_SECONDS = 1.0, 0.005
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def export(
    out: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    in_flight: int | None = None,
) -> int:
    """Write every array of the data set `out` below `directory`; returns how many files that makes.

    A key is a path: `cats/001` becomes `cats/001.npy`; with several features, `FEATURE/cats/001.npy`. Rows that came
    from one array become that array again. Nothing is written outside `directory`, whatever a key says, and no file
    stays there that is not whole. `in_flight` files are written at once; None finds out how many pay.

    Raises `DamageError` when the data set is damaged, `UsageError` when rows of an array were left out of it,
    `ConflictError` when something is in the way (files may be replaced with `overwrite`), `OutputError` when the
    disk fails.
    """
    path, target = place(out, "data set"), local_path(directory, "DIR")
    manifest = set_files.load_manifest(path)
    try:
        os.makedirs(target, exist_ok=True)
        root = syscalls.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError.from_os("make the directory", target, error) from error
    try:
        tree = _Tree(root, target, overwrite)
        if manifest.options.get("rows"):
            return _export_rows(path, manifest, tree)
        return _export_files(path, manifest, tree, Options(in_flight=in_flight).in_flight)
    except OSError as error:
        if isinstance(error, (OutputError, ConflictError)):
            raise
        raise OutputError.from_os("write below", target, error) from error
    finally:
        tree.close()


def _relative(manifest: Manifest, info: FeatureInfo, key: bytes) -> bytes:
    return key if len(manifest.features) == 1 else os.fsencode(info.name) + b"/" + key


def _examples(path: str, manifest: Manifest) -> Iterator[tuple[bytes, dict[str, Value]]]:
    """(key, example) of every record."""
    files = set_files.files_of(path, links=False)
    for shard in manifest.shards:
        count = 0
        try:
            for record in records_in(sequential(files.open(shard.file)), manifest.compression):
                example = parse_example(record.data)
                yield key_of(example), example
                count += 1
            if count != shard.examples:
                raise DamageError(f"{count} records, the manifest says {shard.examples}")
        except DamageError as error:
            raise DamageError(f"{shard.file}: {error}") from None
        except OSError as error:
            raise DamageError(f"{shard.file}: {error.strerror}") from error


class _NewFile(NamedTuple):
    """A file to be written."""

    key: bytes
    header: bytes
    values: memoryview


def _export_files(path: str, manifest: Manifest, tree: _Tree, in_flight: int | None) -> int:
    files = _new_files(path, manifest)
    count, ended = 0, False
    busy: set[bytes] = set()  # files that threads are opening or writing
    begun: set[bytes] = set()  # those of them that are there

    def end() -> None:
        """Let threads complete the files that they are writing, and begin no others; remove those that hang."""
        nonlocal ended
        ended, deadline = True, time.monotonic() + _END_SECONDS
        while busy and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        for key in list(begun):
            tree.remove(key)

    def begin(some: list[_NewFile]) -> Batch:
        def write(numbers: Iterator[int]) -> None:
            for i in numbers:
                key, header, values = some[i]
                busy.add(key)
                try:
                    if ended:
                        return
                    with tree.new_file(key) as handle:
                        begun.add(key)
                        if len(values) <= _JOINED_BYTES:
                            syscalls.write_all(handle, header + values)
                        else:
                            syscalls.write_all(handle, header)
                            syscalls.write_all(handle, values)
                    begun.discard(key)
                finally:
                    busy.discard(key)

        return requests.submit(write, range(len(some)), lambda i: os.path.join(tree.path, some[i].key + b".npy"))

    with cleanup.at_sudden_end(end), InFlight(in_flight) as requests:
        before: Batch | None = None
        while some := _take(files):
            batch = begin(some)
            count += len(some)
            if before is not None:
                requests.wait(before)
            before = batch
            if not requests.target:
                requests.wait(batch)
        if before is not None:
            requests.wait(before)
    return count


def _new_files(path: str, manifest: Manifest) -> Iterator[_NewFile]:
    for key, example in _examples(path, manifest):
        for info in manifest.features:
            array = array_of(example, info)
            header = write_header(info.array_dtype, array.shape)
            yield _NewFile(_relative(manifest, info, key), header, memoryview(array.reshape(-1).view("u1")))


def _take(files: Iterator[_NewFile]) -> list[_NewFile]:
    """The next files: as many as are held in memory at once."""
    some: list[_NewFile] = []
    size = 0
    while len(some) < _MOST_HELD and size < _MOST_HELD_BYTES and (file := next(files, None)) is not None:
        some.append(file)
        size += len(file.values)
    return some


@dataclass
class _Whole:
    """An array that comes back from its rows."""

    shape: tuple[int, ...]
    rows: int = 0
    last: int = -1
    is_there: bytearray | None = None  # of each row, once the number of rows is known to be that of records


def _export_rows(path: str, manifest: Manifest, tree: _Tree) -> int:
    # Once through to learn how many rows each array has, and once more to write them to their places.
    wholes: dict[tuple[str, bytes], _Whole] = {}
    for key, example in _examples(path, manifest):
        name, row = _split_key(key)
        for info in manifest.features:
            shape = array_of(example, info).shape
            whole = wholes.setdefault((info.name, name), _Whole(shape))
            if whole.shape != shape:
                raise DamageError(f"rows of {display(name)!r} have the shapes {whole.shape} and {shape}")
            whole.rows += 1
            whole.last = max(whole.last, row)
    for (_, name), whole in wholes.items():
        if whole.last + 1 != whole.rows:
            problem = f"{display(name)!r} has {whole.rows} rows here, and the last one is number {whole.last}"
            if manifest.skipped and whole.rows <= whole.last:
                raise UsageError(f"{problem}: some were left out when they were converted, so it cannot come back")
            raise DamageError(problem)

    def begun() -> list[bytes]:
        return [
            _relative(manifest, manifest.feature(feature), name)
            for (feature, name), whole in wholes.items()
            if whole.is_there is not None
        ]

    with tree.removed_unless_complete(begun):
        _write_rows(path, manifest, tree, wholes)
    return len(wholes)


def _write_rows(path: str, manifest: Manifest, tree: _Tree, wholes: dict[tuple[str, bytes], _Whole]) -> None:
    for key, example in _examples(path, manifest):
        name, row = _split_key(key)
        for info in manifest.features:
            array = array_of(example, info)
            whole = wholes[info.name, name]
            header = write_header(info.array_dtype, (whole.rows, *whole.shape))
            relative = _relative(manifest, info, name)
            first = whole.is_there is None
            with tree.new_file(relative) if first else tree.old_file(relative) as handle:
                if whole.is_there is None:
                    whole.is_there = bytearray(whole.rows)
                    syscalls.write_all(handle, header)
                if row >= whole.rows or whole.is_there[row]:
                    raise DamageError(f"row {row} of {display(name)!r} is there twice")
                whole.is_there[row] = 1
                data = memoryview(array.reshape(-1).view("u1"))
                position = len(header) + row * len(data)
                while data:
                    written = os.pwrite(handle, data, position)
                    data, position = data[written:], position + written


def _split_key(key: bytes) -> tuple[bytes, int]:
    name, _, row = key.rpartition(b"#")
    if not row.isdigit() or len(row) > 18:
        raise DamageError(f"key {display(key)!r} has no number of a row")
    return name, int(row)


class _Tree:
    """Files below a directory: never through a link, never above it."""

    def __init__(self, root: int, shown: str, overwrite: bool) -> None:
        self._root, self._shown, self._overwrite = root, shown, overwrite
        self._open: dict[tuple[bytes, ...], int] = {}  # directories that are kept open, by their path

    @property
    def path(self) -> bytes:
        return os.fsencode(self._shown)

    def close(self) -> None:
        """Close all directories."""
        for handle in (self._root, *self._open.values()):
            syscalls.close(handle)
        self._open.clear()

    @contextlib.contextmanager
    def new_file(self, key: bytes) -> Iterator[int]:
        """A file to be written, open; it must not be there yet unless it may be replaced. An error removes it."""
        if self._overwrite:  # not by writing over it: it may have another name outside
            self.remove(key)
        with (
            self._file(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as handle,
            self.removed_unless_complete(lambda: [key]),
        ):
            yield handle

    @contextlib.contextmanager
    def removed_unless_complete(self, keys: Callable[[], Iterable[bytes]]) -> Iterator[None]:
        """Remove the files of these keys when an error ends the block, or a signal the process."""

        def remove() -> None:
            for key in keys():
                self.remove(key)

        with cleanup.at_sudden_end(remove):
            try:
                yield
            except BaseException:
                remove()
                raise

    def old_file(self, key: bytes) -> AbstractContextManager[int]:
        """A file of this export, open to be written on."""
        return self._file(key, os.O_WRONLY)

    def remove(self, key: bytes) -> None:
        """Remove a file, if it is there."""
        with self._folder(key) as (here, file), contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(file, dir_fd=here)

    @contextlib.contextmanager
    def _folder(self, key: bytes) -> Iterator[tuple[int, bytes]]:
        """The open directory for the file of a key, made where it is missing, and the file's name in it."""
        *folders, name = key.split(b"/")
        if b"\0" in key or any(folder in (b"", b".", b"..") for folder in folders):
            raise DamageError(f"key {display(key)!r} is no path below a directory")
        where = tuple(folders)
        here = self._open.get(where)
        if here is not None:
            yield here, name + b".npy"
            return
        here = self._make(key, folders)
        if len(self._open) < _MOST_OPEN:
            kept = self._open.setdefault(where, here)  # another thread may have been faster
            if kept != here:
                os.close(here)
            yield kept, name + b".npy"
            return
        try:
            yield here, name + b".npy"
        finally:
            os.close(here)

    def _make(self, key: bytes, folders: list[bytes]) -> int:
        """The directory that `folders` lead to, open, made where it is missing."""
        here = os.dup(self._root)
        try:
            for folder in folders:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, dir_fd=here)
                try:
                    below = os.open(folder, _DIRECTORY, dir_fd=here)
                except NotADirectoryError:
                    raise self._conflict(key, f"a folder of it is a file or a link ({display(folder)})") from None
                os.close(here)
                here = below
        except BaseException:
            os.close(here)
            raise
        return here

    def _conflict(self, key: bytes, problem: str) -> ConflictError:
        return ConflictError(f"{display(self._shown)}/{display(key)}.npy cannot be written: {problem}")

    @contextlib.contextmanager
    def _file(self, key: bytes, flags: int) -> Iterator[int]:
        with self._folder(key) as (here, file):
            try:
                handle = os.open(file, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666, dir_fd=here)
            except FileExistsError:
                raise self._conflict(key, "it is there already; --overwrite replaces files") from None
        try:
            yield handle
        finally:
            os.close(handle)
