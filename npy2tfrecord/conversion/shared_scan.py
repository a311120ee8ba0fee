"""One scan for all parts of a conversion, on machines that share nothing but a file system.

The first part makes the file `scanning`, scans and gives the others the result, the file `scan`, by renaming. The
others wait. While it scans it writes into `scanning` about once a second. A part that sees no change there for 30
seconds, by its own clock, takes over; at once, where the process was on this machine and is gone. Nothing depends on
that being right: two that scan at the same time write the same bytes, and each gives its file the name when it is
whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from functools import partial

from npy2tfrecord import cleanup, syscalls
from npy2tfrecord.errors import DamageError
from npy2tfrecord.options import Options
from npy2tfrecord.output.workspace import Workspace
from npy2tfrecord.sources.scan_file import decode_scan, encode_scan
from npy2tfrecord.sources.scanner import Scan

_BEAT_SECONDS = 1.0
_DEAD_SECONDS = 30.0
_POLL_SECONDS = 0.1
_OWNER_BYTES = 1000
_OWNER = re.compile(r"process (\d+) on (.*), beat \d+\n", re.DOTALL)


Tick = Callable[[], None]


def shared_scan(
    workspace: Workspace, identity: str, options: Options, scan: Callable[[Tick], Scan], tick: Tick
) -> Scan:
    """The scan that another part has made, or what `scan` returns, written for the others.

    `identity` says of which sources, with which options: a file of others is replaced. `scan` is to call its argument
    now and then, which shows the others that it lives. `tick` is called while this part waits. Raises what `scan`
    raises, and `OSError`.
    """
    path, unfit, watched = workspace.scanning_path, None, _Watched()
    while True:
        if (there := _signature(workspace.scan_path)) not in (None, unfit):
            if (found := _load(workspace.scan_path, identity, options)) is not None:
                return found
            unfit = there
        try:
            handle = syscalls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            if watched.is_gone(path):
                _unlink(path)
                continue
            tick()
            time.sleep(_POLL_SECONDS)
            continue
        with cleanup.at_sudden_end(partial(_unlink, path)):
            try:
                syscalls.close(handle)
                if _signature(workspace.scan_path) not in (None, unfit):
                    continue  # another part ended its scan just now
                made = scan(_Beat(path))
                workspace.write_scan(encode_scan(made, identity))
                return made
            finally:
                _unlink(path)


def _signature(path: str) -> tuple[int, int, int] | None:
    """What distinguishes a file from one that replaces it; None without a file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _load(path: str, identity: str, options: Options) -> Scan | None:
    """The scan in a file; None where there is none that fits."""
    try:
        with syscalls.opened(path) as handle:
            return decode_scan(syscalls.read_up_to(handle, syscalls.fstat(handle).st_size + 1), identity, options)
    except (FileNotFoundError, DamageError):
        return None


class _Watched:
    """What a waiting part has seen of the one that scans."""

    def __init__(self) -> None:
        self._seen = b""
        self._since = time.monotonic()

    def is_gone(self, path: str) -> bool:
        """Whether whoever made the file is dead, as far as can be known."""
        try:
            with open(path, "rb") as file:  # opened anew: network file systems then ask for what is there
                seen = file.read(_OWNER_BYTES)
        except FileNotFoundError:
            return False
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        owner = _OWNER.fullmatch(seen.decode("utf-8", "replace"))
        if owner and owner[2] == os.uname().nodename and not os.path.exists(f"/proc/{owner[1]}"):
            return os.path.isdir("/proc/self")
        return time.monotonic() - self._since > _DEAD_SECONDS


class _Beat:
    """Shows in the file, when it is called and at most once a second, that this process lives."""

    def __init__(self, path: str) -> None:
        self._path, self._number, self._next = path, 0, 0.0
        self()

    def __call__(self) -> None:
        if (now := time.monotonic()) < self._next:
            return
        self._number, self._next = self._number + 1, now + _BEAT_SECONDS
        text = f"process {os.getpid()} on {os.uname().nodename}, beat {self._number}\n"
        with (
            contextlib.suppress(OSError),
            open(self._path, "r+b") as file,
        ):  # not made anew: another may have taken over
            file.write(text.encode())


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        syscalls.unlink(path)
