"""What the commands share: the form of their modules, how words are parsed, and the options that several take."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from npy2tfrecord.commands import colors

_COLUMNS = 80

EXIT_CODES = """\
exit codes:
  0  done, or nothing left to do        5  the output could not be written
  1  an unexpected error (a defect)     6  another run, or other data there
  2  usage, or what cannot be met       7  verification failed
  3  done, with skipped sources         8  a worker kept dying
  4  bad input                          129, 130, 143  stopped by a signal
"""

# Keywords of the library that the groups below set.
SELECTION_OPTIONS = ("include", "exclude", "files_from", "follow_symlinks", "on_error")
EXAMPLE_OPTIONS = ("rows", "group_by_suffix", "members", "dtype", "rank", "void_dtype")
RUNNING_OPTIONS = ("jobs", "backend", "scheduler", "in_flight")
BUCKET_OPTIONS = ("scratch", "assume_single_writer")

_TAKING_REGEX = ("--key-by", "--label-by", "--split-by")


class Command(Protocol):
    """A module of this package that is a command of the same name."""

    USAGE: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the positional arguments."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command, print its result and return the exit code."""


def load(name: str) -> Command:
    """The command of that name. Only its module is imported, so that `--help` needs no NumPy."""
    return cast(Command, import_module(f"npy2tfrecord.commands.{name}"))


def make_parser(name: str) -> argparse.ArgumentParser:
    """The whole parser of a command."""
    command = load(name)
    parser = _empty_parser(name, command, add_help=True)
    command.add_arguments(parser)
    add_options(command, parser)
    return parser


def add_options(command: Command, parser: argparse.ArgumentParser) -> None:
    """Add the options of a command, and those that every command has."""
    command.add_options(parser)
    parser.add_argument(
        "--color", choices=colors.CHOICES, default="auto", help="colors: where there is a terminal (auto), or not"
    )


def parse(name: str, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command. An option that was not given is missing in them, so that the library's default holds.

    Options may stand anywhere. Words after `--` are positional arguments, whatever they look like.
    """
    end = words.index("--") if "--" in words else len(words)
    # argparse's own parse_intermixed_args drops the `--` between its two passes, so the passes are made here.
    command = load(name)
    options = _empty_parser(name, command, add_help=False)
    add_options(command, options)
    arguments, others = options.parse_known_args(_with_expressions_joined(words[:end]))
    return make_parser(name).parse_args([*others, *words[end:]], arguments)


def _with_expressions_joined(words: Sequence[str]) -> list[str]:
    r"""The words, with `--label-by '-(\d+)$'` as one: argparse takes a word that begins with a dash for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in _TAKING_REGEX and len(word) > 2 and word[0] == "-" != word[1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _empty_parser(name: str, command: Command, add_help: bool) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"npy2tfrecord {name}",
        usage=f"npy2tfrecord {name} {command.USAGE}",
        description=textwrap.fill(command.DESCRIPTION, _COLUMNS),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=add_help,
    )


def given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The keywords among `names` that the user gave."""
    return {name: value for name, value in vars(arguments).items() if name in names}


def add_sources(parser: argparse.ArgumentParser) -> None:
    """SOURCE..., as `arguments.sources`."""
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="PATH or NAME=PATH: a directory (or DIR:GLOB), a .npy or .npz file (or FILE.npz[MEMBER]), or a bucket's URL",
    )


def add_data_set(parser: argparse.ArgumentParser) -> None:
    """OUT, the data set to read, as `arguments.out`."""
    parser.add_argument("out", metavar="OUT", help="the directory that convert wrote")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The options `SELECTION_OPTIONS` and `EXAMPLE_OPTIONS`."""
    group = parser.add_argument_group("which sources")
    add = group.add_argument
    add("--include", metavar="GLOB", action="append", help="only files that match (as in gitignore); may be repeated")
    add("--exclude", metavar="GLOB", action="append", help="no files or directories that match; may be repeated")
    add("--files-from", metavar="FILE", help="only the files it lists, below each source; separated by line or NUL")
    add("--follow-symlinks", action="store_true", help="search directories behind symbolic links too")
    add("--on-error", choices=("fail", "skip"), help="end at the first bad source, or list all in the manifest (fail)")
    group = parser.add_argument_group("what an example is")
    add = group.add_argument
    add("--rows", action="store_true", help="every row along axis 0 is an example")
    add("--group-by-suffix", action="store_true", help="0001.image.npy and 0001.mask.npy are features of example 0001")
    add("--members", action="store_true", help="every member of a .npz is an example of its own, not a feature")
    add("--dtype", metavar="[NAME:]DTYPE", action="append", help="cast while writing; may be repeated")
    add(
        "--rank",
        metavar="[NAME:]N",
        action="append",
        help="trailing axes of 1 for arrays of fewer axes; may be repeated",
    )
    add("--void-dtype", metavar="DTYPE", help="the dtype of void arrays (V2, V1): bfloat16, float8_e5m2, ...")


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options `RUNNING_OPTIONS`."""
    group = parser.add_argument_group("how it runs")
    add = group.add_argument
    add("--jobs", "-j", metavar="N", type=int, help="worker processes (one per core)")
    add("--backend", metavar="NAME", help="joblib's backend (loky); dask for a cluster")
    add("--scheduler", metavar="ADDRESS", help="address of the Dask scheduler, such as tcp://host:8786")
    add("--in-flight", metavar="N", type=int, help="requests to storage that a worker keeps under way (as many as pay)")


def add_writing(parser: argparse.ArgumentParser) -> None:
    """The options of a command that writes a data set."""
    add = parser.add_argument
    add("--dry-run", action="store_true", default=False, help="show what would be written")
    add("--overwrite", action="store_true", default=False, help="replace the data set that is in OUT")
    add("--no-fsync", dest="fsync", action="store_false", help="do not wait until the disk has the data")
    add("--read-back", action="store_true", help="read each shard back from the disk before it counts as written")
    add(
        "--scratch",
        metavar="DIR",
        help="for an OUT in a bucket: where shards are on their way (the temporary directory)",
    )
    add(
        "--assume-single-writer",
        action="store_true",
        help="no other run writes there: for stores that can't refuse one",
    )
    add_progress(parser)
    add_json(parser)


def add_progress(parser: argparse.ArgumentParser) -> None:
    """`--quiet` and `--progress`."""
    add = parser.add_argument
    add("--quiet", "-q", action="store_true", default=False, help="show no progress")
    add("--progress", choices=("auto", "json"), default="auto", help="a bar on a terminal, or a line of JSON a second")


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def add_plot(parser: argparse.ArgumentParser, what: str) -> None:
    """`--plot FILE`."""
    parser.add_argument("--plot", metavar="FILE", default=None, help=f"also draw a picture: {what} (.png, .svg, .pdf)")


def add_html(parser: argparse.ArgumentParser) -> None:
    """`--html FILE`."""
    parser.add_argument(
        "--html",
        metavar="FILE",
        default=None,
        help="also write a page with all of it, pictures included; opens from disk",
    )
