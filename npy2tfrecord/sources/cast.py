"""Casting while writing: exact, or rounded to the nearest value; an overflow is always reported."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES, dtype_from_name


def _kind(dtype: np.dtype) -> str:
    return "f" if dtype.name in EXTENSION_NAMES else dtype.kind


@dataclass(frozen=True)
class Cast:
    """A cast from one dtype to another or the same, by their names."""

    from_name: str
    to_name: str

    @classmethod
    def of(cls, from_name: str, to_name: str | None, feature: str) -> Cast:
        """Raises `UsageError` for a cast that would drop more than precision. Dates and time spans are int64 here."""
        if from_name.startswith(("datetime64", "timedelta64")):
            if to_name:
                raise UsageError(
                    f"feature {feature!r} is {from_name}, which is stored as int64 with its unit and never cast:"
                    f" name the features that dtype {to_name} is for, NAME:{to_name}"
                )
            from_name = "int64"
        if to_name and _kind(dtype_from_name(from_name)) == "c" and _kind(dtype_from_name(to_name)) != "c":
            raise UsageError(f"feature {feature!r} is {from_name}: a cast to {to_name} would drop the imaginary part")
        return cls(from_name, to_name or from_name)

    def for_dtype(self, dtype: np.dtype) -> Cast:
        """The cast to the same dtype from that of one header: the arrays of a feature may have several."""
        name = "int64" if dtype.kind in "mM" else dtype.name
        return self if name == self.from_name else Cast(name, self.to_name)

    @property
    def is_exact(self) -> bool:
        """Whether the values stay as they are."""
        return self.from_name == self.to_name

    @property
    def source_itemsize(self) -> int:
        return dtype_from_name(self.from_name).itemsize

    @property
    def itemsize(self) -> int:
        return dtype_from_name(self.to_name).itemsize

    @property
    def out_dtype(self) -> np.dtype:
        """The dtype after the cast, little-endian."""
        return dtype_from_name(self.to_name).newbyteorder("<")

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of an array of this shape after the cast."""
        return math.prod(shape) * self.itemsize

    def apply(self, values: np.ndarray, out: np.ndarray) -> int:
        """The number of `values` that do not fit, after all were cast into `out`; there, these have no meaning.

        Real numbers become integers by rounding to nearest, ties to even; only 0 and 1 fit into bool. NaN and
        infinity stay what they are where the new dtype has them; elsewhere they do not fit.
        """
        to_kind, from_kind = _kind(out.dtype), _kind(values.dtype)
        with np.errstate(all="ignore"):
            if {values.dtype.name, out.dtype.name} <= set(EXTENSION_NAMES):
                values = values.astype(np.float32)  # holds all of them; some have no cast to each other
            if to_kind in "fc":
                out[...] = values.astype(out.dtype)
                return int(np.count_nonzero(_bad_floats(values, out)))
            if to_kind == "b":
                out[...] = values.astype(out.dtype)
                return int(np.count_nonzero((values != 0) & (values != 1)))
            if from_kind == "f":
                values = np.rint(values.astype(np.float64) if values.dtype.itemsize < 8 else values)
            elif from_kind == "b":
                values = values.view(np.uint8)
            low, high = np.iinfo(out.dtype).min, np.iinfo(out.dtype).max
            if from_kind == "f":
                # 2**63 - 1 is no float64: compare with the first integer that is too large.
                fits = (values >= float(low)) & (values < float(high + 1))
            else:
                info = np.iinfo(values.dtype)
                fits = (values >= max(low, info.min)) & (values <= min(high, info.max))
            out[...] = values.astype(out.dtype)
        return int(fits.size - np.count_nonzero(fits))


def _bad_floats(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Where a cast to a float dtype made a finite value infinite, or lost a NaN or an infinity."""
    after = _parts(out)
    if _kind(values.dtype) not in "fc":
        return np.asarray(~np.isfinite(after[0]))
    before = _parts(values)
    after = after[: len(before)]  # the imaginary parts of what was real are zeros
    lost = (
        (np.isfinite(before) & ~np.isfinite(after))
        | (np.isnan(before) & ~np.isnan(after))
        | (np.isinf(before) & ~np.isinf(after))
    )
    return np.asarray(lost.any(axis=0))


def _parts(values: np.ndarray) -> np.ndarray:
    """The real part of a flat array and, for complex values, the imaginary part, as float64."""
    parts = [values.real, values.imag] if values.dtype.kind == "c" else [values]
    return np.stack([part.astype(np.float64) for part in parts])


def overflow(where: bytes, count: int, cast: Cast) -> InputError:
    """The error for `count` values of a source that do not fit."""
    values = "1 value does" if count == 1 else f"{count} values do"
    return InputError(where, f"{values} not fit into {cast.to_name}", f"values of {cast.from_name} that do")
