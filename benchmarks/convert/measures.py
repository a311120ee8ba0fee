"""What else the documentation says of the speed of a conversion, each measured beside what it is compared with."""

from __future__ import annotations

import functools
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.convert import sets
from benchmarks.convert.contest import CONTESTANTS, Places, Profile, ours, prepare
from benchmarks.convert.contestants.contestant import paths_of
from benchmarks.environment import OURS
from benchmarks.machine import Failed, clear, drop_caches, file_system, run
from benchmarks.parts import say

Command = Sequence[str | Path]
Values = dict[str, Any]


def _in_turn(
    commands: Mapping[str, Command], runs: int, out: Path | None = None, before: Callable[[], Any] | None = None
) -> dict[str, float]:
    """The median seconds of each command, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            if out is not None:
                clear(out)
            if before is not None:
                before()
            seconds[name].append(run(command).seconds)
            say(f"  {name}: {seconds[name][-1]:.3f} s")
    if out is not None:
        clear(out)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _part(source: Path, files: int, places: Places) -> Path:
    """A directory of hard links to some of a set's files, in folders of a thousand."""
    part = places.data / f"part-{files}"
    shutil.rmtree(part, ignore_errors=True)
    folders: set[str] = set()
    for number, path in enumerate(paths_of(os.fspath(source))[:files]):
        folder = f"{part}/{number // sets.FILES_A_FOLDER:05}"
        if folder not in folders:
            os.makedirs(folder)
            folders.add(folder)
        os.link(path, f"{folder}/{os.path.basename(path)}")
    return part


def _program(name: str, source: Path, out: Path, *options: str) -> Command:
    return [sys.executable, CONTESTANTS / f"{name}.py", source, out, *options]


# --- one function a measure ---------------------------------------------------------------------


def starting(profile: Profile, places: Places) -> Values:
    """Start-up: `--help` against `import numpy`, and a conversion of ten files."""
    source, out = sets.make(sets.DataSet("ten", "", 10, (32, 32)), places.data), places.out
    runs = 2 * profile.runs + 1
    found = _in_turn({"help": [OURS, "--help"], "import numpy": [sys.executable, "-c", "import numpy"]}, runs)
    found |= _in_turn({"ten files": ours(source, out), "ten files, import": _importing()}, runs, out)
    shutil.rmtree(source)
    return {**found, "help / import numpy": found["help"] / found["import numpy"]}


def _importing() -> Command:
    return [sys.executable, "-c", "import npy2tfrecord.conversion.converter"]


def scan(profile: Profile, places: Places) -> Values:
    """Headers a second, warm."""
    data, source = prepare("small", profile, places)
    seconds = _in_turn({"scan": [OURS, "scan", source, "--jobs", "4"]}, profile.runs)["scan"]
    return {"files": data.files, "seconds": seconds, "files/s": data.files / seconds}


def scan_cold(profile: Profile, places: Places) -> Values:
    """Headers a second from a disk with the caches dropped, where that is allowed, beside find and head."""
    data, source = prepare("disk", profile, places)
    if not drop_caches():
        raise Failed("caches can't be dropped without the rights of root")
    commands: dict[str, Command] = {
        "scan": [OURS, "scan", source, "--jobs", "4"],
        "find and head": ["find", source, "-name", "*.npy", "-exec", "head", "-c", "128", "{}", "+"],
    }
    found = _in_turn(commands, min(3, profile.runs), before=drop_caches)
    return {
        "files": data.files,
        "on": file_system(places.disk),
        **found,
        "find and head / scan": found["find and head"] / found["scan"],
    }


