"""glibc's thresholds for large blocks of memory.

glibc gives every block above a limit (128 KiB at first) back to the system when it is freed, and
maps a new one for the next batch: a page fault every 4 KiB, which costs as much as copying the data.
Raising the limit and the amount kept free lets batches reuse each other's memory.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_BLOCK_BYTES = 32 * 2**20  # the largest that glibc accepts
_KEPT_BYTES = 512 * 2**20  # free memory at the end of the heap that is not given back


def keep_large_blocks() -> bool:
    """Tell glibc to keep large blocks, for this process. Whether there is a glibc to tell."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version
        mallopt = library.mallopt
    except (OSError, AttributeError):  # musl has no such thresholds
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
