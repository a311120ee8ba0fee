"""How many requests are under way: none at the side where nothing waits, many where calls do."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from npy2tfrecord.storage import in_flight
from npy2tfrecord.storage.in_flight import MOST_IN_FLIGHT, InFlight


class Calls:
    """Requests that take some time; counts those that are under way at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.done: list[int] = []
        self.most = self.now = 0
        self._lock = threading.Lock()

    def work(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            with self._lock:
                self.now += 1
                self.most = max(self.most, self.now)
            if self.seconds:
                time.sleep(self.seconds)
            with self._lock:
                self.now -= 1
                self.done.append(number)


def test_requests_that_do_not_wait_run_in_order_in_the_callers_thread() -> None:
    calls, before = Calls(), threading.active_count()
    with InFlight() as requests:
        for first in range(0, 20_000, 1000):
            requests.run(calls.work, range(first, first + 1000))
        assert threading.active_count() == before
    assert calls.done == list(range(20_000))


def test_requests_that_wait_are_put_under_way_together() -> None:
    calls, before = Calls(0.005), threading.active_count()
    with InFlight() as requests:
        for first in range(0, 3000, 1000):
            requests.run(calls.work, range(first, first + 1000))
    assert sorted(calls.done) == list(range(3000))
    assert 16 <= calls.most <= MOST_IN_FLIGHT
    assert threading.active_count() == before


def test_the_next_batch_runs_while_the_caller_is_busy() -> None:
    calls = Calls(0.002)
    with InFlight(8) as requests:
        first = requests.submit(calls.work, range(100))
        second = requests.submit(calls.work, range(100, 200))
        requests.wait(first)
        deadline = time.monotonic() + 20
        while not second.is_done and time.monotonic() < deadline:
            time.sleep(0.001)
        assert second.is_done
        requests.wait(second)
    assert sorted(calls.done) == list(range(200))


@pytest.mark.parametrize("limit", [1, 3, 16])
def test_a_limit_is_kept(limit: int) -> None:
    calls = Calls(0.001)
    with InFlight(limit) as requests:
        requests.run(calls.work, range(300))
    assert sorted(calls.done) == list(range(300))
    assert calls.most <= limit
    assert limit == 1 or calls.most > 1


def test_a_change_is_followed_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    with InFlight() as requests:
        requests.run(calls.work, range(1000))
        assert requests.target == 0
        calls.seconds = 0.005
        requests.run(calls.work, range(2000))
        assert requests.target >= 16
        monkeypatch.setattr(time, "process_time", time.perf_counter)  # the processor is busy all the time
        targets: set[int] = set()

        def work(numbers: Iterator[int]) -> None:
            for number in numbers:
                targets.add(requests.target)
                calls.work(iter([number]))

        requests.run(work, range(3000))
        assert min(targets) < 2  # what waits here is put under way together again


@pytest.mark.parametrize("limit", [1, 8])
def test_the_first_error_in_order_is_raised(limit: int) -> None:
    def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            if number == 40:
                time.sleep(0.05)
                raise ValueError(number)
            if number in (41, 60):
                raise ValueError(number)
            time.sleep(0.001)

    with InFlight(limit) as requests, pytest.raises(ValueError, match=r"^40$"):
        requests.run(work, range(1000))


def test_a_request_that_hangs_is_reported_once_with_its_path(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(in_flight, "HANGING_SECONDS", 0.2)

    def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            time.sleep(1.0 if number == 5 else 0.001)

    with caplog.at_level(logging.WARNING, "npy2tfrecord"), InFlight(4) as requests:
        requests.run(work, range(50), lambda number: b"/data/%d.npy" % number)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["/data/5.npy"]


def test_closing_does_not_wait_for_what_hangs() -> None:
    release = threading.Event()
    started = time.monotonic()
    requests = InFlight(4)

    def work(numbers: Iterator[int]) -> None:
        for _ in numbers:
            release.wait(30)

    requests.submit(work, range(100))
    requests.close()
    assert time.monotonic() - started < 10
    release.set()


def test_signals_reach_the_main_thread_while_requests_wait(tmp_path: Path) -> None:
    code = """
import signal, sys, time
from npy2tfrecord.storage.in_flight import InFlight
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, stop)
def work(numbers):
    for number in numbers:
        if number == 20:
            print("under way", flush=True)
        time.sleep(0.01 if number < 20 else 600)
try:
    with InFlight() as requests:
        requests.run(work, range(100))
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    os.kill(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "stopped\n"
    assert process.returncode == 0
