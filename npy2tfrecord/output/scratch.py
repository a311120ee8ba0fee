"""A run's directory on a local disk, for shards on their way into a bucket.

Each run makes one of its own in the scratch directory and has its lock. What a run left that was killed has no lock any
more: the next run there removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile

from npy2tfrecord import cleanup, syscalls
from npy2tfrecord.errors import OutputError

_PREFIX, _LOCK = "npy2tfrecord-scratch-", "lock"


class Scratch:
    """A new directory in `parent` (None: the system's temporary one), from `open` to `close`."""

    def __init__(self, parent: str | None, run: str) -> None:
        self.parent = parent or tempfile.gettempdir()
        self.path = os.path.join(self.parent, f"{_PREFIX}{run}")
        self._at_sudden_end = contextlib.ExitStack()
        self._lock = -1

    def open(self) -> None:
        """Make the directory, readable by its owner alone, and remove those of runs that were killed."""
        try:
            os.makedirs(self.parent, exist_ok=True)
            _remove_dead(self.parent)
            # Made and locked under another name, so that no other run takes it for a dead one's.
            hidden = os.path.join(self.parent, f".{_PREFIX}{secrets.token_hex(8)}")
            os.mkdir(hidden, 0o700)
            self._lock = syscalls.open(os.path.join(hidden, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(hidden, self.path)
        except OSError as error:
            raise OutputError.from_os("make a scratch directory in", self.parent, error) from error
        self._at_sudden_end.enter_context(cleanup.at_sudden_end(self._remove))

    def close(self) -> None:
        """Remove the directory with all that is in it."""
        if self._lock < 0:
            return
        self._at_sudden_end.close()
        lock, self._lock = self._lock, -1
        self._remove()
        syscalls.close(lock)

    def _remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _remove_dead(parent: str) -> None:
    """Remove what killed runs of this user left. A run that is at work has its lock, on whatever machine it is."""
    for entry in os.scandir(parent):
        if not entry.name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            handle = os.open(os.path.join(entry.path, _LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(handle)
