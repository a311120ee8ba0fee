"""The order in which a shard is committed, from a trace of system calls: nothing counts before it is on the disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CALLS = "openat,write,writev,pwrite64,fsync,close,rename,unlink"
CODE = """
import sys
from npy2tfrecord.commands import main
from npy2tfrecord.conversion import converter
converter._SECONDS_FOR_PROCESSES = 0
sys.exit(main.main(sys.argv[1:]))
"""
_LINE = re.compile(r"(?P<pid>\d+) +(?P<call>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)(?:<(?P<opened>.*)>)?")
_PATHS = re.compile(r'"([^"]*)"')
_HANDLE = re.compile(r"\d+<([^>]*)>")


def traced(tmp_path: Path, *options: str) -> list[tuple[str, str, str]]:
    """The calls of a conversion that touch its output, in order: (call, path, path renamed to or data)."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed: the order of system calls cannot be seen")
    (tmp_path / "source").mkdir()
    for i in range(12):
        np.save(tmp_path / "source" / f"{i}.npy", np.full((500,), i, "f4"))
    out, log = tmp_path / "out", tmp_path / "trace"
    words = ["convert", "--jobs=2", "--num-shards=3", *options, str(tmp_path / "source"), str(out)]
    # -y shows the path of every handle; the calls of all processes are in one file, in the order they ended.
    strace = ["strace", "-f", "-y", "-s", "64", "-e", f"trace={CALLS}", "-o", str(log)]
    run = subprocess.run([*strace, sys.executable, "-c", CODE, *words], capture_output=True, text=True, timeout=300)
    if "PTRACE" in run.stderr:
        pytest.skip("processes may not be traced here")
    assert run.returncode == 0, run.stderr
    begun: dict[str, str] = {}
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        pid = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            begun[pid] = line.removesuffix("<unfinished ...>")
            continue
        if "resumed>" in line:
            line = begun.pop(pid) + line.partition("resumed>")[2]
        match = _LINE.fullmatch(line)
        if not match or int(match["result"]) < 0:
            continue
        paths, handle = _PATHS.findall(match["rest"]), _HANDLE.match(match["rest"])
        if match["call"] in ("openat", "rename", "unlink"):
            first, more = paths[0], paths[1] if len(paths) > 1 else match["rest"]
        elif handle:
            first, more = handle[1], match["rest"]
        else:
            continue
        if first.startswith(str(out)):
            relative = first.removeprefix(f"{out}/") if first != str(out) else "."
            calls.append((match["call"], relative, more.removeprefix(f"{out}/")))
    return calls


def first_after(calls: list[tuple[str, str, str]], start: int, call: str, path: str) -> int:
    for i in range(start + 1, len(calls)):
        if calls[i][0] == call and calls[i][1] == path:
            return i
    raise AssertionError(f"no {call} of {path} after {calls[start]}")


def test_nothing_counts_before_it_is_on_the_disk(tmp_path: Path) -> None:
    calls = traced(tmp_path)
    journal, entries = ".npy2tfrecord/journal", 0
    renames = [i for i, (call, _, to) in enumerate(calls) if call == "rename" and ".tfrecord" in to.rpartition("/")[2]]
    assert len(renames) == 3
    for at in renames:
        shard, index = calls[at][1], calls[at][1].removesuffix(".shard") + ".idx"
        index_at = next(i for i, (call, path, _) in enumerate(calls) if (call, path) == ("rename", index))
        assert index_at < at, "a shard is in sight before its index"
        for path, renamed in ((shard, at), (index, index_at)):
            writes = [i for i, c in enumerate(calls) if c[1] == path and c[0] in ("write", "writev", "pwrite64")]
            synced = first_after(calls, max(writes), "fsync", path)
            assert max(writes) < synced < first_after(calls, synced, "close", path) < renamed
        for directory in (".", "index"):
            assert at < first_after(calls, at, "fsync", directory) < first_after(calls, at, "write", journal)
        noted = first_after(calls, at, "write", journal)
        assert noted < first_after(calls, noted, "fsync", journal)
        entries += 1
    assert entries == 3


def test_the_manifest_comes_last_and_its_name_is_kept(tmp_path: Path) -> None:
    calls = traced(tmp_path)
    at = next(i for i, (call, _, to) in enumerate(calls) if call == "rename" and to == "manifest.json")
    temporary = calls[at][1]
    writes = [i for i, (call, path, _) in enumerate(calls) if call == "write" and path == temporary]
    synced = first_after(calls, max(writes), "fsync", temporary)
    assert max(writes) < synced < first_after(calls, synced, "close", temporary) < at
    others = [i for i, (call, _, _) in enumerate(calls) if call == "rename" and i != at]
    assert max(others) < at, "something was given its name after the manifest"
    before = [i for i, (call, path, _) in enumerate(calls) if (call, path) == ("fsync", ".") and i < at]
    assert max(others) < max(before), "the names of the others were not on the disk before the manifest had its own"
    after = first_after(calls, at, "fsync", ".")
    removed = first_after(calls, at, "unlink", ".npy2tfrecord/plan.json")
    assert after < removed, "what the next run would need was removed before the manifest was on the disk"


def test_no_fsync_means_none(tmp_path: Path) -> None:
    assert not [call for call in traced(tmp_path, "--no-fsync") if call[0] == "fsync"]
