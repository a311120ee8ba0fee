"""glibc's thresholds for large blocks of memory.

glibc gives every block above a limit (128 KiB at first) back to the system when it is freed, and
maps a new one for the next batch: a page fault every 4 KiB, which costs as much as copying the data.
Raising the limit and the amount kept free lets batches reuse each other's memory.
"""

from __future__ import annotations

import ctypes
import logging
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_BLOCK_BYTES = 32 * 2**20  # the largest that glibc accepts
_KEPT_BYTES = 512 * 2**20  # free memory at the end of the heap that is not given back


_log = logging.getLogger("readers")
_done = False


def keep_large_blocks() -> None:
    """Make glibc keep large blocks, in the whole process, and log it once; without glibc nothing happens."""
    global _done
    if not _done and _set_thresholds():
        _done = True
        _log.info(
            "glibc keeps blocks of up to %d bytes, and up to %d free bytes, in this process, as with "
            "MALLOC_MMAP_THRESHOLD_=%d MALLOC_TRIM_THRESHOLD_=%d; tune_malloc=False leaves it alone",
            *(_LARGEST_BLOCK_BYTES, _KEPT_BYTES) * 2,
        )


def _set_thresholds() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version
        mallopt = library.mallopt
    except (OSError, AttributeError):  # musl has no such thresholds
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
