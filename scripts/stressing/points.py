"""A signal at every place where Python looks whether one has come, in what a run and the modules below it execute."""

from __future__ import annotations

import atexit
import dis
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from multiprocessing import util
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jobs
from jobs import Chance, Job, Told, fail, tree, wait_until_gone
from processes import children, evidence, leave_evidence

from npy2tfrecord.commands import convert, merge
from npy2tfrecord.conversion import surveyor
from npy2tfrecord.sources import headers

# Python runs handlers behind a call, at the start of a function and at the end of a turn of a loop.
_LOOKS = ("CALL", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD")
_WHOSE = ("/npy2tfrecord/", "/joblib/", "/multiprocessing/", "/concurrent/", "/threading.py", "/queue.py")
_ALSO = ("/logging/", "/weakref.py", "/contextlib.py", "/selectors.py", "/subprocess.py", "/random.py")
_GO_ON = "run the same command again to resume"


@cache
def _looks(code: CodeType) -> frozenset[int]:
    """The offsets in a function before which Python looks for signals; empty in what is of no interest."""
    if not any(part in code.co_filename for part in (*_WHOSE, *_ALSO)):
        return frozenset()
    found, last = set(), ""
    for instruction in dis.get_instructions(code):
        if last in _LOOKS:
            found.add(instruction.offset)
        last = instruction.opname
    return frozenset(found)


def _name(code: CodeType) -> str:
    return f"{code.co_filename}:{code.co_firstlineno}:{code.co_name}"


def _trace(visit: Any) -> None:
    """Call `visit` at each such place that the main thread passes."""

    def local(frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode" and frame.f_lasti in _looks(frame.f_code):
            visit(frame)
        return local

    def begin(frame: FrameType, event: str, argument: object) -> Any:
        if not _looks(frame.f_code):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return local

    sys.settrace(begin)


def _start(job: Job, out: Path, visit: Any, *, begun: Any = None, at_end: Any = None) -> int:
    """Start a run that is traced from where it listens to signals, and leaves as the command does."""

    def prepare() -> None:
        headers._FILES_PER_TASK, surveyor._TASKS_FOR_FORKS = 8, 1  # headers are read by processes too
        leave_evidence(job.root / "dump")
        atexit._clear()  # what this very process has to do at its end
        atexit.register(util._exit_function)  # type: ignore[attr-defined]
        command: Any = merge if jobs.kind == "merge" else convert
        run: Callable[[Any], int] = command.run

        def traced(arguments: Any) -> int:
            if begun:
                begun()
            _trace(visit)
            try:
                return run(arguments)
            finally:
                sys.settrace(None)
                if at_end:
                    at_end()

        command.run = traced

    return job.start(out, prepare=prepare, leave=_leave)


def _leave() -> None:
    """What Python does before a process ends."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def signals_at_points(root: Path, count: int, chance: Chance, end: float) -> Told:
    """SIGTERM, SIGINT or SIGHUP at so many of those places, each place once."""
    job, told = Job(root, files=24, floats=2000), Counter[str]()
    out, log = root / "out", root / "points"
    seen: Counter[tuple[str, int]] = Counter()

    def note(frame: FrameType) -> None:
        seen[_name(frame.f_code), frame.f_lasti] += 1

    def save() -> None:
        log.write_text(json.dumps([[*place, times] for place, times in seen.items()]))

    code, said = job.wait(_start(job, out, note, at_end=save), 120)
    if code:
        fail(f"exit code {code}: {said}")
    places = json.loads(log.read_text())
    chance.shuffle(places)
    told["places in all"] = len(places)
    failed = []
    for name, offset, times in places[:count]:
        if time.monotonic() > end:
            told["stopped by the time budget"] += 1
            break
        shutil.rmtree(out, ignore_errors=True)
        number, at = chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)), chance.randint(1, times)
        try:
            told[_stop_at(job, out, name, offset, at, number)] += 1
        except AssertionError as error:
            failed.append(f"{number.name} at offset {offset} of {name}, time {at}: {error}")
    if failed:
        fail(f"{len(failed)} of {told}\n" + "\n\n".join(failed))
    return told


def _stop_at(job: Job, out: Path, name: str, offset: int, left: int, number: signal.Signals) -> str:
    """One run, and the signal when it passes the place for the `left`th time."""
    dump, runs = job.root / "dump", list[int]()

    def visit(frame: FrameType) -> None:
        nonlocal left
        if os.getpid() == runs[0] and frame.f_lasti == offset and _name(frame.f_code) == name:  # not in a worker
            left -= 1
            if not left:
                os.kill(os.getpid(), number)

    child = _start(job, out, visit, begun=lambda: runs.append(os.getpid()))
    found, status, pids, until = 0, 0, set[int](), time.monotonic() + 5
    while not found:
        if time.monotonic() > until:
            told = evidence(child, dump)
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            fail(f"no end: {told}")
        pids |= set(children(child))
        found, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    code, said, came = os.waitstatus_to_exitcode(status), job.log(child), dump.read_text()
    (job.root / f"log-{child}").unlink(missing_ok=True)
    if not came:
        return "not reached"
    if (code, said) != (128 + number, f"npy2tfrecord: stopped by {number.name}; {_GO_ON}\n"):
        fail(f"exit code {code}: {said}\n{came}")
    wait_until_gone(list(pids))
    job.check_in_sight(out)
    if names := [name for name in tree(out) if name.startswith(".npy2tfrecord/") and name.endswith((".shard", ".idx"))]:
        fail(f"temporary files were left: {names}\n{came}")
    job.finish(out)
    return "stopped in order"
