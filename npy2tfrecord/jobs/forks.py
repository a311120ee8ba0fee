"""Tasks for processes forked from this one: small tasks that are not all known when the first of them begin.

The processes start within milliseconds. For a command that owns its process: see `parallel.prefer_fork`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from npy2tfrecord import syscalls
from npy2tfrecord.errors import WorkerError
from npy2tfrecord.jobs import pool

Result = TypeVar("Result")
Task = tuple[Any, ...]

_AHEAD = 2  # tasks given to a process at a time, so that it never waits for the next
_DEATHS = 4  # of processes until it is no accident
_LENGTH_BYTES = 8
_READ_BYTES = 1 << 18


class _Worker:
    """A process, the pipes to and from it, and the tasks it has."""

    def __init__(self, function: Callable[..., Any], others: Iterable[_Worker]) -> None:
        task_end, self.tasks = os.pipe()
        self.results, result_end = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            try:
                pool.begin_worker(parent)
                for handle in (self.tasks, self.results, *(h for other in others for h in other.handles)):
                    os.close(handle)
                _work(function, task_end, result_end)
            finally:
                os._exit(1)
        os.close(task_end)
        os.close(result_end)
        os.set_blocking(self.tasks, False)
        self.given: deque[Task] = deque()
        self._unsent = b""
        self._received = bytearray()
        self.ticks_stopped = 0

    @property
    def handles(self) -> tuple[int, int]:
        return self.tasks, self.results

    def give(self, task: Task) -> None:
        self.given.append(task)
        self._unsent += _framed(task)
        self.send()

    def send(self) -> None:
        """Send as much as the pipe takes."""
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self.tasks, self._unsent) :]
        except (BlockingIOError, BrokenPipeError):
            pass  # broken, it has died: reading tells

    @property
    def is_sending(self) -> bool:
        return bool(self._unsent)

    def receive(self) -> list[Any] | None:
        """What it has done; None when it has ended."""
        data = os.read(self.results, _READ_BYTES)
        self._received += data
        done = []
        while len(self._received) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._received[:_LENGTH_BYTES], "little")
            if len(self._received) < end:
                break
            done.append(pickle.loads(self._received[_LENGTH_BYTES:end]))
            del self._received[:end]
            self.given.popleft()
        return done if data or done else None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        for handle in self.handles:
            os.close(handle)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def run(
    function: Callable[..., Result], tasks: Iterator[Task], *, jobs: int, tick: Callable[[], None] | None = None
) -> Iterator[Result]:
    """Call `function` with each tuple of arguments in `jobs` processes; yields what it returns, as it is done.

    Tasks are taken while the processes are at work, and `tick` is called at least twice a second meanwhile. What a
    process that dies had to do is given to another. An error in a task is raised here; `WorkerError` when processes
    keep dying.
    """
    workers: list[_Worker] = []
    again: deque[Task] = deque()  # tasks of those that died
    deaths = 0
    try:
        workers += [_Worker(function, ())]
        while len(workers) < jobs:
            workers.append(_Worker(function, list(workers)))
        is_more, ticked = True, time.monotonic()
        while True:
            while is_more or again:
                free = min(workers, key=lambda worker: len(worker.given))
                if len(free.given) >= _AHEAD:
                    break
                task = again.popleft() if again else next(tasks, None)
                if task is None:
                    is_more = False
                else:
                    free.give(task)
                if free.given and any(_ready(workers, 0)):
                    break
            if not is_more and not again and not any(worker.given for worker in workers):
                return
            for worker in _ready(workers, pool.TICK_SECONDS):
                done = worker.receive()
                for succeeded, result in done or ():
                    if not succeeded:
                        raise result
                    yield result
                if done is None:
                    deaths += 1
                    if deaths == _DEATHS:
                        raise WorkerError("processes that read headers keep dying (out of memory?); try --jobs 1")
                    again += worker.given
                    workers.remove(worker)
                    worker.end()
                    workers.append(_Worker(function, list(workers)))
            if time.monotonic() - ticked >= pool.TICK_SECONDS:
                ticked = time.monotonic()
                _end_stopped(workers)
                if tick is not None:
                    tick()
    finally:
        for worker in workers:  # all at once: taking a process apart takes milliseconds
            worker.kill()
        for worker in workers:
            worker.end()


def _ready(workers: list[_Worker], seconds: float) -> list[_Worker]:
    """Those that have something to tell, within that time; to all others goes what they can take."""
    poll = select.poll()
    for worker in workers:
        poll.register(worker.results, select.POLLIN)
        if worker.is_sending:
            poll.register(worker.tasks, select.POLLOUT)
    handles = {handle for handle, _ in poll.poll(seconds * 1000)}
    for worker in workers:
        if worker.tasks in handles:
            worker.send()
    return [worker for worker in workers if worker.results in handles]


def _end_stopped(workers: list[_Worker]) -> None:
    """Kill what was stopped (SIGSTOP, a debugger that left) for long: it would be waited for for ever."""
    for worker in workers:
        worker.ticks_stopped = worker.ticks_stopped + 1 if pool.is_stopped(worker.pid) else 0
        if worker.ticks_stopped >= pool.STOPPED_TICKS:
            worker.kill()


def _framed(value: Any) -> bytes:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def _work(function: Callable[..., Any], tasks: int, results: int) -> None:
    """Do the tasks that come until there are no more."""
    with os.fdopen(tasks, "rb", buffering=_READ_BYTES) as source:
        while length := source.read(_LENGTH_BYTES):
            task = pickle.loads(source.read(int.from_bytes(length, "little")))
            try:
                answer = True, function(*task)
            except Exception as error:
                answer = False, error
            syscalls.write_all(results, _framed(answer))
