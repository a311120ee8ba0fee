"""Scanning: what arrays there are, by their headers alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats import npz
from npy2tfrecord.formats.example import KEY
from npy2tfrecord.formats.manifest import FEATURE_PATTERN, FeatureInfo
from npy2tfrecord.formats.npy import Header, dtype_from_name, parse_header
from npy2tfrecord.formats.tfrecord import MAX_DATA_BYTES
from npy2tfrecord.jobs import dask_cluster, pool
from npy2tfrecord.options import DEFAULT_FEATURE, Dtype, Options, Sources, anchored, check_feature_name, parse_sources
from npy2tfrecord.sources.finder import Found, search
from npy2tfrecord.sources.headers import Part, Tell, read_all, special
from npy2tfrecord.sources.table import SourceTable, stamp, unreadable


@dataclass
class Scan:
    """What was found: a table for each feature, and what is wrong with the rest."""

    tables: tuple[SourceTable, ...]
    problems: list[InputError] = field(default_factory=list)


@dataclass(frozen=True)
class ScanReport:
    """What `scan` tells: each feature with the number of its sources, the files there are, what is wrong."""

    features: tuple[FeatureInfo, ...]
    counts: tuple[int, ...]
    files: int
    problems: tuple[InputError, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "files": self.files,
            "features": {
                info.name: {"sources": count, **info.to_json()}
                for info, count in zip(self.features, self.counts, strict=True)
            },
            "skipped": [{"source": display(p.where), "reason": p.problem} for p in self.problems],
        }


def scan(
    sources: Sources,
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    files_from: str | os.PathLike[str] | None = None,
    follow_symlinks: bool = False,
    on_error: str = "fail",
    rows: bool = False,
    group_by_suffix: bool = False,
    void_dtype: Dtype | None = None,
    jobs: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
) -> ScanReport:
    """What arrays there are, by their headers alone: the features with dtypes and shapes, and the bad sources.

    The arguments are those of `npy2tfrecord.convert`.

    Raises `UsageError` for a request that cannot be met, `InputError` for a bad source, and `WorkerError` or
    `ClusterError` where worker processes keep dying or the Dask cluster is gone.
    """
    # Options brings the first four to the types of its fields.
    chosen = Options(
        include=include, exclude=exclude, files_from=files_from, void_dtype=void_dtype,  # type: ignore[arg-type]
        follow_symlinks=follow_symlinks, on_error=on_error, rows=rows, group_by_suffix=group_by_suffix, jobs=jobs,
        backend=backend, scheduler=scheduler,
    )  # fmt: skip
    parsed = anchored(parse_sources(sources), chosen.backend)
    jobs = pool.effective_jobs(chosen.jobs)
    with dask_cluster.connected(chosen.backend, chosen.scheduler, jobs, [path for _, path in parsed]):
        found, steps = search(parsed, chosen)
        scanned = read_headers(found, chosen, steps)
    infos = []
    for table in scanned.tables:
        counts = np.bincount(table.header_ids, minlength=len(table.headers))
        infos.append(table.sum_up(counts, 0, table.headers[0].dtype))
    return ScanReport(
        tuple(infos),
        tuple(len(table) for table in scanned.tables),
        sum(len(each.npy) + len(each.npz) for each in found.values()),
        tuple(scanned.problems),
    )


def read_headers(
    found: dict[str | None, Found], options: Options, steps: Iterable[None] = (), tell: Tell | None = None
) -> Scan:
    """Read the header of every file that was found, and of those that `steps` still finds.

    Raises `InputError` for the first bad source unless `options.on_error` is "skip", and whenever
    the arrays of a feature differ in dtype or rank; `UsageError` when there are none.
    """
    parts = read_all(found, options, steps, tell)
    problems = [problem for each in found.values() for problem in each.problems]
    tables: dict[str, SourceTable] = {}
    for name, each in found.items():
        for table in _scan_files(name, each, parts.get(name, []), options, problems):
            if table.feature in tables:
                raise UsageError(
                    f"feature {table.feature!r} comes from both {display(tables[table.feature].path(0))} and"
                    f" {display(table.path(0))}: give one of them another name, NAME=PATH"
                )
            if len(table):
                tables[table.feature] = table
    if problems and options.on_error == "fail":
        raise _first_of(problems)
    if not tables:
        raise UsageError(_nothing_found(found, problems))
    for table in tables.values():
        check_feature_name(table.feature)
        _check_agreement(table, options)
    return Scan(tuple(tables.values()), problems)


def _first_of(problems: list[InputError]) -> InputError:
    first, others = problems[0], len(problems) - 1
    if not others:
        return first
    more = (
        f" ({others} more {'source has' if others == 1 else 'sources have'} problems; --on-error skip leaves all out)"
    )
    return InputError(first.where, first.found, (first.expected or "something else") + more)


def _nothing_found(found: dict[str | None, Found], problems: list[InputError]) -> str:
    if problems:
        return f"no usable source: {len(problems)} have problems, the first: {problems[0]}"
    return "no .npy or .npz file found in the sources that fits the options"


def _scan_files(
    name: str | None, found: Found, parts: list[Part], options: Options, problems: list[InputError]
) -> Iterator[SourceTable]:
    if len(found.npy):
        table = _scan_npy(name or DEFAULT_FEATURE, found, parts, options, problems)
        if options.group_by_suffix:
            yield from _group_by_suffix(table, problems)
        else:
            yield table
    if len(found.npz):
        yield from npz_tables(name, found, options, problems)


# --- .npy files --------------------------------------------------------------------------------


def _scan_npy(
    feature: str, found: Found, parts: list[Part], options: Options, problems: list[InputError]
) -> SourceTable:
    files = found.npy
    dir_ids = files.dir_ids
    count = len(files)
    header_ids = np.full(count, -1, dtype=np.int32)
    stamps = np.zeros(count, dtype=np.int64)
    known: dict[bytes, int] = {}
    headers: list[Header] = []
    bad: dict[int, InputError] = {}
    for _, start, raws, ids, stamped, failed in parts:
        renumbered = np.empty(len(raws) + 1, dtype=np.int32)
        renumbered[-1] = -1
        for local, raw in enumerate(raws):
            if raw not in known:
                known[raw] = len(headers)
                headers.append(_as_void(parse_header(raw), options))
            renumbered[local] = known[raw]
        header_ids[start : start + len(ids)] = renumbered[ids]
        stamps[start : start + len(ids)] = stamped
        bad.update({start + i: error for i, error in failed})
    for i in np.flatnonzero(np.append(_unusable(headers), False)[header_ids]).tolist():  # -1, no header, is the last
        where = files.dirs[dir_ids[i]] + files.names[i]
        bad[i] = InputError(where, *_void_problem(headers[header_ids[i]], options))
    problems.extend(bad[i] for i in sorted(bad))
    table = SourceTable(
        feature=feature,
        files=files,
        file_ids=np.arange(count),
        dir_ids=dir_ids,
        header_ids=header_ids,
        headers=headers,
        stamps=stamps,
        suffix=b".npy",
        single_file=found.single_file,
    )
    if bad:
        table = table.take(np.setdiff1d(table.file_ids, np.fromiter(bad, dtype=np.int64), assume_unique=True))
    return table.with_sorted_headers()


# --- void arrays: what np.save makes of the dtypes of ml_dtypes ---------------------------------


def _as_void(header: Header, options: Options) -> Header:
    if header.dtype.kind != "V" or options.void_dtype is None:
        return header
    dtype = dtype_from_name(options.void_dtype)
    return replace(header, dtype=dtype) if dtype.itemsize == header.dtype.itemsize else header


def _unusable(headers: list[Header]) -> np.ndarray:
    return np.array([type(header.dtype) is np.dtypes.VoidDType for header in headers], dtype=bool)


def _void_problem(header: Header, options: Options) -> tuple[str, str]:
    found = f"an array of void (raw bytes), dtype '{header.dtype.str}'"
    if options.void_dtype:
        return found, f"items of the size of {options.void_dtype}"
    return found, "numbers; if these are bfloat16 or float8 (np.save drops their names), say --void-dtype"


# --- grouping and agreement ---------------------------------------------------------------------


def _group_by_suffix(table: SourceTable, problems: list[InputError]) -> Iterator[SourceTable]:
    """Tables by what stands between the last two dots of the files' names."""
    groups: dict[str, list[int]] = {}
    for source, file in enumerate(table.file_ids.tolist()):
        _, dot, feature = table.files.names[file][: -len(b".npy")].rpartition(b".")
        try:
            check_feature_name(os.fsdecode(feature) if dot else "")
        except UsageError:
            problems.append(
                InputError(table.path(source), "a name without a feature", "KEY.FEATURE.npy, as in 0001.image.npy")
            )
            continue
        groups.setdefault(os.fsdecode(feature), []).append(source)
    for feature_name, sources in sorted(groups.items()):
        grouped = table.take(np.array(sources, dtype=np.int64))
        grouped.feature, grouped.suffix = feature_name, f".{feature_name}.npy".encode()
        yield grouped.with_sorted_headers()


