"""Surveying the sources: finding and scanning them, with as many workers as the options say. See `scan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np

from npy2tfrecord.conversion.progress import Progress, ProgressFunction
from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.dtypes import dtype_from_name
from npy2tfrecord.formats.manifest import FeatureInfo
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Dtype, Options, Path, Rank, Sources, anchored, parse_sources
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.feature_summary import summarize
from npy2tfrecord.planning.joiner import join
from npy2tfrecord.planning.natural_order import first_inversion
from npy2tfrecord.planning.planner import estimate
from npy2tfrecord.sources.finder import Batch, find, passed_over
from npy2tfrecord.sources.headers import FileHeaders, Report, Run, Task, read_here
from npy2tfrecord.sources.scanner import Scan, scan_files
from npy2tfrecord.storage.in_flight import MOST_IN_FLIGHT, remember, remembered, requests_for
from npy2tfrecord.storage.kept import BYTES_A_JOB, KeptFiles

_TASKS_FOR_FORKS = 3  # below, forking takes longer than reading the headers
_TASKS_FOR_PROCESSES = 30  # the same for processes that start anew
_MOST_CLASSES = 1000  # with more folders, these are hardly classes


@dataclass(frozen=True, kw_only=True)
class ScanReport:
    """What `scan` found: each feature, the number of its sources, the number of all files, the problems.

    `passed_over` has the numbers of files that are no sources, by suffix or kind. `examples` is the number of examples
    that have all features, `key` that of the first one, and `shapes` has the shapes of its arrays; where there is none,
    `obstacle` says why. `inversion` are two keys that come in the other order with `sort="natural"`, if there are any.

    The options that were given would make `shards` shards of `size` bytes in all. Of the sources, `lacking` have a key
    that another feature lacks. `folders` are the first folders of the keys, if they may be classes.
    """

    features: tuple[FeatureInfo, ...]
    counts: tuple[int, ...]
    files: int
    problems: tuple[InputError, ...]
    passed_over: Mapping[str, int]
    examples: int
    key: bytes | None
    shapes: Mapping[str, tuple[int, ...]]
    obstacle: str
    inversion: tuple[bytes, bytes] | None
    size: int
    shards: int
    lacking: int
    folders: tuple[bytes, ...]
    joined: Examples | None = field(repr=False, compare=False)  # all of them, so that some can be read

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "files": self.files,
            "features": {
                info.name: {"sources": count, **info.to_json()}
                for info, count in zip(self.features, self.counts, strict=True)
            },
            "examples": self.examples,
            "example": None
            if self.key is None
            else {"key": display(self.key), "shapes": {name: list(shape) for name, shape in self.shapes.items()}},
            "natural_order_differs": self.inversion is not None,
            "passed_over": dict(self.passed_over),
            "skipped": [{"source": display(p.where), "reason": p.problem} for p in self.problems],
        }


def scan(
    sources: Sources,
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    files_from: Path | None = None,
    follow_symlinks: bool = False,
    on_error: str = "fail",
    rows: bool = False,
    group_by_suffix: bool = False,
    members: bool = False,
    void_dtype: Dtype | None = None,
    dtype: Dtype | Sequence[Dtype] | Mapping[str, Dtype] | None = None,
    rank: Rank | Sequence[Rank] | Mapping[str, Rank] | None = None,
    jobs: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    in_flight: int | None = None,
    progress: ProgressFunction | None = None,
) -> ScanReport:
    """What arrays there are, by their headers alone: the features with dtypes and shapes, and the bad sources.

    The arguments are those of `npy2tfrecord.convert`.

    Raises `UsageError` for a request that cannot be met, `InputError` for a bad source, and `WorkerError` or
    `ClusterError` where worker processes keep dying or the Dask cluster is gone.
    """
    given: dict[str, Any] = {
        "include": include,
        "exclude": exclude,
        "files_from": files_from,
        "follow_symlinks": follow_symlinks,
        "on_error": on_error,
        "rows": rows,
        "group_by_suffix": group_by_suffix,
        "members": members,
        "void_dtype": void_dtype,
        "dtype": dtype,
        "rank": rank,
        "jobs": jobs,
        "backend": backend,
        "scheduler": scheduler,
        "in_flight": in_flight,
    }
    options = Options(**given)
    parsed = anchored(parse_sources(sources), backend)
    cores = pool.effective_jobs(options.jobs)
    paths = [source.path for source in parsed if not is_bucket(source.path)]
    with pool.connected(backend, scheduler, cores, paths):
        scanned = survey(find(parsed, options), options, _reporting(progress))
    examples, obstacle = _join_all(scanned, options)
    size = shards = 0
    if examples is not None:
        try:
            size, shards = estimate(examples, options)
        except UsageError as error:
            obstacle = str(error)
    infos = []
    for table in scanned.tables:
        counts = np.bincount(table.header_ids, minlength=len(table.headers))
        to = options.cast_of(table.feature)
        infos.append(summarize(table, counts, 0, table.headers[0].dtype if to is None else dtype_from_name(to)))
    return ScanReport(
        features=tuple(infos),
        counts=tuple(len(table) for table in scanned.tables),
        files=sum(map(len, scanned.found.values())),
        problems=tuple(scanned.problems),
        passed_over=passed_over(scanned.found),
        examples=0 if examples is None else len(examples),
        key=None if examples is None else examples.key(0),
        shapes={} if examples is None else _shapes(examples, 0),
        obstacle=obstacle,
        inversion=None if examples is None else first_inversion(examples),
        size=size,
        shards=shards,
        lacking=0 if examples is None else len(examples.skipped) - len(scanned.problems),
        folders=() if examples is None else _folders(examples),
        joined=examples,
    )


def _reporting(progress: ProgressFunction | None) -> Report | None:
    if progress is None:
        return None
    return lambda found, scanned: progress(
        Progress(bytes_done=0, bytes_total=0, shards_done=0, shards_total=0, files_found=found, files_scanned=scanned)
    )


def _join_all(scanned: Scan, options: Options) -> tuple[Examples | None, str]:
    """The examples of a scan, without keys that a feature lacks, or what is in their way."""
    try:
        return join(scanned, replace(options, missing="skip")), ""
    except (UsageError, InputError) as error:
        return None, str(error)


def _folders(examples: Examples) -> tuple[bytes, ...]:
    """The first folders of the keys, where all are in one of some folders that hold several each."""
    try:
        names, numbers = examples.directory_names(0, "")
    except InputError:
        return ()
    fit = 1 < len(names) <= _MOST_CLASSES and np.bincount(numbers).min() > 1
    return tuple(names) if fit else ()


def _shapes(examples: Examples, example: int) -> dict[str, tuple[int, ...]]:
    """The shape of each feature of an example."""
    pairs = zip(examples.tables, examples.sources, strict=True)
    headers = ((table.feature, table.headers[table.header_ids[sources[example]]]) for table, sources in pairs)
    return {feature: header.shape[0 if examples.rows is None else 1 :] for feature, header in headers}


def keep_small_files(options: Options) -> KeptFiles | None:
    """Memory for small files that a scan reads whole, if this process or forks of it are to write them."""
    if not pool.is_local(options.backend) or options.rows or options.casts:
        return None
    return KeptFiles(BYTES_A_JOB * (pool.effective_jobs(options.jobs) if pool.can_fork() else 1))


def survey(
    batches: Iterable[Batch], options: Options, report: Report | None = None, kept: KeptFiles | None = None
) -> Scan:
    """The scan of all files of the batches, by the workers that the options ask for; raises as `scan_files` does.

    Files that are read in this process are read whole as long as `kept` has room.
    """
    remember(0)
    scanned = scan_files(batches, options, _runner(options, kept), report)
    return replace(scanned, in_flight=remembered())


def _runner(options: Options, kept: KeptFiles | None) -> Run:
    """The way to run the tasks of a scan: here while they are few or storage waits, else by workers."""

    def run(
        function: Callable[..., FileHeaders], tasks: Iterator[Task], tick: Callable[[], None]
    ) -> Iterator[FileHeaders]:
        jobs, backend = pool.effective_jobs(options.jobs), options.backend
        if not pool.is_local(backend):
            yield from pool.run(function, tasks, jobs=jobs, backend=backend, tick=tick)
            return
        few = _TASKS_FOR_FORKS if pool.can_fork() else _TASKS_FOR_PROCESSES
        first = next(tasks, None)
        if first is None:
            return
        in_bucket, tasks = is_bucket(first[2][0][0]), chain([first], tasks)
        with requests_for(in_bucket=in_bucket, limit=options.in_flight, most=MOST_IN_FLIGHT * jobs) as requests:
            # Its first files say whether storage waits. Then one process does as well as many, and keeps what it reads.
            yield from read_here(islice(tasks, 1), requests, kept)
            others = [] if requests.target else list(islice(tasks, max(0, few - 1)))
            tasks = chain(others, tasks)
            if jobs == 1 or len(others) < few - 1:
                yield from read_here(tasks, requests, kept)
                remember(requests.target)
                return
        yield from pool.run(function, tasks, jobs=jobs, backend=backend, tick=tick)

    return run
