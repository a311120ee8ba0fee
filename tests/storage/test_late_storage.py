"""Whole commands on storage that answers late: a library in front of the system's calls makes each of them wait."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from arrays import tree

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("cc")
COUNT = 600

pytestmark = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler, to delay calls"
)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which calls below DELAY_ROOT, to be set, wait for 2 ms."""
    library = tmp_path_factory.mktemp("library") / "delay.so"
    source = ROOT / "benchmarks" / "storage" / "delay.c"
    subprocess.run([str(COMPILER), "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library), "DELAY_US": "2000"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    chance = np.random.default_rng(0)
    for i in range(COUNT):
        folder = tmp_path / "source" / str(i % 7)
        folder.mkdir(parents=True, exist_ok=True)
        size = 30_000 if i % 50 == 0 else int(chance.integers(1, 500))  # some are too large to be kept
        np.save(folder / f"{i}.npy", chance.standard_normal((size, 1)).astype("f4"))
    return tmp_path / "source"


def start(late: dict[str, str], root: Path, *words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "npy2tfrecord", *map(str, words)],
        env={**late, "DELAY_ROOT": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def run(late: dict[str, str], root: Path, *words: str | Path) -> None:
    process = start(late, root, *words)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told


def test_bytes_are_the_same_and_every_command_works(late: dict[str, str], source: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    run(late, nowhere, "convert", source, tmp_path / "expected", "--num-shards", "3")
    expected = tree(tmp_path / "expected")
    for number, options in enumerate([[], ["--jobs", "1"], ["--in-flight", "1"], ["--in-flight", "5"]]):
        run(late, source, "convert", source, tmp_path / f"out{number}", "--num-shards", "3", *options)
        assert tree(tmp_path / f"out{number}") == expected
    run(late, source, "verify", tmp_path / "out0", "--source", source)
    run(late, tmp_path / "back", "export", tmp_path / "out0", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(source)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_conversion_that_is_stopped_is_resumed(
    late: dict[str, str], source: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = ("convert", source, tmp_path / "out", "--num-shards", "3", "--in-flight", "2")  # slow enough to be stopped
    run(late, tmp_path / "nowhere", "convert", source, tmp_path / "expected", "--num-shards", "3")
    expected = tree(tmp_path / "expected")
    for seconds in (0.5, 1.0, 1.5):
        process = start(late, source, *words)
        time.sleep(seconds)
        process.send_signal(number)
        process.communicate(timeout=20)
        assert process.returncode in (0, -number, 128 + number)
        if (tmp_path / "out" / "manifest.json").exists():  # it was faster, or its last step alone is left
            assert tree(tmp_path / "out").items() >= expected.items()
    run(late, source, *words)
    assert tree(tmp_path / "out") == expected
