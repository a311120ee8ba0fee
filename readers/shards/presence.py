"""Whether the shards on disk are those that the manifest lists, by their sizes and last bytes. No TensorFlow here."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, display
from npy2tfrecord.formats.manifest import TAIL_BYTES
from readers.manifests import PlacedShard

_THREADS = 16  # a network file system answers many requests at once, but each takes milliseconds
_FEW = 64  # shards that show whether it is one
_SLOW_SECONDS = 200e-6  # for each of them; faster ones are not worth threads


def open_shard(info: PlacedShard) -> int:
    """A descriptor of a shard. Raises `DamageError` unless the file has the size and the tail that the manifest says.

    The tail, its last 8 bytes, hold the last record's checksum: the shard of another data set or version has another.
    """
    path = info.path
    handle = -1
    try:
        handle = syscalls.open_regular(path)
        size = syscalls.fstat(handle).st_size
        if size != info.bytes:
            raise DamageError(f"{display(path)}: {size} bytes, expected {info.bytes} by the manifest")
        tail = memoryview(bytearray(min(size, TAIL_BYTES)))
        read = syscalls.read_into(handle, tail, size - len(tail)) if tail else 0
        if tail[:read].hex() != info.tail:
            raise DamageError(
                f"{display(path)}: ends in the bytes {tail[:read].hex()}, expected {info.tail} by the manifest; "
                "it is damaged, or the shard of another data set or version"
            )
    except OSError as error:
        _close(handle)
        problem = f"{error.strerror or error}, expected a shard of {info.bytes} bytes"
        raise DamageError(f"{display(path)}: {problem}") from error
    except DamageError:
        _close(handle)
        raise
    return handle


def check_shards(shards: Sequence[PlacedShard]) -> None:
    """Raise `DamageError` unless every shard is there and has the size and the tail that the manifest says."""
    started = time.monotonic()
    problems = [*map(_problem, shards[:_FEW])]
    rest = shards[_FEW:]
    if time.monotonic() - started < _FEW * _SLOW_SECONDS:
        problems += map(_problem, rest)
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            problems += pool.map(_problem, rest)
    found = [problem for problem in problems if problem]
    if found:
        others = f" (and {len(found) - 1} other shards of {len(shards)})" if len(found) > 1 else ""
        raise DamageError(f"{found[0]}{others}; convert or copy the data set again")


def _problem(shard: PlacedShard) -> str:
    try:
        os.close(open_shard(shard))
    except DamageError as error:
        return str(error)
    return ""


def _close(handle: int) -> None:
    if handle >= 0:
        os.close(handle)
