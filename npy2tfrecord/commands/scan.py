"""`npy2tfrecord scan`: what arrays there are."""

from __future__ import annotations

import argparse
import json

from npy2tfrecord.commands.arguments import (
    EXAMPLE_OPTIONS,
    RUNNING_OPTIONS,
    SELECTION_OPTIONS,
    add_html,
    add_json,
    add_plot,
    add_running,
    add_selection,
    add_sources,
    given,
)

USAGE = "[options] SOURCE..."
DESCRIPTION = "Show what arrays there are. Only their headers are read."

# Keywords of `npy2tfrecord.scan` that are options here.
OPTIONS = (*SELECTION_OPTIONS, *EXAMPLE_OPTIONS, *RUNNING_OPTIONS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    add_sources(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_selection(parser)
    add_running(parser)
    add_plot(parser, "how each axis varies")
    add_html(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scan, and print the features and the skipped sources."""
    from npy2tfrecord import scan
    from npy2tfrecord.commands import text

    report = scan(arguments.sources, **given(arguments, OPTIONS))
    if arguments.plot:
        from npy2tfrecord.commands.plots import plot_features

        plot_features(report.features, arguments.plot)
    if arguments.html:
        from npy2tfrecord.commands.page import write_scan_page

        write_scan_page(report, arguments.sources, arguments.html)
    print(json.dumps(report.to_json(), indent=1) if arguments.json else text.scan_text(report))
    return 3 if report.problems else 0
