"""The first stage of `load_dataset`: the records of shards, as byte strings, and the columns parsed from them.

TensorFlow's reader names no file in its error about a damaged record, continues with the next file, and takes a
shard that ends too early for a whole one. So each part of a shard has a reader of its own, and an element behind
it that is the error: it is only asked for where the reader has given fewer records than the manifest says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from npy2tfrecord.formats.manifest import ShardInfo
from npy2tfrecord.formats.tfrecord import FRAME_BYTES, HEAD_BYTES
from readers.pipeline.decoding import SHAPE, Decoder
from readers.pipeline.strategy import UNBUFFERED_BYTES
from readers.shards.index import Table
from readers.splits import Part

_plain = tf.autograph.experimental.do_not_convert
_BUFFER_BYTES = 256 * 2**10  # as TFRecordDataset has it
_COMPRESSION = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}
_ADVICE = ". TensorFlow's warning above has the cause. Copy or convert the data set again, or read with on_corrupt=skip"


class ShardRecords:
    """The records of `parts` of a data set's shards. An element is one record's bytes.

    `indexes` holds the tables of shards whose damaged records were found beforehand: parts behind the first record
    of such a shard are read by their offsets, since a reader can't get past a damaged length.
    """

    def __init__(
        self,
        directory: str,
        shards: Sequence[ShardInfo],
        parts: Sequence[Part],
        compression: str,
        label_dtype: str | None,  # None where no label is wanted
        decoders: Sequence[Decoder],
        indexes: Mapping[int, Table],
    ) -> None:
        self.parts = tuple(parts)
        mean = sum(shard.bytes for shard in shards) / max(1, sum(shard.examples for shard in shards))
        self._buffer_bytes = 0 if mean >= UNBUFFERED_BYTES and compression == "none" else _BUFFER_BYTES
        self._compression = compression
        used = sorted({part.shard for part in parts})  # the graph holds the names of no other shards
        place = {shard: i for i, shard in enumerate(used)}
        self._files = tf.constant([os.path.join(directory, shards[i].file) for i in used], tf.string)
        # All of a part in one row: every operation of a graph costs at the start of every epoch.
        rows = [(place[part.shard], part.first, part.count) for part in parts]
        self._table = tf.constant(np.array(rows, np.int64).reshape(-1, 3))
        self._spans: tf.Tensor | None = None
        by_index = [part.first > 0 and part.shard in indexes for part in parts]
        if any(by_index):
            spans = [
                _spans(indexes[part.shard], part, shards[part.shard].bytes)
                for part, chosen in zip(parts, by_index, strict=True)
                if chosen
            ]
            ends = np.cumsum([len(each) for each in spans])
            starts = iter((ends - [len(each) for each in spans]).tolist())
            self._spans = tf.constant(np.concatenate(spans))
            self._span_starts = tf.constant([next(starts) if chosen else -1 for chosen in by_index], tf.int64)
        self._shapes = {
            decoder.info.name + SHAPE: tf.io.FixedLenFeature([decoder.info.rank], tf.int64)
            for decoder in decoders
            if decoder.needs_shape
        }
        self._shapes["key"] = tf.io.FixedLenFeature([], tf.string)
        self._spec: dict[str, tf.io.FixedLenFeature] = {}
        if label_dtype is not None:
            self._spec["label"] = tf.io.FixedLenFeature([], label_dtype)
        for decoder in decoders:
            self._spec[decoder.info.name] = tf.io.FixedLenFeature([], tf.string)
        self._spec |= self._shapes

    def blocks(self, part: tf.Tensor, size: int, drop_remainder: bool = False) -> tf.data.Dataset:
        """The records of one part, `size` at a time; an error takes the place of the first block that can't be read.

        A shard that can't be opened is TensorFlow's own error, which names it; damage is an `InvalidArgumentError`.
        """
        shard, first, count = self._place(part)
        records = self._readable(part, shard, first, count).apply(tf.data.experimental.assert_cardinality(count))
        blocks = records.batch(size, drop_remainder=drop_remainder)
        number = count // size if drop_remainder else (count + size - 1) // size
        problem = tf.data.Dataset.from_tensors(part).flat_map(_plain(self._problem))
        return _without_errors(blocks, number).concatenate(problem).take(number)

    def _problem(self, part: tf.Tensor) -> tf.data.Dataset:
        """The error about a part that gave fewer records than it has."""
        shard, first, count = self._place(part)
        file = tf.gather(self._files, shard)
        # Whatever keeps the file from being opened is raised here, by TensorFlow, with the file's name.
        opened = tf.data.FixedLengthRecordDataset(file, 1, buffer_size=1)
        opened = opened.concatenate(tf.data.Dataset.from_tensors(tf.constant(b""))).take(1)
        # The damaged record shows by counting, from the shard's start: a damaged length hides all records behind it.
        sizes = self._records(file).take(first + count).map(_plain(tf.strings.length))
        sizes = _without_errors(sizes, first + count, log_warning=True)
        sizes = tf.data.Dataset.from_tensors(tf.constant(0)).concatenate(sizes).batch(first + count + 1)

        def fail(_: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
            record = tf.size(sizes, tf.int64) - 1
            offset = tf.reduce_sum(tf.cast(sizes, tf.int64)) + record * FRAME_BYTES
            where = ["record ", tf.strings.as_string(record), " of ", file, " is damaged or missing, at offset "]
            damaged = tf.strings.join([*where, tf.strings.as_string(offset), _ADVICE])
            passing = tf.strings.join([file, " could not be read at first, but could when it was read again"])
            message = tf.where(record < first + count, damaged, passing)
            failed = tf.raw_ops.Assert(condition=tf.constant(False), data=[message], summarize=1)
            with tf.control_dependencies([failed]):
                return tf.constant([b""])

        return tf.data.Dataset.zip((opened, sizes)).map(_plain(fail))

    def _place(self, part: tf.Tensor) -> list[tf.Tensor]:
        """A part's shard (its number among those used), its first record there, and its number of records."""
        # The identities keep tf.data's optimizer alive, which looks at the sizes of skip and take.
        return [tf.identity(value) for value in tf.unstack(tf.gather(self._table, part), 3)]

    def _readable(self, part: tf.Tensor, shard: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """The records of one part, read in order, or by their offsets where that is needed."""
        file = tf.gather(self._files, shard)
        if self._spans is None:
            return self._records(file).skip(first).take(count)
        spans = self._spans
        start = tf.gather(self._span_starts, part)
        in_order = tf.where(start < 0, count, tf.zeros_like(count))

        def read_record(place: tf.Tensor) -> tf.data.Dataset:
            before, data, behind = tf.unstack(tf.gather(spans, place), 3)
            return tf.data.FixedLengthRecordDataset(file, data, before, behind)

        by_offset = tf.data.Dataset.range(start, start + count - in_order).flat_map(_plain(read_record))
        return self._records(file).skip(first).take(in_order).concatenate(by_offset)

    def _records(self, file: tf.Tensor) -> tf.data.Dataset:
        """The records of one file: what `TFRecordDataset` is made of, without its function for many files."""
        variant = tf.raw_ops.TFRecordDataset(
            filenames=file, compression_type=_COMPRESSION[self._compression], buffer_size=self._buffer_bytes
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))

    def columns(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """The columns of a batch of records."""
        return dict(tf.io.parse_example(records, self._spec))

    def shapes(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """Only the keys and the shapes that vary, which costs little."""
        return dict(tf.io.parse_example(records, self._shapes))


def _without_errors(dataset: tf.data.Dataset, count: tf.Tensor, log_warning: bool = False) -> tf.data.Dataset:
    """The elements of a dataset that can be read, out of `count`: it ends, whatever the dataset does.

    `ignore_errors` alone asks again after an error, and a file that can't be opened fails as often as it is asked.
    Here each request, whether it succeeds or fails, takes a number, and there are `count` of them. (`zip` asks all its
    datasets, also when one fails.)
    """
    numbered = tf.data.Dataset.zip((tf.data.Dataset.range(count), dataset)).ignore_errors(log_warning=log_warning)
    return numbered.map(_plain(lambda number, element: element))


def _spans(table: Table, part: Part, size: int) -> np.ndarray:
    """The bytes of the shard before, in and behind the data of each record of a part: n × 3."""
    records = slice(part.first, part.first + part.count)
    starts = table.offsets[records] + HEAD_BYTES
    lengths = table.sizes[records].astype(np.int64) - FRAME_BYTES
    return np.stack([starts, lengths, size - starts - lengths], axis=1)
