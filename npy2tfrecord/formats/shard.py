"""Reading shards back, record by record, believing nothing they claim."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from typing import IO

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError
from npy2tfrecord.formats.example import KEY, LABEL, Value
from npy2tfrecord.formats.keysums import ITEM_BYTES, MODULUS, key_sums
from npy2tfrecord.formats.manifest import FeatureInfo, Hash, Manifest, ShardInfo, index_name, keys_name
from npy2tfrecord.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, MAX_DATA_BYTES, data_length, unframe

_READ_BYTES = 1 << 20
_LINE_BYTES = 40  # of an index, at most


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a shard: its number there, its offset (in the uncompressed bytes), and its data."""

    number: int
    offset: int
    size: int  # framing included
    data: memoryview


class _ZlibFile(RawIOBase):
    """The unpacked bytes of a zlib stream."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._inflate = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = b""
        while not data and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(_READ_BYTES)
            if not packed:
                raise EOFError("the compressed data does not end")
            data = self._inflate.decompress(packed, len(buffer))
        if self._inflate.eof and (self._inflate.unused_data or (not data and self._file.read(1))):
            raise zlib.error("bytes behind the end of the compressed data")
        buffer[: len(data)] = data
        return len(data)


def unpacked(file: IO[bytes], compression: str) -> IO[bytes]:
    """The shard's records, of an open file that may be compressed."""
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    if compression == "zlib":
        return BufferedReader(_ZlibFile(file), _READ_BYTES)
    return file


def read_records(path: str | bytes, compression: str = "none") -> Iterator[Record]:
    """The records of a shard in order, their CRCs checked.

    Memory grows with what is really there, never with a length that is only claimed. Raises
    `DamageError` that tells the record's number and offset, and `OSError`.
    """
    handle = syscalls.open(path, syscalls.READ_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb", buffering=_READ_BYTES) as packed:
        number = offset = 0
        try:
            file = unpacked(packed, compression)
            while start := file.read(HEAD_BYTES):
                if len(start) < HEAD_BYTES:
                    raise DamageError(f"the shard ends inside a record's head, after {len(start)} bytes of it")
                length = data_length(start)
                if length > MAX_DATA_BYTES:
                    raise DamageError(f"the record claims {length} bytes, more than an example can have")
                record = bytearray(start)
                missing = length + FOOT_BYTES
                while missing and (piece := file.read(min(missing, max(_READ_BYTES, len(record))))):
                    record += piece
                    missing -= len(piece)
                if missing:
                    raise DamageError(f"the shard ends inside the record, {missing} bytes too early")
                data = unframe(memoryview(record))
                yield Record(number, offset, len(record), data)
                number, offset = number + 1, offset + len(record)
        except DamageError as error:
            raise DamageError(f"record {number} at offset {offset}: {error}") from None
        except (zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise DamageError(f"record {number} at offset {offset}: damaged compression ({error})") from None


def is_whole(out: str, shard: ShardInfo, compression: str) -> tuple[str, bool]:
    """Whether a shard has its size and hash, its index as many records that fill it, and its keys their sums."""
    file, seen, keys = shard.file, Hash(), b""
    try:
        with syscalls.opened(os.path.join(out, index_name(file))) as handle:
            index = syscalls.read_up_to(handle, _LINE_BYTES * shard.examples + 1)
        if shard.keys is not None:
            with syscalls.opened(os.path.join(out, keys_name(file))) as handle:
                keys = syscalls.read_up_to(handle, ITEM_BYTES * shard.examples + 1)
        with syscalls.opened(os.path.join(out, file)) as handle:
            if syscalls.fstat(handle).st_size != shard.bytes:
                return file, False
            buffer = memoryview(bytearray(min(_READ_BYTES, shard.bytes + 1)))
            position = 0
            while count := syscalls.read_into(handle, buffer, position):
                seen.update(buffer[:count])
                position += count
    except OSError:
        return file, False
    good = seen.hexdigest() == shard.hash and residues_of(keys, shard) is not None
    return file, good and _is_index(index, shard.examples, shard.bytes if compression == "none" else None)


def residues_of(data: bytes, shard: ShardInfo) -> np.ndarray | None:
    """The residues of a shard's keys from the file that holds them, empty of a shard without; None if it is damaged."""
    values = np.frombuffer(data[: len(data) // ITEM_BYTES * ITEM_BYTES], dtype="<u4")
    if shard.keys is None:
        return values[:0]
    good = len(data) == ITEM_BYTES * shard.examples and not (values >= MODULUS).any()
    return values if good and key_sums(values) == shard.keys else None


def _is_index(data: bytes, examples: int, size: int | None) -> bool:
    """Whether these are the lines of `examples` records, one behind the other, that end at `size`."""
    end = 0
    lines = data.split(b"\n")
    for line in lines[:-1]:
        offset, _, length = line.partition(b" ")
        if not (offset.isdigit() and length.isdigit()) or int(offset) != end:
            return False
        end += int(length)
    return len(lines) == examples + 1 and not lines[-1] and end == (end if size is None else size)


def key_of(example: Mapping[str, Value]) -> bytes:
    """An example's key. Raises `DamageError`."""
    key = example.get(KEY)
    if not isinstance(key, memoryview):
        raise DamageError("the example has no key")
    return bytes(key)


def array_of(example: Mapping[str, Value], info: FeatureInfo) -> np.ndarray:
    """A feature's array, without a copy. Raises `DamageError` unless it is what the manifest says of the feature."""
    name = info.name
    data, shape, dtype = example.get(name), example.get(f"{name}/shape"), example.get(f"{name}/dtype")
    if not isinstance(data, memoryview) or not isinstance(shape, list) or not isinstance(dtype, memoryview):
        raise DamageError(f"the example lacks {name!r}, or its shape or dtype")
    if bytes(dtype) != info.dtype.encode():
        raise DamageError(f"{name!r} is {bytes(dtype[:40])!r}, the manifest says {info.dtype}")
    fits = len(shape) == info.rank and all(
        low <= n <= high for n, low, high in zip(shape, info.min_shape, info.max_shape, strict=True)
    )
    if not fits:
        raise DamageError(f"{name!r} has shape {shape[:40]}, the manifest says {info.min_shape} to {info.max_shape}")
    numpy_dtype = info.array_dtype
    size = numpy_dtype.itemsize
    for n in shape:
        size *= n
    if size != len(data):
        raise DamageError(f"{name!r} has {len(data)} bytes, its shape {shape} makes {size}")
    try:
        return np.frombuffer(data, dtype=numpy_dtype.newbyteorder("<")).reshape(shape)
    except ValueError as error:  # nothing, of a shape that NumPy cannot have
        raise DamageError(f"{name!r} has shape {shape}: {error}") from None


def check_example(example: Mapping[str, Value], manifest: Manifest) -> None:
    """Raise `DamageError` unless an example is one of this data set: every feature, a key, and a label if there are."""
    key_of(example)
    for info in manifest.features:
        array_of(example, info)
    if manifest.labels is not None:
        label = example.get(LABEL)
        if not isinstance(label, list) or len(label) != 1:
            raise DamageError("the example has no label")
        if manifest.labels and not 0 <= label[0] < len(manifest.labels):
            raise DamageError(f"label {label[0]} is none of the {len(manifest.labels)} classes")
    allowed = {KEY, LABEL} if manifest.labels is not None else {KEY}
    for info in manifest.features:
        allowed |= {info.name, f"{info.name}/shape", f"{info.name}/dtype"}
    if unknown := example.keys() - allowed:
        raise DamageError(f"the example has features the manifest does not: {', '.join(sorted(map(repr, unknown)))}")
