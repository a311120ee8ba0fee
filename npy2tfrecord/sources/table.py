"""The sources of a feature, in columns."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np

from npy2tfrecord.errors import InputError, UnstableError
from npy2tfrecord.formats.feature_summary import feature_info
from npy2tfrecord.formats.manifest import FeatureInfo
from npy2tfrecord.formats.npy import Header
from npy2tfrecord.formats.npz import Member
from npy2tfrecord.sources.finder import FileSet

# Odd, so that two sizes with the same time never have the same stamp, nor two times with the same size.
_STAMP_FACTOR = 0x9E3779B97F4A7C15
_STAMP_MASK = 2**63 - 1


@dataclass
class SourceTable:
    """The sources of one feature, in columns: nothing here is an object a source but its name.

    Source i is the array in file `file_ids[i]`, or in member `members[i]` of it; it looks like
    `headers[header_ids[i]]`; `stamps[i]` tells whether the file is still the one that was scanned.
    """

    feature: str
    files: FileSet
    file_ids: np.ndarray  # int64
    dir_ids: np.ndarray  # int32, of every file of `files`
    header_ids: np.ndarray  # int32
    headers: list[Header]
    stamps: np.ndarray  # int64
    suffix: bytes  # what the file's name ends with after the key
    members: list[Member] | None = None
    single_file: bool = False

    def __len__(self) -> int:
        return len(self.file_ids)

    def path(self, source: int) -> bytes:
        file = int(self.file_ids[source])
        return self.files.dirs[int(self.dir_ids[file])] + self.files.names[file]

    def where(self, source: int) -> bytes:
        """The path, and the member inside it, for a message."""
        path = self.path(source)
        return path + b"[" + os.fsencode(self.members[source].name) + b"]" if self.members else path

    def key(self, source: int) -> bytes:
        file = int(self.file_ids[source])
        return self.files.dir_keys[int(self.dir_ids[file])] + self.files.names[file][: -len(self.suffix)]

    def keys(self) -> list[bytes]:
        """The keys of all sources."""
        cut = -len(self.suffix)
        names, dir_keys = self.files.names, self.files.dir_keys
        directories = self.dir_ids[self.file_ids].tolist()
        return [dir_keys[d] + names[f][:cut] for d, f in zip(directories, self.file_ids.tolist(), strict=True)]

    def keys_of_files(self, paths: set[bytes]) -> set[bytes]:
        """The keys of those files, whether they turned out to be sources or not."""
        cut, files = -len(self.suffix), self.files
        return {
            files.dir_keys[d] + name[:cut]
            for d, name in zip(self.dir_ids.tolist(), files.names, strict=True)
            if name.endswith(self.suffix) and files.dirs[d] + name in paths
        }

    def sum_up(self, counts: np.ndarray, first_axis: int, dtype: np.dtype) -> FeatureInfo:
        """Sum up the feature: `counts[i]` values look like header i, of which the axes from `first_axis` on count."""
        by_shape: dict[tuple[int, ...], int] = {}
        for header, count in zip(self.headers, counts.tolist(), strict=True):
            if count:
                shape = header.shape[first_axis:]
                by_shape[shape] = by_shape.get(shape, 0) + count
        shapes = sorted(by_shape)
        numbers = np.array([by_shape[shape] for shape in shapes], dtype=np.int64)
        return feature_info(self.feature, dtype.name, dtype.itemsize, shapes, numbers)

    def take(self, sources: np.ndarray) -> SourceTable:
        """The same table with these sources only."""
        return replace(
            self,
            file_ids=self.file_ids[sources],
            header_ids=self.header_ids[sources],
            stamps=self.stamps[sources],
            members=[self.members[i] for i in sources.tolist()] if self.members else None,
        )

    def with_sorted_headers(self) -> SourceTable:
        """The headers in use, numbered in the order of their first source: scanning tasks end in any order."""
        used, first = np.unique(self.header_ids, return_index=True)
        order = used[np.argsort(first)]
        renumbered = np.zeros(len(self.headers), dtype=np.int32)
        renumbered[order] = np.arange(len(order), dtype=np.int32)
        headers = [self.headers[i] for i in order.tolist()]
        return replace(self, header_ids=renumbered[self.header_ids], headers=headers)


def stamp(status: os.stat_result) -> int:
    """A file's size and time of modification as one number of 63 bits: another one means that the content changed.

    The inode and the time of the last change of status have no part in it. Both change without the content: by
    `chmod`, by a hard link, and on network file systems that number their files anew.
    """
    return (status.st_size * _STAMP_FACTOR + status.st_mtime_ns) & _STAMP_MASK


def unreadable(path: bytes, error: OSError) -> InputError:
    if isinstance(error, FileNotFoundError):
        found = "the file is gone (or a link that leads nowhere)"
        return UnstableError(path, found, "a file that stays while it is read")
    return UnstableError(path, f"cannot be read: {error.strerror}", "a readable file")
