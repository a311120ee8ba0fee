"""What takes a process of its own to measure: `python probe.py JSON`, with the keys `what` and `root`; prints JSON."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import drop_caches

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
COLD_EPOCHS = 3
CALLS = 5
LATER_EPOCHS = 5
NIGHT_EPOCHS = 9


def memory(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    return int(Path("/proc/self/status").read_text().partition(field + ":")[2].split()[0]) * 1024


def first_batch(task: dict[str, Any]) -> dict[str, float]:
    """Seconds from the call to the first batch, with TensorFlow and the package imported."""
    import tensorflow as tf

    import readers

    readers.load_dataset  # noqa: B018  (imports what it needs)
    tf.constant(1)  # TensorFlow starts its devices
    started = time.perf_counter()
    dataset = readers.load_dataset(task["root"], batch_size=256, shuffle=task["shuffle"])
    made = time.perf_counter()
    next(iter(dataset))
    return {"seconds": time.perf_counter() - started, "of which to make the dataset": made - started}


def six_lines(root: str, batch: int) -> Any:
    """What a user writes by hand for arrays that all have one shape."""
    import tensorflow as tf

    def decode(records: Any) -> Any:
        columns = tf.io.parse_example(records, {"array": tf.io.FixedLenFeature([], tf.string)})
        return tf.reshape(tf.io.decode_raw(columns["array"], tf.float32), [-1, 32, 32])

    dataset = tf.data.Dataset.list_files(f"{root}/*.tfrecord", shuffle=False)
    dataset = dataset.interleave(
        lambda file: tf.data.TFRecordDataset(file).batch(batch).map(decode), num_parallel_calls=tf.data.AUTOTUNE
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def start(task: dict[str, Any]) -> dict[str, float]:
    """Seconds from the call: the first one of the process, and the median of later ones; and of later epochs."""
    import tensorflow as tf

    import readers

    def ours() -> Any:
        return readers.load_dataset(task["root"], features="array", batch_size=task["batch"])

    readers.load_dataset  # noqa: B018  (imports what it needs)
    tf.constant(1)
    calls, ends, later = [], [], []
    for _ in range(1 + CALLS):
        started = time.perf_counter()
        dataset = six_lines(task["root"], task["batch"]) if task["by_hand"] else ours()
        iterator = iter(dataset)
        next(iterator)
        calls.append(time.perf_counter() - started)
        for _ in iterator:
            pass
        ends.append(time.perf_counter() - started)
        for _ in range(LATER_EPOCHS):
            started = time.perf_counter()
            iterator = iter(dataset)
            next(iterator)
            later.append(time.perf_counter() - started)
            del iterator
    return {
        "first batch, first call": calls[0],
        "first batch": statistics.median(calls[1:]),
        "end of the first epoch": statistics.median(ends[1:]),
        "first batch of a later epoch": statistics.median(later),
    }


def nights(task: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of the fastest epoch, for each way of reading and each set: epochs of the sets take turns."""
    import readers

    found = {}
    for way in ("batches", "shuffled", "by number in order", "by number at random"):
        epochs = {name: night_epoch(readers, task["root"] + "/" + name, way, task["batch"]) for name in task["names"]}
        seconds: dict[str, list[float]] = {name: [] for name in epochs}
        for _ in range(1 + NIGHT_EPOCHS):
            for name, epoch in epochs.items():
                started = time.perf_counter()
                count = epoch()
                seconds[name].append(time.perf_counter() - started)
                if count != task["count"]:
                    sys.exit(f"{count} arrays came from {name}, expected {task['count']}")
        found[way] = {name: min(each[1:]) for name, each in seconds.items()}
    return found


def night_epoch(readers: Any, path: str, way: str, batch: int) -> Callable[[], int]:
    """A function that reads an epoch and counts its arrays."""
    if way in ("batches", "shuffled"):
        order = {"shuffle": True, "seed": 1} if way == "shuffled" else {}
        dataset = readers.load_dataset(path, features="array", batch_size=batch, **order)
        return lambda: sum(len(arrays) for arrays in dataset)
    source = readers.ArraySource(path, features="array")
    if way == "by number in order":
        return lambda: sum(1 for _ in source)
    numbers = np.random.default_rng(0).permutation(len(source)).tolist()
    groups = [numbers[first : first + batch] for first in range(0, len(numbers), batch)]
    return lambda: sum(len(source[group]) for group in groups)


def cold(task: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of epochs, each with the caches dropped before it; what this process has mapped stays."""
    import tensorflow as tf

    import readers

    load = readers.load_npy if task["kind"] == "npy" else readers.load_dataset
    seconds = []
    for number in range(1 + COLD_EPOCHS):
        drop_caches()
        started = time.perf_counter()
        count = tf.constant(0)
        for batch in load(task["root"], features="array", batch_size=task["batch"]):
            count += tf.shape(batch)[0]
        if number:  # the first one also loads the program
            seconds.append(time.perf_counter() - started)
        if int(count) != task["count"]:
            sys.exit(f"{int(count)} arrays came, expected {task['count']}")
    return {"seconds": seconds}


def growth(task: dict[str, Any]) -> dict[str, float]:
    """By how many bytes the process grew while it read an epoch."""
    import tensorflow as tf

    import readers

    readers.load_dataset  # noqa: B018
    tf.constant(1)
    before = memory("VmRSS")
    for _ in readers.load_dataset(task["root"], features="array", batch_size=2, shuffle=task["shuffle"]):
        pass
    return {"bytes": memory("VmHWM") - before}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(
        "\n"
        + json.dumps(
            {"first": first_batch, "start": start, "nights": nights, "cold": cold, "growth": growth}[given["what"]](
                given
            )
        )
    )
