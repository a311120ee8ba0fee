"""Scanning: the tables of all sources, from their headers alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.dtypes import dtype_from_name
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
from npy2tfrecord.sources.npz_tables import MAX_FEATURES, npz_tables
from npy2tfrecord.sources.table import SourceTable

_SHOWN = 3  # features, in a message


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
    if len(tables) > 1 and None in found:
        _check_features_meet([*tables.values()], options)
    for name in tables:
        check_feature_name(name)
        table = tables[name] = with_rank(tables[name], options)
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
        places=places if kept >= 0 and (places >= 0).any() else None,
    )
    if bad:
        table = table.take(np.setdiff1d(table.file_ids, np.fromiter(bad, dtype=np.int64), assume_unique=True))
    return table.with_sorted_headers()


# --- grouping and agreement ---------------------------------------------------------------------


def _group_by_suffix(table: SourceTable, problems: list[InputError]) -> Iterator[SourceTable]:
    """A table for each word between the last two dots of the files' names.

    Raises `UsageError` for more features than anybody means.
    """
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
        if len(groups) > MAX_FEATURES:
            shown = ", ".join(map(display, [*groups][:_SHOWN]))
            raise UsageError(
                f"{display(table.path(source))}: group_by_suffix takes the features from the names of files,"
                f" which gives more than {MAX_FEATURES}: {shown}, …; expected KEY.FEATURE.npy: leave out"
                " --group-by-suffix, or name the features by pattern, clean=DIR:*_clean.npy"
            )
    for feature_name, sources in sorted(groups.items()):
        grouped = table.take(np.array(sources, dtype=np.int64))
        grouped = replace(grouped, feature=feature_name, suffix=f".{feature_name}.npy".encode())
        yield grouped.with_sorted_headers()


def _check_features_meet(tables: list[SourceTable], options: Options) -> None:
    """Raise `UsageError` where names of files or members have made features that never meet in an example."""
    if any(len(table) > 1 for table in tables) or all(table.single_file for table in tables):
        return
    # Of 1.3.6.1.0_a.npy and 1.3.6.1.1_a.npy the key would be 1.3.6.1, and the features 0_a and 1_a.
    numbered = options.group_by_suffix and len(tables) > 1 and all(table.feature[0].isdigit() for table in tables)
    if len({table.key(0) for table in tables}) < len(tables) and not numbered:
        return
    shown = ", ".join(f"{display(table.feature)} ({display(table.where(0))})" for table in tables[:_SHOWN])
    remedy = "KEY.FEATURE.npy: leave out --group-by-suffix, or name the features by pattern, clean=DIR:*_clean.npy"
    if not options.group_by_suffix:
        remedy = "members of the same names in every archive: --members makes an example of every member"
    raise UsageError(f"{len(tables)} features, each of one key only: {shown}; expected {remedy}")


def with_rank(table: SourceTable, options: Options) -> SourceTable:
    """The table with trailing axes of 1 where arrays have fewer than the option says. The bytes stay the same."""
    rank = options.rank_of(table.feature)
    if rank is None:
        return table
    rank += options.rows  # the rows' axis is none of the examples'
    headers = []
    for i, header in enumerate(table.headers):
        missing = rank - len(header.shape)
        if missing < 0:
            found = f"an array of rank {len(header.shape)}" + " with the rows' axis" * options.rows
            raise InputError(table.where(int(np.argmax(table.header_ids == i))), found, f"at most {rank}, as rank says")
        has_rows = bool(header.shape) or not options.rows  # an array without rows gets none
        headers.append(replace(header, shape=header.shape + (1,) * missing) if has_rows else header)
    return replace(table, headers=headers)


def _check_agreement(table: SourceTable, options: Options) -> None:
    """Raise `InputError` unless all arrays of a feature have one rank, and one dtype unless they are cast to one."""
    to = options.cast_of(table.feature)
    counts = np.bincount(table.header_ids, minlength=len(table.headers))
    groups: Counter[tuple[str, int]] = Counter()
    example: dict[tuple[str, int], int] = {}
    for i, header in enumerate(table.headers):
        group = (header.dtype.name, len(header.shape))
        groups[group] += int(counts[i])
        if group not in example:
            example[group] = int(np.argmax(table.header_ids == i))
    dtypes, ranks = {dtype for dtype, _ in groups}, {rank for _, rank in groups}
    if len(ranks) > 1 or (len(dtypes) > 1 and to is None):
        lines = "".join(
            f"\n  {count} of {dtype}, rank {rank}, e.g. {display(table.where(example[dtype, rank]))}"
            for (dtype, rank), count in groups.most_common()
        )
        remedies = [] if to is not None else _uniting_options(dtypes)
        if len(ranks) > 1:
            remedies.append(f"add trailing axes of 1 with --rank {max(ranks) - options.rows}")
        uniting = [" and ".join(remedies)] * bool(remedies)
        naming = ["give each kind a name of its own, NAME=PATH or NAME=DIR:GLOB"]
        # Arrays that differ in both are hardly of one kind.
        remedies = naming + uniting if len(remedies) > 1 else uniting + naming
        raise InputError(
            "",
            f"the arrays of feature {table.feature!r} do not agree in dtype and rank:{lines}",
            f"one dtype and rank a feature: {'; or '.join(remedies)}; or choose with --include and --exclude",
        )
    (rank,) = ranks
    if options.rows and rank == 0:
        raise InputError(table.where(0), "an array of rank 0, which has no rows", "a rank of 1 or more with --rows")


def _uniting_options(dtypes: set[str]) -> list[str]:
    """The options that bring arrays of several dtypes to one."""
    kinds = [dtype_from_name(name) for name in sorted(dtypes) if not name.startswith(("datetime64", "timedelta64"))]
    if len(dtypes) == 1 or len(kinds) < len(dtypes):
        return []
    try:
        to = np.result_type(*kinds).name
    except TypeError:  # those of ml_dtypes have no common dtype
        to = "float32"
    return [f"cast them to one, as with --dtype {to}"]
