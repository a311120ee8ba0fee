"""Shards of buckets as files of a local disk, for TensorFlow, which opens no bucket. No TensorFlow here.

A shard's file has the shard's hash as its name. It is written under another name, hashed as it comes, and renamed when
the hash is right, so that a file with such a name is whole. Processes share the directory:

- Who fetches a shard holds a lock on the unfinished file. Another one that needs the same shard waits for the lock.
- Who reads a shard holds a shared lock on its file. Files are removed, those first that were used longest ago, when
  there is too little room, but none that is locked.

The system drops the locks of a process that ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, OutputError, UsageError, display
from npy2tfrecord.formats.manifest import TAIL_BYTES
from npy2tfrecord.formats.shard import ContentHash
from npy2tfrecord.storage.object_files import MOST_PIECES
from npy2tfrecord.storage.open_files import PIECE_BYTES
from readers.manifests import PlacedShard
from readers.shards.presence import open_shard

MOST_BYTES = 100 * 10**9  # of the default limit, which is half of what the disk has free where that is less
MOST_AHEAD = 8  # shards that are fetched before they are read
_REQUESTS = 16  # at a time
_FEWEST_FETCHES = 2  # shards at a time, and no more where these have so many requests: the first one comes sooner
_PAUSE_SECONDS = 0.02  # between two looks at a lock
_WHOLE, _UNFINISHED = ".tfrecord", ".part"

_log = logging.getLogger("readers")


class _Held(NamedTuple):
    path: str
    size: int
    used: float  # when it was used last


class ShardCache:
    """The files of one directory, which together have `limit` bytes at most (but for those that are in use)."""

    def __init__(self, directory: str | None = None, limit: int | None = None) -> None:
        self.directory = os.path.abspath(directory or default_directory())
        try:
            os.makedirs(self.directory, exist_ok=True)
        except FileExistsError:
            raise UsageError(
                f"cache={display(self.directory)!r} is no directory; for data sets in buckets it is one"
            ) from None
        except OSError as error:
            raise OutputError(f"cannot make the cache {display(self.directory)}: {error.strerror}") from error
        if limit is None:
            free = shutil.disk_usage(self.directory).free
            limit = min(MOST_BYTES, (free + sum(each.size for each in self._files())) // 2)
        self.limit = limit

    def path_of(self, shard: PlacedShard) -> str:
        """The path that the shard's file has, or will have."""
        return os.path.join(self.directory, f"{shard.hash}-{shard.bytes}{_WHOLE}")

    def hold(self, shard: PlacedShard) -> int:
        """A descriptor of the shard's file, fetched if it isn't there. It stays as long as the descriptor is open.

        Raises `DamageError` where the shard isn't what the manifest says or can't be read, and `OutputError`.
        """
        path = self.path_of(shard)
        try:
            while (handle := self._held(path, shard)) is None:
                self._fetch(path, shard)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            what = f"{display(path)}: {error.strerror or error}"
            raise OutputError(
                f"cannot keep {display(shard.path)} in the cache, {what}; choose another cache or a smaller cache_size"
            ) from error
        return handle

    def _held(self, path: str, shard: PlacedShard) -> int | None:
        """A descriptor of a whole file, with a shared lock on it; None if there is none."""
        try:
            handle = syscalls.open(path, syscalls.READ_FLAGS)
        except FileNotFoundError:
            return None
        is_right = False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            if not _is_at(handle, path):  # it was removed in between
                return None
            tail = memoryview(bytearray(min(shard.bytes, TAIL_BYTES)))
            is_whole = syscalls.fstat(handle).st_size == shard.bytes
            if is_whole and syscalls.read_into(handle, tail, shard.bytes - len(tail)) == len(tail):
                is_right = tail.hex() == shard.tail
            if is_right:
                os.utime(path)
            else:  # the machine lost power before the disk had all of it
                os.unlink(path)
        finally:
            if not is_right:
                syscalls.close(handle)
        return handle if is_right else None

    def _fetch(self, path: str, shard: PlacedShard) -> None:
        """Fetch a shard, unless another process does or did."""
        unfinished = path.removesuffix(_WHOLE) + _UNFINISHED
        with _locked(unfinished) as handle:
            if handle is None or os.path.exists(path):
                return
            try:
                self._make_room(shard.bytes, but=unfinished)
                syscalls.truncate(handle)
                self._copy(shard, handle)
                syscalls.rename(unfinished, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished)
                raise

    def _copy(self, shard: PlacedShard, handle: int) -> None:
        """Write the bytes of a shard. Raises `DamageError` unless they have its hash."""
        seen = ContentHash()
        pieces = open_shard(shard, with_tail=False).pieces()
        while True:
            try:
                data = next(pieces, None)
            except OSError as error:
                raise DamageError(f"{display(shard.path)}: {error.strerror or error}") from error
            if data is None:
                break
            seen.update(data)
            syscalls.write_all(handle, data)
        found = seen.content
        if found.bytes != shard.bytes or found.hash != shard.hash:
            raise DamageError(
                f"{display(shard.path)}: it is not what was written ({found.bytes} bytes with the hash {found.hash},"
                f" expected {shard.bytes} with {shard.hash} by the manifest); convert or copy the data set again"
            )

    # --- room

    def _files(self) -> Iterator[_Held]:
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.endswith((_WHOLE, _UNFINISHED)):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        yield _Held(entry.path, status.st_size, status.st_mtime)

    def _make_room(self, size: int, *, but: str) -> None:
        """Remove what was used longest ago until there is room for `size` bytes, or nothing more that nobody uses."""
        files = sorted((each for each in self._files() if each.path != but), key=lambda each: each.used)
        excess = sum(each.size for each in files) + size - self.limit
        for each in files:
            if excess <= 0:
                return
            if _remove_unused(each.path):
                excess -= each.size
        if excess > 0:
            _log.warning(
                "the cache %s has %d bytes more than its limit: all of its files are in use", self.directory, excess
            )


