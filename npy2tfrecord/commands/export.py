"""`npy2tfrecord export`: a data set back to `.npy` files."""

from __future__ import annotations

import argparse
import json

from npy2tfrecord.commands.arguments import add_data_set, add_json, given
from npy2tfrecord.errors import display

USAGE = "[options] OUT DIR"
DESCRIPTION = "Write the arrays of a converted data set back to .npy files."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    add_data_set(parser)
    parser.add_argument("directory", metavar="DIR", help="the directory for the .npy files")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--overwrite", action="store_true", default=False, help="replace files that exist")
    parser.add_argument("--in-flight", metavar="N", type=int, help="files that are written at once (as many as pay)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export, and print how many files were written."""
    from npy2tfrecord import export
    from npy2tfrecord.commands.text import count_text

    count = export(
        arguments.out, arguments.directory, overwrite=arguments.overwrite, **given(arguments, ("in_flight",))
    )
    if arguments.json:
        print(json.dumps({"files": count}))
    else:
        print(f"Wrote {count_text(count, 'file')} to {display(arguments.directory)}")
    return 0
