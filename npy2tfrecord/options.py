"""The options of a conversion, checked before anything is read."""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from npy2tfrecord.errors import UsageError, display
from npy2tfrecord.formats.example import KEY
from npy2tfrecord.formats.manifest import COMPRESSIONS, FEATURE_PATTERN, MAX_SHARDS, SPLIT_PATTERN, Hash
from npy2tfrecord.formats.npy import MAX_RANK, dtype_from_name
from npy2tfrecord.paths import is_bucket, local_path, place

DEFAULT_FEATURE = "array"
DEFAULT_SPLIT = "train"
DEFAULT_SHARD_SIZE = 128 * 10**6
MAX_JOBS = 2**20
MAX_IN_FLIGHT = 1024
MAX_FOLDS = 1000
MAX_PARTS = 99_999  # of a conversion: five digits of a file's name
LOCAL_BACKENDS = ("loky", "multiprocessing", "threading", "sequential")  # joblib's own, on this machine

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}b": 1000 ** (i + 1) for i, prefix in enumerate("kmgt")}
_UNITS |= {f"{prefix}ib": 1024 ** (i + 1) for i, prefix in enumerate("kmgt")}

Rank = int | str
Dtype = str | type[Any] | np.dtype[Any]
Path = str | bytes | os.PathLike[str]
Sources = Path | Sequence[Path] | Mapping[str, Path | Sequence[Path]]


# --- values of one type: each function takes a value and the option's name, and raises `UsageError` -----------------


def parse_integer(value: Any, option: str, least: int, most: int) -> int:
    """An integer of Python or NumPy, from `least` to `most`; no bool, no float."""
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise UsageError(f"{option} {value!r}: expected an integer")
    if not least <= number <= most:
        raise UsageError(f"{option} {number}: expected {least} to {_power(most)}")
    return number


def _power(number: int) -> str:
    return "2**64 - 1" if number == 2**64 - 1 else str(number)


def parse_flag(value: Any, option: str) -> bool:
    """A bool of Python or NumPy; a word such as "no" is none."""
    if not isinstance(value, (bool, np.bool_)):
        raise UsageError(f"{option} {value!r}: expected True or False")
    return bool(value)


