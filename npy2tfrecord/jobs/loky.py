"""joblib's process pool, loky. All that this package uses of joblib's private parts is here.

| private part | why |
| --- | --- |
| `joblib.externals.loky` | joblib's public `Parallel` shares one pool with all of its callers in this process. When a conversion fails its workers must end, and those of the caller must not. |
| `ProcessPoolExecutor._processes` | The workers of this one pool, by process id. The public `shutdown(kill_workers=True)` runs `pgrep` for each worker, and fails in a thread of loky's while tasks are waiting. |

`tests/jobs/test_loky.py` fails when joblib changes one of them.
"""  # noqa: E501  a table

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Executor

# Of loky's resource tracker, a process that removes semaphores after everyone has gone, and complains that it has to.
_QUIET_TRACKER = "ignore:resource_tracker:UserWarning"
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@contextlib.contextmanager
def workers(jobs: int, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> Iterator[Executor]:
    """An executor with `jobs` processes that no one else uses. They are gone when the block ends."""
    from joblib.externals.loky import ProcessPoolExecutor

    with _warnings_of_children(_QUIET_TRACKER):
        executor = ProcessPoolExecutor(jobs, initializer=initializer, initargs=initargs, env=_ONE_THREAD)
    try:
        yield executor
    finally:
        for pid in list(executor._processes or ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that workers have ended
            executor.shutdown(wait=True)


@contextlib.contextmanager
def _warnings_of_children(filters: str) -> Iterator[None]:
    """Processes that are started in the block follow these filters of warnings too."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{before},{filters}" if before else filters
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before
