"""A Dask cluster: connected to, or started here, checked before it gets any work, and its tasks."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from npy2tfrecord.errors import ClusterError, Error, UsageError, WorkerError, display

if TYPE_CHECKING:
    from concurrent.futures import Future

PACKAGE = "npy2tfrecord"
_CONNECT_SECONDS = 10
_FIRST_WORKER_SECONDS = 10
_SEEN_SECONDS = 5.0  # in which a file that was just written shows on another machine: NFS keeps names for 3
_POLL_SECONDS = 0.2
_ALONE_SECONDS = 60.0  # without any worker before it is given up
_SOURCES_WITH_TASK = 16  # that a task takes along for a late worker to look for
_PYTHON = ".".join(map(str, sys.version_info[:3]))
_UNSEEN, _UNSHARED = "does not see the source", "does not share the output's file system"
_AGAIN = "Run the same command again to resume."

Result = TypeVar("Result")


@dataclass(frozen=True)
class Needs:
    """What a worker must have and see to work for this run. Each task carries it: more workers may come at any time."""

    python: str
    version: str
    sources: tuple[bytes, ...]
    token: str = ""  # a file in the output
    text: str = ""  # in that file


_needs: ContextVar[Needs | None] = ContextVar("needs", default=None)  # of the run that is connected
_met: set[Needs] = set()  # in a worker: those that it meets


@contextlib.contextmanager
def connected(scheduler: str | None, jobs: int, sources: Sequence[bytes]) -> Iterator[None]:
    """Connect to a cluster until the block ends.

    The cluster is the one of `scheduler`, or of the caller's own client, or `jobs` processes on this machine. Raises
    `UsageError` when there is none, and when a worker lacks this package, has another version of it, runs another
    Python or does not see the sources. The error names the worker.
    """
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
        needs = Needs(_minor(_PYTHON), _version(), tuple(sources[:_SOURCES_WITH_TASK]))
        previous = _needs.set(needs)
        try:
            yield
        finally:
            _needs.reset(previous)


@contextlib.contextmanager
def _client(distributed: Any, scheduler: str | None, jobs: int) -> Iterator[Any]:
    cluster: Any = None
    if scheduler is None:
        # Even without a dashboard its scheduler listens for HTTP, by default at a port that another cluster may have.
        cluster = distributed.LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            silence_logs="ERROR",
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


def check_output(directory: str, run: str) -> None:
    """Raise `UsageError` that names a worker of the cluster which does not see or cannot write `directory`.

    A file stays there, by which workers that come later check it. Its name is that of a temporary file of this `run`.
    """
    import distributed

    token, text = os.path.join(directory, f"{run}-token.file"), os.urandom(16).hex()
    with open(token, "x", encoding="ascii") as file:
        file.write(text)
    _check_all(distributed.get_client(), _unshared, token, text, problem=_UNSHARED)
    needs = _needs.get()
    _needs.set(needs and replace(needs, token=token, text=text))


def _guarded(needs: Needs | None, function: Callable[..., Result], *arguments: Any) -> Result:
    if needs is not None and needs not in _met:
        if problem := _unmet(needs):
            from distributed import get_worker

            raise UsageError(f"Dask worker {get_worker().address}, which came later, {problem}. {_AGAIN}")
        _met.add(needs)
    return function(*arguments)


def _version() -> str:
    """The version of this package that is installed here."""
    from importlib import metadata  # takes 10 ms

    return metadata.version(PACKAGE)


def _unmet(needs: Needs) -> str:
    """What this worker lacks; nothing when it fits."""
    for name, expected, found in (
        ("python", needs.python, _minor(_PYTHON)),
        (PACKAGE, needs.version, _version()),
    ):
        if found != expected:
            return f"has {name} {found}; expected {expected}"
    if unseen := _unseen(list(needs.sources)):
        return f"{_UNSEEN} {unseen}"
    if needs.token and (unshared := _unshared(needs.token, needs.text)):
        return f"{_UNSHARED} {unshared}"
    return ""


class Tasks:
    """The tasks of this run on the cluster that is connected, until they are closed."""

    def __init__(self) -> None:
        import distributed
        from distributed.cfexecutor import ClientExecutor

        executor: Any = ClientExecutor
        self._client: Any = distributed.get_client()
        self._pool = executor(self._client, pure=False)
        self.threads = 1  # of all workers
        self._last = time.monotonic()
        self.watch()

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """A future for the result. A worker that does not fit says so instead of calling `function`."""
        # One object without arguments: Dask would search lists of names for futures of its own.
        submitted: Future[Result] = self._pool.submit(partial(_guarded, _needs.get(), function, *arguments))
        return submitted

    def watch(self) -> None:
        """Count the threads of the workers; give the tasks up when there has been no worker for a minute."""
        found = 0
        with contextlib.suppress(OSError):  # of a scheduler that is gone; the client notices too
            if self._client.status == "running":
                found = sum(self._client.ncores().values())
        self.threads = found or self.threads
        if found or self._client.status != "running":
            self._last = time.monotonic()
        elif time.monotonic() - self._last > _ALONE_SECONDS:
            self._client.close()

    def close(self) -> None:
        """Cancel what is not done."""
        with contextlib.suppress(Exception):  # the cluster may be gone
            self._pool.shutdown(wait=False)


def meaning(error: Exception) -> Error | None:
    """The error to raise for an `error` that comes from the cluster; None for one that comes from the task."""
    from concurrent.futures import CancelledError

    import distributed

    if isinstance(error, distributed.KilledWorker):
        last = getattr(error.last_worker, "address", "unknown")
        return WorkerError(f"a task killed every worker of the cluster that it was given to; the last is {last}")
    if isinstance(error, (distributed.CancelledError, CancelledError)):
        return ClusterError(
            f"the cluster is gone, or has no worker left (one that came later and lacks {PACKAGE} ends by itself)."
            f" {_AGAIN}"
        )
    return None if isinstance(error, Error) else _unfit_now()  # perhaps a worker could not even begin


def _unfit_now() -> UsageError | None:
    """An error that names a worker which does not fit by now; None when none is found in time."""
    import distributed

    found: list[UsageError] = []

    def look(client: Any) -> None:
        try:
            _check_software(client)
        except UsageError as error:
            found.append(UsageError(f"{error}. {_AGAIN}"))

    looking = threading.Thread(target=look, args=(distributed.get_client(),), daemon=True)
    looking.start()  # in a thread: a worker that hangs gives no answer
    looking.join(_CONNECT_SECONDS)
    return found[0] if found else None


# --- checking a cluster -------------------------------------------------------------------------


def _check_software(client: Any) -> None:
    # Dask itself asks: a worker answers without this package.
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
    own = f"{token.removesuffix('-token.file')}-{os.urandom(8).hex()}.file"
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
