"""Colours on a terminal. What the commands print has them in it; where nobody sees colours, they are removed."""

from __future__ import annotations

import os
import re
from typing import TextIO

CHOICES = ("auto", "always", "never")

# Of the sixteen that every terminal has, as its user chose them: they fit a light and a dark background.
_BOLD, _RED, _GREEN, _YELLOW, _CYAN = "1", "1;31", "32", "33", "36"
_CODES = re.compile(r"\x1b\[[0-9;]*m")  # names from outside have none: `errors.display` escapes them


def are_wanted(choice: str, stream: TextIO) -> bool:
    """Whether a stream gets colours: as `--color` says, or on a terminal that has them, without `NO_COLOR`."""
    if choice != "auto":
        return choice == "always"
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def without(text: str) -> str:
    """The text without colours."""
    return _CODES.sub("", text)


def heading(text: str) -> str:
    """The name of a section."""
    return _colored(_BOLD, text)


def bars(text: str) -> str:
    """The bars of a histogram."""
    return _colored(_CYAN, text)


def command(text: str) -> str:
    """What may be copied and run."""
    return _colored(_GREEN, text)


def warning(text: str) -> str:
    """What was left out, and deserves a look."""
    return _colored(_YELLOW, text)


def error(text: str) -> str:
    """What begins the message of an error."""
    return _colored(_RED, text)


def _colored(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if text else ""
