"""Every error this package raises on purpose, and the exit code each one means.

All derive from `Error` and from the builtin a caller would expect, and all of them pickle: an error
raised in a worker process reaches the caller as it was.
"""

from __future__ import annotations

import os
import re

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode passes it on
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def display(name: bytes | str) -> str:
    """`name` for a message or a terminal: bytes that are no printable text are shown escaped."""
    return _UNPRINTABLE.sub(_escape, os.fsdecode(name))


class Error(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(Error, ValueError):
    """A request that makes no sense or cannot be met."""

    exit_code = 2


class FormatVersionError(UsageError):
    """A data set in a format that only a newer version of this package can read."""


class NewerFormatWarning(UserWarning):
    """A data set in a newer minor version of the format: what this version does not know of it is ignored."""


class InputError(Error, ValueError):
    """A source is not what it must be.

    `where` names the file (and what in it), `found` and `expected` say what is wrong.
    """

    exit_code = 4

    def __init__(self, where: bytes | str, found: str, expected: str = "") -> None:
        super().__init__(where, found, expected)
        self.where = where
        self.found = found
        self.expected = expected

    @property
    def problem(self) -> str:
        """What is wrong, without the file's name."""
        return f"{self.found}; expected {self.expected}" if self.expected else self.found

    def in_row(self, row: int) -> InputError:
        """The same error, of one row of the source."""
        return type(self)(os.fsencode(self.where) + b"#%d" % row, self.found, self.expected)

    def __str__(self) -> str:
        return f"{display(self.where)}: {self.problem}" if self.where else self.problem


class UnstableError(InputError):
    """A source that was whole when it was scanned has changed or cannot be read now; another run may succeed."""


class OutputError(Error, OSError):
    """The output could not be written."""

    exit_code = 5

    @classmethod
    def from_os(cls, doing: str, path: bytes | str, error: OSError) -> OutputError:
        reason = error.strerror or str(error)
        return cls(f"cannot {doing} {display(path)}: {reason}. Run the same command again to resume.")


class ConflictError(Error, FileExistsError):
    """Other data, other options or another run are in the way."""

    exit_code = 6


class DamageError(Error, ValueError):
    """Something written is not, or no longer, what the manifest says."""

    exit_code = 7


class WorkerError(Error, RuntimeError):
    """A worker process kept dying."""

    exit_code = 8


class ClusterError(Error, RuntimeError):
    """The cluster is gone: its scheduler, or the last of its workers."""

    exit_code = 8
