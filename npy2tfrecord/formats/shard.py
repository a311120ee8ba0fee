"""Shards and the files beside them: their content, index and keys, and their records, believing nothing they claim.

An index has a line for each record with its offset and size, a file of keys a line for each with its key.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from typing import IO

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError
from npy2tfrecord.formats.example import KEY, LABEL, Value
from npy2tfrecord.formats.manifest import TAIL_BYTES, FeatureInfo, Hash, Manifest, ShardInfo, index_name, keys_name
from npy2tfrecord.formats.tfrecord import FOOT_BYTES, FRAME_BYTES, HEAD_BYTES, MAX_DATA_BYTES, data_length, unframe

_READ_BYTES = 1 << 20
_LINE_BYTES = 40  # of an index, at most
_MAX_DEFLATE_RATIO = 1032  # of unpacked to packed bytes (https://zlib.net/zlib_tech.html)
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n"}
NO_LINK_FLAGS = syscalls.READ_FLAGS | getattr(os, "O_NOFOLLOW", 0)  # a link may lead anywhere


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
            raise zlib.error("bytes after the end of the compressed data")
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
    """The records of a shard on a disk, as `records_in` gives them. Raises `DamageError` and `OSError`."""
    handle = syscalls.open(path, NO_LINK_FLAGS)
    with os.fdopen(handle, "rb", buffering=_READ_BYTES) as packed:
        yield from records_in(packed, compression)


def records_in(packed: IO[bytes], compression: str = "none") -> Iterator[Record]:
    """The records of a shard in order, with their CRCs checked, from an open file of it.

    Memory grows with the bytes that are there, never with a length that is only claimed. Raises `DamageError` that
    names the record's number and offset, and `OSError`.
    """
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


@dataclass(frozen=True, slots=True)
class Content:
    """What identifies a file's content: its size, its hash, and its last bytes in hexadecimal."""

    bytes: int
    hash: str
    tail: str


class ContentHash:
    """The content of a file whose bytes are given in order."""

    def __init__(self) -> None:
        self._hash, self._size, self._tail = Hash(), 0, b""

    def update(self, data: memoryview) -> None:
        self._hash.update(data)
        self._size += len(data)
        self._tail = (self._tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]

    @property
    def content(self) -> Content:
        return Content(self._size, str(self._hash.hexdigest()), self._tail.hex())


def content_of(handle: int, *, from_disk: bool = False) -> Content:
    """The content of an open file; with `from_disk` the system is asked to forget its own copy first."""
    if from_disk and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    seen = ContentHash()
    buffer = memoryview(bytearray(_READ_BYTES))
    position = 0
    while count := syscalls.read_into(handle, buffer, position):
        seen.update(buffer[:count])
        position += count
    return seen.content


# --- the files beside a shard -------------------------------------------------------------------


def encode_index(sizes: np.ndarray) -> bytes:
    """The index of records with these sizes, framing included: "offset size", a line for each, as tfrecord2idx does."""
    offsets = np.cumsum(sizes) - sizes
    return "".join(map("%d %d\n".__mod__, zip(offsets.tolist(), sizes.tolist(), strict=True))).encode()


