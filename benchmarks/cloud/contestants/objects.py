"""What obstore alone does with objects, as yardsticks and to prepare: `objects.py WORK PREFIX [DIRECTORY]`.

get: GET every object and drop it, in 128 threads. put: put the files of a directory. download: write every object to a
file. compare: end with an error unless the objects below the prefix are the files of the directory. delete: all below.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

sys.path.append(str(Path(__file__).parents[2] / "storage" / "contestants"))
from threads import run

BUCKET = "test"
GET_THREADS, PUT_THREADS, FILES_AT_ONCE = 128, 32, 4
LARGE_BYTES = 16 << 20  # obstore puts such a file in parts at once, so that few files are enough
PIECE_BYTES = 8 << 20  # of a download


def names(store: Any, prefix: str) -> list[tuple[str, int]]:
    """Name and size of all objects below a prefix, without it."""
    found = [each for page in obstore.list(store, prefix) for each in page]
    return sorted((each["path"][len(prefix) + 1 :], each["size"]) for each in found)


def in_threads(work: Callable[[int], None], count: int, threads: int) -> None:
    """Call `work` with each number; the first error ends this process with it."""
    errors: list[BaseException] = []

    def loop(numbers: Iterator[int]) -> None:
        try:
            for i in numbers:
                work(i)
        except BaseException as error:
            errors.append(error)

    run(loop, count, threads)
    if errors:
        raise errors[0]


def get(store: Any, prefix: str) -> None:
    found = names(store, prefix)
    in_threads(lambda i: len(obstore.get(store, f"{prefix}/{found[i][0]}").bytes()), len(found), GET_THREADS)


def put(store: Any, prefix: str, directory: Path) -> None:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    large = max(path.stat().st_size for path in paths) > LARGE_BYTES

    def one(i: int) -> None:
        key = f"{prefix}/{paths[i].relative_to(directory).as_posix()}"
        obstore.put(store, key, paths[i] if large else paths[i].read_bytes())

    in_threads(one, len(paths), FILES_AT_ONCE if large else PUT_THREADS)


def download(store: Any, prefix: str, directory: Path) -> None:
    pieces: list[tuple[str, int, int]] = []
    handles: dict[str, int] = {}
    for name, size in names(store, prefix):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        handles[name] = os.open(path, os.O_WRONLY | os.O_CREAT)
        pieces += [(name, start, min(PIECE_BYTES, size - start)) for start in range(0, size, PIECE_BYTES)]

    def one(i: int) -> None:
        name, start, length = pieces[i]
        os.pwrite(handles[name], obstore.get_range(store, f"{prefix}/{name}", start=start, length=length), start)

    in_threads(one, len(pieces), PUT_THREADS)


def compare(store: Any, prefix: str, directory: Path) -> None:
    found = names(store, prefix)
    files = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    if {name for name, _ in found} != files:
        sys.exit(f"other objects than files: {sorted({name for name, _ in found} ^ files)[:3]}")
    for name, _ in found:
        if memoryview(obstore.get(store, f"{prefix}/{name}").bytes()) != (directory / name).read_bytes():
            sys.exit(f"{name} differs from its file")


def delete(store: Any, prefix: str) -> None:
    obstore.delete(store, [f"{prefix}/{name}" for name, _ in names(store, prefix)])


WORKS: dict[str, Callable[..., None]] = {each.__name__: each for each in (get, put, download, compare, delete)}


def main() -> None:
    work, prefix, *directory = sys.argv[1:]
    store = S3Store(BUCKET, client_options={"allow_http": True})
    started = time.perf_counter()
    WORKS[work](store, prefix, *map(Path, directory))
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
