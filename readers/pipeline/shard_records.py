"""The first stage of `load_dataset`: the records of shards, as byte strings, and the columns parsed from them.

TensorFlow's own reader tells neither which file a damaged record is in nor that a file ended too
early, and goes on with the next file. So every part of a shard is read by a reader of its own, which
ends at whatever goes wrong; behind it stands an element that is never asked for unless records are
missing. It counts those there are, and is the error, which knows the shard and the record.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import tensorflow as tf

from npy2tfrecord.formats.manifest import INDEX_DIR, ShardInfo, index_name
from readers.pipeline import record_error
from readers.pipeline.decoding import SHAPE, Decoder
from readers.pipeline.order import Order
from readers.pipeline.strategy import UNBUFFERED_BYTES
from readers.splits import Part

_plain = tf.autograph.experimental.do_not_convert
_BUFFER_BYTES = 256 * 2**10  # as TFRecordDataset has it
_COMPRESSION = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}


class ShardRecords:
    """The records of `parts` of a data set's shards. An element is one record's bytes."""

    def __init__(
        self,
        directory: str,
        shards: Sequence[ShardInfo],
        parts: Sequence[Part],
        compression: str,
        wanted: Iterable[str],
        decoders: Sequence[Decoder],
        impassable: frozenset[int] = frozenset(),
    ) -> None:
        self.parts = tuple(parts)
        self._directory, self._shards = directory, shards
        mean = sum(shard.bytes for shard in shards) / max(1, sum(shard.examples for shard in shards))
        self._buffer_bytes = 0 if mean >= UNBUFFERED_BYTES and compression == "none" else _BUFFER_BYTES
        self._compression = compression
        used = sorted({part.shard for part in parts})  # the graph holds the names of no other shards
        place = {shard: i for i, shard in enumerate(used)}
        self._files = tf.constant([os.path.join(directory, shards[i].file) for i in used], tf.string)
        self._indexes = tf.constant([os.path.join(directory, index_name(shards[i].file)) for i in used], tf.string)
        # Parts that begin behind a damaged length: their records are known to be good, and found by the index.
        by_index = [part.first > 0 and part.shard in impassable for part in parts]
        self._by_index = tf.constant(by_index) if any(by_index) else None
        # All of a part in one row: every operation of a graph costs at the start of every epoch.
        rows = [(place[part.shard], part.first, part.count) for part in parts]
        self._table = tf.constant(np.array(rows, np.int64).reshape(-1, 3))
        self._shapes = {
            decoder.info.name + SHAPE: tf.io.FixedLenFeature([decoder.info.rank], tf.int64)
            for decoder in decoders
            if decoder.needs_shape
        }
        self._shapes["key"] = tf.io.FixedLenFeature([], tf.string)
        self._spec: dict[str, tf.io.FixedLenFeature] = {}
        if "label" in wanted:
            self._spec["label"] = tf.io.FixedLenFeature([], tf.int64)
        for decoder in decoders:
            self._spec[decoder.info.name] = tf.io.FixedLenFeature([], tf.string)
        self._spec |= self._shapes

    def read(self, part: tf.Tensor) -> tf.data.Dataset:
        """The records of one part; an error that describes the first that can't be read takes its place."""
        shard, first, count = self._place(part)
        records = self._readable(part, shard, first, count)
        missing = tf.data.Dataset.from_tensors(part).flat_map(_plain(self._fail))
        return records.concatenate(missing).take(count)

    def order(self, lanes: Sequence[Sequence[Part]]) -> Order | None:
        """What tells whether the records of lanes are in their order; None of what an early converter wrote."""
        return None

    def _fail(self, part: tf.Tensor) -> tf.data.Dataset:
        """An error in place of a part's first record that can't be read: only asked for where records are missing.

        Which it is shows by counting, in a batch of all: an iterator that reduces has no checkpoint. From the
        shard's start, for a damaged length keeps the reader from all records behind it.
        """
        shard, first, count = self._place(part)
        file = tf.gather(self._files, shard)
        whole = self._records(file).take(first + count).ignore_errors().map(_plain(lambda record: tf.constant(False)))
        counted = tf.data.Dataset.from_tensors(tf.constant(False)).concatenate(whole).batch(first + count + 1)

        def fail(counted: tf.Tensor) -> tf.Tensor:
            record = tf.size(counted, tf.int64) - 1
            if self._has_index:
                message = record_error.describe(file, tf.gather(self._indexes, shard), record)
            else:
                message = tf.strings.join([record_error.say(file, record), record_error.ADVICE])
            failed = tf.raw_ops.Assert(condition=tf.constant(False), data=[message], summarize=1)
            with tf.control_dependencies([failed]):
                return tf.constant(b"")

        return counted.map(_plain(fail))

    @cached_property
    def _has_index(self) -> bool:
        """Whether damage can be told by the index. Looked up where records are read, which not every stage does."""
        return self._compression == "none" and _holds_files(os.path.join(self._directory, INDEX_DIR))

    def _place(self, part: tf.Tensor) -> list[tf.Tensor]:
        """Of a part: the number of its shard among those used, its first record there, and how many they are."""
        # The identities keep tf.data's optimizer alive, which looks at the sizes of skip and take.
        return [tf.identity(value) for value in tf.unstack(tf.gather(self._table, part), 3)]

    def _readable(self, part: tf.Tensor, shard: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """The records of one part up to the first that can't be read."""
        records = self._records(tf.gather(self._files, shard)).skip(first).take(count)
        if self._by_index is not None:
            by_index = tf.gather(self._by_index, part)
            # Only when the part is read: flat_map opens nothing before.
            found = tf.data.Dataset.from_tensors(part).flat_map(_plain(self._find))
            records = records.take(tf.where(by_index, tf.zeros_like(count), count)).concatenate(found)
        # Logged: what the reader found is the only word on an unreadable file or a broken disk.
        return records.ignore_errors(log_warning=True)

    def _records(self, file: tf.Tensor) -> tf.data.Dataset:
        """The records of one file: what `TFRecordDataset` is made of, without its function for many files."""
        variant = tf.raw_ops.TFRecordDataset(
            filenames=file, compression_type=_COMPRESSION[self._compression], buffer_size=self._buffer_bytes
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))

    def _find(self, part: tf.Tensor) -> tf.data.Dataset:
        """The records of a part by the index, from the shard as a whole; none of a part that is read in order."""
        shard, first, count = self._place(part)
        wanted = tf.where(tf.gather(self._by_index, part), count, tf.zeros_like(count))
        return record_error.records(tf.gather(self._files, shard), tf.gather(self._indexes, shard), first, wanted)

    def columns(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """The columns of a batch of records."""
        return dict(tf.io.parse_example(records, self._spec))

    def shapes(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """Only the keys and the shapes that vary, which costs little."""
        return dict(tf.io.parse_example(records, self._shapes))


def _holds_files(directory: str) -> bool:
    """Whether a directory is there and no pipe or device in it, which TensorFlow would wait for. Stats links only."""
    try:
        with os.scandir(directory) as entries:
            return all(entry.is_file() or entry.is_dir() for entry in entries)
    except OSError:
        return False
