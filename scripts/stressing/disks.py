"""Runs on full disks."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

from jobs import Chance, Job, Told, fail, tree

from npy2tfrecord.output.workspace import Workspace


def fill_disks(root: Path, count: int, chance: Chance, end: float) -> Told:
    """Output on disks of `count` sizes, from nearly nothing to nearly enough."""
    if os.geteuid() != 0:
        return Counter({"skipped: only root can mount a disk": 1})
    told: Told = Counter()
    job = Job(root, floats=2000)
    disk = root / "disk"
    disk.mkdir()
    needed = sum(map(len, job.whole.values()))
    for number in range(count):
        if time.monotonic() > end:
            return told + Counter({"stopped by the time budget": 1})
        size = max(4096 * 3, (needed + 200_000) * (number + 1) // (count + 1)) // 4096 * 4096
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=False)
        if mounted.returncode:
            return Counter({"skipped: mounting a disk is not allowed": 1})
        check = Workspace.check_space
        try:
            if number % 2:  # as if another program had filled it meanwhile
                Workspace.check_space = lambda *arguments: None  # type: ignore[method-assign]
            code, said = job.wait(job.start(disk / "out"))
            if code not in (0, 5) or (code and "space" not in said and "free" not in said):
                fail(f"{size} bytes: exit code {code}: {said}")
            job.check_in_sight(disk / "out")
            if left := [name for name in tree(disk / "out") if name.endswith((".shard", ".file"))]:
                fail(f"temporary files were left: {left}")
            told[("full" if number % 2 else "refused before") if code else "enough"] += 1
            subprocess.run(["mount", "-o", f"remount,size={2 * needed + 10**7}", str(disk)], check=True)
            job.finish(disk / "out")
        finally:
            Workspace.check_space = check  # type: ignore[method-assign]
            subprocess.run(["umount", str(disk)], check=True)
    return told
