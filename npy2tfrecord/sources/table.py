"""Files and sources in columns, and the stamp by which a file is recognised."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from npy2tfrecord.errors import InputError, UnstableError
from npy2tfrecord.formats.npy import Header
from npy2tfrecord.formats.npz import Member
from npy2tfrecord.storage.errors import ChangedObjectError


@dataclass
class FileSet:
    """Files in columns: about 60 bytes each, whatever the depth of their directory.

    `names[i]` is in directory `dirs[dir_ids[i]]`; its key starts with `dir_keys[dir_ids[i]]`. Both
    end with a slash unless they are empty.
    """

    dirs: list[bytes] = field(default_factory=list)
    dir_keys: list[bytes] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    dir_lengths: list[int] = field(default_factory=list)  # files found in each
    in_splits: bool = False  # the first folder of each key is a split that the source names
    has_other_case: bool = False  # a suffix such as .NPY: two names in one directory may have one key

    def add(self, directory: bytes, key: bytes, names: list[bytes]) -> None:
        if names:
            self.dir_lengths.append(len(names))
            self.dirs.append(directory)
            self.dir_keys.append(key)
            self.names.extend(names)

    @property
    def dir_ids(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.dirs), dtype=np.int32), self.dir_lengths)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceTable:
    """The sources of one feature, in columns: a source has no object of its own but its name.

    Source i is the array in file `file_ids[i]`, or in member `members[i]` of that file. Its header is
    `headers[header_ids[i]]`. `stamps[i]` is the stamp of its file when it was scanned.
    """

    feature: str
    files: FileSet
    file_ids: np.ndarray  # int64
    dir_ids: np.ndarray  # int32, of every file of `files`
    header_ids: np.ndarray  # int32
    headers: list[Header]
    stamps: np.ndarray  # int64
    suffix: bytes  # the end of a file's name, behind the key
    key_by: str | None = None  # a regular expression: what it finds in the path without suffix is the key
    members: list[Member] | None = None
    members_are_examples: bool = False  # the key is that of the file, a slash and the member's name
    single_file: bool = False
    kept: int = -1  # the number of the memory that small files are kept in
    places: np.ndarray | None = None  # of each source's file in it, or -1; int64

    def __len__(self) -> int:
        return len(self.file_ids)

    def path(self, source: int) -> bytes:
        file = int(self.file_ids[source])
        return self.files.dirs[int(self.dir_ids[file])] + self.files.names[file]

    def where(self, source: int) -> bytes:
        """The path, and the member inside it, for a message."""
        path = self.path(source)
        return in_archive(path, self.members[source]) if self.members else path

    def key(self, source: int) -> bytes:
        file = int(self.file_ids[source])
        members = None if self.key_members is None else [self.key_members[source]]
        return file_keys(self.files.dir_keys, [int(self.dir_ids[file])], [self.files.names[file]], self, members)[0]

    @property
    def in_splits(self) -> bool:
        return self.files.in_splits

    @property
    def key_members(self) -> list[Member] | None:
        """The members whose names are part of the keys."""
        return self.members if self.members_are_examples else None

    def keys(self) -> list[bytes]:
        """The keys of all sources; empty where `key_by` finds nothing."""
        names = self.files.names
        directories = self.dir_ids[self.file_ids].tolist()
        files = (names[f] for f in self.file_ids.tolist())
        return file_keys(self.files.dir_keys, directories, files, self, self.key_members)

    def keys_of_files(self, paths: set[bytes]) -> set[bytes]:
        """The keys of these files, also of those that turned out to be no sources."""
        files = self.files
        chosen = [
            (d, name)
            for d, name in zip(self.dir_ids.tolist(), files.names, strict=True)
            if _has_suffix(name, self.suffix) and files.dirs[d] + name in paths
        ]
        return set(file_keys(files.dir_keys, [d for d, _ in chosen], (name for _, name in chosen), self))

    def take(self, sources: np.ndarray) -> SourceTable:
        """The table of these sources only."""
        return replace(
            self,
            file_ids=self.file_ids[sources],
            header_ids=self.header_ids[sources],
            stamps=self.stamps[sources],
            places=None if self.places is None else self.places[sources],
            members=[self.members[i] for i in sources.tolist()] if self.members else None,
        )

    def with_sorted_headers(self) -> SourceTable:
        """The table with the headers in use only, numbered by their first source: tasks of a scan end in any order."""
        used, first = np.unique(self.header_ids, return_index=True)
        order = used[np.argsort(first)]
        renumbered = np.zeros(len(self.headers), dtype=np.int32)
        renumbered[order] = np.arange(len(order), dtype=np.int32)
        headers = [self.headers[i] for i in order.tolist()]
        return replace(self, header_ids=renumbered[self.header_ids], headers=headers)


def _has_suffix(name: bytes, suffix: bytes) -> bool:
    """Whether a name ends in `suffix`. The case of the last four bytes does not matter."""
    end = name[-len(suffix) :]
    return end[:-4] == suffix[:-4] and end[-4:].lower() == suffix[-4:]


class Naming(Protocol):
    """How keys are made of names."""

    @property
    def suffix(self) -> bytes: ...

    @property
    def key_by(self) -> str | None: ...

    @property
    def in_splits(self) -> bool: ...


def file_keys(
    dir_keys: list[bytes],
    directories: Iterable[int],
    names: Iterable[bytes],
    naming: Naming,
    members: list[Member] | None = None,
) -> list[bytes]:
    """The key of each file: its path below the root without suffix, or what a regular expression finds in that.

    With `members`, the key of each of these: the path of its archive, a slash and its name.
    Several groups are joined by slashes; a group that takes no part is left out. Where none takes part, the key is
    all that matches. Where nothing is found, the key is empty. The split that a source names stays in front.
    """
    cut = -len(naming.suffix)
    keys = [dir_keys[d] + name[:cut] for d, name in zip(directories, names, strict=True)]
    if members is not None:
        keys = member_keys(keys, members)
    if naming.key_by is None:
        return keys
    pattern = re.compile(naming.key_by)
    if not naming.in_splits:
        return [_found(pattern.search(os.fsdecode(key))) for key in keys]
    parts = (key.partition(b"/") for key in keys)
    found_in_splits = ((split, _found(pattern.search(os.fsdecode(path)))) for split, _, path in parts)
    return [split + b"/" + found if found else b"" for split, found in found_in_splits]


def _found(match: re.Match[str] | None) -> bytes:
    if match is None:
        return b""
    groups = [group for group in match.groups() if group is not None]
    return os.fsencode("/".join(groups or [match[0]]))


def member_keys(keys: list[bytes], members: list[Member]) -> list[bytes]:
    """The keys of members that are examples, from the key of the archive of each."""
    return [b"%s/%s" % (key, os.fsencode(member.name)) for key, member in zip(keys, members, strict=True)]


def in_archive(path: bytes, member: Member) -> bytes:
    """A member and its archive, for a message."""
    return path + b"[" + os.fsencode(member.name) + b"]"


def changed(where: bytes) -> InputError:
    """The error for a file whose content is no longer the one that was scanned."""
    return UnstableError(where, "the file has changed since it was scanned", "files that stay as they are; run again")


def unreadable(path: bytes, error: OSError) -> InputError:
    """The error for a file that was there and cannot be read now."""
    if isinstance(error, FileNotFoundError):
        found = "the file is gone (or a link that leads nowhere)"
        return UnstableError(path, found, "a file that stays while it is read")
    if isinstance(error, ChangedObjectError):
        return changed(path)
    return UnstableError(path, f"cannot be read: {error.strerror}", "a readable file")
