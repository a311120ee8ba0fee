"""Contests against one SeaweedFS server on this machine, whose answers come late by a relay of ours.

Every contest runs its contestants in turn, round after round; the median of a contestant's runs counts.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convert import sets
from benchmarks.convert.contestants.contestant import paths_of
from benchmarks.convert.sets import DataSet
from benchmarks.environment import OURS, peers_python
from benchmarks.machine import ROOT, Failed, clear, run
from benchmarks.parts import last_line, say

sys.path.append(str(ROOT / "tests" / "support"))
from object_servers import run_seaweed

HERE = Path(__file__).parent
CONTESTANTS = HERE / "contestants"
CONVERT = ROOT / "benchmarks" / "convert" / "contestants"
PROBE = ROOT / "benchmarks" / "storage" / "probe.py"
DELAYS = (0, 5, 30)  # milliseconds
BUCKET = "s3://test"
START_FILES = 8
BATCH = {"small": 256, "large": 32}
RANDOM_SECONDS = 3
SHARDS: dict[str, tuple[str, ...]] = {"small": (), "large": ("--num-shards", "8")}  # of a part, as many as of the whole

SETS = {
    each.name: each
    for each in (
        DataSet("small", "20,000 × 4 KB", 20_000, (32, 32)),
        DataSet("large", "1,000 × 1 MB", 1_000, (512, 512)),
    )
}
PEER_FILES = {"small": 4_000, "large": 200}  # what a peer converts of a set


@dataclass(frozen=True)
class Peer:
    """Another tool: its name, how it is called in tables, and who writes its set of local files for reading."""

    name: str
    title: str
    reader: str  # of check.py
    writer: tuple[str, ...]  # in `benchmarks/run convert`, and its options


PEERS = (
    Peer("litdata", "litdata", "litdata", ("litdata_optimize.py", "--jobs", "2")),
    Peer("mds", "mosaicml-streaming", "mds", ("mds_writer.py", "--jobs", "2")),
    Peer("by-hand", "by hand: s3fs + tf.train.Example", "tfrecords", ("by_hand.py", "--jobs", "2")),
)


@dataclass
class Profile:
    """How much of everything."""

    scale: float = 1.0
    runs: int = 3
    delays: Sequence[int] = DELAYS
    seconds: float = 30  # after which a contest begins no further round
    peers: Sequence[Peer] = PEERS
    converting_peer_delays: Sequence[int] = (0, 30)
    reading_peer_delays: Sequence[int] = (5,)


@dataclass(frozen=True)
class Entry:
    """A contestant: `take` runs it once and returns the seconds that count."""

    name: str
    title: str
    take: Callable[[], float]
    once: bool = False  # what is slower by far is measured once


@dataclass(frozen=True)
class Ratio:
    """A comparison of speeds: `name` is so many times as fast as the fastest of others, or as all after each other."""

    title: str
    name: str
    others: Sequence[str]
    of: Callable[[list[float]], float] = min  # their seconds


@dataclass
class Server:
    """A running server as a contest knows it: the environment that leads to it, by delay."""

    endpoint: str
    environment: Mapping[str, str]
    uploaded: set[str] = field(default_factory=set)

    @contextmanager
    def late(self, milliseconds: float) -> Iterator[dict[str, str]]:
        """The environment in which every answer comes late."""
        common = {**self.environment, "AWS_EC2_METADATA_DISABLED": "true"}
        if not milliseconds:
            yield common
            return
        words = [sys.executable, str(HERE / "relay.py"), self.endpoint.rpartition(":")[2], str(milliseconds)]
        # It ends when its standard input is closed, which it is whatever becomes of this process.
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
            assert relay.stdout is not None
            endpoint = f"http://127.0.0.1:{int(relay.stdout.readline())}"
            try:
                yield {name: value.replace(self.endpoint, endpoint) for name, value in common.items()}
            finally:
                relay.kill()

    def upload(self, directory: Path, prefix: str) -> None:
        """Put the files of a directory into the bucket, once."""
        if prefix not in self.uploaded:
            with self.late(0) as env:
                _objects("put", prefix, directory, env=env)
            self.uploaded.add(prefix)


@dataclass
class Places:
    """Where things are: all of it below `data`, and one server at a time."""

    data: Path
    running: ExitStack = field(default_factory=ExitStack)
    starts: dict[str, float] = field(default_factory=dict)  # seconds that a peer takes with a few objects
    _server: Server | None = None

    @property
    def out(self) -> Path:
        return self.data / "out"

    def server(self) -> Server:
        """The server of the set that is measured, started when it is needed."""
        if self._server is None:
            directory = self.data / "server"
            directory.mkdir()
            self.running.callback(clear, directory)
            found = self.running.enter_context(run_seaweed(directory))
            self._server = Server(found.endpoint, found.environment)
        return self._server

    def end_server(self) -> None:
        """End it, and remove what it held."""
        self._server = None
        self.running.close()


def hold(entries: Sequence[Entry], ratios: Sequence[Ratio], profile: Profile) -> dict[str, Any]:
    """Run contestants in turn; returns what came out, ready for JSON."""
    results: dict[str, Any] = {each.name: {"title": each.title, "runs": []} for each in entries}
    started = time.monotonic()
    for number in range(profile.runs):
        if number and time.monotonic() - started > profile.seconds:
            break
        for each in entries:
            if not each.once:
                _take(each, results[each.name])
    for each in entries:
        if each.once:
            _take(each, results[each.name])
    for result in results.values():
        if "failed" not in result:
            result["seconds"] = statistics.median(result["runs"])
    found = {}
    for ratio in ratios:
        ours = results[ratio.name].get("seconds")
        others = [results[name]["seconds"] for name in ratio.others if results.get(name, {}).get("seconds")]
        if ours and others:
            found[ratio.title] = ratio.of(others) / ours
    return {"results": results, "ratios": found}


def _take(each: Entry, result: dict[str, Any]) -> None:
    """Run a contestant once, unless it failed before."""
    if "failed" in result:
        return
    try:
        seconds = each.take()
    except Failed as error:
        say(f"  {each.name}: {error}")
        result["failed"] = last_line(str(error))
        return
    result["runs"].append(seconds)
    say(f"  {each.name}: {seconds:.2f} s")


# --- converting --------------------------------------------------------------------------------------


def prepare(name: str, profile: Profile, places: Places) -> tuple[DataSet, Path]:
    """Make a set of files."""
    data = SETS[name].scaled(profile.scale)
    return data, sets.make(data, places.data)


def convert(name: str, milliseconds: int, profile: Profile, places: Places) -> dict[str, Any]:
    """Objects of `.npy` files into a set on this machine."""
    data, source = prepare(name, profile, places)
    server = places.server()
    server.upload(source, name)
    peers = profile.peers if milliseconds in profile.converting_peer_delays else ()
    with server.late(milliseconds) as env:

        def ours() -> float:
            clear(places.out)
            seconds = run([OURS, "convert", f"{BUCKET}/{name}", places.out, "--quiet"], env=env).seconds
            _check("tfrecords", source, places.out, data.files)
            return seconds

        def peer(each: Peer) -> float:
            limit = min(data.files, PEER_FILES[name])
            if limit < data.files and each.name not in places.starts:
                places.starts[each.name] = _convert_by(each, name, START_FILES, places, env)
            seconds = _convert_by(each, name, limit, places, env)
            _check(each.reader, source, places.out, limit)
            if limit == data.files:
                return seconds
            start = min(places.starts[each.name], seconds)
            return start + (seconds - start) * data.files / limit

        entries = [
            Entry("ours", "npy2tfrecord", ours),
            Entry("get", "128 threads that GET and drop", lambda: _objects("get", name, env=env)),
            *(Entry(each.name, each.title, functools.partial(peer, each), once=True) for each in peers),
        ]
        ratios = (
            Ratio("npy2tfrecord's speed, of the 128 threads'", "ours", ("get",)),
            Ratio("npy2tfrecord's speed, of the best peer's", "ours", [each.name for each in peers]),
        )
        found = hold(entries, ratios, profile)
    clear(places.out)
    return {"title": f"{_title(data)} converted", "files": data.files, "milliseconds": milliseconds, **found}


def _title(data: DataSet) -> str:
    whole = SETS[data.name]
    return whole.title if data.files == whole.files else f"{data.files:,} of {whole.title}"


def _convert_by(each: Peer, name: str, limit: int, places: Places, env: Mapping[str, str]) -> float:
    clear(places.out)
    words = [peers_python(), CONTESTANTS / "peer.py", "convert", each.name, name, places.out, str(limit)]
    return run(words, env=env).seconds


def _check(reader: str, source: Path, out: Path, files: int) -> None:
    """Raises `Failed` unless what was written reads back."""
    outcome = run([peers_python(), CONVERT / "check.py", reader, source, out])
    count = int(outcome.output.split()[-1])
    if count != files:
        raise Failed(f"{count} examples read back, expected {files}")


def _objects(work: str, prefix: str, *directory: Path, env: Mapping[str, str]) -> float:
    """Seconds of a program that does this with obstore, from command to exit."""
    return run([sys.executable, CONTESTANTS / "objects.py", work, prefix, *directory], env=env).seconds


# --- putting -----------------------------------------------------------------------------------------


def put(milliseconds: int, profile: Profile, places: Places) -> dict[str, Any]:
    """Local files into a set in the bucket."""
    data, source = prepare("large", profile, places)
    shards = _shards("large", source, places)
    server = places.server()
    checked = set[str]()
    with server.late(0) as direct, server.late(milliseconds) as env:

        def removed(prefix: str) -> None:
            if prefix not in checked:
                _objects("compare", prefix, shards, env=direct)
                checked.add(prefix)
            _objects("delete", prefix, env=direct)

        def ours() -> float:
            seconds = run([OURS, "convert", source, f"{BUCKET}/ours", "--quiet", *SHARDS["large"]], env=env).seconds
            removed("ours")
            return seconds

        def local() -> float:
            clear(places.out)
            return run([OURS, "convert", source, places.out, "--quiet", *SHARDS["large"]]).seconds

        def plain() -> float:
            seconds = _objects("put", "plain", shards, env=env)
            removed("plain")
            return seconds

        entries = [
            Entry("ours", "npy2tfrecord, local files into the bucket", ours),
            Entry("put", "obstore's put of the same shards, made before", plain),
            Entry("local", "npy2tfrecord, local files into a local directory", local),
        ]
        ratios = (
            Ratio("npy2tfrecord's speed, of obstore's put", "ours", ("put",)),
            Ratio("of converting into a directory and then putting", "ours", ("put", "local"), sum),
        )
        found = hold(entries, ratios, profile)
    clear(places.out)
    places.end_server()  # what was deleted still takes its space
    return {"title": f"{_title(data)} converted into a bucket", "milliseconds": milliseconds, **found}


def _shards(name: str, source: Path, places: Places) -> Path:
    """The set as shards of this machine, made once."""
    out = places.data / f"{name}-shards"
    if not out.exists():
        run([OURS, "convert", source, out, "--quiet", *SHARDS[name]])
    return out


# --- reading -----------------------------------------------------------------------------------------


def read(name: str, milliseconds: int, profile: Profile, places: Places) -> dict[str, Any]:
    """Epochs of a set in the bucket, nothing of which is on this machine at first."""
    data, source = prepare(name, profile, places)
    shards = _shards(name, source, places)
    server = places.server()
    server.upload(shards, f"{name}-set")
    wanted = data.files, _sum_of_firsts(source)
    peers = profile.peers if milliseconds in profile.reading_peer_delays else ()
    peer_sets = {each.name: _peer_set(each, name, source, places) for each in peers}
    batch, url = BATCH[name], f"{BUCKET}/{name}-set"
    seconds: dict[str, float] = {}  # of second epochs, by whose first was just run
    cache = places.data / "cache"

    def told(words: Sequence[str | Path], env: Mapping[str, str]) -> dict[str, Any]:
        found = _last_json(run(words, env=env).output)
        if found["count"] != wanted[0] or abs(found["sum"] - wanted[1]) > 1e-3 * max(1, wanted[0]) ** 0.5:
            raise Failed(f"what was read is not what was written: {found['count']} arrays of {wanted[0]}")
        return found

    with server.late(milliseconds) as env:

        def epochs(place: str | Path, cached: str | Path) -> float:
            clear(cache)
            words = [sys.executable, CONTESTANTS / "epochs.py", place, cached, str(batch)]
            first, second = told(words, {**env, "PYTHONPATH": str(ROOT)})["epochs"]
            seconds["second" if cached else "local"] = second
            return float(first)

        def download() -> float:
            clear(places.out)
            words = [sys.executable, CONTESTANTS / "objects.py", "download", f"{name}-set", places.out]
            return float(_last_json(run(words, env=env).output)["seconds"])

        def local() -> float:
            epochs(shards, "")
            return seconds["local"]

        def peer(each: Peer) -> float:
            if failed := peer_sets[each.name]:
                raise Failed(failed)
            clear(cache)
            prefix = f"{name}-{each.name}"
            words = [peers_python(), CONTESTANTS / "peer.py", "read", each.name, prefix, cache, str(batch)]
            return float(told(words, env)["epochs"][0])

        entries = [
            Entry("ours", "load_dataset, first epoch", lambda: epochs(url, cache)),
            Entry("download", "parallel download of the shards, nothing else", download),
            Entry("second", "load_dataset, second epoch", lambda: seconds["second"]),
            Entry("local", "load_dataset of a local set, second epoch", local),
            *(Entry(each.name, f"{each.title}, first epoch", functools.partial(peer, each), True) for each in peers),
        ]
        ratios = (
            Ratio("first epoch's speed, of the download's", "ours", ("download",)),
            Ratio("second epoch's speed, of a local set's", "second", ("local",)),
            Ratio("first epoch's speed, of the best peer's", "ours", [each.name for each in peers]),
        )
        found = hold(entries, ratios, profile)
        words = [sys.executable, PROBE, "ArraySource", url, str(batch), str(RANDOM_SECONDS)]
        at_random = _last_json(run(words, env={**env, "PYTHONPATH": str(ROOT)}).output)
    clear(cache)
    clear(places.out)
    return {
        "title": f"{_title(data)} read",
        "files": data.files,
        "milliseconds": milliseconds,
        **found,
        "at random, examples/s": at_random["examples/s"],
    }


def _peer_set(each: Peer, name: str, source: Path, places: Places) -> str:
    """Put a peer's set of the same files into the bucket, once; returns why that failed, or nothing."""
    server, prefix = places.server(), f"{name}-{each.name}"
    if prefix in server.uploaded:
        return ""
    program, *options = each.writer
    clear(places.out)
    try:
        run([peers_python(), CONVERT / program, source, places.out, *options])
        server.upload(places.out, prefix)
    except Failed as error:
        say(f"  {each.name}: {error}")
        return last_line(str(error))
    finally:
        clear(places.out)
    return ""


def _sum_of_firsts(source: Path) -> float:
    """The sum of the arrays' first values."""
    paths = paths_of(os.fspath(source))
    return float(sum(float(np.load(path, mmap_mode="r").flat[0]) for path in paths))


def _last_json(output: str) -> dict[str, Any]:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise Failed(f"nothing came out: {output[-500:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found
