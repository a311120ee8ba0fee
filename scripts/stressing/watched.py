"""Runs whose output a reader looks at all the time."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

from jobs import Chance, Job, Told, fail
from kills import kill_once

import readers


def poll(job: Job, chance: Chance) -> Told:
    """A reader looks at the output as fast as it can, while runs are killed and one ends."""
    out = job.root / "out"
    end, told = os.pipe()
    watcher = os.fork()
    if not watcher:
        os.close(end)
        try:
            result = _watch(job, out)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(told, result.encode())
        os._exit(0)
    os.close(told)
    try:
        for _ in range(chance.randrange(3)):
            kill_once(job, out, chance, chance.random() < 0.5)
        job.finish(out)
        time.sleep(0.05)
    finally:
        os.kill(watcher, signal.SIGTERM)
        os.waitpid(watcher, 0)
        with open(end, "rb") as pipe:
            result = pipe.read().decode()
    looks, _, problem = result.partition(" looks ")
    if not looks.isdigit() or problem:
        fail(f"seen by a reader: {result}")
    return Counter({"runs watched": 1, "looks": int(looks)})


def _in_sight(out: Path) -> dict[str, bytes]:
    """The content of every file by its name, of those a reader may look at."""
    found = {}
    for directory in (out, out / "index"):
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    found[str((directory / name).relative_to(out))] = (directory / name).read_bytes()
    return found


def _watch(job: Job, out: Path) -> str:
    """Look until SIGTERM comes; returns how often, and what was seen that must not be."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    looks = 0
    while not ended:
        is_complete = (out / "manifest.json").exists()
        seen = _in_sight(out)
        looks += 1
        for name, data in seen.items():
            if data != job.whole.get(name):
                return f"{looks} looks {name} has {len(data)} bytes that are not those it should have"
        if is_complete:
            if seen.keys() != job.whole.keys():
                return f"{looks} looks a manifest, but not {sorted(job.whole.keys() - seen.keys())}"
            with contextlib.closing(readers.ArraySource(out)) as source:
                if sum(1 for _ in source) != job.examples:
                    return f"{looks} looks a manifest, but not all examples"
    return f"{looks} looks "
