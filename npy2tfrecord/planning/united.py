"""What several data sets are together: their features, classes, options and fingerprints as those of one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npy2tfrecord.errors import InputError, display
from npy2tfrecord.formats.manifest import FeatureInfo, Histogram, LabelCounts, Manifest, Skipped
from npy2tfrecord.planning.feature_summary import MAX_PLAIN_LABELS, join_histograms
from npy2tfrecord.planning.fingerprint import Fingerprint
from npy2tfrecord.planning.order import natural_key

_HASH = re.compile(r"[0-9a-f]{16}")
_SHOWN = 3  # classes, in a message


@dataclass(frozen=True, kw_only=True)
class United:
    """Data sets as one. Label i of set s becomes `numbers[s][i]`, or stays what it is where there are no classes."""

    features: tuple[FeatureInfo, ...]
    classes: tuple[str, ...] | None
    label_dtype: str
    numbers: tuple[np.ndarray | None, ...]
    splits: tuple[str, ...]
    label_counts: Mapping[str, LabelCounts]
    options: Mapping[str, Any]
    fingerprint: Fingerprint
    skipped: tuple[Skipped, ...]

    @property
    def changes_labels(self) -> bool:
        """Whether any class gets another number."""
        return any(n is not None and (n != np.arange(len(n))).any() for n in self.numbers)


def unite(names: Sequence[str], manifests: Sequence[Manifest], defaults: Mapping[str, Any]) -> United:
    """The data sets of these names (for messages) as one. `defaults` are the options where the sets differ.

    Raises `InputError` where they can't be one.
    """
    first = manifests[0]
    if not any(manifest.examples for manifest in manifests):
        raise InputError(names[0], "no examples in it, nor in any other set", "at least one")
    for name, manifest in zip(names[1:], manifests[1:], strict=True):
        _check_alike(name, manifest, names[0], first)
    classes = _unite_classes(names, manifests)
    numbers = tuple(_numbers(manifest.labels, classes) for manifest in manifests)
    options = _unite_options(manifests, defaults)
    splits = _order_splits({split for manifest in manifests for split in manifest.splits}, options.get("split"))
    return United(
        features=tuple(
            _unite_feature([manifest.features[i] for manifest in manifests], [m.examples for m in manifests])
            for i in range(len(first.features))
        ),
        classes=classes,
        label_dtype=first.label_dtype,
        numbers=numbers,
        splits=splits,
        label_counts=_add_label_counts(manifests, numbers, splits),
        options=options,
        fingerprint=_add_fingerprints(names, manifests),
        skipped=tuple(skipped for manifest in manifests for skipped in manifest.skipped),
    )


def _check_alike(name: str, manifest: Manifest, other: str, first: Manifest) -> None:
    def describe(info: FeatureInfo) -> str:
        return f"{info.name} ({info.time or info.dtype}, rank {info.rank})"

    found, expected = (", ".join(map(describe, each.features)) for each in (manifest, first))
    if found != expected:
        raise InputError(name, f"the features {found}", f"those of {display(other)}, in its order: {expected}")
    for word, of in (("labels", lambda m: m.labels is not None), ("rows", lambda m: m.options.get("rows", False))):
        if of(manifest) != of(first):
            has, had = ("has" if of(each) else "has no" for each in (manifest, first))
            raise InputError(name, f"the set {has} {word}, {display(other)} {had}", "the same in every set")


def _unite_classes(names: Sequence[str], manifests: Sequence[Manifest]) -> tuple[str, ...] | None:
    def kind(manifest: Manifest) -> str:
        shown = ", ".join(map(display, manifest.labels[:_SHOWN])) if manifest.labels else ""
        return f"classes: {shown}" if shown else f"{manifest.label_dtype} numbers"

    first = manifests[0].labels
    for name, manifest in zip(names, manifests, strict=True):
        if bool(manifest.labels) != bool(first) or manifest.label_dtype != manifests[0].label_dtype:
            raise InputError(
                name, f"labels are {kind(manifest)}", f"those of {display(names[0])}: {kind(manifests[0])}"
            )
    if not first:
        return first
    together = {label for manifest in manifests for label in manifest.labels or ()}
    # Folders are sorted by their bytes, the labels of a table by their characters.
    by_folder = all(manifest.options.get("labels") == "dirs" for manifest in manifests)
    return tuple(sorted(together, key=os.fsencode) if by_folder else sorted(together))


def _numbers(labels: tuple[str, ...] | None, classes: tuple[str, ...] | None) -> np.ndarray | None:
    if not labels or not classes:
        return None
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place[name] for name in labels], dtype=np.int64)


def _unite_options(manifests: Sequence[Manifest], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What all sets record of an option, or the default where they differ."""
    recorded = [{**defaults, **manifest.options} for manifest in manifests]
    names = dict.fromkeys(name for options in recorded for name in options)
    united = {
        name: recorded[0].get(name)
        if all(each.get(name) == recorded[0].get(name) for each in recorded)
        else defaults.get(name)
        for name in names
    }
    if any(each.get("split") != united["split"] for each in recorded):
        united["split_by"] = defaults["split_by"]
    return united


