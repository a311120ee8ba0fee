"""Finding the files: walking directories in an order that is the same everywhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.options import Options
from npy2tfrecord.sources.patterns import Selection, read_file_list
from npy2tfrecord.sources.table import FileSet

SUFFIXES = (b".npy", b".npz")


class Batch(NamedTuple):
    """The files of one directory, and what could not be looked into there."""

    feature: str | None  # None where the source has no name
    directory: bytes  # ends with a slash unless it is empty
    key: bytes  # the start of its files' keys
    names: list[bytes]
    problems: list[InputError]
    is_source: bool = False  # the file was named itself


@dataclass
class Found:
    """The files of one feature, and the problems among them."""

    npy: FileSet = field(default_factory=FileSet)
    npz: FileSet = field(default_factory=FileSet)
    single_file: bool = False  # one source, and that is a file
    problems: list[InputError] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.npy) + len(self.npz)

    def add(self, batch: Batch) -> None:
        archives = [name for name in batch.names if name.endswith(b".npz")]
        arrays = [name for name in batch.names if name.endswith(b".npy")] if archives else batch.names
        self.npy.add(batch.directory, batch.key, arrays)
        self.npz.add(batch.directory, batch.key, archives)
        self.problems += batch.problems


FoundByFeature = dict[str | None, Found]


def find(sources: tuple[tuple[str | None, bytes], ...], options: Options) -> Iterator[Batch]:
    """The files of all sources, a directory at a time; every source gives at least one batch.

    A directory's files come before those of its subdirectories, both sorted by their bytes. What cannot be looked into
    is among the batch's problems. Raises `UsageError`, before the first batch, for a source that does not exist.
    """
    if options.group_by_suffix and any(name is not None for name, _ in sources):
        raise UsageError("group_by_suffix takes the features' names from the files: name no source")
    listed = read_file_list(options.files_from) if options.files_from else None
    selection = Selection.of(options.include, options.exclude)
    kinds = []
    for _, path in sources:
        try:
            kinds.append(stat.S_ISDIR(os.stat(path).st_mode))
        except OSError as error:
            raise UsageError(f"source {display(path)}: {error.strerror}") from None
        if not kinds[-1] and path[-4:] not in SUFFIXES:
            raise UsageError(f"source {display(path)}: expected a directory, a .npy or a .npz file")

    def batches() -> Iterator[Batch]:
        for (feature, path), is_directory in zip(sources, kinds, strict=True):
            root = path if path.endswith(b"/") else path + b"/"
            if not is_directory:
                directory, slash, file = path.rpartition(b"/")
                yield Batch(feature, directory + slash, b"", [file], [], is_source=True)
            elif listed is None:
                yield from _walk(feature, root, selection, options.follow_symlinks)
            else:
                yield from _listed_files(feature, root, listed, selection)

    return batches()


def collect(batches: Iterable[Batch], into: FoundByFeature | None = None) -> FoundByFeature:
    """The files of all batches by their feature, added to those that are there."""
    found = {} if into is None else into
    for batch in batches:
        if batch.feature in found:
            found[batch.feature].single_file = False
        else:
            found[batch.feature] = Found(single_file=batch.is_source)
        found[batch.feature].add(batch)
    return found


def _listed_files(feature: str | None, root: bytes, paths: list[bytes], selection: Selection) -> Iterator[Batch]:
    """The files below `root` that a list of files names."""
    directories: dict[bytes, list[bytes]] = {}
    problems: list[InputError] = []
    for path in paths:
        directory, slash, name = path.rpartition(b"/")
        if name[-4:] not in SUFFIXES:
            problems.append(InputError(root + path, "is in the list of files", "a .npy or .npz file"))
        elif selection.wants_path(path):
            directories.setdefault(directory + slash, []).append(name)
    yield Batch(feature, root, b"", [], problems)
    for key, names in directories.items():
        yield Batch(feature, root + key, key, names, [])


def _walk(feature: str | None, root: bytes, selection: Selection, follow_symlinks: bool) -> Iterator[Batch]:
    stack: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(b"", frozenset())]
    takes_all = selection.is_everything
    while stack:
        key, ancestors = stack.pop()
        directory = root + key
        files: list[bytes] = []
        subdirectories: list[bytes] = []
        problems: list[InputError] = []
        try:
            if follow_symlinks:
                status = os.stat(directory)
                identity = (status.st_dev, status.st_ino)
                if identity in ancestors:
                    found = "a link to a directory that it is in itself"
                    yield Batch(feature, directory, key, [], [InputError(directory, found, "no loop; --exclude it")])
                    continue
                ancestors |= {identity}
            with os.scandir(directory) as entries:
                for entry in entries:
                    name = entry.name
                    if name[-4:] in SUFFIXES and entry.is_file(follow_symlinks=False):
                        if takes_all or selection.wants_file(key + name):
                            files.append(name)
                    elif entry.is_symlink():
                        is_directory = _follow(entry, key, selection, follow_symlinks, problems)
                        if is_directory is not None:
                            (subdirectories if is_directory else files).append(name)
                    elif entry.is_dir(follow_symlinks=False):
                        if takes_all or selection.wants_directory(key + name):
                            subdirectories.append(name)
                    elif name[-4:] in SUFFIXES and (takes_all or selection.wants_file(key + name)):
                        files.append(name)
        except OSError as error:
            problems.append(
                InputError(directory, f"cannot look into the directory: {error.strerror}", "a readable directory")
            )
        files.sort()
        yield Batch(feature, directory, key, files, problems)
        subdirectories.sort(reverse=True)
        stack.extend((key + name + b"/", ancestors) for name in subdirectories)


def _follow(
    entry: os.DirEntry[bytes], key: bytes, selection: Selection, follow_symlinks: bool, problems: list[InputError]
) -> bool | None:
    """Whether a symbolic link leads to a directory that is to be searched (or to a file); None for neither."""
    path = key + entry.name
    try:
        is_directory = stat.S_ISDIR(os.stat(entry.path).st_mode)
    except OSError as error:
        if selection.wants_directory(path) and selection.wants_file(path):
            problems.append(InputError(entry.path, f"a broken link: {error.strerror}", "a file or --exclude"))
        return None
    if not is_directory:
        return False if entry.name[-4:] in SUFFIXES and selection.wants_file(path) else None
    if not selection.wants_directory(path):
        return None
    if follow_symlinks:
        return True
    problems.append(
        InputError(entry.path, "a link to a directory", "--follow-symlinks to search it or --exclude to leave it out")
    )
    return None
