"""`manifest.json`: what was written, and the proof that the set is whole.

The file is canonical: the same manifest always gives the same bytes. A file whose bytes do not have
the hash that it ends with is refused. `docs/format.md` describes every member.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats.document import Node
from npy2tfrecord.formats.dtypes import time_from_name
from npy2tfrecord.formats.npy import EXTENSION_NAMES, MAX_RANK, SUPPORTED_NAMES, dtype_from_name

FILE_NAME = "manifest.json"
INDEX_DIR = "index"
BESIDE = (".idx", ".keys")  # the smaller files of a shard, all in that directory
TAIL_BYTES = 8  # of a shard, which its manifest repeats
FORMAT = "npy2tfrecord"
FORMAT_VERSION = 1
MAX_FILE_BYTES = 256 * 2**20  # a million shards, or three million skipped sources, fit
COMPRESSIONS = ("none", "gzip", "zlib")
MAX_SHARDS = 10**7 - 1  # of a split: seven digits of a file's name

SPLIT_PATTERN = re.compile(r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*")
FEATURE_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HASH_PATTERN = re.compile(r"[0-9a-f]{32}")
_TAIL_PATTERN = re.compile(rf"(?:[0-9a-f]{{2}}){{0,{TAIL_BYTES}}}")
_HASH_END = re.compile(rb',\n "hash": "([0-9a-f]{32})"\n}\n\Z')

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

    With few distinct sizes every one has a bin of its own, so that the counts are exact.
    """

    sizes: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
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
            "histograms": [h and {"sizes": list(h.sizes), "counts": list(h.counts)} for h in self.histograms],
            "bytes": self.bytes,
            **({"stats": self.stats} if self.stats is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard: `bytes` is the file's size, `hash` the XXH3-128 of its content, `tail` its last 8 bytes (hexadecimal).

    A reader compares the tail when it opens a shard: the file of another data set or version shows at once.
    """

    file: str
    examples: int
    bytes: int
    hash: str
    tail: str

    def to_json(self) -> dict[str, Any]:
        """The shard as `manifest.json` holds it."""
        return {
            "file": self.file,
            "examples": self.examples,
            "bytes": self.bytes,
            "hash": self.hash,
            "tail": self.tail,
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


@dataclass(frozen=True, slots=True)
class Manifest:
    """A data set as written.

    `labels` is None without labels, else the class names (empty: plain integers). `label_counts` has the splits whose
    labels were counted.
    """

    features: tuple[FeatureInfo, ...]
    splits: Mapping[str, tuple[ShardInfo, ...]]
    labels: tuple[str, ...] | None = None
    compression: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    label_counts: Mapping[str, LabelCounts] = field(default_factory=dict)

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
        document = self._content()
        return document | {"hash": Hash(_encode(document)).hexdigest()}

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "examples": self.examples,
            "bytes": self.total_bytes,
            "features": {info.name: info.to_json() for info in self.features},
            "labels": None if self.labels is None else {"classes": list(self.labels)},
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

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        return _encode(self.to_json())


def _encode(document: Any) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def load(directory: str | os.PathLike[str] | bytes) -> Manifest:
    """The manifest of a data set.

    Raises `UsageError` when the directory holds none, `DamageError` when it is damaged or was not
    written by this package; the message says where in it.
    """
    path = Path(os.fsdecode(directory), FILE_NAME)
    try:
        # Not blocking: a stranger's manifest may be a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise UsageError(f"{display(str(path.parent))}: no such directory") from None
        unfinished = path.parent.joinpath(".npy2tfrecord").is_dir()
        why = "its conversion has not ended; run it again to go on" if unfinished else "it is no data set"
        raise UsageError(f"{display(str(path.parent))} has no {FILE_NAME}: {why}") from None
    except OSError as error:
        raise DamageError(f"{display(str(path))}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DamageError(f"{display(str(path))} is not a regular file")
        if status.st_size > MAX_FILE_BYTES:  # not to be read, though it may be all holes
            raise DamageError(f"{display(str(path))} is larger than {MAX_FILE_BYTES} bytes")
        data = file.read(MAX_FILE_BYTES + 1)
    try:
        return decode(data)
    except DamageError as error:
        raise DamageError(f"{display(str(path))}: {error}") from None


def decode(data: bytes) -> Manifest:
    """The manifest whose file is `data`. Raises `DamageError`."""
    if len(data) > MAX_FILE_BYTES:
        raise DamageError(f"larger than {MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(data)
        root = Node(document, "")
        if root.get("format").string() != FORMAT:
            raise root.get("format").fail(repr(FORMAT))
        version = root.get("format_version").integer()
        if version > FORMAT_VERSION:
            raise DamageError(f"format_version is {version}; this version of npy2tfrecord reads up to {FORMAT_VERSION}")
        manifest = _parse(root)
    except DamageError:
        raise
    except (ValueError, RecursionError) as error:  # also infinity, and what is nested too deeply
        raise DamageError(f"no valid JSON ({error})") from None
    # Its bytes as they are: to encode ten thousand shards again would take longer than all the rest.
    end = _HASH_END.search(data)
    good = end is not None and Hash(data[: end.start()] + b"\n}\n").hexdigest().encode() == end[1]
    if not good or {**manifest._content(), "hash": document["hash"]} != document:
        raise DamageError("its content does not match its hash: it was changed after it was written")
    return manifest


def _parse(root: Node) -> Manifest:
    splits: dict[str, tuple[ShardInfo, ...]] = {}
    label_counts: dict[str, LabelCounts] = {}
    for split, node in root.get("splits").mapping().items():
        if not SPLIT_PATTERN.fullmatch(split):
            raise DamageError(f"splits: {split!r} is no name of a split")
        shards = node.get("shards").items()
        splits[split] = tuple(_parse_shard(shard, split, i, len(shards)) for i, shard in enumerate(shards))
        if not shards:
            raise node.fail("at least one shard")
        if "labels" in node.mapping():
            label_counts[split] = _parse_label_counts(
                node.get("labels"), sum(shard.examples for shard in splits[split])
            )
    compression = root.get("compression")
    if compression.string() not in COMPRESSIONS:
        raise compression.fail(f"one of {', '.join(COMPRESSIONS)}")
    labels = root.get("labels")
    features = root.get("features").mapping()
    if not features:
        raise DamageError("features: there are none")
    return Manifest(
        features=tuple(_parse_feature(name, node) for name, node in features.items()),
        splits=splits,
        labels=None if labels.value is None else tuple(n.string() for n in labels.get("classes").items()),
        compression=compression.value,
        options={name: node.value for name, node in root.get("options").mapping().items()},
        sources={name: node.value for name, node in root.get("sources").mapping().items()},
        skipped=tuple(
            Skipped(node.get("source").string(), node.get("reason").string()) for node in root.get("skipped").items()
        ),
        label_counts=label_counts,
    )


def _parse_label_counts(node: Node, examples: int) -> LabelCounts:
    values = tuple(item.signed_integer() for item in node.get("values").items())
    counts = node.get("counts").integers()
    rise = all(a < b for a, b in pairwise(values))
    if not rise or len(values) != len(counts) or sum(counts) != examples:
        raise node.fail(f"labels that rise, and a count for each, {examples} in all")
    return LabelCounts(values, counts)


def _parse_shard(node: Node, split: str, index: int, count: int) -> ShardInfo:
    file = node.get("file")
    if file.value != shard_name(split, index, count):  # nothing else is ever opened
        raise file.fail(repr(shard_name(split, index, count)))
    size, tail = node.get("bytes").integer(), node.get("tail")
    if len(tail.string(_TAIL_PATTERN)) != 2 * min(size, TAIL_BYTES):
        raise tail.fail(f"{min(size, TAIL_BYTES)} bytes in hexadecimal")
    return ShardInfo(
        file=file.value,
        examples=node.get("examples").integer(),
        bytes=size,
        hash=node.get("hash").string(_HASH_PATTERN),
        tail=tail.value,
    )


def _parse_feature(name: str, node: Node) -> FeatureInfo:
    if not FEATURE_PATTERN.fullmatch(name):
        raise DamageError(f"features: {name!r} is no name of a feature")
    dtype = node.get("dtype")
    if dtype.string() not in SUPPORTED_NAMES + EXTENSION_NAMES:
        raise dtype.fail("the name of a dtype")
    time = _parse_time(node.get("time"), dtype.value) if "time" in node.mapping() else None
    smallest, largest = node.get("min_shape").integers(), node.get("max_shape").integers()
    shape_node = node.get("shape")
    shape = tuple(None if item.value is None else item.integer() for item in shape_node.items())
    rank = len(shape)
    expected = tuple(a if a == b else None for a, b in zip(smallest, largest, strict=False))
    if rank > MAX_RANK or not len(smallest) == len(largest) == rank or shape != expected:
        raise shape_node.fail("the axes of min_shape and max_shape that agree, null for the others")
    histograms: list[Histogram | None] = []
    for item in node.get("histograms").items():
        if item.value is None:
            histograms.append(None)
            continue
        histogram = Histogram(item.get("sizes").integers(), item.get("counts").integers())
        if len(histogram.sizes) != len(histogram.counts):
            raise item.fail("as many sizes as counts")
        histograms.append(histogram)
    if len(histograms) != rank:
        raise node.get("histograms").fail(f"{rank} of them, null for an axis that does not vary")
    stats = node.mapping().get("stats")
    return FeatureInfo(
        name, dtype.value, shape, smallest, largest, tuple(histograms), node.get("bytes").integer(),
        None if stats is None else {n: v.value for n, v in stats.mapping().items()}, time,
    )  # fmt: skip


def _parse_time(node: Node, dtype: str) -> str:
    try:
        time = time_from_name(node.string()).name
    except ValueError:
        raise node.fail("a datetime64 or timedelta64") from None
    if dtype != "int64":
        raise node.fail(f"none with {dtype}")
    return str(time)
