"""A grid of arrays that the tests share: dtype × byte order × memory order × rank × empty axes × header version.

The files are put together byte by byte, so that NumPy, which is asked what they hold, is an independent judge.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npy2tfrecord.formats.dtypes import SUPPORTED_NAMES

DTYPES = SUPPORTED_NAMES
RANKS = range(33)
VERSIONS = (1, 2, 3)


@dataclass(frozen=True)
class Form:
    """How an array may be stored in a `.npy` file."""

    byte_order: str = "<"
    fortran: bool = False
    version: int = 1

    @property
    def name(self) -> str:
        return f"{'big' if self.byte_order == '>' else 'little'}-{'F' if self.fortran else 'C'}-v{self.version}"


FORMS = [Form(*each) for each in itertools.product("<>", (False, True), VERSIONS)]


def npy_start(text: str | bytes, version: int = 1, *, size: int | None = None) -> bytes:
    """Magic, version, length and header; `size` is a length that may lie."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8" if version == 3 else "latin-1")
    width = 2 if version == 1 else 4
    length = len(raw) if size is None else size
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(width, "little") + raw


def npy_header(descr: Any, shape: Any, *, fortran: Any = False, version: int = 1) -> bytes:
    """A header as `np.save` writes it, padded to 64 bytes, of whatever it is told to say."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}"
    taken = (10 if version == 1 else 12) + len(text) + 1
    return npy_start(text + " " * (-taken % 64) + "\n", version)


def npy_bytes(array: np.ndarray, form: Form = Form()) -> bytes:
    """The whole file."""
    dtype = array.dtype.newbyteorder(form.byte_order)
    header = npy_header(form.byte_order + dtype.str[1:], array.shape, fortran=form.fortran, version=form.version)
    swapped = array.byteswap().tobytes if form.byte_order == ">" else array.tobytes
    return header + swapped("F" if form.fortran else "C")


def write_npy(path: Path, array: np.ndarray, form: Form = Form()) -> Path:
    """Write an array (little-endian in memory) to `path`, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(npy_bytes(array, form))
    return path


def shape_of(rank: int) -> tuple[int, ...]:
    """A small shape of that rank whose axes can be told apart, as far as can be."""
    if rank <= 5:
        return (2, 3, 4, 1, 2)[:rank]
    return (2, *(1,) * (rank - 4), 3, 1, 2)


def empty_shapes(rank: int) -> list[tuple[int, ...]]:
    """Shapes of that rank with an axis of size 0 at each end, in the middle, and everywhere."""
    base = shape_of(rank)
    shapes = [(*base[:axis], 0, *base[axis + 1 :]) for axis in sorted({0, rank // 2, rank - 1})] if rank else []
    return [*shapes, (0,) * rank] if rank else []


def special_bits(dtype: np.dtype) -> list[int]:
    """Bit patterns of a float that a careless copy loses: -0.0, infinities, NaNs with a payload."""
    size = dtype.itemsize * 8
    mantissa = {16: 10, 32: 23, 64: 52}[size]
    sign, infinity = 1 << (size - 1), ((1 << (size - 1)) - 1) >> mantissa << mantissa
    quiet = 1 << (mantissa - 1)
    return [sign, infinity | quiet | 0b101, infinity | 0b11, sign | infinity | 0b111, sign | infinity, 1]


def values_of(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Any bit pattern at all, floats starting with those that are lost most easily."""
    kind = np.dtype(dtype).newbyteorder("<")
    rng = np.random.default_rng([seed, *dtype.encode()])
    count = int(np.prod(shape, dtype=np.int64))
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    data = bytearray(rng.bytes(count * kind.itemsize))
    if kind.kind in "fc":
        real = np.dtype(f"f{kind.itemsize // (2 if kind.kind == 'c' else 1)}")
        start = seed % 6
        bits = special_bits(real)
        special = b"".join(pattern.to_bytes(real.itemsize, "little") for pattern in bits[start:] + bits[:start])
        data[: len(special)] = special[: len(data)]
    return np.frombuffer(bytes(data), dtype=kind).reshape(shape)


def same_bits(found: Any, expected: Any) -> bool:
    """Whether two arrays have the same dtype (but for its byte order), shape and, in C order, bytes."""
    found, expected = np.asarray(found), np.asarray(expected)
    expected = expected.astype(expected.dtype.newbyteorder("<"), copy=False)
    return (
        found.dtype.name == expected.dtype.name
        and found.shape == expected.shape
        and found.astype(found.dtype.newbyteorder("<"), copy=False).tobytes() == expected.tobytes()
    )


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a directory, hidden ones too, and its content."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def shards(out: Path) -> list[str]:
    """The paths of all shards, sorted."""
    found = sorted(str(path) for path in out.glob("*.tfrecord"))
    assert found
    return found


def load_all(directory: Path, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """What NumPy says the `.npy` files of these names hold."""
    for name in names:
        yield name, np.load(directory / f"{name}.npy", allow_pickle=False)
