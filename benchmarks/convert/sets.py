"""The data sets: float32 noise in `.npy` files, as `np.save` writes them."""

from __future__ import annotations

import io
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.convert.contestants.contestant import paths_of

FILES_A_FOLDER = 1000


@dataclass(frozen=True)
class DataSet:
    """`files` arrays of `shape`, in folders of a thousand; a first axis given as a pair varies from file to file."""

    name: str
    title: str
    files: int
    shape: tuple[int | tuple[int, int], ...]

    def scaled(self, scale: float) -> DataSet:
        """The same with fewer files."""
        files = max(4, round(self.files * scale))
        return DataSet(self.name, self.title, files, self.shape)

    @property
    def directory(self) -> str:
        return f"{self.name}-{self.files}"


SETS = {
    each.name: each
    for each in (
        DataSet("tiny", "500 × 4 KB (starting cost)", 500, (32, 32)),
        DataSet("small", "1,000,000 × 4 KB", 1_000_000, (32, 32)),
        DataSet("disk", "200,000 × 4 KB", 200_000, (32, 32)),
        DataSet("big", "4,000 × 1 MB", 4_000, (512, 512)),
        DataSet("var", "20,000 × (20–400, 80)", 20_000, ((20, 400), 80)),
        DataSet("huge", "4 × 1 GB", 4, (256, 1024, 1024)),
        DataSet("rows", "1 × 4 GB, 1,000,000 rows of 4 KB", 1, (1_000_000, 32, 32)),
    )
}


@lru_cache(maxsize=1024)
def _header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue()


def _make_folder(directory: str, folder: int, first: int, count: int, shape: tuple[int | tuple[int, int], ...]) -> None:
    path = f"{directory}/{folder:05}"
    os.mkdir(path)
    rng = np.random.Generator(np.random.SFC64(folder))
    for number in range(first, first + count):
        axis, *others = shape
        size = int(rng.integers(axis[0], axis[1] + 1)) if isinstance(axis, tuple) else axis
        full = (size, *(int(n) for n in others if not isinstance(n, tuple)))
        handle = os.open(f"{path}/{number:07}.npy", os.O_WRONLY | os.O_CREAT, 0o666)
        os.write(handle, _header(full))
        values = int(np.prod(full, dtype=np.int64))
        for start in range(0, values, 1 << 24):
            data = memoryview(rng.standard_normal(min(1 << 24, values - start), dtype=np.float32)).cast("B")
            while data:
                data = data[os.write(handle, data) :]
        os.close(handle)


def make(data: DataSet, parent: Path, jobs: int = 4) -> Path:
    """Makes the set below `parent` unless it is there; returns its directory."""
    directory = parent / data.directory
    if directory.exists():
        return directory
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    folder_size = 1 if data.name == "huge" else FILES_A_FOLDER
    if data.files <= FILES_A_FOLDER and data.name != "huge":
        folder_size = -(-data.files // jobs)
    with ProcessPoolExecutor(jobs) as pool:
        tasks = [
            pool.submit(_make_folder, str(partial), folder, first, min(folder_size, data.files - first), data.shape)
            for folder, first in enumerate(range(0, data.files, folder_size))
        ]
        for task in tasks:
            task.result()
    partial.rename(directory)
    return directory


def warm(directory: Path) -> None:
    """Reads every file once, so that all are in the page cache."""
    buffer = bytearray(1 << 24)
    for path in paths_of(os.fspath(directory)):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
