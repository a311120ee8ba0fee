"""What is known of a feature before the graph is built: how its byte strings become tensors, and what values travel as.

TensorFlow's operations do not know every dtype everywhere (`decode_raw` lacks uint32, padding lacks more). So values
travel as a *carrier* dtype of the same size, and are given their own dtype, bit for bit, as the last step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.dtypes import dtype_from_name
from npy2tfrecord.formats.manifest import FeatureInfo
from readers.options import ReadOptions
from readers.pipeline.strategy import Method

_NATIVE = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16")
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
    dtype = tensorflow_dtype(info)
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
    dtype = tensorflow_dtype(info)
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


def tensorflow_dtype(info: FeatureInfo) -> tf.DType:
    """The feature's dtype. Raises `UsageError` for one that tf.data does not handle."""
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


def stored_dtype(decoder: Decoder) -> tf.DType:
    """What the strings are decoded as: without normalizing, what values travel as."""
    return _CARRIERS[decoder.info.dtype][0]


def extra_axes(decoder: Decoder) -> list[int]:
    """The axis behind an array's own that values of several carriers have."""
    return [decoder.per_value] if decoder.per_value > 1 else []


def to_carrier(decoder: Decoder, values: tf.Tensor) -> tf.Tensor:
    """An array's values as carriers."""
    return as_dtype(values, decoder.carrier)


def as_dtype(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The same bits as another dtype."""
    if values.dtype == dtype:
        return values
    if tf.bool in (values.dtype, dtype):
        return tf.cast(values, dtype)
    return tf.bitcast(values, dtype)


def restore(decoder: Decoder, values: tf.Tensor) -> tf.Tensor:
    """Carriers to the feature's own dtype."""
    return as_dtype(values, decoder.dtype)


def restore_ragged(decoder: Decoder, ragged: tf.RaggedTensor) -> tf.RaggedTensor:
    """The same for a RaggedTensor."""
    return ragged.with_flat_values(as_dtype(ragged.flat_values, decoder.dtype))
