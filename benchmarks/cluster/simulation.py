"""A schedule of shards on many workers, from what each step costs.

The client hands out tasks and commits shards one after the other; workers share the storage. Everything else is theirs
alone.
"""

from __future__ import annotations

import heapq
import os
import tempfile
import time
from dataclasses import dataclass

from npy2tfrecord import syscalls
from npy2tfrecord.formats import manifest
from npy2tfrecord.output.workspace import Workspace
from npy2tfrecord.writing.shard_entry import ShardEntry

SHARD_BYTES = 128e6
DATA_BYTES = 10e12
WORKERS = (10, 100, 1000)
WORKER_RATE = 400e6  # bytes a second that one worker converts when the storage does not hold it up
STORAGE_RATES = {"5 GB/s": 5e9, "50 GB/s": 50e9, "500 GB/s": 500e9}


@dataclass
class Costs:
    """Seconds of the client a shard: to hand it out and hear of its end, and to commit it."""

    task: float
    commit: float


def commit_seconds(shards: int = 200) -> float:
    """What committing a shard costs here: two renames, three fsyncs and a line of the journal."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        workspace = Workspace(os.path.join(name, "out"), sync=True)
        workspace.open()
        try:
            entries = [
                ShardEntry.of(
                    manifest.ShardInfo(
                        file=manifest.shard_name("train", i, shards), examples=1, bytes=1, hash="0" * 32, tail="00"
                    )
                )
                for i in range(shards)
            ]
            for entry in entries:
                for suffix in (".shard", *manifest.BESIDE):
                    syscalls.write_file(workspace.stem(entry.file) + suffix, b"x", sync=False)
            started = time.perf_counter()
            for entry in entries:
                workspace.commit([entry])
            return (time.perf_counter() - started) / shards
        finally:
            workspace.close()


def schedule(workers: int, storage: float, costs: Costs, *, shards: int) -> tuple[float, float]:
    """(seconds until the last shard is committed, the share of them for which the client was busy)."""
    seconds = SHARD_BYTES / min(WORKER_RATE, storage / 2 / workers)  # storage is read from and written to
    client, busy = 0.0, 0.0
    running: list[float] = []
    for _ in range(min(workers, shards)):
        client += costs.task
        heapq.heappush(running, client + seconds)
    started = len(running)
    busy = client
    while running:
        client = max(client, heapq.heappop(running)) + costs.commit
        busy += costs.commit
        if started < shards:
            started += 1
            client, busy = client + costs.task, busy + costs.task
            heapq.heappush(running, client + seconds)
    return client, busy / client


def simulate(task: float) -> str:
    """A table of what limits, for 10 TB in shards of 128 MB."""
    costs = Costs(task, commit_seconds())
    shards = int(DATA_BYTES / SHARD_BYTES)
    lines = [
        f"Measured: {1000 * costs.task:.2f} ms a task (client and scheduler), {1000 * costs.commit:.2f} ms a commit.",
        f"{shards:,} shards of 128 MB; a worker converts {WORKER_RATE / 1e6:.0f} MB/s.",
        "",
        "| workers | storage | time | read and written | client busy | what limits |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for workers in WORKERS:
        for name, storage in STORAGE_RATES.items():
            seconds, busy = schedule(workers, storage, costs, shards=shards)
            limit = "workers" if storage / 2 / workers >= WORKER_RATE else "storage"
            limit = "client" if busy > 0.9 else limit
            rate = 2 * DATA_BYTES / seconds / 1e9
            lines.append(f"| {workers:,} | {name} | {seconds / 60:,.0f} min | {rate:.1f} GB/s | {busy:.0%} | {limit} |")
    return "\n".join(lines)
