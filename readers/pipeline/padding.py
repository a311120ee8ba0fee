"""Padding: of byte strings, of rows of values, and of axes whose size is known. A whole batch at once, in the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from readers.pipeline.decoders import Decoder, extra_axes, restore
from readers.pipeline.strategy import Method

_MAX_PAD_RANK = 6  # of tf.pad  # of tf.pad


def pad_flat(decoder: Decoder, flat: tf.Tensor, shapes: tf.Tensor) -> tf.Tensor:
    """A padded batch of arrays that come as rows of carriers, padded to the longest, with their shapes."""
    for axis, size in enumerate(decoder.sizes):
        if size is not None:
            tf.raw_ops.Assert(
                condition=tf.reduce_all(shapes[:, axis] <= size),
                data=[f"an array {decoder.info.name!r} is larger than the padding asked for, {decoder.sizes}"],
                summarize=1,
            )
    whole = decoder.method is Method.FIRST_AXIS and decoder.per_value == 1 and decoder.sizes[0] is None
    if whole and 0 not in decoder.inner:  # padding at the end of a row is padding at the end of the array
        longest = tf.cast(tf.reduce_max(shapes[:, 0]), tf.int32)
        out = tf.reshape(flat, tf.stack([tf.shape(flat)[0], longest, *decoder.inner]))
    else:
        counts = tf.reduce_prod(shapes, axis=1) * decoder.per_value
        values = tf.RaggedTensor.from_tensor(flat, lengths=counts).flat_values
        out = pad_nested(decoder, nested(decoder, values, shapes), shapes)
    out = restore(decoder, out)
    out.set_shape([flat.shape[0], *decoder.sizes])
    return out


def pad_strings(decoder: Decoder, payloads: tf.Tensor, shapes: tf.Tensor) -> tf.Tensor:
    """Padding with zeros where only axis 0 varies: one copy, from the strings into the batch."""
    row = math.prod(decoder.inner)
    wanted = decoder.sizes[0]
    longest = tf.cast(tf.reduce_max(shapes[:, 0]), tf.int32) if wanted is None else tf.constant(wanted)
    length = longest * (row * decoder.itemsize)
    # The operation refuses a length of zero, which empty arrays have.
    least = decoder.carrier.size * decoder.per_value
    values = tf.io.decode_raw(payloads, decoder.carrier, fixed_length=tf.maximum(length, least))
    values = values[:, : length // decoder.carrier.size]
    out = tf.reshape(values, tf.stack([tf.shape(payloads)[0], longest, *decoder.inner, *extra_axes(decoder)]))
    return pad_fixed(decoder, out, first=1)


def nested(decoder: Decoder, values: tf.Tensor, shapes: tf.Tensor) -> tf.RaggedTensor:
    """The values as a RaggedTensor down to the last axis that varies."""
    rows = tf.reshape(values, [-1, *decoder.inner, *extra_axes(decoder)]) if 0 not in decoder.inner else None
    row_lengths = [shapes[:, 0]]
    count = shapes[:, 0]
    for axis in range(1, decoder.levels):
        row_lengths.append(tf.repeat(shapes[:, axis], count))
        count = count * shapes[:, axis]
    if rows is None:  # no values don't show the number of rows
        rows = tf.zeros(_joined([tf.reduce_sum(count)], [*decoder.inner, *extra_axes(decoder)]), decoder.carrier)
    return tf.RaggedTensor.from_nested_row_lengths(rows, row_lengths, validate=False)


def pad_nested(decoder: Decoder, ragged: tf.RaggedTensor, shapes: tf.Tensor) -> tf.Tensor:
    """Padding where any axes vary: each to the longest of the batch, or to the size asked for."""
    longest = tf.reduce_max(shapes, axis=0)
    sizes = [longest[axis] if size is None else size for axis, size in enumerate(decoder.sizes[: decoder.levels])]
    count = tf.shape(shapes, tf.int64)[0]
    behind = [*decoder.inner, *extra_axes(decoder)]
    # Trailing axes are one: the operation's padding value must be of their shape.
    width = math.prod(behind)
    if width:
        rows = tf.shape(ragged.flat_values)[0]
        flat = ragged.with_flat_values(tf.reshape(ragged.flat_values, tf.stack([rows, width])))
        padding = tf.constant(np.tile(decoder.padding, math.prod(decoder.inner)), decoder.carrier)
        out = flat.to_tensor(padding, shape=_joined([count, *sizes], [width]))
        out = tf.reshape(out, _joined([count, *sizes], behind))
    else:  # on which the operation crashes
        out = tf.zeros(_joined([count, *sizes], behind), decoder.carrier)
    return pad_fixed(decoder, out, first=decoder.levels)


def pad_fixed(decoder: Decoder, values: tf.Tensor, first: int = 0) -> tf.Tensor:
    """Pad axes from `first` on whose own size is fixed but below the size asked for."""
    pads = [
        0 if axis < first or want is None else want - have
        for axis, (want, have) in enumerate(zip(decoder.sizes, decoder.info.max_shape, strict=True))
    ]
    if not any(pads):
        return values
    shape = tf.shape(values)
    rank = len(pads)
    if decoder.per_value == 1 and 1 + rank <= _MAX_PAD_RANK:
        paddings = [[0, 0], *([0, pad] for pad in pads)]
        return tf.pad(values, paddings, constant_values=tf.constant(decoder.padding[0], decoder.carrier))
    for axis, pad in enumerate(pads):  # one axis at a time, by concatenation, which knows no limit of rank
        if pad:
            shape = tf.shape(values)
            block = tf.concat([shape[: axis + 1], [pad], shape[axis + 2 :]], 0)
            count = tf.reduce_prod(block) // decoder.per_value
            filling = tf.reshape(tf.tile(tf.constant(decoder.padding, decoder.carrier), [count]), block)
            values = tf.concat([values, filling], axis + 1)
    return values


def _joined(front: Sequence[Any], behind: Sequence[int]) -> tf.Tensor:
    """A shape, of sizes that are known only in the graph and others."""
    return tf.stack([tf.cast(size, tf.int64) for size in (*front, *behind)])
