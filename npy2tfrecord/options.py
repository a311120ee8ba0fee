"""What a conversion can be told, checked before anything is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.example import KEY
from npy2tfrecord.formats.manifest import COMPRESSIONS, FEATURE_PATTERN, MAX_SHARDS, SPLIT_PATTERN
from npy2tfrecord.formats.npy import dtype_from_name

DEFAULT_FEATURE = "array"
DEFAULT_SPLIT = "train"
DEFAULT_SHARD_SIZE = 128 * 10**6
LOCAL_BACKENDS = ("loky", "multiprocessing", "threading", "sequential")  # joblib's, which run where we run

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}b": 1000 ** (i + 1) for i, prefix in enumerate("kmgt")}
_UNITS |= {f"{prefix}ib": 1024 ** (i + 1) for i, prefix in enumerate("kmgt")}

Dtype = str | type[Any] | np.dtype[Any]
Path = str | bytes | os.PathLike[str]
Sources = Path | Sequence[Path] | Mapping[str, Path | Sequence[Path]]


def parse_size(text: str | int) -> int:
    """Bytes from `128MB`, `1GiB` or a plain number. Raises `UsageError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if match and match[2].lower() in _UNITS:
        size = int(Fraction(match[1]) * _UNITS[match[2].lower()])
        if size > 0:
            return size
    raise UsageError(f"size {text!r}: expected a number with kB, MB, GB, KiB, MiB or GiB behind it, such as 128MB")


def parse_sources(sources: Sources) -> tuple[tuple[str | None, bytes], ...]:
    """(feature name or None, path) of each source, from what a caller or a command line gave.

    A string `NAME=PATH` names its feature, unless a file of that whole name exists.
    """
    if isinstance(sources, Mapping):
        pairs: list[tuple[str | None, bytes]] = []
        for feature, paths in sources.items():
            listed = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else paths
            pairs.extend((feature, os.fsencode(path)) for path in listed)
    else:
        listed = [sources] if isinstance(sources, (str, bytes, os.PathLike)) else sources
        pairs = [_split_name(path) for path in listed]
    if not pairs:
        raise UsageError("no sources: name at least one directory, .npy or .npz file")
    for name, _ in pairs:
        if name is not None:
            check_feature_name(name)
    return tuple(pairs)


def anchored(sources: tuple[tuple[str | None, bytes], ...], backend: str) -> tuple[tuple[str | None, bytes], ...]:
    """The sources by absolute paths where workers may be in another directory: those of a cluster."""
    if backend in LOCAL_BACKENDS:
        return sources
    return tuple((name, os.path.join(os.getcwdb(), path)) for name, path in sources)


def _split_name(source: Path) -> tuple[str | None, bytes]:
    path = os.fsencode(source)
    name, equals, rest = path.partition(b"=")
    if equals and not isinstance(source, os.PathLike) and not os.path.lexists(path):
        text = os.fsdecode(name)
        if FEATURE_PATTERN.fullmatch(text):
            return text, rest
    return None, path


def check_feature_name(name: str) -> None:
    """Raise `UsageError` unless `name` can be a feature's name in a record."""
    if not FEATURE_PATTERN.fullmatch(name):
        raise UsageError(f"feature name {name!r}: expected letters, digits, '_', '.' and '-'")
    if name == KEY:
        raise UsageError(f"feature name {name!r} is taken: every record has its source's key under it")


@dataclass(frozen=True)
class Options:
    """Everything that can be chosen of a conversion, with defaults; see `npy2tfrecord.convert`."""

    # which sources
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    files_from: str | None = None
    follow_symlinks: bool = False
    on_error: str = "fail"
    # what an example is
    rows: bool = False
    group_by_suffix: bool = False
    missing: str = "fail"
    labels: str | None = None
    dtype: Dtype | Sequence[Dtype] | Mapping[str, Dtype] | None = None
    void_dtype: str | None = None  # or a dtype; its name in the end
    # where it goes
    split: str | Mapping[str, float] | None = None
    split_by: str | None = None
    shuffle: bool = True
    seed: int = 0
    shard_size: int | str = DEFAULT_SHARD_SIZE
    num_shards: int | None = None
    compression: str = "none"
    # what else
    stats: bool = False
    read_back: bool = False
    fsync: bool = True
    # who does it
    jobs: int | None = None
    backend: str = "loky"
    scheduler: str | None = None

    casts: Mapping[str | None, str] = field(init=False, repr=False)
    fractions: tuple[tuple[str, Fraction], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("include", "exclude"):
            value = getattr(self, name)
            put(name, (value,) if isinstance(value, str) else tuple(value))
        put("shard_size", parse_size(self.shard_size))
        put("labels", None if self.labels is None else os.fspath(self.labels))
        put("files_from", None if self.files_from is None else os.fspath(self.files_from))
        put("casts", _parse_casts(self.dtype))
        put("fractions", _parse_fractions(self.split))
        for name, known in (
            ("on_error", ("fail", "skip")),
            ("missing", ("fail", "skip")),
            ("compression", COMPRESSIONS),
        ):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")
        if self.num_shards is not None and not 1 <= self.num_shards <= MAX_SHARDS:
            raise UsageError(f"num_shards {self.num_shards}: expected 1 to {MAX_SHARDS}")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"seed {self.seed}: expected 0 to 2**64 - 1")
        if self.jobs == 0:
            raise UsageError("jobs 0: expected 1 or more, or -1 for every core")
        if self.scheduler is not None and self.backend != "dask":
            raise UsageError("a scheduler's address goes with backend 'dask'")
        if self.split_by is not None:
            try:
                re.compile(self.split_by)
            except re.error as error:
                raise UsageError(f"split_by {self.split_by!r}: no regular expression ({error})") from None
            if not self.fractions:
                raise UsageError("split_by goes with fractions, such as split='train=0.9,val=0.1'")
        if self.void_dtype is not None:
            put("void_dtype", dtype_name(self.void_dtype))
            check_dtype_name("void_dtype", self.void_dtype)

    def shaping(self) -> dict[str, Any]:
        """The options that change what is written, as the manifest records them."""
        names = (
            *("include", "exclude", "follow_symlinks", "on_error", "rows", "group_by_suffix", "missing"),
            *("void_dtype", "split_by", "shuffle", "seed", "compression", "stats"),
        )
        shaping = {name: getattr(self, name) for name in names}
        shaping["include"], shaping["exclude"] = list(self.include), list(self.exclude)
        shaping["labels"] = self.labels if self.labels in (None, "dirs") else "file"
        shaping["dtype"] = {name or "": dtype for name, dtype in sorted(self.casts.items(), key=str)}
        shaping["split"] = {name: str(f) for name, f in self.fractions} or self.split
        shaping["num_shards"] = self.num_shards
        shaping["shard_size"] = self.shard_size if self.num_shards is None else None
        return shaping


def check_dtype_name(option: str, name: str) -> None:
    """Raise `UsageError` unless arrays of that dtype can be written."""
    try:
        dtype_from_name(name)
    except ModuleNotFoundError:
        raise UsageError(f"{option} {name!r} needs the package ml_dtypes, which is not installed") from None
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def dtype_name(dtype: Dtype) -> str:
    """The name of a dtype given as NumPy's callers give it: `"float16"`, `np.float16`, `np.dtype("float16")`."""
    return dtype if isinstance(dtype, str) else np.dtype(dtype).name


def _parse_casts(dtype: Dtype | Sequence[Dtype] | Mapping[str, Dtype] | None) -> dict[str | None, str]:
    if dtype is None:
        return {}
    if isinstance(dtype, Mapping):
        pairs: list[tuple[str | None, str]] = [(name, dtype_name(to)) for name, to in dtype.items()]
    else:
        texts = [dtype_name(dtype)] if isinstance(dtype, (str, type, np.dtype)) else map(dtype_name, dtype)
        pairs = [(name or None, to) for name, _, to in (text.rpartition(":") for text in texts)]
    casts: dict[str | None, str] = {}
    for name, to in pairs:
        check_dtype_name("dtype", to)
        if name in casts:
            raise UsageError(f"dtype is given twice for {'all features' if name is None else repr(name)}")
        casts[name] = to
    return casts


def _parse_fractions(split: str | Mapping[str, float] | None) -> tuple[tuple[str, Fraction], ...]:
    if split is None or split == "dirs":
        return ()
    if isinstance(split, Mapping):
        parts = [(name, str(value)) for name, value in split.items()]
    else:
        parts = [(name.strip(), value.strip()) for name, _, value in (p.partition("=") for p in split.split(","))]
    fractions: list[tuple[str, Fraction]] = []
    for name, value in parts:
        check_split_name(name)
        try:
            fraction = Fraction(value)
        except (ValueError, ZeroDivisionError):
            raise UsageError(f"split {split!r}: expected 'dirs' or fractions like 'train=0.9,val=0.1'") from None
        if not 0 < fraction <= 1:
            raise UsageError(f"split {name}={value}: expected a fraction above 0 and at most 1")
        if name in dict(fractions):
            raise UsageError(f"split {name!r} is named twice")
        fractions.append((name, fraction))
    total = sum((f for _, f in fractions), Fraction(0))
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise UsageError(f"split {split!r}: the fractions add up to {float(total):g}, expected 1")
    return tuple((name, f / total) for name, f in fractions)


def check_split_name(name: str) -> None:
    """Raise `UsageError` unless `name` can be a split's name, which is part of file names."""
    if not SPLIT_PATTERN.fullmatch(name):
        raise UsageError(f"split name {name!r}: expected letters, digits, '_' and '-'")
