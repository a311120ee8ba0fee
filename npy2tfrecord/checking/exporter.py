"""Exporting: a data set's arrays back to `.npy` files, as `np.save` would write them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from npy2tfrecord import cleanup, syscalls
from npy2tfrecord.errors import ConflictError, DamageError, OutputError, UsageError, display
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.example import Value, parse_example
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest
from npy2tfrecord.formats.npy import write_header
from npy2tfrecord.formats.shard import array_of, key_of, read_records

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def export(out: str | os.PathLike[str], directory: str | os.PathLike[str], *, overwrite: bool = False) -> int:
    """Write every array of the data set `out` below `directory`; returns how many files that makes.

    A key is a path: `cats/001` becomes `cats/001.npy`; with several features, `FEATURE/cats/001.npy`. Rows that came
    from one array become that array again. Nothing is written outside `directory`, whatever a key says, and no file
    stays there that is not whole.

    Raises `DamageError` when the data set is damaged, `UsageError` when rows of an array were left out of it,
    `ConflictError` when something is in the way (files may be replaced with `overwrite`), `OutputError` when the
    disk fails.
    """
    path, target = os.fspath(out), os.fspath(directory)
    manifest = manifest_parsing.load(path)
    try:
        os.makedirs(target, exist_ok=True)
        root = syscalls.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError.from_os("make the directory", target, error) from error
    try:
        tree = _Tree(root, target, overwrite)
        if manifest.options.get("rows"):
            return _export_rows(path, manifest, tree)
        return _export_files(path, manifest, tree)
    except OSError as error:
        if isinstance(error, (OutputError, ConflictError)):
            raise
        raise OutputError.from_os("write below", target, error) from error
    finally:
        syscalls.close(root)


def _relative(manifest: Manifest, info: FeatureInfo, key: bytes) -> bytes:
    return key if len(manifest.features) == 1 else os.fsencode(info.name) + b"/" + key


def _examples(path: str, manifest: Manifest) -> Iterator[tuple[bytes, dict[str, Value]]]:
    """(key, example) of every record."""
    for shard in manifest.shards:
        count = 0
        try:
            for record in read_records(os.path.join(path, shard.file), manifest.compression):
                example = parse_example(record.data)
                yield key_of(example), example
                count += 1
            if count != shard.examples:
                raise DamageError(f"{count} records, the manifest says {shard.examples}")
        except DamageError as error:
            raise DamageError(f"{shard.file}: {error}") from None
        except OSError as error:
            raise DamageError(f"{shard.file}: {error.strerror}") from error


def _export_files(path: str, manifest: Manifest, tree: _Tree) -> int:
    count = 0
    for key, example in _examples(path, manifest):
        for info in manifest.features:
            array = array_of(example, info)
            header = write_header(info.array_dtype, array.shape)
            relative = _relative(manifest, info, key)
            with tree.new_file(relative) as handle:
                syscalls.write_all(handle, header)
                syscalls.write_all(handle, memoryview(array.reshape(-1).view("u1")))
            count += 1
    return count


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
            problem = f"of {display(name)!r} there are {whole.rows} rows, the last of which is number {whole.last}"
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
        """The open directory that the file of a key is in, made if need be, and the file's name there."""
        *folders, name = key.split(b"/")
        if b"\0" in key or any(folder in (b"", b".", b"..") for folder in folders):
            raise DamageError(f"key {display(key)!r} is no path below a directory")
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
            yield here, name + b".npy"
        finally:
            os.close(here)

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
