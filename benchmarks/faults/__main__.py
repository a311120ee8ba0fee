"""What becomes of data sets when writers are killed, disks are full and files damaged: benchmarks/run faults.

The same faults for npy2tfrecord, tensorflow-datasets, MDSWriter and webdataset. Prints a table for docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.environment import peers_python

TOOL = Path(__file__).with_name("tool.py")
NAMES = {
    "npy2tfrecord": "npy2tfrecord",
    "tfds": "tensorflow-datasets",
    "mds": "MDSWriter",
    "webdataset": "webdataset",
}
FILES, FLOATS = 64, 50_000
DATA = (".tfrecord", ".mds", ".tar")


class Contestant:
    """One tool and its directory."""

    def __init__(self, name: str, root: Path, seed: int) -> None:
        self.name, self.root, self.source = name, root / name, root / "source"
        self.chance = random.Random(f"{name} {seed}")
        self.python = sys.executable if name == "npy2tfrecord" else str(peers_python())
        self.root.mkdir()
        self.whole = self.root / "whole"
        assert self.write(self.whole).wait() == 0
        assert self.read([self.whole]) == ["all"]
        self.size = _size(self.whole)

    def write(self, out: Path) -> subprocess.Popen[bytes]:
        words = [self.python, str(TOOL), self.name, "write", str(self.source), str(out)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(words, start_new_session=True, **quiet)  # type: ignore[call-overload,no-any-return]

    def read(self, outs: list[Path]) -> list[str]:
        """What can be read of each data set."""
        words = [self.python, str(TOOL), self.name, "read", str(self.source), *map(str, outs)]
        run = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if run.returncode:
            return [self.read([out])[0] if len(outs) > 1 else "crash" for out in outs]
        told: list[str] = json.loads(run.stdout.splitlines()[-1])
        return told

    def killed(self, count: int) -> dict[str, str]:
        """Killed when a random share of the bytes is there; then the same command once more."""
        partly, outs, refused = [], [], []
        for i in range(count):
            out = self.root / f"killed-{i}"
            run = self.write(out)
            enough = self.chance.random() * self.size
            while run.poll() is None and _size(out) < enough:
                time.sleep(0.0005)
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            out.mkdir(exist_ok=True)
            partly.append(Path(shutil.copytree(out, self.root / f"partly-{i}")))
            refused.append(bool(self.write(out).wait()))
            outs.append(out)
        again = [f"refused, {told}" if no else told for no, told in zip(refused, self.read(outs), strict=True)]
        return {"read after a kill": _count(self.read(partly)), "after the same command": _count(again)}

    def damaged(self, kind: str, count: int) -> str:
        outs = []
        for i in range(count):
            out = Path(shutil.copytree(self.whole, self.root / f"{kind}-{i}"))
            files = [p for p in out.rglob("*") if p.is_file() and any(suffix in p.name for suffix in DATA)]
            path = self.chance.choice(sorted(files))
            data = bytearray(path.read_bytes())
            at = self.chance.randrange(len(data))
            if kind == "flips":
                data[at] ^= 1 << self.chance.randrange(8)
            else:
                del data[at:]
            path.write_bytes(data)
            outs.append(out)
        return _count(self.read(outs))

    def full(self, count: int) -> str:
        """Disks that are too small: what the tool says, and what can be read then."""
        told = Counter[str]()
        for i in range(count):
            disk = self.root / f"disk-{i}"
            disk.mkdir()
            size = self.size * (i + 1) // (count + 1)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=True)
            try:
                failed = bool(self.write(disk / "out").wait())
                told[f"{'said so' if failed else 'silent'}, then {self.read([disk / 'out'])[0]}"] += 1
            finally:
                subprocess.run(["umount", str(disk)], check=True)
        return ", ".join(f"{n} {what}" for what, n in told.most_common())


def _size(directory: Path) -> int:
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _count(told: list[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in Counter(told).most_common())


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/run faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damages", type=int, default=50, help="flipped bits, and truncations")
    parser.add_argument("--disks", type=int, default=10, help="sizes of full disks (as root; none otherwise)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "source").mkdir()
        for i in range(FILES):
            values = np.random.default_rng(i).standard_normal(FLOATS).astype("f4")
            np.save(root / "source" / f"{i:02d}.npy", values)

        def contest(name: str) -> dict[str, str]:
            one = Contestant(name, root, given.seed)
            disks = one.full(given.disks) if os.geteuid() == 0 else "not run: only root can mount"
            flips, cut = one.damaged("flips", given.damages), one.damaged("truncations", given.damages)
            return one.killed(given.kills) | {"disk full": disks, "one bit flipped": flips, "one file cut short": cut}

        with ThreadPoolExecutor(len(NAMES)) as pool:
            results = dict(zip(NAMES, pool.map(contest, NAMES), strict=True))
    print("| | " + " | ".join(NAMES.values()) + " |\n" + "| --- " * (len(NAMES) + 1) + "|")
    for row in results["npy2tfrecord"]:
        print(f"| {row} | " + " | ".join(results[name][row] for name in NAMES) + " |")


if __name__ == "__main__":
    main()
