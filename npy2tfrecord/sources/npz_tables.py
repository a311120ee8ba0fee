"""The tables of `.npz` archives: a feature for each name of a member."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats import npz
from npy2tfrecord.formats.example import KEY
from npy2tfrecord.formats.manifest import FEATURE_PATTERN
from npy2tfrecord.formats.npy import Header
from npy2tfrecord.formats.tfrecord import MAX_DATA_BYTES
from npy2tfrecord.options import Options
from npy2tfrecord.sources.finder import Found
from npy2tfrecord.sources.headers import is_void, special, void_error, with_void_dtype
from npy2tfrecord.sources.table import SourceTable, in_archive, stamp, unreadable


class _Source(NamedTuple):
    """One member as a source."""

    file: int
    header: Header
    stamp: int
    member: npz.Member


def npz_tables(name: str | None, found: Found, options: Options, problems: list[InputError]) -> Iterator[SourceTable]:
    """A table for each member name of the `.npz` files, or for the one that `name` stands for."""
    files, dir_ids = found.npz, found.npz.dir_ids
    by_feature: dict[str, list[_Source]] = {}
    for file in range(len(files)):
        path = files.dirs[dir_ids[file]] + files.names[file]
        try:
            for feature, source in _sources(path, file, name, options):  # all of an archive, or nothing
                by_feature.setdefault(feature, []).append(source)
        except InputError as error:
            problems.append(error)
        except OSError as error:
            problems.append(special(path) or unreadable(path, error))
    for feature, sources in sorted(by_feature.items()):  # whichever archive is found first
        numbers: dict[Header, int] = {}
        header_ids = [numbers.setdefault(source.header, len(numbers)) for source in sources]
        yield SourceTable(
            feature=feature,
            files=files,
            file_ids=np.array([source.file for source in sources], dtype=np.int64),
            dir_ids=dir_ids,
            header_ids=np.array(header_ids, dtype=np.int32),
            headers=list(numbers),
            stamps=np.array([source.stamp for source in sources], dtype=np.int64),
            suffix=b".npz",
            members=[source.member for source in sources],
            single_file=found.single_file,
        )


def _sources(path: bytes, file: int, name: str | None, options: Options) -> list[tuple[str, _Source]]:
    """The members of one archive, each with the name of its feature. Raises `InputError` if one cannot be used."""
    members, status = npz.list_members(path, name)
    sources = []
    for feature, member, header in members:
        if not FEATURE_PATTERN.fullmatch(feature) or feature == KEY:
            raise InputError(
                path,
                f"a member named {feature!r}",
                f"names of letters, digits, '_', '.' and '-' other than {KEY!r}, which can be features' names",
            )
        header = with_void_dtype(header, options)
        where = in_archive(path, member)
        if is_void(header):
            raise void_error(where, header, options)
        # Its values will be read out of order, so that no CRC of the whole can be compared then; or it claims to be too
        # large for a record, and only unpacking it shows whether that is true.
        if options.rows or not header.is_c_order or member.size > MAX_DATA_BYTES:
            npz.check_whole(path, member, where)
        sources.append((feature, _Source(file, header, stamp(status), member)))
    return sources
