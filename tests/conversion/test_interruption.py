"""Runs that are killed, stopped, crowded out or raced: no wrong byte, no orphan, and the next run goes on.

`scripts/stress` repeats what is random here as often as it is told.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import assert_nothing_half_written, tree

import readers

COMMAND = [sys.executable, "-m", "npy2tfrecord"]
QUIET = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # no second thread where NumPy is imported before the command
FORKS = sys.platform == "linux" and sys.version_info >= (3, 11, 5)
ROUNDS = int(os.environ.get("NPY2TFRECORD_STRESS_ROUNDS", "6"))
SEED = int(os.environ.get("NPY2TFRECORD_STRESS_SEED", "") or random.SystemRandom().randrange(2**32))

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to find worker processes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # More rows than are converted without worker processes.
    file = tmp_path_factory.mktemp("source") / "x.npy"
    np.save(file, np.random.default_rng(1).standard_normal((24_000, 64)).astype("f4"))
    return file


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    _run(source, out)
    return tree(out)


@pytest.fixture
def seconds(source: Path, tmp_path: Path, whole: dict[str, bytes]) -> float:
    started = time.monotonic()
    _run(source, tmp_path / "timed")
    return time.monotonic() - started


@pytest.fixture
def chance() -> random.Random:
    print(f"seed {SEED}")  # noqa: T201  shown when the test fails
    return random.Random(SEED)


def _start(source: Path, out: Path, *options: str, **keywords: object) -> subprocess.Popen[str]:
    words = ["convert", "--rows", "--num-shards", "12", "--jobs", "2", *options, str(source), str(out)]
    return subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,  # type: ignore[call-overload]
    )


def _run(source: Path, out: Path) -> None:
    run = _start(source, out)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 0, told


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _workers(pid: int) -> list[int]:
    """The worker processes of a run: its children, but not the one that joblib starts to look after semaphores."""
    found = []
    for child in _children(pid):
        with contextlib.suppress(OSError):
            if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text():
                found.append(child)
    return found


def _wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while (alive := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    return alive


def _finish(source: Path, out: Path, whole: dict[str, bytes]) -> None:
    _run(source, out)
    assert tree(out) == whole


@pytest.mark.parametrize("group", [True, False], ids=["the group", "the parent alone"])
def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(
    group: bool, source: Path, whole: dict[str, bytes], seconds: float, chance: random.Random, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(ROUNDS):
        run = _start(source, out, start_new_session=True)
        time.sleep(chance.uniform(0.1, seconds))
        workers = _workers(run.pid)
        (os.killpg if group else os.kill)(run.pid, signal.SIGKILL)
        run.communicate(timeout=60)
        assert not _wait_until_gone(workers, 2), "workers outlived their parent"
        before = tree(out) if out.exists() else {}
        assert_nothing_half_written(out, whole)
        time.sleep(0.1)
        assert before == (tree(out) if out.exists() else {}), "something was written after the end"
    _finish(source, out, whole)


def _look(out: Path, whole: dict[str, bytes], seen: Counter[str]) -> None:
    """What a reader may look at is as it should be; with the manifest all of it is there."""
    is_complete = (out / "manifest.json").exists()
    names = [name for name in whole if (out / name).exists()]
    for name in names:
        assert (out / name).read_bytes() == whole[name], f"{name} is in sight and not what it should be"
    seen["partly" if 0 < len(names) < len(whole) else "looks"] += 1
    if is_complete:
        assert set(names) == set(whole), "a manifest, but not all files"
        with contextlib.closing(readers.ArraySource(out)) as source:
            assert len(source) == 24_000
            assert source[len(source) - 1]["array"].shape == (64,)
        seen["complete"] += 1


def test_a_reader_that_looks_all_the_time_never_sees_part_of_a_file(
    source: Path, whole: dict[str, bytes], seconds: float, chance: random.Random, tmp_path: Path
) -> None:
    seen, rounds = Counter[str](), max(2, ROUNDS // 2)
    for i in range(rounds):
        out = tmp_path / f"out{i}"
        for kill in (True, False) if i % 2 else (False,):
            run = _start(source, out, start_new_session=True)
            end = time.monotonic() + (chance.uniform(0.1, seconds) if kill else 60)
            while run.poll() is None and time.monotonic() < end:
                _look(out, whole, seen)
                time.sleep(0.005)
            if kill and run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
            _, told = run.communicate(timeout=60)
            assert kill or run.returncode == 0, told
            _look(out, whole, seen)
    assert seen["partly"]
    assert seen["complete"] >= rounds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(
    number: signal.Signals, source: Path, whole: dict[str, bytes], seconds: float, chance: random.Random, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for i in range(ROUNDS):
        run = _start(source, out, start_new_session=True)
        time.sleep(chance.uniform(0.3 * seconds, 0.9 * seconds))
        workers = _workers(run.pid)
        (os.killpg if i % 2 else os.kill)(run.pid, number)
        _, told = run.communicate(timeout=5)
        if run.returncode == 0:  # it was done before
            assert tree(out) == whole
            continue
        # Before the command listens, the signal ends the process as it would any other.
        assert run.returncode in (128 + number, -number), told
        assert "Traceback" not in told or (number == signal.SIGINT and run.returncode == -number)
        assert not _wait_until_gone(workers, 2)
        assert not [name for name in tree(out) if name.endswith(".shard")] if out.exists() else True
        assert_nothing_half_written(out, whole)
    _finish(source, out, whole)


# Where the signal comes is where a random time hits once in a thousand runs.
UNLUCKY = {
    "in a hook of fork, where exceptions are dropped": """
        import random  # has a hook of its own
        os.register_at_fork(before=stop)
    """,
    "in a finaliser": """
        class Finalised:
            def __del__(self): stop()
        count = pool.effective_jobs
        pool.effective_jobs = lambda jobs: Finalised() and count(jobs)
    """,
    "when a worker is not yet known to its owner": """
        from multiprocessing import process
        start = process.BaseProcess.start
        def start_and_stop(self): start(self), stop()
        process.BaseProcess.start = start_and_stop
    """,
    "where all locks of the tasks are taken": """
        from concurrent.futures import _base
        enter = _base._AcquireFutures.__enter__
        def take(self): enter(self), stop()
        _base._AcquireFutures.__enter__ = take
    """,
}


if not FORKS:  # there is no such place
    del UNLUCKY["in a hook of fork, where exceptions are dropped"]


@pytest.mark.parametrize("where", UNLUCKY.values(), ids=list(UNLUCKY))
def test_a_signal_that_comes_at_an_unlucky_place_ends_it_all_the_same(
    where: str, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out, code = tmp_path / "out", textwrap.dedent(where)
    prelude = "import os, sys\nfrom npy2tfrecord.commands import main\nfrom npy2tfrecord.jobs import pool\nleft = [1]\n"
    stop = "def stop():\n    left and (left.pop(), os.kill(os.getpid(), 15))\n"
    options = ["convert", "--rows", "--num-shards", "12", "--jobs", "2", str(source), str(out)]
    words = [sys.executable, "-c", f"{prelude}{stop}{code}\nsys.exit(main.main())", *options]
    run = subprocess.Popen(words, env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids: set[int] = set()
    while run.poll() is None:
        pids |= set(_workers(run.pid))
        time.sleep(0.01)
    _, told = run.communicate()
    assert (run.returncode, told) == (143, "npy2tfrecord: stopped by SIGTERM; run the same command again to resume\n")
    assert not _wait_until_gone(list(pids), 2)
    assert not [name for name in tree(out) if name.endswith(".shard")] if out.exists() else True
    _finish(source, out, whole)


def test_nohup_is_left_alone_by_a_hangup(source: Path, whole: dict[str, bytes], seconds: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = _start(source, out, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    time.sleep(seconds / 2)
    run.send_signal(signal.SIGHUP)
    run.communicate(timeout=60)
    assert run.returncode == 0
    assert tree(out) == whole


DYING = """
import os, sys
from npy2tfrecord import syscalls
from npy2tfrecord.commands import main
number, left, mark = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
parent, fsync = os.getpid(), syscalls.fsync
def die(handle):
    global left
    left -= os.getpid() != parent
    if left < 0 and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), number)
    fsync(handle)
