"""Runs that are killed, or that lose a worker."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from jobs import Chance, Job, Place, fail, tree, wait_until_gone
from processes import children, is_alive


def kill_once(job: Job, out: Place, chance: Chance, group: bool) -> str:
    child = job.start(out)
    time.sleep(chance.uniform(0, 1.05 * job.seconds))
    workers = children(child)
    (os.killpg if group else os.kill)(child, signal.SIGKILL)
    code, said = job.wait(child)
    wait_until_gone(workers, 2 if isinstance(out, Path) else 20)  # a server takes its share of the processor
    job.check_in_sight(out)
    if code not in (0, -signal.SIGKILL):
        fail(f"exit code {code}: {said}")
    return "killed" if code else "done before"


def kill_group(job: Job, chance: Chance) -> str:
    return _killed(job, chance, True)


def kill_parent(job: Job, chance: Chance) -> str:
    return _killed(job, chance, False)


def _killed(job: Job, chance: Chance, group: bool) -> str:
    out = job.out
    how = kill_once(job, out, chance, group)
    before = tree(out)
    time.sleep(0.01)
    if tree(out) != before:
        fail("something was written after the end")
    job.finish(out)
    return how


def kill_chain(job: Job, chance: Chance) -> str:
    """Kills during the resume, and during its resume."""
    out = job.out
    kills = sum(kill_once(job, out, chance, chance.random() < 0.5) == "killed" for _ in range(chance.randrange(2, 7)))
    job.finish(out)
    return f"{kills} kills"


def kill_worker(job: Job, chance: Chance) -> str:
    out, number = job.out, chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    child = job.start(out)
    end = time.monotonic() + 5
    while not children(child) and time.monotonic() < end and is_alive(child):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.5 * job.seconds))
    workers = children(child)
    hit = chance.choice(workers) if workers else 0
    if hit:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hit, number)
    code, said = job.wait(child, 90)
    if code:
        fail(f"exit code {code}: {said}")
    if tree(out) != job.whole:
        fail("another result than that of an unbroken run")
    return "hit" if hit else "done before"
