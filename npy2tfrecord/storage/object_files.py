"""Sources and other files that are objects in a bucket: the counterparts of `local`'s loops and of `open_files`.

An object's ETag takes the place of a file's times. Every answer of a store has it: what is read by several requests is
of one state, or `ChangedObjectError`.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice

from xxhash import xxh3_64_intdigest

from npy2tfrecord.storage.errors import BeyondEndError, ChangedObjectError
from npy2tfrecord.storage.kept import MOST_FILE_BYTES
from npy2tfrecord.storage.local import FileStarts, WholeFiles
from npy2tfrecord.storage.objects import ObjectInfo, Prefix
from npy2tfrecord.storage.open_files import PIECE_BYTES, STAMP_MASK

MOST_PIECES = 8  # of an object, requested at the same time
_SMALL_BYTES = 64 * 2**10  # a smaller read of a source takes as long as one of so many bytes
_GAP_BYTES = 64 * 2**10  # between two ranges: reading them takes less than another request


def object_stamp(info: ObjectInfo) -> int:
    """The state of an object as one number of 63 bits, from its size and ETag."""
    return xxh3_64_intdigest(f"{info.size} {info.etag} {info.version}".encode()) & STAMP_MASK


@lru_cache(maxsize=64)
def _bucket(url: str) -> Prefix:
    return Prefix(url)


def split_url(path: bytes) -> tuple[Prefix, str]:
    """The bucket of an object's URL, and the object's name there."""
    scheme, _, rest = os.fsdecode(path).partition("://")
    bucket, _, name = rest.partition("/")
    return _bucket(f"{scheme}://{bucket}"), name


class ObjectFile:
    """An object, of which `info` says the size and ETag, or else the first answer about it.

    With `expected`, an object of another stamp is refused. With `small`, a read of fewer bytes takes so many: the next
    one is likely to be there, as in an archive's directory.
    """

    gap = _GAP_BYTES

    def __init__(
        self, prefix: Prefix, name: str, info: ObjectInfo | None = None, *, expected: int | None = None, small: int = 0
    ) -> None:
        self._prefix, self._name, self._info, self._expected, self._small = prefix, name, info, expected, small
        self._lock = threading.Lock()
        self._piece = 0, memoryview(b"")  # the last small one that was read: where, and its bytes

    @classmethod
    def at(cls, path: bytes, expected: int | None = None) -> ObjectFile:
        """The source with this URL."""
        prefix, name = split_url(path)
        return cls(prefix, name, expected=expected, small=_SMALL_BYTES)

    def _known(self) -> ObjectInfo:
        return self._info or self._learn(self._prefix.head(self._name))

    def _learn(self, info: ObjectInfo) -> ObjectInfo:
        """Take what an answer says. Raises `ChangedObjectError` where it is another object than before."""
        with self._lock:
            if self._info is None and self._expected in (None, object_stamp(info)):
                self._info = info
            if self._info is None or (self._info.size, self._info.etag) != (info.size, info.etag):
                raise ChangedObjectError(
                    errno.ESTALE, "it has changed: its ETag is another", self._prefix.at(self._name)
                )
            return self._info

    def _range(self, start: int, end: int) -> memoryview:
        etag = None if self._info is None else self._info.etag
        try:
            data, info = self._prefix.read_range_found(self._name, start, end, etag=etag)
        except BeyondEndError:
            self._known()
            return memoryview(b"")
        self._learn(info)
        return data

    @property
    def size(self) -> int:
        return self._known().size

    def stamp(self) -> int:
        return object_stamp(self._known())

    def read(self, size: int, offset: int) -> bytes:
        return bytes(self._read(size, offset))

    def _read(self, size: int, offset: int) -> memoryview:
        if size <= 0:
            return memoryview(b"")
        if size >= self._small:
            return self._range(offset, offset + size)
        start, piece = self._piece
        if not (start <= offset and offset + size <= start + len(piece)):
            start = offset
            if self._info is not None:  # what is near the end is read back to front, as an archive's directory is
                start = max(0, min(offset, self._info.size - self._small))
            piece = self._range(start, start + self._small)
            self._piece = start, piece
        return piece[offset - start : offset - start + size]

    def read_into(self, view: memoryview, offset: int) -> int:
        data = self._read(len(view), offset)
        view[: len(data)] = data
        return len(data)

    def readv(self, views: Sequence[memoryview], offset: int) -> int:
        data = self._range(offset, offset + sum(map(len, views)))
        done = 0
        for view in views:
            part = data[done : done + len(view)]
            view[: len(part)] = part
            done += len(part)
        return done

    def forget(self) -> None:
        """No copy is on this machine."""

    def pieces(self) -> Iterator[memoryview]:
        info = self._known()
        read = partial(self._prefix.read_range, self._name, etag=info.etag)
        starts = iter(range(0, info.size, PIECE_BYTES))
        with ThreadPoolExecutor(MOST_PIECES) as executor:
            under_way: deque[Future[memoryview]] = deque()
            try:
                while True:
                    for start in islice(starts, MOST_PIECES - len(under_way)):
                        under_way.append(executor.submit(read, start, start + PIECE_BYTES))
                    if not under_way:
                        return
                    yield under_way.popleft().result()
            finally:
                for each in under_way:
                    each.cancel()

    def close(self) -> None:
        """Nothing is open."""


class WholeObjects(WholeFiles):
    """The same requests for objects."""

    __slots__ = ()

    def read(self, numbers: Iterator[int]) -> None:
        """Read those objects, by one request each."""
        for i in numbers:
            start, view = self.starts[i], self.views[i]
            expected = len(start) + len(view)
            prefix, name = split_url(self.paths[i])
            try:
                content, info = prefix.read_range_found(name, 0, expected)
            except OSError as error:
                self.odd(i, error)
                continue
            if (
                info.size == expected
                and object_stamp(info) == self.stamps[i]
                and content[: len(start)] == start
                and len(content) == expected
            ):
                view[:] = content[len(start) :]
                if self.data:
                    self.digests[i] = self.digest(self.data[i])
            else:
                self.odd(i, None)


class ObjectStarts(FileStarts):
    """The same requests for objects. One request takes a small object as a whole."""

    __slots__ = ()

    def read(self, numbers: Iterator[int]) -> None:
        """Read the start of those objects."""
        kept = self.kept()
        room = end = 0  # in what is kept, for the next objects
        for i in numbers:
            prefix, name = split_url(self.paths[i])
            try:
                try:
                    content, info = prefix.read_range_found(name, 0, MOST_FILE_BYTES)
                except BeyondEndError:  # it is empty
                    content, info = memoryview(b""), prefix.head(name)
                length, place = info.size, -1
                if kept is not None and 0 < length <= MOST_FILE_BYTES:
                    while room + length >= end and kept is not None:
                        room, end = kept.room()
                        kept = kept if room < end else None
                    if kept is not None:
                        place = room
                        room += length
                        kept.memory[place:room] = content
                start, stamped = bytes(content[: self.size]), object_stamp(info)
                match = self.known.get(start)
                if match is not None and match[0] == length:
                    self.ids[i], self.places[i], self.stamps[i] = match[1], place, stamped
                elif wanted := self.take(i, start, length, stamped, place, True):
                    if wanted > len(content):
                        content, _ = prefix.read_range_found(name, 0, wanted, etag=info.etag)
                    self.take(i, bytes(content[:wanted]), length, stamped, place, False)
            except OSError as error:
                self.odd(i, error)
        if kept is not None:
            kept.give_back(room, end)
