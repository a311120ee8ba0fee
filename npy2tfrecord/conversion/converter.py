"""Converting: scan, plan, write shards, manifest. See `convert`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from npy2tfrecord import __version__
from npy2tfrecord.conversion.dispatcher import write_all
from npy2tfrecord.conversion.finish import make_manifest, nothing_new, part_manifest, planned_entries, repaired_manifest
from npy2tfrecord.conversion.progress import Progress, ProgressFunction
from npy2tfrecord.conversion.resume import (
    Entries,
    check_begun,
    check_repairable,
    check_same,
    kept_shards,
    lost_shards,
)
from npy2tfrecord.conversion.shared_scan import shared_scan
from npy2tfrecord.conversion.surveyor import keep_small_files, survey
from npy2tfrecord.errors import Error, InputError, OutputError, UnstableError, UsageError, display
from npy2tfrecord.formats.manifest import FILE_NAME, Manifest
from npy2tfrecord.formats.neighbours import neighbour_files
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import (
    DEFAULT_SHARD_SIZE,
    Dtype,
    Options,
    Path,
    Rank,
    Sources,
    absolute_place,
    anchored,
    parse_place,
    parse_sources,
    with_splits_of,
)
from npy2tfrecord.output.workspace import Workspace
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.planning.earlier_sets import EarlierSets
from npy2tfrecord.planning.examples import Known
from npy2tfrecord.planning.fingerprint import Fingerprint
from npy2tfrecord.planning.joiner import join
from npy2tfrecord.planning.plan import Arrangement, Plan
from npy2tfrecord.planning.planner import plan
from npy2tfrecord.sources.finder import Batch, collect, find, passed_over
from npy2tfrecord.sources.scanner import Scan
from npy2tfrecord.storage.kept import KeptFiles
from npy2tfrecord.writing.shard_entry import ShardEntry

if TYPE_CHECKING:
    from npy2tfrecord.output.bucket_workspace import BucketWorkspace
    from npy2tfrecord.planning.records import MergePlan

_SECONDS_FOR_PROCESSES = 0.1  # of work; less is done here sooner than worker processes are started
_SECONDS_A_BYTE, _SECONDS_A_RECORD, _SECONDS_A_READ = 2.1e-9, 3e-6, 7e-6
_BESIDE_BYTES = 30  # of the index and the keys, for each record, at most about


def convert(
    sources: Sources,
    out: str | os.PathLike[str],
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    files_from: str | os.PathLike[str] | None = None,
    follow_symlinks: bool = False,
    not_in: Path | Sequence[Path] = (),
    on_error: str = "fail",
    rows: bool = False,
    group_by_suffix: bool = False,
    members: bool = False,
    void_dtype: Dtype | None = None,
    missing: str = "fail",
    labels: str | os.PathLike[str] | None = None,
    label_by: str | None = None,
    key_by: str | Sequence[str] | Mapping[str, str] | None = None,
    dtype: Dtype | Sequence[Dtype] | Mapping[str, Dtype] | None = None,
    rank: Rank | Sequence[Rank] | Mapping[str, Rank] | None = None,
    stats: bool = False,
    split: str | os.PathLike[str] | Mapping[str, float] | None = None,
    split_by: str | None = None,
    shard_size: int | str = DEFAULT_SHARD_SIZE,
    num_shards: int | None = None,
    sort: str = "bytes",
    shuffle: bool = True,
    seed: int = 0,
    compression: str = "none",
    fsync: bool = True,
    read_back: bool = False,
    part: str | tuple[int, int] | None = None,
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
    """The manifest of the data set in `out`, after `.npy` and `.npz` files were converted to sharded TFRecords there.

    A call resumes where an earlier one with the same arguments was stopped, and writes nothing where all is done. See
    `docs/converting.md` for examples.

    sources: a path, a list of paths (or 'NAME=PATH'), or a mapping of feature names to paths. A path is a directory,
        which is searched, or a `.npy` or `.npz` file. It may be in a bucket: 's3://BUCKET/PREFIX', 'gs://…' or 'az://…'.
    out: the directory to write: a new or empty one, or one with the same conversion. It may be in a bucket too.
    include, exclude: globs as in gitignore: only files that match, no files or directories that match.
    files_from: a file that lists the files to take, below each source.
    follow_symlinks: search directories behind symbolic links too.
    not_in: data sets: only sources whose keys these lack are converted. Where nothing is new, nothing is written, and
        the manifest has no examples.
    on_error: 'fail' at the first bad source, or 'skip' bad sources and list them in the manifest.
    rows: every row along axis 0 is an example.
    group_by_suffix: `0001.image.npy` and `0001.mask.npy` are features of example `0001`.
    members: every member of a `.npz` is an example of its own, with the key ARCHIVE/MEMBER, and not a feature.
    void_dtype: the dtype of arrays of void (`V2`, `V1`), such as 'bfloat16': `np.save` drops its name.
    missing: 'fail' at a key that one of the named sources lacks, or 'skip' it.
    labels: 'dirs' for the first folder below the source, a CSV file with the columns key and label, or with `rows` a
        `.npy` file with a label for each row. Integers are int64, other numbers float32, words are classes.
    label_by: a regular expression; what it finds in a key is the label.
    key_by: a regular expression, or 'NAME:REGEX', a list of these, or a mapping by feature; what it finds in a file's
        path below the source, without suffix, is the key. Several groups are joined by slashes.
    dtype: cast while writing: a dtype for all features, 'NAME:DTYPE', a list of these, or a mapping by feature.
    rank: a number of axes for all features, 'NAME:N', a list of these, or a mapping by feature: arrays of fewer axes
        get trailing axes of 1.
    stats: record minimum, maximum, mean, deviation, NaN and infinity counts in the manifest.
    split: 'train=0.9,val=0.1' or a mapping, by a hash of the key; '5-fold' for `fold0` to `fold4` of about the same
        size; 'dirs', by the first folder; or a CSV file with the columns key and split.
    split_by: a regular expression; keys in which it finds the same text go to one split together.
    shard_size: approximate size of a shard, in bytes or as in '128MB'.
    num_shards: shards per split, instead of a size; never more than there are examples.
    sort: the order of the keys: 'bytes', or 'natural' for `frame_2` before `frame_10`.
    shuffle: spread the examples over the shards in random order; False keeps the order of their keys.
    seed: seed of that order and of the splits.
    compression: 'none', 'gzip' or 'zlib', of whole shards.
    fsync: wait until the disk has the data.
    read_back: read each shard back from the disk before it counts as written.
    part: 'I/N', such as '3/16', or a tuple: write every N-th shard only, from the I-th on, beside the runs of other
        parts. The manifest returned has the shards of the part alone. A call without it, when all parts are done,
        writes the manifest of the whole.
    jobs: worker processes; None for one per core.
    backend: joblib's backend, or 'dask' for a cluster.
    scheduler: address of the Dask scheduler, such as 'tcp://host:8786'.
    in_flight: requests to storage that a worker keeps under way; None finds out how many pay.
    scratch: where shards are on their way into a bucket; None is the system's temporary directory.
    assume_single_writer: write to a bucket whose store lets two runs create one object; see `docs/cloud.md`.
    overwrite: replace the data set that is in `out`.
    dry_run: write nothing; hashes and last bytes in the manifest are empty.
    progress: called with a `Progress` at least once a second; see `npy2tfrecord.progress_bar`.

    Raises `UsageError` for a request that cannot be met, `InputError` for a bad source, `OutputError` where writing
    fails, `ConflictError` where other data or another run is in `out`, `WorkerError` where a worker process keeps
    dying, and `ClusterError` where the Dask cluster is gone; see `npy2tfrecord.errors`.
    """
    # Options brings these seven to the types of its fields.
    options = Options(
        include=include, exclude=exclude, files_from=files_from, labels=labels,  # type: ignore[arg-type]
        void_dtype=void_dtype,  # type: ignore[arg-type]
        not_in=not_in,  # type: ignore[arg-type]
        follow_symlinks=follow_symlinks, on_error=on_error, rows=rows, group_by_suffix=group_by_suffix, members=members,
        missing=missing, label_by=label_by, key_by=key_by, dtype=dtype, rank=rank, stats=stats, split=split,
        split_by=split_by, shard_size=shard_size, num_shards=num_shards, sort=sort, shuffle=shuffle, seed=seed,
        compression=compression, fsync=fsync, read_back=read_back, part=part, jobs=jobs, backend=backend,
        scheduler=scheduler, in_flight=in_flight, scratch=scratch,  # type: ignore[arg-type]
        assume_single_writer=assume_single_writer,
    )  # fmt: skip
    converting = Conversion(sources, parse_place(out, "out"), options, overwrite=overwrite, progress=progress)
    return converting.run(dry_run=dry_run)


class Conversion:
    """One run, from the sources to the manifest."""

    def __init__(
        self,
        sources: Sources,
        out: str,
        options: Options,
        *,
        overwrite: bool = False,
        progress: ProgressFunction | None = None,
    ) -> None:
        given = parse_sources(sources)
        self.sources = anchored(given, options.backend)
        relative = self.sources != given and not any(os.path.isabs(s.path) or is_bucket(s.path) for s in given)
        self._base = os.getcwd() + "/" if relative else ""  # a run without a cluster does not put it before names
        self._batches: Iterable[Batch] = ()
        self._set_up(out, with_splits_of(given, options), overwrite, progress)

    def _set_up(self, out: str, options: Options, overwrite: bool, progress: ProgressFunction | None) -> None:
        self.options = options
        self.overwrite = overwrite
        self.progress = progress
        self.was_complete = False
        self.passed_over: Mapping[str, int] = {}  # the number of files that are no sources, by kind
        self.known: Known | None = None  # what the sets of `not_in` hold
        self._files = 0, 0  # found, scanned
        self._memory: KeptFiles | None = None
        if not pool.is_local(options.backend):
            out = absolute_place(out)
        if overwrite and options.part is not None:
            raise UsageError("part and overwrite: parts would remove one another's shards; overwrite without part")
        self._part: tuple[int, int] | None = options.part  # type: ignore[assignment]  # it is parsed
        self.unfinished_parts: tuple[tuple[int, ...], int] | None = None  # which had to be finished here, of how many
        self.workspace = _place(out, options)

    def run(self, *, dry_run: bool = False, damaged: frozenset[str] = frozenset()) -> Manifest:
        """Do what is still to be done; returns the manifest. Shards known to be `damaged` are written again."""
        options = self.options
        paths = [source.path for source in self.sources if not is_bucket(source.path)]
        jobs = pool.effective_jobs(options.jobs)
        with pool.connected(options.backend, options.scheduler, jobs, paths), ExitStack() as stack:
            if not dry_run and (kept := self._kept_files()) is not None:
                self._memory = stack.enter_context(kept)
            return self._run(dry_run, damaged)

    def _run(self, dry_run: bool, damaged: frozenset[str]) -> Manifest:
        workspace = self.workspace
        if not self.overwrite:
            workspace.check_own()
        self._find()
        earlier = None if self.overwrite else workspace.found_manifest()
        if earlier is not None and self._is_known(earlier) and not self._lost(earlier, damaged):
            return self._complete(earlier)
        if earlier is None and self._part is not None and not dry_run:
            return self._run_part(self._batches, damaged)
        planned, fingerprint = self._plan()
        if earlier is not None:
            self._check_same(earlier, fingerprint)
            if not self._lost(earlier, damaged):
                return self._complete(earlier)
            check_repairable(workspace.out, earlier)
            if self._part is not None:
                raise UsageError(f"{display(workspace.out)} is finished and has lost shards since: run without part")
        if isinstance(planned, Plan) and not len(planned.examples):
            return nothing_new(planned, fingerprint, self.options, self._base)
        if dry_run:
            whole = planned_entries(planned)
            if self._part is not None and isinstance(planned, Plan):
                mine = {file: whole[file] for file in planned.files_of_part(*self._part)}
                return part_manifest(planned, mine, fingerprint, self.options, self._base)
            return self._manifest(planned, whole, fingerprint)
        with self._workspace_taken():
            self._begin_or_resume(planned, fingerprint)
            if earlier is None and not self.overwrite and (other := workspace.found_manifest()):
                try:  # another run was faster; without a lock that is certain only now
                    self._check_same(other, fingerprint)
                finally:
                    workspace.finish({}, {})
                self.was_complete = True
                return other
            entries = self._write_shards(planned, earlier, damaged)
            if earlier is None:
                made = self._manifest(planned, entries, fingerprint)
            else:
                made = repaired_manifest(earlier, entries)
            workspace.finish(neighbour_files(made) | {FILE_NAME: made.encode()}, entries)
            return made

    def _run_part(self, batches: Iterable[Batch], damaged: frozenset[str]) -> Manifest:
        """Write the shards of one part, beside other parts; returns their manifest."""
        workspace = self.workspace
        with self._workspace_taken():
            if not workspace.is_finished:
                try:
                    return self._write_part(batches)
                except UnstableError:
                    workspace.forget_scan()  # it may be older than the sources
                    raise
        return self._run(False, damaged)  # the last run has finished the set meanwhile

    def _write_part(self, batches: Iterable[Batch]) -> Manifest:
        def scan(beat: Callable[[], None]) -> Scan:
            def report(found: int, scanned: int) -> None:
                beat()
                self._report_files(found, scanned)

            return survey(batches, self.options, report, self._memory)

        workspace = self.workspace
        identity = self.options.scan_identity(self.sources, __version__)
        tick = partial(self._report_files, 0, 0)
        if isinstance(workspace, Workspace):
            scanned = shared_scan(workspace, identity, self.options, scan, tick)
        else:
            scanned = workspace.shared_scan(identity, self.options, lambda: scan(lambda: None))
        planned, fingerprint = self._plan_scan(scanned)
        if not len(planned.examples):
            self.workspace.abandon()
            return nothing_new(planned, fingerprint, self.options, self._base)
        self._begin_or_resume(planned, fingerprint)
        entries = self._write_shards(planned, None, frozenset())
        return part_manifest(planned, entries, fingerprint, self.options, self._base)

    def plan_like(self, manifest: Manifest, kept: KeptFiles | None = None) -> Plan:
        """The plan by which `manifest` came about. Raises `ConflictError` when the sources make another.

        Small files are read whole as long as `kept` has room.
        """
        self._memory = kept
        self._find()
        planned, fingerprint = self._plan()
        self._check_same(manifest, fingerprint)
        assert isinstance(planned, Plan)
        return planned

    # --- the steps

    def _kept_files(self) -> KeptFiles | None:
        """Memory for small files that are read whole."""
        return keep_small_files(self.options)

    def _find(self) -> None:
        """Begin to find the sources."""
        self._batches = find(self.sources, self.options)

    def _is_known(self, earlier: Manifest) -> bool:
        """Whether the sources are those of a complete data set, as far as can be seen without opening them.

        Their names show it, unless files have their labels or splits. Raises `ConflictError` when they are others.
        """
        if self.options.not_in:
            return False
        self._batches = list(self._batches)
        found = collect(self._batches)
        self.passed_over = passed_over(found)
        self._check_same(earlier, Fingerprint.of_files(found))
        return self.options.labels in (None, "dirs") and self.options.split_table is None

    def _plan(self) -> tuple[Plan | MergePlan, Fingerprint]:
        """The plan for the files found and those that are still being found, and the sources' fingerprint."""
        return self._plan_scan(survey(self._batches, self.options, self._report_files, self._memory))

    def _plan_scan(self, scanned: Scan) -> tuple[Plan, Fingerprint]:
        self.passed_over = passed_over(scanned.found)
        earlier = EarlierSets(self.options.not_in) if self.options.not_in else None
        planned = plan(join(scanned, self.options), self.options, earlier)
        self.known = planned.examples.known
        found = scanned.found if earlier is None else earlier.without_known(scanned.found)
        return planned, Fingerprint.of_files(found).with_plan(planned)

    def _prepare(self, planned: Plan | MergePlan, missing: set[str]) -> Plan | MergePlan:
        """Make ready what the workers need to write the shards in `missing`; returns the plan that they follow."""
        return planned

    def _manifest(
        self, planned: Plan | MergePlan, entries: Mapping[str, ShardEntry], fingerprint: Fingerprint
    ) -> Manifest:
        """The manifest once all shards are written."""
        assert isinstance(planned, Plan)
        return make_manifest(planned, entries, fingerprint, self.options, self._base)

    def _check_same(self, there: Manifest, fingerprint: Fingerprint) -> None:
        check_same(self.workspace.out, there.options, there.sources, self.options, fingerprint)

    def _lost(self, manifest: Manifest, damaged: frozenset[str]) -> bool:
        """Whether any shard of a finished conversion must be written again."""
        return bool(damaged or lost_shards(self.workspace, manifest))

    def _complete(self, manifest: Manifest) -> Manifest:
        """Nothing is left to do, except perhaps the last step of a run that was killed at it."""
        self.was_complete = True
        if self.workspace.has_leftovers:
            with _output_errors(self.workspace.out):
                self.workspace.open()
                try:
                    self.workspace.finish({}, {})
                finally:
                    self.workspace.close()
        return manifest

    @contextmanager
    def _workspace_taken(self) -> Iterator[None]:
        """The output directory belongs to this run."""
        workspace = self.workspace
        with _output_errors(workspace.out):
            workspace.open()
            try:
                workspace.check_shared(self.options.backend)
                yield
            except BaseException as error:
                if isinstance(error, InputError) and not isinstance(error, UnstableError):
                    workspace.abandon()  # the same sources would end the same way again
                raise
            finally:
                workspace.close()

    def _begin_or_resume(self, planned: Arrangement, fingerprint: Fingerprint) -> None:
        """Record what this run is going to do, unless an earlier one began the same."""
        workspace = self.workspace
        intent = {"package": __version__, "options": self.options.shaping(), "sources": fingerprint.to_json()}
        begun = workspace.plan()
        as_begun = begun and {name: begun.get(name) for name in intent} == json.loads(json.dumps(intent))
        if self.overwrite and (workspace.is_finished or not as_begun):
            workspace.clear()  # but not what this very command began
            begun = None
        if begun:
            check_begun(workspace.out, begun, __version__)
            check_same(workspace.out, begun.get("options", {}), begun.get("sources", {}), self.options, fingerprint)
        else:  # without its plan, what an earlier run finished can't be distinguished from anything else
            workspace.begin(intent | {"files": planned.files})

    def _write_shards(self, planned: Plan | MergePlan, earlier: Manifest | None, damaged: frozenset[str]) -> Entries:
        """Write all shards that are still to be written; the entries of all."""
        workspace, options = self.workspace, self.options
        before = {shard.file: shard for shard in earlier.shards} if earlier else {}
        written = workspace.entries() if earlier is None else {f: ShardEntry.of(s) for f, s in before.items()}
        sizes = planned.shard_sizes()
        if self._part is not None:
            sizes = {file: sizes[file] for file in planned.files_of_part(*self._part)}
        candidates = {file: entry for file, entry in written.items() if file not in damaged and file in sizes}
        entries = kept_shards(workspace, planned, candidates, options, self._jobs)
        missing = sizes.keys() - entries.keys()
        if missing and self._part is None and len(counts := workspace.part_counts()) == 1:
            (count,) = counts
            numbers = {i % count + 1 for i, file in enumerate(planned.files) if file in missing}
            self.unfinished_parts = tuple(sorted(numbers)), count
        size = sum(sizes[file] for file in missing)
        jobs = min(self._jobs(size, len(planned.record_sizes), planned.count_reads()), max(1, len(missing)))
        if pool.is_local(options.backend) and jobs > 1 and planned.is_kept and not pool.can_fork():
            jobs = 1  # other processes would read all of it anew
        if options.compression == "none":
            beside = _BESIDE_BYTES * len(planned.record_sizes)
            at_once = sum(sorted(sizes[file] for file in missing)[-jobs:])
            workspace.check_space(size + beside, min(size, at_once) + beside)
        total, done = sum(sizes.values()), sum(sizes[file] for file in entries)

        def take(entry: ShardEntry) -> None:
            nonlocal done
            entries[entry.file] = entry
            done += sizes[entry.file]

        def report() -> None:
            if self.progress is not None:
                now = min(done + workspace.written_bytes(), total)
                self.progress(
                    Progress(
                        bytes_done=now,
                        bytes_total=total,
                        shards_done=len(entries),
                        shards_total=len(sizes),
                        files_found=self._files[0],
                        files_scanned=self._files[1],
                    )
                )

        report()
        planned = self._prepare(planned, missing)
        replaced = {file: before[file] for file in missing if file in before}
        write_all(planned, set(missing), workspace, options, jobs, replaced, take, report)
        report()
        return entries

    def _jobs(self, size: int, records: int, reads: int = 0) -> int:
        """How many workers are worth starting for so many bytes, in so many records, by so many reads."""
        seconds = size * _SECONDS_A_BYTE + records * _SECONDS_A_RECORD + reads * _SECONDS_A_READ
        if pool.is_local(self.options.backend) and seconds < _SECONDS_FOR_PROCESSES:
            return 1
        return pool.effective_jobs(self.options.jobs)

    def _report_files(self, found: int, scanned: int) -> None:
        self._files = found, scanned
        if self.progress is not None:
            self.progress(
                Progress(
                    bytes_done=0, bytes_total=0, shards_done=0, shards_total=0, files_found=found, files_scanned=scanned
                )
            )


def _place(out: str, options: Options) -> Workspace | BucketWorkspace:
    """The place to write to, on a disk or in a bucket."""
    part: tuple[int, int] | None = options.part  # type: ignore[assignment]  # it is parsed
    if is_bucket(out):
        from npy2tfrecord.output.bucket_workspace import BucketWorkspace  # not read where it isn't needed

        return BucketWorkspace(out, options, part)
    if options.scratch is not None or options.assume_single_writer:
        raise UsageError("scratch and assume_single_writer go with an output in a bucket, such as s3://BUCKET/PREFIX")
    return Workspace(out, sync=options.fsync, part=part)


@contextmanager
def _output_errors(out: str) -> Iterator[None]:
    """Whatever the file system refuses in the output is an `OutputError`."""
    try:
        yield
    except Error:
        raise
    except OSError as error:
        raise OutputError.from_os("work in", error.filename or out, error) from error
