"""Converting from and into a bucket, and reading there, beside what obstore does alone and beside other tools.

SeaweedFS runs on this machine; its answers come 0, 5 and 30 ms late. With --save it writes cloud.json;
`--save docs/benchmarks` puts the tables into docs/performance.md too.
"""

from __future__ import annotations

import argparse
import functools
import shutil

from benchmarks import parts
from benchmarks.cloud import contest, tables
from benchmarks.cloud.contest import PEERS, SETS, Places, Profile
from benchmarks.environment import memory_directory
from benchmarks.machine import end_in_order
from benchmarks.parts import Benchmark, Part

QUICK = Profile(scale=0.1, runs=1, delays=(0, 30), converting_peer_delays=(0,), reading_peer_delays=())


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/run cloud", description=__doc__)
    parts.add_arguments(parser)
    parser.add_argument("--runs", type=int, help="of ours and of obstore alone; the median counts (3)")
    parser.add_argument("--peers", default=",".join(each.name for each in PEERS), help="%(default)s")
    given = parser.parse_args()
    end_in_order()
    profile = QUICK if given.quick else Profile()
    profile.runs = given.runs or profile.runs
    profile.peers = [each for each in PEERS if each.name in given.peers.split(",")]
    data = (given.dir or memory_directory()) / "npy2tfrecord-cloud"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    places = Places(data)
    found = [
        Part(f"{name}/{what}-{each}ms", functools.partial(take, name, each, profile, places))
        for name in SETS
        for what, take in (("convert", contest.convert), ("read", contest.read))
        for each in profile.delays
    ]
    found += [Part(f"put/{each}ms", functools.partial(contest.put, each, profile, places)) for each in profile.delays]

    def leave(_: str) -> None:
        places.end_server()
        for directory in data.iterdir():
            shutil.rmtree(directory)

    try:
        parts.run(Benchmark("cloud", tables.page, tables.draw, tables.show), found, given, leave)
    finally:
        places.end_server()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
