"""The first stage of `load_npy`: the arrays of `.npy` files as byte strings, without conversion.

A scan has read every header, so that the graph knows where each array's bytes are and need not
parse anything. An element is a dict of what a record would hold: `key`, `label`, `NAME`, `NAME/shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from npy2tfrecord.formats.npy import Header
from npy2tfrecord.planning.examples import Examples
from readers.pipeline.decoders import Decoder
from readers.pipeline.decoding import SHAPE
from readers.pipeline.transformations import flat_map, map_elements
from readers.splits import Part


class _Files:
    """The files of one feature: for source i of the examples its path and header, for header h its numbers."""

    def __init__(self, examples: Examples, feature: int, decoder: Decoder, sources: np.ndarray) -> None:
        table = examples.tables[feature]
        headers = table.headers
        rows = examples.rows is not None
        self.decoder = decoder
        self.paths = tf.constant([table.path(int(i)) for i in sources], tf.string)
        self.header_ids = tf.constant(table.header_ids[sources], tf.int32)
        self.offsets = tf.constant([header.data_offset for header in headers], tf.int64)
        self.file_sizes = tf.constant([header.file_size for header in headers], tf.int64)
        self.row_bytes = tf.constant([_row_bytes(header) if rows else 0 for header in headers], tf.int64)
        shapes = [header.shape[1:] if rows else header.shape for header in headers]
        self.shapes = tf.constant(np.array(shapes, np.int64).reshape(len(headers), -1), tf.int64)
        self.swapped = _flags([not header.is_little_endian for header in headers])
        self.fortran = _flags([not header.is_c_order for header in headers])

    def whole(self, source: tf.Tensor) -> dict[str, tf.Tensor]:
        """The columns of a source as it is."""
        header, path = self.header_ids[source], self.paths[source]
        content = tf.io.read_file(path)
        size, expected = tf.cast(tf.strings.length(content), tf.int64), self.file_sizes[header]
        checked = tf.raw_ops.Assert(
            condition=tf.equal(size, expected),
            data=[path, "has changed since it was scanned: bytes found and expected", size, expected],
            summarize=1,
        )
        with tf.control_dependencies([checked]):
            if self.decoder.skip:
                return self.columns(tf.identity(content), header)
            offset = self.offsets[header]
            data = tf.strings.substr(content, offset, expected - offset)
        return self.columns(data, header)

    def rows(self, source: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """The columns of rows of a source."""
        header = self.header_ids[source]
        size = self.row_bytes[header]
        # A trailing part of a row, which a changed file may have, is an error of the reader's.
        data = tf.data.FixedLengthRecordDataset(self.paths[source], size, self.offsets[header] + first * size)
        return map_elements(data.take(count), lambda row: self.columns(row, header))

    def columns(self, data: tf.Tensor, header: tf.Tensor) -> dict[str, tf.Tensor]:
        name, shape = self.decoder.info.name, self.shapes[header]
        columns = {name: self._in_order(data, header, shape)}
        if self.decoder.needs_shape:
            columns[name + SHAPE] = shape
        return columns

    def _in_order(self, data: tf.Tensor, header: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        """The bytes in C order, little-endian."""
        itemsize = self.decoder.itemsize
        width = itemsize // 2 if self.decoder.info.dtype.startswith("complex") else itemsize
        if self.swapped is not None and width > 1:
            swapped = self.swapped[header]
            data = tf.cond(swapped, lambda: _to_bytes(_swap(tf.io.decode_raw(data, tf.uint8), width)), lambda: data)
        if self.fortran is not None:
            in_c, rank = data, self.decoder.info.rank
            order = [*range(rank - 1, -1, -1), rank]

            def transpose() -> tf.Tensor:
                mirrored = tf.concat([tf.reverse(shape, [0]), [itemsize]], 0)
                return _to_bytes(tf.transpose(tf.reshape(tf.io.decode_raw(in_c, tf.uint8), mirrored), order))

            data = tf.cond(self.fortran[header], transpose, lambda: in_c)
        return data


def _row_bytes(header: Header) -> int:
    return header.nbytes // max(1, header.shape[0])


def _flags(values: Sequence[bool]) -> tf.Tensor | None:
    return tf.constant(values) if any(values) else None


def _swap(data: tf.Tensor, width: int) -> tf.Tensor:
    return tf.reverse(tf.reshape(data, tf.stack([tf.size(data) // width, width])), [1])


def _to_bytes(values: tf.Tensor) -> tf.Tensor:
    """A tensor's bytes as a string: what a TensorProto ends with."""
    message = tf.io.serialize_tensor(values)
    size = tf.size(values)
    return tf.strings.substr(message, tf.strings.length(message) - size, size)


