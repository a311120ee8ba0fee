"""Merging: the records of existing data sets into the shards of one. See `merge`.

A merge differs from a conversion in its sources, its plan and its manifest, and in nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from npy2tfrecord.conversion.converter import Conversion
from npy2tfrecord.conversion.finish import merged_manifest
from npy2tfrecord.conversion.progress import ProgressFunction
from npy2tfrecord.conversion.recorded_options import options_of
from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.manifest import Manifest
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import LOCAL_BACKENDS, Options, Path, Source, parse_path, parse_place
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.planning.fingerprint import Fingerprint
from npy2tfrecord.planning.plan import Plan
from npy2tfrecord.planning.records import MergePlan, Records, plan_merge
from npy2tfrecord.planning.united import unite
from npy2tfrecord.sources.record_sets import load_manifests, load_records, read_labels
from npy2tfrecord.writing.shard_copier import unpack_shard
from npy2tfrecord.writing.shard_entry import ShardEntry


def merge(
    sets: Path | Sequence[Path],
    out: str | os.PathLike[str],
    *,
    split: str | Mapping[str, float] | None = None,
    split_by: str | None = None,
    shard_size: int | str | None = None,
    num_shards: int | None = None,
    shuffle: bool | None = None,
    seed: int | None = None,
    compression: str | None = None,
    fsync: bool = True,
    read_back: bool = False,
    jobs: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    in_flight: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    assume_single_writer: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: ProgressFunction | None = None,
) -> Manifest:
    """The manifest of the data set in `out`, after the records of existing data sets were copied there.

    Merging what was converted from parts of a directory gives the bytes of converting the directory. One set is written
    again with other shards. Options that are not given are those of the sets where they agree, else those of `convert`.
    A call resumes where an earlier one with the same arguments was stopped.

    sets: the directories of the data sets, or of one, in any order.
    out: the directory to write, or a place in a bucket: a new or empty one, or one with the same merge.
    split: 'train=0.9,val=0.1' or a mapping, by a hash of the key; or 'dirs', by the first folder. None keeps every
        example in its split.
    split_by: a regular expression; keys in which it finds the same text go to one split together.
    shard_size: approximate size of a shard, in bytes or as in '128MB'.
    num_shards: shards per split, instead of a size; never more than there are examples.
    shuffle: spread the examples over the shards in random order; False puts them in the order of their keys.
    seed: seed of that order and of the splits.
    compression: 'none', 'gzip' or 'zlib', of whole shards.
    fsync: wait until the disk has the data.
    read_back: read each shard back from the disk before it counts as written.
    jobs: worker processes; None for one per core.
    backend: joblib's backend, or 'dask' for a cluster.
    scheduler: address of the Dask scheduler, such as 'tcp://host:8786'.
    in_flight: requests to storage that a worker keeps under way; None finds out how many pay.
    scratch: where shards are on their way into a bucket; None is the system's temporary directory.
    assume_single_writer: write to a bucket whose store lets two runs create one object; see `docs/cloud.md`.
    overwrite: replace the data set that is in `out`.
    dry_run: write nothing; hashes and last bytes in the manifest are empty.
    progress: called with a `Progress` at least once a second; see `npy2tfrecord.progress_bar`.

    Raises `InputError` where the sets can't be one (other features, dtypes or ranks, a key in two of them, classes
    beside numbers) or a record is damaged, and otherwise what `npy2tfrecord.convert` raises.
    """
    chosen = {
        "split": split,
        "split_by": split_by,
        "shard_size": shard_size,
        "num_shards": num_shards,
        "shuffle": shuffle,
        "seed": seed,
        "compression": compression,
    }
    chosen = {name: value for name, value in chosen.items() if value is not None}
    running = Options(
        fsync=fsync, read_back=read_back, jobs=jobs, backend=backend, scheduler=scheduler, in_flight=in_flight,
        scratch=scratch, assume_single_writer=assume_single_writer,  # type: ignore[arg-type]
    )  # fmt: skip
    return Merge(sets, parse_place(out, "out"), chosen, running, overwrite, progress).run(dry_run=dry_run)


class Merge(Conversion):
    """One run, from the sets to the manifest."""

    def __init__(
        self,
        sets: Path | Sequence[Path],
        out: str,
        chosen: Mapping[str, Any],
        running: Options,
        overwrite: bool,
        progress: ProgressFunction | None,
    ) -> None:
        listed = [sets] if isinstance(sets, (str, bytes, os.PathLike)) else list(sets)
        if not listed:
            raise UsageError("no sets: name at least one data set")
        self.directories = [parse_path(path, "set") for path in listed]
        if running.backend not in LOCAL_BACKENDS:  # workers may be in another directory
            self.directories = [os.path.abspath(path) for path in self.directories]
        real = [os.path.realpath(path) for path in self.directories]
        if not is_bucket(out) and os.path.realpath(out) in real:
            raise UsageError(f"{display(out)} is one of the sets: merge them into another directory")
        for i, path in enumerate(real):
            if path in real[:i]:
                raise UsageError(f"{display(self.directories[i])} is given twice")
        self.manifests = load_manifests(self.directories)
        self.united = unite(self.directories, self.manifests, Options().shaping())
        self.resplit = "split" in chosen
        self.sources = tuple(Source(None, os.fsencode(path)) for path in self.directories)
        self._set_up(out, self._options(chosen, running), overwrite, progress)

    def _options(self, chosen: Mapping[str, Any], running: Options) -> Options:
        """The options given, and for the others those that the sets record."""
        recorded = self.united.options
        if "split_by" in chosen and not self.resplit:
            raise UsageError("split_by goes with fractions, such as split='train=0.9,val=0.1'")
        by_folder = chosen.get("split") == "dirs"
        if recorded.get("labels") == "dirs" and self.resplit and by_folder != (recorded.get("split") == "dirs"):
            raise UsageError(
                f"the sets have their labels from the {'first' if by_folder else 'second'} folder, which they would not"
                f" have with split {chosen['split']!r}: convert the sources again"
            )
        # The names of the tables are not recorded and not needed: labels are in the records, and so are splits.
        tables = {name: "known.csv" if recorded.get(name) == "file" else None for name in ("labels", "split")}
        options = options_of(recorded, tables, running)
        changes = dict(chosen)
        if self.resplit:
            changes.setdefault("split_by", None)
        if "shard_size" in changes:
            changes.setdefault("num_shards", None)
        if Options(split=chosen.get("split")).split_table is not None:
            raise UsageError(f"split {chosen['split']}: a table of splits goes with a conversion")
        return replace(options, fsync=running.fsync, read_back=running.read_back, **changes)

    def _kept_files(self) -> None:
        return None  # there are none

    def _find(self) -> None:
        pass  # the manifests are read

    def _is_known(self, earlier: Manifest) -> bool:
        self._check_same(earlier, self.united.fingerprint)
        return True

    def _plan(self) -> tuple[MergePlan, Fingerprint]:
        """The plan for the records of all sets, and the fingerprint that their sources have together."""
        records = Records(table=load_records(self.directories, self.manifests), rows=self.options.rows)
        is_counted = any(manifest.label_counts for manifest in self.manifests)
        if self.united.changes_labels or (self.resplit and is_counted):
            records.labels = self._read_labels(records)
        return plan_merge(records, self.united, self.options, resplit=self.resplit), self.united.fingerprint

    def _read_labels(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """The label of every record, and what it becomes."""
        table = records.table
        old = np.empty(len(records), dtype=np.int64)
        tasks = []
        for number, shard in enumerate(table.shards):
            here = table.records_of(number)
            tasks.append((shard, number, table.offsets[here], table.sizes[here], table.keys[here]))
        jobs = self._jobs(int(table.sizes.sum()), len(records))
        for number, labels in pool.run(read_labels, tasks, jobs=jobs, backend=self.options.backend):
            old[table.records_of(number)] = labels
        new = old.copy()
        for number, shard in enumerate(table.shards):
            renumbered = self.united.numbers[shard.set_number]
            if renumbered is not None:
                here = table.records_of(number)
                if ((old[here] < 0) | (old[here] >= len(renumbered))).any():
                    raise InputError(shard.path, "a label that is none of its classes", "a whole data set")
                new[here] = renumbered[old[here]]
        return old, new

    def _prepare(self, planned: Plan | MergePlan, missing: set[str]) -> MergePlan:
        """Unpack compressed shards, whose records can't be read where they are."""
        assert isinstance(planned, MergePlan)
        table, paths, tasks = planned.records.table, list(planned.paths), []
        for number in planned.used_shards(missing):
            shard = table.shards[number]
            if shard.compression != "none":
                size = int(table.sizes[table.records_of(number)].sum())
                paths[number] = f"{self.workspace.stem(f'{number}-{shard.info.file}')}.file"
                tasks.append((shard, size, paths[number]))
        if tasks:
            if is_bucket(self.workspace.out) and not pool.is_local(self.options.backend):
                raise UsageError(
                    f"{display(self.workspace.out)}: compressed sets are unpacked to a disk first, which the workers of"
                    f" backend {self.options.backend!r} share with nobody; merge them with backend 'loky'"
                )
            size = sum(size for _, size, _ in tasks)
            self.workspace.check_space(size, size)
            for _ in pool.run(unpack_shard, tasks, jobs=self._jobs(size, 0), backend=self.options.backend):
                pass
        return replace(planned, paths=tuple(paths))

    def _manifest(
        self, planned: Plan | MergePlan, entries: Mapping[str, ShardEntry], fingerprint: Fingerprint
    ) -> Manifest:
        assert isinstance(planned, MergePlan)
        return merged_manifest(planned, entries, self.options)
