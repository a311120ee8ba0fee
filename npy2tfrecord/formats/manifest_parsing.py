"""Reading `manifest.json`, which may hold anything: typed getters, whose errors say where in it.

A file whose bytes do not have the hash that it ends with is refused, and so is one whose members disagree.
"""

from __future__ import annotations

import json
import os
import re
import stat
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, FormatVersionError, NewerFormatWarning, UsageError, display
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES, SUPPORTED_NAMES, time_from_name
from npy2tfrecord.formats.manifest import (
    COMPRESSIONS,
    FEATURE_PATTERN,
    FILE_NAME,
    FORMAT,
    FORMAT_VERSION,
    LABEL_DTYPES,
    MAX_FILE_BYTES,
    SPLIT_PATTERN,
    TAIL_BYTES,
    FeatureInfo,
    Hash,
    Histogram,
    LabelCounts,
    Manifest,
    ShardInfo,
    Skipped,
    shard_name,
)
from npy2tfrecord.formats.npy import MAX_RANK
from npy2tfrecord.paths import local_path

_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
_SHOWN = 5  # unknown members, in a warning
_HASH_PATTERN = re.compile(r"[0-9a-f]{32}")
_TAIL_PATTERN = re.compile(rf"(?:[0-9a-f]{{2}}){{0,{TAIL_BYTES}}}")
_HASH_END = re.compile(rb',\n "hash": "([0-9a-f]{32})"\n}\n\Z')


def load(directory: str | os.PathLike[str] | bytes) -> Manifest:
    """The manifest of a data set.

    Raises `UsageError` when the directory holds none, `FormatVersionError` when only a newer version of this package
    can read it, `DamageError` when it is damaged or was not written by this package; the message says where in it.
    """
    path = Path(local_path(directory, "data set"), FILE_NAME)
    try:
        data = _read(path)
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            raise UsageError(f"{display(str(path.parent))}: no such directory") from None
        unfinished = path.parent.joinpath(".npy2tfrecord").is_dir()
        why = "its conversion is unfinished; run it again to resume" if unfinished else "it is no data set"
        raise UsageError(f"{display(str(path.parent))} has no {FILE_NAME}: {why}") from None
    except OSError as error:
        raise DamageError(f"{display(str(path))}: {error.strerror}") from error
    try:
        return decode(data)
    except (DamageError, FormatVersionError) as error:
        raise type(error)(f"{display(str(path))}: {error}") from None


def _read(path: Path) -> bytes:
    """A manifest's bytes. Raises `DamageError` for what is no file, or too large for one."""
    with syscalls.opened(os.fspath(path)) as handle:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DamageError(f"{display(str(path))} is not a regular file")
        if status.st_size > MAX_FILE_BYTES:  # not to be read, though it may be all holes
            raise DamageError(f"{display(str(path))} is larger than {MAX_FILE_BYTES} bytes")
        return syscalls.read_up_to(handle, MAX_FILE_BYTES + 1)


def decode(data: bytes) -> Manifest:
    """The manifest whose file is `data`. Raises `DamageError`, and `FormatVersionError` for a newer major version.

    Of a newer minor version, members that are unknown here are ignored with a `NewerFormatWarning`.
    """
    if len(data) > MAX_FILE_BYTES:
        raise DamageError(f"larger than {MAX_FILE_BYTES} bytes")
    try:
        document = json.loads(data)
        root = Node(document, "")
        if root.get("format").string() != FORMAT:
            raise root.get("format").fail(repr(FORMAT))
        is_newer = _is_newer(root.get("format_version"))
        manifest = _parse(root)
        # The bytes as they are: to encode ten thousand shards again would take longer than all the rest.
        end = _HASH_END.search(data)
        if end is None or Hash(data[: end.start()] + b"\n}\n").hexdigest().encode() != end[1]:
            raise DamageError("its content does not match its hash: it was changed after it was written")
        unknown = list(_unknown_members(manifest.content() | {"hash": document["hash"]}, document, ""))
    except (DamageError, FormatVersionError):
        raise
    except (ValueError, RecursionError) as error:  # also infinity, and what is nested too deeply
        raise DamageError(f"no valid JSON ({error})") from None
    if unknown and not is_newer:
        raise DamageError(f"{unknown[0]}: no member of format version {manifest.format_version}")
    if is_newer:
        ignored = f"; members unknown here are ignored: {', '.join(unknown[:_SHOWN])}" if unknown else ""
        warnings.warn(
            f"{FILE_NAME} is of format version {manifest.format_version}, this version of npy2tfrecord knows"
            f" {FORMAT_VERSION}{ignored}",
            NewerFormatWarning,
            stacklevel=3,
        )
    return manifest