class NpyFiles:
    """Examples `first` to `first + count` of each part. An element is an example's columns."""

    def __init__(
        self, examples: Examples, parts: Sequence[Part], decoders: Sequence[Decoder], label: bool, ahead: int = 1
    ) -> None:
        self.parts = tuple(parts)
        self._ahead = ahead  # files of a part that are read at the same time
        self._first = tf.constant([part.first for part in parts], tf.int64)
        self._count = tf.constant([part.count for part in parts], tf.int64)
        # Only what these parts need is put into the graph.
        low = min((part.first for part in parts), default=0)
        high = max((part.first + part.count for part in parts), default=0)
        self._low = low
        self._rows = examples.rows is not None
        used = np.arange(low, high)
        if examples.rows is not None:
            # One entry a source, that is, wherever the rows begin anew, and where the first part does.
            starts = np.flatnonzero(np.append(True, examples.rows[low + 1 : high] == 0)) if high > low else used
            used = low + starts
            self._segments = tf.constant(np.append(used, high), tf.int64)
            self._first_rows = tf.constant(examples.rows[used], tf.int64)
        names = [table.feature for table in examples.tables]
        self._files = [
            _Files(examples, f, decoder, examples.sources[f][used])
            for decoder in decoders
            for f in [names.index(decoder.info.name)]
        ]
        key_table, key_sources = examples.tables[0], examples.sources[0][used]
        self._keys = tf.constant([key_table.key(int(source)) for source in key_sources], tf.string)
        self._labels = None
        if label and examples.labels is not None:
            self._labels = tf.constant(examples.labels[used], examples.label_dtype)

    def announced(self, numbers: tf.data.Dataset, shards: Sequence[Sequence[int]]) -> tf.data.Dataset:
        """The numbers as they are: these files are where they are."""
        return numbers

    def blocks(
        self, part: tf.Tensor, size: int, then: Callable[[Any], Any] | None = None, drop_remainder: bool = False
    ) -> tf.data.Dataset:
        """The examples of one part, `size` at a time, and what `then` makes of them."""
        blocks = self._read(part).batch(size, drop_remainder=drop_remainder)
        return blocks if then is None else map_elements(blocks, then)

    def _read(self, part: tf.Tensor) -> tf.data.Dataset:
        first = self._first[part]
        last = first + self._count[part]
        if not self._rows:
            numbers = tf.data.Dataset.range(first - self._low, last - self._low)
            return map_elements(numbers, self._example, parallel=self._ahead)
        begin = tf.searchsorted(self._segments, [first], side="right", out_type=tf.int64)[0] - 1
        end = tf.searchsorted(self._segments, [last], side="left", out_type=tf.int64)[0]

        def read_segment(segment: tf.Tensor) -> tf.data.Dataset:
            start = tf.maximum(first, self._segments[segment])
            stop = tf.minimum(last, self._segments[segment + 1])
            row = self._first_rows[segment] + start - self._segments[segment]
            numbers = tf.data.Dataset.range(row, row + stop - start)
            values = tuple(files.rows(segment, row, stop - start) for files in self._files)
            rows = tf.data.Dataset.zip((numbers, *values))
            return map_elements(rows, lambda number, *columns: self._row(segment, number, columns))

        return flat_map(tf.data.Dataset.range(begin, end), read_segment)

    def _example(self, i: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._join({"key": self._keys[i]}, i, [files.whole(i) for files in self._files])

    def _row(self, segment: tf.Tensor, row: tf.Tensor, columns: Sequence[Any]) -> dict[str, tf.Tensor]:
        key = tf.strings.join([self._keys[segment], "#", tf.strings.as_string(row)])
        return self._join({"key": key}, segment, columns)

    def _join(self, example: dict[str, tf.Tensor], i: tf.Tensor, columns: Sequence[Any]) -> dict[str, tf.Tensor]:
        if self._labels is not None:
            example["label"] = self._labels[i]
        for each in columns:
            example |= each
        return example

    def columns(self, block: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """An element is columns already."""
        return block

    def shapes(self, block: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The same."""
        return block
