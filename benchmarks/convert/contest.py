"""The contest: every converter on the same files, in turn, each run a whole process from command to exit."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.convert import sets
from benchmarks.convert.contestants.contestant import paths_of
from benchmarks.convert.sets import DataSet
from benchmarks.environment import OURS, peers_python
from benchmarks.machine import Failed, available_memory, clear, file_system, run
from benchmarks.parts import last_line, say

CONTESTANTS = Path(__file__).parent / "contestants"
START_FILES = 8
PART_FILES, PART_BYTES = 50_000, 10**9  # what peers get of large sets, at most
HAND_MEMORY_FACTOR = 9  # what a job by hand holds at its peak, its output included, in arrays


@dataclass(frozen=True)
class Contestant:
    """A converter: how it is called, and whose reader checks its output."""

    name: str
    title: str
    program: str
    reader: str | None
    options: tuple[str, ...] = ()
    is_peer: bool = True  # on large sets it gets a part, and as many runs as there is time for

    def command(self, python: Path, source: Path, out: Path, limit: int | None) -> list[str | Path]:
        limited = () if limit is None else ("--limit", str(limit))
        return [python, CONTESTANTS / f"{self.program}.py", source, out, *self.options, *limited]


OURS_NAME, COPY, BY_HAND = "ours", "copy", "by-hand"
ALL = (
    Contestant(OURS_NAME, "npy2tfrecord", "", "tfrecords", is_peer=False),
    Contestant(COPY, "plain copy, 4 processes", "copy_files", None, ("--sync",), is_peer=False),
    Contestant(BY_HAND, "by hand: joblib + TFRecordWriter, 4 jobs", "by_hand", "tfrecords", is_peer=False),
    Contestant("tfds", "tensorflow-datasets", "tfds_builder", "tfds"),
    Contestant("mds", "MDSWriter", "mds_writer", "mds", ("--jobs", "1")),
    Contestant("mds-4", "MDSWriter, 4 processes and merge_index", "mds_writer", "mds", ("--jobs", "4")),
    Contestant("litdata", "litdata optimize, 4 workers", "litdata_optimize", "litdata", ("--jobs", "4")),
    Contestant("webdataset", "webdataset ShardWriter ¹", "webdataset_writer", "webdataset"),
    Contestant("array_record", "array_record ¹", "array_record_writer", "array_record"),
    Contestant(
        "array_record-raw", "array_record, uncompressed ¹", "array_record_writer", "array_record", ("--uncompressed",)
    ),
    Contestant("tfrecord", "tfrecord (PyPI)", "tfrecord_writer", "tfrecords"),
)
BY_NAME = {each.name: each for each in ALL}


@dataclass
class Result:
    """One contestant on one set."""

    runs: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    files: int = 0  # converted in each run
    start: float = 0.0  # seconds with next to nothing to convert, when it had only a part
    seconds: float | None = None  # for the whole set: the median, scaled where it had a part
    checked: str = ""
    note: str = ""


@dataclass
class Profile:
    """How much of everything."""

    scale: float = 1.0
    runs: int = 5
    peer_seconds: float = 10  # a peer begins no further run of a set after these


@dataclass
class Places:
    """Where things are."""

    data: Path
    disk: Path  # on a disk, for what is measured there

    @property
    def peers(self) -> Path:
        """The Python that has the peers."""
        return peers_python()

    @property
    def out(self) -> Path:
        return self.data / "out"


def prepare(name: str, profile: Profile, places: Places) -> tuple[DataSet, Path]:
    """Makes a set and reads it once."""
    data = sets.SETS[name].scaled(1 if name == "tiny" else profile.scale)
    if name == "huge":
        data = DataSet(data.name, data.title, 4, (max(1, int(256 * profile.scale)), 1024, 1024))
        data = data if profile.scale == 1 else DataSet(data.name, f"4 × {4 * data.shape[0]} MB", 4, data.shape)
    if name == "rows":
        data = DataSet(data.name, data.title, 1, (int(1_000_000 * profile.scale), 32, 32))
    say(f"{name}: {data.files:,} files")
    source = sets.make(data, places.disk if name == "disk" else places.data)
    if file_system(source) != "tmpfs":
        sets.warm(source)
    return data, source


def ours(source: Path, out: Path, *options: str, jobs: int = 4) -> list[str | Path]:
    """The command that converts `source`."""
    return [OURS, "convert", source, out, "--jobs", str(jobs), "--quiet", *options]


@dataclass
class _Entry:
    """A contestant on one set: `command` takes the number of files, None for all."""

    contestant: Contestant
    result: Result
    command: Callable[[Path, int | None], list[str | Path]]
    limit: int | None = None
    jobs_credit: int = 1  # how many times faster it is taken to be with the jobs it would have had

    def wants_run(self, number: int, profile: Profile) -> bool:
        if self.result.note or number >= profile.runs:
            return False
        return not (self.contestant.is_peer and sum(self.result.runs) > profile.peer_seconds)


def hold(name: str, names: list[str], profile: Profile, places: Places) -> dict[str, Any]:
    """Runs the contestants on a set in turn; returns what came out, ready for JSON."""
    data, source = prepare(name, profile, places)
    size = sum(os.path.getsize(path) for path in paths_of(os.fspath(source)))
    few = sets.make(DataSet("few", "", START_FILES, (32, 32)), places.data)
    entries = [_entry(BY_NAME[each], data, size, places) for each in names]
    for number in range(profile.runs):
        for entry in entries:
            if entry.wants_run(number, profile):
                try:
                    _take_turn(entry, number, source, few, size, places)
                except Failed as error:
                    say(f"  {name} {entry.contestant.name}: {error}")
                    entry.result.note = f"failed: {last_line(str(error))}"
    clear(places.out)
    for entry in entries:
        if not entry.result.note:
            result = entry.result
            result.seconds = whole(result.runs, result.start, data.files, result.files * entry.jobs_credit)
    return {
        "title": data.title if data.files == sets.SETS[name].files else f"{data.files:,} of: {data.title}",
        "files": data.files,
        "bytes": size,
        "data_on": file_system(places.data),
        "results": {entry.contestant.name: asdict(entry.result) for entry in entries},
    }


def _entry(each: Contestant, data: DataSet, size: int, places: Places) -> _Entry:
    def command(source: Path, limit: int | None) -> list[str | Path]:
        if each.name == OURS_NAME:
            return ours(source, places.out)
        return each.command(places.peers, source, places.out, limit)

    entry = _Entry(each, Result(files=data.files), command)
    part = min(PART_FILES, max(1, int(PART_BYTES * data.files / size)))
    if each.is_peer and part < data.files:
        entry.limit = part
    if each.name == BY_HAND and data.name == "huge":
        jobs = min(2, int(available_memory() / (HAND_MEMORY_FACTOR * size / data.files)))
        if jobs == 0:
            entry.result.note = "not enough memory"
        entry.limit, entry.jobs_credit = max(1, jobs), 4 // max(1, jobs)
        entry.command = lambda source, limit: [*command(source, limit), "--jobs", str(max(1, jobs))]
    if entry.limit:
        entry.result.files = entry.limit
    return entry


def _take_turn(entry: _Entry, number: int, source: Path, few: Path, size: int, places: Places) -> None:
    result, name = entry.result, entry.contestant.name
    if number == 0 and entry.limit is not None:
        clear(places.out)
        result.start = run(entry.command(few, None)).seconds
    clear(places.out)
    outcome = run(entry.command(source, entry.limit))
    result.runs.append(outcome.seconds)
    result.cpu.append(outcome.cpu)
    say(f"  {name}: {result.runs[-1]:.2f} s for {result.files:,} files ({result.cpu[-1]:.1f} s CPU)")
    if number == 0:
        result.checked = _check(entry.contestant, places, source, result.files, size)


def whole(runs: list[float], start: float, files: int, done: float) -> float:
    """Seconds for all files after runs with `done` of them: what it took to start counts once, the rest by the file."""
    seconds = statistics.median(runs)
    start = min(start, seconds)
    return start + (seconds - start) * files / done


def _check(each: Contestant, places: Places, source: Path, files: int, size: int) -> str:
    """Whether what was written reads back. Raises `Failed` when it does not."""
    if each.reader is None:
        written = sum(path.stat().st_size for path in places.out.iterdir())
        if written != size:
            raise Failed(f"the copy has {written} bytes, expected {size}")
        return "all bytes are there"
    return check_records(each.reader, places.peers, source, places.out, files)


def check_records(reader: str, python: Path, source: Path, out: Path, files: int) -> str:
    """Read back what was written. Raises `Failed` unless it is the arrays of so many files."""
    outcome = run([python, CONTESTANTS / "check.py", reader, source, out])
    count = int(outcome.output.split()[-1])
    if count != files:
        raise Failed(f"{count} records read back, expected {files}")
    return f"{count} records read back, arrays compared"
