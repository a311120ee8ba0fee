"""`npy2tfrecord info`: what is in a data set."""

from __future__ import annotations

import argparse
import json

from npy2tfrecord.commands import colors
from npy2tfrecord.commands.arguments import add_data_set, add_html, add_json, add_plot
from npy2tfrecord.errors import display

USAGE = "[options] OUT"
DESCRIPTION = "Show the features, shapes, splits and shards of a converted data set."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    add_data_set(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--shards", action="store_true", default=False, help="list every shard")
    add_plot(parser, "axes that vary, shards, classes by split, ranges of values")
    add_html(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the manifest or its summary."""
    from npy2tfrecord.commands import text
    from npy2tfrecord.storage.set_files import load_manifest

    manifest = load_manifest(arguments.out)
    if arguments.plot:
        from npy2tfrecord.commands.plots import plot_manifest

        plot_manifest(manifest, arguments.plot)
    if arguments.html:
        from npy2tfrecord.commands.page import write_manifest_page

        write_manifest_page(manifest, arguments.out, arguments.html)
    if arguments.json:
        print(json.dumps(manifest.to_json(), indent=1))
    else:
        print(text.manifest_text(manifest, display(arguments.out)))
        if arguments.shards:
            rows = [(s.file, text.count_text(s.examples, "example"), text.size_text(s.bytes)) for s in manifest.shards]
            print(f"\n{colors.heading('Shards')}\n{text.table_text(rows)}")
        print("\n" + text.reading_text(manifest, arguments.out))
    return 0
