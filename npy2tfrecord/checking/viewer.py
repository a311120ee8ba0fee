"""Looking at one example of a converted data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.manifest import Manifest, ShardInfo
from npy2tfrecord.formats.shard import array_of, check_example, key_of, label_of, load_index, read_records
from npy2tfrecord.formats.tfrecord import unframe
from npy2tfrecord.paths import local_path

_BEGIN_BYTES = 4096  # of a record that are looked at for its key, besides the key itself


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
    path = local_path(out, "data set")
    manifest, wanted = manifest_parsing.load(path), os.fsencode(key)
    for shard in manifest.shards:
        for number, data in _candidates(path, shard, wanted, manifest):
            example = parse_example(data)
            if key_of(example) == wanted:
                check_example(example, manifest)
                text = None
                if manifest.labels is not None:
                    label = label_of(example, manifest)
                    name = f" ({display(manifest.labels[int(label)])})" if manifest.labels else ""
                    text = f"{np.float32(label):g}" if isinstance(label, float) else f"{label}{name}"
                arrays = {info.name: array_of(example, info) for info in manifest.features}
                return View(wanted, shard.file, number, text, arrays)
    raise UsageError(f"{display(path)} has no example with the key {display(wanted)!r}")


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
                try:
                    yield number, unframe(memoryview(syscalls.pread(handle, size, offset)))
                except DamageError as error:
                    raise DamageError(f"{display(path)}: record {number} at offset {offset}: {error}") from None


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
