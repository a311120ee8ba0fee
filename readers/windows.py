"""Windows: which axis of which features they are cut along, and how many there are. No TensorFlow here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from npy2tfrecord.errors import DamageError, UsageError
from npy2tfrecord.formats.manifest import FeatureInfo
from npy2tfrecord.formats.npy import dtype_from_name

START = "start"  # the column with each window's place in its array


def choose_axes(features: Sequence[FeatureInfo], window: int) -> dict[str, int]:
    """The axis that windows are cut along: the one that varies, of the features that have one; else axis 0 of all.

    Raises `UsageError` where a feature varies along several axes, where none has an axis, where the sizes of these axes
    differ, and where all arrays are shorter than a window.
    """
    axes = {}
    for info in features:
        varying = [axis for axis, size in enumerate(info.shape) if size is None]
        if len(varying) > 1:
            raise UsageError(f"window: feature {info.name!r} varies along the axes {varying}, expected one at most")
        if varying:
            axes[info.name] = varying[0]
    axes = axes or {info.name: 0 for info in features if info.rank}
    if not axes:
        raise UsageError("window: no feature read here has an axis to cut")
    ranges = {}
    for info in features:
        if info.name in axes:
            smallest, largest = info.min_shape[axes[info.name]], info.max_shape[axes[info.name]]
            ranges[info.name] = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
            if largest < window:
                axis = f"axis {axes[info.name]} of {info.name!r}"
                raise UsageError(f"window={window}: longer than all arrays; {axis} has {largest} at most")
    if len(set(ranges.values())) > 1:
        shown = ", ".join(f"{name} {sizes}" for name, sizes in ranges.items())
        raise UsageError(f"window: features are cut together, but differ in size: {shown}; choose with features=…")
    return axes


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of consecutive examples by number: `ends[i]` (int64) is how many the examples up to `i` have."""

    axes: Mapping[str, int]
    window: int
    hop: int
    ends: np.ndarray

    @classmethod
    def of_sizes(cls, axes: Mapping[str, int], window: int, hop: int, sizes: np.ndarray) -> Windows:
        """From the size of each example along the axes, int64."""
        return cls(axes, window, hop, np.cumsum(np.maximum(0, (sizes - window) // hop + 1)))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def find(self, number: int) -> tuple[int, int]:
        """The example that a window is of, and where the window begins in it."""
        example = int(np.searchsorted(self.ends, number, side="right"))
        return example, (number - self.first(example)) * self.hop

    def first(self, example: int) -> int:
        """The number of the first window of an example, if it has any."""
        return int(self.ends[example - 1]) if example else 0

    def starts(self, example: int) -> range:
        """Where the windows of an example begin."""
        return range(0, (int(self.ends[example]) - self.first(example)) * self.hop, self.hop)

    def cut(self, array: np.ndarray, name: str, start: int) -> np.ndarray:
        """The window of a feature's array that begins there, without a copy. Raises `DamageError` where it ends."""
        axis = self.axes[name]
        if start + self.window > array.shape[axis]:
            raise DamageError(f"{name!r} has shape {array.shape}, too short for a window at {start}")
        return array[(slice(None),) * axis + (slice(start, start + self.window),)]


def count_in(size: int, window: int, hop: int) -> int:
    """Windows in an array of that size; none in one that is shorter than a window."""
    return max(0, (size - window) // hop + 1)


def count_windows(info: FeatureInfo, axis: int, window: int, hop: int, examples: int, everything: bool) -> int | None:
    """Windows in that many examples; None where the manifest doesn't say.

    Its histogram is of `everything` in the data set, and counts every size only where there are few: where it does, the
    bytes add up.
    """
    size = info.shape[axis]
    if size is not None:
        return examples * count_in(size, window, hop)
    histogram = info.histograms[axis]
    if histogram is None or not everything:
        return None
    row = math.prod(n for i, n in enumerate(info.max_shape) if i != axis) * dtype_from_name(info.dtype).itemsize
    pairs = [*zip(histogram.sizes, histogram.counts, strict=True)]
    if not row or sum(size * count for size, count in pairs) * row != info.bytes:
        return None
    return sum(count * count_in(size, window, hop) for size, count in pairs)
