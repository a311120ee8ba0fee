"""Keeping many requests under way where storage answers late, and none but one where it doesn't.

A batch of requests is a loop over their numbers, `work(numbers)`, written by whoever knows what a request is. Where
calls return at once, the loop runs as it is, in the caller's thread: it costs nothing to be able to do otherwise. Where
calls wait, the same loop runs in several threads that take their numbers from one queue.

How many threads, measured on 2 cores with 24,000 files of 4 KB (open, readv, fstat, close; seconds, 1 process):

    a call waits      1 thread    4     8    16    32    64
    not at all          0.16   0.15  0.17  0.16  0.16  0.16
    0.1 ms              6.8    1.7   0.96  0.64  0.60  0.93
    1 ms               58                  3.4   1.6   1.0
    10 ms             487                 30.6  15.2   7.7

A file costs the processor 6 us where nothing waits, 16 to 25 us in threads that do, and 40 us with more threads than
it can serve. So threads pay as long as the processor has time left, and more of them than that cost a little:

- In the caller's thread, a slice of 4 requests, then 8, 16 … 256, is timed. It waits if more than a fifth of its time
  was not the processor's and the thread was put to sleep at least once for every 2 requests: a thread that only had to
  leave its processor to others was not. Then 2 x (time waiting / time of the processor) threads are begun.
- With threads, every 50 ms: a processor that was busy for less than 70 % of the time gets twice as many, one that was
  for more than 95 % half as many; below 2 the caller's thread does it again.

A first slice takes 8 ms at 1 ms a call and 80 ms at 10 ms; each doubling takes 50 ms.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

from npy2tfrecord.errors import display

try:
    import resource
except ImportError:  # not on this system
    RUSAGE_THREAD = None
else:
    RUSAGE_THREAD = getattr(resource, "RUSAGE_THREAD", None)

MOST_IN_FLIGHT = 64  # in one process, by default
HANGING_SECONDS = 30.0  # after which a request that got no answer is reported

_FIRST_SLICE, _LAST_SLICE = 4, 256  # requests between two looks at the clock
_WAITING = 0.2  # part of a slice's time that it waits from which on threads are worth it
_SLEEPS = 0.5  # for each request, that show it was not other processes that took the time
_PERIOD_SECONDS = 0.05
_IDLE, _BUSY = 0.7, 0.95  # of a period, the processor's part
_END_SECONDS = 1.0  # that threads are waited for at the end: one may be in a call that never returns

_remembered = 0

Work = Callable[[Iterator[int]], None]
"""Does the requests whose numbers it gets, one after the other. Runs in several threads at a time."""


def remembered() -> int:
    """How many requests were under way in the end when this process, or the one it was forked from, was last at it."""
    return _remembered


def remember(target: int) -> None:
    """Let those that ask the storage next begin with so many requests."""
    global _remembered
    _remembered = target


def requests_for(*, in_bucket: bool, limit: int | None, most: int = MOST_IN_FLIGHT) -> InFlight:
    """The requests for files of one place. Objects are always waited for: `most` are under way, or `limit`."""
    return InFlight(most if in_bucket and limit is None else limit, begin=remembered(), most=most)


class _Use(NamedTuple):
    """What a thread used: time, time on the processor, and how often a call put it to sleep, if that is known."""

    wall: float
    cpu: float
    sleeps: int

    def __sub__(self, other: _Use) -> _Use:
        return _Use(self.wall - other.wall, self.cpu - other.cpu, self.sleeps - other.sleeps)

    def plus(self, other: _Use) -> _Use:
        return _Use(self.wall + other.wall, self.cpu + other.cpu, self.sleeps + other.sleeps)


_NOTHING = _Use(0.0, 0.0, 0)


class Batch:
    """Requests that were submitted together."""

    def __init__(self, work: Work, numbers: Sequence[int], path_of: Callable[[int], bytes] | None) -> None:
        self.work = work
        self.order = numbers
        self.left = deque(numbers)  # taking one is safe in any thread
        self.path_of = path_of
        self.threads = 0  # that are at work for it
        self.failures: list[tuple[int, BaseException]] = []  # with the place in the order

    @property
    def is_done(self) -> bool:
        return not self.left and not self.threads

    def fail(self, number: int, error: BaseException) -> None:
        """End the batch after what is under way. All before `number` are: the first error in order will be known."""
        self.left.clear()
        self.failures.append((self.order.index(number), error))


class InFlight:
    """The requests of one process, or of one part of its work.

    `limit` is the number of threads to use; None finds it out as described above, from `begin` on and up to `most`, and
    1 never begins a thread. Threads end with `close`, which the `with` statement calls; nothing is to be forked before.
    They also end by themselves when there was nothing to do for `idle` seconds, if that is given.
    """

    def __init__(
        self, limit: int | None = None, *, begin: int = 0, most: int = MOST_IN_FLIGHT, idle: float | None = None
    ) -> None:
        self._limit = limit
        self._most = most
        self._idle = idle
        self._target = min(begin, most) if limit is None else limit if limit > 1 else 0
        self._slice = _FIRST_SLICE
        self._seen, self._count = _NOTHING, 0  # since the last judgement, in the caller's thread
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()  # those with requests nobody has begun
        self._threads: dict[int, threading.Thread] = {}
        self._current: dict[int, tuple[Batch, int]] = {}  # of each thread that is at work
        self._is_closed = False
        self._since = time.perf_counter(), time.process_time()  # of the last look
        self._hanging: dict[int, tuple[tuple[Batch, int], float]] = {}  # thread: its request, seen since

    @property
    def target(self) -> int:
        """How many requests are to be under way; 0 for one at a time in the caller's thread."""
        return self._target

    def submit(self, work: Work, numbers: Sequence[int], path_of: Callable[[int], bytes] | None = None) -> Batch:
        """Begin requests, unless they are to run in the caller's thread; `wait` sees to the rest.

        `path_of` gives the path of a request, for a report that it hangs.
        """
        batch = Batch(work, numbers, path_of)
        if self._target:
            with self._changed:
                self._batches.append(batch)
                self._begin_threads()
                self._changed.notify_all()
        return batch

    def wait(self, batch: Batch) -> None:
        """Return when all requests of a batch are done. Raises the error of the first, in order, that failed."""
        while not batch.is_done:
            if not self._target:
                self._work_here(batch)
                continue
            with self._changed:
                if batch.left and batch not in self._batches:
                    self._batches.appendleft(batch)
                self._begin_threads()
                self._changed.notify_all()
                while self._target and not batch.is_done:
                    self._changed.wait(_PERIOD_SECONDS)
                    self._look()
        if batch.failures:
            raise min(batch.failures, key=lambda failure: failure[0])[1]

    def run(self, work: Work, numbers: Sequence[int], path_of: Callable[[int], bytes] | None = None) -> None:
        """Do requests, and return when they are done."""
        self.wait(self.submit(work, numbers, path_of))

    def close(self) -> None:
        """End the threads. Requests that nobody has begun are dropped."""
        with self._changed:
            self._is_closed = True
            for batch in self._batches:
                batch.left.clear()
            self._batches.clear()
            for batch, _ in self._current.values():
                batch.left.clear()
            self._changed.notify_all()
            threads = list(self._threads.values())
        deadline = time.monotonic() + _END_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    def __enter__(self) -> InFlight:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- in the caller's thread

    def _work_here(self, batch: Batch) -> None:
        """Do a slice of a batch, and find out whether it waited."""
        is_measured, take = self._limit is None, batch.left.popleft
        numbers = [take() for _ in range(min(self._slice, len(batch.left)))]
        before = _measure() if is_measured else _NOTHING
        try:
            batch.work(iter(numbers))
        except BaseException as error:
            batch.fail(numbers[0], error)
            return
        if is_measured:
            used = _measure() - before
            if used.wall > HANGING_SECONDS and batch.path_of is not None:
                paths = " to ".join(
                    display(batch.path_of(number)) for number in dict.fromkeys((numbers[0], numbers[-1]))
                )
                _warn("%s: the storage took %.0f seconds to answer", paths, used.wall)
            self._seen = self._seen.plus(used)
            self._count += len(numbers)
            if self._count >= self._slice:
                self._judge()

    def _judge(self) -> None:
        """Begin threads if the requests since the last time waited."""
        seen, count = self._seen, self._count
        self._seen, self._count = _NOTHING, 0
        self._slice = min(2 * self._slice, _LAST_SLICE)
        waited = seen.wall - seen.cpu
        was_put_to_sleep = RUSAGE_THREAD is None or seen.sleeps >= _SLEEPS * count
        if waited > _WAITING * seen.wall and was_put_to_sleep:
            self._target = min(max(2, round(2 * waited / max(seen.cpu, 1e-6))), self._most)
            self._since = time.perf_counter(), time.process_time()

    # --- in threads

    def _begin_threads(self) -> None:
        needed = sum(len(batch.left) for batch in self._batches)
        for number in range(min(self._target, needed)):
            if number in self._threads:
                continue
            thread = threading.Thread(target=self._serve, args=(number,), name=f"storage-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system allows no more
                self._limit = self._target = number if number > 1 else 0
                return
            self._threads[number] = thread

    def _serve(self, number: int) -> None:
        """Work for one batch after the other, until the end."""
        changed = self._changed
        while True:
            with changed:
                while (batch := self._next_batch() if number < self._target else None) is None:
                    if self._is_closed:
                        return
                    if not changed.wait(self._idle) and self._next_batch() is None:
                        del self._threads[number]
                        return
                batch.threads += 1
            try:
                batch.work(self._take(batch, number))
            except BaseException as error:
                current = self._current.get(number)
                batch.fail(current[1] if current else batch.order[0], error)
            with changed:
                self._current.pop(number, None)
                batch.threads -= 1
                if batch.is_done:
                    changed.notify_all()

    def _next_batch(self) -> Batch | None:
        """The first batch with requests that nobody has begun."""
        while self._batches and not self._batches[0].left:
            self._batches.popleft()
        return self._batches[0] if self._batches else None

    def _take(self, batch: Batch, number: int) -> Iterator[int]:
        current, take = self._current, batch.left.popleft
        while number < self._target:
            try:
                request = take()
            except IndexError:
                return
            current[number] = batch, request
            yield request

    def _look(self) -> None:
        """Adapt the number of threads to how busy the processor was, and report what hangs."""
        now, cpu = time.perf_counter(), time.process_time()
        wall, busy = now - self._since[0], cpu - self._since[1]
        if wall < _PERIOD_SECONDS:
            return
        self._since = now, cpu
        if self._limit is None:
            if busy > _BUSY * wall:
                self._target //= 2
                if self._target < 2:
                    self._target, self._slice = 0, _FIRST_SLICE
                    self._seen, self._count = _NOTHING, 0
            elif busy < _IDLE * wall and self._target < self._most:
                self._target = min(2 * self._target, self._most)
                self._begin_threads()
                self._changed.notify_all()
        self._report_hanging(now)

    def _report_hanging(self, now: float) -> None:
        self._hanging = {number: seen for number, seen in self._hanging.items() if number in self._current}
        for number, current in list(self._current.items()):
            seen, since = self._hanging.get(number, (None, 0.0))
            if current is not seen:
                self._hanging[number] = current, now
            elif now - since > HANGING_SECONDS:
                self._hanging[number] = current, float("inf")  # once
                batch, request = current
                if batch.path_of is not None:
                    path = display(batch.path_of(request))
                    _warn("%s: no answer from the storage for %.0f seconds; waiting", path, now - since)


def _warn(message: str, path: str, seconds: float) -> None:
    import logging  # takes 4 ms to import, and hardly anything hangs

    logging.getLogger("npy2tfrecord").warning(message, path, seconds)


def _measure() -> _Use:
    if RUSAGE_THREAD is None:
        return _Use(time.perf_counter(), time.thread_time(), 0)
    used = resource.getrusage(RUSAGE_THREAD)
    return _Use(time.perf_counter(), used.ru_utime + used.ru_stime, used.ru_nvcsw)
