"""Small files that were read whole when they were looked at first, so that they aren't opened a second time.

They are in memory of this process, which processes forked from it inherit: nothing of it is ever sent anywhere.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from itertools import count
from types import TracebackType

MOST_FILE_BYTES = 64 * 2**10  # of a file that is worth keeping: beyond, opening it is a small part of reading it
BYTES_A_JOB = 64 * 2**20
_ROOM_BYTES = 4 * MOST_FILE_BYTES  # that a loop takes at a time, so that loops seldom wait for each other

_numbers = count()
_open: dict[int, KeptFiles] = {}  # of this process and those it was forked from


def new_memory(size: int) -> memoryview:
    """Memory of this process alone, which the system gives bit by bit, when it is written to.

    `bytearray` fills it with zeros first, while no other thread can run.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return memoryview(bytearray(size))
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(memory)


class KeptFiles:
    """Memory for files, up to `limit` bytes of them; `place` and `size` of each are the caller's to remember."""

    def __init__(self, limit: int) -> None:
        self.number = next(_numbers)
        self.memory = new_memory(limit)
        self._used = 0
        self._lock = threading.Lock()
        self._left: deque[tuple[int, int]] = deque()  # of rooms that were given back
        _open[self.number] = self

    def room(self) -> tuple[int, int]:
        """A place for files, and where it ends; twice the same place if all is full.

        Each file needs a byte more than it has, which shows that it ends there. What is left is to be given back.
        """
        try:
            return self._left.pop()
        except IndexError:
            pass
        with self._lock:
            place = self._used
            self._used = min(place + _ROOM_BYTES, len(self.memory))
            return place, self._used

    def give_back(self, place: int, end: int) -> None:
        """Let others use the rest of a room."""
        if place < end:
            self._left.append((place, end))

    def close(self) -> None:
        """Forget all of it. Its memory is free at once, even while cycles of objects still hold this one."""
        _open.pop(self.number, None)
        self.memory = memoryview(b"")

    def __enter__(self) -> KeptFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def memory_of(number: int) -> memoryview | None:
    """The memory of `KeptFiles` with this number; None where this process has none."""
    kept = _open.get(number)
    return None if kept is None else kept.memory
