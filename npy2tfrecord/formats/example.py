"""`tf.train.Example` on the wire, written and read without TensorFlow or protobuf objects.

Source of the format: tensorflow/core/example/example.proto and feature.proto, and
https://protobuf.dev/programming-guides/encoding/. Every message used here is a chain of
length-delimited fields, so that an Example can be written as a short prefix and the array's bytes.

An example of ours holds `key`, `label` (if there is one), `NAME/dtype` and `NAME/shape` of every
feature, and then the bytes of every feature, last because they are large.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from npy2tfrecord.errors import DamageError

KEY = "key"
LABEL = "label"


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers are written as 64-bit two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _open(tag: bytes, length: int) -> bytes:
    return tag + _varint(length)


def _entry_head(name: bytes, list_tag: bytes, length: int) -> bytes:
    """All of a map entry `name: Feature{list{value}}` that stands before the value's `length` bytes."""
    value = _open(b"\x0a", length)
    items = _open(list_tag, len(value) + length)
    feature = _open(b"\x12", len(items) + len(value) + length)
    head = _open(b"\x0a", len(name)) + name + feature + items + value
    return _open(b"\x0a", len(head) + length) + head


def _bytes_entry(name: str, value: bytes) -> bytes:
    return _entry_head(name.encode(), b"\x0a", len(value)) + value


def _int64_entry(name: str, values: Sequence[int]) -> bytes:
    packed = b"".join(_varint(value) for value in values)
    return _entry_head(name.encode(), b"\x1a", len(packed)) + packed


@lru_cache(maxsize=65536, typed=True)  # 1 and 1.0 are equal, and have entries of different kinds
def label_entry(label: int | float | None) -> bytes:
    """The example's `label`, a float as float32; nothing when there is none."""
    if isinstance(label, float):
        packed = struct.pack("<f", label)
        return _entry_head(LABEL.encode(), b"\x12", len(packed)) + packed
    return b"" if label is None else _int64_entry(LABEL, [label])


@lru_cache(maxsize=4096)
def _key_entry_head(length: int) -> bytes:
    return _entry_head(KEY.encode(), b"\x0a", length)


def key_entry_head_size(key_size: int) -> int:
    """Bytes of the entry of a key of `key_size` bytes that stand before the key itself."""
    return len(_key_entry_head(key_size))


@dataclass(frozen=True, slots=True)
class Layout:
    """How examples whose features have these dtypes and shapes look on the wire.

    `described` holds every `NAME/dtype` and `NAME/shape`; `payload_heads[i]` stands right before
    the `payload_sizes[i]` bytes of feature i.
    """

    described: bytes
    payload_heads: tuple[bytes, ...]
    payload_sizes: tuple[int, ...]

    @classmethod
    @lru_cache(maxsize=4096)  # workers that are forks have those of the plan already
    def of(cls, features: tuple[tuple[str, str, tuple[int, ...], int], ...]) -> Layout:
        """From the name, dtype name, shape and number of bytes of each feature."""
        described = b"".join(
            _bytes_entry(f"{name}/dtype", dtype.encode()) + _int64_entry(f"{name}/shape", shape)
            for name, dtype, shape, _ in features
        )
        heads = tuple(_entry_head(name.encode(), b"\x0a", size) for name, _, _, size in features)
        return cls(described, heads, tuple(size for _, _, _, size in features))

    def _features_size(self, key_size: int, label_size: int) -> int:
        return (
            len(_key_entry_head(key_size))
            + key_size
            + label_size
            + len(self.described)
            + sum(map(len, self.payload_heads))
            + sum(self.payload_sizes)
        )

    def example_size(self, key_size: int, label_size: int) -> int:
        """Bytes of the whole example, for a key of `key_size` and a label entry of `label_size` bytes."""
        features = self._features_size(key_size, label_size)
        return len(_open(b"\x0a", features)) + features

    def before_key(self, key_size: int, label_size: int) -> bytes:
        """The example's first bytes. After them come the key, the label's entry and `after_label`."""
        return _open(b"\x0a", self._features_size(key_size, label_size)) + _key_entry_head(key_size)

    @property
    def after_label(self) -> bytes:
        """What stands between the label's entry and the first feature's bytes."""
        return self.described + self.payload_heads[0]


