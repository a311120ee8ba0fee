"""Statistics of a feature's values in one pass, stable, and the same however the work was divided.

Blocks are reduced by the two-pass formula while they are in the cache, and joined by the pairwise
update of Chan, Golub and LeVeque (1979). Blocks and joins follow the order of the records, so the
result does not depend on who computed what.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from npy2tfrecord.formats.dtypes import EXTENSION_NAMES

_BLOCK_VALUES = 1 << 17  # as float64, 1 MiB: what a block costs by itself is little, and a processor has it in a cache
_DIGITS = 12  # of mean and deviation; beyond, summation in another order by another processor may differ


class Moments:
    """Count, mean, sum of squared deviations, extremes and counts of NaN and infinity, of every channel."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.count = np.zeros(channels)
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)
        self.nan = np.zeros(channels, dtype=np.int64)
        self.inf = np.zeros(channels, dtype=np.int64)
        self.low: list[Any] = [None] * channels
        self.high: list[Any] = [None] * channels
        self._begun: np.ndarray = np.zeros(0)  # a block that is not full yet
        self._begun_count = 0

    def add(self, values: np.ndarray) -> None:
        """Add values whose channels alternate (the last axis of arrays in C order)."""
        if values.dtype.kind == "b":
            values = values.view(np.uint8)
        step = max(1, _BLOCK_VALUES // self.channels) * self.channels
        if self._begun_count:  # blocks are cut by number, so that they are the same however the values came
            missing = values[: step - self._begun_count]
            self._begun[self._begun_count : self._begun_count + len(missing)] = missing
            self._begun_count += len(missing)
            values = values[len(missing) :]
            if self._begun_count == step:
                self._end_block()
        whole = len(values) // step * step
        for start in range(0, whole, step):
            self._add_block(values[start : start + step].reshape(-1, self.channels))
        if rest := len(values) - whole:
            if len(self._begun) < step or self._begun.dtype != values.dtype:
                self._begun = np.empty(step, dtype=values.dtype)
            self._begun[:rest] = values[whole:]
            self._begun_count = rest

    def _end_block(self) -> None:
        count, self._begun_count = self._begun_count, 0
        if count:
            self._add_block(self._begun[:count].reshape(-1, self.channels))

    def _add_block(self, block: np.ndarray) -> None:
        wide = np.ascontiguousarray(block.T, dtype=np.float64) if self.channels > 1 else block.T.astype(np.float64)
        count = np.full(self.channels, wide.shape[1], dtype=np.float64)
        with np.errstate(all="ignore"):
            mean = wide.sum(axis=1) / count
        if np.isfinite(mean).all():
            self._take_extremes(block, wide)
            wide -= mean[:, None]
            self._join(count, mean, np.einsum("ij,ij->i", wide, wide))
        else:
            self._add_with_gaps(block, wide)

    def _add_with_gaps(self, block: np.ndarray, wide: np.ndarray) -> None:
        """A block with NaN or infinity in it, or whose sum overflows."""
        finite = np.isfinite(wide)
        self.nan += np.isnan(wide).sum(axis=1)
        self.inf += np.isinf(wide).sum(axis=1)
        count = finite.sum(axis=1).astype(np.float64)
        mean, squares = np.zeros(self.channels), np.zeros(self.channels)
        for channel in np.flatnonzero(count).tolist():
            kept = wide[channel][finite[channel]]
            self._widen(channel, kept.min().item(), kept.max().item())
            with np.errstate(over="ignore"):
                mean[channel] = np.clip((kept / len(kept)).sum(), kept.min(), kept.max())  # rounded, it may be beyond
                squares[channel] = np.square(kept - mean[channel]).sum()
        self._join(count, mean, squares)

    def _take_extremes(self, block: np.ndarray, wide: np.ndarray) -> None:
        # 64-bit integers are not exact as float64; everything else is, and half as wide in one run twice as fast.
        in_one_run = self.channels == 1 and block.dtype.kind in "iuf" and block.dtype.itemsize >= 4
        is_wide = block.dtype.kind in "iu" and block.dtype.itemsize == 8
        source, axis = (block, 0) if in_one_run or is_wide else (wide, 1)
        low, high = source.min(axis=axis).tolist(), source.max(axis=axis).tolist()
        as_integers = block.dtype.kind in "iu" and block.dtype.name not in EXTENSION_NAMES
        for channel in range(self.channels):
            if as_integers:
                self._widen(channel, int(low[channel]), int(high[channel]))
            else:
                self._widen(channel, low[channel], high[channel])

    def _widen(self, channel: int, low: Any, high: Any) -> None:
        if self.low[channel] is None or low < self.low[channel]:
            self.low[channel] = low
        if self.high[channel] is None or high > self.high[channel]:
            self.high[channel] = high

    def _join(self, count: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
        total = self.count + count
        with np.errstate(all="ignore"):
            share = np.where(total > 0, count / total, 0.0)
            difference = mean - self.mean
            self.mean = self.mean + difference * share
            self.squares = self.squares + squares + difference * difference * self.count * share
        self.count = total

    def join(self, other: Moments) -> None:
        """Add the values that another one has counted."""
        self._join(other.count, other.mean, other.squares)
        self.nan += other.nan
        self.inf += other.inf
        for channel in range(self.channels):
            if other.low[channel] is not None:
                self._widen(channel, other.low[channel], other.high[channel])

    # --- to and from JSON

    def state(self) -> dict[str, list[Any]]:
        """Everything, as JSON keeps it to the last bit."""
        self._end_block()
        return {
            "count": self.count.tolist(),
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
            "nan": self.nan.tolist(),
            "inf": self.inf.tolist(),
            "low": self.low,
            "high": self.high,
        }

    @classmethod
    def of_states(cls, states: Iterable[dict[str, list[Any]]]) -> Moments:
        """The sum of what `state` gave, in that order."""
        total: Moments | None = None
        for state in states:
            one = cls(len(state["count"]))
            one.count, one.mean, one.squares = (np.array(state[n], float) for n in ("count", "mean", "squares"))
            one.nan, one.inf = (np.array(state[n], np.int64) for n in ("nan", "inf"))
            one.low, one.high = list(state["low"]), list(state["high"])
            if total is None:
                total = one
            else:
                total.join(one)
        assert total is not None, "there is always a shard"
        return total

    def summary(self) -> dict[str, list[Any]]:
        """The statistics for the manifest: lists with a value for every channel, null where no value was finite."""
        with np.errstate(all="ignore"):
            deviation = np.sqrt(self.squares / self.count)
        seen = [n > 0 for n in self.count.tolist()]

        def rounded(values: np.ndarray) -> list[float | None]:
            return [
                float(f"{v:.{_DIGITS}g}") if there and np.isfinite(v) else None
                for v, there in zip(values.tolist(), seen, strict=True)
            ]

        return {
            "count": [int(n) for n in self.count.tolist()],
            "min": self.low,
            "max": self.high,
            "mean": rounded(self.mean),
            "std": rounded(deviation),
            "nan": self.nan.tolist(),
            "inf": self.inf.tolist(),
        }
