"""The tables of `.npz` archives: a feature for each name of a member."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats import npz
from npy2tfrecord.formats.example import KEY
from npy2tfrecord.formats.manifest import FEATURE_PATTERN
from npy2tfrecord.formats.npy import Header
from npy2tfrecord.formats.tfrecord import MAX_DATA_BYTES
from npy2tfrecord.options import DEFAULT_FEATURE, Options
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.sources.finder import Found
from npy2tfrecord.sources.headers import is_void, special, void_error, with_void_dtype
from npy2tfrecord.sources.table import SourceTable, in_archive, unreadable
from npy2tfrecord.storage.in_flight import remember, requests_for
from npy2tfrecord.storage.open_files import OpenFile, open_source

MAX_FEATURES = 64  # that names inside archives, or of files, may make
_SHOWN = 3


class _Source(NamedTuple):
    """One member as a source."""

    file: int
    header: Header
    stamp: int
    member: npz.Member


def npz_tables(name: str | None, found: Found, options: Options, problems: list[InputError]) -> Iterator[SourceTable]:
    """A table for each member name of the `.npz` files, or for the one that `name` stands for.

    With `options.members` it is one table, of all members. Raises `UsageError` for more features than anybody means.
    """
    files, dir_ids = found.npz, found.npz.dir_ids
    paths = [files.dirs[d] + file for d, file in zip(dir_ids.tolist(), files.names, strict=True)]
    listed: dict[int, list[tuple[str, _Source]] | InputError] = {}  # all of an archive, or nothing
    problems_of: list[list[InputError]] = [[] for _ in paths]  # of members
    with requests_for(in_bucket=is_bucket(paths[0]), limit=options.in_flight) as requests:
        run: npz.Run = requests.run if len(paths) == 1 else npz.in_order

        def read(numbers: Iterator[int]) -> None:
            for file in numbers:
                try:
                    chosen, bad = found.members.get(file), problems_of[file]
                    with closing(open_source(paths[file])) as archive:
                        listed[file] = [*_sources(archive, paths[file], file, name, chosen, options, bad, run)]
                except InputError as error:
                    listed[file] = error
                except OSError as error:
                    listed[file] = special(paths[file]) or unreadable(paths[file], error)

        if len(paths) == 1:
            read(iter((0,)))
        else:
            requests.run(read, range(len(paths)), paths.__getitem__)
        remember(requests.target)
    by_feature: dict[str, list[_Source]] = {}
    for file, path in enumerate(paths):
        problems += problems_of[file]
        found_there = listed[file]
        if isinstance(found_there, InputError):
            problems.append(found_there)
        else:
            for feature, source in found_there:
                by_feature.setdefault(feature, []).append(source)
        if len(by_feature) > MAX_FEATURES:
            raise UsageError(_too_many(path, by_feature))
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
            members_are_examples=options.members,
            single_file=found.single_file,
        )


def _too_many(path: bytes, features: Iterable[str]) -> str:
    shown = ", ".join(map(display, list(features)[:_SHOWN]))
    return (
        f"{display(path)}: more than {MAX_FEATURES} members would each be a feature of one example ({shown}, …);"
        " expected fewer: --members makes an example of every member, NAME=FILE.npz[MEMBER] takes one"
    )


def _sources(
    archive: OpenFile,
    path: bytes,
    file: int,
    name: str | None,
    chosen: str | None,
    options: Options,
    problems: list[InputError],
    run: npz.Run,
) -> Iterator[tuple[str, _Source]]:
    """The members of one archive, each with the name of its feature.

    Raises `InputError` if one can't be used; where members are examples, the error is one of `problems`, and the others
    are good.
    """
    stamp = archive.stamp()
    if chosen is not None:
        members = npz.list_members(archive, path, name, member=chosen, run=run)
    elif options.members:
        members = npz.list_members(archive, path, None, bad=problems, run=run)
        members.sort(key=lambda found: os.fsencode(found[1].name))
    else:
        members = npz.list_members(archive, path, name, MAX_FEATURES, run=run)
    for feature, member, header in members:
        try:
            usable = _usable(archive, path, member, with_void_dtype(header, options), options)
        except InputError as error:
            if not options.members:
                raise
            problems.append(error)
            continue
        if options.members:
            feature = name or DEFAULT_FEATURE
        elif not FEATURE_PATTERN.fullmatch(feature) or feature == KEY:
            raise InputError(
                path,
                f"a member named {feature!r}",
                f"names of letters, digits, '_', '.' and '-' other than {KEY!r}, which can be features' names; or"
                " --members, which makes an example of every member",
            )
        yield feature, _Source(file, usable, stamp, member)


def _usable(archive: OpenFile, path: bytes, member: npz.Member, header: Header, options: Options) -> Header:
    """The header, unless the member can't be used: then it raises `InputError`."""
    where = in_archive(path, member)
    if is_void(header):
        raise void_error(where, header, options)
    # Its values will be read out of order, so that no CRC of the whole can be compared then; or it claims to be too
    # large for a record, and only unpacking it shows whether that is true.
    if options.rows or not header.is_c_order or member.size > MAX_DATA_BYTES:
        npz.check_whole(archive, member, where)
    return header
