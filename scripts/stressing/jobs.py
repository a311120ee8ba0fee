"""A small job, and forks of this process, which has imported everything, that run it: hundreds take minutes."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.ma
from processes import is_alive

import npy2tfrecord
from npy2tfrecord.checking import comparer  # noqa: F401
from npy2tfrecord.commands import convert, main, merge, progress, signals, text  # noqa: F401
from npy2tfrecord.conversion import converter, merger  # noqa: F401
from npy2tfrecord.jobs import pool
from npy2tfrecord.storage.objects import Prefix

Told = Counter[str]
Chance = random.Random

KINDS = {
    "convert": "a conversion",
    "not-in": "a conversion of what another data set lacks",
    "merge": "a merge of two data sets",
    "bucket": "a conversion to a bucket of SeaweedFS",
}
kind = "convert"  # of every job, as `scripts/stress --of` chose it
bucket = ""  # the URL of a bucket for jobs that write to one

Place = Path | str  # a directory, or the URL of a place in the bucket


def fail(message: str) -> None:
    raise AssertionError(message)


class Job:
    """A small job: 64 files, 8 shards, 2 workers.

    For a merge the files are in two data sets. What is there already, for a conversion of the rest, is as much again.
    """

    def __init__(self, root: Path, *, files: int = 64, floats: int = 5000, options: tuple[str, ...] = ()) -> None:
        self.root, self.source, self.examples, self.options = root, root / "source", files, options
        self.source.mkdir(parents=True)
        self._outs = 0
        rng = np.random.default_rng(1)
        for i in range(files):
            np.save(self.source / f"{i:03d}.npy", rng.standard_normal((floats + i, 1)).astype("f4"))
        self._words = ["convert", str(self.source)]
        if kind == "merge":
            sets = [str(root / "set0"), str(root / "set1")]
            for number, out in enumerate(sets):
                npy2tfrecord.convert(self.source, out, include=("*[02468].npy", "*[13579].npy")[number])
            self._words = ["merge", *sets]
        elif kind == "not-in":
            for i in range(files):
                np.save(self.source / f"old{i:03d}.npy", np.zeros((floats, 1), "f4"))
            npy2tfrecord.convert(self.source, root / "set0", include="old*.npy")
            self._words = ["convert", f"--not-in={root / 'set0'}", str(self.source)]
        self.out: Place = root / "out"
        started = time.monotonic()
        self.finish(root / "whole")
        self.whole = tree(root / "whole")
        self.seconds = time.monotonic() - started
        if kind == "bucket":
            self.options = (*options, f"--scratch={root / 'scratch'}")
            self.leave_out()
            started = time.monotonic()
            self.finish(self.out)
            self.seconds = time.monotonic() - started
            self.leave_out()

    def leave_out(self) -> None:
        """Let the next run begin with an output where nothing is."""
        if kind == "bucket":
            self._outs += 1
            self.out = f"{bucket}/{self.root.parent.name}/{self._outs}"
        else:
            shutil.rmtree(self.out, ignore_errors=True)

    def words(self, out: Place, jobs: int = 2, extra: tuple[str, ...] = ()) -> list[str]:
        """The words of the command."""
        command, *sources = self._words
        return [command, "--quiet", "--num-shards=8", f"--jobs={jobs}", *self.options, *extra, *sources, str(out)]

    def start(
        self,
        out: Place,
        *,
        jobs: int = 2,
        stopped: bool = False,
        stop_workers: bool = False,
        prepare: Callable[[], None] = lambda: None,
        leave: Callable[[], None] = lambda: None,
        extra: tuple[str, ...] = (),
    ) -> int:
        """Start a run in a session of its own; returns its process. It, or each of its workers, may begin `stopped`."""
        words = self.words(out, jobs, extra)
        child = os.fork()
        if child:
            with contextlib.suppress(ProcessLookupError):
                while os.getpgid(child) != child:
                    time.sleep(0.0005)
            return child
        code = 1
        try:
            os.setsid()
            log = os.open(self.root / f"log-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if stopped:
                os.kill(os.getpid(), signal.SIGSTOP)
            if stop_workers:
                begin = pool.begin_worker

                def stop(parent: int) -> None:
                    begin(parent)
                    os.kill(os.getpid(), signal.SIGSTOP)

                pool.begin_worker = stop
            prepare()
            sys.argv = ["npy2tfrecord", *words]
            code = main.main()
            leave()
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self, child: int, seconds: float = 60) -> tuple[int, str]:
        """The exit code of a run (negative for a signal), and what it said."""
        end = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                break
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                fail(f"a run hung for {seconds} s: {self.log(child)}")
            time.sleep(0.002)
        said = self.log(child)
        (self.root / f"log-{child}").unlink(missing_ok=True)
        return os.waitstatus_to_exitcode(status), said

    def log(self, child: int) -> str:
        path = self.root / f"log-{child}"
        return path.read_text(errors="replace") if path.exists() else ""

    def finish(self, out: Place) -> None:
        """Run to the end; what is there then must be what an unbroken run writes."""
        code, said = self.wait(self.start(out))
        if code:
            fail(f"exit code {code}: {said}")
        if hasattr(self, "whole") and tree(out) != self.whole:
            fail("another result than that of an unbroken run")

    def check_in_sight(self, out: Place) -> None:
        there = tree(out)
        if "manifest.json" in there and not self.whole.keys() <= there.keys():
            fail("a manifest of a set that is not whole")
        for name, content in there.items():
            if not name.startswith(".npy2tfrecord/") and content != self.whole.get(name):
                fail(f"{name} is in sight and not what it should be")


def tree(directory: Place) -> dict[str, bytes]:
    if isinstance(directory, str):
        return _in_bucket(directory)
    found = {}
    for path in sorted(directory.rglob("*")) if directory.exists() else ():
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            found[str(path.relative_to(directory))] = path.read_bytes()
    return found


def _in_bucket(url: str) -> dict[str, bytes]:
    """All objects there, read by a fork: obstore in this process would not survive in its later forks."""
    end, told = os.pipe()
    reader = os.fork()
    if not reader:
        found, error = dict[str, bytes](), ""
        try:
            place = Prefix(url)
            for info in place.list_objects():
                with contextlib.suppress(FileNotFoundError):  # a server may end a request of a client that is gone
                    found[info.name] = place.read(info.name, limit=2**30)
        except BaseException as caught:
            error = f"{type(caught).__name__}: {caught}"
        with open(told, "wb") as pipe:
            pickle.dump((found, error), pipe)
        os._exit(0)
    os.close(told)
    with open(end, "rb") as pipe:
        seen: tuple[dict[str, bytes], str] = pickle.load(pipe)
    os.waitpid(reader, 0)
    if seen[1]:
        fail(f"{url} can't be read: {seen[1]}")
    return seen[0]


def wait_until_gone(pids: list[int], seconds: float = 2) -> None:
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > end:
            fail(f"workers {alive} outlived their parent by {seconds} s")
        time.sleep(0.005)
