"""Data sets as sources: their manifests, and where each of their records is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, InputError, display
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.example import example_start, label_entry
from npy2tfrecord.formats.manifest import Manifest, ShardInfo
from npy2tfrecord.formats.shard import load_index, load_keys, read_records
from npy2tfrecord.formats.tfrecord import FRAME_BYTES, HEAD_BYTES

_LABEL_BYTES = 32  # at least those of a label's entry


@dataclass(frozen=True, kw_only=True)
class SourceShard:
    """A shard of an existing data set."""

    directory: str
    info: ShardInfo
    split: str
    compression: str
    set_number: int
    first: int  # the number of its first record among those of all sets

    @property
    def path(self) -> str:
        return os.path.join(self.directory, self.info.file)


@dataclass(frozen=True, kw_only=True)
class RecordTable:
    """The records of data sets, in columns: record i is in shard `shard_ids[i]`."""

    directories: tuple[str, ...]
    manifests: tuple[Manifest, ...]
    shards: tuple[SourceShard, ...]
    shard_ids: np.ndarray  # int32
    offsets: np.ndarray  # int64, in the unpacked bytes
    sizes: np.ndarray  # int64, framing included
    keys: list[bytes] = field(repr=False)

    def records_of(self, shard: int) -> slice:
        """The numbers of a shard's records."""
        first = self.shards[shard].first
        return slice(first, first + self.shards[shard].info.examples)


def load_manifests(directories: Sequence[str]) -> tuple[Manifest, ...]:
    """The manifests of data sets. Raises `UsageError` for a directory without one, `InputError` for a damaged one."""
    manifests = []
    for directory in directories:
        try:
            manifests.append(manifest_parsing.load(directory))
        except DamageError as error:
            raise InputError(directory, str(error), "a whole data set") from None
    return tuple(manifests)


def load_records(directories: Sequence[str], manifests: Sequence[Manifest]) -> RecordTable:
    """Where the records of all data sets are, by the files beside the shards. Raises `InputError`."""
    shards: list[SourceShard] = []
    tables: list[tuple[np.ndarray, np.ndarray]] = []
    keys: list[bytes] = []
    for number, (directory, manifest) in enumerate(zip(directories, manifests, strict=True)):
        for split, infos in manifest.splits.items():
            for info in infos:
                shard = SourceShard(
                    directory=directory,
                    info=info,
                    split=split,
                    compression=manifest.compression,
                    set_number=number,
                    first=len(keys),
                )
                shards.append(shard)
                try:
                    tables.append(load_index(directory, info, manifest.compression))
                    keys += load_keys(directory, info, manifest.compression)
                except DamageError as error:
                    raise damaged(shard, str(error)) from None
                except OSError as error:
                    raise damaged(shard, f"{os.path.basename(error.filename or '')}: {error.strerror}") from None
    counts = [shard.info.examples for shard in shards]
    return RecordTable(
        directories=tuple(directories),
        manifests=tuple(manifests),
        shards=tuple(shards),
        shard_ids=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
        offsets=np.concatenate([offsets for offsets, _ in tables]),
        sizes=np.concatenate([sizes for _, sizes in tables]),
        keys=keys,
    )


def damaged(shard: SourceShard, found: str) -> InputError:
    """The error for a shard, or what is beside it, that is not what its manifest says."""
    return InputError(shard.path, found, f"a whole data set: see npy2tfrecord verify {display(shard.directory)}")


def open_shard(shard: SourceShard) -> int:
    """A shard, open for reading. Raises `InputError` for one that is missing or has another size."""
    try:
        handle = syscalls.open_regular(shard.path)
    except OSError as error:
        raise damaged(shard, error.strerror or str(error)) from None
    if (size := syscalls.fstat(handle).st_size) != shard.info.bytes:
        syscalls.close(handle)
        raise damaged(shard, f"{size} bytes, {shard.info.bytes} in the manifest")
    return handle


def read_labels(
    shard: SourceShard, number: int, offsets: np.ndarray, sizes: np.ndarray, keys: list[bytes]
) -> tuple[int, np.ndarray]:
    """The shard's `number`, and the int64 label of each of its records. Raises `InputError`."""
    labels = np.empty(len(keys), dtype=np.int64)
    try:
        if shard.compression != "none":
            for i, record in enumerate(read_records(shard.path, shard.compression)):
                place = len(example_start(len(record.data), len(keys[i]))) + len(keys[i])
                labels[i] = _parse_label(bytes(record.data[place : place + _LABEL_BYTES]))
            return number, labels
        handle = open_shard(shard)
        try:
            for i, (offset, size, key) in enumerate(zip(offsets.tolist(), sizes.tolist(), keys, strict=True)):
                place = HEAD_BYTES + len(example_start(size - FRAME_BYTES, len(key))) + len(key)
                labels[i] = _parse_label(syscalls.pread(handle, _LABEL_BYTES, offset + place))
        finally:
            syscalls.close(handle)
    except DamageError as error:
        raise damaged(shard, str(error)) from None
    except (OSError, IndexError) as error:
        raise damaged(shard, str(error)) from None
    return number, labels


def _parse_label(data: bytes) -> int:
    """The label by the bytes of its entry and more. Raises `DamageError`."""
    value = 0
    start = len(label_entry(0)) - 1
    for shift, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    value &= 2**64 - 1
    label = value - 2**64 if value >= 2**63 else value
    if not data.startswith(label_entry(label)):
        raise DamageError("a record without a label behind its key")
    return label
