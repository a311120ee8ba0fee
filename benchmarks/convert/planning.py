"""Plans FILES made-up files: `planning.py FILES`. Prints seconds and bytes as JSON.

The names and headers come from here, not from a disk; all that follows the scan is what a conversion does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from npy2tfrecord.formats.npy import parse_header, write_header
from npy2tfrecord.options import Options
from npy2tfrecord.planning.joiner import join
from npy2tfrecord.planning.planner import plan
from npy2tfrecord.sources.scanner import Scan
from npy2tfrecord.sources.table import FileSet, SourceTable

FILES_A_FOLDER = 1000
SHAPES = 381


def memory(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    return int(Path("/proc/self/status").read_text().partition(field + ":")[2].split()[0]) * 1024


def main() -> None:
    count = int(sys.argv[1])
    before = memory("VmRSS")
    started = time.perf_counter()
    files = FileSet()
    for folder in range(0, count, FILES_A_FOLDER):
        key = b"%06d/" % (folder // FILES_A_FOLDER)
        names = [b"%08d.npy" % i for i in range(folder, min(folder + FILES_A_FOLDER, count))]
        files.add(b"/data/arrays/" + key, key, names)
    headers = [parse_header(write_header(np.dtype("<f4"), (20 + i, 80))) for i in range(SHAPES)]
    rng = np.random.default_rng(0)
    table = SourceTable(
        feature="array",
        files=files,
        file_ids=np.arange(count),
        dir_ids=files.dir_ids,
        header_ids=rng.integers(0, SHAPES, count).astype(np.int32),
        headers=headers,
        stamps=rng.integers(0, 2**62, count),
        suffix=b".npy",
    )
    made = time.perf_counter()
    options = Options()
    planned = plan(join(Scan((table,)), options), options)
    sizes = planned.shard_sizes()
    finished = time.perf_counter()
    peak = memory("VmHWM")
    handed = sum(len(spec) for spec in planned.shards())
    assert handed == count
    print(
        json.dumps(
            {
                "files": count,
                "shards": len(sizes),
                "making_up_seconds": made - started,
                "planning_seconds": finished - made,
                "handing_out_seconds": time.perf_counter() - finished,
                "bytes_a_file": (peak - before) / count,
                "bytes_a_file_in_the_end": (memory("VmHWM") - before) / count,
            }
        )
    )


if __name__ == "__main__":
    main()
