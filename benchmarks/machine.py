"""Running a command whole, from its start to its exit; what it used; and the machine it ran on."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300


class Failed(Exception):
    """A command failed or took too long, or its result is wrong."""


# As packages are installed: with their bytecode compiled, whatever the shell that started this says.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
    "TF_CPP_MIN_LOG_LEVEL": "3"
}


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does: its blocks end, and with them what it started."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # one is enough: ending must not be cut short
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


@dataclass
class Memory:
    """Peaks in bytes: of the first process, and the largest of those it started. Private: shared with no other."""

    parent: int
    worker: int
    worker_private: int
    processes: int


@dataclass
class Outcome:
    """What one run took."""

    seconds: float
    cpu: float
    output: str
    memory: Memory | None = None


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    memory: bool = False,
    env: Mapping[str, str] = {},
    timeout: float = TIMEOUT_SECONDS,
) -> Outcome:
    """What a command took from start to exit. Raises `Failed` with the end of its output."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**_ENVIRONMENT, **env},
            start_new_session=True,
        )
        watcher = _Watcher(process.pid) if memory else None
        killer = threading.Timer(timeout, _kill_group, (process.pid,))
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            _end_group(process.pid)
        except BaseException:  # a signal: Ctrl-C doesn't reach a session of its own
            _kill_group(process.pid)
            process.wait()
            raise
        finally:
            killer.cancel()
            peaks = watcher.stop() if watcher else None
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if process.returncode and seconds >= timeout:
        raise Failed(f"not done after {timeout:.0f} seconds")
    if process.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {process.returncode}: …{text.strip()[-1500:]}")
    return Outcome(seconds, usage.ru_utime + usage.ru_stime, text, peaks)


def _kill_group(pid: int) -> None:
    """Ends a process that leads a session of its own, and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _end_group(pid: int) -> None:
    """Waits for processes that a process left behind, and kills those that take long."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        for _ in range(100):
            os.killpg(pid, 0)
            time.sleep(0.02)
        os.killpg(pid, signal.SIGKILL)


class _Watcher:
    """Samples the memory of a process and all below it, 20 times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._resident: dict[int, int] = {}
        self._private: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            try:
                first = psutil.Process(self._pid)
                processes = [first, *first.children(recursive=True)]
            except psutil.Error:
                continue
            for process in processes:
                with contextlib.suppress(psutil.Error):  # it has just ended
                    memory = process.memory_full_info()
                    self._resident[process.pid] = max(self._resident.get(process.pid, 0), memory.rss)
                    self._private[process.pid] = max(self._private.get(process.pid, 0), memory.uss)

    def stop(self) -> Memory:
        self._ended.set()
        self._thread.join()
        workers = self._resident.keys() - {self._pid}
        return Memory(
            self._resident.get(self._pid, 0),
            max((self._resident[pid] for pid in workers), default=0),
            max((self._private[pid] for pid in workers), default=0),
            len(self._resident),
        )


def clear(path: Path) -> None:
    """Removes an output and flushes the disk before the next run."""
    shutil.rmtree(path, ignore_errors=True)
    if file_system(path.parent) != "tmpfs":
        os.sync()


def drop_caches() -> bool:
    """Empties the page cache and that of names. False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


def file_system(path: Path) -> str:
    """The kind of file system that a directory is on."""
    path = path.resolve()
    mounts = [each for each in psutil.disk_partitions(all=True) if path.is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else "unknown"


def available_memory() -> int:
    """Bytes that processes could still take."""
    return psutil.virtual_memory().available


def describe() -> dict[str, str | int]:
    """The machine, in a few words."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
