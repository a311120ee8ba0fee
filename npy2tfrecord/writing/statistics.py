"""Statistics of a feature's values in one pass, stable, and the same however the work was divided.

Every record is reduced by itself, in blocks, to the number, the mean and the squared deviations of its values, by sums
whose order is fixed. What the blocks give is then added up exactly, as integers of any size. So the result depends on
what the records hold, and neither on their order nor on who added up what.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from npy2tfrecord.errors import DamageError
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES

_BLOCK_VALUES = 1 << 17  # as float64, 1 MiB: what a block costs by itself is little, and a processor has it in a cache
_DIGITS = 12  # of mean and deviation
_SCALE_BITS = 2400  # below the point: more than the square of the smallest float64 has
_SUM = re.compile(r"(-?[0-9a-f]{1,1400})p(-?[0-9]{1,4})")
_SPLITTER = 2.0**27 + 1  # Dekker's: halves of a float64 whose products are exact


class ExactSums:
    """Sums of float64 numbers, one for each channel, without any rounding; None where one was not finite."""

    def __init__(self, channels: int) -> None:
        self.totals: list[int | None] = [0] * channels  # times 2**_SCALE_BITS

    def add(self, channels: np.ndarray, values: np.ndarray, exponents: np.ndarray) -> None:
        """Add `values[i] * 2**exponents[i]` to the sum of channel `channels[i]`."""
        if not (finite := np.isfinite(values)).all():
            for channel in np.unique(channels[~finite]).tolist():
                self.totals[channel] = None
        kept = finite & (values != 0)
        fractions, own = np.frexp(values[kept])
        if not len(fractions):
            return
        mantissas = np.ldexp(fractions, 53).astype(np.int64)
        places = np.stack([channels[kept], own.astype(np.int64) + exponents[kept] - 53])
        distinct, inverse = np.unique(places, axis=1, return_inverse=True)
        # Halves, whose sums are exact as float64.
        high, low = (
            np.bincount(inverse.reshape(-1), weights=half).astype(np.int64).tolist()
            for half in (mantissas >> 26, mantissas & (2**26 - 1))
        )
        for channel, exponent, a, b in zip(*distinct.tolist(), high, low, strict=True):
            total = self.totals[channel]
            if total is not None:
                self.totals[channel] = total + (((a << 26) + b) << (exponent + _SCALE_BITS))


class Moments:
    """Count, mean, squares, extremes and counts of NaN and infinity, of every channel."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.count = np.zeros(channels, dtype=np.int64)
        self.nan = np.zeros(channels, dtype=np.int64)
        self.inf = np.zeros(channels, dtype=np.int64)
        self.low: list[Any] = [None] * channels
        self.high: list[Any] = [None] * channels
        self.sums, self.squares = ExactSums(channels), ExactSums(channels)
        self._begun: list[np.ndarray] = []  # values of a record that are no whole block yet
        self._begun_values = 0  # of all pieces in it

    def add(self, records: np.ndarray, own: int) -> None:
        """Take in records of one size: shape (records, values), where `own` channels alternate (the last axis).

        These are added up together where there is one channel only.
        """
        step, at_once = _step(own), max(1, _BLOCK_VALUES // max(1, records.shape[1]))
        if records.dtype.kind == "b":
            records = records.view(np.uint8)
        for start in range(0, records.shape[1], step):
            for first in range(0, len(records), at_once):
                block = records[first : first + at_once, start : start + step]
                self._add_block(block.reshape(len(block), -1, own))

    def add_piece(self, values: np.ndarray, own: int) -> None:
        """Take in the next values of a record that comes in pieces; `end_record` ends it."""
        self._begun.append(values.copy())
        self._begun_values += len(values)
        if self._begun_values < _step(own):
            return
        begun = np.concatenate(self._begun)
        whole = len(begun) // _step(own) * _step(own)
        self.add(begun[None, :whole], own)
        self._begun = [begun[whole:]]
        self._begun_values = len(begun) - whole

    def end_record(self, own: int) -> None:
        """Take in the last values of a record that came in pieces."""
        if self._begun:
            self.add(np.concatenate(self._begun)[None], own)
        self._begun, self._begun_values = [], 0

    def _add_block(self, block: np.ndarray) -> None:
        """Take in values of shape (records, positions, channels)."""
        count, positions, own = block.shape
        wide = block.transpose(0, 2, 1).astype(np.float64, order="C").reshape(count * own, positions)
        channels = np.tile(np.arange(own) if self.channels > 1 else np.zeros(own, dtype=np.int64), count)
        with np.errstate(all="ignore"):
            means = wide.sum(axis=1) / positions
        good = np.isfinite(means)
        if good.all():
            self._take_extremes(block, wide)
        else:  # NaN or infinity in it, or a sum that overflows
            self._add_with_gaps(wide[~good], channels[~good])
            wide, means, channels = wide[good], means[good], channels[good]
            for channel in np.unique(channels).tolist():
                some = wide[channels == channel]
                self._widen(channel, some.min().item(), some.max().item())
        with np.errstate(over="ignore"):
            wide -= means[:, None]
            np.square(wide, out=wide)
            squares = wide.sum(axis=1)
        self._take(channels, np.full(len(means), positions), means, squares)

    def _add_with_gaps(self, wide: np.ndarray, channels: np.ndarray) -> None:
        """Take in rows with NaN or infinity among them, or whose sum overflows."""
        finite = np.isfinite(wide)
        np.add.at(self.nan, channels, np.isnan(wide).sum(axis=1))
        np.add.at(self.inf, channels, np.isinf(wide).sum(axis=1))
        counts = finite.sum(axis=1)
        some = counts > 0
        wide, finite, counts, channels = wide[some], finite[some], counts[some], channels[some]
        if not len(counts):
            return
        low = np.where(finite, wide, np.inf).min(axis=1)
        high = np.where(finite, wide, -np.inf).max(axis=1)
        for channel, least, most in zip(channels.tolist(), low.tolist(), high.tolist(), strict=True):
            self._widen(channel, least, most)
        with np.errstate(over="ignore"):
            means = (np.where(finite, wide, 0) / counts[:, None]).sum(axis=1)
            means = np.clip(means, low, high)  # rounded, it may be beyond
            squares = np.square(np.where(finite, wide - means[:, None], 0)).sum(axis=1)
        self._take(channels, counts, means, squares)

    def _take(self, channels: np.ndarray, counts: np.ndarray, means: np.ndarray, squares: np.ndarray) -> None:
        """Add what blocks give: `sums` gets the count times the mean, `squares` that times the mean and the deviations.

        All products are exact but for a share of 2**-100, as sums of two numbers.
        """
        np.add.at(self.count, channels, counts)
        fractions, exponents = np.frexp(means)
        exponents = exponents.astype(np.int64)
        product, rest = _multiply(fractions, counts.astype(np.float64))
        square, square_rest = _multiply(product, fractions)
        self.sums.add(channels, product, exponents)
        self.sums.add(channels, rest, exponents)
        self.squares.add(channels, square, 2 * exponents)
        self.squares.add(channels, square_rest + rest * fractions, 2 * exponents)
        self.squares.add(channels, squares, np.zeros_like(exponents))

    def _take_extremes(self, block: np.ndarray, wide: np.ndarray) -> None:
        # 64-bit integers are not exact as float64; everything else is.
        if block.dtype.kind in "iu" and block.dtype.itemsize == 8:
            lows, highs = block.min(axis=(0, 1)), block.max(axis=(0, 1))
        else:
            lows = wide.min(axis=1).reshape(-1, block.shape[2]).min(axis=0)
            highs = wide.max(axis=1).reshape(-1, block.shape[2]).max(axis=0)
        if self.channels == 1:
            lows, highs = lows.min(keepdims=True), highs.max(keepdims=True)
        low, high = lows.tolist(), highs.tolist()
        as_integers = block.dtype.kind in "iu" and block.dtype.name not in EXTENSION_NAMES
        for channel in range(self.channels):
            if as_integers:
                self._widen(channel, int(low[channel]), int(high[channel]))
            else:
                self._widen(channel, low[channel], high[channel])

    def _widen(self, channel: int, low: Any, high: Any) -> None:
        if self.low[channel] is None or low < self.low[channel]:
            self.low[channel] = low + 0  # never -0.0, which of two zeros came first must not matter
        if self.high[channel] is None or high > self.high[channel]:
            self.high[channel] = high + 0

    def join(self, other: Moments) -> None:
        """Take in what another one has seen, whose channels are as many, or count as one here."""
        one = self.channels == 1
        for name in ("count", "nan", "inf"):
            theirs = getattr(other, name)
            setattr(self, name, getattr(self, name) + (theirs.sum(keepdims=True) if one else theirs))
        for channel in range(other.channels):
            mine = 0 if one else channel
            if other.low[channel] is not None:
                self._widen(mine, other.low[channel], other.high[channel])
            for ours, theirs in ((self.sums.totals, other.sums.totals), (self.squares.totals, other.squares.totals)):
                a, b = ours[mine], theirs[channel]
                ours[mine] = None if a is None or b is None else a + b

    # --- to and from JSON

    def state(self) -> dict[str, list[Any]]:
        """Everything, as JSON keeps it."""
        return {
            "count": self.count.tolist(),
            "min": self.low,
            "max": self.high,
            "nan": self.nan.tolist(),
            "inf": self.inf.tolist(),
            "sums": [list(map(_encode, pair)) for pair in zip(self.sums.totals, self.squares.totals, strict=True)],
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Moments:
        """What `state` or `summary` gave. Raises `DamageError` for anything else."""
        try:
            channels = len(state["count"])
            one = cls(channels)
            for name in ("count", "nan", "inf"):
                if not all(type(n) is int and 0 <= n < 2**62 for n in state[name]):
                    raise ValueError
                setattr(one, name, np.array(state[name], dtype=np.int64).reshape(channels))
            one.low, one.high = list(state["min"]), list(state["max"])
            if not all(n is None or type(n) in (int, float) for n in one.low + one.high):
                raise ValueError
            sums = [(_decode(a), _decode(b)) for a, b in state["sums"]]
            if not channels == len(one.low) == len(one.high) == len(sums):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DamageError("statistics that are not those of this package") from None
        one.sums.totals, one.squares.totals = [a for a, _ in sums], [b for _, b in sums]
        return one

    @classmethod
    def of_states(cls, states: Iterable[Mapping[str, Any]], channels: int | None = None) -> Moments:
        """The sum of what `state` gave, for as many channels as there are, or for one."""
        parts = [cls.of_state(state) for state in states]
        total = cls(parts[0].channels if channels is None else channels)
        for part in parts:
            total.join(part)
        return total

    def summary(self) -> dict[str, list[Any]]:
        """What the manifest holds: each a list with a value for every channel, null where no value was finite."""
        state = self.state()
        numbers = [
            _mean_and_deviation(*each)
            for each in zip(state["count"], self.sums.totals, self.squares.totals, strict=True)
        ]
        mean, deviation = ([pair[i] for pair in numbers] for i in (0, 1))
        return {
            **{name: state[name] for name in ("count", "min", "max")},
            "mean": mean,
            "std": deviation,
            **{name: state[name] for name in ("nan", "inf", "sums")},
        }


def _step(own: int) -> int:
    """Values of a block of records with so many channels."""
    return max(1, _BLOCK_VALUES // own) * own


def _multiply(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded products, and what was rounded off (Dekker, 1971)."""
    product = a * b
    a_high = a * _SPLITTER - (a * _SPLITTER - a)
    b_high = b * _SPLITTER - (b * _SPLITTER - b)
    a_low, b_low = a - a_high, b - b_high
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _mean_and_deviation(count: int, total: int | None, squares: int | None) -> Sequence[float | None]:
    if not count or total is None:
        return None, None
    mean = _rounded(total, count << _SCALE_BITS)
    if squares is None:
        return mean, None
    variance = max(0, ((squares * count) << _SCALE_BITS) - total * total)  # times (count * 2**_SCALE_BITS)**2
    return mean, _rounded(math.isqrt(variance), count << _SCALE_BITS)


def _rounded(numerator: int, denominator: int) -> float | None:
    try:
        return float(f"{numerator / denominator:.{_DIGITS}g}")
    except OverflowError:
        return None


def _encode(total: int | None) -> str | None:
    """An exact sum: a hexadecimal integer, `p`, and the power of 2 that it is to be multiplied with."""
    if not total:
        return None if total is None else "0p0"
    zeros = (total & -total).bit_length() - 1
    return f"{total >> zeros:x}p{zeros - _SCALE_BITS}"


def _decode(text: str | None) -> int | None:
    if text is None:
        return None
    match = _SUM.fullmatch(text)
    if match is None or not -_SCALE_BITS <= int(match[2]) <= _SCALE_BITS:
        raise ValueError
    return int(match[1], 16) << (int(match[2]) + _SCALE_BITS)
