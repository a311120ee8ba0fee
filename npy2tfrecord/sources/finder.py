"""Finding the files: walking directories in an order that is the same everywhere."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import NamedTuple, Protocol

from npy2tfrecord.errors import InputError, UsageError, display
from npy2tfrecord.options import Options, Source
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.sources.patterns import Selection, read_file_list
from npy2tfrecord.sources.table import FileSet
from npy2tfrecord.storage.in_flight import Batch as Requests
from npy2tfrecord.storage.in_flight import InFlight
from npy2tfrecord.storage.local import patiently

SUFFIXES = frozenset(b"." + bytes(letters) for end in b"yz" for letters in product(b"nN", b"pP", (end, end - 32)))
_NPY = {b".npy"}
_COMPRESSED = re.compile(rb".*\.np[yz]\.(gz|bz2|xz|zst|lz4|z|zip)", re.IGNORECASE | re.DOTALL)
_COUNTED_SUFFIX = re.compile(rb"\.[a-z0-9_+-]{1,12}")  # names may hold anything: all others are counted together
_LEFT_OUT = "left out by pattern"
_COMPRESSED_FOUND = "a file that is compressed as a whole"
_UNPACKED = "a .npy or .npz file: unpack it first, with gunzip or the like, or --exclude it"
_MOST_AHEAD = 256  # directories that are listed before their turn


_Identities = frozenset[tuple[int, int]]  # of directories: device and inode


class Batch(NamedTuple):
    """The files of one directory, and what could not be looked into there."""

    feature: str | None  # None where the source has no name
    directory: bytes  # ends with a slash unless it is empty
    key: bytes  # the start of its files' keys
    names: list[bytes]
    problems: list[InputError]
    is_source: bool = False  # the file was named itself
    in_split: bool = False  # that the source names: the start of the keys
    member: str | None = None  # the only one to take of these archives
    passed_over: Mapping[str, int] = MappingProxyType({})  # the number of files that are no sources, by kind


@dataclass
class Found:
    """The files of one feature, and the problems among them."""

    npy: FileSet = field(default_factory=FileSet)
    npz: FileSet = field(default_factory=FileSet)
    members: dict[int, str] = field(default_factory=dict)  # of archives by number, the only one to take
    single_file: bool = False  # one source in each split, and that is a file
    problems: list[InputError] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.npy) + len(self.npz)

    def has_key(self, key: bytes) -> bool:
        """Whether files are there whose keys start so."""
        return key in self.npy.dir_keys or key in self.npz.dir_keys

    def add(self, batch: Batch) -> None:
        if batch.member is not None:
            self.members |= {len(self.npz) + i: batch.member for i in range(len(batch.names))}
        self.npy.in_splits = self.npz.in_splits = batch.in_split
        suffixes = {name[-4:] for name in batch.names}
        if suffixes <= _NPY:
            self.npy.add(batch.directory, batch.key, batch.names)
        else:
            for files, end in ((self.npy, b".npy"), (self.npz, b".npz")):
                files.add(batch.directory, batch.key, [name for name in batch.names if name[-4:].lower() == end])
                files.has_other_case |= any(each.lower() == end != each for each in suffixes)
        self.problems += batch.problems
        self.passed_over.update(batch.passed_over)


FoundByFeature = dict[str | None, Found]


def find(sources: tuple[Source, ...], options: Options) -> Iterator[Batch]:
    """The files of all sources, a directory at a time; every source gives at least one batch.

    A directory's files come before those of its subdirectories, both sorted by their bytes. What cannot be looked into
    is among the batch's problems. Raises `UsageError` for a source that does not exist, before the first batch, and for
    one of several in which nothing is found.
    """
    if options.group_by_suffix and any(source.feature is not None for source in sources):
        raise UsageError("group_by_suffix takes the features' names from the files: name no source")
    listed = read_file_list(options.files_from) if options.files_from else None
    selections = [Selection.of(options.include, options.exclude, source.glob) for source in sources]
    _check_places(sources)
    kinds = []
    for _, path, member, _, _ in sources:
        try:
            kinds.append(_is_directory(path))
        except OSError as error:
            raise UsageError(f"source {display(path)}: {error.strerror}") from None
        if not kinds[-1] and path[-4:] not in SUFFIXES:
            if _COMPRESSED.fullmatch(path):
                raise UsageError(f"source {display(path)}: {_COMPRESSED_FOUND}; expected {_UNPACKED}")
            raise UsageError(f"source {display(path)}: expected a directory, a .npy or a .npz file")
        if not kinds[-1] and member is not None and path[-4:].lower() != b".npz":
            raise UsageError(
                f"source {display(path)}[{display(member)}]: no archive; expected a directory or a .npz file"
            )

    def batches() -> Iterator[Batch]:
        counted: set[bytes] = set()
        for source, selection, is_directory in zip(sources, selections, kinds, strict=True):
            feature, path, member, _, _ = source
            root = path if path.endswith(b"/") else path + b"/"
            start = b"" if source.split is None else source.split.encode() + b"/"
            if not is_directory:
                directory, slash, file = path.rpartition(b"/")
                yield Batch(
                    feature, directory + slash, start, [file], [], is_source=True, in_split=bool(start), member=member
                )
                continue
            if listed is None:
                found = _walk(feature, root, selection, options)
            else:
                found = _listed_files(feature, root, listed, selection)
            is_empty = True
            for batch in found:
                counts = batch.passed_over if root not in counted else {}  # other sources may be in the same directory
                if source.glob is not None:
                    counts = {kind: count for kind, count in counts.items() if kind != _LEFT_OUT}
                names = batch.names
                if member is not None:
                    names = [name for name in names if name[-4:].lower() == b".npz"]
                    if len(names) < len(batch.names) and root not in counted:
                        counts = {**counts, ".npy": len(batch.names) - len(names)}
                is_empty &= not names and not batch.problems
                yield batch._replace(
                    key=start + batch.key, names=names, in_split=bool(start), member=member, passed_over=counts
                )
            counted.add(root)
            if is_empty and _is_needed(source, sources, options):
                given = path if source.glob is None else path + b":" + os.fsencode(source.glob)
                raise UsageError(f"source {display(given)}: no .npy or .npz file found in it that fits the options")

    return batches()


def _check_places(sources: tuple[Source, ...]) -> None:
    """Raise `UsageError` where the sources of one feature are on a disk and in a bucket."""
    places: dict[str | None, Source] = {}
    for source in sources:
        other = places.setdefault(source.feature, source)
        if is_bucket(source.path) != is_bucket(other.path):
            raise UsageError(
                f"sources {display(other.path)} and {display(source.path)}: one is in a bucket, the other on a disk;"
                " expected both in one place, or features with names of their own, NAME=PATH; `merge` puts data sets"
                " from both together"
            )


def _is_needed(source: Source, sources: tuple[Source, ...], options: Options) -> bool:
    """Whether something would be missing in silence if this source, one of several, had no file."""
    alike = [each for each in sources if (each.feature, each.split) == (source.feature, source.split)]
    is_chosen = bool(options.include or options.exclude or options.files_from)
    return len(sources) > 1 and (len(alike) == 1 or source.glob is not None or not is_chosen)


def collect(batches: Iterable[Batch], into: FoundByFeature | None = None) -> FoundByFeature:
    """The files of all batches by their feature, added to those that are there."""
    found = {} if into is None else into
    for batch in batches:
        if batch.feature in found:
            found[batch.feature].single_file &= batch.is_source and not found[batch.feature].has_key(batch.key)
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
        if _COMPRESSED.fullmatch(name):
            problems.append(_compressed(root + path))
        elif name[-4:] not in SUFFIXES:
            problems.append(InputError(root + path, "is in the list of files", "a .npy or .npz file"))
        elif selection.wants_path(path):
            directories.setdefault(directory + slash, []).append(name)
    yield Batch(feature, root, b"", [], problems)
    for key, names in directories.items():
        yield Batch(feature, root + key, key, names, [])


def _is_directory(path: bytes) -> bool:
    if not is_bucket(path):
        return stat.S_ISDIR(os.stat(path).st_mode)
    from npy2tfrecord.sources.bucket_listing import is_prefix  # not read where it isn't needed

    return is_prefix(path, may_be_object=path[-4:] in SUFFIXES)


class Entry(Protocol):
    """What a directory holds, as `os.scandir` gives it."""

    @property
    def name(self) -> bytes: ...

    @property
    def path(self) -> bytes: ...

    def is_file(self, *, follow_symlinks: bool = True) -> bool: ...

    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...

    def is_symlink(self) -> bool: ...


def _scan_directory(path: bytes) -> list[Entry]:
    with os.scandir(path) as entries:
        return list(entries)


def _walk(feature: str | None, root: bytes, selection: Selection, options: Options) -> Iterator[Batch]:
    """The directories below `root`. Where storage waits, those that come next are listed meanwhile."""

    def list_entries(key: bytes) -> Sequence[Entry]:
        return _scan_directory(root + key)

    follow_symlinks = options.follow_symlinks
    if is_bucket(root):
        from npy2tfrecord.sources.bucket_listing import entries_of  # not read where it isn't needed

        list_entries, follow_symlinks = entries_of(root), False  # type: ignore[assignment]
    ahead: dict[bytes, tuple[_Listing, Requests]] = {}
    with InFlight(options.in_flight) as requests:

        def begin(key: bytes, ancestors: _Identities) -> tuple[_Listing, Requests]:
            listing = _Listing(root, key, ancestors, selection, follow_symlinks, list_entries)
            return listing, requests.submit(listing.take, (0,), lambda _: listing.path)

        stack: list[tuple[bytes, _Identities]] = [(b"", frozenset())]
        while stack:
            key, ancestors = stack.pop()
            listing, request = ahead.pop(key) if key in ahead else begin(key, ancestors)
            if requests.target:
                for following, ancestors_there in reversed(stack[-_MOST_AHEAD:]):
                    if len(ahead) < _MOST_AHEAD and following not in ahead:
                        ahead[following] = begin(following, ancestors_there)
            requests.wait(request)
            listing.files.sort()
            yield Batch(feature, listing.path, key, listing.files, listing.problems, passed_over=listing.passed_over)
            listing.subdirectories.sort(reverse=True)
            stack.extend((key + name + b"/", listing.ancestors) for name in listing.subdirectories)


@dataclass
class _Listing:
    """What one directory holds; `key` is its path below `root`."""

    root: bytes
    key: bytes
    ancestors: _Identities  # of what is in it: itself included, if links are followed
    selection: Selection
    follow_symlinks: bool
    list_entries: Callable[[bytes], Sequence[Entry]]  # of the directory with a key
    files: list[bytes] = field(default_factory=list)
    subdirectories: list[bytes] = field(default_factory=list)
    problems: list[InputError] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def path(self) -> bytes:
        return self.root + self.key

    def take(self, numbers: Iterator[int]) -> None:
        """List the directory: a request, of which there is one."""
        for _ in numbers:
            try:
                if self.follow_symlinks:
                    status = patiently(lambda: os.stat(self.path))
                    identity = (status.st_dev, status.st_ino)
                    if identity in self.ancestors:
                        found = "a link to a directory that it is in itself"
                        self.problems.append(InputError(self.path, found, "no loop; --exclude it"))
                        continue
                    self.ancestors |= {identity}
                self.read(patiently(lambda: self.list_entries(self.key)))
            except OSError as error:
                found = f"cannot look into the directory: {error.strerror}"
                self.problems.append(InputError(self.path, found, "a readable directory"))

    def read(self, entries: Iterable[Entry]) -> None:
        """Sort the entries of the directory into files, subdirectories, and what is passed over."""
        key, selection, files = self.key, self.selection, self.files
        takes_all = selection.is_everything
        for entry in entries:
            name = entry.name
            if name.startswith((b".", b"__MACOSX")) and self._is_hidden(name):
                self.passed_over["hidden"] += 1
            elif name[-4:] in SUFFIXES and entry.is_file(follow_symlinks=False):
                if takes_all or selection.wants_file(key + name):
                    files.append(name)
                else:
                    self.passed_over[_LEFT_OUT] += 1
            elif entry.is_symlink():
                self._read_link(entry)
            elif entry.is_dir(follow_symlinks=False):
                if takes_all or selection.wants_directory(key + name):
                    self.subdirectories.append(name)
            elif name[-4:] in SUFFIXES and (takes_all or selection.wants_file(key + name)):
                files.append(name)  # a pipe or the like, which its header's reader refuses
            else:
                self._pass_over(entry)

    def _is_hidden(self, name: bytes) -> bool:
        is_hidden = name.startswith(b".") or name == b"__MACOSX"
        return is_hidden and not self.selection.names_hidden(self.key + name)

    def _pass_over(self, entry: Entry) -> None:
        if _COMPRESSED.fullmatch(entry.name) and self.selection.wants_file(self.key + entry.name):
            self.problems.append(_compressed(entry.path))
            return
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix:
            self.passed_over[suffix.decode() if _COUNTED_SUFFIX.fullmatch(suffix) else "with other suffixes"] += 1
        else:
            self.passed_over["without suffix"] += 1

    def _read_link(self, entry: Entry) -> None:
        """Sort a symbolic link in by what it leads to."""
        path, selection = self.key + entry.name, self.selection
        try:
            is_directory = stat.S_ISDIR(os.stat(entry.path).st_mode)
        except OSError as error:
            if selection.wants_directory(path) and selection.wants_file(path):
                self.problems.append(InputError(entry.path, f"a broken link: {error.strerror}", "a file or --exclude"))
            return
        if not is_directory:
            if entry.name[-4:] not in SUFFIXES:
                self._pass_over(entry)
            elif selection.wants_file(path):
                self.files.append(entry.name)
            else:
                self.passed_over[_LEFT_OUT] += 1
        elif not selection.wants_directory(path):
            return
        elif self.follow_symlinks:
            self.subdirectories.append(entry.name)
        else:
            expected = "--follow-symlinks to search it or --exclude to leave it out"
            self.problems.append(InputError(entry.path, "a link to a directory", expected))


def _compressed(path: bytes) -> InputError:
    return InputError(path, _COMPRESSED_FOUND, _UNPACKED)


def passed_over(found: FoundByFeature) -> dict[str, int]:
    """How many files of which kind were found and are no sources, the most common kind first."""
    total: Counter[str] = Counter()
    for each in found.values():
        total.update(each.passed_over)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
