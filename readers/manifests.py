"""The manifest as readers need it, and whether the shards on disk are those it lists. No TensorFlow here."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.manifest import Manifest, ShardInfo

PathLike = str | os.PathLike[str]

_THREADS = 16  # a network file system answers many questions at once, one by one it takes milliseconds each
_FEW = 64  # shards that tell whether it is one
_SLOW_SECONDS = 200e-6  # for each of them; faster ones are not worth threads


def load_manifest(path: PathLike) -> Manifest:
    """What is in a data set: features, splits, shards, class names.

    `load_manifest(path).labels` are the class names, `.feature("array").shape` is a feature's shape.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"path={path!r}: expected the directory that npy2tfrecord wrote")
    return manifest_parsing.load(path)


def check_shards(directory: PathLike, shards: Sequence[ShardInfo]) -> None:
    """Raise `DamageError` unless every shard is there and has the size that the manifest says."""
    paths = [(os.path.join(os.fsdecode(directory), shard.file), shard.bytes) for shard in shards]
    started = time.monotonic()
    problems = _problems(paths[:_FEW])
    rest = paths[_FEW:]
    if time.monotonic() - started < _FEW * _SLOW_SECONDS:
        problems += _problems(rest)
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            shares = pool.map(_problems, [rest[i::_THREADS] for i in range(_THREADS)])
            problems = sorted(chain(problems, *shares))
    if problems:
        others = f" (and {len(problems) - 1} other shards of {len(paths)})" if len(problems) > 1 else ""
        raise DamageError(f"{problems[0]}{others}; the data set has to be converted or copied again")


def _problems(shards: Sequence[tuple[str, int]]) -> list[str]:
    return [problem for problem in map(_problem, shards) if problem]


def _problem(shard: tuple[str, int]) -> str:
    path, size = shard
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{display(path)}: {error.strerror or error}, expected a shard of {size} bytes"
    if not stat.S_ISREG(status.st_mode):
        return f"{display(path)}: not a regular file, expected a shard of {size} bytes"
    if status.st_size != size:
        return f"{display(path)}: {status.st_size} bytes, expected {size} by the manifest"
    return ""
