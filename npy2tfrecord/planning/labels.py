"""Labels: a class or a number for every example, from directories, keys, a table, or an array by number of row."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.dtypes import parse_descr
from npy2tfrecord.formats.npy import MAX_HEADER_BYTES, check_size, header_size, parse_header
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.key_table import match_keys, read_key_table

_SHOWN = 5  # labels, in a message
_INTEGER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_TEXT = re.compile(r"[<>|=]?[US][1-9]\d{0,8}")  # in a header of NumPy

_ONE_KIND = "numbers alone, or words alone, which are classes"


def label_by_directory(examples: Examples, depth: int) -> None:
    """Give every example the class, or the number, that its directory at `depth` is named for."""
    names, ids = examples.directory_names(depth, "labels 'dirs' takes the class from")
    texts = list(map(os.fsdecode, names))
    classes, values = _evaluate(texts, np.arange(len(texts)), "", lambda i: f"folder {display(texts[i])}")
    examples.classes, examples.labels = classes, values[ids]


def label_by_key(examples: Examples, pattern: str) -> None:
    """Give every example the label that a regular expression finds in its key, of rows in that of their file."""
    texts, codes = examples.find_in_keys(pattern, "label_by", of_files=True, allow_empty=False)
    classes, values = _evaluate(texts, codes, "", lambda i: f"the one in key {display(examples.file_key(i))}")
    examples.classes, examples.labels = classes, values[codes]


def label_by_table(examples: Examples, path: str, missing: str) -> None:
    """Give every example the label of its key in a `key,label` table.

    Raises `InputError` for keys without a label, and labels without a key, unless `missing` is "skip".
    """
    table = read_key_table(path, "label")
    lines = list(table.lines.values())
    texts = sorted(set(table.values.values()))
    number_of = {text: i for i, text in enumerate(texts)}
    codes = np.fromiter((number_of[text] for text in table.values.values()), np.int64, len(lines))
    classes, values = _evaluate(texts, codes, path, lambda i: f"line {lines[i]}")
    keys = match_keys(examples, table, missing)
    examples.classes = classes
    examples.labels = values[np.fromiter((number_of[table.values[key]] for key in keys), np.int64, len(keys))]


def label_by_row(examples: Examples, path: str) -> None:
    """Give every row the label of its number in a 1-D array, which holds for each file anew."""
    labels = _read_array(path)
    assert examples.rows is not None
    files, counts = np.unique(examples.sources[0], return_counts=True)
    table = examples.tables[0]
    name = os.fsencode(os.path.basename(path))
    for source in files.tolist():
        there = table.path(source)
        if there.endswith(name) and not is_bucket(there) and os.path.samefile(there, path):
            raise UsageError(f"{display(path)} holds the labels, and is a source too: leave it out with --exclude")
    if wrong := np.flatnonzero(counts != len(labels)).tolist():
        where = display(table.where(int(files[wrong[0]])))
        together = ""
        if len(files) > 1 and len(examples) == len(labels):
            together = "; its labels are as many as the rows of all files, but count from 0 in each"
        raise InputError(path, f"{len(labels)} labels{together}", f"{counts[wrong[0]]}, one for each row of {where}")
    if labels.dtype.kind in "US":
        distinct, codes = np.unique(labels, return_inverse=True)
        texts = [text.strip() if isinstance(text, str) else text.decode().strip() for text in distinct.tolist()]
        classes, values = _evaluate(texts, codes.reshape(-1), path, lambda i: f"row {i}")
        labels = values[codes.reshape(-1)]
    else:
        classes, labels = (), _as_numbers(labels, path)
    examples.classes, examples.labels = classes, labels[examples.rows]


# --- what labels mean -------------------------------------------------------------------------------------------------


def _evaluate(
    texts: Sequence[str], codes: np.ndarray, where: str, place: Callable[[int], str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes in order, none for numbers; and of each text its class, its integer, or its number as float32.

    Thing i is labelled `texts[codes[i]]`, and `place(i)` is where a message finds it. Raises `InputError`, which names
    these places, for a mixture of numbers and words, or a number that has no value of its own.
    """

    def fail(wrong: list[bool], found: str, expected: str) -> InputError:
        things = np.flatnonzero(np.array(wrong, dtype=bool)[codes])
        shown = ", ".join(f"{place(i)} ({display(texts[codes[i]])[:40]!r})" for i in things[:_SHOWN].tolist())
        return InputError(where, f"{found}: {shown}{' …' * (len(things) > _SHOWN)}", expected)

    if "" in texts:
        raise fail([not text for text in texts], "a label that is empty", "a number or a word")
    is_number = [_NUMBER.fullmatch(text) is not None for text in texts]
    if not any(is_number):
        if all(map(_NOT_FINITE.fullmatch, texts)):
            raise fail([True] * len(texts), "a label that is no finite number", "finite numbers, or classes")
        if all(map(_DECIMAL_COMMA.fullmatch, texts)):
            raise fail([True] * len(texts), "numbers with a comma", "a point: 0.5, not 0,5")
        classes = tuple(sorted(set(texts)))
        number_of = {name: i for i, name in enumerate(classes)}
        return classes, np.array([number_of[text] for text in texts], dtype=np.int64)
    if not all(is_number):
        numbers = int(np.array(is_number)[codes].sum())
        words = len(codes) - numbers
        if words <= numbers:
            raise fail([not each for each in is_number], f"{words} of {len(codes)} labels are no numbers", _ONE_KIND)
        raise fail(is_number, f"{numbers} of {len(codes)} labels are numbers, the others words", _ONE_KIND)
    integers = [_INTEGER.fullmatch(text) for text in texts]
    if all(integers):
        digits = [match[1] for match in integers if match]
        too_large = [len(text.lstrip("+-0")) > 19 or not -(2**63) <= int(text) < 2**63 for text in digits]
        if any(too_large):
            raise fail(too_large, "a label that is too large", "integers of 64 bits")
        return (), np.array([int(text) for text in digits], dtype=np.int64)
    with np.errstate(over="ignore"):
        values = np.array([float(text) for text in texts]).astype(np.float32)
    if not np.isfinite(values).all():
        raise fail((~np.isfinite(values)).tolist(), "a label that is too large", "numbers that float32 can hold")
    return (), values


