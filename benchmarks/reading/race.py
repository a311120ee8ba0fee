"""The races: every contestant reads the same arrays in a process of its own, in turn, round after round."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import OURS, peers_python
from benchmarks.machine import ROOT, Failed, file_system, run
from benchmarks.parts import last_line, say
from benchmarks.reading.sets import QUICK_COUNTS, SETS, Arrays

CONTESTANT = Path(__file__).with_name("contestant.py")
ROUNDS = 2  # of those below, so that a slow moment of the machine does not hit one alone; one of the others
IN_ROUNDS = ("readers", "load_npy", "ArraySource", "tfds", "bare TFRecordDataset", "array_record")
FILES_A_FOLDER = 1000
OUR_PROGRAMS = ("readers", "load_npy", "ArraySource")
PEERS = ("tfrecord", "litdata", "mosaicml", "grain", "grain, 4 processes", "webdataset")
USUAL = ("readers", "tfds", "bare TFRecordDataset", *PEERS)
NPY = ("load_npy", "np.load in a map")
BY_NUMBER = (
    "ArraySource",
    "ArraySource, lists",
    "ArraySource in grain",
    "array_record",
    "array_record, lists",
    "array_record in grain",
)

# What the slow ones read of a set, so that five epochs take no longer than a minute.
LIMITS = {
    "np.load in a map": 10_000,
    "grain": 40_000,
    "mosaicml": 100_000,
    "grain, 4 processes": 50_000,
    "webdataset": 40_000,
    "array_record in grain": 25_000,
}


@dataclass(frozen=True)
class Race:
    """Who reads which set, and how; the first one is what the others are compared with."""

    title: str
    set: str
    shuffle: bool
    names: tuple[str, ...]

    def among(self, chosen: list[str]) -> Race:
        """The same with those chosen alone, all if none are."""
        return replace(self, names=tuple(name for name in self.names if not chosen or name in chosen))


RACES = {
    "small/batches": Race("small, batch 256", "small", False, (*USUAL, *NPY)),
    "small/shuffled": Race("small, shuffled, batch 256", "small", True, USUAL),
    "small/in-order": Race("small, by number in order", "small", False, BY_NUMBER),
    "small/at-random": Race("small, by number at random", "small", True, BY_NUMBER),
    "big/batches": Race("big, batch 16", "big", False, (*USUAL, *NPY)),
    "var/batches": Race("var, padded, batch 64", "var", False, (USUAL[0], "readers, ragged", *USUAL[1:], *NPY)),
    "tiny/shuffled": Race("tiny, padded, shuffled, batch 256", "tiny", True, (USUAL[0], "readers, ragged", *USUAL[1:])),
}


@dataclass
class Profile:
    """How much of everything."""

    quick: bool = False
    epochs: int = 5
    seconds: float = 15  # of epochs, after which a contestant begins no further one in a round
    timeout: float = 120  # of one process

    def count(self, name: str) -> int:
        return QUICK_COUNTS[name] if self.quick else SETS[name].count

    def rounds(self, name: str) -> int:
        return ROUNDS if name.startswith(IN_ROUNDS) and not self.quick else 1


def save_some(directory: Path, name: str, count: int, first: int, last: int) -> None:
    """Arrays `first` to `last` of a set as `.npy` files, in folders of a thousand."""
    arrays = Arrays(name, count)
    for i in range(first, last):
        if i % FILES_A_FOLDER == 0:
            (directory / f"{i // FILES_A_FOLDER:04}").mkdir(parents=True)
        np.save(directory / f"{i // FILES_A_FOLDER:04}" / f"{i:07}.npy", arrays[i])


def prepare(name: str, count: int, parent: Path, *options: str, keep_npy: bool = True) -> Path:
    """The set as `.npy` files and as shards, made once."""
    root = parent / f"{name}-{count}"
    if not (root / "shards" / "manifest.json").exists():
        say(f"{name}: {count:,} arrays")
        shutil.rmtree(root, ignore_errors=True)
        step = max(FILES_A_FOLDER, -(-count // 4 // FILES_A_FOLDER) * FILES_A_FOLDER)
        with ProcessPoolExecutor(4) as pool:
            made = [
                pool.submit(save_some, root / "npy", name, count, first, min(first + step, count))
                for first in range(0, count, step)
            ]
            for each in made:
                each.result()
        run([OURS, "convert", "--quiet", root / "npy", root / "shards", *(options or ("--num-shards", "16"))])
        if not keep_npy:
            shutil.rmtree(root / "npy")
    return root


def _turn(name: str, race: Race, root: Path, limit: int, epochs: int, profile: Profile) -> dict[str, Any]:
    """One process: the seconds of each epoch."""
    ours = name.startswith(OUR_PROGRAMS)
    task = {
        "name": name,
        "set": race.set,
        "count": profile.count(race.set),
        "limit": limit,
        "root": str(root),
        "shuffle": race.shuffle,
        "epochs": epochs,
        "seconds": profile.seconds,
    }
    python = sys.executable if ours else peers_python()
    env = {"PYTHONPATH": str(ROOT)} if ours else {}
    outcome = run([python, CONTESTANT, json.dumps(task)], env=env, timeout=profile.timeout)
    lines = [line for line in outcome.output.splitlines() if line.startswith('{"seconds"')]
    if not lines:
        raise Failed(f"nothing came out: {outcome.output[-500:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def hold(race: Race, profile: Profile, parent: Path) -> dict[str, Any]:
    """One race; returns what came out, ready for JSON."""
    count = profile.count(race.set)
    root = prepare(race.set, count, parent)
    results: dict[str, dict[str, Any]] = {}
    for name in race.names:
        limit = min(count, LIMITS.get(name, count))
        results[name] = {"examples": limit, "seconds": [], "rate": None, "note": ""}
    for turn in range(ROUNDS):
        for name, result in results.items():
            rounds = profile.rounds(name)
            if result["note"] or turn >= rounds:
                continue
            epochs = profile.epochs * (turn + 1) // rounds - profile.epochs * turn // rounds
            try:
                outcome = _turn(name, race, root, result["examples"], max(1, epochs), profile)
            except Failed as error:
                say(f"  {name}: {error}")
                result["note"] = f"failed: {last_line(str(error))}"
                continue
            result["seconds"] += outcome["seconds"]
            result["rate"] = result["examples"] / statistics.median(result["seconds"])
            say(f"  {name}: {result['rate']:,.0f}/s, epochs {', '.join(f'{s:.2f}' for s in outcome['seconds'])} s")
    arrays = Arrays(race.set, count)
    size = sum(arrays[i].nbytes for i in range(count)) / count
    return {
        "title": race.title,
        "examples": count,
        "bytes an example": size,
        "data_on": file_system(parent),
        "results": results,
    }
