"""A scan as a file, so that several runs of one conversion need only one: columns of numbers and names, and no code.

The file is, little-endian:

    8 bytes           b"npyscan1"
    8 bytes           the length of the description
    description       JSON: what is where; a column is the number of its place in `columns`
    columns           one after the other, each of the dtype and length that `columns` says
    16 bytes          XXH3-128 of all before

A list of names is two columns: the length of each name (int64), and the names one after the other (uint8).
Nothing is allocated by a number in the file: columns are views into the bytes that are there.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np

from npy2tfrecord.errors import DamageError, InputError, UnstableError
from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.formats.npy import Header, parse_header
from npy2tfrecord.formats.npz import Member
from npy2tfrecord.options import Options
from npy2tfrecord.sources.finder import Found, FoundByFeature
from npy2tfrecord.sources.headers import with_void_dtype
from npy2tfrecord.sources.scanner import Scan, with_rank
from npy2tfrecord.sources.table import FileSet, SourceTable

_MAGIC = b"npyscan1"
_HEAD_BYTES, _HASH_BYTES = 16, 16
_PROBLEMS = {"InputError": InputError, "UnstableError": UnstableError}
_DTYPES = ("|u1", "<i4", "<i8")


def encode_scan(scan: Scan, identity: str) -> bytes:
    """The file of a scan; `identity` says of which sources, with which options."""
    columns = _Columns()
    sets: list[FileSet] = []
    found = []
    for name, each in scan.found.items():
        numbers = []
        for files in (each.npy, each.npz):
            numbers.append(len(sets))
            sets.append(files)
        found.append(
            {
                "feature": name,
                "files": numbers,
                "members": list(each.members.items()),
                "single_file": each.single_file,
                "problems": _encode_problems(each.problems),
                "passed_over": dict(each.passed_over),
            }
        )
    number_of = {id(files): number for number, files in enumerate(sets)}
    description = {
        "identity": identity,
        "found": found,
        "files": [
            {
                "dirs": columns.add_names(files.dirs),
                "dir_keys": columns.add_names(files.dir_keys),
                "names": columns.add_names(files.names),
                "dir_lengths": columns.add(np.array(files.dir_lengths, dtype="<i8")),
                "has_other_case": files.has_other_case,
            }
            for files in sets
        ],
        "tables": [
            {
                "feature": table.feature,
                "files": number_of[id(table.files)],
                "file_ids": columns.add(table.file_ids.astype("<i8")),
                "header_ids": columns.add(table.header_ids.astype("<i4")),
                "stamps": columns.add(table.stamps.astype("<i8")),
                "headers": columns.add_names([header.raw for header in table.headers]),
                "suffix": os.fsdecode(table.suffix),
                "members": None if table.members is None else [astuple(member) for member in table.members],
                "members_are_examples": table.members_are_examples,
                "single_file": table.single_file,
            }
            for table in scan.tables
        ],
        "problems": _encode_problems(scan.problems),
        "columns": columns.described,
    }
    text = json.dumps(description).encode()
    data = b"".join([_MAGIC, len(text).to_bytes(8, "little"), text, *columns.parts])
    return data + bytes(Hash(data).digest())


def decode_scan(data: bytes, identity: str, options: Options) -> Scan | None:
    """The scan in a file; None where it is of other sources or options. Raises `DamageError` for anything else."""
    end = len(data) - _HASH_BYTES
    if end < _HEAD_BYTES or data[:8] != _MAGIC or Hash(memoryview(data)[:end]).digest() != data[end:]:
        raise DamageError("no whole file of a scan")
    try:
        start = _HEAD_BYTES + int.from_bytes(data[8:16], "little")
        description = json.loads(data[_HEAD_BYTES : min(start, end)])
        if description["identity"] != identity:
            return None
        columns = _views(memoryview(data)[start:end], description["columns"])
        sets = [_decode_files(each, columns) for each in description["files"]]
        tables = tuple(_decode_table(each, columns, sets, options) for each in description["tables"])
        found: FoundByFeature = {
            each["feature"]: Found(
                npy=sets[each["files"][0]],
                npz=sets[each["files"][1]],
                members={int(file): str(member) for file, member in each["members"]},
                single_file=bool(each["single_file"]),
                problems=_decode_problems(each["problems"]),
                passed_over=Counter({str(kind): int(count) for kind, count in each["passed_over"].items()}),
            )
            for each in description["found"]
        }
        return Scan(tables, _decode_problems(description["problems"]), found)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamageError(f"the file of a scan is not what this version writes: {error}") from None


class _Columns:
    """Columns as they are put one after the other."""

    def __init__(self) -> None:
        self.described: list[list[Any]] = []
        self.parts: list[bytes] = []

    def add(self, column: np.ndarray) -> int:
        """The number of a column that is added."""
        self.described.append([column.dtype.str, len(column)])
        self.parts.append(column.tobytes())
        return len(self.parts) - 1

    def add_names(self, names: list[bytes]) -> int:
        """The number of the first of two columns that are added."""
        number = self.add(np.fromiter(map(len, names), dtype="<i8", count=len(names)))
        self.add(np.frombuffer(b"".join(names), dtype=np.uint8))
        return number


def _views(data: memoryview, described: list[list[Any]]) -> list[np.ndarray]:
    """The columns, which must be all that there is."""
    columns, start = [], 0
    for dtype, length in described:
        if dtype not in _DTYPES or type(length) is not int or length < 0:
            raise ValueError(f"a column {dtype!r}, {length!r}")
        size = np.dtype(dtype).itemsize * length
        if size > len(data) - start:
            raise ValueError("a column is longer than the file")
        columns.append(np.frombuffer(data[start : start + size], dtype=dtype))
        start += size
    if start != len(data):
        raise ValueError("there are more bytes than columns")
    return columns


def _names(columns: list[np.ndarray], number: int) -> list[bytes]:
    lengths, text = columns[number], columns[number + 1].tobytes()
    ends = np.cumsum(lengths)
    if (lengths < 0).any() or (int(ends[-1]) if len(ends) else 0) != len(text):
        raise ValueError("names are not as long as they should be")
    return [text[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]


def _decode_files(described: Mapping[str, Any], columns: list[np.ndarray]) -> FileSet:
    files = FileSet(
        dirs=_names(columns, described["dirs"]),
        dir_keys=_names(columns, described["dir_keys"]),
        names=_names(columns, described["names"]),
        dir_lengths=columns[described["dir_lengths"]].tolist(),
        has_other_case=bool(described["has_other_case"]),
    )
    lengths = files.dir_lengths
    if not len(files.dirs) == len(files.dir_keys) == len(lengths) or sum(lengths) != len(files.names):
        raise ValueError("directories and names do not fit together")
    if min(lengths, default=1) < 1:
        raise ValueError("a directory without files")
    return files


def _decode_table(
    described: Mapping[str, Any], columns: list[np.ndarray], sets: list[FileSet], options: Options
) -> SourceTable:
    files = sets[described["files"]]
    headers = [with_void_dtype(_parse(raw), options) for raw in _names(columns, described["headers"])]
    file_ids, header_ids, stamps = (columns[described[name]] for name in ("file_ids", "header_ids", "stamps"))
    members = described["members"]
    for ids, limit in ((file_ids, len(files)), (header_ids, len(headers))):
        if len(ids) != len(stamps) or (len(ids) and not 0 <= ids.min() <= ids.max() < limit):
            raise ValueError("a source without its file or header")
    if members is not None and len(members) != len(stamps):
        raise ValueError("a source without its member")
    table = SourceTable(
        feature=described["feature"],
        files=files,
        file_ids=file_ids.astype(np.int64),
        dir_ids=files.dir_ids,
        header_ids=header_ids.astype(np.int32),
        headers=headers,
        stamps=stamps.astype(np.int64),
        suffix=os.fsencode(described["suffix"]),
        members=None if members is None else [_decode_member(member) for member in members],
        members_are_examples=bool(described["members_are_examples"]),
        single_file=bool(described["single_file"]),
    )
    return with_rank(table, options)


def _decode_member(fields: list[Any]) -> Member:
    if [type(each) for each in fields] != [str, int, int, int, int, bool]:
        raise ValueError(f"a member {fields!r:.60}")
    return Member(*fields)


def _parse(raw: bytes) -> Header:
    try:
        return parse_header(raw)
    except InputError as error:
        raise ValueError(str(error)) from None


def _encode_problems(problems: list[InputError]) -> list[list[str]]:
    return [[type(p).__name__, os.fsdecode(p.where), p.found, p.expected] for p in problems]


def _decode_problems(encoded: list[list[str]]) -> list[InputError]:
    return [_PROBLEMS[kind](os.fsencode(where), found, expected) for kind, where, found, expected in encoded]
