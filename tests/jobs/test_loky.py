"""The private parts of joblib that `jobs/loky.py` uses are as it expects, and nothing else uses any."""

from __future__ import annotations

import inspect
import os
import re
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path

import joblib
import pytest

from npy2tfrecord.jobs import loky

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"_(executor|processes|loky|externals)\b|joblib\.externals|joblib\._")
CHANGED = f"joblib {joblib.__version__} has changed; see npy2tfrecord/jobs/loky.py"


def test_private_parts_of_joblib_are_used_in_one_file_alone() -> None:
    paths = [path for package in ("npy2tfrecord", "readers") for path in (ROOT / package).rglob("*.py")]
    assert [path.name for path in paths if PRIVATE.search(path.read_text())] == ["loky.py"]


def test_joblib_has_the_private_parts_that_are_used() -> None:
    try:
        from joblib.externals.loky import ProcessPoolExecutor
    except ImportError:
        pytest.fail(f"{CHANGED}: no joblib.externals.loky.ProcessPoolExecutor")
    assert issubclass(ProcessPoolExecutor, Executor), CHANGED
    assert {"max_workers", "initializer", "initargs", "env"} <= {*inspect.signature(ProcessPoolExecutor).parameters}, (
        CHANGED
    )
    with loky.workers(2, int, ()) as executor:
        pid = executor.submit(os.getpid).result(60)
        assert pid in getattr(executor, "_processes", {}), f"{CHANGED}: no workers by process id in _processes"


def test_workers_are_gone_after_the_block_and_their_end_is_an_error_of_the_standard_library() -> None:
    with loky.workers(2, int, ()) as executor:
        pids = {executor.submit(os.getpid).result(60) for _ in range(10)}
        with pytest.raises(BrokenExecutor):
            executor.submit(os._exit, 1).result(60)
    with loky.workers(2, int, ()) as executor:
        pids |= {executor.submit(os.getpid).result(60) for _ in range(10)}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_calculate_with_one_thread_each() -> None:
    with loky.workers(1, int, ()) as executor:
        assert executor.submit(os.getenv, "OPENBLAS_NUM_THREADS").result(60) == "1"
