"""Shards of one run that aren't finished: their names in a directory of this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

OWN_MARK = "~"  # in a temporary name, between the stem and a random part for each worker's attempt at a shard


def stem(directory: str, run: str, file: str) -> str:
    """The path of a shard while a worker writes it, without its suffix."""
    return os.path.join(directory, f"{run}-{file.removesuffix('.tfrecord')}")


def under_way(directory: str, run: str, files: Iterable[str]) -> list[str]:
    """Those of `files` that the run has begun to write."""
    with contextlib.suppress(OSError):
        begun = {name.removesuffix(".shard").partition(OWN_MARK)[0] for name in os.listdir(directory)}
        return [file for file in files if os.path.basename(stem(directory, run, file)) in begun]
    return []


def written_bytes(directory: str, run: str) -> int:
    """Bytes of the run's unfinished shards, as they grow."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(run) and entry.name.endswith(".shard"):
                with contextlib.suppress(OSError):  # of two attempts at a shard the larger counts
                    name = entry.name.removesuffix(".shard").partition(OWN_MARK)[0]
                    sizes[name] = max(sizes.get(name, 0), entry.stat().st_size)
    return sum(sizes.values())
