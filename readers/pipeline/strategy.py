"""The one place that decides which pipeline is built: from the manifest and the options, with nothing to tune.

Pure: no TensorFlow, no I/O. `docs/reading/pipelines.md` shows each pipeline and says why it is as it is.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from npy2tfrecord.formats.dtypes import dtype_from_name
from npy2tfrecord.formats.manifest import FeatureInfo
from npy2tfrecord.syscalls import usable_cores
from readers.options import AUTOTUNE, ReadOptions
from readers.windows import choose_axes

MAX_LANES = 16  # shards read at the same time; fixed, so that the order does not depend on the machine
LEAST_PIECES = 4  # that a data set is cut into to be shuffled, where there is so much
READ_AHEAD_BYTES = 192 * 2**20  # what all lanes together may hold, read but not yet asked for
RUN_BYTES = READ_AHEAD_BYTES // (3 * MAX_LANES)  # what a lane reads before it moves on to the next run
PREFETCH_BYTES = 32 * 2**20  # finished batches that wait for the training step: more leave the processor's cache
PREFETCH_BATCHES = 8
SHUFFLE_BYTES = 128 * 2**20  # of shuffle=True
SHUFFLE_EXAMPLES = 16384
SHUFFLE_SHARDS = 64  # that are opened at most to fill its buffer, so that the first batch does not wait for more
SHUFFLE_LEAST = 256
BLOCK_EXAMPLES = 256  # records handed on together where single ones are needed later: 40 µs shared by all
BLOCK_BYTES = 2**20
SMALL_BYTES = 16 * 2**10  # an example of this size is not worth decoding by itself
SORTED_BATCHES = 4  # that a bucket collects, sorts by length and hands on
LARGE_BYTES = 8 * 2**20  # an example of this size is decoded by itself: a batch of strings is too large
UNBUFFERED_BYTES = 256 * 2**10  # a record of this size is read to where it belongs, without a copy through a buffer
MALLOC_BYTES = 128 * 2**10  # what glibc maps anew for every allocation, a page fault every 4 KiB


class Method(enum.Enum):
    """How a batch of one feature's byte strings becomes a tensor."""

    FIXED = "fixed"  # all arrays have one shape: decoded as they are
    FIRST_AXIS = "first axis"  # only axis 0 varies: padding is at each array's end
    SEVERAL = "several"  # any axes vary: row lengths of every level, padded at once


class Kind(enum.Enum):
    """Which way records take."""

    BATCHES = "batches"  # every lane makes whole batches of strings and decodes each at once
    STREAM = "stream"  # blocks of strings from all shards, cut up, shuffled or bucketed, batched, decoded at once
    EXAMPLES = "examples"  # decoded one by one: for map_fn, no batches, and large examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The decisions. `lanes` are read at the same time, `block` records each, `parallel` calls at work."""

    kind: Kind
    methods: dict[str, Method]
    lanes: int
    block: int
    block_bytes: float  # that a block takes, or a batch where lanes make batches
    run: int  # blocks that a lane reads one after the other, where the order is the data set's
    parallel: int
    shuffle: int
    prefetch: int
    tune_malloc: bool
    seekable: bool  # the middle of a shard is reached without reading what is before
    pieces: int  # that shards are cut into at least, to be read in random order
    decode_blocks: bool  # of EXAMPLES: decode a block at once, then cut it up
    ahead: int = 1  # files that a lane reads at the same time, where storage waits
    threads: int = 0  # of a pool of its own, which these need; 0 for TensorFlow's, a thread a core


