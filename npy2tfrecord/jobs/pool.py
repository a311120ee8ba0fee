"""Running tasks on joblib's backends: here, on all cores, or on a cluster.

Only paths, ranges and results cross a process boundary. Results come in the order they are done.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from itertools import islice, pairwise
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeVar

from npy2tfrecord.errors import UsageError, WorkerError
from npy2tfrecord.jobs import dask_cluster
from npy2tfrecord.syscalls import usable_cores

Result = TypeVar("Result")

_OWN_PROCESSES = ("loky", "multiprocessing")  # whose workers are children of this process
_PARENT_POLL_SECONDS = 0.5
TICK_SECONDS = 0.5
_CALLS_PER_JOB = 4
_END_SECONDS = 1.0  # that a killed worker takes at most
STOPPED_TICKS = 10  # in a row that see a worker stopped before it is given up
_DEATHS = 4  # of workers until it is no accident
_KNOWN_JOBLIB = "1.6."  # whose resource tracker is started as below; another version starts it by itself
_BOOKKEEPER = "resource_tracke"  # joblib's, by the name that the system knows; it takes 15 letters


def is_local(backend: str) -> bool:
    """Whether the workers are processes of this machine that are started for the purpose."""
    return backend in _OWN_PROCESSES


def effective_jobs(jobs: int | None) -> int:
    """How many jobs to run at once; None and -1 mean one a core that this process may use."""
    if jobs is None:
        return usable_cores()
    return jobs if jobs > 0 else max(1, usable_cores() + 1 + jobs)


def run(
    function: Callable[..., Result], tasks: Iterable[tuple[Any, ...]], *, jobs: int, backend: str
) -> Iterator[Result]:
    """`run_once`, for tasks that may be done twice: what a dying worker took with it is done again."""
    if not is_local(backend):  # a cluster sees to it
        yield from run_once(function, tasks, jobs=jobs, backend=backend)
        return
    given: dict[int, tuple[Any, ...]] = {}  # and not done
    new = enumerate(tasks)

    def give() -> Iterator[tuple[Any, ...]]:
        yield from [(function, number, *task) for number, task in given.items()]
        for number, task in new:
            given[number] = task
            yield (function, number, *task)

    deaths = 0
    while True:
        try:
            for number, result in run_once(_numbered, give(), jobs=jobs, backend=backend):
                del given[number]
                yield result
            return
        except WorkerError:
            deaths += 1
            if deaths == _DEATHS:
                raise


def _numbered(function: Callable[..., Result], number: int, *arguments: Any) -> tuple[int, Result]:
    return number, function(*arguments)


def run_once(
    function: Callable[..., Result],
    tasks: Iterable[tuple[Any, ...]],
    *,
    jobs: int,
    backend: str,
    tick: Callable[[], None] | None = None,
    apart: bool = False,
) -> Iterator[Result]:
    """Call `function` with each tuple of arguments; yields what it returns, in the order of completion.

    With one job everything runs right here, in order, and no process is started, unless the tasks are to be kept
    `apart` from this process. `tick` is called twice a second meanwhile. An error in a task is raised here, and no
    further task is begun. Raises `WorkerError` when a worker process died, `UsageError` for an unknown backend.
    """
    if jobs == 1 and is_local(backend) and not apart:
        with _watched(tick, False):
            for task in tasks:
                yield function(*task)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import BrokenProcessPool

    if apart:
        jobs = max(jobs, 2)  # of one job joblib makes no process
    # Arguments are small (max_nbytes): nothing is to be passed through files. joblib makes a folder for them all the
    # same, unless it is told in which, and a run that is killed would leave it.
    settings: dict[str, Any] = {}
    if backend == "loky":
        settings = {"initializer": begin_worker, "initargs": (os.getpid(),), "temp_folder": gettempdir()}
    if backend == "dask":
        tick, function = _both(tick, dask_cluster.watch_for_workers()), dask_cluster.guarded(function)
    _register(backend)
    if backend == "loky":
        _set_start_method()
    try:
        parallel = Parallel(
            n_jobs=jobs,
            backend=dask_cluster.backend() if backend == "dask" else backend,
            return_as=_form(backend),
            batch_size=1,
            max_nbytes=None,
            **settings,
        )
    except ValueError as error:  # from joblib, which lists those it knows
        raise UsageError(f"backend {backend!r}: {error}") from None
    calls = (delayed(function)(*task) for task in tasks)
    # This starts workers, which may be forks: no thread yet.
    try:
        results: Any = parallel(calls) if parallel.return_generator else _in_turns(parallel, calls, jobs)
    except (BrokenProcessPool, BrokenPipeError) as error:  # while tasks were still being given out
        raise _lost(error) from None  # the pipe is the one to joblib's bookkeeper, which can be killed as well
    with _watched(tick, is_local(backend)):
        try:
            yield from results
        except BrokenProcessPool as error:
            raise _lost(error) from None
        except Exception as error:
            if (meaning := dask_cluster.meaning(error)) is None:
                raise
            raise meaning from None
        finally:
            with contextlib.suppress(Exception):
                results.close()


def _lost(error: Exception) -> WorkerError:
    stop_workers()
    return WorkerError(f"a worker process died ({type(error).__name__})")


def _both(first: Callable[[], None] | None, second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        if first is not None:
            first()
        second()

    return call


def _form(backend: str) -> str:
    """How joblib is to give results: one by one, where the backend can."""
    from joblib.parallel import BACKENDS

    can = backend not in BACKENDS or BACKENDS[backend].supports_return_generator
    return "generator_unordered" if can or backend == "dask" else "list"


def _in_turns(parallel: Any, calls: Iterator[Any], jobs: int) -> Iterator[Any]:
    """The results of a backend that gives no single ones: some for every worker at a time."""
    while some := list(islice(calls, _CALLS_PER_JOB * jobs)):
        yield from parallel(some)


def _register(backend: str) -> None:
    """Make joblib know a backend that another package brings and does not register by itself."""
    if backend == "ray":
        try:
            register = import_module("ray.util.joblib").register_ray
        except ImportError:
            raise UsageError("backend 'ray' needs the package ray: pip install ray") from None
        register()


_own_process = False


def prefer_fork() -> None:
    """Let workers be forks of this process where that is safe: they start in 30 ms instead of 400.

    For a command that owns its process and runs no other thread. A library's caller may run any number of them, and a
    fork would inherit their locks.
    """
    global _own_process
    _own_process = True


def can_fork() -> bool:
    """Whether workers may be forks of this process as it is now."""
    return _own_process and sys.platform == "linux" and threading.active_count() == 1


def _set_start_method() -> None:
    if can_fork():
        import joblib
        from joblib.externals.loky.backend import context, resource_tracker

        spawn = resource_tracker.spawnv_passfds
        if joblib.__version__.startswith(_KNOWN_JOBLIB) and spawn.__module__ == resource_tracker.__name__:
            resource_tracker.spawnv_passfds = partial(_start_bookkeeper, spawn)
        warnings.filterwarnings("ignore", message=".*fork.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        context.set_start_method("fork", force=True)


def _start_bookkeeper(spawn: Callable[..., Any], path: str, words: list[str], handles: list[int]) -> Any:
    """Start joblib's resource tracker as a fork: anew it would import all of joblib beside the workers' first shards.

    Only the `handles`, standard error and the pipe from this process, stay open in it. `spawn` is joblib's own way.
    """
    from joblib.externals.loky.backend import resource_tracker

    if not can_fork():
        return spawn(path, words, handles)
    if pid := os.fork():
        return pid, None
    try:
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(_BOOKKEEPER)
        kept = sorted({-1, *handles, 2**16})
        for handle, following in pairwise(kept):
            os.closerange(handle + 1, following)
        resource_tracker.main(handles[-1])
    finally:
        os._exit(0)


def stop_workers() -> None:
    """End the worker processes at once, in whatever state they are."""
    executor = _executor()
    if executor is not None:
        processes = list((executor._processes or {}).values())
        for process in processes:
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(process.pid, signal.SIGKILL)
        for process in processes:  # joblib looks for children of those that are not gone
            with contextlib.suppress(Exception):
                process.join(_END_SECONDS)
        with contextlib.suppress(Exception):
            executor.shutdown(wait=True, kill_workers=True)


def _executor() -> Any:
    module = sys.modules.get("joblib.externals.loky.reusable_executor")
    return None if module is None else module._executor


def _processes(executor: Any) -> list[int]:
    return [process.pid for process in list((executor._processes or {}).values())]


@contextlib.contextmanager
def _watched(tick: Callable[[], None] | None, processes: bool) -> Iterator[None]:
    """Call `tick` twice a second until the block ends, and look after worker processes.

    A worker that is stopped (SIGSTOP, a debugger that left) would be waited for for ever: it is killed instead.
    """
    processes = processes and os.path.isdir("/proc/self")
    if tick is None and not processes:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        seen: dict[int, int] = {}
        while not ended.wait(TICK_SECONDS):
            if tick is not None:
                tick()
            executor = _executor() if processes else None
            stopped = [pid for pid in _processes(executor) if is_stopped(pid)] if executor else []
            seen = {pid: seen.get(pid, 0) + 1 for pid in stopped}
            for pid, ticks in seen.items():
                if ticks >= STOPPED_TICKS:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def is_stopped(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[:1] == ["T"]


def begin_worker(parent: int) -> None:
    gc.freeze()  # what a fork has of its parent is not to be searched for garbage, and so copied: joblib asks for that
    for number in (signal.SIGINT, signal.SIGHUP):  # a signal to the group is the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this worker soon after the process that started it: joblib leaves workers of a killed parent running."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(1)
