"""What the error about a damaged record says, worked out in the graph, where it is found."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from npy2tfrecord.tfrecord import FRAME_BYTES, HEAD_BYTES

_PREFIX_BYTES = 4096  # of a record: its key is near the start
_KEY_ENTRY = (10, 3, *b"key", 18)  # a map entry's name, "key", and the tag of its value
_SEARCHED_BYTES = 24  # before the name are only three lengths


def describe(file: tf.Tensor, index: tf.Tensor, first: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """A sentence with the shard, the number of the record that could not be read, and its offset and key.

    Reading began at record `first`: when that is the one, a damaged length before it may be the cause,
    which the lengths in the index tell. No value that is read here is relied on, it may be damaged.
    """
    content, table = tf.io.read_file(file), _table(index)
    offsets, sizes = tf.unstack(table, 2, axis=1)
    # Not by substr, which copies the whole content for every place.
    data = tf.io.decode_raw(content, tf.uint8)
    places = tf.minimum(offsets[:, tf.newaxis] + tf.range(8, dtype=tf.int64), _size(content) - 1)
    claimed = tf.reduce_sum(
        tf.cast(tf.gather(data, places), tf.int64) * tf.constant([256**i for i in range(8)], tf.int64), axis=1
    )
    wrong = tf.not_equal(claimed + FRAME_BYTES, sizes)
    earlier = tf.equal(record, first) & tf.reduce_any(wrong)
    record = tf.where(earlier, tf.minimum(record, tf.argmax(wrong)), record)
    offset = tf.minimum(tf.gather(offsets, tf.minimum(record, tf.size(offsets, tf.int64) - 1)), _size(content))
    start = tf.minimum(offset + HEAD_BYTES, _size(content))
    key = _key(tf.strings.substr(content, start, tf.constant(_PREFIX_BYTES, tf.int64)))
    where = [", at offset ", tf.strings.as_string(offset), ", key ", key]
    return tf.strings.join([say(file, record), *where, ADVICE])


ADVICE = ". Copy or convert the data set again, or read with on_corrupt=skip"


def say(file: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    return tf.strings.join(["record ", tf.strings.as_string(record), " of ", file, " is damaged or missing"])


def records(file: tf.Tensor, index: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    """The data of records of a shard by its index, unchecked."""
    table, content = _table(index), tf.io.read_file(file)

    def record(i: tf.Tensor) -> tf.Tensor:
        offset, size = tf.unstack(tf.gather(table, i), 2)
        return tf.strings.substr(content, offset + HEAD_BYTES, size - FRAME_BYTES)

    plain = tf.autograph.experimental.do_not_convert
    return tf.data.Dataset.range(first, first + count).map(plain(record))


def _table(index: tf.Tensor) -> tf.Tensor:
    # Not tf.strings.split, which makes a RaggedTensor of it, of thirty operations.
    numbers = tf.raw_ops.StringSplitV2(input=[tf.io.read_file(index)], sep="").values
    return tf.reshape(tf.strings.to_number(numbers, tf.int64), [-1, 2])


def _size(content: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.strings.length(content), tf.int64)


def _key(prefix: tf.Tensor) -> tf.Tensor:
    """The key of the example that begins so; nothing when it is not found."""
    data = tf.cast(tf.io.decode_raw(prefix, tf.uint8, fixed_length=_PREFIX_BYTES), tf.int32)
    size = len(_KEY_ENTRY)
    windows = tf.gather(data, np.add.outer(np.arange(_SEARCHED_BYTES), np.arange(size)))
    found = tf.reduce_all(tf.equal(windows, tf.constant(_KEY_ENTRY)), axis=1)
    at = tf.cast(tf.argmax(found), tf.int32) + size
    for _ in range(2):  # the lengths of the value and of its list, each followed by the next tag
        at = at + _varint_size(data, at) + 1
    low, high = tf.unstack(tf.gather(data, at + tf.range(2)), 2)
    length = tf.where(low > 127, tf.bitwise.bitwise_and(low, 127) + 128 * tf.bitwise.bitwise_and(high, 127), low)
    at = at + _varint_size(data, at)
    good = tf.reduce_any(found) & (at + length <= tf.strings.length(prefix))
    zero = tf.zeros_like(at)
    key = tf.strings.substr(prefix, tf.where(good, at, zero), tf.where(good, length, zero))
    return tf.where(good, key, "unknown")


def _varint_size(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Bytes of the number that begins there, which is below 2**21: those that say that more follow, and the last."""
    more = tf.cast(tf.gather(data, at + tf.range(2)) > 127, tf.int32)
    return 1 + tf.reduce_sum(tf.math.cumprod(more))
