"""The arguments of each command."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from npy2tfrecord.commands.completion import SHELLS

_COLUMNS = 80

EXIT_CODES = """\
exit codes:
  0  done, or nothing left to do        5  the output could not be written
  1  an unexpected error (a defect)     6  another run, or other data there
  2  usage, or what cannot be met       7  verification failed
  3  done, with skipped sources         8  a worker kept dying
  4  bad input                          129, 130, 143  stopped by a signal
"""


def _parser(name: str, words: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"npy2tfrecord {name}",
        usage=f"npy2tfrecord {name} {words}",
        description=textwrap.fill(description, _COLUMNS),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )


def _add_sources(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sources", metavar="SOURCE", nargs="+", help="PATH or NAME=PATH: a directory, .npy or .npz file")


def _add_out(parser: argparse.ArgumentParser, **how: Any) -> None:
    parser.add_argument("out", metavar="OUT", help="the directory that convert wrote", **how)


def _add_choosing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which sources")
    add = group.add_argument
    add("--include", metavar="GLOB", action="append", help="only files that match (as in gitignore); may be repeated")
    add("--exclude", metavar="GLOB", action="append", help="no files or directories that match; may be repeated")
    add("--files-from", metavar="FILE", help="exactly the files it lists, below each source; by line or NUL")
    add("--follow-symlinks", action="store_true", help="search directories behind symbolic links too")
    add("--on-error", choices=("fail", "skip"), help="end at the first bad source, or list all in the manifest (fail)")
    group = parser.add_argument_group("what an example is")
    add = group.add_argument
    add("--rows", action="store_true", help="every row along axis 0 is an example")
    add("--group-by-suffix", action="store_true", help="0001.image.npy and 0001.mask.npy are features of example 0001")
    add("--void-dtype", metavar="DTYPE", help="what arrays of void (V2, V1) are: bfloat16, float8_e5m2, …")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it runs")
    add = group.add_argument
    add("--jobs", "-j", metavar="N", type=int, help="worker processes (one a core)")
    add("--backend", metavar="NAME", help="joblib's backend (loky); dask for a cluster")
    add("--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://host:8786")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")


def _add_plot(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", metavar="FILE", default=None, help=f"draw a picture too: {what} (.png, .svg, .pdf)")


def convert_parser() -> argparse.ArgumentParser:
    """Of `npy2tfrecord convert`."""
    parser = _parser(
        "convert",
        "[options] SOURCE... OUT",
        "Convert .npy and .npz files to sharded TFRecords. Run it again to go on where it stopped.",
    )
    _add_sources(parser)
    parser.add_argument("out", metavar="OUT", help="the directory to write")
    _add_choosing(parser)
    group = parser.add_argument_group("features and labels")
    add = group.add_argument
    add("--missing", choices=("fail", "skip"), help="what to do with a key that a named source lacks (fail)")
    add("--labels", metavar="dirs|FILE.csv", help="int64 labels from the first folder, or from a key,label table")
    add("--dtype", metavar="[NAME:]DTYPE", action="append", help="cast while writing; may be repeated")
    add("--stats", action="store_true", help="minimum, maximum, mean, deviation, NaN and infinity counts")
    group = parser.add_argument_group("splits and shards")
    add = group.add_argument
    add("--split", metavar="dirs|NAME=F,…", help="train=0.9,val=0.1 by a hash of the key, or by the first folder")
    add("--split-by", metavar="REGEX", help="keys in which it finds the same go to one split together")
    add("--shard-size", metavar="SIZE", help="of each shard, about: kB MB GB, KiB MiB GiB (128MB)")
    add("--num-shards", metavar="N", type=int, help="shards a split; never more than there are examples")
    add("--no-shuffle", dest="shuffle", action="store_false", help="examples in the order of their keys")
    add("--seed", metavar="N", type=int, help="of the order and the splits (0)")
    add("--compression", choices=("none", "gzip", "zlib"), help="of whole shards, as TensorFlow reads them (none)")
    _add_running(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", default=False, help="show what would be written")
    add("--overwrite", action="store_true", default=False, help="replace what is in OUT")
    add("--no-fsync", dest="fsync", action="store_false", help="do not wait for the disk")
    add("--read-back", action="store_true", help="read each shard again from the disk before it counts")
    add("--quiet", "-q", action="store_true", default=False, help="no progress")
    add("--progress", choices=("auto", "json"), default="auto", help="a bar, or a line of JSON a second")
    _add_json(parser)
    return parser


def scan_parser() -> argparse.ArgumentParser:
    """Of `npy2tfrecord scan`."""
    parser = _parser("scan", "[options] SOURCE...", "Show what arrays there are, by their headers alone.")
    _add_sources(parser)
    _add_choosing(parser)
    _add_running(parser)
    _add_plot(parser, "how each axis varies")
    _add_json(parser)
    return parser


def info_parser() -> argparse.ArgumentParser:
    """Of `npy2tfrecord info`."""
    parser = _parser("info", "[options] OUT", "Show the features, shapes, splits and shards of a converted data set.")
    _add_out(parser)
    parser.add_argument("--shards", action="store_true", default=False, help="list every shard")
    _add_plot(parser, "axes that vary, shards, classes by split, ranges of values")
    _add_json(parser)
    return parser


def verify_parser() -> argparse.ArgumentParser:
    """Of `npy2tfrecord verify`."""
    parser = _parser(
        "verify", "[options] OUT [--source SOURCE...]", "Check every byte of a converted data set, from the disk."
    )
    _add_out(parser, nargs="?", default=None)
    add = parser.add_argument
    add("--source", metavar="SOURCE", nargs="+", help="compare with these sources too; takes all words up to an option")
    add("--labels", metavar="FILE.csv", help="the table of labels, if there was one")
    add("--repair", action="store_true", default=False, help="write damaged shards again from --source, and list them")
    _add_running(parser)
    _add_json(parser)
    return parser


def export_parser() -> argparse.ArgumentParser:
    """Of `npy2tfrecord export`."""
    parser = _parser("export", "[options] OUT DIR", "Write the arrays of a converted data set back to .npy files.")
    _add_out(parser)
    parser.add_argument("directory", metavar="DIR", help="where the .npy files go")
    parser.add_argument("--overwrite", action="store_true", default=False, help="replace files that are there")
    _add_json(parser)
    return parser


def show_parser() -> argparse.ArgumentParser:
    """Of `npy2tfrecord show`."""
    parser = _parser(
        "show", "[options] OUT KEY", "Show one example of a converted data set: shapes, dtypes, ranges and values."
    )
    _add_out(parser)
    parser.add_argument("key", metavar="KEY", help="of the example: its file's path below the source, without suffix")
    _add_plot(parser, "the arrays")
    _add_json(parser)
    return parser


def completion_parser() -> argparse.ArgumentParser:
    """Of `npy2tfrecord completion`."""
    parser = _parser("completion", "bash|zsh|fish", "Print the script that completes this command in a shell.")
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=SHELLS, help="the shell")
    return parser
