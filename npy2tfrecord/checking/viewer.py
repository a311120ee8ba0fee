"""Looking at one example of a converted data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.manifest import Manifest, ShardInfo, index_name, keys_name
from npy2tfrecord.formats.shard import (
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
from npy2tfrecord.storage import set_files
from npy2tfrecord.storage.set_files import SetFiles, sequential

_THREADS = 16  # that look for a key, each in a shard


@dataclass(frozen=True)
class View:
    """One example: where it is, and its arrays by feature."""

    key: bytes
    shard: str
    record: int
    label: str | None
    arrays: Mapping[str, np.ndarray]

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
    try:
        example = parse_example(_record(files, shard, number, manifest.compression))
        if key_of(example) != wanted:
            raise DamageError(f"record {number} has the key {display(key_of(example))!r}, expected {display(wanted)!r}")
        check_example(example, manifest)
    except DamageError as error:
        raise DamageError(f"{display(os.path.join(path, shard.file))}: {error}") from None
    except OSError as error:
        raise DamageError(f"{display(os.path.join(path, shard.file))}: {error.strerror or error}") from error
    text = None
    if manifest.labels is not None:
        label = label_of(example, manifest)
        name = f" ({display(manifest.labels[int(label)])})" if manifest.labels else ""
        text = f"{np.float32(label):g}" if isinstance(label, float) else f"{label}{name}"
    arrays = {info.name: array_of(example, info) for info in manifest.features}
    return View(wanted, shard.file, number, text, arrays)


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


def _record(files: SetFiles, shard: ShardInfo, number: int, compression: str) -> memoryview:
    """A record's data. Raises `DamageError` and `OSError`."""
    if compression != "none":
        for record in records_in(sequential(files.open(shard.file)), compression):
            if record.number == number:
                return record.data
        raise DamageError(f"it has no record {number}")
    offsets, sizes = parse_index(files.read(index_name(shard.file), index_limit(shard) + 1), shard)
    offset, data = int(offsets[number]), memoryview(bytearray(int(sizes[number])))
    found = files.open(shard.file).read_into(data, offset)
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