def default_directory() -> str:
    """The user's cache directory."""
    top = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(top, "npy2tfrecord")


def _is_at(handle: int, path: str) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int | None]:
    """A file, made where it is missing, with a lock that no other has; None where it is gone when that was given up."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_PAUSE_SECONDS)
        yield handle if _is_at(handle, path) else None
    finally:
        os.close(handle)


def _remove_unused(path: str) -> bool:
    """Remove a file, unless somebody has a lock on it."""
    try:
        handle = syscalls.open(path, syscalls.READ_FLAGS)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(handle, path):
            os.unlink(path)
    except BlockingIOError:
        return False
    finally:
        syscalls.close(handle)
    return True


class _Task:
    """A shard that is wanted: under way, then held, or failed."""

    def __init__(self) -> None:
        self.handle = -1
        self.error: Exception | None = None
        self.is_done = False
        self.waiting = 0

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)


class Fetcher:
    """Fetches shards in the order in which they are announced, in threads, and holds the last `held` of them.

    Threads end when there is nothing more to fetch.
    """

    @classmethod
    def of_lanes(cls, shards: Sequence[PlacedShard], cache: ShardCache, lanes: int) -> Fetcher:
        """One for a pipeline that reads up to `lanes` shards at the same time, and announces others before."""
        largest = max((shard.bytes for shard in shards), default=0)
        ahead = max(1, min(MOST_AHEAD, cache.limit // 4 // max(1, largest)))
        pieces = min(MOST_PIECES, max(1, largest // PIECE_BYTES))
        return cls(
            shards, cache, ahead=ahead, held=2 * lanes + ahead, fetches=max(_FEWEST_FETCHES, _REQUESTS // pieces)
        )

    def __init__(
        self, shards: Sequence[PlacedShard], cache: ShardCache, *, ahead: int, held: int, fetches: int
    ) -> None:
        self.ahead = ahead  # shards to be announced before they are read
        self._shards, self._cache, self._held, self._fetches = shards, cache, held, fetches
        self._tasks: OrderedDict[int, _Task] = OrderedDict()  # the one that was asked for last at the end
        self._queue: deque[int] = deque()
        self._threads = 0
        self._changed = threading.Condition()

    def announce(self, shard: int) -> None:
        """Say that a shard will be asked for."""
        if self._shards[shard].is_in_bucket:
            with self._changed:
                self._want(shard, self._queue.append)

    def wait(self, shard: int) -> str:
        """The path of a shard's file, when it is there. Raises `DamageError` and `OutputError`."""
        info = self._shards[shard]
        if not info.is_in_bucket:
            return info.path
        with self._changed:
            task = self._want(shard, self._queue.appendleft)
            if shard in self._queue:  # announced, but others are before it
                self._queue.remove(shard)
                self._queue.appendleft(shard)
            task.waiting += 1
            try:
                self._changed.wait_for(lambda: task.is_done)
            finally:
                task.waiting -= 1
            if task.error is not None:
                if self._tasks.get(shard) is task:
                    del self._tasks[shard]  # the next one who asks tries again
                raise task.error
        return self._cache.path_of(info)

    def _want(self, shard: int, put: Callable[[int], None]) -> _Task:
        task = self._tasks.get(shard)
        if task is None:
            task = self._tasks[shard] = _Task()
            put(shard)
            if self._threads < self._fetches:
                self._threads += 1
                threading.Thread(target=self._work, name="shard-fetcher", daemon=True).start()
        self._tasks.move_to_end(shard)
        for number, each in list(self._tasks.items())[: max(0, len(self._tasks) - self._held)]:
            if each.is_done and not each.waiting:
                del self._tasks[number]
        return task

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._threads -= 1
                    return
                shard = self._queue.popleft()
                task = self._tasks[shard]
            try:
                task.handle = self._cache.hold(self._shards[shard])
            except Exception as error:
                task.error = error
            with self._changed:
                task.is_done = True
                self._changed.notify_all()
