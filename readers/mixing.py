"""`mix`: examples of several data sets in one stream."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npy2tfrecord.errors import UsageError
from readers.dataset import load_dataset

if TYPE_CHECKING:
    import tensorflow as tf


def mix(
    sources: Sequence[Any],
    *,
    weights: Sequence[float] | None = None,
    seed: int | None = None,
    stop_on_empty: bool = False,
    **options: Any,
) -> tf.data.Dataset:
    """Draw from several data sets at random, each with the probability of its weight (the same for all unless given).

    sources: datasets (of `load_dataset` or any other) or paths; paths are loaded with `options`.
    stop_on_empty: end with the first data set that ends, so that the proportions hold to the end. Otherwise the
        others continue. With `repeat=True` none ends.

    An element is drawn at a time. To mix within batches, give no batch_size and batch afterwards.
    """
    import tensorflow as tf

    known = str | os.PathLike | tf.data.Dataset
    if not isinstance(sources, list | tuple) or not all(isinstance(each, known) for each in sources) or not sources:
        raise UsageError(f"mix of {sources!r}: expected a list of datasets or paths")
    paths = [source for source in sources if isinstance(source, str | os.PathLike)]
    if options and not paths:
        raise UsageError(f"{next(iter(options))}=…: options are for paths, and all sources are datasets already")
    if weights is not None:
        good = isinstance(weights, list | tuple | np.ndarray) and np.shape(weights) == (len(sources),)
        good = good and all(isinstance(w, numbers.Real) and math.isfinite(w) and w > 0 for w in weights)
        if not good:
            raise UsageError(f"weights={weights!r}: expected {len(sources)} numbers above 0, one a source")
    datasets = [
        load_dataset(source, seed=seed, **options) if isinstance(source, str | os.PathLike) else source
        for source in sources
    ]
    if weights is not None:
        weights = [float(weight) / math.fsum(weights) for weight in weights]
    try:
        return tf.data.Dataset.sample_from_datasets(
            datasets, weights, seed=seed, stop_on_empty_dataset=stop_on_empty, rerandomize_each_iteration=True
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"the elements of these data sets differ, they can't be mixed: {error}") from None
