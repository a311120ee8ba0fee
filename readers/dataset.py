"""`load_dataset`: shards as a `tf.data.Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.example import LABEL
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest
from readers import splits
from readers.manifests import Paths, load_manifest
from readers.options import AUTOTUNE, Features, Padding, ReadOptions
from readers.outputs import LENGTH, choose_structure, columns_of
from readers.pipeline.malloc import keep_large_blocks
from readers.pipeline.strategy import MAX_LANES, choose
from readers.shards import damage
from readers.shards.cache import Fetcher, ShardCache
from readers.shards.index import find_offsets
from readers.shards.presence import check_shards
from readers.splits import Part

if TYPE_CHECKING:
    import tensorflow as tf


def load_dataset(
    path: Paths,
    *,
    split: str | None = None,
    features: Features = None,
    batch_size: int | str | None = None,
    drop_remainder: bool = False,
    shuffle: bool | int | str = False,
    seed: int | None = None,
    repeat: bool | int = False,
    padding: Padding = "batch",
    padding_value: Any = 0,
    ragged: bool = False,
    with_lengths: bool = False,
    normalize: bool = False,
    buckets: int | Iterable[int] | None = None,
    window: int | None = None,
    hop: int | None = None,
    map_fn: Callable[..., Any] | None = None,
    worker: Any = None,
    start: Any = 0,
    deterministic: bool | None = None,
    cache: bool | str = False,
    cache_size: int | str | None = None,
    prefetch: int = AUTOTUNE,
    num_parallel_calls: int = AUTOTUNE,
    tune_malloc: bool | None = None,
    on_corrupt: str = "raise",
) -> tf.data.Dataset:
    """The examples of a data set, as a `tf.data.Dataset`. See `docs/reading.md` for how and how fast.

    path: the directory that npy2tfrecord wrote; a list of them, or a directory of them, is read as one data set.
    split: its name, or a slice of it, as in 'train[:80%]' or 'train[100:200]', or several, as in 'f0+f1+val[:50%]';
        needed only where there are several.
    features: None for a dict of all, with `key` (and `label` where there is one); a name for the bare tensor;
        a tuple of names for a tuple; {'x': 'array'} for a dict with names of your own; or these in each other.
    batch_size: examples a batch; None for single examples. With buckets also '4MB' or '100000 elements' a batch.
    drop_remainder: leave out the last batch when it is smaller, so that the batch's size is static.
    shuffle: True, or how much is shuffled at a time: examples, or a size such as '256MB'.
    seed: makes the order the same in every run; it still differs from epoch to epoch.
    repeat: True without end, or a number of epochs.
    padding: to the longest of the batch ('batch'), the largest of the data set ('dataset'), or {'array': (512, 80)}.
    padding_value: what is padded with; a number, or a dict of them by feature.
    ragged: RaggedTensors instead of padding.
    with_lengths: adds `NAME/length`, the size of the axis that varies (a row of sizes where several do).
    normalize: subtract the mean and divide by the deviation that --stats found.
    buckets: a number of buckets, or their boundaries: batches of arrays of similar size, for little padding.
    window, hop: examples are windows of this size, one every `hop` (or side by side), of the axis that varies, or
        axis 0; `start` says where each was. An array that is shorter gives none.
    map_fn: applied to single examples, before batches are made.
    worker: (index, count) or a tf.distribute.InputContext: this worker's share of the examples.
    start: continue an epoch that was stopped: examples that were consumed in all, or (examples, workers) where several
        workers consumed them in step, whatever `worker` is now; a list of these where it was stopped several times.
    deterministic: whether the order must be the same every time; None where a seed is given or nothing is shuffled.
    cache: True to keep what was read in memory, or the path of a file to keep it in. For data sets in buckets a path is
        the directory of this machine that their shards are kept in; the user's cache directory when left out.
    cache_size: bytes of that directory, such as '200GB'; the shards used longest ago are removed first.
    prefetch, num_parallel_calls: chosen when left out.
    tune_malloc: make glibc keep large blocks of memory, in the whole process, which is said once in the log `readers`
        at level INFO; None where batches are large. `docs/reading/pipelines.md` has the variables that do the same.
    on_corrupt: 'raise', or 'skip' to check all records first and leave out the damaged and the missing ones, with a
        `DamageWarning`.

    Raises `UsageError` for a request that can't be met and `DamageError` for a missing or wrong shard.
    """
    options = ReadOptions(
        features=features, batch_size=batch_size, drop_remainder=drop_remainder, shuffle=shuffle, seed=seed,
        repeat=repeat, padding=padding, padding_value=padding_value, ragged=ragged, with_lengths=with_lengths,
        normalize=normalize, buckets=buckets, window=window, hop=hop, map_fn=map_fn, worker=worker,
        start=start, deterministic=deterministic, cache=cache, cache_size=cache_size,
        prefetch=prefetch, num_parallel_calls=num_parallel_calls, tune_malloc=tune_malloc,
        on_corrupt=on_corrupt,
    )  # fmt: skip
    manifest = load_manifest(path)
    selection = splits.select(manifest, split)
    structure = choose_structure(manifest, options)
    columns = columns_of(structure)
    check_padding_names(manifest, options)
    parts = selection.parts
    fetcher = None
    if any(shard.is_in_bucket for shard in selection.shards):
        cache_of_shards, options = _cache_of_shards(options)
        fetcher = Fetcher.of_lanes(selection.shards, cache_of_shards, MAX_LANES)
    elif options.cache_size is not None:
        raise UsageError("cache_size is for data sets in buckets, whose shards are kept on this machine's disk")
    if options.on_corrupt == "raise":
        check_shards([selection.shards[i] for i in sorted({part.shard for part in parts})])
    else:
        damaged = damage.find(selection.shards, parts, manifest.compression)
        parts = damage.without(parts, damaged)
        if damaged:
            damage.warn(selection.shards, damaged)
    parts = splits.share(splits.left(parts, options.stops()), *options.worker_index())

    from readers.pipeline.builder import Builder
    from readers.pipeline.decoders import make_decoder
    from readers.pipeline.shard_records import ShardRecords

    used = features_used(manifest, columns)
    compressed = manifest.compression != "none"
    strategy = choose(
        used, selection.example_bytes, sum(part.count for part in parts), len(parts), options, compressed=compressed
    )
    if strategy.tune_malloc:
        keep_large_blocks()
    decoders = [make_decoder(info, strategy.methods[info.name], options) for info in used]

    def make_stage(parts: Sequence[Part]) -> ShardRecords:
        label = manifest.label_dtype if LABEL in columns else None
        offsets = find_offsets(selection.shards, parts, manifest.compression)
        return ShardRecords(selection.shards, parts, manifest.compression, label, decoders, offsets, fetcher)

    return Builder(make_stage, parts, decoders, structure, options, strategy, manifest.examples).build()


def _cache_of_shards(options: ReadOptions) -> tuple[ShardCache, ReadOptions]:
    """Where the shards of buckets are kept, and the options without it."""
    if options.on_corrupt == "skip":
        raise UsageError(
            "on_corrupt='skip' is for data sets on a disk: shards of a bucket are compared with their hashes when they"
            " are fetched, so that a damaged one is never read; copy the data set first to read what is left of it"
        )
    directory = options.cache if isinstance(options.cache, str) else None
    size = options.cache_size if isinstance(options.cache_size, int) else None
    return ShardCache(directory, size), replace(options, cache=options.cache is True)


def features_used(manifest: Manifest, columns: Iterable[str]) -> list[FeatureInfo]:
    """The features that these columns need, in the manifest's order."""
    names = {column.removesuffix(LENGTH) for column in columns}
    return [info for info in manifest.features if info.name in names]


def check_padding_names(manifest: Manifest, options: ReadOptions) -> None:
    """Raise `UsageError` where padding is given for a feature that there is none of."""
    for option, value in (("padding", options.padding), ("padding_value", options.padding_value)):
        known = {info.name for info in manifest.features}
        if isinstance(value, Mapping) and not set(value) <= known and options.map_fn is None:
            unknown = sorted(set(value) - known)
            raise UsageError(f"{option} for {unknown[0]!r}: no such feature here; there are {sorted(known)}")
