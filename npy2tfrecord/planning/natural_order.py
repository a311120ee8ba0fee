"""The natural order of keys, in which numbers count as numbers: `frame_2` before `frame_10`."""

from __future__ import annotations

from itertools import pairwise

from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.order import natural_key

_COMPARED = 50_000  # keys, where only a difference is looked for


def first_inversion(examples: Examples) -> tuple[bytes, bytes] | None:
    """Two keys that follow each other and would be in the other order naturally; None if there are none early on."""
    keys = examples.keys(0, min(len(examples), _COMPARED))
    sort_keys = ((natural_key(key), key) for key in keys)
    return next(((one, other) for (before, one), (after, other) in pairwise(sort_keys) if before > after), None)
