"""`--sort natural`: numbers in names count as numbers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save, shards_of

import npy2tfrecord

ORDERED = [
    *("frame_0", "frame_01", "frame_2", "frame_9", "frame_10", "frame_10b", "frame_11", "frame_" + "9" * 50),
    *("x1y2", "x1y10", "x02y1", "clip2/1", "clip2/a/1", "clip10/1", "clip10/2", "clip10/10"),
]


def keys_of(out: Path) -> list[str]:
    return list(read_back(out))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    shuffled = random.Random(0).sample(ORDERED, len(ORDERED))
    return save(tmp_path / "data", {key: np.arange(3) for key in shuffled})


def test_numbers_count_as_numbers(frames: Path, tmp_path: Path, command: Command) -> None:
    words = ("convert", frames, tmp_path / "out", "--sort", "natural", "--no-shuffle", "--num-shards", "3")
    command.ok(*words)
    assert keys_of(tmp_path / "out") == ORDERED
    assert "nothing left" in command.ok(*words).out
    command.ok("verify", tmp_path / "out", "--source", frames)
    npy2tfrecord.convert(frames, tmp_path / "bytes", shuffle=False)
    assert keys_of(tmp_path / "bytes") != ORDERED
    command.refused(6, "sort is 'natural' there", words=("convert", frames, tmp_path / "out", "--no-shuffle"))


def test_it_changes_nothing_in_a_shuffled_set(frames: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        npy2tfrecord.convert(frames, tmp_path / out, sort="natural", seed=3, jobs=1 if out == "a" else 2)
    npy2tfrecord.convert(frames, tmp_path / "c", seed=3)
    assert shards_of(tmp_path / "a") == shards_of(tmp_path / "b")
    assert sorted(keys_of(tmp_path / "a")) == sorted(ORDERED)
    assert shards_of(tmp_path / "a") == shards_of(tmp_path / "c")


def test_rows_keep_their_order(tmp_path: Path) -> None:
    save(tmp_path / "data", {f"part{i}": np.arange(12) for i in (1, 2, 10)})
    npy2tfrecord.convert(tmp_path / "data", tmp_path / "out", rows=True, shuffle=False, sort="natural")
    assert keys_of(tmp_path / "out") == [f"part{i}#{row}" for i in (1, 2, 10) for row in range(12)]


def test_scan_says_when_the_orders_differ(frames: Path, tmp_path: Path, command: Command) -> None:
    assert "  in the order of bytes: frame_10 before frame_10b" not in command.ok("scan", frames).out
    assert "; --sort natural turns them round\n" in command.ok("scan", frames).out
    save(tmp_path / "same", {f"{i:02d}": np.arange(3) for i in range(12)})
    assert "--sort" not in command.ok("scan", tmp_path / "same").out