def parse_text(value: Any, option: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise UsageError(f"{option} {value!r}: expected a string")
    return value


def parse_path(value: Any, option: str) -> str:
    """A path of this machine as a string, whatever kind of path it is."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise UsageError(f"{option} {value!r}: expected a path")
    return local_path(value, option)


def parse_place(value: Any, option: str) -> str:
    """A path of this machine or the URL of a place in a bucket, as a string."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise UsageError(f"{option} {value!r}: expected a path")
    return place(value, option)


def absolute_place(path: str) -> str:
    """The same place by a name that holds in every directory."""
    return path if is_bucket(path) else os.path.abspath(path)


def parse_size(value: Any, option: str = "size", *, needs_unit: bool = False) -> int:
    """Bytes from `128MB`, `1GiB` or, unless a unit is needed, a plain number."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
        if match and match[2].lower() in _UNITS and (match[2] or not needs_unit):
            size = int(Fraction(match[1]) * _UNITS[match[2].lower()])
            if 0 < size < 2**63:
                return size
    elif not needs_unit:
        try:
            return parse_integer(value, option, 1, 2**63 - 1)
        except UsageError:
            pass
    raise UsageError(f"{option} {value!r}: expected a number with kB, MB, GB, KiB, MiB or GiB behind it, such as 128MB")


def _parse_patterns(value: Any, option: str) -> tuple[str, ...]:
    patterns = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"{option} {value!r}: expected a pattern or a list of patterns, as in gitignore")
    return patterns


def _parse_paths(value: Any, option: str) -> tuple[str, ...]:
    several = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
    return tuple(parse_path(each, option) for each in (value if several else [value]))


def _parse_regex(value: Any, option: str) -> str:
    text = parse_text(value, option)
    try:
        re.compile(text)
    except re.error as error:
        raise UsageError(f"{option} {text!r}: no regular expression ({error})") from None
    return text


def _parse_dtype(value: Any, option: str) -> str:
    name = dtype_name(value, option)
    check_dtype_name(option, name)
    return name


def _parse_jobs(value: Any, option: str) -> int:
    jobs = parse_integer(value, option, -MAX_JOBS, MAX_JOBS)
    if jobs == 0:
        raise UsageError(f"{option} 0: expected 1 or more, or -1 for every core")
    return jobs


_WILDCARD = re.compile(rb"[*?\[]")

_Parser = Callable[[Any, str], Any]


def _parse_part(value: Any, option: str) -> tuple[int, int]:
    """The number of a part, from 1, and how many there are."""
    expected = f"expected I/N, such as 3/16: the third of 16 parts; at most {MAX_PARTS}"
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", value)):
        value = int(match[1]), int(match[2])
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise UsageError(f"{option} {value!r}: {expected}")
    number, count = (parse_integer(each, option, 0, 10**9) for each in value)
    if not 1 <= number <= count <= MAX_PARTS:
        raise UsageError(f"{option} {number}/{count}: {expected}")
    return number, count


def _number(least: int, most: int) -> _Parser:
    return lambda value, option: parse_integer(value, option, least, most)


def _one_of(*known: str) -> _Parser:
    def parse(value: Any, option: str) -> str:
        if not isinstance(value, str) or value not in known:
            raise UsageError(f"{option} {value!r}: expected one of {', '.join(known)}")
        return value

    return parse


def _optional(parse: _Parser) -> _Parser:
    return lambda value, option: None if value is None else parse(value, option)


_PARSERS: dict[str, _Parser] = {
    "include": _parse_patterns,
    "exclude": _parse_patterns,
    "files_from": _optional(parse_path),
    "follow_symlinks": parse_flag,
    "not_in": _parse_paths,
    "on_error": _one_of("fail", "skip"),
    "rows": parse_flag,
    "group_by_suffix": parse_flag,
    "members": parse_flag,
    "missing": _one_of("fail", "skip"),
    "labels": _optional(parse_path),
    "label_by": _optional(_parse_regex),
    "void_dtype": _optional(_parse_dtype),
    "split_by": _optional(_parse_regex),
    "sort": _one_of("bytes", "natural"),
    "shuffle": parse_flag,
    "seed": _number(0, 2**64 - 1),
    "shard_size": parse_size,
    "num_shards": _optional(_number(1, MAX_SHARDS)),
    "compression": _one_of(*COMPRESSIONS),
    "stats": parse_flag,
    "read_back": parse_flag,
    "fsync": parse_flag,
    "part": _optional(_parse_part),
    "jobs": _optional(_parse_jobs),
    "backend": parse_text,
    "scheduler": _optional(parse_text),
    "in_flight": _optional(_number(1, MAX_IN_FLIGHT)),
    "scratch": _optional(parse_path),
    "assume_single_writer": parse_flag,
}
"""How the value of each option is checked and brought to one type. Apart: `dtype`, `rank`, `key_by`, `split`."""


# --- sources and features ---------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A source as it was given: a path with its feature and split, and what it takes of an archive or a directory."""

    feature: str | None
    path: bytes
    member: str | None = None
    glob: str | None = None
    split: str | None = None


def parse_sources(sources: Sources) -> tuple[Source, ...]:
    """Each source, from what a caller or a command line gave.

    A string `NAME=PATH` names its feature, unless a file of that whole name exists.
    """
    if isinstance(sources, Mapping):
        pairs = [
            _locate(path, *_split_of(parse_text(feature, "feature name")))
            for feature, paths in sources.items()
            for path in _listed(paths)
        ]
    else:
        pairs = [_parse_source(path) for path in _listed(sources)]
    if not pairs:
        raise UsageError("no sources: name at least one directory, .npy or .npz file")
    for source in pairs:
        if source.feature is not None:
            check_feature_name(source.feature)
    if len({source.split is None for source in pairs}) > 1:
        raise UsageError("some sources name their split, SPLIT:NAME=PATH, and others don't: expected all or none")
    return tuple(pairs)


def _listed(paths: Path | Sequence[Path]) -> list[Path]:
    listed = list(paths) if isinstance(paths, Iterable) and not isinstance(paths, (str, bytes)) else [paths]
    for path in listed:
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise UsageError(f"source {path!r}: expected a path, a list of paths, or paths by feature")
    return listed


def anchored(sources: tuple[Source, ...], backend: str) -> tuple[Source, ...]:
    """The sources by absolute paths where workers may be in another directory: those of a cluster."""
    if backend in LOCAL_BACKENDS:
        return sources
    here = os.getcwdb()
    return tuple(
        source if is_bucket(source.path) else source._replace(path=os.path.join(here, source.path))
        for source in sources
    )


def with_splits_of(sources: tuple[Source, ...], options: Options) -> Options:
    """The options for sources that may name their splits, which are the first folders of their keys."""
    if sources[0].split is None:
        return options
    if options.split not in (None, "dirs"):
        raise UsageError(
            f"split {options.split!r}: the sources name their splits, SPLIT:NAME=PATH; leave out one of both"
        )
    return replace(options, split="dirs")


def _parse_source(source: Path) -> Source:
    text = os.fsdecode(source)
    name, equals, rest = text.partition("=")
    if equals and not isinstance(source, os.PathLike) and not os.path.lexists(text):
        feature, split = _split_of(name)
        if FEATURE_PATTERN.fullmatch(feature):
            return _locate(rest, feature, split)
    return _locate(source, None, None)


def _split_of(name: str) -> tuple[str, str | None]:
    """The feature and the split that `SPLIT:NAME` or `NAME` names."""
    split, colon, feature = name.rpartition(":")
    return (feature, split) if colon and SPLIT_PATTERN.fullmatch(split) else (name, None)


def _locate(given: Path, feature: str | None, split: str | None) -> Source:
    """The source at a path, `PATH[MEMBER]` or `DIR:GLOB`; what exists by the whole name is a path.

    In a bucket nobody asks what exists: what ends in brackets names a member, and a glob has a wildcard in it.
    """
    path = os.fsencode(parse_place(given, "source"))
    if isinstance(given, os.PathLike) or os.path.lexists(path):
        return Source(feature, path, split=split)
    bracket = _member_bracket(path)
    if 0 < bracket < len(path) - 2:
        member = os.fsdecode(path[bracket + 1 : -1])
        if feature is None and not FEATURE_PATTERN.fullmatch(member):
            raise UsageError(f"source {display(path)}: the member's name can't be a feature's; give it one, NAME=PATH")
        return _locate(path[:bracket], feature or member, split)._replace(member=member)
    colon = _glob_colon(path)
    if 0 < colon < len(path) - 1:
        return Source(feature, path[:colon], glob=os.fsdecode(path[colon + 1 :]), split=split)
    return Source(feature, path, split=split)


def _member_bracket(path: bytes) -> int:
    """Where the name of a member begins, with a bracket; -1 without one."""
    if not path.endswith(b"]"):
        return -1
    places = [at for at, each in enumerate(path) if each == ord("[")]
    if not is_bucket(path):
        return next((at for at in places if path[:at][-4:].lower() == b".npz" or os.path.isdir(path[:at])), -1)
    return next((at for at in places if path[:at][-4:].lower() == b".npz"), places[-1] if places else -1)


def _glob_colon(path: bytes) -> int:
    """Where the pattern of a directory's files begins, behind a colon; -1 without one."""
    places = [at for at, each in enumerate(path) if each == ord(":")]
    if not is_bucket(path):
        return next((at for at in places if os.path.isdir(path[:at])), -1)
    return places[-1] if len(places) > 1 and _WILDCARD.search(path, places[-1]) else -1


def check_feature_name(name: str) -> None:
    """Raise `UsageError` unless `name` can be a feature's name in a record."""
    if not FEATURE_PATTERN.fullmatch(name):
        raise UsageError(f"feature name {name!r}: expected letters, digits, '_', '.' and '-'")
    if name == KEY:
        raise UsageError(f"feature name {name!r} is taken: every record has its source's key under it")


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options of a conversion, with their defaults; see `npy2tfrecord.convert`.

    Values may be of any type that a caller would expect to work; they are brought to the type of the field here.
    """

    # which sources
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    files_from: str | None = None
    follow_symlinks: bool = False
    not_in: tuple[str, ...] = ()  # data sets whose keys are left out
    on_error: str = "fail"
    # what an example is
    rows: bool = False
    group_by_suffix: bool = False
    members: bool = False
    missing: str = "fail"
    labels: str | None = None
    label_by: str | None = None
    key_by: str | Sequence[str] | Mapping[str, str] | None = None
    dtype: Dtype | Sequence[Dtype] | Mapping[str, Dtype] | None = None
    rank: Rank | Sequence[Rank] | Mapping[str, Rank] | None = None
    void_dtype: str | None = None  # or a dtype; its name in the end
    # splits and shards
    split: str | os.PathLike[str] | Mapping[str, float] | None = None
    split_by: str | None = None
    sort: str = "bytes"
    shuffle: bool = True
    seed: int = 0
    shard_size: int | str = DEFAULT_SHARD_SIZE  # bytes, once it is parsed
    num_shards: int | None = None
    compression: str = "none"
    # more checks
    stats: bool = False
    read_back: bool = False
    fsync: bool = True
    # workers
    part: str | tuple[int, int] | None = None  # a tuple, once it is parsed
    jobs: int | None = None
    backend: str = "loky"
    scheduler: str | None = None
    in_flight: int | None = None  # requests to storage; found out while they run
    # an output in a bucket
    scratch: str | None = None  # the system's temporary directory
    assume_single_writer: bool = False

    casts: Mapping[str | None, str] = field(init=False, repr=False)
    ranks: Mapping[str | None, int] = field(init=False, repr=False)
    key_patterns: Mapping[str | None, str] = field(init=False, repr=False)
    fractions: tuple[tuple[str, Fraction], ...] = field(init=False, repr=False)
    folds: int = field(init=False, repr=False)  # 0 without
    split_table: str | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name, parse in _PARSERS.items():
            put(name, parse(getattr(self, name), name))
        put("casts", _parse_casts(self.dtype))
        put("ranks", _parse_ranks(self.rank))
        put("key_patterns", _parse_key_patterns(self.key_by))
        put("split_table", _parse_split_table(self.split))
        put("folds", 0 if self.split_table else _parse_folds(self.split))
        put("fractions", () if self.folds or self.split_table else _parse_fractions(self.split))
        if self.labels is not None and self.label_by is not None:
            raise UsageError("labels and label_by are both given: expected one of them")
        if self.has_label_array and not self.rows:
            raise UsageError(
                f"labels {self.labels!r}: an array has labels by number of row, and goes with rows; without rows, give"
                " a table, a CSV file with the columns key and label"
            )
        if self.not_in and self.folds:
            raise UsageError(
                f"split {self.split!r} and not_in: folds depend on all examples, and those of the earlier sets are not"
                " divided again; expected fractions such as 'train=0.9,val=0.1', 'dirs' or a table"
            )
        if self.scheduler is not None and self.backend != "dask":
            raise UsageError("a scheduler's address goes with backend 'dask'")
        if self.split_by is not None and not self.fractions and not self.folds:
            raise UsageError("split_by goes with fractions or folds, such as split='train=0.9,val=0.1' or '5-fold'")

    def cast_of(self, feature: str) -> str | None:
        """The dtype that a feature is cast to."""
        return self.casts.get(feature, self.casts.get(None))

    def rank_of(self, feature: str) -> int | None:
        """The rank that a feature's arrays are brought to."""
        return self.ranks.get(feature, self.ranks.get(None))

    @property
    def has_label_array(self) -> bool:
        """Whether the labels are in a `.npy` file, by number of row."""
        return self.labels is not None and self.labels.lower().endswith(".npy")

    def scan_identity(self, sources: Iterable[Source], version: str) -> str:
        """What a scan depends on besides the files themselves, as a hash: only with the same can it be shared."""
        places = [[None if part is None else str(part) for part in source] for source in sources]
        above = [absolute_place(os.fsdecode(source.path)) for source in sources]
        return str(Hash(json.dumps([version, places, above, self.files_from, self.shaping()]).encode()).hexdigest())

    def shaping(self) -> dict[str, Any]:
        """The options that change what is written, as the manifest records them."""
        names = (
            *("include", "exclude", "follow_symlinks", "on_error", "rows", "group_by_suffix", "members", "missing"),
            *("label_by", "void_dtype", "split_by", "sort", "shuffle", "seed", "compression", "stats"),
        )
        shaping = {name: getattr(self, name) for name in names}
        shaping["include"], shaping["exclude"] = list(self.include), list(self.exclude)
        shaping["labels"] = self.labels if self.labels in (None, "dirs") else "file"
        shaping["dtype"] = {name or "": dtype for name, dtype in sorted(self.casts.items(), key=str)}
        shaping["rank"] = {name or "": str(rank) for name, rank in sorted(self.ranks.items(), key=str)}
        shaping["key_by"] = {name or "": pattern for name, pattern in sorted(self.key_patterns.items(), key=str)}
        shaping["split"] = {name: str(f) for name, f in self.fractions} or self.split
        if self.split_table is not None:
            shaping["split"] = "file"
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


def dtype_name(dtype: Dtype, option: str) -> str:
    """The name of a dtype given as NumPy's callers give it: `"float16"`, `np.float16`, `np.dtype("float16")`."""
    if isinstance(dtype, (type, np.dtype)):
        try:
            return np.dtype(dtype).name
        except TypeError:
            pass
    elif isinstance(dtype, str):
        return dtype
    raise UsageError(f"{option} {dtype!r}: expected a dtype, such as 'float16' or numpy.float16")


def _parse_casts(dtype: Dtype | Sequence[Dtype] | Mapping[str, Dtype] | None) -> dict[str | None, str]:
    if dtype is None:
        return {}
    pairs: list[tuple[str | None, str]]
    if isinstance(dtype, Mapping):
        pairs = [(name and parse_text(name, "dtype of feature"), dtype_name(to, "dtype")) for name, to in dtype.items()]
    else:
        listed = dtype if isinstance(dtype, Sequence) and not isinstance(dtype, str) else [dtype]
        texts = [dtype_name(each, "dtype") for each in listed]
        pairs = [(name or None, to) for name, _, to in (text.rpartition(":") for text in texts)]
    casts: dict[str | None, str] = {}
    for name, to in pairs:
        check_dtype_name("dtype", to)
        if name in casts:
            raise UsageError(f"dtype is given twice for {'all features' if name is None else repr(name)}")
        casts[name] = to
    return casts


def _parse_ranks(value: Any) -> dict[str | None, int]:
    if value is None:
        return {}
    pairs: list[tuple[str | None, Any]]
    if isinstance(value, Mapping):
        pairs = [(parse_text(name, "rank of feature") or None, rank) for name, rank in value.items()]
    else:
        pairs = []
        for each in [value] if isinstance(value, str) or not isinstance(value, Iterable) else value:
            name, _, rank = each.rpartition(":") if isinstance(each, str) else ("", "", each)
            pairs.append((name or None, rank))
    ranks: dict[str | None, int] = {}
    for feature, rank in pairs:
        if feature in ranks:
            raise UsageError(f"rank is given twice for {'all features' if feature is None else repr(feature)}")
        number = int(rank) if isinstance(rank, str) and re.fullmatch("[0-9]{1,3}", rank) else rank
        ranks[feature] = parse_integer(number, "rank", 0, MAX_RANK)
    return ranks


def _parse_key_patterns(value: Any) -> dict[str | None, str]:
    if value is None:
        return {}
    pairs: list[tuple[str | None, Any]]
    if isinstance(value, Mapping):
        pairs = [(parse_text(name, "key_by of feature") or None, pattern) for name, pattern in value.items()]
    else:
        pairs = []
        for each in [value] if isinstance(value, str) or not isinstance(value, Iterable) else value:
            name, colon, rest = parse_text(each, "key_by").partition(":")
            is_named = colon and (not name or FEATURE_PATTERN.fullmatch(name))
            pairs.append((name or None, rest) if is_named else (None, each))
    patterns: dict[str | None, str] = {}
    for feature, pattern in pairs:
        if feature in patterns:
            raise UsageError(f"key_by is given twice for {'all features' if feature is None else repr(feature)}")
        patterns[feature] = _parse_regex(pattern, "key_by")
    return patterns


def _parse_split_table(split: Any) -> str | None:
    """The path of a table of splits; None for any other way to split."""
    if isinstance(split, os.PathLike):
        return parse_path(split, "split")
    if isinstance(split, str) and split.lower().endswith(".csv") and "=" not in split:
        return parse_path(split, "split")
    return None


def _parse_folds(split: Any) -> int:
    match = re.fullmatch(r"(\d{1,9})-fold", split) if isinstance(split, str) else None
    return parse_integer(int(match[1]), f"split {split!r}, number of folds", 2, MAX_FOLDS) if match else 0


_EXPECTED_SPLIT = "expected 'dirs', fractions like 'train=0.9,val=0.1', folds like '5-fold', or FILE.csv"


def _parse_fractions(split: str | os.PathLike[str] | Mapping[str, float] | None) -> tuple[tuple[str, Fraction], ...]:
    if split is None or split == "dirs":
        return ()
    if isinstance(split, Mapping):
        parts = [(parse_text(name, "split name"), str(value)) for name, value in split.items()]
    elif not isinstance(split, str):
        raise UsageError(f"split {split!r}: {_EXPECTED_SPLIT}")
    else:
        parts = [(name.strip(), value.strip()) for name, _, value in (p.partition("=") for p in split.split(","))]
    fractions: list[tuple[str, Fraction]] = []
    for name, value in parts:
        check_split_name(name)
        try:
            fraction = Fraction(value)
        except (ValueError, ZeroDivisionError):
            raise UsageError(f"split {split!r}: {_EXPECTED_SPLIT}") from None
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