def decode_index(data: bytes, examples: int, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The offsets and sizes of a shard's records by its index, int64.

    `size` is the number of bytes that the records fill, None where it is unknown (compressed shards). Raises
    `DamageError` unless these are `examples` records, one after the other, that fill the shard.
    """
    if data.translate(None, b"0123456789") != b" \n" * examples:
        raise DamageError(f"not {examples} lines of an offset and a size")
    numbers = np.fromstring(data, dtype=np.int64, sep=" ") if data else np.empty(0, dtype=np.int64)
    if len(numbers) != 2 * examples:
        raise DamageError(f"{len(numbers)} numbers, expected {2 * examples}, an offset and a size for each record")
    offsets, sizes = numbers[::2].copy(), numbers[1::2].copy()
    if ((sizes < FRAME_BYTES) | (sizes > MAX_DATA_BYTES + FRAME_BYTES)).any():
        raise DamageError("a record has a size that no record can have")
    ends = np.cumsum(sizes)
    end = int(ends[-1]) if examples else 0
    if (offsets != ends - sizes).any() or size not in (None, end):
        filled = "" if size is None else f" the shard's {size} bytes"
        raise DamageError(f"the records do not fill{filled or ' the shard'} one after the other")
    return offsets, sizes


def encode_keys(keys: Iterable[bytes]) -> bytes:
    """A line for each key, in which a backslash reads `\\\\` and a newline `\\n`."""
    given = list(keys)
    lines = b"".join([key + b"\n" for key in given])
    if b"\\" not in lines and lines.count(b"\n") == len(given):  # as always: twice as fast
        return lines
    return b"".join(key.replace(b"\\", rb"\\").replace(b"\n", rb"\n") + b"\n" for key in given)


def decode_keys(data: bytes) -> list[bytes]:
    """The keys in what `encode_keys` made. Raises `DamageError` for anything else."""
    *lines, rest = data.split(b"\n")
    if rest:
        raise DamageError(f"line {len(lines) + 1} does not end")
    return [_decode_key(line, number) for number, line in enumerate(lines, 1)] if b"\\" in data else lines


def _decode_key(line: bytes, number: int) -> bytes:
    pieces = _ESCAPE.split(line)  # the text, what follows a backslash, the text …
    for i, escaped in enumerate(pieces[1::2]):
        if escaped not in _ESCAPED:
            raise DamageError(f"line {number} has a backslash before {escaped!r}, expected another one, or n")
        pieces[2 * i + 1] = _ESCAPED[escaped]
    return b"".join(pieces)


def load_index(
    directory: str | os.PathLike[str], shard: ShardInfo, compression: str = "none"
) -> tuple[np.ndarray, np.ndarray]:
    """The offsets and sizes of a shard's records, int64. Raises `DamageError` naming the index, and `OSError`."""
    return parse_index(_read_beside(directory, index_name(shard.file), index_limit(shard) + 1), shard, compression)


def index_limit(shard: ShardInfo) -> int:
    """Bytes that a shard's index has at most."""
    return _LINE_BYTES * shard.examples


def parse_index(data: bytes, shard: ShardInfo, compression: str = "none") -> tuple[np.ndarray, np.ndarray]:
    """The offsets and sizes of a shard's records by the bytes of its index. Raises `DamageError` naming the index."""
    try:
        return decode_index(data, shard.examples, shard.bytes if compression == "none" else None)
    except DamageError as error:
        raise DamageError(f"{index_name(shard.file)}: {error}") from None


def load_keys(directory: str | os.PathLike[str], shard: ShardInfo, compression: str = "none") -> list[bytes]:
    """The keys of a shard's records. Raises `DamageError` naming the file, and `OSError`."""
    limit = keys_limit(shard, compression)
    return parse_keys(_read_beside(directory, keys_name(shard.file), limit + 1), shard, compression)


def keys_limit(shard: ShardInfo, compression: str = "none") -> int:
    """Bytes that a shard's file of keys has at most."""
    # The keys are in the records too, so a longer file is not read: escaped they have at most twice the bytes.
    return 2 * shard.bytes * (1 if compression == "none" else _MAX_DEFLATE_RATIO) + shard.examples


def parse_keys(data: bytes, shard: ShardInfo, compression: str = "none") -> list[bytes]:
    """The keys of a shard's records by the bytes of their file. Raises `DamageError` naming the file."""
    try:
        if len(data) > keys_limit(shard, compression):
            raise DamageError("it is longer than the keys of the shard can be")
        keys = decode_keys(data)
        if len(keys) != shard.examples:
            raise DamageError(f"{len(keys)} keys, expected {shard.examples}")
    except DamageError as error:
        raise DamageError(f"{keys_name(shard.file)}: {error}") from None
    return keys


def _read_beside(directory: str | os.PathLike[str], file: str, limit: int) -> bytes:
    path = os.path.join(directory, file)
    with syscalls.opened(path, NO_LINK_FLAGS) as handle:
        if not stat.S_ISREG(syscalls.fstat(handle).st_mode):
            raise DamageError(f"{file}: not a regular file")
        return syscalls.read_up_to(handle, limit)


def is_whole(directory: str, shard: ShardInfo, compression: str, keys_hash: str | None) -> tuple[str, bool]:
    """Whether a shard has its size and hash, an index that fits it and its keys.

    Without `keys_hash`, the hash of the file of keys, only the number of the keys is compared.
    """
    try:
        with syscalls.opened(os.path.join(directory, shard.file)) as handle:
            if syscalls.fstat(handle).st_size != shard.bytes or content_of(handle).hash != shard.hash:
                return shard.file, False
        load_index(directory, shard, compression)
        if keys_hash is None:
            return shard.file, bool(load_keys(directory, shard, compression)) or not shard.examples
        with syscalls.opened(os.path.join(directory, keys_name(shard.file)), NO_LINK_FLAGS) as handle:
            return shard.file, content_of(handle).hash == keys_hash
    except (OSError, DamageError):
        return shard.file, False


# --- examples -----------------------------------------------------------------------------------


def key_of(example: Mapping[str, Value]) -> bytes:
    """An example's key. Raises `DamageError`."""
    key = example.get(KEY)
    if not isinstance(key, memoryview):
        raise DamageError("the example has no key")
    return bytes(key)


class ArrayForm:
    """What a feature's arrays are by the manifest, ready to be compared with many examples."""

    def __init__(self, info: FeatureInfo) -> None:
        self._info = info
        self._name, self._shape_name, self._dtype_name = info.name, f"{info.name}/shape", f"{info.name}/dtype"
        self._dtype_text = info.dtype.encode()
        dtype = info.array_dtype
        self._itemsize, self._stored_dtype = dtype.itemsize, dtype.newbyteorder("<")
        self._only_shape = list(info.min_shape) if info.min_shape == info.max_shape else None

    def array_of(self, example: Mapping[str, Value]) -> np.ndarray:
        """The feature's array, without a copy. Raises `DamageError` unless it is as the manifest describes it."""
        data, shape = example.get(self._name), example.get(self._shape_name)
        dtype = example.get(self._dtype_name)
        if not isinstance(data, memoryview) or not isinstance(shape, list) or not isinstance(dtype, memoryview):
            raise DamageError(f"the example lacks {self._name!r}, or its shape or dtype")
        if dtype != self._dtype_text:
            raise DamageError(f"{self._name!r} is {bytes(dtype[:40])!r}, the manifest says {self._info.dtype}")
        if shape != self._only_shape:
            self._check_shape(shape)
        if math.prod(shape, start=self._itemsize) != len(data):
            size = math.prod(shape, start=self._itemsize)
            raise DamageError(f"{self._name!r} has {len(data)} bytes, its shape {shape} makes {size}")
        try:
            return np.frombuffer(data, self._stored_dtype).reshape(shape)
        except ValueError as error:  # nothing, of a shape that NumPy cannot have
            raise DamageError(f"{self._name!r} has shape {shape}: {error}") from None

    def _check_shape(self, shape: list[int]) -> None:
        low, high = self._info.min_shape, self._info.max_shape
        if len(shape) != len(low) or not all(a <= n <= b for n, a, b in zip(shape, low, high, strict=True)):
            raise DamageError(f"{self._name!r} has shape {shape[:40]}, the manifest says {low} to {high}")


def array_of(example: Mapping[str, Value], info: FeatureInfo) -> np.ndarray:
    """A feature's array, as `ArrayForm` gives it, of one example alone."""
    return ArrayForm(info).array_of(example)


def label_of(example: Mapping[str, Value], manifest: Manifest) -> int | float:
    """The label of an example. Raises `DamageError` when there is none of the manifest's dtype."""
    label = example.get(LABEL)
    if isinstance(label, tuple if manifest.label_dtype == "float32" else list) and len(label) == 1:
        number: int | float = label[0]
        return number
    raise DamageError(f"the example has no {manifest.label_dtype} label")


def check_example(example: Mapping[str, Value], manifest: Manifest) -> None:
    """Raise `DamageError` unless an example has every feature, a key, and a label where the data set has labels."""
    key_of(example)
    for info in manifest.features:
        array_of(example, info)
    if manifest.labels is not None:
        label = label_of(example, manifest)
        if manifest.labels and not 0 <= label < len(manifest.labels):
            raise DamageError(f"label {label} is none of the {len(manifest.labels)} classes")
    allowed = {KEY, LABEL} if manifest.labels is not None else {KEY}
    for info in manifest.features:
        allowed |= {info.name, f"{info.name}/shape", f"{info.name}/dtype"}
    if unknown := example.keys() - allowed:
        raise DamageError(f"the example has features the manifest does not: {', '.join(sorted(map(repr, unknown)))}")
