"""Finding the files: walking directories in an order that is the same everywhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.options import Options
from npy2tfrecord.sources.patterns import Selection, read_file_list

SUFFIXES = (b".npy", b".npz")
_NAMES_AT_ONCE = 1 << 16  # joined: it takes 80 bytes for each meanwhile


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


@dataclass
class Found:
    """What the sources of one feature hold: `.npy` and `.npz` files, and what is wrong there."""

    npy: FileSet = field(default_factory=FileSet)
    npz: FileSet = field(default_factory=FileSet)
    single_file: bool = False  # one source, and that is a file
    problems: list[InputError] = field(default_factory=list)


def find(sources: tuple[tuple[str | None, bytes], ...], options: Options) -> dict[str | None, Found]:
    """All files of the sources; see `search`."""
    found, steps = search(sources, options)
    for _ in steps:
        pass
    return found


def search(
    sources: tuple[tuple[str | None, bytes], ...], options: Options
) -> tuple[dict[str | None, Found], Iterator[None]]:
    """The files of the sources, by the feature's name (None where it has none), and the steps that find them.

    With each step, the files of one more directory or source are there; after the last, all of them. A directory's
    files come before those of its subdirectories, both sorted by their bytes. Whatever cannot be looked into is listed
    as a problem. Raises `UsageError` for a source that does not exist.
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
    found: dict[str | None, Found] = {}

    def steps() -> Iterator[None]:
        for (name, path), is_directory in zip(sources, kinds, strict=True):
            into = found.setdefault(name, Found(single_file=name not in found))
            if not is_directory:
                directory, _, file = path.rpartition(b"/")
                _add_files(into, directory + b"/" if directory or path[:1] == b"/" else b"", b"", [file])
                into.single_file = into.single_file and len(into.npy) + len(into.npz) == 1
                continue
            into.single_file = False
            root = path if path.endswith(b"/") else path + b"/"
            if listed is None:
                yield from _walk(into, root, selection, options.follow_symlinks)
            else:
                _take_listed(into, root, listed, selection)

    return found, steps()


def _add_files(into: Found, directory: bytes, key: bytes, names: list[bytes]) -> None:
    archives = [name for name in names if name.endswith(b".npz")]
    into.npy.add(directory, key, [name for name in names if name.endswith(b".npy")] if archives else names)
    into.npz.add(directory, key, archives)


def _take_listed(into: Found, root: bytes, paths: list[bytes], selection: Selection) -> None:
    groups: dict[bytes, list[bytes]] = {}
    for path in paths:
        directory, _, name = path.rpartition(b"/")
        if name[-4:] not in SUFFIXES:
            into.problems.append(InputError(root + path, "is in the list of files", "a .npy or .npz file"))
        elif selection.wants_path(path):
            groups.setdefault(directory + b"/" if directory else b"", []).append(name)
    for key, names in groups.items():
        _add_files(into, root + key, key, names)


def _walk(into: Found, root: bytes, selection: Selection, follow_symlinks: bool) -> Iterator[None]:
    stack: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(b"", frozenset())]
    choosy = not selection.is_everything
    while stack:
        key, ancestors = stack.pop()
        directory = root + key
        files: list[bytes] = []
        subdirectories: list[bytes] = []
        try:
            if follow_symlinks:
                status = os.stat(directory)
                identity = (status.st_dev, status.st_ino)
                if identity in ancestors:
                    into.problems.append(
                        InputError(directory, "a link to a directory that it is in itself", "no loop; --exclude it")
                    )
                    continue
                ancestors |= {identity}
            with os.scandir(directory) as entries:
                for entry in entries:
                    name = entry.name
                    if name[-4:] in SUFFIXES and entry.is_file(follow_symlinks=False):
                        if not choosy or selection.wants_file(key + name):
                            files.append(name)
                    elif entry.is_symlink():
                        wants_it = _sort_link(into, entry, key, selection, follow_symlinks)
                        if wants_it is not None:
                            (subdirectories if wants_it else files).append(name)
                    elif entry.is_dir(follow_symlinks=False):
                        if not choosy or selection.wants_directory(key + name):
                            subdirectories.append(name)
                    elif name[-4:] in SUFFIXES and (not choosy or selection.wants_file(key + name)):
                        files.append(name)
        except OSError as error:
            into.problems.append(
                InputError(directory, f"cannot look into the directory: {error.strerror}", "a readable directory")
            )
        files.sort()
        _add_files(into, directory, key, files)
        subdirectories.sort(reverse=True)
        stack.extend((key + name + b"/", ancestors) for name in subdirectories)
        yield


def _sort_link(
    into: Found, entry: os.DirEntry[bytes], key: bytes, selection: Selection, follow_symlinks: bool
) -> bool | None:
    """Whether a symbolic link leads to a directory to search; None when it is of no interest."""
    path = key + entry.name
    try:
        is_directory = stat.S_ISDIR(os.stat(entry.path).st_mode)
    except OSError as error:
        if selection.wants_directory(path) and selection.wants_file(path):
            into.problems.append(InputError(entry.path, f"a broken link: {error.strerror}", "a file or --exclude"))
        return None
    if is_directory:
        if not selection.wants_directory(path):
            return None
        if follow_symlinks:
            return True
        into.problems.append(
            InputError(entry.path, "a link to a directory", "--follow-symlinks to search it or --exclude to leave it")
        )
        return None
    return False if entry.name[-4:] in SUFFIXES and selection.wants_file(path) else None


def names_hash(found: dict[str | None, Found]) -> str:
    """A hash of the names of all files that were found, without their roots."""
    seen = Hash()
    for feature, each in found.items():
        for files in (each.npy, each.npz):
            seen.update(b"%d %s\0" % (len(files), (feature or "").encode()))
            seen.update(b"\0".join(files.dir_keys) + b"\0\0")
            seen.update(files.dir_ids.astype("<i4").tobytes())
            for first in range(0, len(files), _NAMES_AT_ONCE):
                seen.update(b"\0" * bool(first) + b"\0".join(files.names[first : first + _NAMES_AT_ONCE]))
    return str(seen.hexdigest())
