"""Sources that turn out unreadable only while they are written, and were all that a shard would have had."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save, shards_of
from faults import tree

from npy2tfrecord.conversion import converter
from npy2tfrecord.formats import manifest

BAD = ("b", "d", "e")  # do not fit into float16
WORDS = ("--dtype", "float16", "--on-error", "skip", "--num-shards", "9")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(
        tmp_path / "d", {name: np.full(5 + i, 1e9 if name in BAD else float(i)) for i, name in enumerate("abcdefghi")}
    )


@pytest.fixture
def excluded(source: Path, tmp_path: Path, command: Command) -> dict[str, bytes]:
    """What is written when the bad sources are excluded beforehand."""
    words = [word for name in BAD for word in ("--exclude", f"{name}.npy")]
    assert command("convert", source, tmp_path / "excluded", *WORDS, *words).code == 0
    return shards_of(tmp_path / "excluded")


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_is_planned_again_as_if_they_had_been_excluded(
    jobs: int,
    source: Path,
    excluded: dict[str, bytes],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(converter, "_BYTES_FOR_PROCESSES", 0)
    out = tmp_path / "out"
    words = ("convert", source, out, *WORDS, "--jobs", jobs)
    result = command(*words)
    assert result.code == 3
    assert all(f"{name}.npy: 1" not in result.out and f"{name}.npy: " in result.out for name in BAD)
    assert shards_of(out) == excluded
    assert {Path(skipped.source).name for skipped in manifest.load(out).skipped} == {f"{name}.npy" for name in BAD}
    assert not (out / ".npy2tfrecord").exists()
    assert sorted(read_back(out)) == sorted(set("abcdefghi") - set(BAD))

    assert command("verify", out, "--source", source).code == 0
    assert command(*words, "--check-sources").code == 3
    again = command(*words)
    assert (again.code, "nothing left to do" in again.out) == (3, True)
    whole = tree(out)
    lost = manifest.load(out).splits["train"][2].file
    (out / lost).unlink()
    assert command(*words).code == 3
    assert tree(out) == whole
    (out / lost).write_bytes(bytes((out / lost).stat().st_size))
    assert command("verify", out, "--source", source, "--repair").code == 0
    assert tree(out) == whole


@pytest.mark.parametrize(
    "options",
    [("--compression", "gzip", "--stats"), ("--split", "train=0.6,val=0.4", "--seed", "3"), ("--no-shuffle",)],
    ids=lambda options: options[0],
)
def test_other_options_give_what_they_give_without_the_bad_sources(
    options: tuple[str, ...], source: Path, tmp_path: Path, command: Command
) -> None:
    words = [word for name in BAD for word in ("--exclude", f"{name}.npy")]
    assert command("convert", source, tmp_path / "out", *WORDS, *options).code == 3
    assert command("convert", source, tmp_path / "excluded", *WORDS, *options, *words).code == 0
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "excluded")
    made, expected = manifest.load(tmp_path / "out"), manifest.load(tmp_path / "excluded")
    assert (made.splits, made.features) == (expected.splits, expected.features)


def test_rows_too(tmp_path: Path, command: Command) -> None:
    array = np.ones((6, 4))
    array[[1, 5]] = 1e9
    save(tmp_path, {"X": array})
    out = tmp_path / "out"
    assert command("convert", "--rows", tmp_path / "X.npy", out, *WORDS).code == 3
    assert set(read_back(out)) == {"X#0", "X#2", "X#3", "X#4"}
    assert len(manifest.load(out).shards) == 4
    assert command("verify", out, "--source", tmp_path / "X.npy").code == 0


def test_when_nothing_at_all_is_left_that_is_an_error(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {name: np.full(3, 1e9) for name in "abc"})
    words = ("convert", tmp_path / "d", tmp_path / "out", *WORDS)
    command.refused(4, "a.npy: 3 values", "none of the 3 examples", words=words, out=tmp_path / "out")


# Ends, as if killed, at the n-th of the calls that change something, and runs again; for every n. One process for all.
KILLS = """
import itertools, os, shutil, sys
import npy2tfrecord
from npy2tfrecord import syscalls
source, out, words = sys.argv[1], sys.argv[2], dict(dtype="float16", on_error="skip", num_shards=9, jobs=1, fsync=False)
left = 10**9
npy2tfrecord.convert(source, out + "-first", **words)  # so that no child has to import anything
def counted(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        left or os._exit(9)
        return function(*arguments, **keywords)
    return call
for name in ("write", "rename", "unlink", "rmdir", "mkdir"):
    setattr(syscalls, name, counted(getattr(syscalls, name)))
def tree():
    return {os.path.join(d, f): open(os.path.join(d, f), "rb").read() for d, _, fs in os.walk(out) for f in fs}
def run(kill):
    global left
    child = os.fork()
    if not child:
        left, code = kill, 1
        try:
            npy2tfrecord.convert(source, out, **words)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert run(10**9) == 0
whole = tree()
for kill in itertools.count(1):
    shutil.rmtree(out)
    code = run(kill)
    assert code in (0, 9), code
    if not code:
        break
    if kill % 3 == 0:
        assert run(kill // 3) in (0, 9)
    assert run(10**9) == 0, kill
    assert tree() == whole, kill
print(kill)
"""


def test_killed_at_any_call_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    source = save(tmp_path / "d", {name: np.full(5, 1e9 if name in "bd" else 1.0) for name in "abcd"})
    ended = subprocess.run(
        [sys.executable, "-c", KILLS, str(source), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 50


def test_overwriting_goes_on_and_nonsense_in_the_record_is_refused(
    source: Path, excluded: dict[str, bytes], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ("convert", source, out, *WORDS, "--jobs", "1")
    assert command(*words).code == 3
    recorded = json.loads((out / "manifest.json").read_text())
    assert recorded["sources"]["left_out"] == [1, 3, 4]
    for strange in ([4, 3, 1], [1.0], ["1"], [-1], 7, {"1": 2}, [2**70], [True]):
        recorded["sources"]["left_out"] = strange
        made = manifest.load(out)
        shutil.rmtree(tmp_path / "lying", ignore_errors=True)
        shutil.copytree(out, tmp_path / "lying")
        lying = replace(made, sources=recorded["sources"])
        (tmp_path / "lying" / "manifest.json").write_bytes(lying.encode())
        assert command("verify", tmp_path / "lying", "--source", source).code == 7
    assert command(*words, "--overwrite").code == 3
    assert shards_of(out) == excluded