def _as_numbers(labels: np.ndarray, path: str) -> np.ndarray:
    """Numbers of any dtype as labels: int64 if all are integers, else float32."""

    def check(wrong: np.ndarray, expected: str) -> None:
        if wrong.any():
            rows = np.flatnonzero(wrong)
            shown = ", ".join(f"row {i} ({labels[i]})" for i in rows[:_SHOWN].tolist())
            raise InputError(path, f"the label of {shown}{' …' * (len(rows) > _SHOWN)}", expected)

    if labels.dtype.kind in "bi":
        return labels.astype(np.int64)
    if labels.dtype.kind == "u":
        check(labels >= np.uint64(2**63), "integers of 64 bits")
        return labels.astype(np.int64)
    doubles = labels.astype(np.float64)
    check(~np.isfinite(doubles), "finite numbers")
    if ((doubles == np.rint(doubles)) & (doubles >= -(2.0**63)) & (doubles < 2.0**63)).all():
        return doubles.astype(np.int64)
    with np.errstate(over="ignore"):
        singles = doubles.astype(np.float32)
    check(~np.isfinite(singles), "numbers that float32 can hold")
    return singles


def _read_array(path: str) -> np.ndarray:
    """The array of labels in a `.npy` file: 1-D, of numbers or strings."""
    expected = "a 1-D array of integers, floats or strings"
    try:
        handle = syscalls.open_regular(path)
    except OSError as error:
        raise UsageError(f"cannot read the labels {display(path)}: {error.strerror}") from None
    try:
        start = syscalls.read_up_to(handle, MAX_HEADER_BYTES)
        header = parse_header(start[: header_size(start, path)], path, _parse_descr)
        if header.dtype.kind not in "biufUS":
            raise InputError(path, f"labels of dtype {header.dtype.name}", expected)
        if not header.shape or any(n != 1 for n in header.shape[1:]):  # (n, 1) is a column
            raise InputError(path, f"labels of shape {header.shape}", expected)
        check_size(header, syscalls.fstat(handle).st_size, path)
        data = syscalls.read_up_to(handle, header.file_size)[header.data_offset :]
        check_size(header, header.data_offset + len(data), path)
    finally:
        syscalls.close(handle)
    labels: np.ndarray = np.frombuffer(data, dtype=header.dtype)
    if labels.dtype.kind == "U" and (labels.view(labels.dtype.str[0] + "u4") > 0x10FFFF).any():
        raise InputError(path, "a string with a character that Unicode lacks", expected)
    if labels.dtype.kind == "S" and (wrong := [i for i, text in enumerate(labels.tolist()) if not _is_utf8(text)]):
        raise InputError(path, f"the label of row {wrong[0]} ({labels[wrong[0]]!r})", "strings in UTF-8")
    return labels


def _parse_descr(descr: str, where: bytes | str) -> np.dtype:
    return np.dtype(descr) if _TEXT.fullmatch(descr) else parse_descr(descr, where)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
