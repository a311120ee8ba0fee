"""Windows: which axis of which features they are cut along, and how many there are. No TensorFlow here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from npy2tfrecord.errors import UsageError
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
