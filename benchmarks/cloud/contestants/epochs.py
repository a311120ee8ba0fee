"""Two epochs of `load_dataset`: `epochs.py PLACE CACHE BATCH`; CACHE is empty for a directory of this machine.

Prints the seconds of each, the number of arrays and the sum of their first values.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import obstore
import tensorflow as tf

import readers

LOADED = obstore, tf  # before an epoch is timed: readers loads them when they are needed


def main() -> None:
    place, cache, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seconds: list[float] = []
    found: set[tuple[int, float]] = set()
    started = time.perf_counter()
    dataset = readers.load_dataset(
        place, features="array", batch_size=batch, **({"cache": cache, "cache_size": "100GB"} if cache else {})
    )
    for _ in range(2):
        count, total = 0, 0.0
        for each in dataset.as_numpy_iterator():
            count += len(each)
            total += float(each.reshape(len(each), -1)[:, 0].astype(np.float64).sum())
        seconds.append(time.perf_counter() - started)
        found.add((count, round(total, 3)))
        started = time.perf_counter()
    if len(found) > 1:
        sys.exit(f"the epochs differ: {found}")
    count, total = found.pop()
    print(json.dumps({"epochs": seconds, "count": count, "sum": total}))


if __name__ == "__main__":
    main()
