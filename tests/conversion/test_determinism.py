"""The same sources and options give the same bytes: for any jobs, any place, and however often a run was killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import FORMS, tree, values_of, write_npy
from disorder import shuffle_directories

import npy2tfrecord
from npy2tfrecord.conversion import converter, surveyor
from npy2tfrecord.jobs import pool
from npy2tfrecord.sources import headers

OPTIONS = {"split": "train=0.8,val=0.2", "labels": "dirs", "num_shards": 7, "fsync": False}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 arrays of many shapes, stored in every way, some too large for a worker's buffer, and some that are bad."""
    root = tmp_path_factory.mktemp("determinism") / "source"
    rng = random.Random(0)
    for i in range(300):
        shape = (rng.randrange(50), rng.randrange(1, 8))
        write_npy(root / rng.choice("xyz") / f"{i}.npy", values_of("float32", shape, i), FORMS[i % len(FORMS)])
    write_npy(root / "x" / "large.npy", values_of("float32", (2_500_000, 2), 1))
    write_npy(root / "y" / "large.npy", values_of("float32", (2_500_000, 2), 2), FORMS[-1])
    return root


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, bytes]:
    out = source.parent / "expected"
    npy2tfrecord.convert(source, out, jobs=1, **OPTIONS)
    files = tree(out)
    assert len(files) == 5 + 3 * 14
    return files


@pytest.fixture
def always_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes also for what is small."""
    monkeypatch.setattr(converter, "_SECONDS_FOR_PROCESSES", 0)
    monkeypatch.setattr(surveyor, "_TASKS_FOR_PROCESSES", 0)
    monkeypatch.setattr(headers, "_FILES_PER_TASK", 37)


@pytest.mark.usefixtures("always_processes")
@pytest.mark.parametrize(("jobs", "backend"), [(1, "loky"), (2, "loky"), (4, "loky"), (3, "threading")])
def test_bytes_are_the_same_for_any_number_of_jobs(
    source: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, backend: str
) -> None:
    used = []
    real = pool.run

    def run(*arguments: Any, **keywords: Any) -> Any:
        used.append((keywords["jobs"], keywords["backend"]))
        return real(*arguments, **keywords)

    monkeypatch.setattr(pool, "run", run)
    npy2tfrecord.convert(source, tmp_path / "out", jobs=jobs, backend=backend, **OPTIONS)
    assert set(used) == {(jobs, backend)}
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize("seed", range(3))
def test_bytes_do_not_depend_on_the_order_of_directories(
    source: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    shuffle_directories(monkeypatch, seed)
    npy2tfrecord.convert(source, tmp_path / "out", jobs=1, **OPTIONS)
    assert tree(tmp_path / "out") == expected


def test_bytes_do_not_depend_on_where_the_sources_are(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place" / "with a much longer name"
    files = list(source.rglob("*.npy"))
    random.Random(1).shuffle(files)
    for path in files:  # other inodes, times and order on the disk
        copy = elsewhere / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    npy2tfrecord.convert(elsewhere, tmp_path / "out", jobs=1, **OPTIONS)
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize("seed", ["0", "1", "12345"])
def test_bytes_do_not_depend_on_the_hash_seed(
    source: Path, expected: dict[str, bytes], tmp_path: Path, seed: str
) -> None:
    words = ["--split", "train=0.8,val=0.2", "--labels", "dirs", "--num-shards", "7", "--no-fsync", "--jobs", "1"]
    command = [sys.executable, "-m", "npy2tfrecord", "convert", *words, str(source), str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert tree(tmp_path / "out") == expected


def test_order_of_examples_is_shuffled_by_the_seed_alone(tmp_path: Path) -> None:
    for i in range(100):
        write_npy(tmp_path / "source" / f"{i:02}.npy", np.array([i], "<i8"))

    def shards(**options: Any) -> bytes:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", fsync=False, **options)
        return b"".join(data for name, data in tree(tmp_path / "out").items() if name.endswith(".tfrecord"))

    assert shards() == shards(seed=0)
    assert len({shards(), shards(seed=1), shards(shuffle=False), shards(seed=2**64 - 1)}) == 4
    assert shards(shuffle=False) == shards(shuffle=False, seed=1)
    assert len(shards()) == len(shards(seed=1))


# --- killed and started again -------------------------------------------------------------------

# Kills itself at a call that writes or renames, whose number comes first; of workers, only their parent does.
KILLABLE = """
import os, signal, sys
from npy2tfrecord import syscalls
from npy2tfrecord.commands import main
from npy2tfrecord.conversion import converter
{patch}
left, parent = int(sys.argv[1]), os.getpid()
def counted(call):
    def counting(*arguments):
        global left
        left -= os.getpid() == parent
        if not left:
            os.kill(parent, signal.SIGKILL)
        return call(*arguments)
    return counting
