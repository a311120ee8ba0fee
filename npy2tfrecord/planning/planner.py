"""Planning: which example goes where, decided before the first byte of output.

Nothing here reads or writes. The same examples and options give the same plan on every machine:
the order comes from the keys and a fixed hash function, not from a library's random generator.
"""

from __future__ import annotations

import numpy as np

from npy2tfrecord.errors import UsageError, display
from npy2tfrecord.formats.dtypes import is_time
from npy2tfrecord.formats.example import Layout, key_entry_head_size, label_entry
from npy2tfrecord.formats.tfrecord import FRAME_BYTES, MAX_DATA_BYTES
from npy2tfrecord.options import Options
from npy2tfrecord.planning.earlier_sets import EarlierSets
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.feature_summary import channels_of
from npy2tfrecord.planning.order import Keyed, shuffle
from npy2tfrecord.planning.plan import Plan, Split
from npy2tfrecord.planning.splits import split_examples
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.sources.table import SourceTable


def plan(examples: Examples, options: Options, earlier: EarlierSets | None = None) -> Plan:
    """Decide every record's size and place. Examples that `earlier` data sets hold are left out, even if none is left.

    Raises `InputError` for a record of 2 GiB or more, `UsageError` for what cannot be met.
    """
    casts = _choose_casts(examples, options)
    record_sizes = _record_sizes(examples, casts)
    if earlier is not None:
        record_sizes = record_sizes[earlier.leave_out(examples, casts, record_sizes)]
    splits = arrange(examples, split_examples(examples, options), record_sizes, options)
    channels = tuple(_channels(t, c, options) for t, c in zip(examples.tables, casts, strict=True))
    return Plan(examples=examples, casts=casts, record_sizes=record_sizes, splits=splits, channels=channels)


def estimate(examples: Examples, options: Options) -> tuple[int, int]:
    """Bytes of all records, and the number of shards that they make if they are one split; raises as `plan` does."""
    size = int(_record_sizes(examples, _choose_casts(examples, options)).sum())
    count = options.num_shards or _shard_count(size, int(options.shard_size))
    return size, min(count, len(examples))


def arrange(
    keyed: Keyed, members_of_splits: list[tuple[str, np.ndarray]], record_sizes: np.ndarray, options: Options
) -> tuple[Split, ...]:
    """The order of the members of each split, and where it is cut into shards."""
    splits = []
    for name, members in members_of_splits:
        order = _order(keyed, members, options)
        count = options.num_shards or _shard_count(int(record_sizes[members].sum()), int(options.shard_size))
        splits.append(Split(name, order, _cut(record_sizes[order], min(count, len(order)))))
    return tuple(splits)


def _choose_casts(examples: Examples, options: Options) -> tuple[Cast, ...]:
    features = {table.feature for table in examples.tables}
    for name in options.casts:
        if name is not None and name not in features:
            raise UsageError(f"dtype {name}:{options.casts[name]}: no such feature; there are {', '.join(features)}")
    casts = []
    for table in examples.tables:
        to = options.cast_of(table.feature)
        names = dict.fromkeys(header.dtype.name for header in table.headers)
        first, *_ = [Cast.of(name, to, table.feature) for name in names]  # every one must be allowed
        casts.append(first)
    return tuple(casts)


def _channels(table: SourceTable, cast: Cast, options: Options) -> int:
    """How many channels the feature's statistics have, 0 when none are asked for."""
    if not options.stats or is_time(table.headers[0].dtype):  # a mean of dates says little, and NaT is a number
        return 0
    shapes = [header.shape[1:] if options.rows else header.shape for header in table.headers]
    same_last = len({shape[-1:] for shape in shapes}) == 1
    return channels_of(shapes[0] if same_last else (), cast.to_name)


def varint_sizes(values: np.ndarray) -> np.ndarray:
    """Bytes of each number as a varint."""
    return np.searchsorted(2 ** np.arange(7, 63, 7), values, side="right") + 1


def _record_sizes(examples: Examples, casts: tuple[Cast, ...]) -> np.ndarray:
    """Bytes of every record, framing included: the sizes that `example.Layout` gives, in columns."""
    sizes = examples.key_sizes()
    lengths, inverse = np.unique(sizes, return_inverse=True)
    sizes = sizes + np.array([key_entry_head_size(n) for n in lengths.tolist()], dtype=np.int64)[inverse.reshape(-1)]
    for table, sources, cast in zip(examples.tables, examples.sources, casts, strict=True):
        by_header = np.empty(len(table.headers), dtype=np.int64)
        for i, header in enumerate(table.headers):
            shape = header.shape if examples.rows is None else header.shape[1:]
            layout = Layout.of(((table.feature, cast.to_name, shape, cast.nbytes(shape)),))
            size = len(layout.described) + len(layout.payload_heads[0]) + layout.payload_sizes[0]
            by_header[i] = min(size, 2**32)  # too large is too large; sums stay within 64 bits
        sizes += by_header[table.header_ids[sources]]
    if examples.labels is not None:
        labels, inverse = np.unique(examples.labels, return_inverse=True)
        entry_sizes = np.array([len(label_entry(label)) for label in labels.tolist()], dtype=np.int64)
        sizes += entry_sizes[inverse.reshape(-1)]
    sizes += 1 + varint_sizes(sizes)
    if sizes.max(initial=0) > MAX_DATA_BYTES:
        i = int(np.argmax(sizes))
        raise UsageError(
            f"{display(examples.tables[0].where(int(examples.sources[0][i])))}: a record of"
            f" {'4 GiB or more' if sizes[i] > 2**32 else f'{sizes[i]} bytes'}, expected less than 2 GiB, which is all"
            " that a tf.train.Example can hold: cut the array, or convert its rows with --rows"
        )
    return sizes + FRAME_BYTES


def _shard_count(size: int, shard_size: int) -> int:
    """Shards of at most about `shard_size`: one, or a multiple of 4, so that 2 or 4 workers end at the same time."""
    count = -(-size // shard_size)
    return count if count == 1 else -(-count // 4) * 4


def _order(keyed: Keyed, members: np.ndarray, options: Options) -> np.ndarray:
    """These examples in the order of writing: by a hash of the key and the seed, or by the key."""
    if not options.shuffle:
        return keyed.sorted(members, natural=options.sort == "natural")
    hashes = keyed.key_hashes(options.seed)
    order = shuffle(hashes[members])
    if order is not None:
        return np.asarray(members[order])
    members = keyed.sorted(members, natural=False)  # two keys have one hash: the smaller comes first
    return np.asarray(members[np.argsort(hashes[members], kind="stable")])


def _cut(sizes: np.ndarray, count: int) -> np.ndarray:
    """Where to cut so that `count` shards have about the same bytes, and none is empty."""
    ends = np.cumsum(sizes)
    targets = [int(ends[-1]) * k // count for k in range(1, count)]
    middles = ends - sizes // 2
    cuts = np.searchsorted(middles, np.array(targets, dtype=np.int64))
    steps = np.arange(1, count)
    cuts = np.maximum.accumulate(np.maximum(cuts, 1) - steps) + steps  # at least one each from the left …
    cuts = np.minimum(np.maximum(cuts, steps), len(sizes) - count + steps)  # … and from the right
    return np.concatenate([[0], cuts, [len(sizes)]]).astype(np.int64)
