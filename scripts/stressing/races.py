"""Runs that share their output with another run, or their sources with a program that changes them."""

from __future__ import annotations

import os
import signal
import time

import jobs
import numpy as np
from jobs import Chance, Job, fail, tree

from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.manifest_parsing import load
from npy2tfrecord.formats.shard import array_of, read_records
from npy2tfrecord.output import workspace


def race(job: Job, chance: Chance) -> str:
    patience = workspace._LOCK_SECONDS
    workspace._LOCK_SECONDS = chance.choice([0.0, patience])  # a run takes less than what is usually waited
    try:
        return _race(job, chance)
    finally:
        workspace._LOCK_SECONDS = patience


def race_without_locks(job: Job, chance: Chance) -> str:
    locking = workspace._take_lock
    workspace._take_lock = lambda handle, *, shared: True
    try:
        return _race(job, chance, (0, 5, 6))
    finally:
        workspace._take_lock = locking


def race_of_four(job: Job, chance: Chance) -> str:
    return _race(job, chance, runs=4)


def race_of_plans(job: Job, chance: Chance) -> str:
    """A run with other options comes at any time: it is refused, or this one is."""
    first = job.start(job.out)
    time.sleep(chance.uniform(0, job.seconds))
    second = job.start(job.out, extra=("--seed=1",))
    ends = [job.wait(first), job.wait(second)]
    if sorted(code for code, _ in ends) != [0, 6]:
        fail(f"{ends}")
    if ends[0][0] == 0 and tree(job.out) != job.whole:
        fail("another result than that of an unbroken run")
    return "the first one refused" if ends[0][0] else "the second one refused"


def _race(job: Job, chance: Chance, codes: tuple[int, ...] = (0, 6), runs: int = 2) -> str:
    out, started = job.out, []
    together = chance.random() < 0.5
    for number in range(runs):
        if number and not together:
            time.sleep(chance.uniform(0, job.seconds / (runs - 1)))
        started.append(job.start(out))
    ends = [job.wait(run) for run in started]
    for code, said in ends:
        if code not in codes:
            fail(f"exit code {code}: {said}")
    job.check_in_sight(out)
    job.finish(out)
    return " and ".join(str(code) for code, _ in sorted(ends))


def change_sources(job: Job, chance: Chance) -> str:
    """Files of one value each, changed in place to another while they are read: no record may hold both."""
    if jobs.kind == "merge":
        return "skipped: a merge has data sets for its sources"
    out, paths, pause = job.root / "out", sorted(job.source.glob("[0-9]*")), chance.choice([0.002, 0.02, 0.1, 0.3])
    for path in paths:  # the writer of the last round may have been killed while it wrote
        with path.open("r+b") as file:
            file.seek(128)
            file.write(bytes(path.stat().st_size - 128))
    writer = os.fork()
    if not writer:
        value = 0
        while True:
            value = (value + 1) % 250
            path = chance.choice(paths)
            handle = os.open(path, os.O_WRONLY)
            size = os.fstat(handle).st_size - 128
            os.pwrite(handle, bytes([value]) * size, 128)
            os.close(handle)
            time.sleep(chance.expovariate(1 / pause))
    try:
        code, said = job.wait(job.start(out, extra=("--overwrite",)))
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    if code == 4:
        if ".npy" not in said or "changed" not in said:
            fail(f"the source is not named: {said}")
        return "refused: the source has changed"
    if code:
        fail(f"exit code {code}: {said}")
    made = load(out)
    for shard in made.shards:
        for record in read_records(str(out / shard.file)):
            values = array_of(parse_example(record.data), made.features[0])
            if len(np.unique(values.view("u1"))) > 1:
                states = np.unique(values.view("u1"), return_counts=True)
                fail(f"record {record.number} of {shard.file} is mixed of two states: {states}")
    return "whole"
