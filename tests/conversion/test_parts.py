"""`part`: runs that share nothing but a directory write one data set, whoever dies, and whatever starts again."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, save
from faults import CALLS, Injector, assert_nothing_half_written, injected, tree

from npy2tfrecord import Progress, convert, syscalls, verify
from npy2tfrecord.conversion import shared_scan, surveyor
from npy2tfrecord.errors import ConflictError, Error, InputError, OutputError, UnstableError, UsageError

OPTIONS: dict[str, Any] = {"num_shards": 5, "jobs": 1}
ROUNDS = int(os.environ.get("NPY2TFRECORD_STRESS_ROUNDS", "3"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    arrays = {f"{i % 3}/{i}": rng.standard_normal((2 + i % 7, 4)).astype("f4") for i in range(40)}
    return save(tmp_path_factory.mktemp("source"), arrays)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    convert(source, out, **OPTIONS)
    return tree(out)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync still needs an open file, but waits for no disk."""
    monkeypatch.setattr(syscalls, "fsync", os.fstat)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_parts_and_a_last_run_write_what_one_run_writes(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[str] = []
    for number in (3, 1, 2):
        made = convert(source, out, part=f"{number}/3", **OPTIONS)
        seen += [shard.file for shard in made.shards]
        assert not (out / "manifest.json").exists()
    assert sorted(seen) == sorted(name for name in whole if name.endswith(".tfrecord"))
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    assert convert(source, out, **OPTIONS).examples == 40
    assert tree(out) == whole
    assert written == {path: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}, "a shard was written again"
    assert convert(source, out, part=(1, 3), **OPTIONS).examples == 40, "nothing is left to do for a part"
    assert tree(out) == whole


def test_more_parts_than_shards_and_other_numbers_of_parts(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert convert(source, out, part="9/9", **OPTIONS).examples == 0
    convert(source, out, part="1/2", **OPTIONS)
    convert(source, out, part="2/3", **OPTIONS)
    convert(source, out, **OPTIONS)
    assert tree(out) == whole


def test_the_last_run_writes_what_is_missing_and_names_the_parts(
    command: Command, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("convert", "--num-shards", 5, "--jobs", 1, source, out)
    for number in (1, 3):
        said = command.ok(*words, "--part", f"{number}/4").out
        assert f"part {number}/4 is done" in said
    assert "Not finished, and written by this run: part 2, 4 of 4" in command.ok(*words).out
    assert tree(out) == whole


def test_the_scan_is_made_once(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[int] = []
    original = surveyor.scan_files

    def counted(*arguments: Any) -> Any:
        scans.append(1)
        return original(*arguments)

    monkeypatch.setattr(surveyor, "scan_files", counted)
    for number in range(1, 6):
        convert(source, tmp_path / "out", part=(number, 5), **OPTIONS)
    assert len(scans) == 1
    convert(source, tmp_path / "out", **OPTIONS)
    assert len(scans) == 2, "the last run looks at the sources itself"
    assert tree(tmp_path / "out") == whole


def test_other_options_or_sources_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(source, out, part="1/2", **OPTIONS)
    with pytest.raises(ConflictError, match="num_shards is 5 there, 4 now"):
        convert(source, out, part="2/2", **OPTIONS | {"num_shards": 4})
    other = save(tmp_path / "other", {"1": np.zeros(3), "2": np.zeros(3)})
    with pytest.raises(ConflictError, match="40 source files then, 2 now"):
        convert(other, out, part="2/2", **OPTIONS)
    with pytest.raises(UsageError, match="overwrite without part"):
        convert(source, out, part="2/2", overwrite=True, **OPTIONS)
    for wrong in ("0/2", "3/2", "x", "1/2/3", "1/100000", (1,), 3, (True, 2)):
        with pytest.raises(UsageError, match="part"):
            convert(source, out, part=wrong, **OPTIONS)  # type: ignore[arg-type]


def test_shards_of_another_plan_are_not_taken(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Two parts with other options may both find no plan, and begin at the same time."""
    out = tmp_path / "out"
    convert(source, out, part="1/2", dtype="float16", **OPTIONS)
    (out / ".npy2tfrecord" / "plan.json").unlink()
    convert(source, out, part="2/2", **OPTIONS)
    convert(source, out, **OPTIONS)
    assert tree(out) == whole


def test_a_bad_source_leaves_nothing_behind(tmp_path: Path) -> None:
    root = save(tmp_path / "root", {"1": np.zeros(3)})
    (root / "bad.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"bad\.npy"):
        convert(root, tmp_path / "out", part="1/2")
    assert not (tmp_path / "out").exists()


def test_sources_that_change_are_scanned_again(source: Path, tmp_path: Path) -> None:
    mine, out = Path(shutil.copytree(source, tmp_path / "source")), tmp_path / "out"
    convert(mine, out, part="1/2", **OPTIONS)
    for path in mine.rglob("*.npy"):
        os.utime(path, (1, 1))
    with pytest.raises(UnstableError):
        convert(mine, out, part="2/2", **OPTIONS)
    convert(mine, out, part="2/2", **OPTIONS)
    convert(mine, out, **OPTIONS)
    assert tree(out) == tree_of_one_run(mine, tmp_path)


def tree_of_one_run(source: Path, tmp_path: Path) -> dict[str, bytes]:
    convert(source, tmp_path / "unbroken", **OPTIONS)
    return tree(tmp_path / "unbroken")


def test_a_run_of_the_whole_waits_for_no_part_and_disturbs_none(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    errors: list[ConflictError] = []

    def meanwhile(progress: Progress) -> None:
        if progress.bytes_total and not errors:  # the scan is over: others would wait for it
            for part in (None, "1/2"):
                with pytest.raises(ConflictError, match="another run is at work here") as caught:
                    convert(source, out, part=part, **OPTIONS)
                errors.append(caught.value)
            convert(source, out, part="2/2", **OPTIONS)

    convert(source, out, part="1/2", progress=meanwhile, **OPTIONS)
    assert len(errors) == 2
    convert(source, out, **OPTIONS)
    assert tree(out) == whole


def test_the_tasks_of_a_slurm_array(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    program = tmp_path / "npy2tfrecord"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m npy2tfrecord "$@"\n')
    program.chmod(0o755)
    script = Path(__file__).parents[2] / "scripts" / "slurm" / "convert-array.sbatch"

    def run(**task: object) -> int:
        environment = {f"SLURM_{name.upper()}": str(value) for name, value in task.items()}
        return subprocess.run(
            ["bash", script, source, tmp_path / "out", "--num-shards", "5"],
            env={**os.environ, "NPY2TFRECORD": str(program), **environment},
            capture_output=True,
            timeout=300,
            check=False,
        ).returncode

    assert run(array_task_id=0, array_task_min=0, array_task_max=1, array_task_count=2) == 2
    for number in (2, 1):
        assert run(array_task_id=number, array_task_min=1, array_task_max=2, array_task_count=2) == 0
        assert not (tmp_path / "out" / "manifest.json").exists()
    assert run(cpus_per_task=1) == 0
    assert tree(tmp_path / "out") == whole


# --- the scan that is shared --------------------------------------------------------------------


def test_a_scan_whose_part_is_dead_is_taken_over(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for owner in (f"process {gone.pid} on {os.uname().nodename}, beat 3\n", "process 1 on elsewhere, beat 3\n", ""):
        out = tmp_path / f"out{len(owner)}"
        (out / ".npy2tfrecord").mkdir(parents=True)
        (out / ".npy2tfrecord" / "scanning").write_text(owner)
        monkeypatch.setattr(shared_scan, "_DEAD_SECONDS", 600.0 if str(gone.pid) in owner else 0.3)
        convert(source, out, part="1/1", **OPTIONS)
        convert(source, out, **OPTIONS)
        assert tree(out) == whole


def test_a_part_waits_for_the_scan_of_another(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    convert(source, out, part="1/2", **OPTIONS)
    work = out / ".npy2tfrecord"
    work.joinpath("scan").rename(tmp_path / "scan")
    (work / "scanning").touch()
    beats: list[float] = []

    def sleep(seconds: float) -> None:
        beats.append(seconds)
        work.joinpath("scanning").write_text(f"process 1 on elsewhere, beat {len(beats)}\n")
        if len(beats) == 5:
            tmp_path.joinpath("scan").rename(work / "scan")

    monkeypatch.setattr(shared_scan.time, "sleep", sleep)
    monkeypatch.setattr(surveyor, "scan_files", None)  # it must not scan
    assert convert(source, out, part="2/2", **OPTIONS).shards
    assert len(beats) == 5


@pytest.mark.parametrize("damage", [b"", b"x", None], ids=["empty", "altered", "cut"])
def test_a_damaged_scan_is_made_anew(
    damage: bytes | None, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(source, out, part="1/2", **OPTIONS)
    path = out / ".npy2tfrecord" / "scan"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    convert(source, out, part="2/2", **OPTIONS)
    convert(source, out, **OPTIONS)
    assert tree(out) == whole


# --- faults -------------------------------------------------------------------------------------

CHANGING = ("open", "write", "fsync", "rename", "unlink", "mkdir", "rmdir", "close")


@contextlib.contextmanager
def killed_at(number: int) -> Iterator[list[int]]:
    """Kill this process at the `number`-th call that could change something; 0 counts only."""
    calls = [0]
    originals = {name: getattr(syscalls, name) for name in CHANGING}

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return call

    for name, function in originals.items():
        setattr(syscalls, name, wrap(function))
    try:
        yield calls
    finally:
        for name, function in originals.items():
            setattr(syscalls, name, function)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_every_call_of_a_part(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with killed_at(0) as calls:
        convert(source, out, part="1/2", **OPTIONS)
    shutil.rmtree(out)
    total, kills = calls[0], 0
    assert total > 50
    for number in range(1, total + 1, 1 if ROUNDS > 3 else 7):
        child = os.fork()
        if not child:
            with killed_at(number):
                convert(source, out, part="1/2", **OPTIONS)
            os._exit(0)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert_nothing_half_written(out, whole)
        convert(source, out, part="2/2", **OPTIONS)
        assert_nothing_half_written(out, whole)
        if number % 2:
            convert(source, out, part="1/2", **OPTIONS)
        convert(source, out, **OPTIONS)
        assert tree(out) == whole, f"call {number}"
        shutil.rmtree(out)
    assert kills >= total // (1 if ROUNDS > 3 else 8)


@pytest.mark.parametrize("name", CALLS)
def test_failing_calls_of_a_part(name: str, source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    counter = Injector()
    with injected(name, counter):
        convert(source, out, part="1/2", **OPTIONS)
    shutil.rmtree(out)
    step = 1 if ROUNDS > 3 else max(1, counter.calls // 4)
    for number in range(1, counter.calls + 1, step):
        for last in (number, 10**9):
            error = errno.ENOSPC if name in ("write", "fsync", "close", "mkdir", "open") else errno.EIO
            with injected(name, Injector(number, last, error)), contextlib.suppress(OutputError, InputError):
                convert(source, out, part="1/2", **OPTIONS)
            assert_nothing_half_written(out, whole)
            convert(source, out, part="2/2", **OPTIONS)
            convert(source, out, **OPTIONS)
            assert tree(out) == whole, f"{name} {number}"
            shutil.rmtree(out)


def _start(source: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "npy2tfrecord", "convert", "--num-shards", "5", "--jobs", "1", "--quiet"]
    return subprocess.Popen([*command, str(source), str(out), *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def test_parts_that_are_killed_at_random_and_started_again(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    out, parts = tmp_path / "out", [f"{number}/4" for number in range(1, 5)]
    for _ in range(ROUNDS):
        runs = [_start(source, out, "--part", part) for part in (*parts, chance.choice(parts))]
        time.sleep(chance.uniform(0.1, 1.5))
        for run in chance.sample(runs, 3):
            run.kill()
        codes = [run.wait(60) for run in runs]
        assert set(codes) <= {0, 6, -signal.SIGKILL}, (seed, codes, [run.communicate() for run in runs])
        for run in runs:
            run.communicate()
        assert_nothing_half_written(out, whole)
    last = _start(source, out)
    assert last.wait(60) == 0, (seed, last.communicate())
    last.communicate()
    assert tree(out) == whole
    verify(out, source=source)


def test_two_of_the_same_part_where_locks_do_not_work(
    source: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from npy2tfrecord.output import workspace

    monkeypatch.setattr(workspace, "_take_lock", lambda handle, *, shared: True)
    for part in ("1/2", None):
        out, once = tmp_path / f"out{part and 1}", []

        def meanwhile(progress: Progress, part: str | None = part, out: Path = out, once: list[int] = once) -> None:
            if progress.bytes_total and not once:
                once.append(1)
                convert(source, out, part=part, **OPTIONS)

        with contextlib.suppress(Error):  # its temporary files may be gone
            convert(source, out, part="1/2", progress=meanwhile, **OPTIONS)
        assert once
        assert_nothing_half_written(out, whole)
        convert(source, out, **OPTIONS)
        assert tree(out) == whole
