"""The first stage of `load_dataset`: the records of shards, as byte strings, and the columns parsed from them.

TensorFlow's reader names no file in its error about a damaged record, continues with the next file, and takes a
shard that ends too early for a whole one. So each part of a shard has a reader of its own, and an element behind
it that is the error: it is only asked for where the reader has given fewer records than the manifest says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from npy2tfrecord.formats.tfrecord import FRAME_BYTES
from readers.manifests import PlacedShard
from readers.pipeline.decoders import Decoder
from readers.pipeline.decoding import SHAPE
from readers.pipeline.strategy import UNBUFFERED_BYTES
from readers.pipeline.transformations import map_elements
from readers.shards.cache import Fetcher
from readers.splits import Part

Records = Any  # byte strings, or a dict of them and which classes their labels are

_BUFFER_BYTES = 256 * 2**10  # as TFRecordDataset has it
_COMPRESSION = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}
_ADVICE = ". TensorFlow's warning above has the cause. Copy or convert the data set again, or read with on_corrupt=skip"


class ShardRecords:
    """The records of `parts` of a data set's shards. An element is one record's bytes.

    `offsets` says where each part begins in its shard; None where that is reached only by reading what is before.
    """

    def __init__(
        self,
        shards: Sequence[PlacedShard],
        parts: Sequence[Part],
        compression: str,
        label_dtype: str | None,  # None where no label is wanted
        decoders: Sequence[Decoder],
        offsets: Sequence[int | None],
        fetcher: Fetcher | None = None,  # of the shards in buckets
    ) -> None:
        self.parts = tuple(parts)
        mean = sum(shard.bytes for shard in shards) / max(1, sum(shard.examples for shard in shards))
        buffer_bytes = 0 if mean >= UNBUFFERED_BYTES and compression == "none" else _BUFFER_BYTES
        self._file_options = {"compression_type": _COMPRESSION[compression], "buffer_size": buffer_bytes}
        used = sorted({part.shard for part in parts})  # the graph holds the names of no other shards
        place = {shard: i for i, shard in enumerate(used)}
        self._files = tf.constant([shards[i].path for i in used], tf.string)
        self._used, self._fetcher = used, fetcher
        rows = [
            (place[part.shard], part.first, part.count, *((part.first, 0) if offset is None else (0, offset)))
            for part, offset in zip(parts, offsets, strict=True)
        ]
        self._table = tf.constant(np.array(rows, np.int64).reshape(-1, 5))
        # Records of data sets whose classes differ travel with the number of their data set's classes: they get mixed.
        self._classes = None
        classes = [*{shard.classes: None for shard in shards if shard.classes is not None}]
        if label_dtype is not None and classes:
            self._classes = tf.ragged.constant(classes, tf.int64)
            self._class_ids = tf.constant([classes.index(cast("Any", shards[i].classes)) for i in used])
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

    def announced(self, numbers: tf.data.Dataset, shards: Sequence[Sequence[int]]) -> tf.data.Dataset:
        """The same numbers; shards in buckets are fetched before they are read. Number i stands for `shards[i]`."""
        fetcher = self._fetcher
        if fetcher is None:
            return numbers
        # So many numbers stand for as many shards as are to be fetched before they are read.
        ahead = max(1, fetcher.ahead * len(shards) // max(1, len({shard for each in shards for shard in each})))

        def announce(number: np.int64) -> np.int64:
            for shard in shards[int(number)]:
                fetcher.announce(shard)
            return number

        def announced(number: tf.Tensor) -> tf.Tensor:
            # Not stateful: it changes nothing that an iterator's checkpoint would have to hold.
            return tf.ensure_shape(tf.numpy_function(announce, [number], tf.int64, stateful=False), [])

        return map_elements(numbers, announced).prefetch(ahead)

    def _path(self, shard: tf.Tensor) -> tf.Tensor:
        """The path of a shard's file on this machine, once it is there."""
        fetcher = self._fetcher
        if fetcher is None:
            return tf.gather(self._files, shard)

        def wait(shard: np.int64) -> bytes:
            return os.fsencode(fetcher.wait(self._used[shard]))

        return tf.ensure_shape(tf.numpy_function(wait, [shard], tf.string, stateful=False), [])

    def blocks(
        self, part: tf.Tensor, size: int, then: Callable[[Records], Any] | None = None, drop_remainder: bool = False
    ) -> tf.data.Dataset:
        """The records of one part, `size` at a time, or what `then` makes of them.

        An error takes the place of the first block that can't be read: a shard that can't be opened is TensorFlow's
        own error, which names it; damage is an `InvalidArgumentError`.
        """
        # Every operation of a graph costs time when it is built, so that all of a part is in one row.
        shard, first, count, before, offset = tf.unstack(tf.gather(self._table, part), 5)
        # The identities keep tf.data's optimizer alive, which looks at the sizes of skip and take.
        before, count = tf.identity(before), tf.identity(count)
        file, name = self._path(shard), tf.gather(self._files, shard)
        records = self._records(file, offset).skip(before).take(count)
        records = records.apply(tf.data.experimental.assert_cardinality(count))
        blocks = records.batch(size, drop_remainder=drop_remainder)
        number = (count if drop_remainder else count + (size - 1)) // size
        problem = self._problem(file, name, first + count)
        readable = _readable(blocks, number).concatenate(problem).take(number)

        def finish(_: tf.Tensor, records: tf.Tensor) -> Any:
            if self._classes is not None:
                classes = tf.gather(self._class_ids, shard)
                records = {"record": records, "classes": tf.fill(tf.shape(records), classes)}
            return records if then is None else then(records)

        return map_elements(readable, finish)

    def _problem(self, file: tf.Tensor, name: tf.Tensor, end: tf.Tensor) -> tf.data.Dataset:
        """The error about a file that gave fewer than `end` records, in the place of an element of `_readable`."""
        # The damaged record shows by counting, from the shard's start: a damaged length hides all records behind it.
        records = _readable(self._records(file, tf.constant(0, tf.int64)), end, log_warning=True)
        sizes = map_elements(records, lambda _, data: tf.strings.length(data))
        sizes = tf.data.Dataset.from_tensors(tf.constant(0)).concatenate(sizes).batch(end + 1)
        return map_elements(
            tf.data.Dataset.zip((tf.data.Dataset.from_tensors((name, end)), _opened(file), sizes)), _fail
        )

    def _records(self, file: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
        """The records of one file from an offset on, which `TFRecordDataset` has no argument for."""
        variant = tf.raw_ops.TFRecordDatasetV2(filenames=file, byte_offsets=offset, **self._file_options)
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))

    def columns(self, records: Records) -> dict[str, tf.Tensor]:
        """The columns of a batch of records."""
        if self._classes is None:
            return dict(tf.io.parse_example(records, self._spec))
        columns = dict(tf.io.parse_example(records["record"], self._spec))
        begins = tf.gather(self._classes.row_starts(), records["classes"])
        ends = tf.gather(self._classes.row_limits(), records["classes"])
        labels = columns["label"]
        # One that is no class of its data set stays none, -1.
        known = (labels >= 0) & (labels < ends - begins)
        place = tf.where(known, begins + labels, tf.zeros_like(labels))
        columns["label"] = tf.where(known, tf.gather(self._classes.values, place), -tf.ones_like(labels))
        return columns

    def shapes(self, records: Records) -> dict[str, tf.Tensor]:
        """Only the keys and the shapes that vary, which costs little."""
        strings = records if self._classes is None else records["record"]
        return dict(tf.io.parse_example(strings, self._shapes))


