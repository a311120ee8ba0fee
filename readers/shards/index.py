"""Where the records of a shard are, by its index, and what tells which they are. No TensorFlow here."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import DamageError, display
from npy2tfrecord.formats.manifest import ShardInfo, index_name
from npy2tfrecord.formats.tfrecord import FRAME_BYTES, MAX_DATA_BYTES


class Table(NamedTuple):
    """Of a shard's records the offsets (int64), sizes (uint32) and residues of the keys (uint32): 16 bytes a record.

    There are no residues in what an early converter wrote.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    residues: np.ndarray | None


def load_table(directory: str, info: ShardInfo) -> Table:
    """The table of a shard's records.

    Raises `DamageError` unless they fill the shard that the manifest describes, one by one, and have its keys.
    """
    path = os.path.join(directory, index_name(info.file))
    text = _read(path, info.examples * 40 + 1)  # two numbers of at most 19 digits a line
    plain = text.replace(b"\n", b"").replace(b" ", b"").isdigit()
    numbers = np.fromstring(text, dtype=np.int64, sep=" ") if plain else np.empty(0, np.int64)
    if len(numbers) != 2 * info.examples:
        raise DamageError(f"{display(path)}: {len(numbers)} numbers, expected {2 * info.examples}, two a record")
    offsets, sizes = numbers[::2].copy(), numbers[1::2]
    ends = offsets + sizes
    if not len(offsets):
        return Table(offsets, sizes.astype(np.uint32), None)
    good = offsets[0] == 0 and ends[-1] == info.bytes and (sizes >= FRAME_BYTES).all()
    if not good or (offsets[1:] != ends[:-1]).any() or sizes.max() > MAX_DATA_BYTES + FRAME_BYTES:
        raise DamageError(f"{display(path)}: its records do not fill the shard's {info.bytes} bytes one by one")
    return Table(offsets, sizes.astype(np.uint32), load_residues(directory, info))


def load_residues(directory: str, info: ShardInfo) -> np.ndarray | None:
    """Nothing: there are no residues any more."""
    return None


def _read(path: str, limit: int) -> bytes:
    try:
        with os.fdopen(syscalls.open_regular(path), "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise DamageError(f"{display(path)}: {error.strerror or error}; it is needed to find records") from error
