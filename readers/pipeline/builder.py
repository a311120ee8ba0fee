"""From a first stage to the dataset that is returned: everything `load_dataset` and `load_npy` have in common.

A first stage delivers elements (a record's bytes, or a source's) in parts; `strategy` says which
way they take from there. Nothing here runs Python for an element.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from readers import splits
from readers.options import ReadOptions
from readers.outputs import LENGTH, Structure, columns_of, fill
from readers.pipeline.batching import pad_batches
from readers.pipeline.buckets import choose_buckets
from readers.pipeline.decoders import Decoder
from readers.pipeline.decoding import SHAPE, decode, decode_one, lengths
from readers.pipeline.strategy import READ_AHEAD_BYTES, SORTED_BATCHES, Kind, Strategy
from readers.pipeline.transformations import flat_map, interleave, map_elements
from readers.splits import Part
from readers.windows import START, choose_axes, count_windows

Block = Any  # a tensor of n records, or a dict of tensors of n sources


class FirstStage(Protocol):
    """Where examples come from."""

    parts: tuple[Part, ...]

    def announced(self, numbers: tf.data.Dataset, shards: Sequence[Sequence[int]]) -> tf.data.Dataset: ...

    def blocks(
        self, part: tf.Tensor, size: int, then: Callable[[Block], Structure] | None = None, drop_remainder: bool = False
    ) -> tf.data.Dataset: ...

    def columns(self, records: Block) -> dict[str, tf.Tensor]: ...

    def shapes(self, records: Block) -> dict[str, tf.Tensor]: ...


MakeStage = Callable[[Sequence[Part]], FirstStage]
Then = Callable[[FirstStage, Block], Structure]  # what is made of a block


class Builder:
    """Builds one dataset. `structure` is an element, with the name of the column in each place."""

    def __init__(
        self,
        make_stage: MakeStage,
        parts: Sequence[Part],
        decoders: Sequence[Decoder],
        structure: Structure,
        options: ReadOptions,
        strategy: Strategy,
        data_set_examples: int,
    ) -> None:
        self.make_stage = make_stage
        self.parts = parts
        self.decoders = {decoder.info.name: decoder for decoder in decoders}
        self.structure = structure
        self.options = options
        self.strategy = strategy
        self.examples = sum(part.count for part in parts)
        self.count: int | None = self.examples  # of what the caller calls an example
        self.axes: dict[str, int] = {}
        if options.window is not None and options.hop is not None:
            infos = [decoder.info for decoder in decoders]
            self.axes = choose_axes(infos, options.window)
            cut = next(info for info in infos if info.name in self.axes)
            everything = self.examples == data_set_examples
            size = options.window, options.hop
            self.count = count_windows(cut, self.axes[cut.name], *size, self.examples, everything)

    def build(self) -> tf.data.Dataset:
        options, kind = self.options, self.strategy.kind
        if kind is Kind.BATCHES:
            dataset = self._cached(self._lanes(options.batch_size, options.drop_remainder, self._decode_block))
        elif kind is Kind.STREAM:
            dataset = self._stream()
        else:
            dataset = self._examples()
        dataset = self._with_cardinality(dataset)
        if options.repeat is not False:
            dataset = dataset.repeat(None if options.repeat is True else options.repeat)
        if self.strategy.prefetch:
            dataset = dataset.prefetch(self.strategy.prefetch)
        return dataset.with_options(self._tf_options())

    # --- from parts to elements ------------------------------------------------------------------

    def _lanes(self, block: Any, drop_remainder: bool, then: Then) -> tf.data.Dataset:
        """Blocks of records in the order of the parts, each handed to `then` in the lane that read it.

        Lanes read runs side by side; all of a run's blocks are taken before the next run's. With two lanes and runs
        of two blocks: lane 0 reads blocks 0 1 4 5 8 9 …, lane 1 blocks 2 3 6 7 10 11 …
        """
        strategy = self.strategy
        examples = self.examples - self.examples % block if drop_remainder else self.examples
        parts = splits.narrow(self.parts, 0, examples)
        runs = splits.runs(parts, block, strategy.run, seekable=strategy.seekable)
        stage = self.make_stage([part for run in runs for part in run])
        one_part_each = all(len(run) == 1 for run in runs)
        bounds = tf.constant(np.array([*pairwise([0, *accumulate(map(len, runs))])], np.int64).reshape(-1, 2))

        def read_run(run: tf.Tensor) -> tf.data.Dataset:
            if one_part_each:  # functions within functions are what the start of an epoch costs
                return stage.blocks(run, block, finish, drop_remainder)
            first, last = tf.unstack(tf.gather(bounds, run), 2)
            pieces = flat_map(tf.data.Dataset.range(first, last), lambda part: stage.blocks(part, block))
            return map_elements(pieces.rebatch(block, drop_remainder=drop_remainder), finish)

        def finish(records: Block) -> Structure:
            return then(stage, records)

        longest = max((-(-sum(part.count for part in run) // block) for run in runs), default=1)
        if not self.options.is_deterministic:
            longest = 1  # whichever lane has a block is next
        lanes = min(strategy.lanes, math.floor(READ_AHEAD_BYTES / (3 * longest * strategy.block_bytes)))
        numbers = stage.announced(tf.data.Dataset.range(len(runs)), [[part.shard for part in run] for run in runs])
        return self._interleave(numbers, read_run, max(1, lanes), longest)

    def _blocks(self, then: Then) -> tf.data.Dataset:
        """Blocks of records; where things are shuffled, from parts in a new order every epoch."""
        strategy, options = self.strategy, self.options
        if not options.shuffle:
            return self._lanes(strategy.block, False, then)
        stage = self.make_stage(splits.split_up(self.parts, strategy.pieces))
        count = len(stage.parts)

        def read_part(part: tf.Tensor) -> tf.data.Dataset:
            return stage.blocks(part, strategy.block, lambda block: then(stage, block))

        parts = tf.data.Dataset.range(count)
        if count > 1:
            parts = parts.shuffle(count, seed=options.seed, reshuffle_each_iteration=True)
        parts = stage.announced(parts, [[part.shard] for part in stage.parts])
        return self._interleave(parts, read_part, strategy.lanes, 1)

    def _interleave(
        self, dataset: tf.data.Dataset, read: Callable[..., tf.data.Dataset], lanes: int, block_length: int
    ) -> tf.data.Dataset:
        if lanes == 1 and self.strategy.shuffle:
            return flat_map(dataset, read)  # nothing is read ahead: what is to be shuffled is large enough
        return interleave(
            dataset,
            read,
            lanes=lanes,
            block_length=block_length,
            parallel=min(self.strategy.parallel, lanes),
            deterministic=self.options.is_deterministic,
        )

    def _elements(self, then: Then | None = None) -> tf.data.Dataset:
        """Single records, shuffled (unless it is windows of them that will be)."""
        dataset = self._cached(self._blocks(then or _as_it_is)).unbatch()
        return dataset if self.axes else self._shuffled(dataset)

    def _shuffled(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if not self.strategy.shuffle:
            return dataset
        return dataset.shuffle(self.strategy.shuffle, seed=self.options.seed, reshuffle_each_iteration=True)

    def _windows(self) -> tf.data.Dataset:
        """Every example's windows, one behind the other, or shuffled."""
        stage, window, hop = self.make_stage(self.parts[:1]), self.options.window, self.options.hop
        assert window is not None
        assert hop is not None

        def decode_columns(record: Block) -> dict[str, tf.Tensor]:
            block = tf.nest.map_structure(lambda value: value[tf.newaxis], record)
            return self._values(stage.columns(block), decode_one, lambda value: value[0])

        def cut(example: dict[str, tf.Tensor]) -> tf.data.Dataset:
            sizes = [tf.shape(example[name], tf.int64)[axis] for name, axis in self.axes.items() if name in example]
            tf.raw_ops.Assert(
                condition=tf.reduce_all(tf.equal(sizes, sizes[0])),
                data=["features cut into windows differ in size, in example", example["key"], *sizes],
                summarize=1,
            )
            last = tf.maximum(sizes[0] - window + 1, 0)
            return map_elements(tf.data.Dataset.range(0, last, hop), lambda start: pick(example, start))

        def pick(example: dict[str, tf.Tensor], start: tf.Tensor) -> Structure:
            values = example | {START: start}
            for name, axis in self.axes.items():
                before = tf.zeros([axis], tf.int64)
                begin = tf.concat([before, [start], tf.zeros([values[name].shape.rank - axis - 1], tf.int64)], 0)
                size = [-1 if i != axis else window for i in range(values[name].shape.rank)]
                shape = [window if i == axis else n for i, n in enumerate(values[name].shape)]
                values[name] = tf.ensure_shape(tf.slice(values[name], begin, tf.constant(size, tf.int64)), shape)
            return fill(self.structure, values)

        return self._shuffled(flat_map(self._map(self._elements(), decode_columns), cut))

    def _stream(self) -> tf.data.Dataset:
        options = self.options
        if options.buckets is not None:
            dataset = self._bucketed()
        else:
            dataset = self._elements().batch(options.batch_size, drop_remainder=options.drop_remainder)
        stage = self.make_stage(self.parts[:1])
        return self._map(dataset, lambda block: self._decode_block(stage, block))

    def _bucketed(self) -> tf.data.Dataset:
        """Batches of records of similar length; which bucket each is of is found for a block at once.

        A bucket collects several batches and sorts them by length, which does as much as several times the buckets.
        """
        chosen = choose_buckets([decoder.info for decoder in self.decoders.values()], self.options)
        uppers = tf.constant(chosen.uppers, tf.int64)
        sizes = tf.constant(chosen.batch_sizes, tf.int64)
        drop = self.options.drop_remainder
        varying = {
            name: [axis for axis, size in enumerate(decoder.info.shape) if size is None]
            for name, decoder in self.decoders.items()
            if decoder.needs_shape
        }

        def number(stage: FirstStage, block: Block) -> Structure:
            shapes = stage.shapes(block)
            axes = [tf.gather(shapes[name + SHAPE], which, axis=1) for name, which in varying.items()]
            length = tf.reduce_max(tf.concat(axes, 1), axis=1)
            return block, length, tf.searchsorted(uppers[:-1], length, out_type=tf.int64)

        def sort(records: Block, length: tf.Tensor, _: tf.Tensor) -> Block:
            order = tf.argsort(length, stable=True)
            return tf.nest.map_structure(lambda column: tf.gather(column, order), records)

        def batch(bucket: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
            records = map_elements(window.batch(SORTED_BATCHES * sizes[bucket]), sort).unbatch()
            batches = records.batch(sizes[bucket], drop_remainder=drop)
            if not self.options.shuffle:
                return batches
            # Not always the short ones first.
            return batches.shuffle(SORTED_BATCHES, seed=self.options.seed, reshuffle_each_iteration=False)

        return self._elements(number).group_by_window(
            key_func=_plain(lambda _, length, bucket: bucket),
            reduce_func=_plain(batch),
            window_size_func=_plain(lambda bucket: SORTED_BATCHES * sizes[bucket]),
        )

    def _examples(self) -> tf.data.Dataset:
        options = self.options
        if self.axes:
            dataset = self._windows()
        elif self.strategy.decode_blocks:
            dataset = self._cached(self._blocks(self._decode_block)).unbatch()
        elif self.strategy.block == 1 and not options.shuffle:
            dataset = self._cached(self._lanes(1, False, self._decode_single))
        else:
            stage = self.make_stage(self.parts[:1])
            dataset = self._map(self._elements(), lambda record: self._decode_one(stage, record))
        if options.map_fn is not None:
            dataset = dataset.map(
                options.map_fn,
                num_parallel_calls=self.strategy.parallel,
                deterministic=options.is_deterministic,
            )
        if options.batch_size is None:
            return dataset
        return pad_batches(dataset, self.structure, self.decoders, options)

    def _map(self, dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
        deterministic = self.options.is_deterministic
        return map_elements(dataset, function, parallel=self.strategy.parallel, deterministic=deterministic)

    # --- from blocks to what the caller sees -----------------------------------------------------

    def _decode_block(self, stage: FirstStage, block: Block) -> Structure:
        return self._structure(stage.columns(block), decode)

    def _decode_one(self, stage: FirstStage, record: Block) -> Structure:
        return self._decode_single(stage, tf.nest.map_structure(lambda value: value[tf.newaxis], record))

    def _decode_single(self, stage: FirstStage, block: Block) -> Structure:
        """The example that a block of one holds."""
        return self._structure(stage.columns(block), decode_one, lambda value: value[0])

    def _structure(
        self,
        columns: Mapping[str, tf.Tensor],
        decode: Callable[..., Any],
        pick: Callable[[tf.Tensor], tf.Tensor] = lambda value: value,
    ) -> Structure:
        return fill(self.structure, self._values(columns, decode, pick))

    def _values(
        self,
        columns: Mapping[str, tf.Tensor],
        decode: Callable[..., Any],
        pick: Callable[[tf.Tensor], tf.Tensor],
    ) -> dict[str, Any]:
        values = {}
        wanted = columns_of(self.structure)
        if self.axes:  # an error names the key; where each window is shows only when it is cut
            wanted = [*{**dict.fromkeys(wanted), "key": None, **dict.fromkeys(self.axes)}]
            wanted = [column for column in wanted if column != START]
        for column in wanted:
            if column in self.decoders:
                values[column] = decode(self.decoders[column], columns)
            elif column.endswith(LENGTH):
                values[column] = pick(lengths(self.decoders[column.removesuffix(LENGTH)], columns))
            else:
                values[column] = pick(columns[column])
        return values

    # --- around it -------------------------------------------------------------------------------

    def _cached(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if not self.options.cache:
            return dataset
        return dataset.cache("" if self.options.cache is True else os.fsencode(self.options.cache))

    def _with_cardinality(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        options = self.options
        if options.buckets is not None:
            return dataset  # how many batches the buckets make shows only as they fill
        count = self.count
        if count is None:
            return dataset  # how many windows there are shows only as they are cut
        if isinstance(options.batch_size, int):
            count = count // options.batch_size if options.drop_remainder else -(-count // options.batch_size)
        return dataset.apply(tf.data.experimental.assert_cardinality(count))

    def _tf_options(self) -> tf.data.Options:
        options = tf.data.Options()
        options.deterministic = self.options.is_deterministic
        # The numbers are chosen already; measuring every element costs a quarter of the speed.
        options.autotune.enabled = False
        if self.strategy.threads:
            options.threading.private_threadpool_size = self.strategy.threads
        policy = tf.data.experimental.AutoShardPolicy
        options.experimental_distribute.auto_shard_policy = policy.DATA if self.options.worker is None else policy.OFF
        return options


def _as_it_is(stage: FirstStage, block: Block) -> Structure:
    return block


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of ours as it is: AutoGraph has nothing to convert in it, and takes long to find that out."""
    return tf.autograph.experimental.do_not_convert(function)  # type: ignore[no-any-return]
