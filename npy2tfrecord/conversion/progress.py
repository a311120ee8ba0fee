"""How far a conversion is, as its caller is shown it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a conversion or a scan is; given to the `progress` function at least once a second."""

    bytes_done: int
    bytes_total: int
    shards_done: int
    shards_total: int
    files_found: int = 0
    files_scanned: int = 0  # whose headers are read; bytes are known after the last


ProgressFunction = Callable[[Progress], None]
