"""Memory stays small whatever the arrays' sizes: they pass through a bounded buffer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import npy_header

MEASURE = """
import json, resource, sys
import npy2tfrecord
from npy2tfrecord.conversion import converter
from npy2tfrecord.sources import array_reader, scanner
from npy2tfrecord.writing import shard_writer  # all that a worker has before it begins
small, source, out, options = sys.argv[1:]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

npy2tfrecord.convert(small, out + "-small", jobs=1, fsync=False)
before = peak()
manifest = npy2tfrecord.convert(source, out, jobs=1, fsync=False, **json.loads(options))
print(json.dumps({"grown": peak() - before, "examples": manifest.examples, "bytes": manifest.total_bytes}))
"""

LIMIT = 64 * 2**20


def sparse(path: Path, descr: str, shape: tuple[int, ...], size: int, *, fortran: bool = False) -> None:
    """A file of zeros that takes no room on the disk."""
    header = npy_header(descr, shape, fortran=fortran)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def growth(tmp_path: Path, **options: Any) -> dict[str, int]:
    """How much the peak of a process that converts here grows over that of one that converts a small file."""
    sparse(tmp_path / "small.npy", "<f4", (10, 10), 400)
    words = [str(tmp_path / "small.npy"), str(tmp_path / "source"), str(tmp_path / "out"), json.dumps(options)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], check=True, stdout=subprocess.PIPE)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("descr", "shape"), [("<f4", (100_000_000,)), ("<f8", (50, 1000, 1000)), (">i4", (100_000_000,))]
)
def test_large_array_in_c_order_passes_through_a_small_buffer(
    tmp_path: Path, descr: str, shape: tuple[int, ...]
) -> None:
    sparse(tmp_path / "source" / "a.npy", descr, shape, 400_000_000)
    found = growth(tmp_path, compression="gzip")  # zeros shrink: the disk is spared
    assert found["examples"] == 1
    assert found["grown"] < LIMIT


def test_large_array_is_written_as_it_is_in_little_memory(tmp_path: Path) -> None:
    sparse(tmp_path / "source" / "a.npy", "<f4", (75_000_000,), 300_000_000)
    found = growth(tmp_path)
    assert found["bytes"] > 300_000_000
    assert found["grown"] < LIMIT


def test_many_arrays_in_one_shard_share_the_buffer(tmp_path: Path) -> None:
    for i in range(300):
        sparse(tmp_path / "source" / f"{i}.npy", "<f4", (250_000,), 1_000_000)
    found = growth(tmp_path, num_shards=1, compression="gzip")
    assert found["examples"] == 300
    assert found["grown"] < LIMIT


def test_rows_of_a_large_array_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    sparse(tmp_path / "source" / "a.npy", "<f4", (1000, 100_000), 400_000_000)
    found = growth(tmp_path, rows=True, compression="gzip")
    assert found["examples"] == 1000
    assert found["grown"] < LIMIT


def test_large_array_in_fortran_order_is_turned_in_blocks(tmp_path: Path) -> None:
    sparse(tmp_path / "source" / "a.npy", "<f4", (10_000, 10_000), 400_000_000, fortran=True)
    found = growth(tmp_path, compression="gzip")
    assert found["examples"] == 1
    assert found["grown"] < 2 * LIMIT  # two blocks besides; the array itself would be 400 MB


@pytest.mark.parametrize("claimed", [10**12, 10**15])
def test_memory_is_never_taken_on_a_files_word(tmp_path: Path, claimed: int) -> None:
    """A file that claims a terabyte, and a header that claims to be 4 GiB: both refused at no cost."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.npy").write_bytes(npy_header("<f4", (claimed,)) + bytes(400))
    (tmp_path / "source" / "b.npy").write_bytes(b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(400))
    sparse(tmp_path / "source" / "c.npy", "<f4", (100,), 400)
    found = growth(tmp_path, on_error="skip")
    assert found["examples"] == 1
    assert found["grown"] < 8 * 2**20


# Without the collection of cycles, which comes at any time or never.
AGAIN = """
import gc, os, sys
import npy2tfrecord
source, out = sys.argv[1:]
gc.disable()
sizes = []
for _ in range(6):
    npy2tfrecord.convert(source, out, jobs=1, fsync=False, overwrite=True)
    npy2tfrecord.verify(out, source=source, jobs=1)
    with open("/proc/self/statm") as file:
        sizes.append(int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
print(sizes[-1] - sizes[0])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_small_files_that_are_kept_are_forgotten_when_a_conversion_ends(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for i in range(20):
        np.save(tmp_path / "source" / f"{i}.npy", np.zeros(8))
    words = [sys.executable, "-c", AGAIN, tmp_path / "source", tmp_path / "out"]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    assert int(done.stdout) < LIMIT
