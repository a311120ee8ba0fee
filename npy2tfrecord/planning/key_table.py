"""Tables of keys: a CSV file with a label or a split for every key."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.manifest import Skipped
from npy2tfrecord.planning.examples import Examples

_SHOWN = 5  # keys or lines, in a message


@dataclass(frozen=True)
class KeyTable:
    """A table with the columns `key` and `column`: the line and the value of each key."""

    path: str
    column: str
    lines: dict[bytes, int]
    values: dict[bytes, str]


def read_key_table(path: str, column: str) -> KeyTable:
    """The table in a CSV file, in UTF-8. Raises `InputError`, which names the line, for anything else."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UsageError(f"cannot read the {column}s {display(path)}: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"line {line} is not UTF-8 (byte {error.start}: {data[error.start : error.start + 4]!r})"
        raise InputError(path, found, "a table in UTF-8: save it again as 'CSV UTF-8'") from None
    lines: dict[bytes, int] = {}
    values: dict[bytes, str] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if [name.strip() for name in header] != ["key", column]:
            raise InputError(path, f"line 1 reads {','.join(header)!r}", f"key,{column}")
        for row in reader:
            if not row:
                continue
            line = reader.line_num
            if len(row) != 2:
                raise InputError(path, f"line {line} has {len(row)} values", f"2, key and {column}")
            key = row[0].encode()
            if key in lines:
                raise InputError(path, f"key {display(key)!r} is on lines {lines[key]} and {line}", "it once")
            if not (value := row[1].strip()):
                raise InputError(path, f"line {line} has no {column}", f"key,{column}")
            lines[key], values[key] = line, value
    except csv.Error as error:
        raise InputError(path, f"no proper CSV ({error})", f"a table with the columns key,{column}") from None
    return KeyTable(path, column, lines, values)


def match_keys(examples: Examples, table: KeyTable, missing: str) -> list[bytes]:
    """The table's key for each example. Examples without one are dropped if `missing` is "skip".

    With rows, keys of the table are those of rows, or else of files. Raises `InputError` for keys of examples that the
    table lacks, and keys of the table that no source has, unless `missing` is "skip".
    """
    keys = examples.keys()
    found, ambiguous = _find(keys, table)
    if examples.rows is not None and not found:
        keys = [key.rpartition(b"#")[0] for key in keys]  # one value for all rows of a file
        found, ambiguous = _find(keys, table)
    lacking = [i for i, key in enumerate(keys) if key not in found]
    unused = sorted((table.lines[key], key) for key in table.lines.keys() - set(found.values()))
    if (lacking or unused) and missing == "fail":
        problems = []
        if lacking:
            shown = ", ".join(display(keys[i]) for i in lacking[:_SHOWN])
            problems.append(f"no {table.column} for {_count_keys(len(lacking))}, e.g. {shown}")
        if unused:
            shown = ", ".join(f"{line} ({display(key)})" for line, key in unused[:_SHOWN])
            more = " …" * (len(unused) > _SHOWN)
            problems.append(f"{_count_keys(len(unused))} that no source has, on line {shown}{more}")
            if lacking and all(key.lower().endswith((b".npy", b".npz")) for _, key in unused):
                problems.append("keys have no suffix")
        raise InputError(
            table.path,
            "; ".join(problems + ambiguous),
            f"a {table.column} for every key (--missing skip drops the others)",
        )
    examples.skipped += [Skipped(display(keys[i]), f"no {table.column} for this key") for i in lacking]
    examples.skipped += [
        Skipped(display(key), f"line {line} of the {table.column}s: no source has this key") for line, key in unused
    ]
    if lacking:
        kept = np.setdiff1d(np.arange(len(keys)), np.array(lacking), assume_unique=True)
        examples.take(kept)
        keys = [keys[i] for i in kept.tolist()]
    return [found[key] for key in keys]


def _find(keys: list[bytes], table: KeyTable) -> tuple[dict[bytes, bytes], list[str]]:
    """The table's key for each distinct key that it has, and what is said of those that are ambiguous.

    A letter such as "é" has two spellings in Unicode, and a copy from macOS may have the other one in its names: where
    a key is not in the table as it is, it may be there in normal form, if it is the only one.
    """
    distinct = set(keys)
    found = {key: key for key in distinct if key in table.lines}
    ours, theirs = _by_normal_form(distinct - found.keys()), _by_normal_form(table.lines.keys() - found.keys())
    ambiguous = []
    for form in sorted(ours.keys() & theirs.keys()):
        if len(ours[form]) == len(theirs[form]) == 1:
            found[ours[form][0]] = theirs[form][0]
        else:
            where = ", ".join(str(line) for line in sorted(table.lines[key] for key in theirs[form])[:_SHOWN])
            keys_there = f"{_count_keys(len(ours[form]))} and line {where}"
            ambiguous.append(f"{keys_there} are all {display(form)!r} once Unicode is normalized")
    return found, ambiguous[:_SHOWN]


def _by_normal_form(keys: Collection[bytes]) -> dict[str, list[bytes]]:
    forms: dict[str, list[bytes]] = {}
    for key in keys:
        if not key.isascii():
            form = unicodedata.normalize("NFC", key.decode("utf-8", "surrogateescape"))
            forms.setdefault(form, []).append(key)
    return forms


def _count_keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"
