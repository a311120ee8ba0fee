"""Looking at one example of a converted data set, or at a few that lie all over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.example import Value, parse_example
from npy2tfrecord.formats.manifest import Manifest, ShardInfo, index_name, keys_name
from npy2tfrecord.formats.shard import (
    Record,
    array_of,
    check_example,
    index_limit,
    key_of,
    keys_limit,
    label_of,
    parse_index,
    parse_keys,
    records_in,
)
from npy2tfrecord.formats.tfrecord import unframe
from npy2tfrecord.paths import place
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.sources.array_reader import ArrayReader
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.sources.table import SourceTable
from npy2tfrecord.storage import set_files
from npy2tfrecord.storage.open_files import OpenFile
from npy2tfrecord.storage.set_files import SetFiles, sequential

_MAX_SAMPLED_BYTES = 64 * 2**20  # larger examples are left out of a sample
_THREADS = 16  # that look for a key, each in a shard


@dataclass(frozen=True)
class View:
    """One example: where it is, and its arrays by feature."""

    key: bytes
    shard: str
    record: int
    label: str | None
    arrays: Mapping[str, np.ndarray]

    def __str__(self) -> str:
        """`cats/001: array float32 (20, 80), label 0 (cats)`."""
        arrays = ", ".join(f"{name} {array.dtype.name} {array.shape}" for name, array in self.arrays.items())
        return f"{display(self.key)}: {arrays}" + (f", label {self.label}" if self.label is not None else "")

    def to_json(self) -> dict[str, Any]:
        """What `show --json` prints: all but the values."""
        return {
            "key": display(self.key),
            "shard": self.shard,
            "record": self.record,
            "label": self.label,
            "features": {
                name: {"dtype": array.dtype.name, "shape": list(array.shape), **value_range(array)}
                for name, array in self.arrays.items()
            },
        }


def view(out: str | os.PathLike[str], key: str | bytes) -> View:
    """The example of that key. Raises `UsageError` when there is none, `DamageError` when it is damaged."""
    path = place(out, "data set")
    manifest, wanted = set_files.load_manifest(path), os.fsencode(key)
    files = set_files.files_of(path)
    shard, number = _find(path, files, manifest, wanted)
    with _naming(path, shard):
        example = parse_example(_record_of(files, shard, number, manifest.compression))
        if key_of(example) != wanted:
            raise DamageError(f"record {number} has the key {display(key_of(example))!r}, expected {display(wanted)!r}")
        return _view(example, shard, number, manifest)


def _find(path: str, files: SetFiles, manifest: Manifest, key: bytes) -> tuple[ShardInfo, int]:
    """The shard and the number of the record with this key, by the files of keys."""

    def find(shard: ShardInfo) -> int | None:
        name = keys_name(shard.file)
        try:
            data = files.read(name, keys_limit(shard, manifest.compression) + 1)
            keys = parse_keys(data, shard, manifest.compression)
        except DamageError as error:
            raise DamageError(f"{display(path)}: {error}") from None
        except OSError as error:
            raise DamageError(f"{display(os.path.join(path, name))}: {error.strerror or error}") from error
        return keys.index(key) if key in keys else None

    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(manifest.shards), _THREADS):
            shards = manifest.shards[first : first + _THREADS]
            for shard, number in zip(shards, pool.map(find, shards), strict=True):
                if number is not None:
                    return shard, number
    raise UsageError(f"{display(path)} has no example with the key {display(key)!r}")


def sample(out: str | os.PathLike[str], count: int, split: str | None = None) -> list[View]:
    """Up to `count` examples, spread evenly over the data set or a split of it.

    Of compressed shards these are the first ones, since no other can be read by itself. Raises `UsageError` for a
    split that there is not, and `DamageError`.
    """
    path = place(out, "data set")
    manifest = set_files.load_manifest(path)
    files = set_files.files_of(path)
    if split is not None and split not in manifest.splits:
        raise UsageError(f"{display(path)} has no split {split!r}; there are {', '.join(map(repr, manifest.splits))}")
    shards = manifest.shards if split is None else manifest.splits[split]
    if manifest.compression != "none":
        records = ((s, r) for s in shards for r in _records(path, files, s, manifest.compression))
        small = ((s, r) for s, r in records if r.size <= _MAX_SAMPLED_BYTES)
        return [_view(parse_example(r.data), shard, r.number, manifest) for shard, r in islice(small, count)]
    ends = np.cumsum([shard.examples for shard in shards])
    total = int(ends[-1])
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    views = []
    for i, last in enumerate(ends.tolist()):
        shard = shards[i]
        numbers = chosen[(chosen < last) & (chosen >= last - shard.examples)] - (last - shard.examples)
        if not len(numbers):
            continue
        with _naming(path, shard):
            offsets, sizes = _index(files, shard)
            file = files.open(shard.file)
            for number in numbers[sizes[numbers] <= _MAX_SAMPLED_BYTES].tolist():
                data = _record(file, number, int(offsets[number]), int(sizes[number]))
                views.append(_view(parse_example(data), shard, number, manifest))
    return views


def sample_sources(examples: Examples, count: int) -> list[View]:
    """Up to `count` examples that a scan found, spread evenly. Raises `InputError` for a source that has changed."""
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int))
    views = []
    for number in chosen.tolist():
        arrays = {}
        for table, sources in zip(examples.tables, examples.sources, strict=True):
            array = _source(table, int(sources[number]), None if examples.rows is None else int(examples.rows[number]))
            if array is not None:
                arrays[table.feature] = array
        if arrays:
            views.append(View(examples.key(number), "", number, None, arrays))
    return views


def _source(table: SourceTable, source: int, row: int | None) -> np.ndarray | None:
    """The values of a source or of a row of it, as they would be written; None for one that is too large."""
    header = table.headers[table.header_ids[source]]
    cast = Cast.of(header.dtype.name, None, table.feature)
    shape = header.shape if row is None else header.shape[1:]
    size = cast.nbytes(shape)
    if size > _MAX_SAMPLED_BYTES:
        return None
    values = bytearray(size)
    member = table.members[source] if table.members else None
    reader = ArrayReader(table.path(source), header, cast, int(table.stamps[source]), member)
    try:
        reader.read(memoryview(values), size * (row or 0))
        reader.finish()
    finally:
        reader.close()
    return np.frombuffer(values, cast.out_dtype).reshape(shape)


def _view(example: Mapping[str, Value], shard: ShardInfo, number: int, manifest: Manifest) -> View:
    check_example(example, manifest)
    text = None
    if manifest.labels is not None:
        label = label_of(example, manifest)
        name = f" ({display(manifest.labels[int(label)])})" if manifest.labels else ""
        text = f"{np.float32(label):g}" if isinstance(label, float) else f"{label}{name}"
    arrays = {info.name: array_of(example, info) for info in manifest.features}
    return View(key_of(example), shard.file, number, text, arrays)


@contextmanager
def _naming(path: str, shard: ShardInfo) -> Iterator[None]:
    """Say in errors which shard they are about."""
    try:
        yield
    except DamageError as error:
        raise DamageError(f"{display(os.path.join(path, shard.file))}: {error}") from None
    except OSError as error:
        raise DamageError(f"{display(os.path.join(path, shard.file))}: {error.strerror or error}") from error


def _records(path: str, files: SetFiles, shard: ShardInfo, compression: str) -> Iterator[Record]:
    with _naming(path, shard):
        yield from records_in(sequential(files.open(shard.file)), compression)


def _record_of(files: SetFiles, shard: ShardInfo, number: int, compression: str) -> memoryview:
    """The data of a record, by its number. Raises `DamageError` and `OSError`."""
    if compression != "none":
        for record in records_in(sequential(files.open(shard.file)), compression):
            if record.number == number:
                return record.data
        raise DamageError(f"it has no record {number}")
    offsets, sizes = _index(files, shard)
    return _record(files.open(shard.file), number, int(offsets[number]), int(sizes[number]))


def _index(files: SetFiles, shard: ShardInfo) -> tuple[np.ndarray, np.ndarray]:
    return parse_index(files.read(index_name(shard.file), index_limit(shard) + 1), shard)


def _record(file: OpenFile, number: int, offset: int, size: int) -> memoryview:
    """The data of a record of an open shard. Raises `DamageError` that names the record, and `OSError`."""
    data = memoryview(bytearray(size))
    found = file.read_into(data, offset)
    try:
        return unframe(data[:found])
    except DamageError as error:
        raise DamageError(f"record {number} at offset {offset}: {error}") from None


def value_range(array: np.ndarray) -> dict[str, float]:
    """The smallest, the largest and the mean of the finite values; nothing where values have no order."""
    if array.dtype.kind in "cMm":
        return {}
    with np.errstate(invalid="ignore"):  # a signaling NaN
        values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {}
    return {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
