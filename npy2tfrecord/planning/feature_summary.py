"""Summing up the plan for the manifest: shapes, how sizes vary, how many examples have which label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from npy2tfrecord.formats.dtypes import is_time, stored_name
from npy2tfrecord.formats.manifest import FeatureInfo, Histogram, LabelCounts
from npy2tfrecord.sources.table import SourceTable

MAX_HISTOGRAM_BINS = 256
MAX_BITS = 63  # of a size
MAX_CHANNELS = 64
MAX_PLAIN_LABELS = 1000  # of a split that are counted; more integers are hardly classes


def make_histogram(sizes: np.ndarray, counts: np.ndarray, bits: int = MAX_BITS) -> Histogram:
    """The histogram of distinct, ascending `sizes` that occur `counts` times.

    With more than 256 distinct sizes, those that are the same once they are rounded up to so many leading bits share a
    bin: with 3 bits 81 to 96. The number of bits is the largest that makes 256 bins or fewer, and `bits` or fewer where
    the sizes are those of bins. So the histogram of a whole can be made from those of its parts.
    """
    if len(sizes) <= MAX_HISTOGRAM_BINS and bits == MAX_BITS:
        return Histogram(tuple(sizes.tolist()), tuple(counts.tolist()))
    while True:
        ends = np.flatnonzero(np.diff(_round_up(sizes, bits), append=-1))  # the last size of each bin
        if len(ends) <= MAX_HISTOGRAM_BINS:
            counts = np.diff(np.cumsum(counts)[ends], prepend=0)
            return Histogram(tuple(sizes[ends].tolist()), tuple(counts.tolist()), bits)
        bits -= 1


def join_histograms(parts: Sequence[Histogram]) -> Histogram:
    """The histogram of the sizes of all parts together: the same as if they had been counted at once."""
    sizes, inverse = np.unique(np.concatenate([part.sizes for part in parts]), return_inverse=True)
    counts = np.zeros(len(sizes), dtype=np.int64)
    np.add.at(counts, inverse.reshape(-1), np.concatenate([part.counts for part in parts]))
    return make_histogram(sizes, counts, min(MAX_BITS if part.bits is None else part.bits for part in parts))


def _round_up(sizes: np.ndarray, bits: int) -> np.ndarray:
    """Sizes rounded up to numbers of which all but the first `bits` binary digits are 0."""
    digits = np.searchsorted(2 ** np.arange(MAX_BITS, dtype=np.int64), sizes, side="right")
    steps = np.uint64(1) << np.maximum(digits - bits, 0).astype(np.uint64)
    return np.asarray(((sizes.astype(np.uint64) + steps - np.uint64(1)) // steps * steps).astype(np.int64))


def summarize(table: SourceTable, counts: np.ndarray, first_axis: int, dtype: np.dtype) -> FeatureInfo:
    """The feature of a table: `counts[i]` values have header i, and the axes of its shape from `first_axis` on."""
    by_shape: dict[tuple[int, ...], int] = {}
    for header, count in zip(table.headers, counts.tolist(), strict=True):
        if count:
            shape = header.shape[first_axis:]
            by_shape[shape] = by_shape.get(shape, 0) + count
    shapes = sorted(by_shape)
    numbers = np.array([by_shape[shape] for shape in shapes], dtype=np.int64)
    found = table.headers[0].dtype
    time = found.name if is_time(found) else None
    return feature_info(table.feature, stored_name(dtype), dtype.itemsize, shapes, numbers, time=time)


def feature_info(
    name: str,
    dtype: str,
    itemsize: int,
    shapes: list[tuple[int, ...]],
    counts: np.ndarray,
    stats: Mapping[str, Any] | None = None,
    time: str | None = None,
) -> FeatureInfo:
    """The summary of a feature: `counts[i]` of its arrays have the i-th of the distinct `shapes`."""
    rank = len(shapes[0])
    axes = np.array(shapes, dtype=np.int64).reshape(len(shapes), rank)
    histograms = []
    for axis in range(rank):
        distinct, inverse = np.unique(axes[:, axis], return_inverse=True)
        per_size = np.zeros(len(distinct), dtype=np.int64)
        np.add.at(per_size, inverse.reshape(-1), counts)
        histograms.append(make_histogram(distinct, per_size) if len(distinct) > 1 else None)
    smallest, largest = (tuple(int(n) for n in limit) for limit in (axes.min(axis=0), axes.max(axis=0)))
    return FeatureInfo(
        name=name,
        dtype=dtype,
        shape=tuple(a if a == b else None for a, b in zip(smallest, largest, strict=True)),
        min_shape=smallest,
        max_shape=largest,
        histograms=tuple(histograms),
        bytes=sum(math.prod(shape) * int(n) for shape, n in zip(shapes, counts, strict=True)) * itemsize,
        stats=stats,
        time=time,
    )


def count_labels(labels: np.ndarray, *, named: bool) -> LabelCounts | None:
    """How many examples have which label; None for floats, and for more than 1,000 integers without names."""
    if labels.dtype.kind == "f":
        return None
    values, counts = np.unique(labels, return_counts=True)
    if len(values) > MAX_PLAIN_LABELS and not named:
        return None
    return LabelCounts(tuple(values.tolist()), tuple(counts.tolist()))


def channels_of(shape: tuple[int | None, ...], dtype: str) -> int:
    """How many channels a feature's statistics have: the last axis, if it does not vary and is short. 0: none."""
    if dtype.startswith("complex"):
        return 0
    last = shape[-1] if shape else None
    return last if last is not None and 0 < last <= MAX_CHANNELS else 1
