"""From the entries of shards to the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from npy2tfrecord.errors import DamageError, InputError, display
from npy2tfrecord.formats.manifest import FeatureInfo, LabelCounts, Manifest, ShardInfo, Skipped
from npy2tfrecord.formats.npy import dtype_from_name
from npy2tfrecord.options import Options
from npy2tfrecord.planning.feature_summary import channels_of, summarize
from npy2tfrecord.planning.fingerprint import Fingerprint
from npy2tfrecord.planning.plan import Arrangement, Plan
from npy2tfrecord.writing.shard_entry import ShardEntry
from npy2tfrecord.writing.statistics import Moments

if TYPE_CHECKING:
    from npy2tfrecord.planning.records import MergePlan
    from npy2tfrecord.sources.record_sets import RecordTable


def planned_entries(planned: Arrangement) -> dict[str, ShardEntry]:
    """The entries that a dry run has: no hashes, and sizes before compression."""
    sizes = planned.shard_sizes()
    return {
        file: ShardEntry.of(ShardInfo(file=file, examples=len(members), bytes=sizes[file], hash="0" * 32, tail=""))
        for split in planned.splits
        for file, members in split.shards()
    }


def make_manifest(
    planned: Plan, entries: Mapping[str, ShardEntry], fingerprint: Fingerprint, options: Options, base: str
) -> Manifest:
    """The manifest of all shards; names of sources that were skipped are given relative to `base`.

    Raises `InputError` when no example at all could be written.
    """
    if not any(entry.examples for entry in entries.values()):
        first = next(skipped for file in planned.files for _, skipped in entries[file].left_out)
        found = f"{first.reason}; with it, none of the {len(planned.examples)} examples can be written"
        raise InputError(first.source, found, "at least one")
    ordered = [entries[file] for file in planned.files]
    left_out: list[np.ndarray] = []
    splits: dict[str, tuple[ShardInfo, ...]] = {}
    label_counts: dict[str, LabelCounts] = {}
    for split in planned.splits:
        shards = list(split.shards())
        splits[split.name] = tuple(entries[file].shard for file, _ in shards)
        left_out += [members[[i for i, _ in entries[file].left_out]] for file, members in shards]
        if counted := planned.count_labels(split, np.concatenate(left_out[-len(shards) :])):
            label_counts[split.name] = counted
    skipped = [*planned.examples.skipped, *(reason for entry in ordered for _, reason in entry.left_out)]
    return Manifest(
        features=_features(planned, np.concatenate(left_out), _statistics(ordered)),
        splits=splits,
        labels=planned.examples.classes,
        label_dtype=planned.examples.label_dtype,
        label_counts=label_counts,
        compression=options.compression,
        options=options.shaping(),
        sources=_sources(planned, fingerprint) | _compressors(entry.compressor for entry in ordered),
        skipped=sort_skipped(replace(s, source=s.source.removeprefix(display(base))) for s in skipped),
    )


def merged_manifest(planned: MergePlan, entries: Mapping[str, ShardEntry], options: Options) -> Manifest:
    """The manifest of records that were put into these shards."""
    united = planned.united
    keys = {display(key) for key in planned.records.table.keys} if united.skipped else set()
    counts = {split.name: planned.count_labels(split) for split in planned.splits}
    return Manifest(
        features=tuple(_joined_statistics(planned.records.table, i, info) for i, info in enumerate(united.features)),
        splits={split.name: tuple(entries[file].shard for file, _ in split.shards()) for split in planned.splits},
        labels=united.classes,
        label_dtype=united.label_dtype,
        label_counts={name: counted for name, counted in counts.items() if counted is not None},
        compression=options.compression,
        options=options.shaping(),
        sources=united.fingerprint.to_json() | _compressors(entry.compressor for entry in entries.values()),
        skipped=sort_skipped(each for each in united.skipped if each.source not in keys),  # one part lacks it, not all
    )


def _joined_statistics(table: RecordTable, number: int, info: FeatureInfo) -> FeatureInfo:
    """A feature with the statistics of all sets, if they have some."""
    stats = [manifest.features[number].stats for manifest in table.manifests if manifest.examples]
    known = [each for each in stats if each is not None]
    if len(known) < len(stats):
        return info
    try:
        joined = Moments.of_states(known, channels_of(info.shape, info.dtype))
    except DamageError as error:
        where = ", ".join(map(display, table.directories))
        raise InputError(where, f"feature {info.name!r} has {error}", "sets that this version wrote") from None
    return replace(info, stats=joined.summary())


def sort_skipped(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    """What was skipped, each once, in an order that does not depend on who found it."""
    return tuple(sorted(set(skipped), key=lambda s: (s.source, s.reason)))


def part_manifest(
    planned: Plan, entries: Mapping[str, ShardEntry], fingerprint: Fingerprint, options: Options, base: str
) -> Manifest:
    """The manifest of the shards in `entries` alone. The features are those of the whole plan."""
    made = make_manifest(planned, planned_entries(planned) | dict(entries), fingerprint, options, base)
    splits = {split: tuple(s for s in shards if s.file in entries) for split, shards in made.splits.items()}
    return replace(made, splits={split: shards for split, shards in splits.items() if shards}, label_counts={})


def nothing_new(planned: Plan, fingerprint: Fingerprint, options: Options, base: str) -> Manifest:
    """The manifest of an addition without examples: earlier data sets hold them all. It is not to be written."""
    skipped = planned.examples.skipped
    return Manifest(
        features=(),
        splits={},
        options=options.shaping(),
        sources=_sources(planned, fingerprint),
        skipped=sort_skipped(replace(s, source=s.source.removeprefix(display(base))) for s in skipped),
    )


def _sources(planned: Plan, fingerprint: Fingerprint) -> dict[str, Any]:
    known = planned.examples.known
    return fingerprint.to_json() | ({} if known is None else {"not_in": known.to_json()})


def repaired_manifest(manifest: Manifest, entries: Mapping[str, ShardEntry]) -> Manifest:
    """The manifest after shards were written again: another compressor may make other bytes of the same records."""
    splits = {split: tuple(entries[shard.file].shard for shard in shards) for split, shards in manifest.splits.items()}
    recorded = manifest.sources.get("compressors", [])
    known = [name for name in recorded if isinstance(name, str)] if isinstance(recorded, list) else []
    used = _compressors([*known, *(entry.compressor for entry in entries.values())])
    return replace(manifest, splits=splits, sources=dict(manifest.sources) | used)


def _compressors(names: Iterable[str | None]) -> dict[str, Any]:
    found = sorted({name for name in names if name is not None})
    return {"compressors": found} if found else {}


def _statistics(ordered: list[ShardEntry]) -> dict[str, dict[str, Any]]:
    return {
        name: Moments.of_states(entry.moments[name] for entry in ordered).summary()
        for name in ordered[0].moments
        if all(name in entry.moments for entry in ordered)
    }


def _features(planned: Plan, left_out: np.ndarray, stats: dict[str, dict[str, Any]]) -> tuple[FeatureInfo, ...]:
    examples = planned.examples
    features = []
    for table, sources, cast in zip(examples.tables, examples.sources, planned.casts, strict=True):
        counts = np.bincount(table.header_ids[sources], minlength=len(table.headers))
        if len(left_out):
            counts -= np.bincount(table.header_ids[sources[left_out]], minlength=len(table.headers))
        dtype = dtype_from_name(cast.to_name)
        info = summarize(table, counts, 0 if examples.rows is None else 1, dtype)
        features.append(replace(info, stats=stats.get(info.name)))
    return tuple(features)
