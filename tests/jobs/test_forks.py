"""Headers are read by processes forked from the command, while more files are found; whatever becomes of those."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FILES = 4000  # enough for processes


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process without threads, which may be forked."""
    start = "import os, signal, time\nfrom npy2tfrecord.jobs import forks, pool\npool.prefer_fork()\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", start + code], capture_output=True, text=True, timeout=60
    )


def test_results_of_any_size_come_from_tasks_of_any_size() -> None:
    done = run("""
tasks = ((bytes(n), n) for n in (0, 1, 10**6, 3, 2 * 10**6, 5, 10**5) * 3)
found = list(forks.run(lambda data, n: (len(data), bytes(n)), tasks, jobs=3))
print(sorted(n for n, _ in found), all(len(data) == n for n, data in found))
""")
    sizes = sorted([0, 1, 10**6, 3, 2 * 10**6, 5, 10**5] * 3)
    assert (done.stdout, done.stderr) == (f"{sizes} True\n", "")


def test_tasks_are_taken_while_others_are_done() -> None:
    done = run("""
begun = time.monotonic()
def tasks():
    for n in range(8):
        time.sleep(0.1)
        yield (n,)
print(sum(forks.run(lambda n: time.sleep(0.1) or n, tasks(), jobs=2)), time.monotonic() - begun < 1.5)
""")
    assert (done.stdout, done.stderr) == ("28 True\n", "")


def test_an_error_in_a_task_is_raised_and_no_process_stays() -> None:
    done = run("""
try:
    list(forks.run(lambda n: 1 / n, ((n,) for n in (1, 2, 0, 3)), jobs=2))
except ZeroDivisionError as error:
    print(error)
try:
    os.wait()
except ChildProcessError:
    print("alone")
""")
    assert (done.stdout, done.stderr) == ("division by zero\nalone\n", "")


def test_what_a_killed_process_had_to_do_is_done_by_another() -> None:
    done = run("""
parent = os.getpid()
def task(n, path):
    if n == 5 and not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return n
import tempfile
with tempfile.TemporaryDirectory() as directory:
    print(sorted(forks.run(task, ((n, directory + "/died") for n in range(50)), jobs=3)) == list(range(50)))
""")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_processes_that_keep_dying_end_the_run() -> None:
    done = run("""
from npy2tfrecord.errors import WorkerError
try:
    list(forks.run(lambda n: os._exit(1), ((n,) for n in range(50)), jobs=3))
except WorkerError as error:
    print(error)
""")
    assert "keep dying" in done.stdout
    assert not done.stderr


def test_a_stopped_process_is_given_up() -> None:
    done = run("""
pool.TICK_SECONDS, pool.STOPPED_TICKS = 0.05, 3
ticks = []
def task(n, path):
    if n == 5 and not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGSTOP)
    return n
import tempfile
with tempfile.TemporaryDirectory() as directory:
    tasks = ((n, directory + "/stopped") for n in range(50))
    print(sorted(forks.run(task, tasks, jobs=2, tick=lambda: ticks.append(1))) == list(range(50)), bool(ticks))
""")
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("many")
    for folder in ("a", "b", "b/c"):
        (source / folder).mkdir()
    for n in range(FILES):
        np.save(source / ("a", "b", "b/c")[n % 3] / f"{n}.npy", np.full(n % 5, n, dtype=np.int32))
    return source


def convert(source: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "npy2tfrecord", "convert", str(source), str(out), "--no-fsync", *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_bytes_are_those_of_one_process(many: Path, tmp_path: Path) -> None:
    for jobs in "1", "3":
        done = convert(many, tmp_path / jobs, "--jobs", jobs, "--num-shards", "3", "--progress", "json")
        assert done.returncode == 0, done.stderr
        first, *_, last = map(json.loads, done.stderr.splitlines())
        assert first["bytes_total"] == 0
        assert 0 < first["files_scanned"] <= first["files_found"] <= FILES
        assert last["files_scanned"] == last["files_found"] == FILES
        assert last["bytes_done"] == last["bytes_total"] > 0
    written = [sorted(path.relative_to(tmp_path / jobs) for path in (tmp_path / jobs).rglob("*")) for jobs in "13"]
    assert written[0] == written[1]
    for name in written[0]:
        if (tmp_path / "1" / name).is_file():
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_bad_files_are_told_in_order(many: Path, tmp_path: Path) -> None:
    bad = [many / "a" / "999999.npy", many / "b" / "c" / "0bad.npy"]
    for path in bad:
        path.write_bytes(b"nonsense")
    try:
        done = convert(many, tmp_path / "out", "--jobs", "3", "--on-error", "skip", "--json")
    finally:
        for path in bad:
            path.unlink()
    assert done.returncode == 3, done.stderr
    assert [each["source"] for each in json.loads(done.stdout)["skipped"]] == [str(path) for path in bad]
