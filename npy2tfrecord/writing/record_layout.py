"""The bytes of a shard's records that surround their values, put into place for many records at once.

Two records have the same form when their keys are equally long, their labels too, and the sources of each feature have
the same header. Such records differ only in key, label, values and checksum. A record with two features, x and y:

      before_key            after_label              between            foot
    ┌────────────┬─────┬───────┬─────────────┬──────────┬─────────┬──────────┬─────┐
    │ length, CRC│     │ label │ x/dtype …   │ values   │ head of │ values   │ CRC │
    │ head of key│ key │ entry │ head of x   │ of x     │ y       │ of y     │     │
    └────────────┴─────┴───────┴─────────────┴──────────┴─────────┴──────────┴─────┘
    0                                        places[0]            places[1]

What a form has in common is computed once. Then records are filled in by columns. Three records of a form, to start at
0, 90 and 250 of the buffer (records of other forms are between them), make a table of 3 rows:

    literal    = before_key (the same) │ key (from each) │ label (from each) │ after_label (the same)
    scatter(buffer, [0, 90, 250], literal)                         one copy for all heads
    scatter(buffer, [0, 90, 250] + places[1] - len(between), between)   one copy for each further feature

The values are read from the sources into the gaps, and the checksums are scattered in the same way at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npy2tfrecord.formats.example import Layout, label_entry
from npy2tfrecord.formats.tfrecord import head
from npy2tfrecord.planning.plan import ShardSpec

_MOST_COMMON = 16  # a form with at least a 16th of a shard's records is filled in by columns, others one by one


class Form(NamedTuple):
    """The bytes and places that all records of a form share."""

    before_key: bytes
    after_label: bytes
    between: tuple[bytes, ...]  # before the values of every feature but the first
    places: tuple[int, ...]  # of each feature's values, from the record's start
    lengths: tuple[int, ...]  # of each feature's values
    raws: tuple[bytes | None, ...]  # of each feature: the source's header where its values are copied as they are


class Forms:
    """The forms of a shard's records: record i has the form `forms[ids[i]]`."""

    def __init__(self, spec: ShardSpec) -> None:
        self.keys = spec.record_keys
        self._labels = [b""] * len(spec) if spec.labels is None else [label_entry(n) for n in spec.labels.tolist()]
        sizes = [np.fromiter(map(len, column), dtype=np.int64, count=len(spec)) for column in (self.keys, self._labels)]
        kinds = [*sizes, *(np.array(c.header_ids, dtype=np.int64)[c.sources] for c in spec.columns)]
        self.ids = np.zeros(len(spec), dtype=np.int64)
        first = np.zeros(1, dtype=np.int64)  # record of each form
        for kind in kinds:  # renumbered after each, so that no number grows large
            _, first, ids = np.unique(self.ids * (int(kind.max()) + 1) + kind, return_index=True, return_inverse=True)
            self.ids = ids.reshape(-1)
        self.forms = [_form(spec, *(int(kind[i]) for kind in kinds)) for i in first.tolist()]
        self._is_common = np.bincount(self.ids) * _MOST_COMMON >= len(spec)
        self._is_rare = ~self._is_common[self.ids]
        self.places = np.array([form.places for form in self.forms], dtype=np.int64)  # (form, feature)
        self.lengths = np.array([form.lengths for form in self.forms], dtype=np.int64)

    def of(self, record: int) -> Form:
        """The form of a record."""
        return self.forms[int(self.ids[record])]

    def start_of(self, record: int) -> bytes:
        """The bytes of a record before the values of its first feature."""
        form = self.of(record)
        return form.before_key + self.keys[record] + self._labels[record] + form.after_label

    def put(self, buffer: memoryview, first: int, starts: np.ndarray) -> None:
        """Write the bytes before the values of every feature into the records from `first` on.

        `starts`, int64, are their places in `buffer`.
        """
        last = first + len(starts)
        ids = self.ids[first:last]
        for number in np.flatnonzero(self._is_common).tolist():
            if len(members := np.flatnonzero(ids == number)):
                self._put_columns(buffer, self.forms[number], (members + first).tolist(), starts[members])
        for i in np.flatnonzero(self._is_rare[first:last]).tolist():
            literal, form, start = self.start_of(first + i), self.of(first + i), int(starts[i])
            buffer[start : start + len(literal)] = literal
            for between, place in zip(form.between, form.places[1:], strict=True):
                buffer[start + place - len(between) : start + place] = between

    def _put_columns(self, buffer: memoryview, form: Form, records: list[int], starts: np.ndarray) -> None:
        keys, labels = b"".join([self.keys[i] for i in records]), b"".join([self._labels[i] for i in records])
        columns = [np.frombuffer(each, dtype=np.uint8).reshape(len(records), -1) for each in (keys, labels) if each]
        parts: list[bytes | np.ndarray] = [form.before_key, *columns, form.after_label]
        width, at = form.places[0], 0
        literal = np.empty((len(records), width), dtype=np.uint8)
        for part in parts:
            column: np.ndarray = np.frombuffer(part, dtype=np.uint8) if isinstance(part, bytes) else part
            literal[:, at : at + column.shape[-1]] = column
            at += column.shape[-1]
        scatter(buffer, starts, literal)
        for between, place in zip(form.between, form.places[1:], strict=True):
            same = np.frombuffer(between, dtype=np.uint8)[None]
            scatter(buffer, starts + (place - len(between)), same)


def scatter(buffer: memoryview, starts: np.ndarray, rows: np.ndarray) -> None:
    """Copy row i of `rows`, uint8 of shape (n, size), to `starts[i]` of the buffer; a single row to all of them."""
    size = rows.shape[1]
    item = np.dtype(f"V{size}")
    everywhere: np.ndarray = np.ndarray(len(buffer) - size + 1, dtype=item, buffer=buffer, strides=(1,))
    everywhere[starts] = rows.view(item)[:, 0]


def _form(spec: ShardSpec, key_size: int, label_size: int, *header_ids: int) -> Form:
    features, raws = [], []
    for column, header_id in zip(spec.columns, header_ids, strict=True):
        header = column.headers[header_id]
        shape = header.shape if spec.rows is None else header.shape[1:]
        features.append((column.feature, column.cast.to_name, shape, column.cast.nbytes(shape)))
        is_direct = column.cast.for_dtype(header.dtype).is_exact and header.is_plain and not column.members
        raws.append(header.raw if is_direct else None)
    layout = Layout.of(tuple(features))
    before_key = head(layout.example_size(key_size, label_size)) + layout.before_key(key_size, label_size)
    place = len(before_key) + key_size + label_size + len(layout.after_label)
    places = [place]
    for between, length in zip(layout.payload_heads[1:], layout.payload_sizes, strict=False):
        places.append(places[-1] + length + len(between))
    return Form(
        before_key, layout.after_label, layout.payload_heads[1:], tuple(places), layout.payload_sizes, tuple(raws)
    )
