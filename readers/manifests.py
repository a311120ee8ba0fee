"""`load_manifest`: what is in a data set, or in several that are read as one. No TensorFlow here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from npy2tfrecord.errors import UsageError, display
from npy2tfrecord.formats.manifest import FILE_NAME, FeatureInfo, Histogram, LabelCounts, Manifest, ShardInfo
from npy2tfrecord.paths import is_bucket, place
from npy2tfrecord.planning.feature_summary import make_histogram
from npy2tfrecord.storage import set_files
from npy2tfrecord.storage.objects import Prefix
from npy2tfrecord.storage.set_files import SetFiles, files_of

PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedShard(ShardInfo):
    """A shard and the data set that it is in: `classes[i]` is what label i of its records means among all sets."""

    directory: str  # or the URL of a place in a bucket
    files: SetFiles = field(compare=False, repr=False)  # the data set's, of all its shards the same
    classes: tuple[int, ...] | None = None  # None where labels are right as they are

    @property
    def is_in_bucket(self) -> bool:
        return is_bucket(self.directory)

    @property
    def path(self) -> str:
        """Its path, or its URL."""
        return os.path.join(self.directory, self.file)


def load_manifest(path: Paths) -> Manifest:
    """What is in a data set: features, splits, shards, class names. Its shards are `PlacedShard`s.

    `load_manifest(path).labels` are the class names, `.feature("array").shape` is a feature's shape. Several paths, or
    a directory of data sets, are one data set. Raises `UsageError` where they can't be.
    """
    return united(load_sets(path))


def load_sets(path: Paths) -> dict[str, Manifest]:
    """The manifests of the data sets that are meant, by their directories, in the order of reading."""
    found: dict[str, Manifest] = {}
    for directory in find_sets(path):
        try:
            found[directory] = set_files.load_manifest(directory)
        except UsageError:
            below = _below_prefix(directory) if is_bucket(directory) else []
            if not below:
                raise
            found |= {each: set_files.load_manifest(each) for each in below}
    return found


def find_sets(path: Paths) -> list[str]:
    """The directories of the data sets that are meant: each path's own, or those below it, sorted by name.

    URLs of buckets stand for themselves: looking below would cost a request where most are one data set.
    """
    paths = [path] if isinstance(path, str | os.PathLike) else path
    good = isinstance(paths, list | tuple) and all(isinstance(each, str | os.PathLike) for each in paths)
    if not good or not paths:
        raise UsageError(f"path={path!r}: expected the directory that npy2tfrecord wrote, or a list of them")
    return [found for each in paths for found in _sets_below(place(each, "path"))]


def _below_prefix(url: str) -> list[str]:
    """The data sets right below a prefix that is none; nothing where the first directory is no data set."""
    prefix = Prefix(url)
    try:
        names = prefix.directories()
        below = [prefix.at(name) for name in names if not name.startswith(".")]
        if below and ".npy2tfrecord" not in names:
            Prefix(below[0]).head(FILE_NAME)
            return below
    except OSError:
        pass  # that there is no manifest says more
    return []


def _sets_below(directory: str) -> list[str]:
    if is_bucket(directory):
        return [directory]
    top = Path(directory)
    try:
        if top.joinpath(FILE_NAME).exists() or top.joinpath(".npy2tfrecord").exists():
            return [directory]
        below = sorted(each for each in top.iterdir() if each.is_dir() and not each.name.startswith("."))
        if any(each.joinpath(FILE_NAME).exists() for each in below):
            return [str(each) for each in below]
    except OSError:
        pass  # reading the manifest will say why
    return [directory]


def united(sets: Mapping[str, Manifest]) -> Manifest:
    """The manifest of several data sets, by their directories, that are read as one.

    Raises `UsageError`, which names the data set and the feature, where they don't fit together.
    """
    (first, model), *others = sets.items()
    for directory, manifest in others:
        _check_fit(first, model, directory, manifest)
    labels = model.labels
    differ = any(manifest.labels != labels for manifest in sets.values())
    if differ:
        labels = tuple(sorted({name for manifest in sets.values() for name in manifest.labels or ()}))
    numbers = {name: i for i, name in enumerate(labels or ())}
    splits: dict[str, tuple[PlacedShard, ...]] = {}
    for directory, manifest in sets.items():
        classes = tuple(numbers[name] for name in manifest.labels or ()) if differ else None
        files = files_of(directory)
        for split, shards in manifest.splits.items():
            placed = (_place(shard, directory, files, classes) for shard in shards)
            splits[split] = (*splits.get(split, ()), *placed)
    if not others:
        return replace(model, splits=splits)
    return Manifest(
        features=tuple(_unite(info.name, list(sets.values())) for info in model.features),
        splits=splits,
        labels=labels,
        label_dtype=model.label_dtype,
        compression=model.compression,
        skipped=tuple(skipped for manifest in sets.values() for skipped in manifest.skipped),
        label_counts=_sum_labels(list(sets.values()), numbers),
        format_version=model.format_version,
    )


def _place(shard: ShardInfo, directory: str, files: SetFiles, classes: tuple[int, ...] | None) -> PlacedShard:
    return PlacedShard(
        file=shard.file,
        examples=shard.examples,
        bytes=shard.bytes,
        hash=shard.hash,
        tail=shard.tail,
        unpacked=shard.unpacked,
        directory=directory,
        files=files,
        classes=classes,
    )


def _check_fit(first: str, model: Manifest, directory: str, manifest: Manifest) -> None:
    """Raise `UsageError` unless the two can be read as one."""

    def refuse(what: str, found: Any, expected: Any) -> UsageError:
        return UsageError(
            f"{display(directory)} can't be read together with {display(first)}: {what} {found}, expected {expected}"
        )

    here = {info.name: info for info in manifest.features}
    there = {info.name: info for info in model.features}
    for name in sorted(here.keys() ^ there.keys()):
        found, expected = ("none", "one") if name in there else ("one", "none")
        raise refuse(f"feature {name!r}:", found, expected)
    for name, info in there.items():
        for what in ("dtype", "time", "rank"):
            found, expected = getattr(here[name], what), getattr(info, what)
            if found != expected:
                raise refuse(f"feature {name!r} has the {what}", found, expected)
    for what, kind in (("labels:", _label_kind), ("compression:", lambda each: each.compression)):
        if kind(manifest) != kind(model):
            raise refuse(what, kind(manifest), kind(model))


def _label_kind(manifest: Manifest) -> str:
    if manifest.labels is None:
        return "none"
    return "names of classes" if manifest.labels else manifest.label_dtype


def _unite(name: str, manifests: Sequence[Manifest]) -> FeatureInfo:
    """The feature of that name in all of them. Sets without examples say nothing about its shape."""
    full = [each for each in manifests if each.examples] or manifests
    infos = [each.feature(name) for each in full]
    axes = range(infos[0].rank)
    smallest = tuple(min(info.min_shape[axis] for info in infos) for axis in axes)
    largest = tuple(max(info.max_shape[axis] for info in infos) for axis in axes)
    counts = [each.examples for each in full]
    return replace(
        infos[0],
        shape=tuple(a if a == b else None for a, b in zip(smallest, largest, strict=True)),
        min_shape=smallest,
        max_shape=largest,
        histograms=tuple(
            None if smallest[axis] == largest[axis] else _sum_histograms(infos, counts, axis) for axis in axes
        ),
        bytes=sum(info.bytes for info in infos),
        stats=_pool_stats(infos),
    )


def _sum_histograms(infos: Sequence[FeatureInfo], counts: Sequence[int], axis: int) -> Histogram:
    total: Counter[int] = Counter()
    for info, count in zip(infos, counts, strict=True):
        histogram = info.histograms[axis] or Histogram((info.max_shape[axis],), (count,))
        total.update(dict(zip(histogram.sizes, histogram.counts, strict=True)))
    sizes = sorted(total)
    return make_histogram(np.array(sizes), np.array([total[size] for size in sizes]))


def _pool_stats(infos: Sequence[FeatureInfo]) -> dict[str, Any] | None:
    """Count, mean and deviation of all values; None unless every set has them, of as many channels."""
    found = [info.stats for info in infos if info.stats is not None]
    try:
        count, mean, std = (np.array([stats[name] for stats in found], float) for name in ("count", "mean", "std"))
    except (KeyError, TypeError, ValueError):
        return None
    if len(found) < len(infos) or count.ndim != 2 or not count.shape == mean.shape == std.shape:
        return None
    weights = count / np.maximum(1, count.sum(axis=0))
    pooled = np.nansum(weights * mean, axis=0)
    squares = np.nansum(weights * (std**2 + (mean - pooled) ** 2), axis=0)
    return {"count": count.sum(axis=0).astype(int).tolist(), "mean": pooled.tolist(), "std": np.sqrt(squares).tolist()}


def _sum_labels(manifests: Sequence[Manifest], numbers: Mapping[str, int]) -> dict[str, LabelCounts]:
    """How many examples of each split have which label, for splits that every set counted."""
    counted = {}
    for split in {split: None for manifest in manifests for split in manifest.splits}:
        having = [manifest for manifest in manifests if split in manifest.splits]
        if not all(split in manifest.label_counts for manifest in having):
            continue
        total: Counter[int] = Counter()
        for manifest in having:
            found = manifest.label_counts[split]
            for value, count in zip(found.values, found.counts, strict=True):
                total[numbers[manifest.labels[value]] if manifest.labels else value] += count
        counted[split] = LabelCounts(tuple(sorted(total)), tuple(total[value] for value in sorted(total)))
    return counted