syscalls.fsync = die
sys.exit(main.main())
"""


@pytest.mark.skipif(not FORKS, reason="the fault is inherited by forked workers only")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_what_a_dying_worker_had_begun_is_written_again(
    number: signal.Signals, source: Path, whole: dict[str, bytes], chance: random.Random, tmp_path: Path
) -> None:
    for i in range(ROUNDS):
        out, mark = tmp_path / f"out{i}", tmp_path / f"died{i}"
        syncs = chance.randrange(9)  # that both workers survive; 36 are made in all
        words = ["convert", "--rows", "--num-shards", "12", "--jobs", "2", str(source), str(out)]
        run = subprocess.run(
            [sys.executable, "-c", DYING, str(int(number)), str(syncs), str(mark), *words],
            env=QUIET,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert run.returncode == 0, run.stderr
        assert tree(out) == whole
        assert mark.exists(), "no worker died"


MANY_WORKERS = """
import os, signal, sys, time
from npy2tfrecord.commands import main
from npy2tfrecord.conversion import converter
from npy2tfrecord.jobs import pool
converter._SECONDS_FOR_PROCESSES = 0
"""
STILLBORN = """
def begin(parent):
    os._exit(1)
pool.begin_worker = begin
"""


def test_a_conversion_goes_on_when_nobody_reads_its_progress(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    run = _start(source, tmp_path / "out", "--progress", "json")
    assert run.stderr is not None
    assert run.stdout is not None
    run.stderr.close()
    said = run.stdout.read()
    run.stdout.close()
    assert run.wait(60) == 0
    assert "24,000 examples" in said
    assert tree(tmp_path / "out") == whole


BROKEN_PIPE = """
import sys
from npy2tfrecord.commands import info, main
def command(arguments):
    raise BrokenPipeError(32, "Broken pipe")