def scaling(profile: Profile, places: Places) -> Values:
    """Small files with 1, 2 and 4 jobs, and a hundredth and a tenth of them with 4."""
    data, source = prepare("small", profile, places)
    out = places.out
    runs = min(3, profile.runs)
    jobs = _in_turn({str(n): ours(source, out, jobs=n) for n in (1, 2, 4)}, runs, out)
    files = {data.files: jobs["4"]}
    for count in (data.files // 10, data.files // 100):
        part = _part(source, count, places)
        files[count] = _in_turn({str(count): ours(part, out)}, runs, out)[str(count)]
        shutil.rmtree(part)
    return {"files": data.files, "seconds by jobs": jobs, "speed-up": jobs["1"] / jobs["4"], "seconds by files": files}


def memory(name: str, profile: Profile, places: Places) -> Values:
    """Peaks of the parent and the workers."""
    return _memory(name, profile, places)


def _memory(name: str, profile: Profile, places: Places, *options: str) -> Values:
    data, source = prepare(name, profile, places)
    out = places.out
    clear(out)
    baseline = run(
        [sys.executable, "-c", "import npy2tfrecord.conversion.converter, joblib, time; time.sleep(0.3)"],
        memory=True,
    ).memory
    peaks = run(ours(source, out, *options), memory=True).memory
    clear(out)
    assert baseline is not None
    assert peaks is not None
    return {
        "files": data.files,
        "imports alone MB": baseline.parent / 1e6,
        "parent peak MB": peaks.parent / 1e6,
        "parent bytes a file above imports": (peaks.parent - baseline.parent) / data.files,
        "worker peak MB": peaks.worker / 1e6,
        "worker peak above imports MiB": (peaks.worker - baseline.parent) / 2**20,
        "worker private peak MiB": peaks.worker_private / 2**20,
        "processes": peaks.processes,
    }


def shuffle(profile: Profile, places: Places) -> Values:
    """What a random order costs on warm files."""
    _, source = prepare("small", profile, places)
    out = places.out
    found = _in_turn({"shuffled": ours(source, out), "in order": ours(source, out, "--no-shuffle")}, profile.runs, out)
    return {**found, "shuffled / in order": found["shuffled"] / found["in order"]}


def fsync(profile: Profile, places: Places) -> Values:
    """Waiting for the disk, and not, beside a copy that does the same: from memory to the disk."""
    data, whole = prepare("big", profile, places)
    source, out = _part(whole, max(4, data.files // 4), places), places.disk / "out"
    found = _in_turn(
        {
            "fsync": ours(source, out),
            "copy, fsync": _program("copy_files", source, out, "--sync"),
            "--no-fsync": ours(source, out, "--no-fsync"),
            "copy, no fsync": _program("copy_files", source, out),
        },
        profile.runs,
        out,
    )
    shutil.rmtree(source)
    return {
        "files of 1 MB": max(4, data.files // 4),
        "out on": file_system(places.disk),
        **found,
        "copy / ours, fsync": found["copy, fsync"] / found["fsync"],
        "copy / ours, no fsync": found["copy, no fsync"] / found["--no-fsync"],
    }


def gzip(profile: Profile, places: Places) -> Values:
    """gzip shards, beside zlib level 1 through TFRecordWriter, both with 4 jobs."""
    data, whole = prepare("big", profile, places)
    source = _part(whole, max(16, data.files // 8), places)
    size = sum(map(os.path.getsize, paths_of(os.fspath(source))))
    out = places.out
    by_hand: list[str | Path] = [places.peers, CONTESTANTS / "by_hand.py", source, out]
    commands: dict[str, Command] = {"ours": ours(source, out, "--compression", "gzip"), "by hand": [*by_hand, "--gzip"]}
    ratios = {}
    for name, command in commands.items():
        clear(out)
        run(command)
        ratios[name] = sum(path.stat().st_size for path in out.glob("*.tfrecord")) / size
        run([places.peers, CONTESTANTS / "check.py", "tfrecords", source, out])
    one: dict[str, Command] = {
        "ours, 1 job": ours(source, out, "--compression", "gzip", jobs=1),
        "by hand, 1 job": [*by_hand, "--gzip", "--jobs", "1"],
    }
    found = _in_turn({**commands, **one, "by hand, uncompressed": by_hand}, min(3, profile.runs), out)
    shutil.rmtree(source)
    return {
        "MB": size / 1e6,
        **found,
        "ours MB/s": size / 1e6 / found["ours"],
        "by hand MB/s": size / 1e6 / found["by hand"],
        "ours / by hand": found["by hand"] / found["ours"],
        "ours / by hand, 1 job": found["by hand, 1 job"] / found["ours, 1 job"],
        "ours compressed to": ratios["ours"],
        "by hand compressed to": ratios["by hand"],
    }


def stats(name: str, profile: Profile, places: Places) -> Values:
    """What --stats costs."""
    _, source = prepare(name, profile, places)
    out = places.out
    found = _in_turn({"without": ours(source, out), "--stats": ours(source, out, "--stats")}, profile.runs, out)
    return {**found, "--stats / without": found["--stats"] / found["without"]}


def rows(profile: Profile, places: Places) -> Values:
    """--rows on one large array, shuffled, beside a copy of the file by 4 processes."""
    _, source = prepare("rows", profile, places)
    out = places.out
    found = _in_turn(
        {
            "ours": ours(source, out, "--rows"),
            "copy": _program("copy_ranges", source, out, "--sync"),
            "ours, in order": ours(source, out, "--rows", "--no-shuffle"),
        },
        profile.runs,
        out,
    )
    peaks = _memory("rows", profile, places, "--rows")
    return {
        "MB": os.path.getsize(paths_of(os.fspath(source))[0]) / 1e6,
        **found,
        "copy / ours": found["copy"] / found["ours"],
        "worker peak MB": peaks["worker peak MB"],
        "worker private peak MB": peaks["worker private peak MiB"] * 2**20 / 1e6,
        "parent peak MB": peaks["parent peak MB"],
    }


def planning(profile: Profile, places: Places) -> Values:
    """Planning ten million made-up files."""
    found: Values = {}
    for files in (1_000_000, 10_000_000) if profile.scale == 1 else (100_000, 1_000_000):
        outcome = run([sys.executable, Path(__file__).with_name("planning.py"), str(files)])
        try:
            found[str(files)] = json.loads(outcome.output.splitlines()[-1])
        except (ValueError, IndexError):
            raise Failed(outcome.output) from None
    return found


ALL: dict[str, Callable[[Profile, Places], Values]] = {
    "none/starting": starting,
    "none/planning": planning,
    "small/scan": scan,
    "small/scaling": scaling,
    "small/memory": functools.partial(memory, "small"),
    "small/shuffle": shuffle,
    "big/gzip": gzip,
    "big/stats": functools.partial(stats, "big"),
    "var/stats": functools.partial(stats, "var"),
    "huge/memory": functools.partial(memory, "huge"),
    "rows/rows": rows,
    "disk/scan": scan_cold,
    "big/fsync": fsync,
}
"""By the set that each needs; `none` for none."""
