"""The arrays that are read: made by number, the same for every contestant. No package of ours, no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

_POOL_VALUES = 16_000_000


@dataclass(frozen=True)
class Set:
    """`count` arrays in batches of `batch`; `lengths` are the sizes of axis 0 where they differ."""

    name: str
    count: int
    batch: int
    shape: tuple[int, ...]
    lengths: tuple[int, int] | None = None


SETS = {
    each.name: each
    for each in (
        Set("small", 200_000, 256, (32, 32)),
        Set("big", 1_000, 16, (512, 512)),
        Set("var", 20_000, 64, (400, 80), (20, 400)),
        Set("tiny", 400_000, 256, (60, 16), (5, 60)),
        Set("shards", 20_000, 256, (60, 16), (5, 60)),
        Set("records", 30, 2, (12_500_000,)),
        Set("start", 50_000, 256, (32, 32)),
        Set("nights", 20_000, 256, (32, 32)),
        Set("disk", 20_000, 256, (32, 32)),
        Set("disk-big", 500, 16, (512, 512)),
    )
}


QUICK_COUNTS = {
    "small": 10_000, "big": 100, "var": 1_000, "tiny": 10_000,
    "shards": 2_000, "records": 10, "start": 5_000, "nights": 2_000, "disk": 5_000, "disk-big": 50,
}  # fmt: skip


class Arrays:
    """`count` arrays of a set, or the first `limit` of them, cut from one pool of noise at places that differ."""

    def __init__(self, name: str, count: int, limit: int | None = None) -> None:
        self.set = replace(SETS[name], count=count)
        self._limit = limit or count
        rng = np.random.default_rng(0)
        self._pool = rng.standard_normal(_POOL_VALUES).astype(np.float32)
        low, high = self.set.lengths or (self.set.shape[0], self.set.shape[0])
        self._lengths = rng.integers(low, high + 1, self.set.count)

    def __len__(self) -> int:
        return self._limit

    def __getitem__(self, i: int) -> np.ndarray:
        shape = (int(self._lengths[i]), *self.set.shape[1:])
        size = int(np.prod(shape))
        start = i * 977 % (_POOL_VALUES - size)
        return self._pool[start : start + size].reshape(shape)

    def check(self) -> float:
        """The sum of every array's first value: what reading all of them must give, in any order."""
        return float(sum(float(self[i].flat[0]) for i in range(len(self))))
