"""Looking at one example of a converted data set, or at a few that lie all over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.example import Value, parse_example
from npy2tfrecord.formats.manifest import Manifest, ShardInfo
from npy2tfrecord.formats.shard import array_of, check_example, key_of, label_of, load_index, read_records
from npy2tfrecord.formats.tfrecord import unframe
from npy2tfrecord.paths import local_path
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.sources.array_reader import ArrayReader
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.sources.table import SourceTable

_MAX_SAMPLED_BYTES = 64 * 2**20  # larger examples are left out of a sample
_BEGIN_BYTES = 4096  # of a record that are looked at for its key, besides the key itself


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
    path = local_path(out, "data set")
    manifest, wanted = manifest_parsing.load(path), os.fsencode(key)
    for shard in manifest.shards:
        for number, data in _candidates(path, shard, wanted, manifest):
            example = parse_example(data)
            if key_of(example) == wanted:
                return _view(example, shard, number, manifest)
    raise UsageError(f"{display(path)} has no example with the key {display(wanted)!r}")


def sample(out: str | os.PathLike[str], count: int, split: str | None = None) -> list[View]:
    """Up to `count` examples, spread evenly over the data set or a split of it.

    Of compressed shards these are the first ones, since no other can be read by itself. Raises `UsageError` for a
    split that there is not, and `DamageError`.
    """
    path = local_path(out, "data set")
    manifest = manifest_parsing.load(path)
    if split is not None and split not in manifest.splits:
        raise UsageError(f"{display(path)} has no split {split!r}; there are {', '.join(map(repr, manifest.splits))}")
    shards = manifest.shards if split is None else manifest.splits[split]
    if manifest.compression != "none":
        records = ((s, r) for s in shards for r in read_records(os.path.join(path, s.file), manifest.compression))
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
        offsets, sizes = load_index(path, shard)
        with syscalls.opened(os.path.join(path, shard.file)) as handle:
            for number in numbers[sizes[numbers] <= _MAX_SAMPLED_BYTES].tolist():
                data = _record(handle, shard, number, int(offsets[number]), int(sizes[number]), path)
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


def _record(handle: int, shard: ShardInfo, number: int, offset: int, size: int, out: str) -> memoryview:
    """The data of a record of an open shard. Raises `DamageError` that names the record."""
    try:
        return unframe(memoryview(syscalls.pread(handle, size, offset)))
    except DamageError as error:
        where = display(os.path.join(out, shard.file))
        raise DamageError(f"{where}: record {number} at offset {offset}: {error}") from None


def _candidates(out: str, shard: ShardInfo, key: bytes, manifest: Manifest) -> Iterator[tuple[int, memoryview]]:
    """(number, data) of the records of a shard that may have the key."""
    path = os.path.join(out, shard.file)
    if manifest.compression != "none":
        yield from ((r.number, r.data) for r in read_records(path, manifest.compression) if key in bytes(r.data))
        return
    begin = _BEGIN_BYTES + len(key) + 512 * len(manifest.features)
    offsets, sizes = load_index(out, shard)
    with syscalls.opened(path) as handle:
        for number, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
            if key in syscalls.pread(handle, min(size, begin), offset):
                yield number, _record(handle, shard, number, offset, size, out)


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
