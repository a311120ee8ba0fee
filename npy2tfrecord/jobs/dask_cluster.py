"""A Dask cluster for joblib: connected to, or started here, and looked over before any work is given to it."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Any, TypeVar

from npy2tfrecord.errors import ClusterError, Error, UsageError, WorkerError, display

PACKAGE = "npy2tfrecord"
_CONNECT_SECONDS = 10
_FIRST_WORKER_SECONDS = 10
_SEEN_SECONDS = 5.0  # in which a file that was just written shows on another machine: NFS keeps names for 3
_POLL_SECONDS = 0.2
_ALONE_SECONDS = 60.0  # without any worker before it is given up
_SOURCES_WITH_TASK = 16  # that a task takes along for a late worker to look for
_PYTHON = platform.python_version()
_UNSEEN, _UNSHARED = "does not see the source", "does not share the output's file system"
_AGAIN = "Run the same command again to go on."

Result = TypeVar("Result")


@dataclass(frozen=True)
class Needs:
    """What a worker must have and see to work for this run. Goes with every task: more workers may come at any time."""

    python: str
    version: str
    sources: tuple[bytes, ...]
    token: str = ""  # a file in the output, and what is in it
    text: str = ""


_needs: ContextVar[Needs | None] = ContextVar("needs", default=None)  # of the run that is connected
_met: set[Needs] = set()  # in a worker: those that it was found to meet


@contextlib.contextmanager
def connected(backend: str, scheduler: str | None, jobs: int, sources: Sequence[bytes]) -> Iterator[None]:
    """With the backend `dask`, have a client of a cluster for joblib until the block ends; otherwise nothing.

    The cluster is the one of `scheduler`, or of the caller's own client, or `jobs` processes on this machine. Raises
    `UsageError` when there is none, or naming a worker that lacks this package or has another version of it, runs
    another Python, or does not see the sources.
    """
    if backend != "dask":
        yield
        return
    try:
        import distributed
    except ImportError:
        raise UsageError(f"backend 'dask' needs the package distributed: pip install '{PACKAGE}[dask]'") from None
    with contextlib.ExitStack() as stack:
        try:
            client = distributed.get_client() if scheduler is None else None
        except ValueError:
            client = None
        if client is None:
            client = stack.enter_context(_client(distributed, scheduler, jobs))
        _check_software(client)
        _check_all(client, _unseen, list(sources), problem=_UNSEEN)
        needs = Needs(_minor(_PYTHON), metadata.version(PACKAGE), tuple(sources[:_SOURCES_WITH_TASK]))
        previous = _needs.set(needs)
        try:
            yield
        finally:
            _needs.reset(previous)


@contextlib.contextmanager
def _client(distributed: Any, scheduler: str | None, jobs: int) -> Iterator[Any]:
    cluster: Any = None
    if scheduler is None:
        cluster = distributed.LocalCluster(
            n_workers=jobs, threads_per_worker=1, dashboard_address=None, silence_logs="ERROR"
        )
    try:
        client = distributed.Client(cluster or scheduler, timeout=_CONNECT_SECONDS)
    # Before Python 3.11 the TimeoutError of Dask is none of Python's, and no OSError.
    except (OSError, ValueError, ImportError, distributed.TimeoutError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler!r} ({error})") from None
    try:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER_SECONDS)
        except distributed.TimeoutError:
            raise UsageError(f"the Dask scheduler at {scheduler!r} has no worker") from None
        yield client
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


def check_output(backend: str, directory: str, run: str) -> None:
    """Raise `UsageError`, naming it, when a worker of the cluster does not see or cannot write `directory`.

    Leaves a file there, by which workers that come later can tell; its name is that of a temporary one of this `run`.
    """
    if backend != "dask":
        return
    import distributed

    token, text = os.path.join(directory, f"{run}-token.file"), secrets.token_hex(16)
    with open(token, "x", encoding="ascii") as file:
        file.write(text)
    _check_all(distributed.get_client(), _unshared, token, text, problem=_UNSHARED)
    needs = _needs.get()
    _needs.set(needs and replace(needs, token=token, text=text))


def guarded(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function` for workers of the cluster: one that does not fit says so instead of calling it."""
    return partial(_guarded, _needs.get(), function)


def _guarded(needs: Needs | None, function: Callable[..., Result], *arguments: Any) -> Result:
    if needs is not None and needs not in _met:
        if problem := _unmet(needs):
            from distributed import get_worker

            raise UsageError(f"Dask worker {get_worker().address}, which came later, {problem}. {_AGAIN}")
        _met.add(needs)
    return function(*arguments)


