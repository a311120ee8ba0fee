"""scripts/convert-tree: names that no one would choose, codes that a monitor can act on."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faults import tree
from object_servers import ObjectServer

from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.storage.objects import Prefix

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert-tree"

pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="needs flock, of util-linux")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With the command of this Python."""
    command = tmp_path_factory.mktemp("bin") / "npy2tfrecord"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m npy2tfrecord "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "NPY2TFRECORD": str(command)}


def save(folder: Path, count: int = 3, rows: int = 2) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        np.save(folder / f"{i}.npy", np.full((rows + i, 4), i, dtype="f4"))


def run(environment: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def results(out: str) -> list[tuple[str, int, str]]:
    """Of each folder: the result, the exit code, the name as the shell quotes it."""
    found = re.findall(r"^(done|skipped|failed) +(\d+) +\d+ s  (.*)$", out, re.MULTILINE)
    return [(result, int(code), name) for result, code, name in found]


def test_strange_names_and_going_on(environment: dict[str, str], tmp_path: Path) -> None:
    root, out = tmp_path / "root =\n", tmp_path / "out dir\n"
    for name in ("plain", "with space", "new\nline", "-q", "a=b", "quote'\"$(x)"):
        save(root / name)
    save(root / ".hidden")
    (root / "file").touch()
    first = run(environment, "--nice", 5, root, out)
    assert first.returncode == 0, first
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(
        ["plain", "with space", "new\nline", "-q", "a=b", "quote'\"$(x)"]
    )
    for folder in filter(Path.is_dir, out.iterdir()):
        assert manifest_parsing.load(folder).examples == 3
    assert [code for _, code, _ in results(first.stdout)] == [0] * 6
    assert ("done", 0, r"$'new\nline'") in results(first.stdout)
    assert "6 done, 0 with skipped sources, 0 failed; exit 0" in first.stdout
    before = {name: data for name, data in tree(out).items() if name != "convert-tree.log"}
    again = run(environment, root, out)
    assert again.returncode == 0, again
    assert before == {name: data for name, data in tree(out).items() if name != "convert-tree.log"}
    log = (out / "convert-tree.log").read_text()
    assert log.count("nothing left to do") == 6
    assert len(re.findall(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (?:begin|end) ", log, re.MULTILINE)) == 24


def test_a_folder_that_fails_does_not_stop_the_others(environment: dict[str, str], tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for name in ("a", "b", "c"):
        save(root / name)
    (root / "b" / "bad.npy").write_bytes(b"no array")
    failing = run(environment, "--log", tmp_path / "log", root, out)
    assert failing.returncode == 4, failing
    assert results(failing.stdout) == [("done", 0, "'a'"), ("failed", 4, "'b'"), ("done", 0, "'c'")]
    assert "bad.npy" in (tmp_path / "log").read_text()
    lenient = run(environment, root, tmp_path / "lenient", "--", "--on-error", "skip")
    assert lenient.returncode == 3, lenient
    assert [code for _, code, _ in results(lenient.stdout)] == [0, 3, 0]


def test_an_output_inside_is_passed_over(environment: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "root" / "a")
    for _ in range(2):
        done = run(environment, tmp_path / "root", tmp_path / "root" / "out")
        assert done.returncode == 0, done
        assert results(done.stdout) == [("done", 0, "'a'")]


def test_the_free_space_floor_stops_it(environment: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "root" / "a")
    save(tmp_path / "root" / "b")
    full = run(environment, "--min-free", "900000TB", tmp_path / "root", tmp_path / "out")
    assert full.returncode == 5, full
    assert results(full.stdout) == [("failed", 5, "'a'")]
    assert not (tmp_path / "out" / "a").exists()
    assert run(environment, "--min-free", "1kB", tmp_path / "root", tmp_path / "out").returncode == 2
    assert run(environment, "--min-free", "1M", tmp_path / "root", tmp_path / "out").returncode == 0


def test_one_at_a_time(environment: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "root" / "a")
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".convert-tree.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = run(environment, tmp_path / "root", tmp_path / "out")
    assert refused.returncode == 6, refused
    assert "another convert-tree is at work" in refused.stderr
    assert run(environment, tmp_path / "root", tmp_path / "out").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_the_conversion(number: signal.Signals, tmp_path: Path) -> None:
    save(tmp_path / "root" / "a")
    save(tmp_path / "root" / "b")
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/pid"\nexec sleep 60\n')
    slow.chmod(0o755)
    process = subprocess.Popen(
        [SCRIPT, tmp_path / "root", tmp_path / "out"],
        env={**os.environ, "NPY2TFRECORD": str(slow)},
        stdout=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 120
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=50)
    assert process.returncode == 128 + number
    assert [code for _, code, _ in results(said)] == [143]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_usage(environment: dict[str, str], tmp_path: Path) -> None:
    root, out = tmp_path, tmp_path / "out"
    wrong_ones = ([], [root], [root / "none", out], ["--what", root, out], ["--nice", "x", root, out])
    for words in (*wrong_ones, ["--min-free", "x", root, out]):
        wrong = run(environment, *words)
        assert wrong.returncode == 2, wrong
        assert wrong.stderr.startswith("convert-tree: ")
    assert "exit codes" in run(environment, "--help").stdout


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_scripts_pass_shellcheck() -> None:
    scripts = [
        path for path in SCRIPT.parent.iterdir() if path.is_file() and path.read_bytes()[:14] == b"#!/usr/bin/env"
    ]
    shells = [path for path in scripts if b"bash" in path.read_bytes().partition(b"\n")[0]]
    assert SCRIPT in shells
    subprocess.run(["shellcheck", "--external-sources", *shells], cwd=SCRIPT.parent.parent, check=True, timeout=300)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze, of systemd")
def test_systemd_takes_the_unit_and_the_timer(tmp_path: Path) -> None:
    units = sorted((SCRIPT.parent / "systemd").iterdir())
    for unit in units:
        text = unit.read_text().replace("/opt/npy2tfrecord", str(SCRIPT.parent.parent))
        (tmp_path / unit.name).write_text(text)
    words = ["systemd-analyze", "verify", *(tmp_path / unit.name for unit in units)]
    checked = subprocess.run(words, capture_output=True, text=True, timeout=300)
    if "Failed to initialize manager" in checked.stderr:
        pytest.skip("systemd-analyze does not work here")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_url_makes_no_folder_of_its_name(environment: dict[str, str], tmp_path: Path) -> None:
    save(tmp_path / "in" / "a")
    for words, said in (
        (("in", "s3://bucket/out"), "OUT is in a bucket: --log FILE names a log on this machine"),
        (("--min-free", "1G", "--log", "log", "in", "s3://bucket/out"), "--min-free is about a disk"),
        (("s3://bucket/in", "out"), "s3://bucket/in: expected a directory of this machine"),
    ):
        made = subprocess.run(
            [SCRIPT, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (made.returncode, made.stdout) == (2, "")
        assert said in made.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_into_a_bucket(environment: dict[str, str], s3: ObjectServer, tmp_path: Path) -> None:
    for name in ("a", "with space"):
        save(tmp_path / "in" / name)
    url, log = f"{s3.url}/{s3.new_prefix()}", tmp_path / "log"
    environment = {**environment, **s3.environment}
    for _ in range(2):
        made = run(environment, "--log", log, tmp_path / "in", url)
        assert made.returncode == 0, made
        assert [code for _, code, _ in results(made.stdout)] == [0, 0]
    assert log.read_text().count("nothing left to do") == 2
    assert run(environment, tmp_path / "in", tmp_path / "out").returncode == 0
    for name in ("a", "with space"):
        place, there = Prefix(f"{url}/{name}"), tree(tmp_path / "out" / name)
        assert {info.name: place.read(info.name, limit=info.size) for info in place.list_objects()} == there