def _is_newer(node: Node) -> bool:
    """Whether a format version is a newer minor one. Raises `FormatVersionError` for a newer major one."""
    match = _VERSION.fullmatch(node.string())
    if match is None:
        raise node.fail("a version like '1.0'")
    major, minor = map(int, match.groups())
    known_major, known_minor = map(int, FORMAT_VERSION.split("."))
    if major > known_major:
        raise FormatVersionError(
            f"format version {node.value}, expected {known_major}.x, which is all that this version of npy2tfrecord"
            " reads: install a newer one"
        )
    return minor > known_minor


def _unknown_members(known: Any, found: Any, path: str) -> Iterator[str]:
    """The paths of the members of `found` that `known` lacks. Raises `DamageError` where what both have differs."""
    if isinstance(known, dict) and isinstance(found, dict):
        for name, value in found.items():
            place = f"{path}.{name}" if path else name
            if name in known:
                if known[name] != value:
                    yield from _unknown_members(known[name], value, place)
            else:
                yield place
        if missing := known.keys() - found.keys():
            raise DamageError(f"{path or 'the top level'}: no member {min(missing)!r}")
    elif isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        for i, (one, other) in enumerate(zip(known, found, strict=True)):
            if one != other:
                yield from _unknown_members(one, other, f"{path}[{i}]")
    else:
        raise DamageError(f"{path}: found {found!r:.60}, expected {known!r:.60} by the other members")


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
        label_dtype="int64" if labels.value is None else _parse_label_dtype(labels),
        compression=compression.value,
        options={name: node.value for name, node in root.get("options").mapping().items()},
        sources={name: node.value for name, node in root.get("sources").mapping().items()},
        skipped=tuple(
            Skipped(node.get("source").string(), node.get("reason").string()) for node in root.get("skipped").items()
        ),
        label_counts=label_counts,
        format_version=root.get("format_version").value,
    )


def _parse_label_dtype(labels: Node) -> str:
    dtype = labels.get("dtype")
    if dtype.string() not in LABEL_DTYPES:
        raise dtype.fail(f"one of {', '.join(LABEL_DTYPES)}")
    if dtype.value != "int64" and labels.get("classes").items():
        raise labels.get("classes").fail(f"none with {dtype.value}")
    return str(dtype.value)


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
    unpacked = node.mapping().get("unpacked")
    return ShardInfo(
        file=file.value,
        examples=node.get("examples").integer(),
        bytes=size,
        hash=node.get("hash").string(_HASH_PATTERN),
        tail=tail.value,
        unpacked=None if unpacked is None else unpacked.string(_HASH_PATTERN),
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
        bits = item.get("bits").integer() if "bits" in item.mapping() else None
        histogram = Histogram(item.get("sizes").integers(), item.get("counts").integers(), bits)
        if len(histogram.sizes) != len(histogram.counts):
            raise item.fail("as many sizes as counts")
        histograms.append(histogram)
    if len(histograms) != rank:
        raise node.get("histograms").fail(f"{rank} of them, null for an axis that does not vary")
    stats = node.mapping().get("stats")
    return FeatureInfo(
        name=name,
        dtype=dtype.value,
        shape=shape,
        min_shape=smallest,
        max_shape=largest,
        histograms=tuple(histograms),
        bytes=node.get("bytes").integer(),
        stats=None if stats is None else {n: v.value for n, v in stats.mapping().items()},
        time=time,
    )


def _parse_time(node: Node, dtype: str) -> str:
    try:
        time = time_from_name(node.string()).name
    except ValueError:
        raise node.fail("a datetime64 or timedelta64") from None
    if dtype != "int64":
        raise node.fail(f"none with {dtype}")
    return str(time)


# --- typed getters ------------------------------------------------------------------------------


class Node:
    """A value of a JSON document that knows its path, for errors that say where."""

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    def fail(self, expected: str) -> DamageError:
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else shown[:60] + "…"
        return DamageError(f"{self.path or 'the top level'}: found {shown}, expected {expected}")

    def mapping(self) -> dict[str, Node]:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        prefix = f"{self.path}." if self.path else ""
        return {name: Node(value, f"{prefix}{name}") for name, value in self.value.items()}

    def get(self, name: str) -> Node:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        if name not in self.value:
            raise DamageError(f"{self.path or 'the top level'}: no member {name!r}")
        return Node(self.value[name], f"{self.path}.{name}" if self.path else name)

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.fail("a list")
        return [Node(value, f"{self.path}[{i}]") for i, value in enumerate(self.value)]

    def string(self, pattern: re.Pattern[str] | None = None) -> str:
        if not isinstance(self.value, str) or (pattern and not pattern.fullmatch(self.value)):
            raise self.fail(f"a string like {pattern.pattern}" if pattern else "a string")
        return self.value

    def integer(self) -> int:
        if type(self.value) is not int or not 0 <= self.value < 2**63:
            raise self.fail("an integer, 0 or more")
        return self.value

    def signed_integer(self) -> int:
        if type(self.value) is not int or not -(2**63) <= self.value < 2**63:
            raise self.fail("an integer of 64 bits")
        return self.value

    def integers(self) -> tuple[int, ...]:
        return tuple(item.integer() for item in self.items())
