"""How long the arrays of records are, by the first bytes of each. No TensorFlow here.

What stands before the values gives every shape, so that large records aren't read whole. Their checksum isn't known
then: instead, an example of these shapes must have exactly the record's size. Any other record is read whole and
verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.example import LABEL, Layout, label_entry, parse_example, parse_start
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest
from npy2tfrecord.formats.shard import array_of, key_of, label_of
from npy2tfrecord.formats.tfrecord import FRAME_BYTES, HEAD_BYTES, data_length, unframe
from npy2tfrecord.storage.in_flight import InFlight
from npy2tfrecord.storage.open_files import OpenFile
from readers.manifests import PlacedShard
from readers.shards.index import load_table
from readers.shards.presence import open_shard
from readers.splits import Part

_KEY_BYTES = 256  # of a key and a label, usually; a record with a longer key is read whole
_DTYPE_BYTES, _SIZE_BYTES, _ENTRY_BYTES = 16, 10, 32  # of a dtype's name, an axis, and what else an entry has, at most


def read_sizes(
    shards: Sequence[PlacedShard], parts: Sequence[Part], manifest: Manifest, axes: Mapping[str, int]
) -> np.ndarray:
    """The size along `axes` of every example of these parts, int64.

    Raises `UsageError` where an example's features differ in size, and `DamageError`.
    """
    sizes = [np.empty(0, np.int64)]
    with InFlight(begin=max((shard.files.in_flight for shard in shards), default=0)) as requests:
        for part in parts:
            sizes.append(_sizes_of(shards[part.shard], part, manifest, axes, requests))
    return np.concatenate(sizes)


def _sizes_of(
    shard: PlacedShard, part: Part, manifest: Manifest, axes: Mapping[str, int], requests: InFlight
) -> np.ndarray:
    table = load_table(shard)
    sizes = np.empty(part.count, np.int64)
    most = _head_bytes(manifest.features)
    file = open_shard(shard)

    def read(numbers: Iterator[int]) -> None:
        for i in numbers:
            record = part.first + i
            offset, size = int(table.offsets[record]), int(table.sizes[record])
            try:
                key, shapes = _shapes(file, offset, size, min(size, most), manifest)
            except DamageError as error:
                raise DamageError(f"{display(shard.path)}: record {record} at offset {offset}: {error}") from None
            except OSError as error:
                raise DamageError(f"{display(shard.path)}: {error.strerror or error}") from error
            found = {name: shapes[name][axis] for name, axis in axes.items()}
            if len({*found.values()}) > 1:
                shown = ", ".join(f"{name} {n}" for name, n in found.items())
                raise UsageError(f"window: features differ in size, in example {display(key)}: {shown}")
            sizes[i] = next(iter(found.values()))

    try:
        requests.run(read, range(part.count))
    finally:
        file.close()
    return sizes


def _head_bytes(features: Sequence[FeatureInfo]) -> int:
    """What a record has before its values, unless its key is long."""
    described = sum(2 * (len(f.name) + _ENTRY_BYTES) + _DTYPE_BYTES + _SIZE_BYTES * f.rank for f in features)
    return HEAD_BYTES + _KEY_BYTES + described


def _shapes(
    file: OpenFile, offset: int, size: int, head_bytes: int, manifest: Manifest
) -> tuple[bytes, dict[str, Sequence[int]]]:
    """The key of a record and the shapes of its arrays. Raises `DamageError` and `OSError`."""
    head = _read(file, offset, head_bytes)
    found = _shapes_by_head(head, size, manifest)
    if found is None:
        columns = parse_example(unframe(_read(file, offset, size)))
        found = key_of(columns), {info.name: array_of(columns, info).shape for info in manifest.features}
    return found


def _shapes_by_head(head: memoryview, size: int, manifest: Manifest) -> tuple[bytes, dict[str, Sequence[int]]] | None:
    """The same by a record's first bytes; None unless an example with these shapes has the record's size."""
    shapes: dict[str, Sequence[int]] = {}
    described = []
    try:
        length = data_length(head)
        columns = parse_start(head[HEAD_BYTES:])
        key = key_of(columns)
        label = label_of(columns, manifest) if LABEL in columns and manifest.labels is not None else None
    except DamageError:
        return None
    for info in manifest.features:
        shape = columns.get(f"{info.name}/shape")
        if not isinstance(shape, list) or len(shape) != info.rank:
            return None
        bounds = zip(shape, info.min_shape, info.max_shape, strict=True)
        if not all(low <= n <= high for n, low, high in bounds):
            return None
        shapes[info.name] = shape
        values = info.array_dtype.itemsize
        for n in shape:
            values *= n
        described.append((info.name, info.dtype, tuple(shape), values))
    layout = Layout.of(tuple(described))
    if not layout.example_size(len(key), len(label_entry(label))) == length == size - FRAME_BYTES:
        return None
    return key, shapes


def _read(file: OpenFile, offset: int, size: int) -> memoryview:
    data = memoryview(bytearray(size))
    done = file.read_into(data, offset)
    if done < size:
        raise DamageError(f"the shard ends at {offset + done} bytes, before the record does")
    return data
