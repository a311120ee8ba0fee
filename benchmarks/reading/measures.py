"""What else the documentation says of reading: the first batch, cold disks, memory."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import OURS, cache_directory
from benchmarks.machine import ROOT, Failed, drop_caches, file_system, run
from benchmarks.reading.race import Profile, prepare, save_some
from benchmarks.reading.sets import SETS, Arrays

PROBE = Path(__file__).with_name("probe.py")
NIGHTS = 30
LEAST_NIGHT, MOST_NIGHT = 0.01, 0.05  # of the first set's arrays
Values = dict[str, Any]


def _probe(what: str, root: Path, profile: Profile, **task: Any) -> Any:
    words: list[str | Path] = [sys.executable, PROBE, json.dumps({"what": what, "root": str(root), **task})]
    outcome = run(words, env={"PYTHONPATH": str(ROOT)}, timeout=2 * profile.timeout)
    return json.loads(outcome.output.strip().splitlines()[-1])


def first_batch(profile: Profile, parent: Path) -> Values:
    """The first batch of a data set in very many shards: the median of five processes."""
    count = profile.count("shards")
    root = prepare("shards", count, parent, "--num-shards", str(count // 2), keep_npy=False)
    found: Values = {"shards": count // 2, "arrays": count}
    for title, shuffle in (("", False), (", shuffled", True)):
        runs = [_probe("first", root / "shards", profile, shuffle=shuffle) for _ in range(profile.epochs)]
        for key in runs[0]:
            found[f"{key}{title}"] = statistics.median(run[key] for run in runs)
    return found


def start(profile: Profile, parent: Path) -> Values:
    """From the call to the first batch, and of later epochs, beside a pipeline of six lines by hand."""
    count = profile.count("start")
    root = prepare("start", count, parent, "--num-shards", "16")
    many = root / "shards-100"
    if not (many / "manifest.json").exists():
        run([OURS, "convert", "--quiet", "--num-shards", "100", root / "npy", many])
    found: Values = {"arrays": count}
    for shards, path in ((16, root / "shards"), (100, many)):
        for title, by_hand in (("load_dataset", False), ("by hand", True)):
            runs = [
                _probe("start", path, profile, by_hand=by_hand, batch=SETS["start"].batch)
                for _ in range(profile.epochs)
            ]
            for key in runs[0]:
                found[f"{title}, {shards} shards: {key}, s"] = statistics.median(run[key] for run in runs)
    return found


def nights(profile: Profile, parent: Path) -> Values:
    """A set and 30 nightly additions of 1 to 5 %, read as one, beside the merged set.

    Raises `Failed` where the merged set doesn't have the bytes of one conversion.
    """
    first = profile.count("nights")
    share = np.random.default_rng(0).uniform(LEAST_NIGHT, MOST_NIGHT, NIGHTS)
    ends = (first + np.cumsum(np.concatenate([[0], share * first]).astype(int))).tolist()
    root = parent / f"nights-{first}"
    npy, merged, whole = root / "npy", root / "merged", root / "whole"
    sets: list[Path] = []
    shutil.rmtree(root, ignore_errors=True)
    for night, (begin, end) in enumerate(pairwise([0, *ends])):
        save_some(npy, "nights", ends[-1], begin, end)
        not_in = [word for each in sets for word in ("--not-in", each)]
        sets.append(root / "sets" / f"{night:03}")
        run([OURS, "convert", "--quiet", *not_in, npy, sets[-1]])
    merging = run([OURS, "merge", "--quiet", *sets, merged])
    converting = run([OURS, "convert", "--quiet", npy, whole])
    if _contents(merged) != _contents(whole):
        raise Failed("merging the additions did not give the bytes of one conversion")
    task = {"names": ["merged", "sets"], "count": ends[-1], "batch": SETS["nights"].batch}
    seconds = _probe("nights", root, profile, **task)
    found: Values = {"arrays": ends[-1], "sets": len(sets), "merged set has the bytes of one conversion": "yes"}
    found["merge, s"], found["one conversion, s"] = merging.seconds, converting.seconds
    for way, each in seconds.items():
        found[f"{way}: merged set, arrays/s"] = ends[-1] / each["merged"]
        found[f"{way}: speed of the sets, of the merged set's"] = each["merged"] / each["sets"]
    return found


def _contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def cold(name: str, profile: Profile, parent: Path) -> Values:
    """Shards and `.npy` files from a disk whose caches were dropped, epoch by epoch."""
    if not drop_caches():
        raise Failed("caches can't be dropped without the rights of root")
    count, disk = profile.count(name), cache_directory() / "reading"
    root = prepare(name, count, disk, *(("--shard-size", "32MB") if profile.quick else ()))
    found: Values = {"arrays": count, "on": file_system(disk)}
    for kind, program in (("shards", "load_dataset"), ("npy", "load_npy")):
        task = {"kind": kind, "batch": SETS[name].batch, "count": count}
        seconds = _probe("cold", root / kind, profile, **task)["seconds"]
        found[f"{program} seconds"] = statistics.median(seconds)
        found[f"{program} examples/s"] = count / statistics.median(seconds)
    arrays = Arrays(name, count)
    found["MB"] = sum(arrays[i].nbytes for i in range(count)) / 1e6
    found["load_dataset / load_npy"] = found["load_npy seconds"] / found["load_dataset seconds"]
    return found


def memory(profile: Profile, parent: Path) -> Values:
    """By how much a process grows that reads records of 50 MB."""
    count = profile.count("records")
    root = prepare("records", count, parent, "--shard-size", "128MB", keep_npy=False)
    found: Values = {"records of 50 MB": count, "batch": 2}
    for title, shuffle in (("not shuffled", False), ('shuffle="256MB"', "256MB"), ("shuffle=True", True)):
        grown = _probe("growth", root / "shards", profile, shuffle=shuffle)["bytes"]
        found[f"{title}: MB more than before"] = grown / 1e6
    return found


ALL: dict[str, Callable[[Profile, Path], Values]] = {
    "shards/first-batch": first_batch,
    "start/first-epoch": start,
    "nights/list-of-sets": nights,
    "records/memory": memory,
    "disk/cold": lambda profile, parent: cold("disk", profile, parent),
    "disk-big/cold": lambda profile, parent: cold("disk-big", profile, parent),
}
