"""Where the records of a shard are, by its index. No TensorFlow here."""

from __future__ import annotations

import os

import numpy as np

from npy2tfrecord import system
from npy2tfrecord.errors import DamageError, display
from npy2tfrecord.manifest import ShardInfo, index_name
from npy2tfrecord.tfrecord import FRAME_BYTES, MAX_DATA_BYTES


def load_table(directory: str, info: ShardInfo) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (int64) and sizes (uint32) of a shard's records: 12 bytes a record.

    Raises `DamageError` unless they fill the shard that the manifest describes, one by one.
    """
    path = os.path.join(directory, index_name(info.file))
    limit = info.examples * 40 + 1  # two numbers of at most 19 digits a line
    try:
        with os.fdopen(system.open_regular(path), "rb") as file:
            text = file.read(limit)
    except OSError as error:
        raise DamageError(f"{display(path)}: {error.strerror or error}; it is needed to find records") from error
    plain = text.replace(b"\n", b"").replace(b" ", b"").isdigit()
    numbers = np.fromstring(text, dtype=np.int64, sep=" ") if plain else np.empty(0, np.int64)
    if len(numbers) != 2 * info.examples:
        raise DamageError(f"{display(path)}: {len(numbers)} numbers, expected {2 * info.examples}, two a record")
    offsets, sizes = numbers[::2].copy(), numbers[1::2]
    ends = offsets + sizes
    if not len(offsets):
        return offsets, sizes.astype(np.uint32)
    good = offsets[0] == 0 and ends[-1] == info.bytes and (sizes >= FRAME_BYTES).all()
    if not good or (offsets[1:] != ends[:-1]).any() or sizes.max() > MAX_DATA_BYTES + FRAME_BYTES:
        raise DamageError(f"{display(path)}: its records do not fill the shard's {info.bytes} bytes one by one")
    return offsets, sizes.astype(np.uint32)