@lru_cache(maxsize=65536)
def example_start(example_size: int, key_size: int) -> bytes:
    """The first bytes of an example of `example_size` bytes, up to its key of `key_size` bytes; see `Layout`."""
    return _open(b"\x0a", features_size(example_size)) + _key_entry_head(key_size)


def features_size(example_size: int) -> int:
    """Bytes of an example's features. Raises `DamageError` for a size that no example has."""
    for prefix in range(2, 7):
        if len(_open(b"\x0a", max(0, example_size - prefix))) == prefix:
            return example_size - prefix
    raise DamageError(f"no example has {example_size} bytes")


# --- reading -----------------------------------------------------------------------------------


Value = memoryview | list[int] | tuple[float, ...]
"""What a feature of an example may hold here: one byte string, integers, or floats."""


def _read_varint(data: memoryview, position: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & (2**64 - 1), position
        shift += 7
    raise DamageError("the example is malformed: an integer does not end")


def _fields(data: memoryview, start: int, end: int) -> list[tuple[int, int, int]]:
    """(field number, start, end) of each length-delimited field in `data[start:end]`."""
    fields = []
    while start < end:
        tag, start = _read_varint(data, start, end)
        if tag & 7 != 2:
            raise DamageError(f"the example is malformed: wire type {tag & 7} where a message or string must be")
        size, start = _read_varint(data, start, end)
        if size > end - start:
            raise DamageError(f"the example is malformed: {size} bytes claimed, {end - start} are there")
        fields.append((tag >> 3, start, start + size))
        start += size
    return fields


def _int64s(data: memoryview, start: int, end: int) -> list[int]:
    values = []
    while start < end:
        tag, start = _read_varint(data, start, end)
        if tag == 0x0A:
            size, start = _read_varint(data, start, end)
            if size > end - start:
                raise DamageError("the example is malformed: a list is longer than the example")
            stop = start + size
        elif tag == 0x08:  # not packed: one number by itself
            stop = start + 1
        else:
            raise DamageError(f"the example is malformed: tag {tag} in a list of integers")
        while start < stop:
            value, start = _read_varint(data, start, end)
            values.append(value - 2**64 if value >= 2**63 else value)
    return values


def _floats(data: memoryview, start: int, end: int) -> tuple[float, ...]:
    values: list[float] = []
    while start < end:
        tag, start = _read_varint(data, start, end)
        if tag == 0x0A:
            size, start = _read_varint(data, start, end)
        elif tag == 0x0D:  # not packed: one number by itself
            size = 4
        else:
            raise DamageError(f"the example is malformed: tag {tag} in a list of floats")
        if size > end - start or size % 4:
            raise DamageError("the example is malformed: a list of floats does not end where it says")
        values += struct.unpack(f"<{size // 4}f", data[start : start + size])
        start += size
    return tuple(values)


def parse_example(data: memoryview) -> dict[str, Value]:
    """The features of an example: a view of the bytes, a list of integers, or a tuple of floats.

    Copies no bytes. Raises `DamageError` for what is no `tf.train.Example` holding byte strings
    (one a feature), integers and floats.
    """
    features: dict[str, Value] = {}
    for number, start, end in _fields(data, 0, len(data)):
        if number != 1:
            continue
        for entry_number, entry_start, entry_end in _fields(data, start, end):
            if entry_number != 1:
                continue
            entry = {number: span for number, *span in _fields(data, entry_start, entry_end)}
            if 1 not in entry or 2 not in entry:
                raise DamageError("the example is malformed: a feature without a name or a value")
            try:
                name = str(data[slice(*entry[1])], "utf-8")
            except UnicodeDecodeError:
                raise DamageError("the example is malformed: a feature's name is not UTF-8") from None
            features[name] = _parse_feature(data, name, *entry[2])
    return features


def _parse_feature(data: memoryview, name: str, start: int, end: int) -> Value:
    lists = _fields(data, start, end)
    if len(lists) != 1 or lists[0][0] not in (1, 2, 3):
        raise DamageError(f"feature {name!r} holds neither bytes nor numbers")
    kind, start, end = lists[0]
    if kind == 2:
        return _floats(data, start, end)
    if kind == 3:
        return _int64s(data, start, end)
    values = _fields(data, start, end)
    if len(values) != 1 or values[0][0] != 1:
        raise DamageError(f"feature {name!r} holds {len(values)} byte strings, not 1")
    return data[values[0][1] : values[0][2]]
