"""`npy2tfrecord merge`: data sets to one data set."""

from __future__ import annotations

import argparse

from npy2tfrecord.commands.arguments import BUCKET_OPTIONS, RUNNING_OPTIONS, add_running, add_writing, given
from npy2tfrecord.commands.convert import print_result

USAGE = "[options] SET... OUT"
DESCRIPTION = (
    "Put the records of converted data sets into one, without the sources. Parts of a directory give what the whole"
    " would. One SET is written again with other shards. Options that are not given are those of the sets."
)

# Keywords of `npy2tfrecord.merge` that are options here.
_CHOICES = ("split", "split_by", "shard_size", "num_shards", "shuffle", "seed", "compression")
_RUNNING = ("fsync", "read_back", *BUCKET_OPTIONS, *RUNNING_OPTIONS)
OPTIONS = (*_CHOICES, *_RUNNING)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments."""
    parser.add_argument("sets", metavar="SET", nargs="+", help="a directory that convert or merge wrote")
    parser.add_argument("out", metavar="OUT", help="the directory to write, or s3://, gs:// or az://BUCKET/PREFIX")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("splits and shards")
    add = group.add_argument
    add("--split", metavar="dirs|NAME=F,...", help="train=0.9,val=0.1 by a hash of the key, or by the first folder")
    add("--split-by", metavar="REGEX", help="keys in which it finds the same text go to one split together")
    add("--shard-size", metavar="SIZE", help="approximate size of a shard: kB MB GB, KiB MiB GiB")
    add("--num-shards", metavar="N", type=int, help="shards per split; never more than there are examples")
    add("--shuffle", action="store_true", help="spread the examples over the shards in random order")
    add("--no-shuffle", dest="shuffle", action="store_false", help="put the examples in the order of their keys")
    add("--seed", metavar="N", type=int, help="seed of the order and the splits")
    add("--compression", choices=("none", "gzip", "zlib"), help="compress whole shards; TensorFlow reads both")
    add_running(parser)
    add_writing(parser)


def run(arguments: argparse.Namespace) -> int:
    """Merge, and print the manifest or its summary."""
    from npy2tfrecord.commands.progress import shown_progress
    from npy2tfrecord.conversion.merger import Merge
    from npy2tfrecord.options import Options, parse_place

    chosen, running = given(arguments, _CHOICES), Options(**given(arguments, _RUNNING))
    with shown_progress(arguments.progress, quiet=arguments.quiet, color=arguments.color) as progress:
        merging = Merge(
            arguments.sets, parse_place(arguments.out, "OUT"), chosen, running, arguments.overwrite, progress
        )
        manifest = merging.run(dry_run=arguments.dry_run)
    return print_result(merging, manifest, arguments)
