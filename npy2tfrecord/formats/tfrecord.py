"""The TFRecord format: `length, masked CRC of length, data, masked CRC of data`, again and again.

Source of the format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
All integers are little-endian; CRCs are CRC-32C (Castagnoli), masked because a CRC of data that
holds CRCs is weak.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from crc32c import crc32c

from npy2tfrecord.errors import DamageError

HEAD_BYTES = 12  # length (8) and its CRC (4)
FOOT_BYTES = 4  # CRC of the data
FRAME_BYTES = HEAD_BYTES + FOOT_BYTES
MAX_DATA_BYTES = 2**31 - 1  # a protocol buffer message cannot be larger

_pack_foot = struct.Struct("<I").pack
_unpack_head = struct.Struct("<QI").unpack_from
_unpack_foot = struct.Struct("<I").unpack_from


def mask(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=65536)
def head(length: int) -> bytes:
    """The 12 bytes before `length` bytes of data."""
    packed = length.to_bytes(8, "little")
    return packed + _pack_foot(mask(crc32c(packed)))


def foot(crc: int) -> bytes:
    """The 4 bytes after data whose CRC-32C is `crc`."""
    return _pack_foot(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def feet(crcs: list[int]) -> np.ndarray:
    """The feet of many records by the CRC-32C of their data: uint8 of shape (n, 4)."""
    values = np.array(crcs, dtype="<u4")
    values = (values >> 15 | values << 17) + np.uint32(0xA282EAD8)
    return values.astype("<u4").view(np.uint8).reshape(-1, FOOT_BYTES)


def data_length(record: bytes | memoryview) -> int:
    """The data's length by a record's first 12 bytes. Raises `DamageError` when their CRC is wrong."""
    length, crc = _unpack_head(record)
    if mask(crc32c(record[:8])) != crc:
        raise DamageError("the CRC of the record's length is wrong")
    return int(length)


def unframe(record: memoryview) -> memoryview:
    """The data of one whole record. Raises `DamageError` when a CRC or the length is wrong."""
    if len(record) < FRAME_BYTES:
        raise DamageError(f"{len(record)} bytes are too few for a record")
    length = data_length(record)
    if length != len(record) - FRAME_BYTES:
        raise DamageError(f"the record says it has {length} bytes of data, the index says {len(record) - FRAME_BYTES}")
    data = record[HEAD_BYTES:-FOOT_BYTES]
    if mask(crc32c(data)) != _unpack_foot(record, HEAD_BYTES + length)[0]:
        raise DamageError("the CRC of the record's data is wrong")
    return data
