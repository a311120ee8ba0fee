"""Where to cut lengths into buckets so that batches hold little padding: arithmetic on the manifest's histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.dtypes import dtype_from_name
from npy2tfrecord.formats.manifest import FeatureInfo, Histogram
from readers.options import Budget, ReadOptions


@dataclass(frozen=True, slots=True)
class Buckets:
    """Bucket i holds lengths above `uppers[i - 1]` and up to `uppers[i]`, in batches of `batch_sizes[i]`.

    An example's length is the largest of its features' axes that vary. The last bucket has no limit.
    """

    uppers: tuple[int, ...]
    batch_sizes: tuple[int, ...]


def choose_buckets(features: Sequence[FeatureInfo], options: ReadOptions) -> Buckets:
    """Raises `UsageError` when no axis varies."""
    axes = [
        (info.max_shape[axis], histogram)
        for info in features
        for axis, histogram in enumerate(info.histograms)
        if histogram is not None
    ]
    if not axes:
        raise UsageError("buckets: every feature read here has one shape; there is nothing to sort by length")
    longest = max(size for size, _ in axes)
    wanted = options.buckets
    if isinstance(wanted, tuple):
        uppers = (*(cut for cut in wanted if cut < longest), longest)
    else:
        assert isinstance(wanted, int)
        # Where several axes vary, the one that is longest in the mean decides nearly always.
        uppers = cut(max((histogram for _, histogram in axes), key=_mean), wanted)
        uppers = (*(upper for upper in uppers if upper < longest), longest)
    return Buckets(uppers, tuple(_batch_size(features, upper, options) for upper in uppers))


def _mean(histogram: Histogram) -> float:
    return float(np.average(histogram.sizes, weights=histogram.counts))


def cut(histogram: Histogram, count: int) -> tuple[int, ...]:
    """The upper limits of at most `count` buckets with the least padding, were all padded to the limit."""
    sizes = np.array(histogram.sizes, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(np.array(histogram.counts, dtype=np.float64))])
    bins = len(sizes)
    # cost[j]: of the first j bins in the buckets so far; made[b][j]: where the last of b buckets begins.
    cost = np.full(bins + 1, np.inf)
    cost[0] = 0.0
    made = []
    for _ in range(min(count, bins)):
        # candidates[i, j]: bins i to j in one bucket more
        candidates = cost[:, None] + np.concatenate([[0.0], sizes])[None, :] * (total[None, :] - total[:, None])
        candidates[np.tril_indices(bins + 1)] = np.inf
        made.append(candidates.argmin(axis=0))
        cost = candidates.min(axis=0)
    uppers, end = [], bins
    for begins in reversed(made):
        uppers.append(int(histogram.sizes[end - 1]))
        end = int(begins[end])
    return tuple(reversed(uppers))


def _batch_size(features: Sequence[FeatureInfo], upper: int, options: ReadOptions) -> int:
    if not isinstance(options.batch_size, str):
        assert options.batch_size is not None
        return int(options.batch_size)
    budget = Budget.parse(options.batch_size)
    each = 0
    for info in features:
        sizes = [
            min(most, upper) if size is None else most for size, most in zip(info.shape, info.max_shape, strict=True)
        ]
        each += math.prod(sizes) * (dtype_from_name(info.dtype).itemsize if budget.unit == "bytes" else 1)
    return max(1, budget.amount // max(each, 1))
