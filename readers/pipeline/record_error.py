"""What the error about a damaged record says, worked out in the graph, where it is found."""

from __future__ import annotations

import tensorflow as tf

from npy2tfrecord.formats.tfrecord import FRAME_BYTES, HEAD_BYTES

_PREFIX_BYTES = 4096  # of a record: its key is near the start

# The key in an example's bytes: behind its entry's name are three lengths, and behind it the entry of a label, a dtype
# or a shape. Lengths have a byte or two; if two, the second of the key's own is no printable character.
_LENGTH = r"\C\C?"
_KEY = (
    rf"(?s)\A\C*?\n\x03key\x12{_LENGTH}?\n{_LENGTH}?\n\C[\x01-\x1f]?(\C*?)"
    rf"\n{_LENGTH}?\n\C(?:label|[\w.-]+/dtype|[\w.-]+/shape)\x12\C*\z"
)


def describe(file: tf.Tensor, index: tf.Tensor, record: tf.Tensor) -> tf.Tensor:
    """A sentence with the shard, the number of the record that could not be read, and its offset and key.

    No value that is read here is relied on, it may be damaged. It is kept short: TensorFlow looks through
    all of a pipeline's operations at the start of every epoch, whether or not they are ever run.
    """
    content, table = tf.io.read_file(file), _table(index)
    offset, _ = tf.unstack(tf.gather(table, tf.minimum(record, tf.size(table, tf.int64) // 2 - 1)), 2)
    start = tf.minimum(offset + HEAD_BYTES, tf.cast(tf.strings.length(content), tf.int64))
    prefix = tf.strings.substr(content, start, tf.constant(_PREFIX_BYTES, tf.int64))
    key = tf.strings.regex_replace(prefix, _KEY, r"\1")
    key = tf.where(tf.strings.regex_full_match(prefix, _KEY), key, "unknown")
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
