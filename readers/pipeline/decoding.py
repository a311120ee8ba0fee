"""From columns of byte strings to tensors: decoded, normalized, padded or ragged, a whole batch at once.

Columns are what every first stage delivers: for n examples, a dict of `NAME` (n byte strings),
`NAME/shape` (n × rank), `key` and `label`. Only graph operations: pipelines can be checkpointed and
sent to other machines.

TensorFlow's operations do not know every dtype everywhere (`decode_raw` lacks uint32, padding lacks
more), so values travel as a *carrier* dtype of the same size and are given their own
dtype, bit for bit, as the last step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.dtypes import dtype_from_name
from npy2tfrecord.formats.manifest import FeatureInfo
from readers.options import ReadOptions
from readers.pipeline.strategy import Method

LENGTH = "/length"
SHAPE = "/shape"

_NATIVE = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16")
_MAX_PAD_RANK = 6  # of tf.pad
_CARRIERS = {
    "bool": (tf.uint8, 1),
    "float16": (tf.int16, 1),  # which decode_raw has, but not with padding
    "bfloat16": (tf.int16, 1),
    "uint32": (tf.int32, 1),
    "uint64": (tf.int64, 1),
    "complex64": (tf.int64, 1),
    "complex128": (tf.int64, 2),
    **{name: (getattr(tf.dtypes, name), 1) for name in _NATIVE},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """How one feature is decoded: everything that the graph needs, worked out beforehand."""

    info: FeatureInfo
    method: Method
    dtype: tf.DType  # of the result
    carrier: tf.DType  # what values travel as
    per_value: int  # carriers for one value
    padding: np.ndarray  # one padding value, as carriers
    sizes: tuple[int | None, ...]  # every axis after padding; None is the longest of the batch
    ragged: bool = False
    scale: tuple[np.ndarray, np.ndarray] | None = None  # mean and deviation
    skip: int = 0  # bytes of each string before its values: of a file, its header

    @property
    def levels(self) -> int:
        """Axes up to the last one that varies."""
        return max((axis + 1 for axis, size in enumerate(self.info.shape) if size is None), default=0)

    @property
    def inner(self) -> tuple[int, ...]:
        """The axes behind the last one that varies."""
        return self.info.max_shape[self.levels :]

    @property
    def itemsize(self) -> int:
        return int(dtype_from_name(self.info.dtype).itemsize)

    @property
    def needs_shape(self) -> bool:
        return self.method is not Method.FIXED


def make_decoder(info: FeatureInfo, method: Method, options: ReadOptions) -> Decoder:
    """Raises `UsageError` for what cannot be done with this feature."""
    dtype = _tensorflow_dtype(info)
    carrier, per_value = _CARRIERS[info.dtype]
    scale = _scale(info) if options.normalize else None
    if scale is not None:
        dtype = tf.float64 if info.dtype == "float64" else tf.float32
        carrier, per_value = dtype, 1
    return Decoder(
        info=info,
        method=method,
        dtype=dtype,
        carrier=carrier,
        per_value=per_value,
        padding=_padding(info, dtype, options).view(carrier.as_numpy_dtype),
        sizes=_sizes(info, options),
        ragged=options.ragged and method is not Method.FIXED,
        scale=scale,
    )


def make_padder(info: FeatureInfo, method: Method, sizes: tuple[int | None, ...], options: ReadOptions) -> Decoder:
    """For arrays that are decoded already: how to pad a batch of them to `sizes`."""
    dtype = _tensorflow_dtype(info)
    carrier, per_value = _CARRIERS[info.dtype]
    try:
        padding = _padding(info, dtype, options)
    except UsageError:  # map_fn made another dtype of it, which the value was not meant for
        padding = np.zeros(1, dtype.as_numpy_dtype)
    return Decoder(
        info=info,
        method=method,
        dtype=dtype,
        carrier=carrier,
        per_value=per_value,
        padding=padding.view(carrier.as_numpy_dtype),
        sizes=sizes,
    )


def _tensorflow_dtype(info: FeatureInfo) -> tf.DType:
    if info.dtype not in _CARRIERS:  # float8: TensorFlow has some, but neither a bitcast nor tf.data for them
        raise UsageError(
            f"feature {info.name!r} is {info.dtype}, which tf.data does not handle; "
            "leave it out with features=…, or read it with readers.ArraySource"
        )
    return tf.as_dtype(dtype_from_name(info.dtype))


def _scale(info: FeatureInfo) -> tuple[np.ndarray, np.ndarray] | None:
    if info.dtype.startswith("complex") or info.time is not None:
        raise UsageError(
            f"normalize=True: feature {info.name!r} is {info.time or info.dtype}, which has no statistics;"
            " leave it out with features=…, or read it without normalize and scale it in map_fn"
        )
    if info.stats is None:
        raise UsageError(f"normalize=True needs the mean of {info.name!r}; convert again with --stats")
    kind = "f8" if info.dtype == "float64" else "f4"
    mean, std = (np.array(info.stats.get(name, ()), dtype=kind) for name in ("mean", "std"))
    channels = info.shape[-1] if info.shape else None
    if mean.ndim != 1 or mean.shape != std.shape or len(mean) not in (1, channels):
        raise UsageError(f"normalize=True: the manifest's mean of {info.name!r} does not fit its shape {info.shape}")
    return mean, np.where(std == 0, np.ones_like(std), std)


def _padding(info: FeatureInfo, dtype: tf.DType, options: ReadOptions) -> np.ndarray:
    value = options.padding_value
    if isinstance(value, Mapping):
        value = value.get(info.name, 0)
    given = np.asarray(value)
    refused = UsageError(f"padding_value={value!r} is no value of {info.name!r}, which is {dtype.name}")
    if given.ndim or (np.iscomplexobj(given) and not dtype.is_complex):
        raise refused
    with np.errstate(all="ignore"):
        cast = given.astype(dtype.as_numpy_dtype)
        exact = not (dtype.is_integer or dtype.is_bool) or bool(cast.astype(given.dtype) == given)
        overflown = dtype.is_floating and math.isfinite(given) and not math.isfinite(float(cast))
    if not exact or overflown:
        raise refused
    return np.atleast_1d(cast)


def _sizes(info: FeatureInfo, options: ReadOptions) -> tuple[int | None, ...]:
    if options.padding == "batch":
        return info.shape
    if options.padding == "dataset":
        return info.max_shape
    assert isinstance(options.padding, Mapping)
    given = options.padding.get(info.name)
    if given is None:
        return info.shape
    sizes = tuple(given)
    fits = len(sizes) == info.rank and all(
        size is None or size >= most for size, most in zip(sizes, info.max_shape, strict=True)
    )
    if not fits:
        raise UsageError(f"padding of {info.name!r} to {sizes}: its largest arrays need {info.max_shape}")
    return tuple(fixed if size is None else size for size, fixed in zip(sizes, info.shape, strict=True))


# --- the graph -----------------------------------------------------------------------------------


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
        values = tf.io.decode_raw(payloads, decoder.carrier if decoder.scale is None else _raw(decoder)[0])
        values = _finish_values(decoder, values)
        shape = [*decoder.info.max_shape, *_extra(decoder)]
        # Empty arrays have nothing to infer their number from.
        values = tf.reshape(values, [-1, *shape] if 0 not in shape else tf.stack([tf.size(payloads), *shape]))
        return _restore(decoder, _pad_fixed(decoder, values))
    shapes = columns[decoder.info.name + SHAPE]
    if decoder.ragged:
        return _restore_ragged(decoder, _nested(decoder, _flat(decoder, payloads), shapes))
    if decoder.method is Method.FIRST_AXIS and decoder.scale is None and not decoder.padding.tobytes().strip(b"\0"):
        return _restore(decoder, _pad_strings(decoder, payloads, shapes))
    return _restore(decoder, _pad_nested(decoder, _nested(decoder, _flat(decoder, payloads), shapes), shapes))


def decode_one(decoder: Decoder, columns: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The array of a batch that is one example, in its own shape."""
    _check(decoder, columns)
    payload = tf.reshape(columns[decoder.info.name], [])  # picking it with [0] would copy it
    values = tf.io.decode_raw(payload, _raw(decoder)[0])
    if decoder.skip:
        values = values[decoder.skip // values.dtype.size :]  # copies nothing
    values = _finish_values(decoder, values)
    shape = tf.constant(decoder.info.max_shape, tf.int64)  # a 0-d array's would be taken for floats
    if decoder.method is not Method.FIXED:
        shape = columns[decoder.info.name + SHAPE][0]
    if decoder.per_value > 1:
        shape = tf.concat([shape, _extra(decoder)], 0)
    tensor = _restore(decoder, tf.reshape(values, shape))
    tensor.set_shape(decoder.info.shape)
    return tensor


def to_carrier(decoder: Decoder, values: tf.Tensor) -> tf.Tensor:
    """An array's values as carriers."""
    return _as_dtype(values, decoder.carrier)


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
        out = _pad_nested(decoder, _nested(decoder, values, shapes), shapes)
    out = _restore(decoder, out)
    out.set_shape([flat.shape[0], *decoder.sizes])
    return out


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


def _raw(decoder: Decoder) -> tuple[tf.DType, int]:
    """What the strings are decoded as: without normalizing, what values travel as."""
    return _CARRIERS[decoder.info.dtype]


def _extra(decoder: Decoder) -> list[int]:
    return [decoder.per_value] if decoder.per_value > 1 else []


def _flat(decoder: Decoder, payloads: tf.Tensor) -> tf.Tensor:
    """All values of all strings, one after the other."""
    values = tf.io.decode_raw(tf.strings.reduce_join(payloads), _raw(decoder)[0])
    return _finish_values(decoder, values)


def _finish_values(decoder: Decoder, values: tf.Tensor) -> tf.Tensor:
    """Values as carriers; normalized, where that is asked for."""
    if decoder.scale is None:
        return values
    mean, std = decoder.scale
    plain = _as_dtype(values, _tensorflow_dtype(decoder.info))
    scaled = tf.reshape(tf.cast(plain, decoder.dtype), [-1, len(mean)])
    return tf.reshape((scaled - mean) / std, tf.shape(values))


def _pad_strings(decoder: Decoder, payloads: tf.Tensor, shapes: tf.Tensor) -> tf.Tensor:
    """Padding with zeros where only axis 0 varies: one copy, from the strings into the batch."""
    row = math.prod(decoder.inner)
    wanted = decoder.sizes[0]
    longest = tf.cast(tf.reduce_max(shapes[:, 0]), tf.int32) if wanted is None else tf.constant(wanted)
    length = longest * (row * decoder.itemsize)
    # The operation refuses a length of zero, which empty arrays have.
    least = decoder.carrier.size * decoder.per_value
    values = tf.io.decode_raw(payloads, decoder.carrier, fixed_length=tf.maximum(length, least))
    values = values[:, : length // decoder.carrier.size]
    out = tf.reshape(values, tf.stack([tf.shape(payloads)[0], longest, *decoder.inner, *_extra(decoder)]))
    return _pad_fixed(decoder, out, first=1)


def _nested(decoder: Decoder, values: tf.Tensor, shapes: tf.Tensor) -> tf.RaggedTensor:
    """The values as a RaggedTensor down to the last axis that varies."""
    rows = tf.reshape(values, [-1, *decoder.inner, *_extra(decoder)]) if 0 not in decoder.inner else None
    row_lengths = [shapes[:, 0]]
    count = shapes[:, 0]
    for axis in range(1, decoder.levels):
        row_lengths.append(tf.repeat(shapes[:, axis], count))
        count = count * shapes[:, axis]
    if rows is None:  # no values don't show the number of rows
        rows = tf.zeros(_joined([tf.reduce_sum(count)], [*decoder.inner, *_extra(decoder)]), decoder.carrier)
    return tf.RaggedTensor.from_nested_row_lengths(rows, row_lengths, validate=False)


def _pad_nested(decoder: Decoder, ragged: tf.RaggedTensor, shapes: tf.Tensor) -> tf.Tensor:
    longest = tf.reduce_max(shapes, axis=0)
    sizes = [longest[axis] if size is None else size for axis, size in enumerate(decoder.sizes[: decoder.levels])]
    count = tf.shape(shapes, tf.int64)[0]
    behind = [*decoder.inner, *_extra(decoder)]
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
    return _pad_fixed(decoder, out, first=decoder.levels)


def _joined(front: Sequence[Any], behind: Sequence[int]) -> tf.Tensor:
    """A shape, of sizes that are known only in the graph and others."""
    return tf.stack([tf.cast(size, tf.int64) for size in (*front, *behind)])


def _pad_fixed(decoder: Decoder, values: tf.Tensor, first: int = 0) -> tf.Tensor:
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


def _as_dtype(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The same bits as another dtype."""
    if values.dtype == dtype:
        return values
    if tf.bool in (values.dtype, dtype):
        return tf.cast(values, dtype)
    return tf.bitcast(values, dtype)


def _restore(decoder: Decoder, values: tf.Tensor) -> tf.Tensor:
    """Carriers to the feature's own dtype."""
    return _as_dtype(values, decoder.dtype)


def _restore_ragged(decoder: Decoder, ragged: tf.RaggedTensor) -> tf.RaggedTensor:
    return ragged.with_flat_values(_as_dtype(ragged.flat_values, decoder.dtype))
