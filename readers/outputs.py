"""What `features=` means: which columns are read, and what the caller calls them. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.example import KEY, LABEL
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest
from readers.options import Features, ReadOptions

LENGTH = "/length"


def choose_outputs(manifest: Manifest, options: ReadOptions) -> dict[str, str]:
    """For every name the caller will see, the column it is: a feature, `key`, `label` or `NAME/length`."""
    outputs = name_outputs(manifest, options.features)
    if options.with_lengths:
        varying = [info.name for info in manifest.features if None in info.shape]
        outputs |= {f"{name}{LENGTH}": f"{column}{LENGTH}" for name, column in outputs.items() if column in varying}
    return outputs


def name_outputs(manifest: Manifest, features: Features) -> dict[str, str]:
    """The same without lengths. Raises `UsageError` for a name that is not there."""
    known = {info.name: info for info in manifest.features}
    columns = [KEY, *([LABEL] if manifest.labels is not None else []), *known]
    if features is None:
        return {name: name for name in columns}
    if isinstance(features, Mapping):
        chosen = dict(features)
    else:
        chosen = {name: name for name in ([features] if isinstance(features, str) else features)}
    for column in chosen.values():
        if column not in columns:
            _check_length(column, known, columns)
    return chosen


def _check_length(column: str, known: Mapping[str, FeatureInfo], columns: list[str]) -> None:
    info = known.get(column.removesuffix(LENGTH)) if column.endswith(LENGTH) else None
    if info is None:
        hint = "; labels are written with --labels" if column == LABEL else ""
        raise UsageError(f"no feature {column!r} here; there are {', '.join(map(repr, columns))}{hint}")
    if None not in info.shape:
        raise UsageError(f"{column!r}: all arrays of {info.name!r} have the shape {info.shape}")
