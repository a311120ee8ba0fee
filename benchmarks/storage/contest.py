"""Every contestant on the same files, at the same delay of each call, a whole process from command to exit."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convert import sets
from benchmarks.convert.contest import check_records, whole
from benchmarks.convert.contestants.contestant import paths_of
from benchmarks.convert.sets import FILES_A_FOLDER, DataSet
from benchmarks.environment import OURS, peers_python
from benchmarks.machine import ROOT, Failed, clear, run
from benchmarks.parts import last_line, say
from benchmarks.storage import delay

CONVERT = ROOT / "benchmarks" / "convert" / "contestants"
THREADS = Path(__file__).parent / "contestants" / "threads.py"
PROBE = Path(__file__).with_name("probe.py")
DELAYS = (0.0, 0.1, 1.0, 10.0)
COMMANDS_DELAY = 1.0
FEW = 8  # files, without a delay, that show what a contestant takes to start
CALLS_A_FILE = 4  # that a contestant makes about, to see how many files it can be given
ROWS_SHAPE = (100_000, 1024)
MEMBERS, MEMBER_SHAPE = 500, (128, 128)

SETS = {
    each.name: each
    for each in (
        DataSet("small", "24,000 × 4 KB", 24_000, (32, 32)),
        DataSet("large", "2,000 × 1 MB", 2_000, (512, 512)),
        DataSet("rows", "one (100,000, 1024) array, --rows", 1, ROWS_SHAPE),
        DataSet("members", "one .npz of 500 members", 1, MEMBER_SHAPE),
    )
}


@dataclass(frozen=True)
class Contestant:
    """A program, and how many of its calls are under way at a time: by that it gets a part of the files.

    `reader` checks what it wrote, as the other benchmark of conversions does.
    """

    name: str
    title: str
    command: Callable[[Path, Path, int | None], Sequence[str | Path]]
    in_flight: int = 64
    reader: str | None = None


def _peer(program: str, *options: str) -> Callable[[Path, Path, int | None], Sequence[str | Path]]:
    def command(source: Path, out: Path, limit: int | None) -> Sequence[str | Path]:
        limited = () if limit is None else ("--limit", str(limit))
        return [peers_python(), CONVERT / f"{program}.py", source, out, *options, *limited]

    return command


def _copy(source: Path, out: Path, limit: int | None) -> Sequence[str | Path]:
    folders = sorted(source.iterdir())[: None if limit is None else max(1, limit // FILES_A_FOLDER)]
    out.mkdir()
    return ["cp", "-r", *folders, out]


def _ours(program: str | Path) -> Callable[[Path, Path, int | None], Sequence[str | Path]]:
    def command(source: Path, out: Path, limit: int | None) -> Sequence[str | Path]:
        options = {"rows.npy": ["--rows"], "members.npz": ["--members"]}.get(source.name, [])
        return [program, "convert", source, out, "--quiet", *options]

    return command


OURS_NAME, READER, EARLIER = "ours", "threads", "earlier"
ALL = (
    Contestant(OURS_NAME, "npy2tfrecord", _ours(OURS), reader="tfrecords"),
    Contestant(READER, "64 threads that only read", lambda source, out, limit: [sys.executable, THREADS, source]),
    Contestant("copy", "`cp -r`", _copy, 1),
    Contestant(
        "by-hand-2", "by hand: joblib + TFRecordWriter, 2 processes", _peer("by_hand", "--jobs", "2"), 2, "tfrecords"
    ),
    Contestant("by-hand-32", "the same, 32 processes", _peer("by_hand", "--jobs", "32"), 32, "tfrecords"),
    Contestant("tfds", "tensorflow-datasets", _peer("tfds_builder"), 1, "tfds"),
    Contestant("mds", "MDSWriter", _peer("mds_writer", "--jobs", "1"), 1, "mds"),
    Contestant("array_record", "array_record ¹", _peer("array_record_writer"), 1, "array_record"),
)
BY_NAME = {each.name: each for each in ALL}


@dataclass
class Profile:
    """How much of everything."""

    scale: float = 1.0
    runs: int = 3
    seconds: float = 20  # that a contestant which waits gets for a run
    contestants: list[str] = field(default_factory=list)
    earlier: Path | None = None  # the command of an earlier version, to run beside


@dataclass
class Places:
    """Where things are: `data` holds the sets, and `slow` below it what calls wait for."""

    data: Path
    library: Path

    @property
    def slow(self) -> Path:
        return self.data / "slow"

    @property
    def out(self) -> Path:
        return self.data / "out"


def prepare(name: str, profile: Profile, places: Places) -> Path:
    """Make a set; returns its directory, or its file."""
    places.slow.mkdir(parents=True, exist_ok=True)
    data = SETS[name]
    if name == "rows":
        return _make_rows(places.slow / "rows.npy", (max(100, round(ROWS_SHAPE[0] * profile.scale)), ROWS_SHAPE[1]))
    if name == "members":
        return _make_members(places.slow / "members.npz", max(4, round(MEMBERS * profile.scale)))
    return sets.make(data.scaled(profile.scale), places.slow)


def _make_rows(path: Path, shape: tuple[int, int]) -> Path:
    if not path.exists():
        np.save(path, np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    return path


def _make_members(path: Path, count: int) -> Path:
    if not path.exists():
        chance = np.random.default_rng(0)
        arrays = {f"m{i:03}": chance.standard_normal(MEMBER_SHAPE, dtype=np.float32) for i in range(count)}
        np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def hold(name: str, milliseconds: float, profile: Profile, places: Places) -> dict[str, Any]:
    """Run the contestants on a set in turn; returns what came out, ready for JSON."""
    source = prepare(name, profile, places)
    env = delay.environment(places.library, places.slow, milliseconds)
    files = len(paths_of(os.fspath(source))) if source.is_dir() else 1
    entries = [BY_NAME[each] for each in profile.contestants or BY_NAME]
    if profile.earlier is not None:
        entries.insert(1, Contestant(EARLIER, "an earlier version", _ours(profile.earlier)))
    if not source.is_dir():
        entries = [each for each in entries if each.name in (OURS_NAME, EARLIER, READER)]
    results: dict[str, Any] = {each.name: {"title": each.title, "runs": []} for each in entries}
    for number in range(profile.runs):
        for each in entries:
            result = results[each.name]
            limit = _limit(each, milliseconds, files, profile)
            if "failed" in result or (number and each.name not in (OURS_NAME, EARLIER, READER)):
                continue  # what is slower by far is measured once
            try:
                if limit is not None:
                    clear(places.out)
                    result["start"] = run(each.command(source, places.out, FEW)).seconds
                clear(places.out)
                outcome = run(each.command(source, places.out, limit), env=env)
                if not number:
                    result["checked"] = _check(each, source, places.out, limit or files)
            except Failed as error:
                say(f"  {name} {each.name}: {error}")
                result["failed"] = last_line(str(error))
                continue
            result["runs"].append(outcome.seconds)
            result["cpu"] = outcome.cpu
            if limit is not None:
                result["files"] = limit
            say(f"  {each.name}: {outcome.seconds:.2f} s for {limit or files:,} files ({outcome.cpu:.1f} s CPU)")
    clear(places.out)
    for result in results.values():
        if result["runs"] and "failed" not in result:
            done = result.get("files", files)
            result["seconds"] = whole(result["runs"], result.get("start", 0.0), files, done)
    return {"title": SETS[name].title, "files": files, "milliseconds": milliseconds, "results": results}


def _check(each: Contestant, source: Path, out: Path, files: int) -> str:
    """Whether what was written reads back. Raises `Failed` when it does not."""
    if each.reader is not None and source.is_dir():
        return check_records(each.reader, peers_python(), source, out, files)
    if each.name == "copy":
        count = sum(path.is_file() for path in out.rglob("*"))
        if count != files:
            raise Failed(f"the copy has {count} files, expected {files}")
        return f"{count} files are there"
    return ""


def _limit(each: Contestant, milliseconds: float, files: int, profile: Profile) -> int | None:
    """How many files a contestant gets, so that waiting takes no longer than it should; None for all."""
    if each.name in (OURS_NAME, EARLIER, READER) or not milliseconds:
        return None
    fit = int(profile.seconds * 1000 / milliseconds / CALLS_A_FILE * each.in_flight)
    if each.name == "copy":  # takes whole folders
        fit = max(FILES_A_FOLDER, fit // FILES_A_FOLDER * FILES_A_FOLDER)
    return fit if fit < files else None


def commands(name: str, profile: Profile, places: Places) -> dict[str, Any]:
    """`scan`, `verify --source` and `export` beside 64 threads that read, or write, the same files."""
    source = prepare(name, profile, places)
    env = delay.environment(places.library, places.slow, COMMANDS_DELAY)
    clear(places.out)
    run([OURS, "convert", source, places.out, "--quiet"])
    exported = places.slow / "exported"

    def reading() -> Sequence[str | Path]:
        return [sys.executable, THREADS, source]

    def writing() -> Sequence[str | Path]:
        return [sys.executable, THREADS, source, exported]

    pairs = {
        "scan": ([OURS, "scan", source], reading()),
        "verify --source": ([OURS, "verify", places.out, "--source", source], reading()),
        "export": ([OURS, "export", places.out, exported], writing()),
    }
    found: dict[str, Any] = {"milliseconds": COMMANDS_DELAY, "files": len(paths_of(os.fspath(source)))}
    for title, (ours, threads) in pairs.items():
        runs: tuple[list[float], list[float]] = [], []
        for _ in range(profile.runs):
            for command, into in zip((ours, threads), runs, strict=True):
                shutil.rmtree(exported, ignore_errors=True)
                into.append(run(command, env=env).seconds)
        seconds, yardstick = map(statistics.median, runs)
        found[f"{title}: seconds"] = round(seconds, 2)
        found[f"{title}: 64 threads"] = round(yardstick, 2)
        found[f"{title}: times that"] = round(seconds / yardstick, 2)
        say(f"  {title}: {seconds:.2f} s, 64 threads {yardstick:.2f} s")
    shutil.rmtree(exported, ignore_errors=True)
    return found


def reading(name: str, profile: Profile, places: Places) -> dict[str, Any]:
    """`load_npy` and `ArraySource` in lists: examples a second where each call waits."""
    source = prepare(name, profile, places)
    env = delay.environment(places.library, places.slow, COMMANDS_DELAY) | {"PYTHONPATH": str(ROOT)}
    out, batch = places.slow / "set", 256 if name == "small" else 32
    clear(out)
    run([OURS, "convert", source, out, "--quiet"])
    found: dict[str, Any] = {"milliseconds": COMMANDS_DELAY, "batch": batch}
    for kind, path in (("ArraySource", out), ("load_npy", source)):
        outcome = run([sys.executable, PROBE, kind, path, str(batch), "3"], env=env)
        told = json.loads(outcome.output.strip().splitlines()[-1])
        found |= {f"{kind}: {what}": value for what, value in told.items()}
    clear(out)
    return found
