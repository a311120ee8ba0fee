"""`npy2tfrecord show`: one example of a data set."""

from __future__ import annotations

import argparse
import json

from npy2tfrecord.commands.arguments import add_data_set, add_json, add_plot

USAGE = "[options] OUT KEY"
DESCRIPTION = "Show one example of a converted data set: shapes, dtypes, ranges and values."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    add_data_set(parser)
    parser.add_argument("key", metavar="KEY", help="the example's key: its file's path below the source, no suffix")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_plot(parser, "the arrays")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the example."""
    from npy2tfrecord.checking import viewer
    from npy2tfrecord.commands import text

    seen = viewer.view(arguments.out, arguments.key)
    if arguments.plot:
        from npy2tfrecord.commands.plots import plot_example

        plot_example(seen, arguments.plot)
    print(json.dumps(seen.to_json(), indent=1) if arguments.json else text.view_text(seen))
    return 0
