"""Choosing files below a root: `--include`, `--exclude` and `--files-from`.

Patterns are those of gitignore. `*` and `?` stop at a slash; `**` in place of a directory's name does not. A pattern
without a slash matches a name at any depth; a slash anywhere but at the end anchors it at the root. A pattern that ends
in a slash matches directories only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from npy2tfrecord.errors import UsageError, display


def _translate(pattern: str) -> tuple[str, bool]:
    """A glob as a regular expression for paths (bytes decoded as latin-1), and whether it matches directories only."""
    only_directories = pattern.endswith("/")
    glob = pattern.rstrip("/")
    if not glob:
        raise UsageError(f"pattern {pattern!r} matches nothing")
    anchored = "/" in glob
    glob = glob.lstrip("/").encode("utf-8", "surrogateescape").decode("latin-1")
    out, i = [], 0
    while i < len(glob):
        starts_part = i == 0 or glob[i - 1] == "/"
        if starts_part and glob.startswith("**/", i):
            out.append("(?:.*/)?")
            i += 3
        elif starts_part and glob[i:] == "**":
            out.append(".*")
            i += 2
        elif glob[i] == "*":
            out.append("[^/]*")
            i += 1
        elif glob[i] == "?":
            out.append("[^/]")
            i += 1
        elif glob[i] == "[" and (match := re.compile(r"\[([!^]?)(\]?[^\]]*)\]").match(glob, i)):
            body = match[2].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")
            out.append(f"(?!/)[{'^' if match[1] else ''}{body}]")
            i = match.end()
        elif glob[i] == "\\" and i + 1 < len(glob):
            out.append(re.escape(glob[i + 1]))
            i += 2
        else:
            out.append(re.escape(glob[i]))
            i += 1
    return ("" if anchored else "(?:.*/)?") + "".join(out), only_directories


def _compile(patterns: Iterable[str], directories: bool) -> re.Pattern[bytes] | None:
    translated = [_translate(pattern) for pattern in patterns]
    parts = [regex for regex, only_directories in translated if directories or not only_directories]
    if not parts:
        return None
    try:
        return re.compile("|".join(f"(?:{part})" for part in parts).encode("latin-1"), re.DOTALL)
    except re.error as error:
        raise UsageError(f"cannot read the patterns {', '.join(map(repr, patterns))}: {error}") from None


def _hidden_parts(pattern: str) -> Iterator[str]:
    """The pattern's beginnings that end in a hidden name: `/a/.b` and `/a/.b/.c` of `a/.b/.c`."""
    parts = pattern.strip("/").split("/")
    for end, part in enumerate(parts, 1):
        if part.startswith((".", "\\.")) or part == "__MACOSX":
            yield "/" * ("/" in pattern.rstrip("/")) + "/".join(parts[:end])


def _with_below(include: Sequence[str]) -> list[str]:
    """The patterns for files. Everything below an included directory is included, as in gitignore."""
    below = [f"{pattern.rstrip('/')}/**" for pattern in include if not pattern.endswith("**")]
    below = [p if "/" in p.removesuffix("/**") else f"**/{p}" for p in below]
    return [pattern for pattern in include if not pattern.endswith("/")] + below


@dataclass(frozen=True)
class Selection:
    """The files and directories that a search takes, by their paths below the root, as bytes with the suffix."""

    included: re.Pattern[bytes] | None
    excluded_files: re.Pattern[bytes] | None
    excluded_directories: re.Pattern[bytes] | None
    hidden: re.Pattern[bytes] | None  # hidden files and directories that a pattern of --include names
    glob: re.Pattern[bytes] | None  # the pattern of the source itself

    @classmethod
    def of(cls, include: Sequence[str], exclude: Sequence[str], glob: str | None = None) -> Selection:
        own = () if glob is None else (glob,)
        hidden = [each for pattern in (*include, *own) for each in _hidden_parts(pattern)]
        return cls(
            included=_compile(_with_below(include), False),
            excluded_files=_compile(exclude, False),
            excluded_directories=_compile(exclude, True),
            hidden=_compile(hidden, True),
            glob=_compile(_with_below(own), False),
        )

    @property
    def is_everything(self) -> bool:
        # Every pattern of --exclude is among those for directories.
        return not (self.included or self.glob or self.excluded_directories)

    def wants_file(self, path: bytes) -> bool:
        if self.excluded_files and self.excluded_files.fullmatch(path):
            return False
        if self.glob and not self.glob.fullmatch(path):
            return False
        return not self.included or bool(self.included.fullmatch(path))

    def wants_directory(self, path: bytes) -> bool:
        return not (self.excluded_directories and self.excluded_directories.fullmatch(path))

    def names_hidden(self, path: bytes) -> bool:
        """Whether --include names this hidden file or directory, or what is below it."""
        return bool(self.hidden and self.hidden.fullmatch(path))

    def wants_path(self, path: bytes) -> bool:
        """Whether a search would find this file: it wants the file and every directory above it."""
        parts = path.split(b"/")
        above = (b"/".join(parts[:depth]) for depth in range(1, len(parts)))
        return all(map(self.wants_directory, above)) and self.wants_file(path)


def read_file_list(file: str) -> list[bytes]:
    """The paths listed in `file` (`-` is standard input), one a line, or separated by NUL where it holds any.

    Raises `UsageError`.
    """
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the list of files {display(file)}: {error.strerror}") from None
    separator = b"\0" if b"\0" in data else b"\n"
    paths = []
    for number, path in enumerate(data.split(separator), 1):
        path = path.removesuffix(b"\r") if separator == b"\n" else path
        if not path:
            continue
        parts = path.split(b"/")
        if path.startswith(b"/") or b".." in parts:
            raise UsageError(f"{display(file)}, entry {number}: {display(path)!r}: expected a path below the source")
        paths.append(b"/".join(part for part in parts if part not in (b"", b".")))
    return sorted(set(paths), key=lambda path: (path.rpartition(b"/")[0].split(b"/"), path))
