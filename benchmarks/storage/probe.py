"""Examples a second of one reader, as JSON: `probe.py KIND PATH BATCH SECONDS`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator


def lists(path: str, batch: int) -> Iterator[int]:
    """`ArraySource`, random examples in lists."""
    import numpy as np

    from readers import ArraySource

    source = ArraySource(path)
    chance = np.random.default_rng(0)
    while True:
        yield len(source[chance.permutation(len(source))[:batch].tolist()])


def straight(path: str, batch: int) -> Iterator[int]:
    """`load_npy`, epoch after epoch."""
    from readers import load_npy

    data = load_npy(path, batch_size=batch, features="array")
    while True:
        for each in data.as_numpy_iterator():
            yield len(each)


def main() -> None:
    kind, path, batch, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    batches = {"ArraySource": lists, "load_npy": straight}[kind](path, batch)
    started = time.monotonic()
    next(batches)
    first, now = time.monotonic(), time.monotonic()
    count = 0
    while now - first < seconds:
        count += next(batches)
        now = time.monotonic()
    print(json.dumps({"first batch": first - started, "examples/s": count / (now - first)}))


if __name__ == "__main__":
    main()
