"""Processes as `/proc` shows them, and what one is doing that should have ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

_TOLD = signal.SIGUSR1  # to write the stacks


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_of(pid: int) -> bytes:
    """A process's name and the words of its command."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def leave_evidence(path: str | os.PathLike[str]) -> None:
    """Let this process write to a file where the first signal found it, and its stacks when `evidence` asks."""
    from npy2tfrecord.commands import signals

    file = open(path, "w", buffering=1)  # noqa: SIM115  as long as the process lives
    faulthandler.register(_TOLD, file=file, all_threads=True)
    stop: Any = signals._end
    own = os.getpid()

    def noted(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            file.write(f"signal {number} came at\n{''.join(traceback.format_stack(frame, 12))}")
        stop(number, frame)

    signals._end = noted  # type: ignore[assignment]


def evidence(pid: int, path: Path) -> str:
    """What is known of a run and its processes, which write their stacks to `path`."""
    pids = _all(pid)
    told = [_of_process(each) for each in pids]
    for each in pids:
        if _listens(each):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, _TOLD)
            time.sleep(0.3)
    return "\n".join([*told, path.read_text(errors="replace") if path.exists() else "no stacks"])


def _all(pid: int) -> list[int]:
    return [pid, *(found for child in children(pid) for found in _all(child))]


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return "?"


def _listens(pid: int) -> bool:
    """Whether a process has a handler for what makes it write its stacks."""
    masks = [line.split()[1] for line in _read(f"/proc/{pid}/status").splitlines() if line.startswith("SigCgt")]
    return bool(masks) and bool(int(masks[0], 16) >> (_TOLD - 1) & 1)


def _of_process(pid: int) -> str:
    lines = _read(f"/proc/{pid}/status").splitlines()
    states = ", ".join(line.replace("\t", " ") for line in lines if line.startswith(("State", "PPid", "Sig", "Shd")))
    told = [f"process {pid} {command_of(pid)[-80:]!r}: {states}"]
    for thread in sorted(Path(f"/proc/{pid}/task").glob("*")):
        told.append(
            f"  {thread.name}: {' | '.join(_read(f'{thread}/{name}') for name in ('wchan', 'syscall', 'stack'))}"
        )
    return "\n".join(told)
