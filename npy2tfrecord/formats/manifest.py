"""`manifest.json`: what was written, and the proof that the set is whole.

The file is canonical: the same manifest always gives the same bytes. `docs/format.md` describes every member, and
`manifest_parsing` reads the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.dtypes import dtype_from_name, time_from_name

FILE_NAME = "manifest.json"
INDEX_DIR = "index"
BESIDE = (".idx", ".keys")  # the smaller files of a shard, all in that directory
TAIL_BYTES = 8  # of a shard, which its manifest repeats
FORMAT = "npy2tfrecord"
FORMAT_VERSION = "1.0"  # MAJOR.MINOR: a reader may ignore what a newer minor version adds
MAX_FILE_BYTES = 256 * 2**20  # a million shards, or three million skipped sources, fit
COMPRESSIONS = ("none", "gzip", "zlib")
LABEL_DTYPES = ("int64", "float32")
MAX_SHARDS = 10**7 - 1  # of a split: seven digits of a file's name

SPLIT_PATTERN = re.compile(r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*")
FEATURE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

Hash = xxhash.xxh3_128  # 128 bits, as fast as memory; finds every accident, not a forger


def shard_name(split: str, index: int, count: int) -> str:
    """`train-00003-of-00016.tfrecord`, the name TFDS and others expect."""
    return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def index_name(file: str) -> str:
    """Where a shard's index is, relative to the data set's directory."""
    return beside(file, ".idx")


def keys_name(file: str) -> str:
    """Where a shard's keys are, relative to the data set's directory."""
    return beside(file, ".keys")


def beside(file: str, suffix: str) -> str:
    """Where one of a shard's smaller files is, relative to the data set's directory."""
    return f"{INDEX_DIR}/{file.removesuffix('.tfrecord')}{suffix}"


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the size of one axis varies: `counts[i]` arrays have a size above `sizes[i - 1]`, up to `sizes[i]`.

    With few distinct sizes every one has a bin of its own, so that the counts are exact. Else a bin holds all sizes
    that are the same once they are rounded up to so many leading `bits`.
    """

    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    bits: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The histogram as `manifest.json` holds it."""
        bits = {} if self.bits is None else {"bits": self.bits}
        return {"sizes": list(self.sizes), "counts": list(self.counts), **bits}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInfo:
    """One feature: `shape` has None for every axis that varies.

    Of dates and time spans, `dtype` is int64 and `time` what the sources have, such as `datetime64[ns]`.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    min_shape: tuple[int, ...]
    max_shape: tuple[int, ...]
    histograms: tuple[Histogram | None, ...]  # of every axis that varies
    bytes: int  # of all its arrays
    stats: Mapping[str, Any] | None = None
    time: str | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def array_dtype(self) -> np.dtype:
        """The dtype that its arrays had and get back, in this machine's byte order."""
        return time_from_name(self.time) if self.time else dtype_from_name(self.dtype)

    def to_json(self) -> dict[str, Any]:
        """The feature as `manifest.json` holds it."""
        return {
            "dtype": self.dtype,
            **({"time": self.time} if self.time is not None else {}),
            "rank": self.rank,
            "shape": list(self.shape),
            "min_shape": list(self.min_shape),
            "max_shape": list(self.max_shape),
            "histograms": [h and h.to_json() for h in self.histograms],
            "bytes": self.bytes,
            **({"stats": self.stats} if self.stats is not None else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard: `bytes` is the file's size, `hash` the XXH3-128 of its content, `tail` its last 8 bytes (hexadecimal).

    A reader compares the tail when it opens a shard: the file of another data set or version shows at once. `unpacked`
    is the hash of the records in a compressed shard, since compressors make different bytes of the same records.
    """

    file: str
    examples: int
    bytes: int
    hash: str
    tail: str
    unpacked: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The shard as `manifest.json` holds it."""
        return {
            "file": self.file,
            "examples": self.examples,
            "bytes": self.bytes,
            "hash": self.hash,
            "tail": self.tail,
            **({"unpacked": self.unpacked} if self.unpacked is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """How many examples of a split have which label: `counts[i]` have `values[i]`, which rise."""

    values: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A source that was left out, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A data set as written.

    `labels` is None without labels, else the class names (empty: plain numbers). `label_dtype` is "int64", or "float32"
    for numbers to be predicted. `label_counts` has the splits whose labels were counted.
    """

    features: tuple[FeatureInfo, ...]
    splits: Mapping[str, tuple[ShardInfo, ...]]
    labels: tuple[str, ...] | None = None
    label_dtype: str = "int64"
    compression: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    label_counts: Mapping[str, LabelCounts] = field(default_factory=dict)
    format_version: str = FORMAT_VERSION

    @property
    def examples(self) -> int:
        return sum(shard.examples for shards in self.splits.values() for shard in shards)

    @property
    def total_bytes(self) -> int:
        return sum(shard.bytes for shards in self.splits.values() for shard in shards)

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        return tuple(shard for shards in self.splits.values() for shard in shards)

    def feature(self, name: str) -> FeatureInfo:
        """The feature of that name. Raises `UsageError` when there is none."""
        for info in self.features:
            if info.name == name:
                return info
        known = ", ".join(repr(info.name) for info in self.features)
        raise UsageError(f"no feature {name!r} here; there are {known}")

    def to_json(self) -> dict[str, Any]:
        """The manifest as `manifest.json` holds it, its own hash included."""
        document = self.content()
        return document | {"hash": Hash(_encode(document)).hexdigest()}

    def content(self) -> dict[str, Any]:
        """The manifest as `manifest.json` holds it, without the hash."""
        return {
            "format": FORMAT,
            "format_version": self.format_version,
            "examples": self.examples,
            "bytes": self.total_bytes,
            "features": {info.name: info.to_json() for info in self.features},
            "labels": None if self.labels is None else {"dtype": self.label_dtype, "classes": list(self.labels)},
            "compression": self.compression,
            "splits": {
                split: {
                    "examples": sum(shard.examples for shard in shards),
                    "bytes": sum(shard.bytes for shard in shards),
                    **self._label_counts_json(split),
                    "shards": [shard.to_json() for shard in shards],
                }
                for split, shards in self.splits.items()
            },
            "options": dict(self.options),
            "sources": dict(self.sources),
            "skipped": [{"source": s.source, "reason": s.reason} for s in self.skipped],
        }

    def _label_counts_json(self, split: str) -> dict[str, Any]:
        found = self.label_counts.get(split)
        return {} if found is None else {"labels": {"values": list(found.values), "counts": list(found.counts)}}

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from npy2tfrecord.formats.manifest_html import manifest_html  # for notebooks alone

        return manifest_html(self)

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        return _encode(self.to_json())


def _encode(document: Any) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"
