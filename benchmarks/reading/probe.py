"""What takes a process of its own to measure: `python probe.py JSON`, with the keys `what` and `root`; prints JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import drop_caches

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
COLD_EPOCHS = 3


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
    print("\n" + json.dumps({"first": first_batch, "cold": cold, "growth": growth}[given["what"]](given)))
