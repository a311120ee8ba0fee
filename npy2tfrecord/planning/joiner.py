"""Joining: from the sources of each feature to examples, each with a value for every feature."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.example import LABEL
from npy2tfrecord.formats.manifest import Skipped
from npy2tfrecord.options import Options
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.labels import label_by_directory, label_by_key, label_by_row, label_by_table
from npy2tfrecord.planning.splits import split_by_table
from npy2tfrecord.sources.scanner import Scan
from npy2tfrecord.sources.table import SourceTable, member_keys

_SHOWN = 5  # keys, in a message
_MAX_EMPTY_ROWS = 10**6  # of an array of shape (n, 0), whose size does not confirm n
_MAX_EXAMPLES = 2**30  # each takes some 40 bytes of memory while it is planned


def join(scan: Scan, options: Options) -> Examples:
    """The examples of a scan, with rows and labels as the options say.

    Raises `InputError` for a source that lacks a partner, rows or a label.
    """
    skipped = [Skipped(display(problem.where), problem.problem) for problem in scan.problems]
    tables = _with_key_patterns(scan.tables, options)
    for table in tables:
        _check_keys(table)
    labelled = options.labels is not None or options.label_by is not None
    if labelled and any(table.feature == LABEL for table in tables):
        raise UsageError(f"a feature is named {LABEL!r}, which is where labels go: give it another name")
    bad = {os.fsencode(problem.where) for problem in scan.problems}
    bad |= {where.rpartition(b"[")[0] for where in bad}  # the archive of a member
    sources = _join_sources(tables, options, skipped, bad)
    examples = Examples(tables, sources, skipped=skipped)
    if options.rows:
        _expand_rows(examples, options)
    _check_left(examples)
    if options.labels == "dirs":
        label_by_directory(examples, depth=1 if options.split == "dirs" else 0)
    elif options.label_by is not None:
        label_by_key(examples, options.label_by)
    elif options.has_label_array:
        label_by_row(examples, str(options.labels))
    elif options.labels:
        label_by_table(examples, options.labels, options.missing)
    if options.split_table is not None:
        split_by_table(examples, options.split_table, options.missing)
    _check_left(examples)
    return examples


def _check_left(examples: Examples) -> None:
    if not len(examples):
        reason = examples.skipped[0].reason if examples.skipped else "every array has 0 rows"
        raise UsageError(f"no example is left to write: {reason}")


def _with_key_patterns(tables: tuple[SourceTable, ...], options: Options) -> tuple[SourceTable, ...]:
    features = {table.feature for table in tables}
    for name, pattern in options.key_patterns.items():
        if name is not None and name not in features:
            known = ", ".join(sorted(features))
            raise UsageError(f"key_by {name}:{pattern}: no such feature; there are {known}")
    patterns = options.key_patterns
    return tuple(replace(table, key_by=patterns.get(table.feature, patterns.get(None))) for table in tables)


def _check_keys(table: SourceTable) -> None:
    """Raise unless every source has a key of its own."""
    only_by_directory = not table.files.has_other_case and table.key_by is None and table.key_members is None
    if only_by_directory and len(set(table.files.dir_keys)) == len(table.files.dir_keys):
        return  # one directory, one key; names in a directory differ
    keys = table.keys()
    if lacking := [source for source, key in enumerate(keys) if not key]:
        shown = ", ".join(display(table.path(source)) for source in lacking[:_SHOWN])
        count = "1 file" if len(lacking) == 1 else f"{len(lacking)} files"
        raise UsageError(f"key_by {table.key_by!r} finds nothing in the path of {count}, e.g. {shown}")
    seen: dict[bytes, int] = {}
    for source, key in enumerate(keys):
        if key in seen:
            remedy = _remedy(table, source, seen[key])
            if table.key_by is not None:
                remedy = f"let key_by, {table.key_by!r}, find more of the path, in several groups if one is not enough"
            raise InputError(
                table.path(source),
                f"key {display(key)!r} is also that of {display(table.path(seen[key]))}",
                f"keys that differ: {remedy}",
            )
        seen[key] = source


def _remedy(table: SourceTable, one: int, other: int) -> str:
    if os.path.dirname(table.path(one)) == os.path.dirname(table.path(other)):
        return "give one of the files another name, or --exclude it"
    return "give one source for both directories, their parent"


def _join_sources(
    tables: tuple[SourceTable, ...], options: Options, skipped: list[Skipped], bad: set[bytes]
) -> tuple[np.ndarray, ...]:
    """The sources of each feature from which examples are made. `bad` are files that cannot be used."""
    first, *others = tables
    everything = np.arange(len(first))
    if not others:
        return (everything,)
    all_keys = [_keys_to_join(table, tables) for table in tables]
    if all(keys == all_keys[0] for keys in all_keys[1:]):
        return (everything,) * len(tables)
    finders = [{key: source for source, key in enumerate(keys)} for keys in all_keys]
    complete = set.intersection(*(set(finder) for finder in finders))
    lacking = {key: table for table, keys in zip(tables, all_keys, strict=True) for key in keys if key not in complete}
    unusable = set().union(*(table.keys_of_files(bad) for table in tables)) if bad else set()
    if options.missing == "fail" and (missed := {key: lacking[key] for key in lacking if key not in unusable}):
        remedy = "--missing skip drops them"
        if not complete and not options.key_patterns:
            remedy = "--key-by REGEX says what of a file's name is its key"
        raise InputError("", _describe_lacking(missed, tables, finders), f"every key in each ({remedy})")
    for key in sorted(lacking):
        absent = [t.feature for t, finder in zip(tables, finders, strict=True) if key not in finder]
        usable = "usable " if key in unusable else ""
        skipped.append(Skipped(display(key), f"no {usable}{f' and no {usable}'.join(absent)} for this key"))
    kept = [key for key in all_keys[0] if key in complete]
    return tuple(np.fromiter((finder[key] for key in kept), np.int64, len(kept)) for finder in finders)


def _keys_to_join(table: SourceTable, tables: tuple[SourceTable, ...]) -> list[bytes]:
    """The keys of a table, without the files' names where every feature is a single file."""
    if not all(each.single_file and each.key_by is None for each in tables):
        return table.keys()
    directories = table.dir_ids[table.file_ids].tolist()
    directory_keys = [table.files.dir_keys[d] for d in directories]
    return member_keys(directory_keys, table.key_members) if table.key_members else directory_keys