def _unmet(needs: Needs) -> str:
    """What this worker lacks; nothing when it fits."""
    for name, expected, found in (
        ("python", needs.python, _minor(_PYTHON)),
        (PACKAGE, needs.version, metadata.version(PACKAGE)),
    ):
        if found != expected:
            return f"has {name} {found}; expected {expected}"
    if unseen := _unseen(list(needs.sources)):
        return f"{_UNSEEN} {unseen}"
    if needs.token and (unshared := _unshared(needs.token, needs.text)):
        return f"{_UNSHARED} {unshared}"
    return ""


def watch_for_workers() -> Any:
    """A function to call now and then: ends the client's work when the cluster has had no worker for a minute."""
    import distributed

    client: Any = distributed.get_client()
    last = time.monotonic()

    def watch() -> None:
        nonlocal last
        if client.status != "running" or client.ncores():
            last = time.monotonic()
        elif time.monotonic() - last > _ALONE_SECONDS:
            client.close()

    return watch


def backend() -> Any:
    """joblib's backend for the cluster that is connected."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        """Tells joblib of a task that was given up too, for which it would wait for ever."""

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda done: done.exception() and callback(done.exception()))
            return future

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, int(super().effective_n_jobs(n_jobs)))  # of one job joblib makes no task: it runs it here

        def retrieve_result_callback(self, out: Any) -> Any:
            if isinstance(out, BaseException):
                raise out
            return super().retrieve_result_callback(out)

    return Backend()


def meaning(error: BaseException) -> Error | None:
    """What an `error` of a task means that comes from the cluster and not from the task; None when it is the task's."""
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(error, distributed.KilledWorker):
        last = getattr(error.last_worker, "address", "unknown")
        return WorkerError(f"a task killed every worker of the cluster that it was given to; the last is {last}")
    if distributed is not None and isinstance(error, distributed.CancelledError):
        return ClusterError(
            f"the cluster is gone, or has no worker left (one that came later and lacks {PACKAGE} ends by itself)."
            f" {_AGAIN}"
        )
    ray = sys.modules.get("ray.exceptions")
    if ray is not None and isinstance(error, (ray.WorkerCrashedError, ray.RayActorError)):
        return WorkerError(f"a worker of the cluster died ({type(error).__name__})")
    if _needs.get() is not None and not isinstance(error, Error):  # a worker could not even begin, perhaps
        return _unfit_now()
    return None


def _unfit_now() -> UsageError | None:
    """That a worker of the cluster does not fit by now, if one tells in time."""
    import distributed

    found: list[UsageError] = []

    def look(client: Any) -> None:
        try:
            _check_software(client)
        except UsageError as error:
            found.append(UsageError(f"{error}. {_AGAIN}"))

    looking = threading.Thread(target=look, args=(distributed.get_client(),), daemon=True)
    looking.start()  # apart: a worker that hangs gives no answer
    looking.join(_CONNECT_SECONDS)
    return found[0] if found else None


# --- looking a cluster over ---------------------------------------------------------------------


def _check_software(client: Any) -> None:
    # Asked by Dask itself: nothing of this package needs to be there for it.
    versions = client.get_versions(packages=[PACKAGE])
    ours = versions["client"]
    for address, theirs in sorted(versions["workers"].items()):
        for name, ours_is in (("python", _minor(ours["host"]["python"])), (PACKAGE, ours["packages"][PACKAGE])):
            found = _minor(theirs["host"]["python"]) if name == "python" else theirs["packages"].get(PACKAGE)
            if found is None:
                raise UsageError(f"Dask worker {address} has no package {name}: install {name} {ours_is} there")
            if found != ours_is:
                raise UsageError(f"Dask worker {address} has {name} {found}; expected {ours_is}, as here")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _check_all(client: Any, look: Any, *arguments: Any, problem: str) -> None:
    found = {address: seen for address, seen in client.run(look, *arguments).items() if seen}
    if found:
        address, seen = min(found.items())
        more = f" (and {len(found) - 1} more workers)" if len(found) > 1 else ""
        raise UsageError(f"Dask worker {address} {problem} {seen}{more}: all need the same paths as this machine")


def _unseen(sources: list[bytes]) -> str:
    """The first source that is not there."""
    return next((display(path) for path in sources if not os.path.exists(path)), "")


def _unshared(token: str, text: str) -> str:
    """What is wrong with the directory that `token` was written to; nothing when it can be read and written."""
    own = f"{token.removesuffix('-token.file')}-{secrets.token_hex(8)}.file"
    deadline = time.monotonic() + _SEEN_SECONDS
    while True:
        try:
            with open(token, encoding="ascii") as file:
                if file.read() == text:
                    with open(own, "xb"):
                        pass
                    os.unlink(own)
                    return ""
            reason = "another file is there"
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > deadline:
            return f"{display(os.path.dirname(token))} ({reason})"
        time.sleep(_POLL_SECONDS)
