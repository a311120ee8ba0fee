"""Importing and calling the library changes nothing in the caller's process, and nothing of its workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

STATE = """
import gc, multiprocessing, os, pathlib, signal, sys, threading, warnings

def state():
    from joblib.externals.loky.backend import context
    return {
        "garbage collector": (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "start methods": (multiprocessing.get_start_method(allow_none=True), context.get_start_method()),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "threads": threading.enumerate(),
        "children": sorted(child.pid for child in multiprocessing.active_children()),
        "output": (sys.stdout, sys.stderr),
    }
"""

CALLS = """
import contextlib
import joblib, numpy as np, tqdm
before = state()
import npy2tfrecord
from npy2tfrecord.commands import main
from npy2tfrecord.conversion import converter
from npy2tfrecord.conversion import surveyor
from npy2tfrecord.sources import headers
assert state() == before, "importing"
converter._SECONDS_FOR_PROCESSES = 0
surveyor._TASKS_FOR_PROCESSES, headers._FILES_PER_TASK = 1, 2

def differs(what):
    after = state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, (what, [(before[name], after[name]) for name in changed])

source, out = sys.argv[1:]
for jobs in (1, 2):
    npy2tfrecord.convert(source, out, jobs=jobs, overwrite=True, num_shards=3)
    differs(f"converting, {jobs} jobs")
    npy2tfrecord.verify(out, jobs=jobs, source=source)
    differs(f"verifying, {jobs} jobs")
    npy2tfrecord.scan(source, jobs=jobs)
    differs(f"scanning, {jobs} jobs")
    with contextlib.suppress(ValueError):
        npy2tfrecord.convert(source, out, jobs=jobs, overwrite=True, dtype="int8")
    differs(f"failing, {jobs} jobs")
    assert main.main(["convert", source, out, "--overwrite", "--quiet", f"--jobs={jobs}"]) == 0
    assert main.main(["info", out]) == 0
    differs(f"calling main, {jobs} jobs")
"""

WORKERS = """
import os, sys, time
import joblib
import npy2tfrecord
from npy2tfrecord.conversion import converter

converter._SECONDS_FOR_PROCESSES = 0

def pid():
    time.sleep(0.1)
    return os.getpid()

def pids():
    return set(joblib.Parallel(n_jobs=2)(joblib.delayed(pid)() for _ in range(8)))

def fail(progress):
    if progress.shards_total:
        raise ZeroDivisionError

source, out = sys.argv[1:]
before = pids()
for jobs in (1, 2):
    for options in ({"dtype": "int8"}, {"progress": fail}, {"num_shards": 3}):
        try:
            npy2tfrecord.convert(source, out, jobs=jobs, overwrite=True, **options)
        except (ValueError, ZeroDivisionError) as error:
            print(type(error).__name__)
assert pids() == before
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    for i in range(20):
        np.save(directory / f"{i}.npy", np.full((100, 3), 1000.5 * i))
    return directory


def run(code: str, *words: str | Path) -> str:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_and_calling_change_nothing(source: Path, tmp_path: Path) -> None:
    run(STATE + CALLS, source, tmp_path / "out")


def test_importing_the_readers_changes_nothing() -> None:
    run(f"{STATE}import joblib, numpy\nbefore = state()\nimport readers\nassert state() == before, (before, state())")


def test_the_callers_own_workers_live_on_when_a_conversion_fails(source: Path, tmp_path: Path) -> None:
    said = run(WORKERS, source, tmp_path / "out")
    assert said.split() == ["InputError", "ZeroDivisionError"] * 2
