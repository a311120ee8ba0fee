"""Comparing a shard with its sources: it is encoded again, and each byte is compared with the file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from npy2tfrecord.errors import InputError, display
from npy2tfrecord.formats.shard import unpacked
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Options
from npy2tfrecord.planning.plan import Plan, ShardSpec
from npy2tfrecord.storage.set_files import files_of, sequential
from npy2tfrecord.writing.shard_encoder import encode_shard

_PIECE_BYTES = 1 << 20


class _Differs(Exception):
    """The file has other bytes from this offset on."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class _Comparison:
    """Takes a shard's bytes in order and compares them with a file's."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._offset = 0

    def write(self, data: memoryview) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            found = np.frombuffer(self._file.read(len(piece)), np.uint8)
            expected = np.frombuffer(piece, np.uint8)
            if not np.array_equal(found, expected):  # a comparison of memoryviews takes 15 times as long
                same = min(len(found), len(expected))
                differ = np.flatnonzero(found[:same] != expected[:same])
                raise _Differs(self._offset + (int(differ[0]) if len(differ) else same))
            self._offset += len(piece)


def compare(plan: Plan, out: str, options: Options, jobs: int) -> Iterator[tuple[str, list[str]]]:
    """Where each shard differs from what its sources make, by the shard's file."""
    skip = options.on_error == "skip"
    tasks = ((spec, out, options.compression, skip, options.in_flight) for spec in plan.shards())
    yield from pool.run(_compare_shard, tasks, jobs=jobs, backend=options.backend)


def _compare_shard(
    spec: ShardSpec, out: str, compression: str, skip: bool, in_flight: int | None
) -> tuple[str, list[str]]:
    return spec.file, compare_shard(spec, out, compression, skip, in_flight)


def compare_shard(spec: ShardSpec, out: str, compression: str, skip: bool, in_flight: int | None = None) -> list[str]:
    """Where a shard differs from what its sources make: nothing, or the first record with its source."""
    bad: dict[int, InputError] = {}
    try:
        while True:
            with sequential(files_of(out).open(spec.file)) as packed:
                file = unpacked(packed, compression)
                if encode_shard(spec, _Comparison(file), bad, skip, in_flight) is not None:
                    return [f"{spec.file}: there are bytes after its last record"] if file.read(1) else []
    except _Differs as differs:
        kept = np.delete(np.arange(len(spec)), sorted(bad))
        ends = np.cumsum(spec.record_sizes[kept])
        number = int(np.searchsorted(ends, differs.offset, side="right"))
        source = display(spec.columns[0].paths[spec.columns[0].sources[kept[number]]])
        key = display(spec.record_keys[kept[number]])
        return [f"{spec.file}: record {number}, key {key!r}, is not what its source makes, {source}"]
    except InputError as error:
        return [f"{spec.file}: a source cannot be read: {error}"]
    except OSError as error:
        return [f"{spec.file}: {error.strerror or error}"]
    except (EOFError, zlib.error) as error:
        return [f"{spec.file}: damaged compression ({error})"]
