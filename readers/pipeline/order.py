"""Whether the records of a lane are those that were written there, in their order: checked in the graph.

Records' checksums, which TensorFlow verifies, hold wherever a record is. So the keys are summed up block by block
as `npy2tfrecord.formats.keysums` has it, and the sums compared with the manifest's where the lane ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from npy2tfrecord.formats.keysums import MODULUS, KeySums, joined, key_sums
from npy2tfrecord.formats.manifest import ShardInfo, keys_name
from readers.shards.index import load_residues
from readers.splits import Part

_WORD_BYTES = 2  # of a key are taken at a time: products and their sums stay below 2**63
_WEIGHTS = np.array([1 << 8 * _WORD_BYTES * word % 31 for word in range(31)], np.int64)  # 2**31 is 1 modulo 2**31 - 1


class Order:
    """What lanes of records must sum up to. Each lane is some parts of shards, one behind the other."""

    def __init__(self, directory: str, shards: Sequence[ShardInfo], lanes: Sequence[Sequence[Part]]) -> None:
        self._directory = directory
        self._shards = shards
        self._residues: dict[int, np.ndarray | None] = {}
        self._expected = tf.constant(np.array([self._sums(lane) for lane in lanes], np.int64).reshape(-1, 3))
        names = [[shards[part.shard].file for part in (lane[0], lane[-1])] for lane in lanes]
        joint = [first if first == last else f"{first} to {last}" for first, last in names]
        self._names = tf.constant(joint, tf.string)

    def _sums(self, lane: Sequence[Part]) -> tuple[int, int, int]:
        """A lane's number of records, and the sums over their keys. Without these, a number never reached."""
        parts = [(self._sums_of_part(part), part.count) for part in lane]
        known = [(sums, count) for sums, count in parts if sums is not None]
        return (sum(part.count for part in lane), *joined(known)) if len(known) == len(parts) else (-1, 0, 0)

    def _sums_of_part(self, part: Part) -> KeySums | None:
        shard = self._shards[part.shard]
        if part.first == 0 and part.count == shard.examples:
            return None
        if part.shard not in self._residues:
            # A data set may have been copied without what stands beside its shards.
            there = os.path.exists(os.path.join(self._directory, keys_name(shard.file)))
            self._residues[part.shard] = load_residues(self._directory, shard) if there else None
        residues = self._residues[part.shard]
        return None if residues is None else key_sums(residues[part.first : part.first + part.count])

    def check(
        self, blocks: tf.data.Dataset, lane: tf.Tensor, step: Callable[[Any], tuple[Any, tf.Tensor]]
    ) -> tf.data.Dataset:
        """The elements that `step` makes of the blocks of a lane, beside the keys; an error instead of the last one."""
        number, *sums = tf.unstack(tf.gather(self._expected, lane), 3)
        wanted, message = tf.stack(sums), tf.strings.join([tf.gather(self._names, lane), _PROBLEM])

        def scan(state: tuple[tf.Tensor, tf.Tensor], block: Any) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
            element, keys = step(block)
            done, sums = _advance(*state, keys)
            good = tf.not_equal(done, number) | tf.reduce_all(tf.equal(sums, wanted))
            tf.raw_ops.Assert(condition=good, data=[message], summarize=1)
            return (done, sums), element

        start = tf.zeros([], tf.int64), tf.zeros([2], tf.int64)
        return blocks.scan(start, tf.autograph.experimental.do_not_convert(scan))


_PROBLEM = (
    ": every record is whole, but they are not those that were written, in their order; "
    "npy2tfrecord verify tells which. Copy or convert the data set again"
)


def _advance(done: tf.Tensor, sums: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The number of records and the sums over their keys, with these keys as the next ones."""
    size = tf.reduce_max(tf.strings.length(keys)) // _WORD_BYTES * _WORD_BYTES + _WORD_BYTES
    words = tf.cast(tf.io.decode_raw(keys, tf.uint16, fixed_length=size), tf.int64)
    weights = tf.gather(tf.constant(_WEIGHTS), tf.range(size // _WORD_BYTES) % len(_WEIGHTS))
    residues = tf.reduce_sum(words * weights, 1) % MODULUS
    end = done + tf.size(keys, tf.int64)
    places = tf.range(done, end)  # below 2**32, so that products are below 2**63
    terms = tf.stack([residues, places * residues % MODULUS])
    return end, (sums + tf.reduce_sum(terms, 1)) % MODULUS
