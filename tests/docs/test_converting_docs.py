"""The examples in docs/converting.md do what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from converted import Command, save

import npy2tfrecord

PAGE = Path(__file__).parents[2] / "docs" / "converting.md"
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data that the examples are about."""
    rng = np.random.default_rng(0)
    keys = [f"{c}/{i:03d}" for c in ("cats", "dogs") for i in range(3)]
    save(tmp_path / "img", {key: rng.integers(0, 255, (4, 4, 3)).astype(np.uint8) for key in keys})
    save(tmp_path / "msk", {key: rng.integers(0, 2, (4, 4)).astype(np.uint8) for key in keys[:-1]})
    save(tmp_path, {"X": rng.normal(size=(100, 8)), "y": rng.integers(0, 10, 100)})
    np.savez(tmp_path / "bundle.npz", x=rng.normal(size=(5, 3)), y=np.arange(5))
    save(tmp_path / "scans", {f"p{p:02d}/{i}": np.ones(3) for p in range(6) for i in range(2)})
    save(tmp_path / "data", {f"patient{p:02d}-{i}": np.ones(3) for p in range(40) for i in range(2)})
    save(tmp_path / "big", {"1": np.array([1, 1e6, -1e6])})
    save(tmp_path / "w", {"1": np.ones(3, ml_dtypes.bfloat16)})
    np.savez(tmp_path / "utterances.npz", **{f"u{i:04d}": np.ones((i % 9 + 1, 4)) for i in range(100)})
    mnist = {"x_train": np.ones((20, 4, 4), "u1"), "y_train": np.arange(20)}
    np.savez(tmp_path / "mnist.npz", **mnist, x_test=np.ones((5, 4, 4), "u1"), y_test=np.arange(5))
    save(tmp_path / "photos", {"1": np.ones(3), "._1.npy": np.ones(3)})
    for name in (*"abc", *(f".{i}" for i in range(11))):
        (tmp_path / "photos" / f"{name}.txt").touch()
    monkeypatch.chdir(tmp_path)
    for day, folder in (("monday", "cats"), ("tuesday", "dogs")):
        npy2tfrecord.convert("img", day, include=f"{folder}/*", fsync=False)
    return tmp_path


def test_there_are_examples() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_do_what_the_page_says(demo: Path, command: Command, block: str) -> None:
    for number, example in enumerate(block.split("$ ")[1:]):
        line, *expected = example.splitlines()
        words = shlex.split(line, comments=True)
        assert words.pop(0) == "npy2tfrecord"
        if words[0] == "export":
            command.ok("convert", "--rows", "x=X.npy", "y=y.npy", "out")
        elif number:
            words[-1 if words[-1] == "out" else words.index("out")] = f"out{number}"
        said = "".join(command(*words)[1:]).replace(f"out{number}", "out").splitlines()
        for text in expected:
            assert text in said or text == "...", (text, said)
        promised = re.search(r"# .*?(\d+) examples?", line)
        if promised:
            assert promised.group(0)[2:].rpartition(", ")[2] in said[0]
        assert expected or said[0].startswith("Wrote")
