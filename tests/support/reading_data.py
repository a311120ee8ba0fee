"""Data sets for the tests of the readers, written record by record with the format's own modules."""

from __future__ import annotations

import gzip
import os
import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from npy2tfrecord.formats import example, manifest, tfrecord
from npy2tfrecord.formats.shard import encode_index, encode_keys
from npy2tfrecord.planning import feature_summary

Arrays = Sequence[np.ndarray]


def record(key: str, arrays: Mapping[str, np.ndarray], label: int | None = None) -> bytes:
    """One example as a TFRecord."""
    values = {name: np.asarray(array) for name, array in arrays.items()}
    layout = example.Layout.of(tuple((n, a.dtype.name, a.shape, a.nbytes) for n, a in values.items()))
    entry = example.label_entry(label)
    name = key.encode("utf-8", "surrogateescape")
    data = layout.before_key(len(name), len(entry)) + name + entry + layout.after_label
    for i, array in enumerate(values.values()):
        data += (layout.payload_heads[i] if i else b"") + array.astype(array.dtype.newbyteorder("<")).tobytes("C")
    return tfrecord.head(len(data)) + data + tfrecord.foot(crc32c(data))


def write_dataset(
    out: Path,
    features: Mapping[str, Arrays] | Arrays,
    *,
    shards: int = 3,
    splits: Mapping[str, int] | None = None,
    labels: Sequence[int] | None = None,
    classes: Sequence[str] = (),
    compression: str = "none",
    stats: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    keys: Sequence[str] | None = None,
    empty: Sequence[int] = (),
) -> Path:
    """A data set of these arrays, with keys `k/00000`… unless given; `splits` says how many examples each split has.

    `empty` says which of the `shards` of each split hold no example.
    """
    named = features if isinstance(features, Mapping) else {"array": features}
    count = len(next(iter(named.values())))
    out.mkdir(parents=True, exist_ok=True)
    (out / "index").mkdir(exist_ok=True)
    position = 0
    written: dict[str, tuple[manifest.ShardInfo, ...]] = {}
    for split, size in (splits or {"train": count}).items():
        pieces = shards if empty else min(shards, size)
        filled = [shard for shard in range(pieces) if shard not in empty]
        infos = []
        for shard in range(pieces):
            file = manifest.shard_name(split, shard, pieces)
            place = bisect_left(filled, shard)
            last = position + size * (place + (shard in filled)) // max(1, len(filled))
            first = position + size * place // max(1, len(filled))
            here = [keys[i] if keys else key_of(i) for i in range(first, last)]
            records = [
                record(key, {n: a[i] for n, a in named.items()}, labels[i] if labels is not None else None)
                for i, key in enumerate(here, first)
            ]
            encoded = [key.encode("utf-8", "surrogateescape") for key in here]
            infos.append(_write_shard(out, file, records, encoded, compression))
        position += size
        written[split] = tuple(infos)
    made = manifest.Manifest(
        features=tuple(_info(n, a, (stats or {}).get(n)) for n, a in named.items()),
        splits=written,
        labels=tuple(classes) if labels is not None else None,
        compression=compression,
        options=options or {},
    )
    (out / manifest.FILE_NAME).write_bytes(made.encode())
    return out


def key_of(i: int) -> str:
    return f"k/{i:05d}"


def keys_of(source: Any, numbers: Sequence[int]) -> list[str]:
    """The keys of examples of an `ArraySource`: here, where processes that tests start can import it."""
    return [source[i]["key"] for i in numbers]


def _write_shard(out: Path, file: str, records: list[bytes], keys: list[bytes], compression: str) -> manifest.ShardInfo:
    pack = {"none": bytes, "gzip": gzip.compress, "zlib": zlib.compress}[compression]
    content = pack(b"".join(records))
    (out / file).write_bytes(content)
    sizes = np.array([len(data) for data in records], dtype=np.int64)
    (out / manifest.index_name(file)).write_bytes(encode_index(sizes))
    (out / manifest.keys_name(file)).write_bytes(encode_keys(keys))
    digest = manifest.Hash(content).hexdigest()
    return manifest.ShardInfo(
        file=file, examples=len(records), bytes=len(content), hash=digest, tail=content[-8:].hex()
    )


def _info(name: str, arrays: Arrays, stats: Mapping[str, Any] | None) -> manifest.FeatureInfo:
    shapes: dict[tuple[int, ...], int] = {}
    for array in arrays:
        shapes[np.shape(array)] = shapes.get(np.shape(array), 0) + 1
    dtype = np.asarray(arrays[0]).dtype
    counts = np.array(list(shapes.values()))
    return feature_summary.feature_info(
        name=name, dtype=dtype.name, itemsize=dtype.itemsize, shapes=list(shapes), counts=counts, stats=stats
    )


def random_array(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Any bit pattern at all (valid ones of bool)."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(size), dtype=dtype).reshape(shape)


def same_bits(a: Any, b: Any) -> bool:
    a, b = (np.asarray(x.numpy() if hasattr(x, "numpy") else x) for x in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def number_of(key: Any) -> int:
    """The `i` that a key was made from."""
    return int(os.fsdecode(key if isinstance(key, bytes) else key.numpy()).removeprefix("k/"))