def _order_splits(splits: set[str], option: Any) -> tuple[str, ...]:
    """The splits in the order of their fractions, those of another origin by name."""
    ordered = list(option) if isinstance(option, Mapping) else []
    if isinstance(option, str) and option.endswith("-fold"):
        return tuple(sorted(splits, key=lambda name: natural_key(os.fsencode(name))))
    return tuple(
        sorted(splits, key=lambda name: (ordered.index(name) if name in ordered else len(ordered), os.fsencode(name)))
    )


def _unite_feature(infos: Sequence[FeatureInfo], examples: Sequence[int]) -> FeatureInfo:
    there = [(info, count) for info, count in zip(infos, examples, strict=True) if count]
    smallest = tuple(map(min, zip(*(info.min_shape for info, _ in there), strict=True)))
    largest = tuple(map(max, zip(*(info.max_shape for info, _ in there), strict=True)))
    histograms = []
    for axis in range(infos[0].rank):
        parts = [info.histograms[axis] or Histogram((info.min_shape[axis],), (count,)) for info, count in there]
        histograms.append(join_histograms(parts) if smallest[axis] != largest[axis] else None)
    return FeatureInfo(
        name=infos[0].name,
        dtype=infos[0].dtype,
        shape=tuple(a if a == b else None for a, b in zip(smallest, largest, strict=True)),
        min_shape=smallest,
        max_shape=largest,
        histograms=tuple(histograms),
        bytes=sum(info.bytes for info in infos),
        time=infos[0].time,
    )


def _add_label_counts(
    manifests: Sequence[Manifest], numbers: Sequence[np.ndarray | None], splits: Sequence[str]
) -> dict[str, LabelCounts]:
    counted = {}
    for split in splits:
        total: dict[int, int] = {}
        having = [(m, n) for m, n in zip(manifests, numbers, strict=True) if split in m.splits]
        if any(split not in manifest.label_counts for manifest, _ in having):
            continue
        for manifest, number in having:
            counts = manifest.label_counts[split]
            for value, count in zip(counts.values, counts.counts, strict=True):
                value = value if number is None else int(number[value])
                total[value] = total.get(value, 0) + count
        if len(total) <= MAX_PLAIN_LABELS or manifests[0].labels:
            values = tuple(sorted(total))
            counted[split] = LabelCounts(values, tuple(total[value] for value in values))
    return counted


def _add_fingerprints(names: Sequence[str], manifests: Sequence[Manifest]) -> Fingerprint:
    sums = {"files": 0, "examples": 0, "names": 0, "data": 0}
    for name, manifest in zip(names, manifests, strict=True):
        for member in sums:
            value = manifest.sources.get(member)
            if member in ("files", "examples"):
                if type(value) is not int or value < 0:
                    raise InputError(name, f"sources.{member} is {value!r:.40} in its manifest", "an integer")
                sums[member] += value
            else:
                if not isinstance(value, str) or not _HASH.fullmatch(value):
                    raise InputError(
                        name, f"sources.{member} is {value!r:.40} in its manifest", "16 hexadecimal digits"
                    )
                sums[member] += int(value, 16)
    return Fingerprint(
        files=sums["files"],
        names=f"{sums['names'] % 2**64:016x}",
        examples=sums["examples"],
        data=f"{sums['data'] % 2**64:016x}",
    )
