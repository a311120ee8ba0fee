"""Datasets made of datasets by functions of ours, whose epochs start in a fraction of the time.

What `tf.data.Dataset.map` and its like make of a function may run on several devices. So at the start of every epoch
TensorFlow places, optimizes and cuts up each function anew, which takes 2 to 6 ms a function, and those of a pipeline
lie in each other. Functions with the attribute below run where the dataset runs, as they were written.
Only the methods themselves have no argument for it; `tf.function` and the operations behind the methods have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

_ATTRIBUTES = {"experimental_ints_on_device": True}
_CHOSEN_BY_TENSORFLOW = tf.data.AUTOTUNE

Function = Callable[..., Any]
Spec = Any  # of an element: TensorSpecs in tuples and dicts


class _Traced(NamedTuple):
    """A function as a graph, and the spec of what it gives: of elements, where that is a dataset."""

    graph: Any
    spec: Spec

    def arguments(self) -> dict[str, Any]:
        """What every operation with a function is given."""
        flat = tf.nest.flatten(self.spec)
        return {
            "other_arguments": self.graph.captured_inputs,
            "f": self.graph,
            "output_types": [each.dtype for each in flat],
            "output_shapes": [each.shape for each in flat],
        }


def map_elements(
    dataset: tf.data.Dataset, function: Function, *, parallel: int = 1, deterministic: bool = True
) -> tf.data.Dataset:
    """`dataset.map(function)`."""
    traced = _trace(function, dataset.element_spec)
    if not all(isinstance(each, tf.TensorSpec) for each in tf.nest.flatten(traced.spec)):
        # Only tf.data itself knows how RaggedTensors travel.
        calls = {"num_parallel_calls": parallel, "deterministic": deterministic} if parallel > 1 else {}
        return dataset.map(tf.autograph.experimental.do_not_convert(function), **calls)
    variant, arguments = tf.data.experimental.to_variant(dataset), traced.arguments()
    if parallel == 1:
        # In the thread that asks: waking others for each operation takes longer than most of them.
        here = {"use_inter_op_parallelism": False, "preserve_cardinality": True}
        mapped = tf.raw_ops.MapDataset(input_dataset=variant, **here, **arguments)
    else:
        mapped = tf.raw_ops.ParallelMapDatasetV2(
            input_dataset=variant,
            num_parallel_calls=tf.constant(parallel, tf.int64),
            deterministic=_flag(deterministic),
            preserve_cardinality=True,
            **arguments,
        )
    return tf.data.experimental.from_variant(mapped, traced.spec)


def flat_map(dataset: tf.data.Dataset, function: Function) -> tf.data.Dataset:
    """`dataset.flat_map(function)`."""
    traced = _trace(function, dataset.element_spec)
    variant = tf.data.experimental.to_variant(dataset)
    flat = tf.raw_ops.FlatMapDataset(input_dataset=variant, **traced.arguments())
    return tf.data.experimental.from_variant(flat, traced.spec)


def interleave(
    dataset: tf.data.Dataset,
    function: Function,
    *,
    lanes: int,
    block_length: int,
    parallel: int,
    deterministic: bool,
) -> tf.data.Dataset:
    """`dataset.interleave(function)`."""
    traced = _trace(function, dataset.element_spec)
    numbers = {
        "cycle_length": lanes,
        "block_length": block_length,
        "buffer_output_elements": _CHOSEN_BY_TENSORFLOW,
        "prefetch_input_elements": _CHOSEN_BY_TENSORFLOW,
        "num_parallel_calls": parallel,
    }
    interleaved = tf.raw_ops.ParallelInterleaveDatasetV4(
        input_dataset=tf.data.experimental.to_variant(dataset),
        deterministic=_flag(deterministic),
        **{name: tf.constant(number, tf.int64) for name, number in numbers.items()},
        **traced.arguments(),
    )
    return tf.data.experimental.from_variant(interleaved, traced.spec)


def _flag(deterministic: bool) -> str:
    return "true" if deterministic else "false"


def _trace(function: Function, spec: Spec) -> _Traced:
    """The function of elements of that spec, which it takes as tf.data's methods give them."""
    found: list[Spec] = []

    def run(*tensors: tf.Tensor) -> list[tf.Tensor]:
        element = tf.nest.pack_sequence_as(spec, tensors)
        result = function(*element) if type(element) is tuple else function(element)
        if isinstance(result, tf.data.Dataset):
            found.append(result.element_spec)
            return [tf.data.experimental.to_variant(result)]
        found.append(tf.nest.map_structure(tf.type_spec_from_value, result))
        return tf.nest.flatten(result, expand_composites=True)  # type: ignore[no-any-return]

    graph = tf.function(
        run, input_signature=tf.nest.flatten(spec), autograph=False, experimental_attributes=_ATTRIBUTES
    ).get_concrete_function()
    return _Traced(graph, found[-1])
