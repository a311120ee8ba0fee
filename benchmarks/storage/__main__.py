"""Conversion, and the other commands, from storage that answers late: every call on a source waits a given time.

With --save it writes storage.json; `--save docs/benchmarks` puts the tables into docs/performance.md too.
"""

from __future__ import annotations

import argparse
import functools
import shutil
from pathlib import Path

from benchmarks import parts
from benchmarks.environment import memory_directory
from benchmarks.machine import clear, end_in_order
from benchmarks.parts import Benchmark, Part
from benchmarks.storage import contest, delay, tables
from benchmarks.storage.contest import BY_NAME, DELAYS, SETS, Places, Profile

MEASURES = {
    "small/commands": functools.partial(contest.commands, "small"),
    "small/reading": functools.partial(contest.reading, "small"),
    "large/reading": functools.partial(contest.reading, "large"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/run storage", description=__doc__)
    parts.add_arguments(parser)
    parser.add_argument("--contestants", default=",".join(BY_NAME), help="%(default)s")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sets' number of files (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of ours and the 64 threads; the median counts")
    parser.add_argument(
        "--seconds",
        type=float,
        default=20,
        help="of waiting in a run of another contestant, which gets as many files as fit",
    )
    parser.add_argument("--earlier", type=Path, help="the npy2tfrecord of an earlier version, to run in turn with ours")
    given = parser.parse_args()
    end_in_order()
    profile = Profile(given.scale, given.runs, given.seconds, given.contestants.split(","), given.earlier)
    if given.quick:
        profile.scale, profile.runs, profile.seconds = min(profile.scale, 0.1), 1, 5
    data = (given.dir or memory_directory()) / "npy2tfrecord-storage"
    data.mkdir(parents=True, exist_ok=True)
    places = Places(data, delay.compile_into(data))
    found = [
        Part(
            f"{name}/{tables.delay_text(each).replace(' ', '')}",
            functools.partial(contest.hold, name, each, profile, places),
        )
        for name in SETS
        for each in DELAYS
    ]
    found += [Part(name, functools.partial(take, profile, places)) for name, take in MEASURES.items()]
    found.sort(key=lambda part: list(SETS).index(part.set))  # each set is made once, and two are never there at a time

    def leave(name: str) -> None:
        clear(places.out)
        shutil.rmtree(places.slow, ignore_errors=True)

    try:
        parts.run(Benchmark("storage", tables.page, tables.draw, tables.show), found, given, leave)
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
