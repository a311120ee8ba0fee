"""`npy2tfrecord scan`: what arrays there are."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import TYPE_CHECKING

from npy2tfrecord.commands import colors
from npy2tfrecord.commands.arguments import (
    EXAMPLE_OPTIONS,
    RUNNING_OPTIONS,
    SELECTION_OPTIONS,
    add_html,
    add_json,
    add_plot,
    add_progress,
    add_running,
    add_selection,
    add_sources,
    given,
)
from npy2tfrecord.errors import display

if TYPE_CHECKING:
    from npy2tfrecord.conversion.surveyor import ScanReport

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
    add_progress(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scan, and print a profile: what there is, what is passed over, and the command that converts it."""
    from npy2tfrecord import scan
    from npy2tfrecord.commands import text
    from npy2tfrecord.commands.progress import shown_progress

    with shown_progress(arguments.progress, quiet=arguments.quiet, color=arguments.color) as progress:
        report = scan(arguments.sources, progress=progress, **given(arguments, OPTIONS))
    if arguments.plot:
        from npy2tfrecord.commands.plots import plot_features

        plot_features(report.features, arguments.plot)
    if arguments.html:
        from npy2tfrecord.commands.page import write_scan_page

        command = _converting(report, arguments) if report.size else None
        write_scan_page(report, arguments.sources, command, arguments.html)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print(text.scan_text(report))
        if report.size:
            print(f"\n{colors.heading('Convert it with')}\n  {colors.command(_converting(report, arguments))}")
    return 3 if report.problems else 0


def _converting(report: ScanReport, arguments: argparse.Namespace) -> str:
    """The command that converts what was scanned: with the same options, and what the profile suggests."""
    words = ["npy2tfrecord", "convert"]
    for name, value in given(arguments, OPTIONS).items():
        option = f"--{name.replace('_', '-')}"
        for each in value if isinstance(value, list) else [value]:
            words += [option] if each is True else [option, str(each)]
    if report.folders:
        words += ["--labels", "dirs"]
    if report.lacking:
        words += ["--missing", "skip"]
    if any(source.startswith("-") for source in arguments.sources):
        words.append("--")
    return display(shlex.join([*words, *arguments.sources, "OUT"]))
