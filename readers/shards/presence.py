"""Whether shards are those that the manifest lists, by their sizes and last bytes. No TensorFlow here."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from npy2tfrecord.errors import DamageError, display
from npy2tfrecord.formats.manifest import TAIL_BYTES
from npy2tfrecord.storage.open_files import OpenFile
from readers.manifests import PlacedShard

_log = logging.getLogger("readers")

_THREADS = 16  # a network file system answers many requests at once, but each takes milliseconds
_FEW = 64  # shards that show whether it is one
_SLOW_SECONDS = 200e-6  # for each of them; faster ones are not worth threads


def open_shard(info: PlacedShard, *, with_tail: bool = True) -> OpenFile:
    """A shard, open. Raises `DamageError` unless the file has the size and the tail that the manifest says.

    The tail, its last 8 bytes, hold the last record's checksum: the shard of another data set or version has another.
    """
    path = display(info.path)
    try:
        file = info.files.open(info.file)
        if file.size != info.bytes:
            raise DamageError(f"{path}: {file.size} bytes, expected {info.bytes} by the manifest")
        tail = memoryview(bytearray(min(file.size, TAIL_BYTES) if with_tail else 0))
        read = file.read_into(tail, file.size - len(tail)) if tail else 0
    except OSError as error:
        problem = f"{error.strerror or error}, expected a shard of {info.bytes} bytes"
        raise DamageError(f"{path}: {problem}") from error
    if with_tail and tail[:read].hex() != info.tail:
        raise DamageError(
            f"{path}: ends in the bytes {tail[:read].hex()}, expected {info.tail} by the manifest; "
            "it is damaged, or the shard of another data set or version"
        )
    return file


def check_shards(shards: Sequence[PlacedShard]) -> None:
    """Raise `DamageError` unless every shard is there and has the size and the tail that the manifest says.

    Of shards in a bucket only the sizes are compared, which one list of its objects has.
    """
    for directory, files in {shard.directory: shard.files for shard in shards if shard.is_in_bucket}.items():
        try:
            files.names()
        except PermissionError:  # listing needs a right of its own; without it every shard is asked for
            _log.info("%s: its objects may not be listed", directory)
        except OSError as error:
            raise DamageError(f"{display(directory)}: {error.strerror or error}") from error
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
        open_shard(shard, with_tail=not shard.is_in_bucket).close()
    except DamageError as error:
        return str(error)
    return ""
