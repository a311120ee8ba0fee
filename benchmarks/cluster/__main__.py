"""Dask on this machine against loky: the same conversion, in turns, on the same number of worker processes.

benchmarks/run cluster                  # 200,000 files of 4 KB and 4,000 of 1 MB
benchmarks/run cluster --scale 0.1      # a tenth of it
benchmarks/run cluster --simulate       # what limits at 10, 100 and 1,000 workers, from costs measured here
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.cluster.simulation import simulate
from benchmarks.machine import end_in_order
from npy2tfrecord.jobs import dask_cluster, pool

SETS = {"4 KB": (200_000, 1024), "1 MB": (4_000, 262_144)}  # files, float32 values in each
FILES_PER_DIRECTORY = 1000


def make(root: Path, files: int, values: int) -> None:
    """Files of `values` random float32 numbers."""
    rng = np.random.default_rng(0)
    array = rng.standard_normal(values, dtype=np.float32)
    for i in range(files):
        if i % FILES_PER_DIRECTORY == 0:
            directory = root / f"{i // FILES_PER_DIRECTORY:04}"
            directory.mkdir(parents=True)
        array[0] = i
        np.save(directory / f"{i:07}.npy", array)


def convert(source: Path, out: Path, *options: str) -> float:
    """Seconds of the whole command."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    words = [sys.executable, "-m", "npy2tfrecord", "convert", "-q", "--shard-size", "32MB", *options]
    started = time.perf_counter()
    subprocess.run([*words, str(source), str(out)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def start(directory: Path, workers: int) -> tuple[str, list[subprocess.Popen[bytes]]]:
    """A scheduler and workers; the address and all processes."""
    file = directory / "scheduler.json"
    common = {"cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def run(kind: str, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "dask", kind, "--no-dashboard", *words], **common)  # type: ignore[call-overload,no-any-return]

    processes = [run("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show", "--scheduler-file", str(file))]
    while not file.exists():
        time.sleep(0.1)
    processes += [run("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny") for _ in range(workers)]
    time.sleep(0.5)
    return file.read_text().partition('"address": "')[2].partition('"')[0], processes


def nothing(_number: int) -> None:
    """A task that costs what a task costs."""


def task_seconds(address: str, tasks: int = 3000) -> float:
    """CPU time that one task takes of the client or the scheduler, whichever is more: each is one thread."""
    import distributed

    with dask_cluster.connected("dask", address, 1, []):
        client = distributed.get_client()
        list(pool.run(nothing, [(0,)], jobs=2, backend="dask"))
        before = time.process_time(), client.run_on_scheduler(time.process_time)
        list(pool.run(nothing, ((i,) for i in range(tasks)), jobs=2, backend="dask"))
        after = time.process_time(), client.run_on_scheduler(time.process_time)
    return max(end - begin for begin, end in zip(before, after, strict=True)) / tasks


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/run cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of files")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--simulate", action="store_true", help="measure what a task costs, and simulate large clusters"
    )
    arguments = parser.parse_args()
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="npy2tfrecord-cluster-") as name:
        here = Path(name)
        address, processes = start(here, arguments.workers)
        try:
            if arguments.simulate:
                print(simulate(task_seconds(address)))
                return
            print(f"{arguments.workers} workers; median of {arguments.rounds} runs in turns, the whole command\n")
            print("| set | loky | Dask | Dask's share of loky's throughput |\n| --- | --- | --- | --- |")
            for label, (files, values) in SETS.items():
                count = max(1, round(files * arguments.scale))
                make(here / "source", count, values)
                loky, dask = [], []
                for _ in range(arguments.rounds):
                    jobs = ("--jobs", str(arguments.workers))
                    loky.append(convert(here / "source", here / "out", *jobs))
                    dask.append(convert(here / "source", here / "out", "--backend", "dask", "--scheduler", address))
                a, b = statistics.median(loky), statistics.median(dask)
                print(f"| {count:,} × {label} | {a:.2f} s | {b:.2f} s | {a / b:.2f} |", flush=True)
                shutil.rmtree(here / "source")
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
