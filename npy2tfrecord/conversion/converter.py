"""Converting: scan, plan, write shards, manifest. See `convert`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npy2tfrecord.conversion.dispatcher import write_all
from npy2tfrecord.conversion.surveyor import keep_small_files, survey
from npy2tfrecord.conversion.workspace import Workspace
from npy2tfrecord.errors import ConflictError, Error, InputError, OutputError, UnstableError, display
from npy2tfrecord.formats import manifest as manifests
from npy2tfrecord.formats.manifest import FeatureInfo, Hash, LabelCounts, Manifest, ShardInfo, Skipped
from npy2tfrecord.formats.npy import dtype_from_name
from npy2tfrecord.formats.shard import encode_keys, is_whole
from npy2tfrecord.formats.tfds_metadata import neighbour_files
from npy2tfrecord.jobs import dask_cluster, pool
from npy2tfrecord.options import DEFAULT_SHARD_SIZE, Dtype, Options, Sources, anchored, parse_sources
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.feature_summary import summarize
from npy2tfrecord.planning.fingerprint import data_hash, identity_of
from npy2tfrecord.planning.joiner import join
from npy2tfrecord.planning.plan import Plan
from npy2tfrecord.planning.planner import plan
from npy2tfrecord.sources.finder import Batch, collect, find
from npy2tfrecord.storage.kept import KeptFiles
from npy2tfrecord.writing.shard_writer import ShardEntry
from npy2tfrecord.writing.statistics import Moments

_SECONDS_FOR_PROCESSES = 0.1  # of work; less is done here sooner than worker processes are started
_SECONDS_A_BYTE, _SECONDS_A_RECORD, _SECONDS_A_FILE = 0.7e-9, 3e-6, 7e-6  # the last unless the file was kept whole


@dataclass(frozen=True)
class Progress:
    """How far a conversion is; given to the `progress` function at least once a second."""

    bytes_done: int
    bytes_total: int
    shards_done: int
    shards_total: int
    files_found: int = 0
    files_scanned: int = 0  # whose headers are read; bytes are known after the last


ProgressFunction = Callable[[Progress], None]


def convert(
    sources: Sources,
    out: str | os.PathLike[str],
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    files_from: str | os.PathLike[str] | None = None,
    follow_symlinks: bool = False,
    on_error: str = "fail",
    rows: bool = False,
    group_by_suffix: bool = False,
    void_dtype: Dtype | None = None,
    missing: str = "fail",
    labels: str | os.PathLike[str] | None = None,
    dtype: Dtype | Sequence[Dtype] | Mapping[str, Dtype] | None = None,
    stats: bool = False,
    split: str | Mapping[str, float] | None = None,
    split_by: str | None = None,
    shard_size: int | str = DEFAULT_SHARD_SIZE,
    num_shards: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    compression: str = "none",
    fsync: bool = True,
    read_back: bool = False,
    jobs: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    in_flight: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: ProgressFunction | None = None,
) -> Manifest:
    """The manifest of the data set in `out`, after `.npy` and `.npz` files were converted to sharded TFRecords there.

    A call resumes where an earlier one with the same arguments was stopped, and writes nothing where all is done. See
    `docs/converting.md` for examples.

    sources: a path, a list of paths (or 'NAME=PATH'), or a mapping of feature names to paths. A path is a directory,
        which is searched, or a `.npy` or `.npz` file.
    out: the directory to write: a new or empty one, or one with the same conversion.
    include, exclude: globs as in gitignore: only files that match, no files or directories that match.
    files_from: a file that lists the files to take, below each source.
    follow_symlinks: search directories behind symbolic links too.
    on_error: 'fail' at the first bad source, or 'skip' bad sources and list them in the manifest.
    rows: every row along axis 0 is an example.
    group_by_suffix: `0001.image.npy` and `0001.mask.npy` are features of example `0001`.
    void_dtype: the dtype of arrays of void (`V2`, `V1`), such as 'bfloat16': `np.save` drops its name.
    missing: 'fail' at a key that one of the named sources lacks, or 'skip' it.
    labels: 'dirs' for the first folder below the source, or a CSV file with the columns key and label.
    dtype: cast while writing: a dtype for all features, 'NAME:DTYPE', a list of these, or a mapping by feature.
    stats: record minimum, maximum, mean, deviation, NaN and infinity counts in the manifest.
    split: 'train=0.9,val=0.1' or a mapping, by a hash of the key; or 'dirs', by the first folder.
    split_by: a regular expression; keys in which it finds the same text go to one split together.
    shard_size: approximate size of a shard, in bytes or as in '128MB'.
    num_shards: shards per split, instead of a size; never more than there are examples.
    shuffle: spread the examples over the shards in random order; False keeps the order of their keys.
    seed: seed of that order and of the splits.
    compression: 'none', 'gzip' or 'zlib', of whole shards.
    fsync: wait until the disk has the data.
    read_back: read each shard back from the disk before it counts as written.
    jobs: worker processes; None for one per core.
    backend: joblib's backend, or 'dask' for a cluster.
    scheduler: address of the Dask scheduler, such as 'tcp://host:8786'.
    in_flight: requests to storage that a worker keeps under way; None finds out how many pay.
    overwrite: replace the data set that is in `out`.
    dry_run: write nothing; hashes and last bytes in the manifest are empty.
    progress: called with a `Progress` at least once a second; see `npy2tfrecord.progress_bar`.

    Raises `UsageError` for a request that cannot be met, `InputError` for a bad source, `OutputError` where writing
    fails, `ConflictError` where other data or another run is in `out`, `WorkerError` where a worker process keeps
    dying, and `ClusterError` where the Dask cluster is gone; see `npy2tfrecord.errors`.
    """
    # Options brings these five to the types of its fields.
    options = Options(
        include=include, exclude=exclude, files_from=files_from, labels=labels,  # type: ignore[arg-type]
        void_dtype=void_dtype,  # type: ignore[arg-type]
        follow_symlinks=follow_symlinks, on_error=on_error, rows=rows, group_by_suffix=group_by_suffix,
        missing=missing, dtype=dtype, stats=stats, split=split, split_by=split_by, shard_size=shard_size,
        num_shards=num_shards, shuffle=shuffle, seed=seed, compression=compression, fsync=fsync, read_back=read_back,
        jobs=jobs, backend=backend, scheduler=scheduler, in_flight=in_flight,
    )  # fmt: skip
    return Conversion(sources, os.fspath(out), options, overwrite, progress).run(dry_run=dry_run)


class Conversion:
    """One run, from the sources to the manifest."""

    def __init__(
        self, sources: Sources, out: str, options: Options, overwrite: bool, progress: ProgressFunction | None
    ) -> None:
        given = parse_sources(sources)
        self.sources = anchored(given, options.backend)
        relative = self.sources != given and not any(os.path.isabs(path) for _, path in given)
        self._base = os.getcwd() + "/" if relative else ""  # what a run here would not put before names
        self.options = options
        self.overwrite = overwrite
        self.progress = progress
        self.was_complete = False
        if not pool.is_local(options.backend):
            out = os.path.abspath(out)
        self.workspace = Workspace(out, sync=options.fsync)
        self._done = 0
        self._shards_done = 0
        self._files = 0, 0  # found, scanned
        self._memory: KeptFiles | None = None

    def run(self, *, dry_run: bool = False, damaged: frozenset[str] = frozenset()) -> Manifest:
        """Do what is still to be done; returns the manifest. Shards known to be `damaged` are written again."""
        options = self.options
        paths, jobs = [path for _, path in self.sources], pool.effective_jobs(options.jobs)
        with dask_cluster.connected(options.backend, options.scheduler, jobs, paths), ExitStack() as stack:
            if not dry_run and (kept := keep_small_files(options)) is not None:
                self._memory = stack.enter_context(kept)
            return self._run(dry_run, damaged)

    def _run(self, dry_run: bool, damaged: frozenset[str]) -> Manifest:
        options, workspace = self.options, self.workspace
        if (foreign := workspace.foreign()) and not self.overwrite:
            raise ConflictError(
                f"{display(workspace.out)} holds other files ({', '.join(map(display, foreign[:3]))}"
                f"{', …' * (len(foreign) > 3)}); expected an empty or new directory"
            )
        batches: Iterable[Batch] = find(self.sources, options)
        earlier = None if self.overwrite else workspace.found_manifest()
        if earlier is not None:
            batches = list(batches)  # what is complete needs no header
            self._check_same(dict(earlier.options), dict(earlier.sources), identity_of(collect(batches)))
            knows_all = options.labels in (None, "dirs")
            if knows_all and not damaged and not self._lost_shards(earlier):
                return self._complete(earlier)
        planned, identity = self._plan(batches)
        if earlier is not None:
            self._check_same(dict(earlier.options), dict(earlier.sources), identity)
            if not damaged and not self._lost_shards(earlier):  # the table of labels, which has no name, is the same
                return self._complete(earlier)
        if dry_run:
            sizes = planned.shard_sizes()
            entries = {
                file: ShardEntry(ShardInfo(file, count, sizes[file], "0" * 32, ""), "")
                for file, count in _shard_counts(planned).items()
            }
            return self._manifest(planned, entries, identity)
        with _told(workspace.out):
            workspace.open()
            try:
                workspace.check_shared(options.backend)
                if earlier is None and not self.overwrite and (other := workspace.found_manifest()):
                    self._check_same(dict(other.options), dict(other.sources), identity)  # another run was faster
                    workspace.finish({})
                    self.was_complete = True
                    return other
                return self._write(planned, identity, earlier, damaged)
            except BaseException as error:
                if isinstance(error, InputError) and not isinstance(error, UnstableError):
                    workspace.abandon()  # the same sources would end the same way again
                raise
            finally:
                workspace.close()

    def plan_like(self, manifest: Manifest, kept: KeptFiles | None = None) -> Plan:
        """The plan by which `manifest` came about. Raises `ConflictError` when the sources make another.

        Small files are read whole as long as `kept` has room.
        """
        self._memory = kept
        planned, identity = self._plan(find(self.sources, self.options))
        self._check_same(dict(manifest.options), dict(manifest.sources), identity)
        return planned

    def _plan(self, batches: Iterable[Batch]) -> tuple[Plan, dict[str, Any]]:
        """The plan for the files found and those that are still being found, and what tells it from others."""
        scanned = survey(batches, self.options, self._tell_files, self._memory)
        planned = plan(join(scanned, self.options), self.options)
        return planned, identity_of(scanned.found) | {"examples": len(planned.examples), "data": data_hash(planned)}

    def _tell_files(self, found: int, scanned: int) -> None:
        self._files = found, scanned
        if self.progress is not None:
            self.progress(Progress(0, 0, 0, 0, found, scanned))

    def _complete(self, manifest: Manifest) -> Manifest:
        """Nothing is left to do, but perhaps the last step of a run that was killed at it."""
        self.was_complete = True
        if os.path.isdir(self.workspace.path):
            with _told(self.workspace.out):
                self.workspace.open()
                try:
                    self.workspace.finish({})
                finally:
                    self.workspace.close()
        return manifest

    # --- going on where an earlier run stopped

    def _check_same(self, options: dict[str, Any], sources: dict[str, Any], identity: dict[str, Any]) -> None:
        """Raise `ConflictError` unless what is in the output was made from these sources with these options."""
        ours = self.options.shaping()
        differ = [f"{n} is {options.get(n)!r} there, {ours.get(n)!r} now" for n in ours if options.get(n) != ours[n]]
        if not differ:
            if sources.get("files") != identity["files"]:
                differ.append(f"{sources.get('files')} source files then, {identity['files']} now")
            elif sources.get("names") != identity["names"]:
                differ.append("the names of the source files have changed")
            elif "data" in identity and sources.get("data") != identity["data"]:
                differ.append("the dtypes, shapes or labels of the sources have changed")
        if differ:
            raise ConflictError(
                f"{display(self.workspace.out)} holds a conversion of other data or with other options:"
                f" {'; '.join(differ)}. --overwrite replaces it"
            )

    def _lost_shards(self, manifest: Manifest) -> list[str]:
        """Shards of a finished conversion that are missing or do not have their size."""
        lost = []
        for shard in manifest.shards:
            try:
                names = shard.file, *(manifests.beside(shard.file, suffix) for suffix in manifests.BESIDE)
                size, *_ = (os.stat(os.path.join(self.workspace.out, name)).st_size for name in names)
                if size != shard.bytes:
                    lost.append(shard.file)
            except OSError:
                lost.append(shard.file)
        return lost

    def _kept(self, planned: Plan, earlier: Manifest | None, damaged: frozenset[str]) -> dict[str, ShardEntry]:
        """The shards of an earlier run that are whole, by size and content, and whose sources have not changed."""
        entries = self.workspace.entries()
        if earlier is not None:
            entries = {shard.file: ShardEntry(shard, "") for shard in earlier.shards}
        candidates = []
        for spec in planned.shards(set(entries) - damaged):
            entry = entries[spec.file]
            if entry.sources_hash in ("", spec.sources_hash):
                missing = {i for i, _ in entry.left_out}
                keys = [key for i, key in enumerate(spec.record_keys) if i not in missing]
                keys_hash = Hash(encode_keys(keys)).hexdigest() if len(keys) == entry.examples else None
                candidates.append((self.workspace.out, entry.shard, self.options.compression, keys_hash))
        size = sum(shard.bytes for _, shard, _, _ in candidates)
        whole = pool.run(is_whole, candidates, jobs=self._jobs(size), backend=self.options.backend)
        return {file: entries[file] for file, found in whole if found}

    # --- writing

    def _jobs(self, size: int, records: int = 0, files: int = 0) -> int:
        seconds = size * _SECONDS_A_BYTE + records * _SECONDS_A_RECORD + files * _SECONDS_A_FILE
        if pool.is_local(self.options.backend) and seconds < _SECONDS_FOR_PROCESSES:
            return 1
        return pool.effective_jobs(self.options.jobs)

    def _write(
        self, planned: Plan, identity: dict[str, Any], earlier: Manifest | None, damaged: frozenset[str]
    ) -> Manifest:
        workspace = self.workspace
        intent = {"options": self.options.shaping(), "sources": identity}
        begun = workspace.plan()
        as_begun = begun and {name: begun.get(name) for name in intent} == json.loads(json.dumps(intent))
        if self.overwrite and (workspace.is_finished or not as_begun):
            workspace.clear()  # but not what this very command began
            begun = None
        if begun:
            self._check_same(begun.get("options", {}), begun.get("sources", {}), identity)
        if not begun:  # without its plan, what an earlier run finished can't be distinguished from anything else
            workspace.begin(intent | {"files": planned.files})
        entries = self._write_shards(planned, earlier, damaged)
        if not any(entry.examples for entry in entries.values()):
            first = next(skipped for entry in entries.values() for _, skipped in entry.left_out)
            found = f"{first.reason}; with it, none of the {len(planned.examples)} examples can be written"
            raise InputError(first.source, found, "at least one")
        earlier = earlier or self._manifest(planned, entries, identity)
        workspace.finish(neighbour_files(earlier) | {manifests.FILE_NAME: earlier.encode()})
        return earlier

    def _write_shards(self, planned: Plan, earlier: Manifest | None, damaged: frozenset[str]) -> dict[str, ShardEntry]:
        """Write all shards that are still to be written; the entries of all."""
        workspace, options = self.workspace, self.options
        entries = self._kept(planned, earlier, damaged)
        sizes = planned.shard_sizes()
        missing = set(sizes) - set(entries)
        self._check_space(sum(sizes[file] for file in missing), planned)
        total = sum(sizes.values())
        self._done, self._shards_done = total - sum(sizes[file] for file in missing), len(entries)
        jobs = self._jobs(sum(sizes[file] for file in missing), len(planned.record_sizes), _files_to_open(planned))
        jobs = min(jobs, max(1, len(missing)))

        expected = {shard.file: shard.hash for shard in earlier.shards} if earlier else {}

        def check(entry: ShardEntry) -> None:
            if entry.shard.hash != expected.get(entry.file, entry.shard.hash):
                raise ConflictError(
                    f"{display(workspace.out)}: {entry.file} is lost or damaged, and what its sources make now is not"
                    " what was there: they have changed since the conversion. --overwrite converts all anew"
                )

        def done(entry: ShardEntry) -> None:
            entries[entry.file] = entry
            self._done += sizes[entry.file]
            self._shards_done += 1

        def tell() -> None:
            if self.progress is not None:
                done = min(self._done + workspace.written_bytes(), total)
                self.progress(Progress(done, total, self._shards_done, len(sizes), *self._files))

        tell()
        write_all(planned, missing, workspace, options, jobs, check, done, tell)
        tell()
        return entries

    def _check_space(self, needed: int, planned: Plan) -> None:
        """Raise `OutputError` when the disk has no room for what is planned."""
        if self.options.compression != "none":
            return
        needed += 30 * len(planned.record_sizes)  # the index, at most, and the keys
        status = os.statvfs(self.workspace.out)
        free = status.f_bavail * status.f_frsize
        if needed > free:
            raise OutputError(
                f"{display(self.workspace.out)}: {needed} bytes are to be written, {free} are free on the disk."
                " Make room and run the same command again."
            )

    # --- the manifest

    def _manifest(self, planned: Plan, entries: dict[str, ShardEntry], identity: dict[str, Any]) -> Manifest:
        ordered = [entries[file] for file in planned.files]
        stats = {
            name: Moments.of_states(entry.moments[name] for entry in ordered).summary()
            for name in ordered[0].moments
            if all(name in entry.moments for entry in ordered)
        }
        left_out: list[np.ndarray] = []
        skipped: list[Skipped] = list(planned.examples.skipped)
        splits: dict[str, tuple[ShardInfo, ...]] = {}
        label_counts: dict[str, LabelCounts] = {}
        for split in planned.splits:
            infos = []
            for file, members in split.shards():
                entry = entries[file]
                infos.append(entry.shard)
                positions = np.array([i for i, _ in entry.left_out], dtype=np.int64)
                left_out.append(members[positions])
                skipped.extend(reason for _, reason in entry.left_out)
            splits[split.name] = tuple(infos)
            if counted := planned.count_labels(split, np.concatenate(left_out[-len(infos) :])):
                label_counts[split.name] = counted
        return Manifest(
            features=_features(planned, np.concatenate(left_out), stats),
            splits=splits,
            labels=None if planned.examples.labels is None else planned.examples.classes or (),
            label_counts=label_counts,
            compression=self.options.compression,
            options=self.options.shaping(),
            sources=identity,
            skipped=tuple(replace(s, source=s.source.removeprefix(display(self._base))) for s in skipped),
        )


@contextmanager
def _told(out: str) -> Iterator[None]:
    """Whatever the file system refuses in the output is an `OutputError`."""
    try:
        yield
    except Error:
        raise
    except OSError as error:
        raise OutputError.from_os("work in", error.filename or out, error) from error


def _files_to_open(planned: Plan) -> int:
    """How many files are still to be read: all that were not kept whole."""
    if planned.examples.rows is not None:
        return 0
    return sum(
        len(sources) if table.places is None else int(np.count_nonzero(table.places[sources] < 0))
        for table, sources in zip(planned.examples.tables, planned.examples.sources, strict=True)
    )


def _shard_counts(planned: Plan) -> dict[str, int]:
    return {file: len(members) for split in planned.splits for file, members in split.shards()}


def _features(planned: Plan, left_out: np.ndarray, stats: dict[str, dict[str, Any]]) -> tuple[FeatureInfo, ...]:
    examples: Examples = planned.examples
    features = []
    for table, sources, cast in zip(examples.tables, examples.sources, planned.casts, strict=True):
        counts = np.bincount(table.header_ids[sources], minlength=len(table.headers))
        if len(left_out):
            counts -= np.bincount(table.header_ids[sources[left_out]], minlength=len(table.headers))
        dtype = dtype_from_name(cast.to_name)
        info = summarize(table, counts, 0 if examples.rows is None else 1, dtype)
        features.append(replace(info, stats=stats.get(info.name)))
    return tuple(features)
