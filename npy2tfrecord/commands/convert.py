"""`npy2tfrecord convert`: sources to a data set."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from npy2tfrecord.commands.arguments import (
    BUCKET_OPTIONS,
    EXAMPLE_OPTIONS,
    RUNNING_OPTIONS,
    SELECTION_OPTIONS,
    add_running,
    add_selection,
    add_sources,
    add_writing,
    given,
)
from npy2tfrecord.errors import display

if TYPE_CHECKING:
    from npy2tfrecord.conversion.converter import Conversion
    from npy2tfrecord.formats.manifest import Manifest

USAGE = "[options] SOURCE... OUT"
DESCRIPTION = "Convert .npy and .npz files to sharded TFRecords. Run it again to resume where it stopped."

NOTHING_WRITTEN = "Nothing is written; run it without --dry-run to write this."

# Keywords of `npy2tfrecord.convert` that are options here.
OPTIONS = (
    *SELECTION_OPTIONS,
    "not_in",
    *EXAMPLE_OPTIONS,
    *("missing", "labels", "label_by", "key_by", "stats"),
    *("split", "split_by", "shard_size", "num_shards", "sort", "shuffle", "seed", "compression"),
    *("fsync", "read_back", "part", *BUCKET_OPTIONS),
    *RUNNING_OPTIONS,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    add_sources(parser)
    parser.add_argument("out", metavar="OUT", help="the directory to write, or s3://, gs:// or az://BUCKET/PREFIX")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_selection(parser)
    parser.add_argument(
        "--not-in",
        metavar="SET",
        action="append",
        help="only sources whose keys this data set lacks; may be repeated",
    )
    group = parser.add_argument_group("features and labels")
    add = group.add_argument
    add("--missing", choices=("fail", "skip"), help="what to do with a key that a named source lacks (fail)")
    add("--labels", metavar="dirs|FILE", help="from the first folder, a key,label .csv, or with --rows a .npy by row")
    add("--label-by", metavar="REGEX", help="what it finds in the key is the label: a class, an integer or a number")
    add(
        "--key-by",
        metavar="[NAME:]REGEX",
        action="append",
        help="what it finds in the path below the source is the key; may be repeated",
    )
    add("--stats", action="store_true", help="record minimum, maximum, mean, deviation, NaN and infinity counts")
    group = parser.add_argument_group("splits and shards")
    add = group.add_argument
    add(
        "--split",
        metavar="NAME=F,...|K-fold|dirs|FILE.csv",
        help="train=0.9,val=0.1 by a hash of the key, 5-fold, by the first folder, or from a key,split table",
    )
    add("--split-by", metavar="REGEX", help="keys in which it finds the same text go to one split together")
    add("--shard-size", metavar="SIZE", help="approximate size of a shard: kB MB GB, KiB MiB GiB (128MB)")
    add("--num-shards", metavar="N", type=int, help="shards per split; never more than there are examples")
    add("--sort", choices=("bytes", "natural"), help="order of the keys; natural: frame_2 before frame_10 (bytes)")
    add("--no-shuffle", dest="shuffle", action="store_false", help="keep the examples in the order of their keys")
    add("--seed", metavar="N", type=int, help="seed of the order and the splits (0)")
    add("--compression", choices=("none", "gzip", "zlib"), help="compress whole shards; TensorFlow reads both (none)")
    add_running(parser)
    parser.add_argument("--part", metavar="I/N", help="write every N-th shard only, beside runs of the other parts")
    add_writing(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, and print the manifest or its summary."""
    from npy2tfrecord.commands.progress import shown_progress
    from npy2tfrecord.conversion.converter import Conversion
    from npy2tfrecord.options import Options, parse_place

    out = parse_place(arguments.out, "OUT")
    options = Options(**given(arguments, OPTIONS))
    with shown_progress(arguments.progress, quiet=arguments.quiet, color=arguments.color) as progress:
        conversion = Conversion(arguments.sources, out, options, overwrite=arguments.overwrite, progress=progress)
        manifest = conversion.run(dry_run=arguments.dry_run)
    return print_result(conversion, manifest, arguments)


def print_result(conversion: Conversion, manifest: Manifest, arguments: argparse.Namespace) -> int:
    """Print what was written, or would be; returns the exit code."""
    from npy2tfrecord.commands import text

    out = conversion.workspace.out
    if arguments.json:
        more: dict[str, Any] = {"passed_over": dict(conversion.passed_over)}
        if conversion.unfinished_parts is not None:
            more["unfinished_parts"] = list(conversion.unfinished_parts[0])
        print(json.dumps(manifest.to_json() | more, indent=1))
    elif conversion.options.part is not None and not conversion.was_complete and not arguments.dry_run:
        print(f"{display(out)}: part {arguments.part} is done, {text.part_text(manifest)}")
    elif not manifest.examples:
        print(f"{display(out)}: nothing new, and nothing written")
    elif conversion.was_complete:
        count = text.count_text(manifest.examples, "example")
        shards = text.count_text(len(manifest.shards), "shard")
        print(f"{display(out)}: nothing left to do, {count} in {shards} are there")
        if conversion.passed_over:
            print(text.passed_over_text(conversion.passed_over))
    else:
        did = "Would write to" if arguments.dry_run else "Wrote"
        print(text.manifest_text(manifest, f"{did} {display(out)}"))
        if conversion.unfinished_parts is not None:
            print("\n" + text.unfinished_parts_text(*conversion.unfinished_parts))
        if conversion.passed_over:
            print("\n" + text.passed_over_text(conversion.passed_over))
        print("\n" + (NOTHING_WRITTEN if arguments.dry_run else text.reading_text(manifest, out)))
    if conversion.known is not None and not arguments.json:
        print(text.known_text(conversion.known))
    return 3 if manifest.skipped else 0
