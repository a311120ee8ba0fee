"""Scanning: the tables of all sources, from their headers alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.npy import Header, parse_header
from npy2tfrecord.options import DEFAULT_FEATURE, Options, check_feature_name
from npy2tfrecord.sources.finder import Batch, Found, FoundByFeature, passed_over
from npy2tfrecord.sources.headers import (
    FileHeaders,
    Report,
    Run,
    is_void,
    read_all,
    run_here,
    void_error,
    with_void_dtype,
)
from npy2tfrecord.sources.npz_tables import npz_tables
from npy2tfrecord.sources.table import SourceTable


@dataclass(frozen=True)
class Scan:
    """What there is: a table for each feature, the problems of all other files, and the names of all files."""

    tables: tuple[SourceTable, ...]
    problems: list[InputError] = field(default_factory=list)
    found: FoundByFeature = field(default_factory=dict)
    in_flight: int = 0  # requests that were under way in the end: more than 0 where storage waits


def scan_files(batches: Iterable[Batch], options: Options, run: Run = run_here, report: Report | None = None) -> Scan:
    """Read the header of every file of the batches, by tasks that `run` runs.

    Raises `InputError` for the first bad source unless `options.on_error` is "skip", and whenever
    the arrays of a feature differ in dtype or rank; `UsageError` when there are none.
    """
    found, headers = read_all(batches, options, run, report)
    problems = [problem for each in found.values() for problem in each.problems]
    tables: dict[str, SourceTable] = {}
    for name, each in found.items():
        for table in _tables(name, each, headers.get(name, []), options, problems):
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
    return Scan(tuple(tables.values()), problems, found)


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
    counts = ", ".join(f"{count} {kind}" for kind, count in passed_over(found).items())
    more = f" (passed over: {counts})" if counts else ""
    return "no .npy or .npz file found in the sources that fits the options" + more


def _tables(
    name: str | None, found: Found, headers: list[FileHeaders], options: Options, problems: list[InputError]
) -> Iterator[SourceTable]:
    if len(found.npy):
        table = _npy_table(name or DEFAULT_FEATURE, found, headers, options, problems)
        if options.group_by_suffix:
            yield from _group_by_suffix(table, problems)
        else:
            yield table
    if len(found.npz):
        yield from npz_tables(name, found, options, problems)


# --- .npy files --------------------------------------------------------------------------------


def _npy_table(
    feature: str, found: Found, parts: list[FileHeaders], options: Options, problems: list[InputError]
) -> SourceTable:
    files = found.npy
    dir_ids = files.dir_ids
    count = len(files)
    header_ids = np.full(count, -1, dtype=np.int32)
    stamps = np.zeros(count, dtype=np.int64)
    known: dict[bytes, int] = {}
    headers: list[Header] = []
    bad: dict[int, InputError] = {}
    kept, places = -1, np.full(count, -1, dtype=np.int64)
    for _, start, raws, ids, stamped, failed, number, placed in parts:
        renumbered = np.empty(len(raws) + 1, dtype=np.int32)
        renumbered[-1] = -1
        for local, raw in enumerate(raws):
            if raw not in known:
                known[raw] = len(headers)
                headers.append(with_void_dtype(parse_header(raw), options))
            renumbered[local] = known[raw]
        header_ids[start : start + len(ids)] = renumbered[ids]
        stamps[start : start + len(ids)] = stamped
        if placed is not None:
            kept, places[start : start + len(ids)] = number, placed
        bad.update({start + i: error for i, error in failed})
    unusable = np.array([*map(is_void, headers), False])  # the last is for -1: no header
    for i in np.flatnonzero(unusable[header_ids]).tolist():
        bad[i] = void_error(files.dirs[dir_ids[i]] + files.names[i], headers[header_ids[i]], options)
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
        kept=kept,
        places=None if kept < 0 else places,
    )
    if bad:
        table = table.take(np.setdiff1d(table.file_ids, np.fromiter(bad, dtype=np.int64), assume_unique=True))
    return table.with_sorted_headers()


# --- grouping and agreement ---------------------------------------------------------------------


def _group_by_suffix(table: SourceTable, problems: list[InputError]) -> Iterator[SourceTable]:
    """A table for each word between the last two dots of the files' names."""
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
        grouped = replace(grouped, feature=feature_name, suffix=f".{feature_name}.npy".encode())
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
