"""Having the disk take what was written while more is read, so that the last `fsync` has little left to wait for."""

from __future__ import annotations

import contextlib
import threading

from npy2tfrecord import syscalls

STEP_BYTES = 32 * 2**20


class WriteBack:
    """Calls `fsync` in a thread each time that some more bytes of an open file were written, but one at a time.

    An error is reported once by the system, to whoever calls first: `end` raises it.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._bytes = 0  # written since the last call began
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def written(self, count: int) -> None:
        """Note that so many bytes were written."""
        self._bytes += count
        if self._bytes >= STEP_BYTES and (self._thread is None or not self._thread.is_alive()):
            self._bytes = 0
            thread = threading.Thread(target=self._sync, name="write-back", daemon=True)
            with contextlib.suppress(RuntimeError):  # the system allows no more: `end` does all of it
                thread.start()
                self._thread = thread

    def _sync(self) -> None:
        try:
            syscalls.fsync(self._handle)
        except OSError as error:
            self._error = error

    def stop(self) -> None:
        """Wait for the call that is under way: the file must not be closed before."""
        if self._thread is not None:
            self._thread.join()

    def end(self) -> None:
        """Wait until all is on the disk. Raises `OSError`."""
        self.stop()
        if self._error is not None:
            raise self._error
        syscalls.fsync(self._handle)