syscalls.write, syscalls.rename = counted(syscalls.write), counted(syscalls.rename)
sys.exit(main.main(sys.argv[2:]))
"""
HOW = {"in one process": ("--jobs=1", ""), "in workers": ("--jobs=2", "converter._SECONDS_FOR_PROCESSES = 0")}
NEVER = "0"


@pytest.fixture(scope="module")
def killed_source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("killed")
    for i in range(160):
        write_npy(root / "source" / f"{i}.npy", values_of("uint8", (100_000 + i,), i))
    npy2tfrecord.convert(root / "source", root / "out", fsync=False, num_shards=80)
    return root / "source", tree(root / "out")


@pytest.mark.parametrize("how", HOW)
def test_killed_runs_never_show_a_partial_shard_and_the_last_ends_the_same(
    killed_source: tuple[Path, dict[str, bytes]], tmp_path: Path, how: str
) -> None:
    source, expected = killed_source
    jobs, patch = HOW[how]
    out = tmp_path / "out"
    words = ["convert", jobs, "--num-shards=80", str(source), str(out)]
    command = [sys.executable, "-c", KILLABLE.format(patch=patch)]
    rng = random.Random(how)
    finished: list[int] = []
    for _ in range(4):
        moment = str(rng.randrange(30, 60))  # a shard takes four calls or more: there is one, and never all
        process = subprocess.Popen([*command, moment, *words], start_new_session=True, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            check_shards(out, expected)
            time.sleep(0.005)
        assert process.returncode == -signal.SIGKILL
        finished.append(len(check_shards(out, expected, whole=True)))
        wait_for_workers(out)
    assert finished == sorted(finished)  # what is finished stays
    assert 0 < finished[0] < finished[-1] < 80
    subprocess.run([*command, NEVER, *words], check=True, stdout=subprocess.DEVNULL)
    wait_for_workers(out)
    assert tree(out) == expected


def check_shards(out: Path, expected: dict[str, bytes], *, whole: bool = False) -> list[str]:
    """The shards that can be seen; each must have its size, and if `whole` its content."""
    names = [path.name for path in out.rglob("*") if ".tfrecord" in path.name] if out.exists() else []
    for name in names:
        if whole:
            assert (out / name).read_bytes() == expected[name]
        else:
            assert (out / name).stat().st_size == len(expected[name])
    return names


def wait_for_workers(out: Path) -> None:
    """Until no process has a file below `out` open: what a killed run left behind must be gone by itself."""
    deadline = time.monotonic() + 120
    while holders := [link for link in Path("/proc").glob("[0-9]*/fd/*") if target(link).startswith(str(out))]:
        assert time.monotonic() < deadline, holders
        time.sleep(0.1)


def target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed by now, or none of our business
        return ""


# --- without TensorFlow -------------------------------------------------------------------------


def test_everything_but_tf_data_runs_without_tensorflow(source: Path, tmp_path: Path) -> None:
    """TensorFlow, Keras and TFDS are made unimportable for the command and for all its workers."""
    for name in ("tensorflow", "keras", "tensorflow_datasets"):
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text("raise ImportError('blocked')\n")
    code = f"""
import os, sys
from npy2tfrecord.commands import main
from npy2tfrecord.conversion import converter
converter._SECONDS_FOR_PROCESSES = 0
source, out, back = {str(source)!r}, {str(tmp_path / "out")!r}, {str(tmp_path / "back")!r}
for words in (["scan", source], ["convert", "--jobs=2", "--labels=dirs", source, out], ["info", out],
              ["verify", "--jobs=2", out], ["export", out, back]):
    assert main.main(words) == 0, words
import readers
from readers import ArraySource
assert len(ArraySource(out)) == 302
assert ArraySource(out)[0]["array"].dtype == "float32"
try:
    import tensorflow
except ImportError as error:
    assert str(error) == "blocked"
else:
    sys.exit("TensorFlow could be imported: nothing is shown")
try:
    readers.load_dataset(out)
except ImportError:
    pass
else:
    sys.exit("load_dataset did not need TensorFlow: nothing is shown")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "blocked"), *sys.path])}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL)
    for path in source.rglob("*.npy"):
        found = np.load(tmp_path / "back" / path.relative_to(source))
        expected = np.load(path)
        assert found.shape == expected.shape
        assert found.tobytes() == expected.astype(expected.dtype.newbyteorder("<")).tobytes()
