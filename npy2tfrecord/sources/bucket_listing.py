"""What is in a bucket, as a directory would show it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from npy2tfrecord.storage.object_files import split_url
from npy2tfrecord.storage.objects import Prefix


def is_prefix(url: bytes, *, may_be_object: bool) -> bool:
    """Whether objects are below a place in a bucket, and not one object there. Raises `OSError` where nothing is."""
    if may_be_object:
        bucket, name = split_url(url)
        with contextlib.suppress(FileNotFoundError):
            bucket.head(name)
            return False
    if not Prefix(os.fsdecode(url)).first_names(1):
        raise FileNotFoundError(errno.ENOENT, "nothing is there", url)
    return True


class ObjectEntry(NamedTuple):
    """An object, or the start of the names of several, as a file and a directory are."""

    name: bytes
    path: bytes
    is_directory: bool

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return not self.is_directory

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_directory

    def is_symlink(self) -> bool:
        return False


def entries_of(root: bytes) -> Callable[[bytes], list[ObjectEntry]]:
    """A function that gives what is in a "directory" below a place in a bucket, once.

    One list of all objects takes a request for each 1,000, however many directories these are in.
    """
    files = Prefix(os.fsdecode(root)).tree()
    directories: dict[str, set[str]] = {}
    for path in files:
        while path and path not in directories.get(above := _above(path), ()):
            directories.setdefault(above, set()).add(path)
            path = above

    def entries(key: bytes) -> list[ObjectEntry]:
        path = os.fsdecode(key)
        below = (each[len(path) : -1] for each in directories.pop(path, ()))
        names = [(name, False) for name in files.pop(path, ())] + [(name, True) for name in below]
        encoded = ((os.fsencode(name), is_directory) for name, is_directory in names)
        return [ObjectEntry(name, root + key + name, is_directory) for name, is_directory in encoded]

    return entries


def _above(path: str) -> str:
    """The directory that a directory is in; both end with a slash, but the root, which is empty."""
    return path[: path.rstrip("/").rfind("/") + 1]
