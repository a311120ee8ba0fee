"""`npy2tfrecord completion`: the script that completes this command in a shell, made by shtab from the parsers."""

from __future__ import annotations

import argparse

from npy2tfrecord.commands import arguments as shared
from npy2tfrecord.commands.arguments import load
from npy2tfrecord.errors import UsageError

USAGE = "bash|zsh|fish"
DESCRIPTION = "Print the script that completes this command in a shell."
SHELLS = ("bash", "zsh", "fish")

_PATHS = ("SOURCE", "OUT", "DIR", "FILE", "FILE.csv", "dirs|FILE")  # metavars of what takes a path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    parser.add_argument("shell", metavar=USAGE, choices=SHELLS, help="the shell")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options: there are none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise UsageError("completion needs the package shtab: pip install 'npy2tfrecord[completion]'") from None
    print(shtab.complete(_all_commands(shtab.FILE), arguments.shell))
    return 0


def _all_commands(file: object) -> argparse.ArgumentParser:
    """One parser with all commands, which shtab takes; `file` is its mark for what takes a path."""
    from npy2tfrecord.commands.main import COMMANDS

    whole = argparse.ArgumentParser("npy2tfrecord")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name, summary in COMMANDS.items():
        command = load(name)
        parser = commands.add_parser(name, help=summary, description=command.DESCRIPTION)
        command.add_arguments(parser)
        shared.add_options(command, parser)
        for action in parser._actions:
            if action.metavar in _PATHS:
                action.complete = file  # type: ignore[attr-defined]
            action.metavar = None  # shtab puts it into zsh's specifications as it is, where ':' separates fields
    return whole
