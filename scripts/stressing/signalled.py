"""Runs that a shell has started in one way or another, and that a signal stops."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

from jobs import Chance, Job, fail, tree, wait_until_gone
from processes import children, evidence

WAYS = ("foreground", "terminal", "background", "nohup", "setsid")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMAND = """
import sys
from npy2tfrecord.commands import convert, main, merge
sys.path.append(sys.argv.pop(1))
from processes import leave_evidence
leave_evidence(sys.argv.pop(1))
command = merge if sys.argv[1] == "merge" else convert
run = command.run
def run_with_workers(arguments):
    from npy2tfrecord.conversion import converter  # no sooner than the command imports it
    converter._SECONDS_FOR_PROCESSES = 0
    return run(arguments)
command.run = run_with_workers
sys.exit(main.main())
"""
IN_BACKGROUND = '"$@" & echo $!; wait $!'  # as a script does, where a command so started ignores SIGINT


class Command:
    """A job that a shell has started, in one of the ways that decide which signals it sees."""

    def __init__(self, job: Job, out: Path, way: str) -> None:
        self.terminal = -1
        self._dump = job.root / "dump"
        self._dump.unlink(missing_ok=True)
        words = [sys.executable, "-c", COMMAND, str(Path(__file__).parent), str(self._dump), *job.words(out)]
        words = {
            "background": ["bash", "-c", IN_BACKGROUND, "bash", *words],
            "nohup": ["nohup", *words],
            "setsid": ["setsid", *words],
        }.get(way, words)
        own = -1
        if way == "terminal":
            self.terminal, own = os.openpty()

        def prepare() -> None:
            for number in NUMBERS:  # which this very process may ignore
                signal.signal(number, signal.SIG_DFL)
            if own >= 0:
                fcntl.ioctl(own, termios.TIOCSCTTY, 0)

        self._log = (job.root / "said").open("w+b")
        self.process = subprocess.Popen(
            words,
            stdin=own if own >= 0 else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=way != "setsid",
            preexec_fn=prepare,
        )
        if own >= 0:
            os.close(own)
        assert self.process.stdout is not None
        self.pid = int(self.process.stdout.readline()) if way == "background" else self.process.pid

    def hit(self, number: signal.Signals, group: bool) -> None:
        """Send the signal; what has a terminal gets it from there: Ctrl-C, or the terminal goes."""
        if self.terminal >= 0 and number == signal.SIGINT:
            os.write(self.terminal, b"\x03")
        elif self.terminal >= 0 and number == signal.SIGHUP:
            self.hang_up()
        else:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group and os.getpgid(self.pid) == self.pid else os.kill)(self.pid, number)

    def hang_up(self) -> None:
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def wait(self, seconds: float) -> tuple[int, str]:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            told = evidence(self.pid, self._dump)
            os.kill(self.pid, signal.SIGKILL)
            self._log.seek(0)
            fail(f"no end after {seconds} s: {self._log.read()!r}\n{told}")
        self.hang_up()
        self._log.seek(0)
        with self._log:
            return code, self._log.read().decode(errors="replace")

    def heard(self) -> str:
        """Where the first signal came to the run, empty when it did not."""
        return self._dump.read_text() if self._dump.exists() else ""


_usual: list[float] = []  # how long such a command takes


def signals(job: Job, chance: Chance) -> str:
    out, number, way = job.root / "out", chance.choice(NUMBERS), chance.choice(WAYS)
    started = time.monotonic()
    if not _usual:
        Command(job, job.root / "first", "foreground").wait(60)
        _usual.append(time.monotonic() - started)
    command = Command(job, out, way)
    time.sleep(chance.uniform(0.2, 1) * _usual[0])  # Python itself takes the first part of it
    workers = children(command.pid)
    group, twice = chance.random() < 0.5, chance.random() < 0.2
    for _ in range(1 + twice):
        command.hit(number, group)
    deaf = (way, number) in (("background", signal.SIGINT), ("nohup", signal.SIGHUP))
    code, said = command.wait(60 if deaf else 5)
    code = 128 - code if code < 0 else code
    told = f"npy2tfrecord: stopped by {number.name}" in said
    came = command.heard()
    if code not in ((0,) if deaf else (128 + number,) if came else (0, 128 + number)):
        fail(f"{way}, {number.name}: exit code {code}: {said}\n{came}")
    wait_until_gone(workers)
    job.check_in_sight(out)
    if told and not twice:
        unfinished = (".shard", ".idx", ".keys")
        left = [name for name in tree(out) if name.startswith(".npy2tfrecord/") and name.endswith(unfinished)]
        if left:
            fail(f"temporary files were left: {left}")
    job.finish(out)
    how = "let pass" if deaf else "done before" if not code else "stopped in order" if told else "before it listened"
    return f"{way} {number.name} {how}"
