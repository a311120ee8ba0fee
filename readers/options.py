"""What a caller of the readers may ask for, validated before anything is opened. No TensorFlow here."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from npy2tfrecord.errors import UsageError
from npy2tfrecord.options import parse_size
from npy2tfrecord.paths import local_path

AUTOTUNE: Final = -1  # what tf.data.AUTOTUNE is: the reader chooses

Features = str | Sequence[Any] | Mapping[str, Any] | None  # names, in tuples and dicts of any depth
Padding = str | Mapping[str, tuple[int | None, ...]]

_NO_NUMBERS = "mMOSUT"  # kinds of dtypes; those of ml_dtypes have the kind V
_FLAGS = (bool, np.bool_)
_ELEMENTS = re.compile(r"(\d+)\s*elements?")


def parse_bytes(text: str, option: str) -> int:
    """The number of bytes that `256MB` (or kB, GB, KiB, MiB, GiB) means."""
    try:
        if text.strip().isdigit():  # a number without a unit is no size here, but a number of examples
            raise UsageError(f"{text!r} has no unit")
        return parse_size(text)
    except UsageError:
        raise UsageError(f"{option}={text!r}: expected a size such as '256MB' or '1GiB'") from None


@dataclass(frozen=True, slots=True)
class Budget:
    """A batch's size as what it may hold, padding included, instead of a number of examples."""

    amount: int
    unit: Literal["bytes", "elements"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        if match := _ELEMENTS.fullmatch(text.strip()):
            if int(match[1]) < 1:
                raise UsageError(f"batch_size={text!r}: expected at least 1 element")
            return cls(int(match[1]), "elements")
        return cls(parse_bytes(text, "batch_size"), "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """The options that `load_dataset` and `load_npy` have in common; their documentation is in `load_dataset`."""

    features: Features = None
    batch_size: int | str | None = None
    drop_remainder: bool = False
    shuffle: bool | int | str = False
    seed: int | None = None
    repeat: bool | int = False
    padding: Padding = "batch"
    padding_value: Any = 0
    ragged: bool = False
    with_lengths: bool = False
    normalize: bool = False
    buckets: int | Iterable[int] | None = None
    window: int | None = None
    hop: int | None = None
    map_fn: Callable[..., Any] | None = None
    worker: Any = None
    start: Any = 0
    deterministic: bool | None = None
    cache: bool | str = False
    cache_size: int | str | None = None
    prefetch: int = AUTOTUNE
    num_parallel_calls: int = AUTOTUNE
    tune_malloc: bool | None = None
    on_corrupt: str = "raise"

    def __post_init__(self) -> None:
        for name in ("drop_remainder", "ragged", "with_lengths", "normalize"):
            self._check_flag(name, "True or False")
        for name in ("deterministic", "tune_malloc"):
            if getattr(self, name) is not None:
                self._check_flag(name, "True, False or None")
        self._check_batch()
        self._check_features()
        self._check_shuffle()
        self._check_window()
        if isinstance(self.repeat, _FLAGS):
            self._check_flag("repeat", "")
        else:
            self._check_integer("repeat", 1, "True, False or a number of epochs")
        if self.map_fn is not None and not callable(self.map_fn):
            raise UsageError(f"map_fn={self.map_fn!r}: expected a function")
        if isinstance(self.cache, os.PathLike):
            object.__setattr__(self, "cache", os.fspath(self.cache))
        if isinstance(self.cache, _FLAGS):
            self._check_flag("cache", "")
        if not isinstance(self.cache, bool | str) or self.cache == "":
            raise UsageError(f"cache={self.cache!r}: expected True (in memory), False, or the path of a file")
        if isinstance(self.cache, str):
            object.__setattr__(self, "cache", local_path(self.cache, "cache"))
        if isinstance(self.cache_size, str):
            object.__setattr__(self, "cache_size", parse_bytes(self.cache_size, "cache_size"))
        if self.cache_size is not None:
            self._check_integer("cache_size", 1, "a number of bytes or a size such as '200GB'")
        for name, least in (("prefetch", 0), ("num_parallel_calls", 1)):
            value = getattr(self, name)
            if not _is_integer(value) or value != AUTOTUNE:
                self._check_integer(name, least, f"a number, {least} or more, or AUTOTUNE ({AUTOTUNE})")
        if not isinstance(self.on_corrupt, str) or self.on_corrupt not in ("raise", "skip"):
            raise UsageError(f"on_corrupt={self.on_corrupt!r}: expected 'raise' or 'skip'")
        self._check_padding()
        self.worker_index()  # raises for what is no worker
        if self.stops():
            self._check_start()

    def _check_batch(self) -> None:
        if isinstance(self.batch_size, str):
            Budget.parse(self.batch_size)
            if self.buckets is None:
                raise UsageError(f"batch_size={self.batch_size!r}: a budget a batch needs buckets=…")
        elif self.batch_size is not None:
            self._check_integer("batch_size", 1, "a number of examples, 1 or more, or None for no batches")
        needs = {
            "drop_remainder": self.drop_remainder,
            "ragged": self.ragged,
            "buckets": self.buckets is not None,
        }
        for name, given in needs.items():
            if given and self.batch_size is None:
                raise UsageError(f"{name} is about batches; give a batch_size too")
        if self.ragged and self.padding != "batch":
            raise UsageError("ragged=True pads nothing; leave padding out")
        if self.ragged and self.map_fn is not None:
            raise UsageError("map_fn works on single examples; with ragged=True use .map() on the dataset of batches")
        if self.buckets is None:
            return
        if _is_integer(self.buckets):
            self._check_integer("buckets", 2, "a number of buckets, 2 or more, or their boundaries")
        elif (
            isinstance(self.buckets, str)
            or not isinstance(self.buckets, Iterable)
            or getattr(self.buckets, "shape", None) == ()
        ):
            raise UsageError(f"buckets={self.buckets!r}: expected a number of buckets, or their boundaries")
        else:
            cuts = tuple(self.buckets)  # an iterator can be read only once
            rising = all(_is_integer(cut) and cut > 0 for cut in cuts) and list(cuts) == sorted(set(cuts))
            if not cuts or not rising:
                raise UsageError(f"buckets={cuts!r}: expected boundaries that rise, such as (64, 128, 256)")
            object.__setattr__(self, "buckets", tuple(int(cut) for cut in cuts))
        if self.padding != "batch":
            raise UsageError("buckets pad to the longest example of each batch; leave padding out")

    def _check_features(self) -> None:
        if self.features is None:
            return
        features = _freeze(self.features)
        if features is None:
            raise UsageError(
                f"features={self.features!r}: expected a name, or a tuple or a dict of names (or of tuples and dicts)"
            )
        object.__setattr__(self, "features", features)
        is_flat = isinstance(features, dict) and all(isinstance(name, str) for name in features.values())
        if self.with_lengths and not is_flat:
            raise UsageError(
                "with_lengths=True adds members to a dict; otherwise name them, as in ('array', 'array/length')"
            )

    def _check_shuffle(self) -> None:
        if isinstance(self.shuffle, str):
            parse_bytes(self.shuffle, "shuffle")
        elif isinstance(self.shuffle, _FLAGS):
            self._check_flag("shuffle", "")
        else:
            self._check_integer("shuffle", 1, "True, False, a number of examples or a size such as '256MB'")
        if self.seed is not None:
            self._check_integer("seed", 0, "a number from 0 to 2**63 - 1")

    def _check_start(self) -> None:
        """Raise `UsageError` where what was consumed does not follow from how many examples that were."""
        if self.shuffle is not False:
            raise UsageError(
                "start: which examples were consumed follows from their number only where nothing is shuffled; restore "
                "the checkpoint of each worker's iterator, or leave shuffle out: shards hold a random order already"
            )
        if self.buckets is not None or self.window is not None or self.deterministic is False:
            name = "buckets" if self.buckets is not None else "window" if self.window is not None else "deterministic"
            raise UsageError(f"start: with {name} examples come in another order or number than they are stored in")
        if self.repeat is not False:
            raise UsageError(
                "start: is of one epoch; read what is left of it without repeat, the next ones without start"
            )

    def _check_window(self) -> None:
        for name in ("window", "hop"):
            if getattr(self, name) is not None:
                self._check_integer(name, 1, "a size of 1 or more")
        if self.window is None and self.hop is not None:
            raise UsageError(f"hop={self.hop}: give a window too")
        if self.window is not None and (self.ragged or self.buckets is not None):
            raise UsageError("windows are all of one size; leave ragged and buckets out")
        if self.window is not None and self.hop is None:
            object.__setattr__(self, "hop", self.window)

    def _check_padding(self) -> None:
        values = self.padding_value.values() if isinstance(self.padding_value, Mapping) else (self.padding_value,)
        for value in values:
            kind = getattr(getattr(value, "dtype", None), "kind", "")
            if not isinstance(value, numbers.Number) and (not kind or kind in _NO_NUMBERS):
                raise UsageError(f"padding_value={self.padding_value!r}: expected a number, or one for each feature")
        if isinstance(self.padding, Mapping):
            for name, shape in self.padding.items():
                sizes = tuple(shape) if isinstance(shape, list | tuple) else ("?",)
                if not all(size is None or (_is_integer(size) and 0 <= size < 2**31) for size in sizes):
                    raise UsageError(f"padding of {name!r}: found {shape!r}, expected a shape such as (512, 80)")
        elif not isinstance(self.padding, str) or self.padding not in ("batch", "dataset"):
            raise UsageError(f"padding={self.padding!r}: expected 'batch', 'dataset' or shapes by feature's name")

    def _check_flag(self, name: str, expected: str) -> None:
        """Make Python's bool of an option, NumPy's is taken too. Raises `UsageError` for anything else."""
        value = getattr(self, name)
        if not isinstance(value, _FLAGS):
            raise UsageError(f"{name}={value!r}: expected {expected}")
        object.__setattr__(self, name, bool(value))

    def _check_integer(self, name: str, least: int, expected: str) -> None:
        """Make Python's int of an option, NumPy's are taken too. Raises `UsageError` for anything else."""
        value = getattr(self, name)
        if not _is_integer(value) or not least <= value < 2**63:
            raise UsageError(f"{name}={value!r}: expected {expected}")
        object.__setattr__(self, name, int(value))

    def worker_index(self) -> tuple[int, int]:
        """Which of how many workers this is; (0, 1) when there is only one."""
        if self.worker is None:
            return 0, 1
        if hasattr(self.worker, "input_pipeline_id"):  # tf.distribute.InputContext, without importing it
            return int(self.worker.input_pipeline_id), int(self.worker.num_input_pipelines)
        pair = tuple(self.worker) if isinstance(self.worker, list | tuple) else ()
        if len(pair) != 2 or not all(map(_is_integer, pair)) or not 0 <= pair[0] < pair[1]:
            raise UsageError(f"worker={self.worker!r}: expected (index, count) with index below count")
        return int(pair[0]), int(pair[1])

    def stops(self) -> tuple[tuple[int, int], ...]:
        """How often the epoch was stopped: examples consumed in all, and by how many workers; nothing for a new one."""
        given = self.start if isinstance(self.start, list | tuple) else (self.start, 1)
        pairs = [given] if all(map(_is_integer, given)) else given
        if not given or not all(
            isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_integer, pair)) and pair[0] >= 0 < pair[1]
            for pair in pairs
        ):
            raise UsageError(
                f"start={self.start!r}: expected how many examples were consumed in all, (examples, workers) where "
                "several workers consumed them, or a list of such pairs, one for each stop"
            )
        for examples, workers in pairs:
            if examples % workers:
                raise UsageError(
                    f"start={self.start!r}: {workers} workers that stop after the same step have consumed a multiple "
                    f"of {workers} examples, found {examples}; give steps × batch_size × workers"
                )
        return tuple((int(examples), int(workers)) for examples, workers in pairs if examples)

    @property
    def is_deterministic(self) -> bool:
        """Whether the order must be the same in every run."""
        if self.deterministic is not None:
            return self.deterministic
        return not self.shuffle or self.seed is not None

    def shuffle_examples(self, example_bytes: float, default_bytes: int, default_examples: int) -> int:
        """Examples that the shuffle buffer holds; 0 when nothing is shuffled."""
        if self.shuffle is False:
            return 0
        if isinstance(self.shuffle, str):
            return max(1, math.floor(parse_bytes(self.shuffle, "shuffle") / max(example_bytes, 1)))
        if self.shuffle is True:
            return max(1, min(default_examples, math.floor(default_bytes / max(example_bytes, 1))))
        return int(self.shuffle)


def _freeze(features: Any) -> Any:
    """Names in tuples and dicts, however nested, lists made tuples; None for anything else."""
    if isinstance(features, str):
        return features
    if isinstance(features, Mapping):
        members: Any = {name: _freeze(member) for name, member in features.items()}
        good = all(isinstance(name, str) for name in members) and None not in members.values()
    elif isinstance(features, list | tuple):
        members = tuple(map(_freeze, features))
        good = None not in members
    else:
        return None
    return members if members and good else None


def _is_integer(value: Any) -> bool:
    """Whether it is a whole number, Python's or NumPy's."""
    return isinstance(value, numbers.Integral) and not isinstance(value, _FLAGS)