info.run = command
sys.exit(main.main())
"""


@pytest.mark.parametrize("is_read", [True, False])
def test_a_pipe_that_breaks_inside_a_command_is_an_error(is_read: bool) -> None:
    """Whether or not the reader of the output, which may leave when it likes, is there."""
    words = [sys.executable, "-c", BROKEN_PIPE, "info", "x"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        if not is_read:
            assert run.stdout is not None
            run.stdout.close()
        assert run.wait(60) == 1


@pytest.mark.skipif(not FORKS, reason="the fault is inherited by forked workers only")
def test_workers_that_never_begin_end_the_run(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for i in range(6):
        np.save(source / f"{i}.npy", np.zeros(100))
    words = ["convert", "--num-shards", "3", "--jobs", "2", str(source), str(tmp_path / "out")]
    script = f"{MANY_WORKERS}{STILLBORN}sys.exit(main.main())"
    run = subprocess.run([sys.executable, "-c", script, *words], env=QUIET, capture_output=True, text=True, timeout=60)
    assert run.returncode == 8, run.stderr
    assert "worker processes keep dying" in run.stderr
    assert "before they began a shard" in run.stderr
    again = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="joblib's folders would be elsewhere")
def test_a_killed_run_leaves_no_folder_of_joblib(source: Path, seconds: float, tmp_path: Path) -> None:
    run = _start(source, tmp_path / "out", start_new_session=True)
    time.sleep(seconds / 2)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    for directory in ("/dev/shm", tempfile.gettempdir()):
        assert not list(Path(directory).glob(f"joblib_memmapping_folder_{run.pid}_*"))


POISON = """
import os, signal, sys
from npy2tfrecord.commands import main
from npy2tfrecord.sources import array_reader
plain = array_reader.ArrayReader.read
parent = os.getpid()
def read(self, view, start):
    if b"poison" in self.path and os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, view, start)
array_reader.ArrayReader.read = read
sys.exit(main.main())
"""


@pytest.mark.skipif(not FORKS, reason="the fault is inherited by forked workers only")
def test_shards_that_always_kill_their_worker_are_named_when_all_else_is_done(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for i in range(12):
        np.save(source / f"{i:02d}.npy", np.full((1100, 10), i, dtype=">f4"))  # big-endian: not read straight
    np.save(source / "05-poison.npy", np.zeros((1100, 10), dtype=">f4"))
    words = ["convert", "--rows", "--no-shuffle", "--num-shards", "13", "--jobs", "2", str(source), str(out)]
    run = subprocess.run([sys.executable, "-c", POISON, *words], env=QUIET, capture_output=True, text=True, timeout=120)
    assert run.returncode == 8, run.stderr
    assert "train-00005-of-00013.tfrecord" in run.stderr
    assert not (out / "train-00005-of-00013.tfrecord").exists()
    assert len(list(out.glob("*.tfrecord"))) >= 13 - 4  # four are given to two workers at a time
    assert not (out / "manifest.json").exists()
    assert not list((out / ".npy2tfrecord").glob("*.shard"))
    again = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr


def test_of_two_runs_on_one_output_one_is_refused_or_both_are_right(
    source: Path, whole: dict[str, bytes], chance: random.Random, tmp_path: Path
) -> None:
    for i in range(ROUNDS):
        out = tmp_path / f"out{i}"
        first = _start(source, out)
        time.sleep(chance.uniform(0, 0.2))
        second = _start(source, out)
        codes = []
        for run in (first, second):
            _, told = run.communicate(timeout=60)
            codes.append(run.returncode)
            assert run.returncode in (0, 6), told
        assert 0 in codes
        assert tree(out) == whole
