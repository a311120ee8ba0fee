"""A small data set for the examples: noisy pictures of two classes, as `.npy` files and converted."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import npy2tfrecord


def data_set() -> str:
    """The directory named on the command line, or that of a small set made here."""
    if len(sys.argv) > 1:
        return sys.argv[1]
    root = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    for i in range(400):
        picture = rng.random((8, 8), dtype=np.float32)
        picture[: 4 if i % 2 else 8] += 0.5
        file = root / "arrays" / ("half", "whole")[i % 2] / f"{i:03d}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, picture)
    npy2tfrecord.convert(
        str(root / "arrays"), str(root / "shards"), labels="dirs", split="train=0.8,test=0.2", num_shards=4, jobs=1
    )
    return str(root / "shards")
