"""The natural order of keys, in which numbers count as numbers: `frame_2` before `frame_10`."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np

from npy2tfrecord.planning.examples import Examples

_DIGITS = re.compile(rb"([0-9]+)")
_COMPARED = 50_000  # keys, where only a difference is looked for


def natural_places(examples: Examples) -> np.ndarray:
    """The place of every example in natural order, int64. Keys that differ in leading zeros alone keep their order."""
    sort_keys = list(map(_sort_key, examples.keys()))
    order = np.array(sorted(range(len(sort_keys)), key=sort_keys.__getitem__), dtype=np.int64)
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def first_inversion(examples: Examples) -> tuple[bytes, bytes] | None:
    """Two keys that follow each other and would be in the other order naturally; None if there are none early on."""
    keys = examples.keys(0, min(len(examples), _COMPARED))
    sort_keys = ((_sort_key(key), key) for key in keys)
    return next(((one, other) for (before, one), (after, other) in pairwise(sort_keys) if before > after), None)


def _sort_key(key: bytes) -> Any:
    """The directories, then the name, as in a search: a directory's files come before its subdirectories."""
    *directories, name = map(_parts, key.split(b"/"))
    return directories, name


def _parts(name: bytes) -> list[tuple[bytes, int, bytes]]:
    """`frame_010.b` is `frame_`, 2 digits, `10`, then `.b`: more digits are a larger number, none is made of them."""
    texts = _DIGITS.split(name)
    numbers = [digits.lstrip(b"0") for digits in texts[1::2]]
    return [(text, len(number), number) for text, number in zip(texts[::2], [*numbers, b""], strict=True)]