def _check_agreement(table: SourceTable, options: Options) -> None:
    """Raise `InputError` unless all arrays of a feature have one dtype and one rank."""
    counts = np.bincount(table.header_ids, minlength=len(table.headers))
    groups: Counter[tuple[str, int]] = Counter()
    example: dict[tuple[str, int], int] = {}
    for i, header in enumerate(table.headers):
        group = (header.dtype.name, len(header.shape))
        groups[group] += int(counts[i])
        if group not in example:
            example[group] = int(np.argmax(table.header_ids == i))
    if len(groups) > 1:
        lines = "".join(
            f"\n  {count} of {dtype}, rank {rank}, e.g. {display(table.where(example[dtype, rank]))}"
            for (dtype, rank), count in groups.most_common()
        )
        raise InputError(
            "",
            f"the arrays of feature {table.feature!r} do not agree in dtype and rank:{lines}",
            "one dtype and rank a feature: convert them one by one, choosing with --include and --exclude,"
            " or give each kind a name of its own, NAME=PATH",
        )
    ((_, rank),) = groups
    if options.rows and rank == 0:
        raise InputError(table.where(0), "an array of rank 0, which has no rows", "a rank of 1 or more with --rows")


# --- .npz files ---------------------------------------------------------------------------------


def npz_tables(name: str | None, found: Found, options: Options, problems: list[InputError]) -> Iterator[SourceTable]:
    """A table for each member name of the `.npz` files, or for the one that `name` stands for."""
    files, dir_ids = found.npz, found.npz.dir_ids
    columns: dict[str, list[tuple[int, Header, int, npz.Member]]] = {}
    for file in range(len(files)):
        path = files.dirs[dir_ids[file]] + files.names[file]
        try:
            members, status = npz.list_members(path, name)
            rows_of_file = []
            for feature, member, header in members:
                if not FEATURE_PATTERN.fullmatch(feature) or feature == KEY:
                    raise InputError(
                        path,
                        f"a member named {feature!r}",
                        f"names of letters, digits, '_', '.' and '-' other than {KEY!r}, which can be features' names",
                    )
                header = _as_void(header, options)
                if _unusable([header])[0]:
                    where = path + b"[" + os.fsencode(member.name) + b"]"
                    raise InputError(where, *_void_problem(header, options))
                # Read here and there, which a CRC of the whole cannot check; or too large for a record, if it is true.
                if options.rows or not header.is_c_order or member.size > MAX_DATA_BYTES:
                    npz.check_whole(path, member, path + b"[" + os.fsencode(member.name) + b"]")
                rows_of_file.append((feature, (file, header, stamp(status), member)))
            for feature, row in rows_of_file:  # all of an archive, or nothing
                columns.setdefault(feature, []).append(row)
        except InputError as error:
            problems.append(error)
        except OSError as error:
            problems.append(special(path) or unreadable(path, error))
    for feature, rows in columns.items():
        numbers: dict[Header, int] = {}
        header_ids = [numbers.setdefault(header, len(numbers)) for _, header, _, _ in rows]
        yield SourceTable(
            feature=feature,
            files=files,
            file_ids=np.array([row[0] for row in rows], dtype=np.int64),
            dir_ids=dir_ids,
            header_ids=np.array(header_ids, dtype=np.int32),
            headers=list(numbers),
            stamps=np.array([row[2] for row in rows], dtype=np.int64),
            suffix=b".npz",
            members=[row[3] for row in rows],
            single_file=found.single_file,
        )
