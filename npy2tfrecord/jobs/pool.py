"""Running tasks: in processes of this machine, on a Dask cluster, or on another backend of joblib.

Only paths, ranges and results cross a process boundary. Results come in the order of completion.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from npy2tfrecord.errors import UsageError, WorkerError
from npy2tfrecord.jobs import loky
from npy2tfrecord.syscalls import usable_cores

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

Result = TypeVar("Result")
Task = tuple[Any, ...]
Tick = Callable[[], None]

_TICK_SECONDS = 0.5
_TASKS_PER_JOB = 2  # given to the workers at a time, so that none waits for its next one
_TASKS_PER_TURN = 4  # the same for a backend that returns results only when all of them are there
_DEATHS = 4  # of workers, with no result between them
_PARENT_POLL_SECONDS = 0.5
_END_SECONDS = 1.0  # that killed workers may take to be gone
_THREAD_END_SECONDS = 0.1  # the same for a thread that has been joined
# Before, an executor whose worker died while a large task was sent to it never ended (CPython issue 94777).
_PYTHON_FOR_FORKS = (3, 11, 5)


def is_local(backend: str) -> bool:
    """Whether the workers are processes of this machine that are started for the purpose."""
    return backend == "loky"


def effective_jobs(jobs: int | None) -> int:
    """How many jobs to run at once; None and -1 mean one for each core that this process may use."""
    if jobs is None:
        return usable_cores()
    return jobs if jobs > 0 else max(1, usable_cores() + 1 + jobs)


def connected(backend: str, scheduler: str | None, jobs: int, sources: Sequence[bytes]) -> AbstractContextManager[None]:
    """With the backend `dask`, a block connected to a cluster (see `dask_cluster.connected`); else one of nothing."""
    if backend != "dask":
        return contextlib.nullcontext()
    from npy2tfrecord.jobs import dask_cluster

    return dask_cluster.connected(scheduler, jobs, sources)


def run(
    function: Callable[..., Result], tasks: Iterable[Task], tick: Tick | None = None, *, jobs: int, backend: str
) -> Generator[Result, None, None]:
    """Call `function` with each tuple of arguments; yields its results in the order of completion.

    Tasks are taken while the workers are busy, and `tick` is called twice a second meanwhile. With one job on this
    machine all is done in this process. When a worker dies, the tasks that were under way are done again, after all
    others: a task must allow that. Close the iterator to stop the workers before its end.

    Raises what a task raises, `WorkerError` when workers keep dying, and `UsageError` for an unknown backend.
    """
    if is_local(backend):
        if jobs == 1:
            return _run_here(function, tasks, tick)
        return _run_locally(function, tasks, jobs, tick)
    if backend == "dask":
        return _run_on_dask(function, tasks, tick)
    return _run_with_joblib(function, tasks, jobs, backend, tick)


def _run_here(
    function: Callable[..., Result], tasks: Iterable[Task], tick: Tick | None
) -> Generator[Result, None, None]:
    with _ticking(tick):
        for task in tasks:
            yield function(*task)


def _run_locally(
    function: Callable[..., Result], tasks: Iterable[Task], jobs: int, tick: Tick | None
) -> Generator[Result, None, None]:
    from concurrent.futures import BrokenExecutor  # here and below: it loads more than a conversion by one job needs

    remaining, deaths = iter(tasks), 0
    while True:
        under_way: dict[int, Task] = {}
        try:
            with _workers(jobs) as executor:
                submit = partial(executor.submit, function)
                for result in _results(submit, remaining, under_way, lambda: _TASKS_PER_JOB * jobs, tick):
                    deaths = 0
                    yield result
                return
        except BrokenExecutor as error:
            deaths += 1
            if deaths == _DEATHS:
                raise WorkerError(f"worker processes keep dying ({type(error).__name__})") from None
            remaining = chain(remaining, under_way.values())


def _run_on_dask(
    function: Callable[..., Result], tasks: Iterable[Task], tick: Tick | None
) -> Generator[Result, None, None]:
    from npy2tfrecord.jobs import dask_cluster

    with contextlib.closing(dask_cluster.Tasks()) as cluster:

        def watch() -> None:
            cluster.watch()
            if tick is not None:
                tick()

        results: Iterator[Result] = _results(
            partial(cluster.submit, function), iter(tasks), {}, lambda: _TASKS_PER_JOB * cluster.threads, watch
        )
        try:
            yield from results
        except Exception as error:
            if (meaning := dask_cluster.meaning(error)) is None:
                raise
            raise meaning from None


def _results(
    submit: Callable[..., Future[Result]],
    tasks: Iterator[Task],
    under_way: dict[int, Task],
    ahead: Callable[[], int],
    tick: Tick | None,
) -> Iterator[Result]:
    """The results of all `tasks`. As many as `ahead` returns are submitted at a time; those are `under_way`."""
    from concurrent.futures import FIRST_COMPLETED, wait

    futures: dict[Future[Result], int] = {}
    numbers, ticked = iter(range(sys.maxsize)), time.monotonic()
    while True:
        for task in islice(tasks, max(0, ahead() - len(futures))):
            number = next(numbers)
            under_way[number] = task
            futures[submit(*task)] = number
        if not futures:
            return
        done, _ = wait(futures, _TICK_SECONDS, FIRST_COMPLETED)
        for future in sorted(done, key=lambda one: one.exception() is not None):  # first what succeeded
            result = future.result()
            del under_way[futures.pop(future)]
            yield result
        if tick is not None and time.monotonic() - ticked >= _TICK_SECONDS:
            ticked = time.monotonic()
            tick()


# --- processes of this machine -------------------------------------------------------------------

_owns_process = False


def prefer_fork() -> None:
    """Let workers be forks of this process where that is safe: they start in 30 ms instead of 400.

    For a command that owns its process. A library's caller may run threads at any time, and a fork inherits the locks
    that they hold.
    """
    global _owns_process
    _owns_process = True


def can_fork() -> bool:
    """Whether workers may be forks of this process as it is now."""
    return _owns_process and sys.version_info >= _PYTHON_FOR_FORKS and _is_single_threaded()


def _is_single_threaded() -> bool:
    """Whether this process has no second thread, of Python or of a library (BLAS); False where that is not known.

    obstore's are not counted: a fork never waits for one of them, since it loads obstore anew (`storage.objects`).
    """
    if threading.active_count() > 1:
        return False
    deadline = time.monotonic() + _THREAD_END_SECONDS
    try:
        while sum(not _is_of_obstore(task) for task in os.listdir("/proc/self/task")) > 1:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)  # the system may still see a thread that Python has joined
    except OSError:
        return False
    return True


def _is_of_obstore(task: str) -> bool:
    try:
        with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().startswith("tokio-") and "obstore" in sys.modules
    except FileNotFoundError:  # it has ended
        return False


def _workers(jobs: int) -> AbstractContextManager[Executor]:
    """An executor with `jobs` processes of its own, which are gone when the block ends."""
    start = _forks if can_fork() else loky.workers
    return start(jobs, begin_worker, (os.getpid(),))


@contextlib.contextmanager
def _forks(jobs: int, initializer: Callable[..., None], initargs: tuple[Any, ...]) -> Iterator[Executor]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=initializer, initargs=initargs)
    try:
        yield executor
    finally:
        kill_children()  # this process is our own, and so are all its children
        executor.shutdown(wait=True)


def kill_children() -> None:
    """Kill all processes that this one has started with multiprocessing. For a command that owns its process."""
    if (multiprocessing := sys.modules.get("multiprocessing")) is None:
        return
    children = multiprocessing.active_children()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid or 0, signal.SIGKILL)
    deadline = time.monotonic() + _END_SECONDS
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))


def begin_worker(parent: int) -> None:
    """Make this new process a worker of `parent`: it ignores signals to the group, and ends when its parent does."""
    gc.freeze()  # what a fork shares with its parent is not searched for garbage: that would copy it
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(1)


# --- other backends of joblib ------------------------------------------------------------------------


def _run_with_joblib(
    function: Callable[..., Result], tasks: Iterable[Task], jobs: int, backend: str, tick: Tick | None
) -> Generator[Result, None, None]:
    if backend == "multiprocessing":
        raise UsageError("backend 'multiprocessing' waits forever for a worker that was killed; use 'loky'")
    from joblib import Parallel, delayed
    from joblib.parallel import BACKENDS

    _register(backend)
    yields = backend not in BACKENDS or BACKENDS[backend].supports_return_generator
    try:
        parallel = Parallel(
            n_jobs=jobs,
            backend=backend,
            return_as="generator_unordered" if yields else "list",
            batch_size=1,
            max_nbytes=None,
        )
    except ValueError as error:  # lists the backends that joblib knows
        raise UsageError(f"backend {backend!r}: {error}") from None
    calls = (delayed(function)(*task) for task in tasks)
    with _ticking(tick):
        try:
            if yields:
                with contextlib.closing(parallel(calls)) as results:
                    yield from results
            else:
                while some := list(islice(calls, _TASKS_PER_TURN * jobs)):
                    yield from parallel(some)
        except Exception as error:
            if not _is_dead_ray_worker(error):
                raise
            raise WorkerError(f"a worker of the cluster died ({type(error).__name__})") from None


def _register(backend: str) -> None:
    """Make joblib know a backend that another package brings and does not register by itself."""
    if backend == "ray":
        try:
            register = import_module("ray.util.joblib").register_ray
        except ImportError:
            raise UsageError("backend 'ray' needs the package ray: pip install ray") from None
        register()


def _is_dead_ray_worker(error: Exception) -> bool:
    ray = sys.modules.get("ray.exceptions")
    return ray is not None and isinstance(error, (ray.WorkerCrashedError, ray.RayActorError))


@contextlib.contextmanager
def _ticking(tick: Tick | None) -> Iterator[None]:
    """Call `tick` twice a second, in a thread, until the block ends."""
    if tick is None:
        yield
        return
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(_TICK_SECONDS):
            tick()

    ticker = threading.Thread(target=repeat, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        ended.set()
        ticker.join()
