"""Splits: which examples go together, by a hash of the key, by what is found in it, by directory, or by a table."""

from __future__ import annotations

import heapq
import os
from fractions import Fraction

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.manifest import SPLIT_PATTERN
from npy2tfrecord.options import DEFAULT_SPLIT, Options
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.key_table import match_keys, read_key_table
from npy2tfrecord.planning.order import Keyed

_KEYS_AT_ONCE = 1 << 16


def split_examples(examples: Keyed, options: Options) -> list[tuple[str, np.ndarray]]:
    """The name of every split, and its examples in ascending order.

    Raises `InputError` or `UsageError` where the options do not give every example a split, and every split an example.
    An addition to earlier data sets may be small: a split without an example is left out of it.
    """
    if not len(examples):
        return []
    splits = _divided(examples, options)
    return splits if examples.known is None else [(name, members) for name, members in splits if len(members)]


def _divided(examples: Keyed, options: Options) -> list[tuple[str, np.ndarray]]:
    everything = np.arange(len(examples))
    if examples.splits is not None:
        return [(name, np.flatnonzero(examples.splits == i)) for i, name in enumerate(examples.split_names)]
    if options.split == "dirs":
        names, numbers = examples.directory_names(0, "split 'dirs' takes the split from")
        for directory in names:
            if not SPLIT_PATTERN.fullmatch(os.fsdecode(directory)):
                raise UsageError(
                    f"split 'dirs': directory {display(directory)!r} cannot be a split's name, for which letters,"
                    " digits, '_' and '-' are expected: rename it, or leave it out with --exclude"
                )
        return [(os.fsdecode(directory), np.flatnonzero(numbers == i)) for i, directory in enumerate(names)]
    if options.folds:
        folds = _folds(examples, options)
        return [(f"fold{i}", np.flatnonzero(folds == i)) for i in range(options.folds)]
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
        if not len(members) and examples.known is None:
            by_group = f" in groups by {options.split_by!r}" if options.split_by is not None else ""
            raise UsageError(
                f"split {name!r} would be empty: {len(examples)} examples{by_group} are too few for its fraction"
            )
    return splits


def split_by_table(examples: Examples, path: str, missing: str) -> None:
    """Give every example the split of its key in a `key,split` table.

    Raises `InputError` for keys without a split, and splits without a key, unless `missing` is "skip".
    """
    table = read_key_table(path, "split")
    for key, name in table.values.items():
        if not SPLIT_PATTERN.fullmatch(name):
            found = f"line {table.lines[key]} has the split {name[:40]!r}"
            raise InputError(path, found, "a name of letters, digits, '_' and '-'")
    keys = match_keys(examples, table, missing)
    names = sorted({table.values[key] for key in keys})
    number_of = {name: i for i, name in enumerate(names)}
    examples.split_names = tuple(names)
    examples.splits = np.fromiter((number_of[table.values[key]] for key in keys), np.int64, len(keys))


def _places(examples: Keyed, options: Options) -> np.ndarray:
    """A number in [0, 2**64) for each example, by its key (or what `split_by` finds in it) and the seed alone."""
    if options.split_by is not None:
        texts, groups = examples.find_in_keys(options.split_by, "split_by")
        by_group = _hashes(list(map(os.fsencode, texts)), options.seed)
        return np.asarray(by_group[groups])
    places = np.empty(len(examples), dtype=np.uint64)
    for first in range(0, len(examples), _KEYS_AT_ONCE):
        keys = examples.keys(first, first + _KEYS_AT_ONCE)
        places[first : first + len(keys)] = _hashes(keys, options.seed)
    return places


def _hashes(keys: list[bytes], seed: int) -> np.ndarray:
    from hashlib import blake2b  # it loads OpenSSL, which takes longer than all other imports of this module

    salt = seed.to_bytes(8, "little")
    return np.frombuffer(b"".join(blake2b(key, digest_size=8, key=salt).digest() for key in keys), dtype="<u8")


def _folds(examples: Keyed, options: Options) -> np.ndarray:
    """The fold of each example: groups by `split_by` stay together, and the folds have about as many examples each.

    Without groups the sizes differ by 1 at most. Else the largest group that is left goes to the fold with the fewest
    examples, and of several such folds to the one with the fewest groups; groups of one size come in the order of their
    hash. Of patients with 9, 5, 5 and 4 examples, two folds get 9 + 4 and 5 + 5.
    """
    if options.split_by is None:
        _check_fold_count(len(examples), "examples", options)
        folds = np.empty(len(examples), dtype=np.int64)
        folds[np.argsort(_places(examples, options), kind="stable")] = np.arange(len(examples)) % options.folds
        return folds
    texts, groups = examples.find_in_keys(options.split_by, "split_by")
    _check_fold_count(len(texts), f"groups by {options.split_by!r}", options)
    hashes = _hashes(list(map(os.fsencode, texts)), options.seed)
    sizes = np.bincount(groups, minlength=len(hashes))
    fold_of = np.empty(len(hashes), dtype=np.int64)
    heap = [(0, 0, fold) for fold in range(options.folds)]  # examples, groups, number
    for group in np.lexsort((hashes, -sizes)).tolist():
        examples_there, groups_there, fold = heap[0]
        fold_of[group] = fold
        heapq.heapreplace(heap, (examples_there + int(sizes[group]), groups_there + 1, fold))
    return np.asarray(fold_of[groups])


def _check_fold_count(count: int, what: str, options: Options) -> None:
    if count < options.folds:
        raise UsageError(f"split {options.split!r}: {count} {what} are too few for {options.folds} folds")
