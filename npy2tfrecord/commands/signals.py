"""Signals that ask this command to end: it stops its workers, removes what is unfinished, and is gone.

Nothing is raised. Python drops an exception that a signal handler raises in a finaliser or a hook of `os.fork`, and one
raised while a lock is taken leaves a lock that nobody gives back. Nothing needs to be raised either: an output is safe
from SIGKILL at any moment, so the handler does the little that is better done at once, and ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from npy2tfrecord import cleanup

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
_owner = 0  # the process that listens


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Until the block ends, one of these signals ends this process in order with 128 + its number; a second, at once.

    Signals that are ignored when the block begins stay ignored: `nohup` and `&` mean what they say. After the block a
    signal ends the process by itself. For a command that owns its process, in its main thread.
    """
    global _owner
    _owner = os.getpid()
    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: object) -> None:
    if os.getpid() != _owner:  # a worker that was forked just now; its parent writes the message
        os._exit(128 + number)
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    try:
        if "npy2tfrecord.jobs.pool" in sys.modules:
            from npy2tfrecord.jobs import pool

            pool.kill_children()  # first: a worker may be at work on what is to be removed
        cleanup.run()
        newline = "\n" if os.isatty(2) else ""  # after the bar, or ^C
        message = (
            f"{newline}npy2tfrecord: stopped by {signal.Signals(number).name}; run the same command again to resume\n"
        )
        os.write(2, message.encode())  # not through sys.stderr, which may be in the middle of writing
    finally:
        os._exit(128 + number)