def _opened(file: tf.Tensor) -> tf.data.Dataset:
    """One element. Whatever keeps the file from being opened is raised by TensorFlow instead, with the file's name."""
    zero, one = tf.constant(0, tf.int64), tf.constant(1, tf.int64)
    variant = tf.raw_ops.FixedLengthRecordDatasetV2(
        filenames=file, header_bytes=zero, record_bytes=one, footer_bytes=zero, buffer_size=one, compression_type=""
    )
    byte = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    return byte.concatenate(tf.data.Dataset.from_tensors(tf.constant(b""))).take(1)


def _fail(whole: tuple[tf.Tensor, tf.Tensor], _: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    file, end = whole
    record = tf.size(sizes, tf.int64) - 1
    offset = tf.reduce_sum(tf.cast(sizes, tf.int64)) + record * FRAME_BYTES
    record_text, offset_text = tf.strings.as_string(record), tf.strings.as_string(offset)
    damaged = ["record ", record_text, " of ", file, " is damaged or missing, at offset ", offset_text, _ADVICE]
    passing = [file, " could not be read at first, but could when it was read again"]
    message = tf.where(record < end, tf.strings.join(damaged), tf.strings.join(passing))
    failed = tf.raw_ops.Assert(condition=tf.constant(False), data=[message], summarize=1)
    with tf.control_dependencies([failed]):
        return tf.constant(0, tf.int64), tf.constant([b""])


def _readable(dataset: tf.data.Dataset, count: tf.Tensor, log_warning: bool = False) -> tf.data.Dataset:
    """The elements of a dataset that can be read, out of `count`, numbered: it ends, whatever the dataset does.

    `ignore_errors` alone asks again after an error, and a file that can't be opened fails as often as it is asked.
    Here each request, whether it succeeds or fails, takes a number, and there are `count` of them. (`zip` asks all its
    datasets, also when one fails.)
    """
    return tf.data.Dataset.zip((tf.data.Dataset.range(count), dataset)).ignore_errors(log_warning=log_warning)
