"""Summing up the plan for the manifest: shapes, how sizes vary, how many examples have which label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from npy2tfrecord.formats.dtypes import is_time, stored_name
from npy2tfrecord.formats.manifest import FeatureInfo, Histogram, LabelCounts
from npy2tfrecord.sources.table import SourceTable

MAX_HISTOGRAM_BINS = 256
MAX_CHANNELS = 64
MAX_PLAIN_LABELS = 1000  # of a split that are counted; more integers are hardly classes


def make_histogram(sizes: np.ndarray, counts: np.ndarray) -> Histogram:
    """The histogram of distinct, ascending `sizes` that occur `counts` times.

    With more than 256 distinct sizes, neighbours share a bin so that the bins hold about as many
    arrays each: the boundaries are then quantiles, which is what choosing buckets needs.
    """
    if len(sizes) > MAX_HISTOGRAM_BINS:
        total = np.cumsum(counts)
        steps = total[-1] * np.arange(1, MAX_HISTOGRAM_BINS + 1) // MAX_HISTOGRAM_BINS
        ends = np.unique(np.searchsorted(total, steps))
        counts = np.diff(total[ends], prepend=0)
        sizes = sizes[ends]
    return Histogram(tuple(int(n) for n in sizes), tuple(int(n) for n in counts))


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
