"""The structure of an element that `features=` asks for, and the columns that it is made of. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.example import KEY, LABEL
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest
from readers.options import Features, ReadOptions
from readers.windows import START

LENGTH = "/length"

Structure = Any  # a column's name, or a tuple or a dict of structures


def choose_structure(manifest: Manifest, options: ReadOptions) -> Structure:
    """An element, with the name of the column in each place: a feature, `key`, `label` or `NAME/length`."""
    structure = name_columns(manifest, options.features, options.window is not None)
    if options.with_lengths:
        varying = [info.name for info in manifest.features if None in info.shape]
        structure |= {f"{name}{LENGTH}": f"{column}{LENGTH}" for name, column in structure.items() if column in varying}
    return structure


def name_columns(manifest: Manifest, features: Features, windows: bool = False) -> Structure:
    """The structure without lengths. Raises `UsageError` for a name that the data set does not have."""
    known = {info.name: info for info in manifest.features}
    columns = [KEY, *([LABEL] if manifest.labels is not None else []), *known]
    if windows:
        if START in known:
            raise UsageError(f"window: a feature is called {START!r} already, like the place of each window")
        columns.append(START)
    if features is None:
        return {name: name for name in columns}
    for column in columns_of(features):
        if column not in columns:
            _check_length(column, known, columns)
    return features


def columns_of(structure: Structure) -> list[str]:
    """The columns in a structure, each once."""
    if isinstance(structure, str):
        return [structure]
    members = structure.values() if isinstance(structure, Mapping) else structure
    return [*{column: None for member in members for column in columns_of(member)}]


def fill(structure: Structure, values: Mapping[str, Any]) -> Any:
    """The structure with columns' values in the places of their names."""
    if isinstance(structure, str):
        return values[structure]
    if isinstance(structure, Mapping):
        return {name: fill(member, values) for name, member in structure.items()}
    return tuple(fill(member, values) for member in structure)


def _check_length(column: str, known: Mapping[str, FeatureInfo], columns: list[str]) -> None:
    info = known.get(column.removesuffix(LENGTH)) if column.endswith(LENGTH) else None
    if info is None:
        hint = "; labels are written with --labels" if column == LABEL else ""
        raise UsageError(f"no feature {column!r} here; there are {', '.join(map(repr, columns))}{hint}")
    if None not in info.shape:
        raise UsageError(f"{column!r}: all arrays of {info.name!r} have the shape {info.shape}")
