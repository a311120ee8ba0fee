"""From columns of byte strings to tensors: decoded, normalized, padded or ragged, a whole batch at once.

Columns are what every first stage delivers: for n examples, a dict of `NAME` (n byte strings), `NAME/shape`
(n × rank), `key` and `label`. Only graph operations: pipelines can be checkpointed and sent to other machines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from readers.pipeline.decoders import (
    Decoder,
    as_dtype,
    extra_axes,
    restore,
    restore_ragged,
    stored_dtype,
    tensorflow_dtype,
)
from readers.pipeline.padding import nested, pad_fixed, pad_nested, pad_strings
from readers.pipeline.strategy import Method

SHAPE = "/shape"


def decode(decoder: Decoder, columns: Mapping[str, tf.Tensor]) -> Any:
    """The tensor (or RaggedTensor) of a batch of examples."""
    out = _decode(decoder, columns)
    if not decoder.ragged:
        out.set_shape([columns[decoder.info.name].shape[0], *decoder.sizes])
    return out


def _decode(decoder: Decoder, columns: Mapping[str, tf.Tensor]) -> Any:
    _check(decoder, columns)
    payloads = columns[decoder.info.name]
    if decoder.skip:
        payloads = tf.strings.substr(payloads, decoder.skip, 2**31 - 1)
    if decoder.method is Method.FIXED:
        values = tf.io.decode_raw(payloads, decoder.carrier if decoder.scale is None else stored_dtype(decoder))
        values = _finish_values(decoder, values)
        shape = [*decoder.info.max_shape, *extra_axes(decoder)]
        # Empty arrays have nothing to infer their number from.
        values = tf.reshape(values, [-1, *shape] if 0 not in shape else tf.stack([tf.size(payloads), *shape]))
        return restore(decoder, pad_fixed(decoder, values))
    shapes = columns[decoder.info.name + SHAPE]
    if decoder.ragged:
        return restore_ragged(decoder, nested(decoder, _flat(decoder, payloads), shapes))
    if decoder.method is Method.FIRST_AXIS and decoder.scale is None and not decoder.padding.tobytes().strip(b"\0"):
        return restore(decoder, pad_strings(decoder, payloads, shapes))
    return restore(decoder, pad_nested(decoder, nested(decoder, _flat(decoder, payloads), shapes), shapes))


def decode_one(decoder: Decoder, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The array of a batch that is one example, in its own shape."""
    _check(decoder, columns)
    payload = tf.reshape(columns[decoder.info.name], [])  # picking it with [0] would copy it
    values = tf.io.decode_raw(payload, stored_dtype(decoder))
    if decoder.skip:
        values = values[decoder.skip // values.dtype.size :]  # copies nothing
    values = _finish_values(decoder, values)
    shape = tf.constant(decoder.info.max_shape, tf.int64)  # a 0-d array's would be taken for floats
    if decoder.method is not Method.FIXED:
        shape = columns[decoder.info.name + SHAPE][0]
    if decoder.per_value > 1:
        shape = tf.concat([shape, extra_axes(decoder)], 0)
    tensor = restore(decoder, tf.reshape(values, shape))
    tensor.set_shape(decoder.info.shape)
    return tensor


def lengths(decoder: Decoder, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The sizes of the axes that vary: a number an example, or a row of them where several vary."""
    varying = [axis for axis, size in enumerate(decoder.info.shape) if size is None]
    shapes = columns[decoder.info.name + SHAPE]
    return shapes[:, varying[0]] if len(varying) == 1 else tf.gather(shapes, varying, axis=1)


def _check(decoder: Decoder, columns: Mapping[str, tf.Tensor]) -> None:
    """Fail unless every string holds exactly what its shape says, and no shape is beyond the manifest's.

    What is allocated for padding follows from shapes, which may lie.
    """
    info = decoder.info
    sizes = tf.strings.length(columns[info.name]) - decoder.skip
    if decoder.method is Method.FIXED:
        expected: Any = math.prod(info.max_shape) * decoder.itemsize
        good = tf.equal(sizes, tf.constant(expected, tf.int32))
    else:
        shapes = columns[info.name + SHAPE]
        low, high = (tf.constant(limit, tf.int64) for limit in (info.min_shape, info.max_shape))
        inside = tf.reduce_all((shapes >= low) & (shapes <= high), axis=1)
        expected = tf.reduce_prod(tf.clip_by_value(shapes, low, high), axis=1) * decoder.itemsize
        good = inside & tf.equal(tf.cast(sizes, tf.int64), expected)
    first = tf.argmin(tf.cast(good, tf.int8))
    keys = tf.concat([columns["key"], [""]], 0)  # so that there is a first one in an empty batch
    tf.raw_ops.Assert(
        condition=tf.reduce_all(good),
        data=[
            f"feature '{info.name}' does not have the size that the manifest says, in example",
            tf.gather(keys, first),
        ],
        summarize=1,
    )


def _flat(decoder: Decoder, payloads: tf.Tensor) -> tf.Tensor:
    """All values of all strings, one after the other."""
    values = tf.io.decode_raw(tf.strings.reduce_join(payloads), stored_dtype(decoder))
    return _finish_values(decoder, values)


def _finish_values(decoder: Decoder, values: tf.Tensor) -> tf.Tensor:
    """Values as carriers; normalized, where that is asked for."""
    if decoder.scale is None:
        return values
    mean, std = decoder.scale
    plain = as_dtype(values, tensorflow_dtype(decoder.info))
    scaled = tf.reshape(tf.cast(plain, decoder.dtype), [-1, len(mean)])
    return tf.reshape((scaled - mean) / std, tf.shape(values))
