"""Runs that are killed at a system call, by strace."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jobs import Chance, Job, Told, fail, tree
from processes import children, is_alive

CALLS = ("openat", "close", "write", "fsync", "rename", "unlink", "pwrite64", "mkdir", "rmdir", "ftruncate")
FAILING = (
    *CALLS,
    "newfstatat",
    "fstat",
    "read",
    "pread64",
    "preadv",
    "readv",
    "writev",
    "getdents64",
    "statfs",
)
ERRORS = {
    "openat": ("EMFILE", "EACCES", "EROFS", "ESTALE", "ENOSPC"),
    "write": ("ENOSPC", "EDQUOT", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "EACCES", "ESTALE"),
    "mkdir": ("EACCES", "ENOSPC"),
}


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "X"


def _trace(pid: int, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Let strace follow a process that has stopped itself, and let the process go on."""
    tracer = subprocess.Popen(["strace", "-q", "-o", str(log), *words, "-p", str(pid)], stderr=subprocess.DEVNULL)
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.001)
    os.kill(pid, signal.SIGCONT)
    return tracer


def _traced(job: Job, out: Path, whose: str, words: list[str], log: Path) -> tuple[int, str]:
    """A run whose parent, or whose first worker, is under strace from the first line of the command on."""
    log.write_bytes(b"")
    if whose == "worker":
        child = job.start(out, stop_workers=True)
        tracer, seen = None, set[int]()
        while is_alive(child):
            for pid in children(child):
                if pid not in seen and _state(pid) == "T":
                    seen.add(pid)
                    if tracer is None:
                        tracer = _trace(pid, words, log)
                    else:
                        os.kill(pid, signal.SIGCONT)
            time.sleep(0.001)
    else:
        child = job.start(out, jobs=1 if whose == "only process" else 2, stopped=True)
        while _state(child) != "T":
            time.sleep(0.001)
        tracer = _trace(child, words, log)
    ended = job.wait(child)
    if tracer is not None:
        tracer.wait(timeout=30)
    return ended


def _kill_at_call(root: Path, count: int, whose: str, call: str, end: float) -> Told:
    """SIGKILL at every call of one kind by one process, each followed by a run to the end."""
    told: Told = Counter()
    job = Job(root, files=64, floats=100)
    out, log = root / "out", root / "trace"
    missed = 0
    for number in range(1, count + 1):
        if time.monotonic() > end:
            return told + Counter({"stopped by the time budget": 1})
        words = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        code, said = _traced(job, out, whose, words, log)
        job.check_in_sight(out)
        if code not in ((0,) if whose == "worker" else (0, -signal.SIGKILL)):
            fail(f"{call} {number} of the {whose}: exit code {code}: {said}")
        lines = log.read_text().splitlines()
        # Idle workers are killed at the end of a run.
        hit = lines[-1:] == ["+++ killed by SIGKILL +++"] and sum(f"{call}(" in line for line in lines) == number
        job.finish(out)
        shutil.rmtree(out)
        told[f"{call} of the {whose}"] += hit
        missed = 0 if hit else missed + 1
        if missed == (3 if whose == "worker" else 1):  # how many calls fall to a worker is another in every run
            break
    return told


def _fail_at_call(root: Path, count: int, call: str, end: float) -> Told:
    """Every call of one kind fails once, or from then on; each time followed by a run to the end."""
    told: Told = Counter()
    job = Job(root, files=6, floats=100, options=("--num-shards=2",))
    out, log = root / "out", root / "trace"
    for number in range(1, count + 1):
        hits = 0
        for lasting, error in product(("", "+"), ERRORS.get(call, ("EIO",))):
            if time.monotonic() > end:
                return told + Counter({"stopped by the time budget": 1})
            what = f"{call} {number}{lasting} with {error}"
            words = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}{lasting}"]
            code, said = _traced(job, out, "only process", words, log)
            hits += "(INJECTED)" in log.read_text(errors="replace")
            job.check_in_sight(out)
            is_whole = set(job.whole.items()) <= set(tree(out).items())
            if code == 0 and not is_whole:
                fail(f"{what}: exit code 0, but not all is there")
            if call == "write" and (not said or is_whole):  # its result could not be written, to a file here
                code = 5 if code else 0
            elif code not in (0, 2, 4, 5) or (code and os.strerror(getattr(errno, error)) not in said):
                fail(f"{what}: exit code {code}: {said}")
            told[f"{call} exit code {code}"] += 1
            job.finish(out)
            shutil.rmtree(out)
        if not hits:
            break
    return told


def kill_at_calls(whose: str) -> Callable[[Path, int, Chance, float], Told]:
    def run(root: Path, count: int, chance: Chance, end: float) -> Told:
        return _at_once(_kill_at_call, [(root / call, count, whose, call, end) for call in CALLS])

    return run


def fail_at_calls(root: Path, count: int, chance: Chance, end: float) -> Told:
    return _at_once(_fail_at_call, [(root / call, count, call, end) for call in FAILING])


def _at_once(function: Callable[..., Told], tasks: list[tuple[Any, ...]]) -> Told:
    if not shutil.which("strace"):
        return Counter({"skipped: strace is not installed": 1})
    told: Told = Counter()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        for one in [pool.submit(function, *task) for task in tasks]:
            told += one.result()
    return told
