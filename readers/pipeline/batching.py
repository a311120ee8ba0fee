"""Batches of single examples whose arrays differ in shape: what comes after `map_fn`, and of huge examples.

`padded_batch` knows no rank above 5 and not every dtype. So an array travels flat, as a vector of
carriers with its shape beside it; vectors are padded to the longest, and the batch gets its axes
back the way batches of byte strings do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.manifest import FeatureInfo
from readers.options import ReadOptions
from readers.outputs import Structure
from readers.pipeline import strategy
from readers.pipeline.decoders import Decoder, make_padder, to_carrier
from readers.pipeline.padding import pad_flat
from readers.pipeline.transformations import map_elements


@dataclass(frozen=True, slots=True)
class _Output:
    """One tensor of the elements to batch: `decoder` says how to pad it; None when nothing varies."""

    decoder: Decoder | None


def pad_batches(
    dataset: tf.data.Dataset, structure: Structure, decoders: Mapping[str, Decoder], options: ReadOptions
) -> tf.data.Dataset:
    """Batch elements of any structure, padding what varies. `structure` is the one without `map_fn`, with columns."""
    spec = dataset.element_spec
    names = tf.nest.flatten(_names(spec, structure))
    flat_spec = tf.nest.flatten(spec)
    outputs = [_output(part, name, decoders, options) for part, name in zip(flat_spec, names, strict=True)]
    batch, drop = options.batch_size, options.drop_remainder
    if all(output.decoder is None for output in outputs):
        return dataset.batch(batch, drop_remainder=drop)

    def flatten(*element: Any) -> tuple[Any, ...]:
        values = tf.nest.flatten(element[0] if len(element) == 1 else element)
        return tuple(_flatten(value, output) for value, output in zip(values, outputs, strict=True))

    def restore(*flat: Any) -> Any:
        values = [_restore(value, output) for value, output in zip(flat, outputs, strict=True)]
        return tf.nest.pack_sequence_as(spec, values)

    paddings = tuple(_padding(part, output) for part, output in zip(flat_spec, outputs, strict=True))
    flat = map_elements(dataset, flatten)
    padded = flat.padded_batch(batch, padding_values=paddings, drop_remainder=drop)
    return map_elements(padded, restore, parallel=strategy.PREFETCH_BATCHES)


def _names(spec: Any, structure: Structure, key: str = "") -> Any:
    """The column that each tensor was, as far as its place says; what the caller calls it otherwise, or ""."""
    if isinstance(spec, Mapping):
        below = structure if isinstance(structure, Mapping) else {}
        return {name: _names(part, below.get(name), key or name) for name, part in spec.items()}
    if isinstance(spec, tuple):
        same = isinstance(structure, tuple) and len(structure) == len(spec)
        return tuple(_names(part, structure[i] if same else None, key) for i, part in enumerate(spec))
    return structure if isinstance(structure, str) else key


def _output(spec: Any, name: str, decoders: Mapping[str, Decoder], options: ReadOptions) -> _Output:
    if not isinstance(spec, tf.TensorSpec):
        raise UsageError(f"map_fn returns {type(spec).__name__}, which can't be batched; return tensors")
    if spec.shape.rank is None:
        raise UsageError(f"map_fn returns a tensor {name} of unknown rank; call set_shape or ensure_shape in it")
    sizes = list(spec.shape)
    wanted = _wanted(spec, name, decoders.get(name), options)
    if spec.shape.is_fully_defined() and wanted == tuple(sizes):
        return _Output(None)
    if spec.dtype == tf.string:
        raise UsageError(f"map_fn returns strings {name} whose shape varies; they can't be batched")
    # Whatever is to be padded counts as varying: that the result is larger then needs no case of its own.
    shape = tuple(None if size is None or size != want else size for size, want in zip(sizes, wanted, strict=True))
    dtype = spec.dtype.as_numpy_dtype
    info = FeatureInfo(
        name=name,
        dtype=np.dtype(dtype).name,
        shape=shape,
        min_shape=tuple(size or 0 for size in shape),
        max_shape=tuple(size or 0 for size in shape),
        histograms=(None,) * len(shape),
        bytes=0,
    )
    return _Output(make_padder(info, strategy.method(info), wanted, options))


def _wanted(spec: tf.TensorSpec, name: str, decoder: Decoder | None, options: ReadOptions) -> tuple[int | None, ...]:
    sizes = tuple(spec.shape)
    if isinstance(options.padding, Mapping):
        given = options.padding.get(decoder.info.name if decoder else name)
    else:
        given = decoder.sizes if options.padding == "dataset" and decoder else None
    if given is None or len(given) != len(sizes):
        return sizes
    fixed_wins = options.padding == "dataset"  # map_fn may have cropped it
    return tuple(
        size if want is None or (fixed_wins and size is not None) else want
        for size, want in zip(sizes, given, strict=True)
    )


def _flatten(value: tf.Tensor, output: _Output) -> Any:
    if output.decoder is None:
        return value
    return tf.reshape(to_carrier(output.decoder, value), [-1]), tf.shape(value, tf.int64)


def _padding(spec: tf.TensorSpec, output: _Output) -> Any:
    if output.decoder is None:
        return tf.constant("") if spec.dtype == tf.string else tf.zeros([], spec.dtype)
    return tf.constant(output.decoder.padding[0], output.decoder.carrier), tf.zeros([], tf.int64)


def _restore(value: Any, output: _Output) -> tf.Tensor:
    decoder = output.decoder
    if decoder is None:
        return value
    flat, shapes = value
    return pad_flat(decoder, flat, shapes)
