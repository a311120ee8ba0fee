"""Reading side by side with other readers, each in a process of its own, and what else is said of its speed.

With --save it writes reading.json and a chart; `--save docs/benchmarks` puts the tables into docs/performance.md too.
"""

from __future__ import annotations

import argparse
import functools
import shutil

from benchmarks import parts
from benchmarks.environment import cache_directory, memory_directory
from benchmarks.machine import end_in_order
from benchmarks.parts import Benchmark, Part
from benchmarks.reading import measures, race, tables

QUICK = race.Profile(quick=True, epochs=3, seconds=5, timeout=60)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/run reading", description=__doc__)
    parts.add_arguments(parser)
    parser.add_argument("--epochs", type=int, help=f"after the warm-up (5; {QUICK.epochs} with --quick)")
    parser.add_argument("--contestants", default="", help="only these, with semicolons between")
    given = parser.parse_args()
    end_in_order()
    profile = QUICK if given.quick else race.Profile()
    profile.epochs = given.epochs or profile.epochs
    data, disk = (given.dir or memory_directory()) / "npy2tfrecord-reading", cache_directory() / "reading"
    chosen = [name.strip() for name in given.contestants.split(";") if name.strip()]
    found = [
        Part(name, functools.partial(race.hold, each.among(chosen), profile, data)) for name, each in race.RACES.items()
    ]
    found += [Part(name, functools.partial(take, profile, data)) for name, take in measures.ALL.items()]

    def leave(name: str) -> None:
        for parent in (data, disk):
            shutil.rmtree(parent / f"{name}-{profile.count(name)}", ignore_errors=True)

    try:
        parts.run(Benchmark("reading", tables.page, tables.draw, tables.show), found, given, leave)
    finally:
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)


if __name__ == "__main__":
    main()
