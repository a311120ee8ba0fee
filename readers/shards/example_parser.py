"""Parsing examples that look like earlier ones without parsing: most records of a shard differ only in values.

An example's bytes are those of its key, label and arrays, and what stands between these, which is the
same for all examples with the same shapes and the same lengths of key and label. So a record as long as an
earlier one is compared with that one's bytes in between; where they agree, its values are at the same places.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from npy2tfrecord.formats.example import KEY, LABEL, label_entry, parse_example

_MOST = 4096  # templates kept; without bounds, arrays of many lengths would fill the memory


@dataclass(frozen=True, slots=True)
class _Template:
    between: tuple[tuple[int, int, bytes], ...]  # start, stop and content of what must be the same
    places: tuple[tuple[str, int, int], ...]  # name, start and stop of each value
    label: tuple[int, int] | None
    label_is_float: bool
    constants: dict[str, Any]  # shapes and dtypes


class Templates:
    """`parse` is `parse_example` for examples whose arrays are called `features`, and remembers what it saw."""

    def __init__(self, features: Iterable[str]) -> None:
        self._names = {KEY, *features}
        self._known: dict[int, _Template] = {}

    def parse(self, data: memoryview) -> dict[str, Any]:
        """Raises `DamageError` as `parse_example` does."""
        template = self._known.get(len(data))
        if template is not None:
            found = _apply(template, data)
            if found is not None:
                return found
        columns = parse_example(data)
        template = self._learn(data, columns)
        if template is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[len(data)] = template
        return columns

    def _learn(self, data: memoryview, columns: dict[str, Any]) -> _Template | None:
        """None for an example of another kind than this package writes."""
        base = _address(data)
        spans = []
        for name in self._names:
            value = columns.get(name)
            if not isinstance(value, memoryview):
                return None
            start = _address(value) - base if len(value) else -1
            if not 0 <= start <= len(data) - len(value):
                return None
            spans.append((start, start + len(value), name))
        label = None
        if LABEL in columns and LABEL not in self._names:
            label = _find_label(data, columns[LABEL])
            if label is None:
                return None
            spans.append((*label, LABEL))
        spans.sort()
        between, position = [], 0
        for start, stop, _ in spans:
            between.append((position, start, bytes(data[position:start])))
            position = stop
        between.append((position, len(data), bytes(data[position:])))
        return _Template(
            tuple(each for each in between if each[2]),
            tuple((name, start, stop) for start, stop, name in spans if (start, stop) != label),
            label,
            isinstance(columns.get(LABEL), tuple),
            _constants(columns),
        )


def _constants(columns: dict[str, Any]) -> dict[str, Any]:
    """The columns that are the same for all examples with a template: `NAME/shape` and `NAME/dtype`."""
    shapes = {name: value for name, value in columns.items() if isinstance(value, list) and name != LABEL}
    values = ((name, value) for name, value in columns.items() if name.endswith("/dtype"))
    return shapes | {name: memoryview(bytes(value)) for name, value in values if isinstance(value, memoryview)}


def _apply(template: _Template, data: memoryview) -> dict[str, Any] | None:
    for start, stop, content in template.between:
        if bytes(data[start:stop]) != content:
            return None
    columns = dict(template.constants)
    for name, start, stop in template.places:
        columns[name] = data[start:stop]
    if template.label is not None and template.label_is_float:
        columns[LABEL] = struct.unpack("<f", data[slice(*template.label)])
    elif template.label is not None:
        start, stop = template.label
        value = 0
        for shift, byte in enumerate(data[start:stop]):
            if (byte > 0x7F) != (start + shift + 1 < stop):  # a number of another length
                return None
            value |= (byte & 0x7F) << 7 * shift
        value &= 2**64 - 1
        columns[LABEL] = [value - 2**64 if value >= 2**63 else value]
    return columns


def _find_label(data: memoryview, value: Any) -> tuple[int, int] | None:
    """Where the label's number is, when the entry is as this package writes it."""
    if not isinstance(value, (list, tuple)) or len(value) != 1:
        return None
    entry = label_entry(value[0])
    found = bytes(data[:65536]).find(entry)
    size = 4 if isinstance(value, tuple) else max(1, -(-(value[0] & (2**64 - 1)).bit_length() // 7))
    return None if found < 0 else (found + len(entry) - size, found + len(entry))


def _address(data: memoryview) -> int:
    address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return address
