"""A first signal ends a command in order, whatever it is doing; a second ends it at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import tree

import npy2tfrecord

# The signal comes with the second call of the function: in the middle of something that the first has begun.
STOP_AT = """
import os, signal, sys
from npy2tfrecord import syscalls
from npy2tfrecord.commands import main
name, number = sys.argv.pop(1), int(sys.argv.pop(1))
plain, calls = getattr(syscalls, name), []
def stop(*arguments, **keywords):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), number)
    return plain(*arguments, **keywords)
setattr(syscalls, name, stop)
sys.exit(main.main())
"""
SLOW_TO_END = """
import sys, time
from npy2tfrecord import cleanup
from npy2tfrecord.commands import info, main
def endless():
    sys.stderr.write("ending\\n")
    sys.stderr.flush()
    time.sleep(600)
def wait(arguments):
    with cleanup.at_sudden_end(endless):
        sys.stderr.write("ready\\n")
        sys.stderr.flush()
        time.sleep(600)
info.run = wait
sys.exit(main.main())
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    for i in range(6):
        np.save(directory / f"{i}.npy", np.full((100, 10), i, dtype="f4"))
    return directory


def stopped(number: signal.Signals, function: str, *words: str | Path) -> None:
    """Run a command that gets this signal when it calls this function of `syscalls` for the second time."""
    run = subprocess.run(
        [sys.executable, "-c", STOP_AT, function, str(int(number)), *words], capture_output=True, text=True, timeout=60
    )
    message = f"npy2tfrecord: stopped by {number.name}; run the same command again to resume\n"
    assert (run.returncode, run.stdout, run.stderr) == (128 + number, "", message)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_conversion_leaves_nothing_unfinished(number: signal.Signals, source: Path, tmp_path: Path) -> None:
    stopped(number, "fsync", "convert", source, tmp_path / "out", "--num-shards", "3")
    assert [name for name in tree(tmp_path / "out") if name.endswith((".shard", ".idx", ".keys", ".file"))] == []
    npy2tfrecord.convert(source, tmp_path / "out", num_shards=3)


def test_a_repair_leaves_nothing_unfinished(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    npy2tfrecord.convert(source, out, num_shards=3)
    whole = tree(out)
    (out / "train-00001-of-00003.tfrecord").write_bytes(b"")
    stopped(signal.SIGTERM, "fsync", "verify", out, "--source", source, "--repair")
    assert [name for name in tree(out) if name.endswith((".shard", ".file"))] == []
    npy2tfrecord.verify(out, source=source, repair=True)
    assert tree(out) == whole


@pytest.mark.parametrize("rows", [False, True])
def test_an_export_leaves_no_part_of_a_file(rows: bool, source: Path, tmp_path: Path) -> None:
    npy2tfrecord.convert(source, tmp_path / "out", num_shards=1, rows=rows)
    stopped(signal.SIGTERM, "write_all", "export", tmp_path / "out", tmp_path / "back")
    expected = {} if rows else tree(source)
    assert tree(tmp_path / "back").items() <= expected.items()


def test_a_second_signal_ends_it_at_once() -> None:
    words = [sys.executable, "-c", SLOW_TO_END, "info", "x"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        assert run.stderr.readline() == "ready\n"
        run.send_signal(signal.SIGTERM)
        assert run.stderr.readline() == "ending\n"
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == -signal.SIGINT


def test_a_program_that_calls_main_keeps_its_signals() -> None:
    code = """
import signal
from npy2tfrecord.commands import info, main
signal.signal(signal.SIGTERM, lambda number, frame: print("mine"))
seen = []
info.run = lambda arguments: signal.raise_signal(signal.SIGTERM) or 0
print(main.main(["info", "x"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("mine\n0\n", "")
