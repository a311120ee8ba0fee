"""The files of a data set, wherever they are: in a directory of this machine, or below a prefix of a bucket.

Who reads a data set asks here for a file by its name below the data set's directory. What can't be read is an
`OSError`, whatever the storage is.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from io import BufferedReader, RawIOBase
from typing import IO, Any, Protocol

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, FormatVersionError, UsageError, display
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.manifest import FILE_NAME, MAX_FILE_BYTES, Manifest
from npy2tfrecord.paths import is_bucket, place
from npy2tfrecord.storage.object_files import ObjectFile
from npy2tfrecord.storage.objects import ObjectInfo, Prefix
from npy2tfrecord.storage.open_files import LocalFile, OpenFile

_BUFFER_BYTES = 2**18


class SetFiles(Protocol):
    """The files of one data set.

    `in_flight` is how many requests are worth having under way at once; 0 where that shows only as they are made.
    """

    in_flight: int

    def names(self) -> list[str]:
        """The names of what is in the data set's directory, of objects also those of what is below."""

    def open(self, name: str) -> OpenFile:
        """A file, open."""

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a file, up to `limit` of them."""


class LocalFiles:
    """A directory. Where `links` is False, a link isn't followed, for it may lead anywhere."""

    in_flight = 0

    def __init__(self, directory: str, *, links: bool = True) -> None:
        self._directory = directory
        self._flags = syscalls.READ_FLAGS | (0 if links else getattr(os, "O_NOFOLLOW", 0))

    def names(self) -> list[str]:
        return os.listdir(self._directory)

    def open(self, name: str) -> LocalFile:
        return LocalFile(syscalls.open_regular(os.path.join(self._directory, name), self._flags))

    def read(self, name: str, limit: int) -> bytes:
        file = self.open(name)
        try:
            return syscalls.read_up_to(file.handle, limit)
        finally:
            file.close()


class BucketFiles:
    """A prefix of a bucket. What has another ETag later than when it was seen first, maybe in a list, is refused.

    Objects are listed when their names are asked for. Where they weren't, a file is asked for when it is opened.
    """

    in_flight = 32

    def __init__(self, url: str) -> None:
        self._prefix = Prefix(url)
        self._lock = threading.Lock()
        self._found: dict[str, ObjectInfo] | None = None

    def _listed(self, name: str) -> ObjectInfo | None:
        """What the list says about an object; None where there is no list."""
        if self._found is None:
            return None
        info = self._found.get(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", self._prefix.at(name))
        return info

    def names(self) -> list[str]:
        with self._lock:
            if self._found is None:
                self._found = {info.name: info for info in self._prefix.list_objects()}
            return sorted(self._found)

    def open(self, name: str) -> ObjectFile:
        return ObjectFile(self._prefix, name, self._listed(name) or self._prefix.head(name))

    def read(self, name: str, limit: int) -> bytes:
        info = self._listed(name)
        if info is not None and info.size <= limit:
            return self._prefix.read(name, limit=limit, etag=info.etag)
        return bytes(self._prefix.read_range(name, 0, limit, etag=None if info is None else info.etag))

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._prefix.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]


def files_of(path: str, *, links: bool = True) -> SetFiles:
    """The files of the data set at `path`: a directory, or the URL of a place in a bucket."""
    return BucketFiles(path) if is_bucket(path) else LocalFiles(path, links=links)


class _Sequential(RawIOBase):
    """A file's pieces, one behind the other. `seen` is called with each."""

    def __init__(self, file: OpenFile, seen: Callable[[memoryview], None] | None) -> None:
        self._pieces, self._left, self._seen = file.pieces(), memoryview(b""), seen

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = next(self._pieces, memoryview(b""))
            if self._seen is not None:
                self._seen(self._left)
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def sequential(file: OpenFile, seen: Callable[[memoryview], None] | None = None) -> IO[bytes]:
    """The file, to be read from its start to its end. `seen` is called with all bytes that were taken from it."""
    return BufferedReader(_Sequential(file, seen), _BUFFER_BYTES)


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of a data set in a directory or in a bucket. Raises what `manifest_parsing.load` raises."""
    url = place(path, "data set")
    if not is_bucket(url):
        return manifest_parsing.load(path)
    prefix = Prefix(url)
    shown = display(prefix.at(FILE_NAME))
    try:
        data = prefix.read(FILE_NAME, limit=MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise _no_data_set(prefix, error) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise DamageError(f"{shown} is larger than {MAX_FILE_BYTES} bytes") from error
        raise UsageError(f"{shown}: {error.strerror}") from error
    try:
        return manifest_parsing.decode(data)
    except (DamageError, FormatVersionError) as error:
        raise type(error)(f"{shown}: {error}") from None


def _no_data_set(prefix: Prefix, error: OSError) -> UsageError:
    """Why there is no manifest: the bucket, the prefix or the end of a conversion is missing."""
    url = display(prefix.url)
    try:
        names = {info.name.partition("/")[0] for info in prefix.list_objects()}
    except FileNotFoundError:
        return UsageError(f"{url}: there is no such bucket")
    except OSError:  # listing needs a right of its own
        return UsageError(f"{url} has no {FILE_NAME}: {error.strerror}")
    if not names:
        return UsageError(f"{url}: nothing is there")
    why = "its conversion is unfinished; run it again to resume" if ".npy2tfrecord" in names else "it is no data set"
    return UsageError(f"{url} has no {FILE_NAME}: {why}")
