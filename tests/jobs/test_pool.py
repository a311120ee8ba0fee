"""Tasks are done by processes of this machine, whatever becomes of those; headers among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npy2tfrecord.errors import UsageError
from npy2tfrecord.jobs import pool

FILES = 4000  # enough for processes
FORKS = "pool.prefer_fork()\n"
BOTH = pytest.mark.parametrize("start", ["", FORKS], ids=["loky", "forks"])


def run(start: str, code: str, **environment: str) -> str:
    """What a piece of Python writes, in a process without threads, which may be forked."""
    prelude = f"""
import multiprocessing, os, signal, sys, tempfile, threading, time
from npy2tfrecord.errors import UsageError, WorkerError
from npy2tfrecord.jobs import pool
{start}
def run(function, tasks, jobs=2, tick=None):
    return pool.run(function, tasks, jobs=jobs, backend="loky", tick=tick)
"""
    done = subprocess.run(
        [sys.executable, "-c", prelude + code],
        env={**os.environ, "PYTHONWARNINGS": "error", "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not done.stderr, done.stderr
    return done.stdout


@BOTH
def test_results_of_any_size_come_from_tasks_of_any_size(start: str) -> None:
    said = run(
        start,
        """
def task(data, n):
    return len(data), bytes(n)
tasks = ((bytes(n), n) for n in (0, 1, 10**6, 3, 2 * 10**6, 5, 10**5) * 3)
found = list(run(task, tasks, 3))
print(sorted(n for n, _ in found), all(len(data) == n for n, data in found), multiprocessing.active_children())
""",
    )
    assert said == f"{sorted([0, 1, 10**6, 3, 2 * 10**6, 5, 10**5] * 3)} True []\n"


@BOTH
def test_tasks_are_taken_while_others_are_done(start: str) -> None:
    """Every task after the first few is taken when a result is there, in this thread."""
    said = run(
        start,
        """
done, taken, thread = [], [], threading.get_ident()
def tasks():
    for n in range(40):
        taken.append((len(done), threading.get_ident() == thread))
        yield (n,)
for n in run(int, tasks()):
    done.append(n)
print(sorted(done) == list(range(40)), taken[:4] == [(0, True)] * 4)
print(all(mine and n - 4 <= results <= n for n, (results, mine) in enumerate(taken)))
""",
    )
    assert said == "True True\nTrue\n"


@BOTH
def test_an_error_in_a_task_is_raised_and_no_process_stays(start: str) -> None:
    said = run(
        start,
        """
def task(n):
    return 1 / n
try:
    list(run(task, ((n,) for n in (1, 2, 0, 3))))
except ZeroDivisionError as error:
    print(error, multiprocessing.active_children())
""",
    )
    assert said == "division by zero []\n"


@BOTH
def test_closing_it_stops_the_workers_in_the_middle_of_a_task(start: str) -> None:
    said = run(
        start,
        """
results = run(time.sleep, [(0,), (600,), (600,), (600,), (600,), (600,)])
print(next(results), len(multiprocessing.active_children()))
results.close()
print(multiprocessing.active_children())
""",
    )
    assert said == "None 2\n[]\n"


@BOTH
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_what_a_dying_worker_took_with_it_is_done_again(name: str, start: str) -> None:
    said = run(
        start,
        f"""
def task(n, data, path):
    if n % 10 == 3 and not os.path.exists(path + str(n)):
        open(path + str(n), "w").close()
        os.kill(os.getpid(), signal.{name})
    return n
with tempfile.TemporaryDirectory() as directory:
    tasks = ((n, bytes(10**6), directory + "/died") for n in range(30))  # larger than a pipe takes
    print(sorted(run(task, tasks, 3)) == list(range(30)))
""",
    )
    assert said == "True\n"


@BOTH
def test_workers_that_keep_dying_end_the_run_when_all_else_is_done(start: str) -> None:
    said = run(
        start,
        """
def task(n):
    if n == 5:
        os._exit(1)
    return n
done = []
try:
    for n in run(task, ((n,) for n in range(50))):
        done.append(n)
except WorkerError as error:
    print(error)
print(5 not in done, len(done) >= 46, len(set(done)) == len(done))
""",
    )
    first, second = said.splitlines()
    assert first.startswith("worker processes keep dying")
    assert second == "True True True"


@BOTH
def test_a_worker_that_dies_before_all_tasks_are_taken_is_detected(start: str) -> None:
    said = run(
        start,
        """
def tasks():
    yield (1,)
    while multiprocessing.active_children():
        time.sleep(0.01)
    yield (1,)
try:
    list(run(os._exit, tasks()))
except WorkerError as error:
    print(str(error).partition(" (")[0])
""",
    )
    assert said == "worker processes keep dying\n"


@BOTH
@pytest.mark.parametrize("jobs", [1, 2])
def test_ticks_come_while_tasks_are_done(jobs: int, start: str) -> None:
    said = run(
        start, f"ticks = []\nlist(run(time.sleep, [(1.6,)] * 2, {jobs}, lambda: ticks.append(1)))\nprint(len(ticks))"
    )
    assert int(said) >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
@pytest.mark.parametrize(
    ("threads", "code", "forks"),
    [
        ("1", "", True),
        ("1", "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", False),
        ("1", "import ctypes; ctypes.CDLL(None)", True),
        ("2", "import numpy as np; np.ones((200, 200)) @ np.ones((200, 200))", False),
    ],
    ids=["none", "of Python", "none of a library", "of BLAS"],
)
def test_workers_are_forks_where_this_process_has_no_second_thread(threads: str, code: str, forks: bool) -> None:
    said = run(FORKS, f"{code}\nprint(pool.can_fork(), list(run(int, [(7,)])))", OPENBLAS_NUM_THREADS=threads)
    assert said == f"{forks and sys.version_info >= (3, 11, 5)} [7]\n"


def test_forks_are_possible_again_after_forks() -> None:
    said = run(FORKS, "print({(pool.can_fork(), *run(int, [(1,)] * 3)) for _ in range(30)})")
    assert said == f"{{({sys.version_info >= (3, 11, 5)}, 1, 1, 1)}}\n"


def test_a_backend_that_cannot_detect_a_dead_worker_is_refused() -> None:
    for backend in ("multiprocessing", "no such"):
        with pytest.raises(UsageError, match="loky"):
            list(pool.run(int, [(1,)], jobs=2, backend=backend))


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
