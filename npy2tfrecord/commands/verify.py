"""`npy2tfrecord verify`: every byte of a data set compared with its manifest, and with its sources on request."""

from __future__ import annotations

import argparse
import json

from npy2tfrecord.commands.arguments import RUNNING_OPTIONS, add_json, add_running, given
from npy2tfrecord.errors import UsageError, display

USAGE = "[options] OUT [--source SOURCE...]"
DESCRIPTION = "Check every byte of a converted data set, as read from the disk."

# Keywords of `npy2tfrecord.verify` that are options here.
OPTIONS = ("source", "labels", "split", "not_in", "repair", "quick", *RUNNING_OPTIONS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    # Not required, so that the message for a missing OUT can explain where it went.
    parser.add_argument("out", metavar="OUT", nargs="?", default=None, help="the directory that convert wrote")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add(
        "--source", metavar="SOURCE", nargs="+",
        help="compare with these sources too; takes every word up to an option or --",
    )  # fmt: skip
    add("--labels", metavar="FILE", help="the .csv or .npy of labels, if the conversion had one")
    add("--split", metavar="FILE.csv", help="the table of splits, if the conversion had one")
    add("--not-in", metavar="SET", action="append", help="a data set that the conversion was an addition to")
    add("--repair", action="store_true", default=False, help="write damaged shards again from --source, and list them")
    add("--quick", action="store_true", default=False, help="compare only sizes and the last bytes of shards")
    add_running(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify, and print how much was compared and repaired."""
    from npy2tfrecord import verify
    from npy2tfrecord.commands.text import count_text

    if arguments.out is None:
        raise UsageError("verify: OUT is missing; it comes before --source, or after --: verify OUT --source SOURCE...")
    repaired: list[str] = []
    manifest = verify(arguments.out, repaired=repaired.append, **given(arguments, OPTIONS))
    if arguments.json:
        counts = {
            "examples": manifest.examples,
            "shards": len(manifest.shards),
            "whole": None if arguments.quick else True,
        }
        print(json.dumps({**counts, **({"repaired": repaired} if arguments.repair else {})}))
    else:
        if repaired:
            print("Repaired:\n  " + "\n  ".join(repaired))
        shards = count_text(len(manifest.shards), "shard")
        if arguments.quick:
            print(f"{display(arguments.out)}: {shards} have their sizes and last bytes; no record was read")
        else:
            print(f"{display(arguments.out)}: all {count_text(manifest.examples, 'example')} in {shards} are whole")
    return 0
