"""scripts/convert-new: night after night what is new, and nothing twice."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from converted import read_back, save
from faults import tree

from npy2tfrecord import convert
from npy2tfrecord.formats import manifest_parsing

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert-new"

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="needs flock, of util-linux")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With the command of this Python."""
    command = tmp_path_factory.mktemp("bin") / "npy2tfrecord"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m npy2tfrecord "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "NPY2TFRECORD": str(command)}


def run(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def grow(root: Path, *numbers: int) -> Path:
    return save(root, {f"{i % 2}/{i}": np.full((2, 3), i, "f4") for i in numbers})


def sets(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.is_dir())


def test_each_night_gives_what_is_new(environment: dict[str, str], tmp_path: Path) -> None:
    root, out = tmp_path / "root =\n", tmp_path / "out dir"
    before = time.strftime("%Y-%m-%d")
    for numbers, result in ((range(3), "done"), ((), "nothing new"), ((3, 4), "done")):
        done = run(environment, "--nice", 5, grow(root, *numbers), out, "--", "--labels", "dirs")
        assert done.returncode == 0, done
        assert re.match(rf"{result} +0 +\d+ s  '\d{{4}}-\d\d-\d\d(-2)?'\n", done.stdout), done
    if time.strftime("%Y-%m-%d") == before:
        assert sets(out) == [before, f"{before}-2"]
    found = [set(read_back(out / name)) for name in sets(out)]
    assert found == [{"0/0", "1/1", "0/2"}, {"1/3", "0/4"}]
    log = (out / "convert-new.log").read_text()
    assert log.count("convert-new: exit 0") == 3
    assert "Left out: 3 examples that the earlier sets hold" in log


def test_a_set_that_was_left_unfinished_is_finished_first(environment: dict[str, str], tmp_path: Path) -> None:
    root, out = grow(tmp_path / "root", *range(4)), tmp_path / "out"
    assert run(environment, "--name", "one", root, out).returncode == 0
    grow(root, *range(4, 8))
    convert(root, out / "two", not_in=out / "one", part="1/2", num_shards=3, shard_size=1)  # begun, not finished
    same = run(environment, "--name", "three", root, out, "--", "--num-shards", "3")
    assert same.returncode == 0, same
    assert [line.split()[0] for line in same.stdout.splitlines()] == ["done", "nothing"]
    assert sets(out) == ["one", "two"]
    grow(root, 8, 9)
    convert(root, out / "four", not_in=[out / "one", out / "two"], part="1/2")
    grow(root, 10)  # what was begun is of other sources now
    assert run(environment, "--name", "five", root, out).returncode == 0
    assert sets(out) == ["four", "one", "two"]
    assert set(read_back(out / "four")) == {"0/8", "1/9", "0/10"}


def test_bad_sources_and_free_space(environment: dict[str, str], tmp_path: Path) -> None:
    root, out = grow(tmp_path / "root", 0), tmp_path / "out"
    (root / "bad.npy").write_bytes(b"no array")
    failing = run(environment, "--name", "a", "--log", tmp_path / "log", root, out)
    assert (failing.returncode, sets(out)) == (4, [])
    assert "bad.npy" in (tmp_path / "log").read_text()
    lenient = run(environment, "--name", "a", root, out, "--", "--on-error", "skip")
    assert (lenient.returncode, sets(out)) == (3, ["a"])
    again = run(environment, "--name", "b", root, out, "--", "--on-error", "skip")
    assert (again.returncode, sets(out)) == (3, ["a"])
    assert run(environment, "--min-free", "900000TB", root, out).returncode == 5


def test_one_at_a_time_and_usage(environment: dict[str, str], tmp_path: Path) -> None:
    root, out = grow(tmp_path / "root", 0), tmp_path / "out"
    out.mkdir()
    with open(out / ".convert-new.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run(environment, root, out)
    assert refused.returncode == 6
    assert "another convert-new is at work" in refused.stderr
    for words in ([root], ["--what", root, out], ["--name", "a/b", root, out], ["--merge-after", "1", root, out]):
        wrong = run(environment, *words)
        assert wrong.returncode == 2, wrong
        assert wrong.stderr.startswith("convert-new: ")
    assert "exit codes" in run(environment, "--help").stdout


@pytest.mark.parametrize("broken", ["", "merging", "merged"])
def test_sets_are_merged_to_what_one_conversion_gives(broken: str, environment: dict[str, str], tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for night in range(3):
        grow(root, *range(4 * night, 4 * night + 4))
        assert run(environment, "--name", f"n{night}", root, out).returncode == 0
    if broken == "merging":  # of other sets, and finished: it must not stand for those that are there now
        shutil.copytree(out / "n0", out / ".merging")
    if broken == "merged":  # killed when it had removed one of them
        shutil.copytree(out / "n0", out / ".merging")
        (out / ".merged").write_bytes(b"n0-merged\0n0\0")
        shutil.rmtree(out / "n0")
    done = run(environment, "--name", "all", "--merge-after", 3, root, out)
    assert done.returncode == 0, done
    assert sets(out) == ["all-merged"]
    convert(root, tmp_path / "whole")
    assert tree(out / "all-merged") == tree(tmp_path / "whole")
    assert manifest_parsing.load(out / "all-merged").examples == 12
