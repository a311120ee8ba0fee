"""Conversion beside other converters, and every other figure of its speed in the documentation.

With --save it writes convert.json and charts; `--save docs/benchmarks` puts the tables into docs/performance.md too.
"""

from __future__ import annotations

import argparse
import functools
import shutil

from benchmarks import parts
from benchmarks.convert import contest, measures, tables
from benchmarks.convert.contest import ALL, Places, Profile
from benchmarks.environment import cache_directory, memory_directory
from benchmarks.machine import clear, end_in_order
from benchmarks.parts import Benchmark, Part

CONTESTS = ("tiny", "small", "big", "var", "huge")
ORDER = ("none", *CONTESTS, "rows", "disk")
QUICK = Profile(scale=0.05, runs=3, peer_seconds=3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/run convert", description=__doc__)
    parts.add_arguments(parser)
    parser.add_argument("--contestants", default=",".join(each.name for each in ALL), help="%(default)s")
    parser.add_argument("--scale", type=float, help="factor for the number of files of each set (1)")
    parser.add_argument("--runs", type=int, help="runs of each contestant; their median counts (5)")
    parser.add_argument(
        "--peer-seconds", type=float, help="seconds after which a peer starts no further run of a set (10)"
    )
    given = parser.parse_args()
    end_in_order()
    profile = QUICK if given.quick else Profile()
    for name in ("scale", "runs", "peer_seconds"):
        if (value := getattr(given, name)) is not None:
            setattr(profile, name, value)
    data = (given.dir or memory_directory()) / "npy2tfrecord-sets"
    places = Places(data, cache_directory() / "convert")
    for directory in (places.data, places.disk):
        directory.mkdir(parents=True, exist_ok=True)
    contestants = given.contestants.split(",")
    found = [
        Part(f"{name}/contest", functools.partial(contest.hold, name, contestants, profile, places))
        for name in CONTESTS
    ]
    found += [Part(name, functools.partial(take, profile, places)) for name, take in measures.ALL.items()]
    found.sort(key=lambda part: ORDER.index(part.set))  # each set is made once, and two are never there at a time

    def leave(name: str) -> None:
        clear(places.out)
        for parent in (places.data, places.disk):
            for directory in parent.glob(f"{name}-*"):
                shutil.rmtree(directory)

    try:
        parts.run(Benchmark("convert", tables.page, tables.draw, tables.show), found, given, leave)
    finally:
        shutil.rmtree(places.data, ignore_errors=True)
        shutil.rmtree(places.disk, ignore_errors=True)


if __name__ == "__main__":
    main()
