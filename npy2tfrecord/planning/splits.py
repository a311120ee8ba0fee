"""Splits: which examples go together, by a hash of the key, by what is found in it, or by directory."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from hashlib import blake2b

import numpy as np

from npy2tfrecord.errors import UsageError, display
from npy2tfrecord.formats.manifest import SPLIT_PATTERN
from npy2tfrecord.options import DEFAULT_SPLIT, Options
from npy2tfrecord.planning.order import Keyed

_KEYS_AT_ONCE = 1 << 16
_SHOWN = 5  # keys, in a message


def split_examples(examples: Keyed, options: Options) -> list[tuple[str, np.ndarray]]:
    """The name of every split, and its examples in ascending order.

    Raises `InputError` or `UsageError` where the options do not give every example a split, and every split an example.
    """
    everything = np.arange(len(examples))
    if options.split == "dirs":
        names, numbers = examples.directory_names(0, "split 'dirs' takes the split from")
        for directory in names:
            if not SPLIT_PATTERN.fullmatch(os.fsdecode(directory)):
                raise UsageError(
                    f"split 'dirs': directory {display(directory)!r} cannot be a split's name, for which letters,"
                    " digits, '_' and '-' are expected: rename it, or leave it out with --exclude"
                )
        return [(os.fsdecode(directory), np.flatnonzero(numbers == i)) for i, directory in enumerate(names)]
    if not options.fractions:
        return [(DEFAULT_SPLIT, everything)]
    bounds, total = [], Fraction(0)
    for _, fraction in options.fractions:
        total += fraction
        bounds.append(min(int(total * 2**64), 2**64 - 1))
    bounds[-1] = 2**64 - 1
    places = _places(examples, options)
    numbers = np.searchsorted(np.array(bounds, dtype=np.uint64), places, side="left")
    splits = [(name, np.flatnonzero(numbers == i)) for i, (name, _) in enumerate(options.fractions)]
    for name, members in splits:
        if not len(members):
            by_group = f" in groups by {options.split_by!r}" if options.split_by is not None else ""
            raise UsageError(
                f"split {name!r} would be empty: {len(examples)} examples{by_group} are too few for its fraction"
            )
    return splits


def _group(match: re.Match[str]) -> str:
    """The text of the first group that took part in the match, or of the whole match."""
    return next((group for group in match.groups() if group is not None), match[0])


def _places(examples: Keyed, options: Options) -> np.ndarray:
    """A number in [0, 2**64) for each example, by its key (or what `split_by` finds in it) and the seed alone."""
    seed = options.seed.to_bytes(8, "little")
    places = np.empty(len(examples), dtype=np.uint64)
    search = None if options.split_by is None else re.compile(options.split_by).search
    lacking: list[bytes] = []
    for first in range(0, len(examples), _KEYS_AT_ONCE):
        keys = examples.keys(first, first + _KEYS_AT_ONCE)
        if search is not None:
            found = list(map(search, map(os.fsdecode, keys)))
            lacking += [key for key, match in zip(keys, found, strict=True) if match is None]
            keys = [os.fsencode(_group(match)) if match else b"" for match in found]
        places[first : first + len(keys)] = np.frombuffer(
            b"".join(blake2b(key, digest_size=8, key=seed).digest() for key in keys), dtype="<u8"
        )
    if lacking:
        shown = ", ".join(map(display, lacking[:_SHOWN]))
        raise UsageError(f"split_by {options.split_by!r} finds nothing in {len(lacking)} keys, e.g. {shown}")
    return places