def _describe_lacking(
    lacking: dict[bytes, SourceTable], tables: tuple[SourceTable, ...], finders: list[dict[bytes, int]]
) -> str:
    lines = [f"{len(lacking)} {'key is' if len(lacking) == 1 else 'keys are'} not in every feature:"]
    for table, finder in zip(tables, finders, strict=True):
        absent = sorted(key for key in lacking if key not in finder)
        if absent:
            shown = ", ".join(display(key) for key in absent[:_SHOWN])
            lines.append(f"{len(absent)} {'has' if len(absent) == 1 else 'have'} no {table.feature}, e.g. {shown}")
    return "\n  ".join(lines)


def _expand_rows(examples: Examples, options: Options) -> None:
    """Make an example of every row."""
    counts = []
    for table, sources in zip(examples.tables, examples.sources, strict=True):
        lengths = np.array([header.shape[0] for header in table.headers], dtype=np.int64)
        for i in np.flatnonzero(lengths > _MAX_EMPTY_ROWS).tolist():
            if not table.headers[i].nbytes and (table.header_ids == i).any():  # no byte of the file supports the number
                source = int(np.argmax(table.header_ids == i))
                raise InputError(table.where(source), f"{lengths[i]} rows without a value", "rows that hold values")
        counts.append(lengths[table.header_ids[sources]])
    bad: dict[int, InputError] = {}
    for table, sources, count in zip(examples.tables[1:], examples.sources[1:], counts[1:], strict=True):
        for i in np.flatnonzero(count != counts[0]).tolist():
            first = display(examples.tables[0].where(int(examples.sources[0][i])))
            problem = InputError(table.where(int(sources[i])), f"{count[i]} rows", f"{counts[0][i]}, as {first} has")
            if options.on_error == "fail":
                raise problem
            bad.setdefault(i, problem)
    if bad:
        examples.skipped += [Skipped(display(problem.where), problem.problem) for problem in bad.values()]
        good = np.delete(np.arange(len(examples)), list(bad))
        examples.take(good)
        counts = [count[good] for count in counts]
    total = sum(counts[0].tolist())
    if total > _MAX_EXAMPLES:
        raise UsageError(
            f"{display(examples.tables[0].where(int(examples.sources[0][0])))}: {total} rows, expected at most"
            f" {_MAX_EXAMPLES}: convert it without --rows, or in parts"
        )
    starts = np.cumsum(counts[0]) - counts[0]
    examples.rows = np.arange(total) - np.repeat(starts, counts[0])
    examples.sources = tuple(np.repeat(sources, counts[0]) for sources in examples.sources)
