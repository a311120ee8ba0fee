"""What else the documentation says of reading: the first batch, cold disks, memory."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.environment import cache_directory
from benchmarks.machine import ROOT, Failed, drop_caches, file_system, run
from benchmarks.reading.race import Profile, prepare
from benchmarks.reading.sets import SETS, Arrays

PROBE = Path(__file__).with_name("probe.py")
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
    "records/memory": memory,
    "disk/cold": lambda profile, parent: cold("disk", profile, parent),
    "disk-big/cold": lambda profile, parent: cold("disk-big", profile, parent),
}