def waiting(strategy: Strategy, in_flight: int, example_bytes: float) -> Strategy:
    """The strategy where each file is waited for, and reading is worth having `in_flight` of them under way."""
    lanes = min(strategy.lanes, strategy.parallel)
    fit = math.floor(READ_AHEAD_BYTES / max(strategy.lanes * example_bytes, 1))
    return replace(strategy, ahead=max(1, min(in_flight // lanes, fit)), threads=in_flight)


def method(info: FeatureInfo) -> Method:
    varying = [axis for axis, size in enumerate(info.shape) if size is None]
    if not varying:
        return Method.FIXED
    return Method.FIRST_AXIS if varying == [0] else Method.SEVERAL


def largest_bytes(info: FeatureInfo) -> int:
    """Bytes of an array of the feature's largest size on every axis: what padding makes of any."""
    return math.prod(info.max_shape) * dtype_from_name(info.dtype).itemsize


def window_bytes(features: Sequence[FeatureInfo], window: int) -> int:
    """Bytes of the largest example of windows."""
    axes = choose_axes(features, window)
    sizes = (
        math.prod(window if axes.get(info.name) == axis else size for axis, size in enumerate(info.max_shape))
        * dtype_from_name(info.dtype).itemsize
        for info in features
    )
    return max(1, sum(sizes))


def choose(
    features: Sequence[FeatureInfo],
    example_bytes: float,
    examples: int,
    parts: int,
    options: ReadOptions,
    *,
    compressed: bool = False,
    files: bool = False,
) -> Strategy:
    """Decide for records of these features, of `example_bytes` in the mean, in `parts` shards or parts of them.

    compressed: whether the shards are. files: whether each example is a file, or a part of one, of its own.
    """
    methods = {info.name: method(info) for info in features}
    padded = max(sum(map(largest_bytes, features)), example_bytes, 1)
    large = padded >= LARGE_BYTES
    batch = options.batch_size if isinstance(options.batch_size, int) else 1
    cpus = usable_cores()
    parallel = options.num_parallel_calls if options.num_parallel_calls != AUTOTUNE else min(2 * cpus, MAX_LANES)
    most = min(SHUFFLE_EXAMPLES, max(SHUFFLE_LEAST, SHUFFLE_SHARDS * examples // max(parts, 1)))
    shuffle = options.shuffle_examples(example_bytes, SHUFFLE_BYTES, most)
    if options.window is not None:  # they are what is shuffled, and not larger than an example
        shuffle = options.shuffle_examples(window_bytes(features, options.window), SHUFFLE_BYTES, SHUFFLE_EXAMPLES)
    by_example = options.batch_size is None or options.map_fn is not None or options.window is not None
    if by_example or (large and not options.ragged and options.buckets is None):
        kind = Kind.EXAMPLES
    elif shuffle or options.buckets is not None:
        kind = Kind.STREAM
    else:
        kind = Kind.BATCHES

    # Blocks of empty arrays are left alone: cutting them up crashes TensorFlow.
    simple = all(methods[info.name] is Method.FIXED and largest_bytes(info) for info in features)
    decode_blocks = kind is Kind.EXAMPLES and simple and not shuffle and padded <= SMALL_BYTES
    block = 1 if large else max(1, min(BLOCK_EXAMPLES, math.floor(BLOCK_BYTES / max(example_bytes, 1))))
    if kind is Kind.BATCHES:
        block_bytes = batch * padded
    else:
        block_bytes = block * max(example_bytes, padded if large or compressed else 0, 1)
    # A lane holds two finished blocks and works on one; where things are shuffled, the next lanes are filled as well.
    lanes = max(1, min(MAX_LANES, math.floor(READ_AHEAD_BYTES / ((6 if shuffle else 3) * block_bytes))))
    run = max(1, math.floor(RUN_BYTES / block_bytes))
    if not shuffle and options.is_deterministic:
        # The order doesn't depend on it: as many as keep the cores busy, the next runs are begun as well.
        lanes = min(lanes, max(2, cpus, parallel // 2))
    if compressed:
        lanes = min(lanes, max(1, parts))  # a shard can't be entered in the middle without unpacking what is before
    if kind is Kind.EXAMPLES:
        parallel = max(1, min(parallel, math.floor(READ_AHEAD_BYTES / (3 * padded))))
    batch_bytes = (1 if options.batch_size is None else batch) * padded
    prefetch = options.prefetch
    if prefetch == AUTOTUNE:
        most = PREFETCH_BATCHES if options.batch_size is not None else 256
        prefetch = max(1, min(most, math.floor(PREFETCH_BYTES / batch_bytes)))
    tune = options.tune_malloc if options.tune_malloc is not None else batch_bytes >= MALLOC_BYTES
    seekable = not compressed
    pieces = lanes if files or (example_bytes >= UNBUFFERED_BYTES and seekable) else min(lanes, LEAST_PIECES)
    return Strategy(
        kind=kind,
        methods=methods,
        lanes=lanes,
        block=block,
        block_bytes=block_bytes,
        run=run,
        parallel=parallel,
        shuffle=shuffle,
        prefetch=prefetch,
        tune_malloc=tune,
        seekable=seekable,
        pieces=pieces,
        decode_blocks=decode_blocks,
    )
