"""Small files that were read whole when they were looked at first, so that they aren't opened a second time.

They are in memory of this process, which processes forked from it inherit: nothing of it is ever sent anywhere.
"""

from __future__ import annotations

import mmap
import threading
from itertools import count
from types import TracebackType

MOST_FILE_BYTES = 64 * 2**10  # of a file that is worth keeping: beyond, opening it is a small part of reading it
BYTES_A_JOB = 64 * 2**20

_numbers = count()
_open: dict[int, KeptFiles] = {}  # of this process and those it was forked from


class KeptFiles:
    """Memory for files, up to `limit` bytes of them; `place` and `size` of each are the caller's to remember."""

    def __init__(self, limit: int) -> None:
        self.number = next(_numbers)
        # The system gives it page by page, when it is written to; of this process alone, where there is a choice.
        flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        self._memory = memoryview(mmap.mmap(-1, max(1, limit), **flags))
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()
        _open[self.number] = self

    def room(self, size: int) -> tuple[int, memoryview] | None:
        """A place for a file of `size` bytes, and one byte more, which shows that it ends there; None if it is full."""
        with self._lock:
            place = self._used
            if place + size + 1 > self._limit:
                return None
            self._used += size + 1
            return place, self._memory[place : place + size + 1]

    def close(self) -> None:
        """Forget all of it."""
        _open.pop(self.number, None)

    def __enter__(self) -> KeptFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def memory_of(number: int) -> memoryview | None:
    """The memory of `KeptFiles` with this number; None where this process has none."""
    kept = _open.get(number)
    return None if kept is None else kept._memory
