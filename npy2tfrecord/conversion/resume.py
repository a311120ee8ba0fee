"""What is kept of an earlier run, and what of it is in the way."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from npy2tfrecord.errors import ConflictError, display
from npy2tfrecord.formats.manifest import BESIDE, FORMAT_VERSION, Hash, Manifest, beside
from npy2tfrecord.formats.shard import encode_keys
from npy2tfrecord.options import Options
from npy2tfrecord.output.place import Candidate, Jobs, OutputPlace
from npy2tfrecord.planning.fingerprint import Fingerprint
from npy2tfrecord.planning.plan import Plan
from npy2tfrecord.writing.shard_entry import ShardEntry

if TYPE_CHECKING:
    from npy2tfrecord.planning.records import MergePlan

Entries = dict[str, ShardEntry]  # by the shard's file


def check_same(
    out: str, options: Mapping[str, Any], sources: Mapping[str, Any], chosen: Options, fingerprint: Fingerprint
) -> None:
    """Raise `ConflictError` unless what is in the output was made with the `chosen` options from the same sources.

    `options` and `sources` are recorded there. An option that is not recorded was added to this package later, and
    had its default.
    """
    ours, defaults = chosen.shaping(), Options().shaping()
    if unknown := options.keys() - ours.keys():
        raise ConflictError(
            f"{display(out)} was made by a newer version of npy2tfrecord, with options that this one does not know:"
            f" {', '.join(map(display, sorted(unknown)))}. Use that version; --overwrite replaces what is there"
        )
    there = defaults | dict(options)
    differ = [f"{name} is {there[name]!r} there, {ours[name]!r} now" for name in ours if there[name] != ours[name]]
    if not differ and (changed := fingerprint.difference(sources)):
        differ.append(changed)
    if differ:
        raise ConflictError(
            f"{display(out)} holds a conversion of other data or with other options: {'; '.join(differ)}."
            " --overwrite replaces it"
        )


def check_begun(out: str, begun: Mapping[str, Any], version: str) -> None:
    """Raise `ConflictError` when another version of this package began the run: its bytes may be others."""
    if begun.get("package") != version:
        raise ConflictError(
            f"{display(out)} holds an unfinished conversion by version {display(str(begun.get('package')))} of"
            f" npy2tfrecord; this is {version}. Finish it with that version; --overwrite converts all anew"
        )


def lost_shards(place: OutputPlace, manifest: Manifest) -> list[str]:
    """Shards of a finished conversion that are missing, lack a file beside them or do not have their size.

    So are those that a repair, which was stopped, has written again with other bytes: the manifest does not know them.
    """
    beside_each = {shard.file: [beside(shard.file, suffix) for suffix in BESIDE] for shard in manifest.shards}
    sizes, entries = place.sizes([*beside_each, *chain(*beside_each.values())]), place.entries()
    return [
        shard.file
        for shard in manifest.shards
        if sizes.get(shard.file) != shard.bytes
        or any(name not in sizes for name in beside_each[shard.file])
        or (shard.file in entries and entries[shard.file].shard != shard)
    ]


def kept_shards(
    place: OutputPlace, planned: Plan | MergePlan, entries: Entries, options: Options, jobs: Jobs
) -> Entries:
    """The entries whose shards are whole and whose sources have not changed."""
    candidates: list[Candidate] = []
    for spec in planned.shards(set(entries)):
        entry = entries[spec.file]
        if entry.sources_hash in ("", spec.sources_hash):
            missing = {i for i, _ in entry.left_out}
            keys = [key for i, key in enumerate(spec.record_keys) if i not in missing]
            keys_hash = Hash(encode_keys(keys)).hexdigest() if len(keys) == entry.examples else None
            candidates.append((entry, keys_hash))
    return {file: entries[file] for file in place.whole_shards(candidates, options, jobs)}


def check_repairable(out: str, manifest: Manifest) -> None:
    """Raise `ConflictError` for a manifest with members that are unknown here: they would be lost."""
    if manifest.format_version != FORMAT_VERSION:
        raise ConflictError(
            f"{display(out)} is of format version {manifest.format_version}, this version of npy2tfrecord writes"
            f" {FORMAT_VERSION}: write the lost or damaged shards with the version that made it"
        )
