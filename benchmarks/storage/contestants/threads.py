"""The yardstick: 64 threads that do nothing but read files, or with --write a file for each of them.

Files of more than 1 MiB are read in pieces of that size, 64 pieces at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "convert" / "contestants"))

from contestant import paths_of

THREADS = 64
PIECE_BYTES = 1 << 20


def run(work: Callable[[Iterator[int]], None], count: int, threads: int = THREADS) -> None:
    """Call `work` in all threads with the numbers they share."""
    numbers = iter(range(count))
    running = [threading.Thread(target=work, args=(numbers,)) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def read(paths: list[str]) -> int:
    """Read all files; returns their bytes."""
    done: list[int] = []

    def whole(numbers: Iterator[int]) -> None:
        buffer = bytearray(PIECE_BYTES + 1024)
        for i in numbers:
            handle = os.open(paths[i], os.O_RDONLY)
            done.append(os.readv(handle, (buffer,)))
            os.close(handle)

    if len(paths) > 1:
        run(whole, len(paths))
        return sum(done)
    size, handle = os.path.getsize(paths[0]), os.open(paths[0], os.O_RDONLY)

    def pieces(numbers: Iterator[int]) -> None:
        buffer = bytearray(PIECE_BYTES)
        for i in numbers:
            done.append(os.preadv(handle, (buffer,), i * PIECE_BYTES))

    run(pieces, -(-size // PIECE_BYTES))
    os.close(handle)
    return sum(done)


def write(paths: list[str], source: str, out: str) -> int:
    """Write as many files of the same sizes, in the same folders; returns their bytes."""
    for folder in {os.path.dirname(path) for path in paths}:
        os.makedirs(out + folder[len(source) :], exist_ok=True)
    data = memoryview(bytes(os.path.getsize(paths[0])))
    done: list[int] = []

    def new(numbers: Iterator[int]) -> None:
        for i in numbers:
            handle = os.open(out + paths[i][len(source) :], os.O_WRONLY | os.O_CREAT, 0o666)
            done.append(os.write(handle, data))
            os.close(handle)

    run(new, len(paths))
    return sum(done)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("out", nargs="?")
    given = parser.parse_args()
    paths = paths_of(given.source) if os.path.isdir(given.source) else [given.source]
    print(write(paths, given.source, given.out) if given.out else read(paths))


if __name__ == "__main__":
    main()
