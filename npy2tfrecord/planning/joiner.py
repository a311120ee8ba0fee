"""Joining: from the sources of each feature to examples, each with a value for every feature."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass, field

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.example import LABEL
from npy2tfrecord.formats.manifest import Skipped
from npy2tfrecord.options import Options
from npy2tfrecord.sources.scanner import Scan
from npy2tfrecord.sources.table import SourceTable

_SHOWN = 5  # examples of what is wrong, in a message
_MAX_EMPTY_ROWS = 10**6  # of an array of shape (n, 0): its size says nothing about n
_MAX_EXAMPLES = 2**30  # each takes some 40 bytes of memory while it is planned
_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass
class Examples:
    """What will be records, in columns: example i has source `sources[f][i]` of feature f.

    With rows, it is row `rows[i]` of each. The key comes from the first feature's source.
    """

    tables: tuple[SourceTable, ...]
    sources: tuple[np.ndarray, ...]
    rows: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sources[0])

    def key(self, example: int) -> bytes:
        key = self.tables[0].key(int(self.sources[0][example]))
        return key if self.rows is None else key + b"#%d" % self.rows[example]

    def keys(self, first: int = 0, last: int | None = None) -> list[bytes]:
        """The keys of all examples, or of some that follow each other: ten million at once are a gigabyte."""
        sources = self.sources[0][first:last]
        if self.rows is None:
            return self.tables[0].take(sources).keys()
        distinct, local = np.unique(sources, return_inverse=True)
        keys, rows = self.tables[0].take(distinct).keys(), self.rows[first:last]
        return [b"%s#%d" % (keys[i], row) for i, row in zip(local.reshape(-1).tolist(), rows.tolist(), strict=True)]

    def key_sizes(self) -> np.ndarray:
        """Bytes of each key, without making the keys."""
        table = self.tables[0]
        names = np.fromiter(map(len, table.files.names), dtype=np.int64, count=len(table.files))
        dirs = np.fromiter(map(len, table.files.dir_keys), dtype=np.int64, count=len(table.files.dir_keys))
        sizes = names[table.file_ids] + dirs[table.dir_ids[table.file_ids]] - len(table.suffix)
        sizes = np.asarray(sizes[self.sources[0]])
        if self.rows is not None:
            digits = np.searchsorted(10 ** np.arange(1, 19), self.rows, side="right") + 1
            sizes += digits + 1
        return sizes

    def take(self, examples: np.ndarray) -> None:
        """Keep only these examples."""
        self.sources = tuple(source[examples] for source in self.sources)
        self.rows = None if self.rows is None else self.rows[examples]
        self.labels = None if self.labels is None else self.labels[examples]

    def first_folders(self, depth: int) -> tuple[list[bytes | None], np.ndarray]:
        """The folder at `depth` of each directory's key, None where there is none, and each example's directory."""
        table = self.tables[0]
        folders = [key.split(b"/") for key in table.files.dir_keys]
        names: list[bytes | None] = [parts[depth] if len(parts) > depth + 1 else None for parts in folders]
        return names, table.dir_ids[table.file_ids][self.sources[0]]


def join(scan: Scan, options: Options) -> Examples:
    """The examples of a scan. Raises `InputError` for what lacks a partner, a row or a label."""
    skipped = [Skipped(display(problem.where), problem.problem) for problem in scan.problems]
    for table in scan.tables:
        _check_duplicates(table)
    if options.labels and any(table.feature == LABEL for table in scan.tables):
        raise UsageError(f"a feature is named {LABEL!r}, which is where labels go: give it another name")
    bad = {os.fsencode(problem.where) for problem in scan.problems}
    bad |= {where.rpartition(b"[")[0] for where in bad}  # of a member, its archive
    sources = _join_sources(scan.tables, options, skipped, bad)
    examples = Examples(scan.tables, sources, skipped=skipped)
    if options.rows:
        _expand_rows(examples, options)
    if options.labels == "dirs":
        _label_by_folder(examples, options)
    elif options.labels:
        _label_by_table(examples, options)
    if not len(examples):
        raise UsageError("no example is left to write: " + (skipped[0].reason if skipped else "every array has 0 rows"))
    return examples


def _check_duplicates(table: SourceTable) -> None:
    if len(set(table.files.dir_keys)) == len(table.files.dir_keys):
        return  # one directory, one key; names in a directory differ
    seen: dict[bytes, int] = {}
    for source, key in enumerate(table.keys()):
        if key in seen:
            raise InputError(
                table.path(source),
                f"key {display(key)!r} is also that of {display(table.path(seen[key]))}",
                "keys that differ: give one source for both directories, their parent",
            )
        seen[key] = source


def _join_sources(
    tables: tuple[SourceTable, ...], options: Options, skipped: list[Skipped], bad: set[bytes]
) -> tuple[np.ndarray, ...]:
    """Of each feature, the sources that examples are made of. `bad` are files that cannot be used."""
    first, *others = tables
    everything = np.arange(len(first))
    if not others or all(table.single_file for table in tables):
        return (everything,) * len(tables)
    all_keys = [table.keys() for table in tables]
    if all(keys == all_keys[0] for keys in all_keys[1:]):
        return (everything,) * len(tables)
    finders = [{key: source for source, key in enumerate(keys)} for keys in all_keys]
    complete = set.intersection(*(set(finder) for finder in finders))
    lacking = {key: table for table, keys in zip(tables, all_keys, strict=True) for key in keys if key not in complete}
    unusable = set().union(*(table.keys_of_files(bad) for table in tables)) if bad else set()
    if options.missing == "fail" and (missed := {key: lacking[key] for key in lacking if key not in unusable}):
        raise InputError(
            "", _describe_lacking(missed, tables, finders), "every key in each (--missing skip drops them)"
        )
    for key in sorted(lacking):
        absent = [t.feature for t, finder in zip(tables, finders, strict=True) if key not in finder]
        usable = "usable " if key in unusable else ""
        skipped.append(Skipped(display(key), f"no {usable}{f' and no {usable}'.join(absent)} for this key"))
    kept = [key for key in all_keys[0] if key in complete]
    return tuple(np.fromiter((finder[key] for key in kept), np.int64, len(kept)) for finder in finders)


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


def _count_keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"


def _expand_rows(examples: Examples, options: Options) -> None:
    counts = []
    for table, sources in zip(examples.tables, examples.sources, strict=True):
        lengths = np.array([header.shape[0] for header in table.headers], dtype=np.int64)
        for i in np.flatnonzero(lengths > _MAX_EMPTY_ROWS).tolist():
            if not table.headers[i].nbytes and (table.header_ids == i).any():  # nothing there bears the number out
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


# --- labels -------------------------------------------------------------------------------------


def _label_by_folder(examples: Examples, options: Options) -> None:
    depth = 1 if options.split == "dirs" else 0
    folders, directories = examples.first_folders(depth)
    _need_folder(examples, folders, directories, "labels 'dirs' takes the class from", depth)
    used = sorted({folders[d] or b"" for d in np.unique(directories).tolist()})
    numbers = {name: i for i, name in enumerate(used)}
    by_directory = np.array([numbers.get(folder or b"", -1) for folder in folders], dtype=np.int64)
    examples.labels = by_directory[directories]
    examples.classes = tuple(os.fsdecode(name) for name in used)


def _need_folder(
    examples: Examples, folders: list[bytes | None], directories: np.ndarray, what: str, depth: int
) -> None:
    lacking = np.array([folder is None for folder in folders], dtype=bool)[directories]
    if lacking.any():
        i = int(np.argmax(lacking))
        raise InputError(
            examples.tables[0].path(int(examples.sources[0][i])),
            f"{int(lacking.sum())} sources like this one are in no folder",
            f"{what} the {'second' if depth else 'first'} folder below the source's root",
        )


def _label_by_table(examples: Examples, options: Options) -> None:
    assert options.labels is not None
    lines, labels = _read_table(options.labels)
    keys = examples.keys()
    if examples.rows is not None and not any(key in lines for key in keys):
        keys = [key.rpartition(b"#")[0] for key in keys]  # one label a file, for all its rows
    lacking = [i for i, key in enumerate(keys) if key not in lines]
    unused = sorted((lines[key], key) for key in lines.keys() - set(keys))
    if (lacking or unused) and options.missing == "fail":
        problems = []
        if lacking:
            shown = ", ".join(display(keys[i]) for i in lacking[:_SHOWN])
            problems.append(f"no label for {_count_keys(len(lacking))}, e.g. {shown}")
        if unused:
            shown = ", ".join(f"{line} ({display(key)})" for line, key in unused[:_SHOWN])
            more = " …" * (len(unused) > _SHOWN)
            problems.append(f"{_count_keys(len(unused))} that no source has, on line {shown}{more}")
        raise InputError(options.labels, "; ".join(problems), "a label for every key (--missing skip drops the others)")
    examples.skipped += [Skipped(display(keys[i]), "no label for this key") for i in lacking]
    examples.skipped += [
        Skipped(display(key), f"line {line} of the labels: no source has this key") for line, key in unused
    ]
    if lacking:
        kept = np.setdiff1d(np.arange(len(keys)), np.array(lacking), assume_unique=True)
        examples.take(kept)
        keys = [keys[i] for i in kept.tolist()]
    examples.classes, numbers = _number_labels(labels, lines, options.labels)
    examples.labels = np.fromiter((numbers[labels[key]] for key in keys), np.int64, len(keys))


def _read_table(path: str) -> tuple[dict[bytes, int], dict[bytes, str]]:
    """The line of each key of a `key,label` table, and its label."""
    lines: dict[bytes, int] = {}
    labels: dict[bytes, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if [name.strip() for name in header] != ["key", "label"]:
                raise InputError(path, f"line 1 reads {','.join(header)!r}", "key,label")
            for row in reader:
                if not row:
                    continue
                line = reader.line_num
                if len(row) != 2:
                    raise InputError(path, f"line {line} has {len(row)} values", "2, key and label")
                key = os.fsencode(row[0])
                if key in lines:
                    raise InputError(path, f"key {display(key)!r} is on lines {lines[key]} and {line}", "it once")
                if not (label := row[1].strip()):
                    raise InputError(path, f"line {line} has no label", "key,label")
                lines[key], labels[key] = line, label
    except OSError as error:
        raise UsageError(f"cannot read the labels {display(path)}: {error.strerror}") from None
    except csv.Error as error:
        raise InputError(path, f"no proper CSV ({error})", "a table with the columns key,label") from None
    return lines, labels


def _number_labels(
    labels: dict[bytes, str], lines: dict[bytes, int], path: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes and each label's number: integers stay what they are, and then there are no classes."""
    distinct = set(labels.values())
    if all(map(_INTEGER.fullmatch, distinct)):
        for key, label in labels.items():
            if len(label) > 20 or not -(2**63) <= int(label) < 2**63:
                raise InputError(path, f"line {lines[key]} has the label {label[:40]}", "an integer of 64 bits")
        return (), {label: int(label) for label in distinct}
    classes = tuple(sorted(distinct))
    return classes, {label: i for i, label in enumerate(classes)}
