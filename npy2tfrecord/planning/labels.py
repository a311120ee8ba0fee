"""Labels: a class or an integer for every example, from directories or from a table."""

from __future__ import annotations

import csv
import os
import re

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.manifest import Skipped
from npy2tfrecord.planning.examples import Examples

_SHOWN = 5  # keys or lines, in a message
_INTEGER = re.compile(r"[+-]?[0-9]+")


def label_by_directory(examples: Examples, depth: int) -> None:
    """Give every example the class that its directory at `depth` is named for."""
    names, numbers = examples.directory_names(depth, "labels 'dirs' takes the class from")
    examples.labels = numbers
    examples.classes = tuple(map(os.fsdecode, names))


def label_by_table(examples: Examples, path: str, missing: str) -> None:
    """Give every example the label of its key in a `key,label` table.

    Raises `InputError` for keys without a label, and labels without a key, unless `missing` is "skip".
    """
    lines, labels = _read_table(path)
    keys = examples.keys()
    if examples.rows is not None and not any(key in lines for key in keys):
        keys = [key.rpartition(b"#")[0] for key in keys]  # one label for all rows of a file
    lacking = [i for i, key in enumerate(keys) if key not in lines]
    unused = sorted((lines[key], key) for key in lines.keys() - set(keys))
    if (lacking or unused) and missing == "fail":
        problems = []
        if lacking:
            shown = ", ".join(display(keys[i]) for i in lacking[:_SHOWN])
            problems.append(f"no label for {_count_keys(len(lacking))}, e.g. {shown}")
        if unused:
            shown = ", ".join(f"{line} ({display(key)})" for line, key in unused[:_SHOWN])
            more = " …" * (len(unused) > _SHOWN)
            problems.append(f"{_count_keys(len(unused))} that no source has, on line {shown}{more}")
        raise InputError(path, "; ".join(problems), "a label for every key (--missing skip drops the others)")
    examples.skipped += [Skipped(display(keys[i]), "no label for this key") for i in lacking]
    examples.skipped += [
        Skipped(display(key), f"line {line} of the labels: no source has this key") for line, key in unused
    ]
    if lacking:
        kept = np.setdiff1d(np.arange(len(keys)), np.array(lacking), assume_unique=True)
        examples.take(kept)
        keys = [keys[i] for i in kept.tolist()]
    examples.classes, numbers = _number_labels(labels, lines, path)
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


def _count_keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"
