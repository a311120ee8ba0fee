"""Conversion on a cluster: real schedulers and workers, as processes on loopback, some of which die or do not fit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import tree

pytest.importorskip("distributed")

COMMAND = [sys.executable, "-m", "npy2tfrecord"]
SHARDS = ["--num-shards", "12", "--stats", "--seed", "3"]
LIMIT = 300  # seconds, which nothing here comes near: it ends a test that hangs

# For a worker: after as many shards as HOLD_AFTER it waits in the middle of one, until there is a file named RELEASED.
HOLDING = """
import os, time
plain, done = os.replace, []
def replace(old, new, **keywords):
    if os.fsdecode(new).endswith(".shard"):
        while len(done) >= int(os.environ["HOLD_AFTER"]) and not os.path.exists(os.environ["RELEASED"]):
            time.sleep(0.01)
        done.append(new)
    plain(old, new, **keywords)
os.replace = replace
"""


class Cluster:
    """A scheduler, and workers that are started and killed one by one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._released = directory / "released"
        file = directory / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show", "--scheduler-file", str(file))
        self._wait(lambda: file.exists() and "tcp://" in file.read_text())
        self.address = file.read_text().partition('"address": "')[2].partition('"')[0]

    def worker(self, python: str = sys.executable, **environment: str) -> subprocess.Popen[bytes]:
        """One more worker with one thread, in a directory of its own."""
        name = f"worker{len(self._processes)}"
        words = [self.address, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--name", name]
        log = self.directory / f"{name}.log"
        worker = self._start(
            "worker", *words, "--local-directory", str(self.directory), log=log, python=python, **environment
        )
        self._wait(lambda: b"Registered to" in log.read_bytes())
        return worker

    def holding_worker(self, after: int) -> subprocess.Popen[bytes]:
        """One more worker, which writes so many shards and then holds the next until `release`."""
        paths = self.directory / "holding"
        paths.mkdir(exist_ok=True)
        (paths / "sitecustomize.py").write_text(HOLDING)
        return self.worker(PYTHONPATH=str(paths), HOLD_AFTER=str(after), RELEASED=str(self._released))

    def release(self) -> None:
        self._released.touch()

    def _start(
        self, kind: str, *words: str, log: Path | None = None, python: str = sys.executable, **environment: str
    ) -> subprocess.Popen[bytes]:
        with open(log or os.devnull, "wb") as told:
            process = subprocess.Popen(
                [python, "-m", "dask", kind, "--no-dashboard", *words],
                stdout=told,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **environment},
            )
        self._processes.append(process)
        return process

    @staticmethod
    def _wait(condition: object) -> None:
        end = time.monotonic() + LIMIT
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < end, "the cluster does not come up"
            time.sleep(0.05)

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait(LIMIT)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    directory = tmp_path / "cluster"
    directory.mkdir()
    started = Cluster(directory)
    yield started
    started.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cluster source") / "arrays"
    rng = np.random.default_rng(0)
    for i in range(300):
        path = root / f"class{i % 3}" / f"{i:03}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.normal(size=(int(rng.integers(500, 3000)), 40)).astype("f4"))
    (root / "bad.npy").write_bytes(b"no array")
    return root


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("local") / "out"
    run = convert(source.parent, out, "--jobs", "1")
    assert run.returncode == 3, run.stderr
    return tree(out)


def convert(here: Path, out: Path, *options: str, **keywords: object) -> subprocess.CompletedProcess[str]:
    words = ["convert", "arrays", str(out), *SHARDS, "--on-error", "skip", *options]
    return subprocess.run([*COMMAND, *words], cwd=here, capture_output=True, text=True, timeout=LIMIT)


def written(run: subprocess.CompletedProcess[str]) -> list[dict[str, float]]:
    """The lines of progress from when the sources are scanned."""
    lines = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["bytes_total"]]


def shards(files: dict[str, bytes]) -> list[bytes]:
    return [data for name, data in files.items() if name.endswith(".tfrecord")]


def test_a_cluster_writes_the_same_bytes(
    cluster: Cluster, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for _ in range(2):
        cluster.worker()
    out = tmp_path / "out"
    run = convert(source.parent, out, "--backend", "dask", "--scheduler", cluster.address, "--progress", "json")
    assert run.returncode == 3, run.stderr
    assert tree(out) == whole
    lines = written(run)
    assert lines[-1]["bytes_done"] == lines[-1]["bytes_total"] == sum(map(len, shards(whole)))
    assert lines[-1]["shards_done"] == lines[-1]["shards_total"] == 12
    for name in ("bytes_done", "shards_done"):
        assert [line[name] for line in lines] == sorted(line[name] for line in lines)
    again = convert(source.parent, out, "--backend", "dask", "--scheduler", cluster.address)
    assert (again.returncode, again.stdout.count("nothing left to do")) == (3, 1), again


def started(cluster: Cluster, source: Path, out: Path, shards: int) -> subprocess.Popen[str]:
    """A conversion on the cluster whose workers have written so many shards, and hold the next ones."""
    words = ["convert", "arrays", str(out), *SHARDS, "--on-error", "skip", "--backend", "dask"]
    run = subprocess.Popen(
        [*COMMAND, *words, "--scheduler", cluster.address],
        cwd=source.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    cluster._wait(lambda: len(list(out.glob("*.tfrecord"))) == shards or run.poll() is not None)
    assert run.poll() is None, run.communicate()
    return run


def test_a_worker_killed_in_the_middle_is_made_up_for(
    cluster: Cluster, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    workers = [cluster.holding_worker(after=1) for _ in range(2)]
    out = tmp_path / "out"
    run = started(cluster, source, out, 2)
    workers[0].kill()
    cluster.release()
    _, told = run.communicate(timeout=LIMIT)
    assert run.returncode == 3, told
    assert tree(out) == whole


def test_a_cluster_that_is_gone_ends_the_run_and_the_next_goes_on(
    cluster: Cluster, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    cluster.holding_worker(after=1)
    out = tmp_path / "out"
    run = started(cluster, source, out, 1)
    cluster.close()
    _, told = run.communicate(timeout=LIMIT)
    assert run.returncode == 8, told
    assert "Run the same command again" in told
    again = convert(source.parent, out, "--progress", "json")
    assert again.returncode == 3, again.stderr
    assert tree(out) == whole
    last = written(again)[-1]
    assert (last["bytes_done"], last["shards_done"], last["seconds_left"]) == (sum(map(len, shards(whole))), 12, 0)


def test_a_cluster_verifies_and_repairs(
    cluster: Cluster, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    cluster.worker()
    out = tmp_path / "out"
    for name, data in whole.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    words = [*COMMAND, "verify", "out", "--backend", "dask", "--scheduler", cluster.address, "--source", str(source)]

    def verify(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *options], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)

    assert verify().returncode == 0
    (out / "train-00003-of-00012.tfrecord").write_bytes(b"")
    found = verify()
    assert (found.returncode, "train-00003-of-00012.tfrecord: " in found.stderr) == (7, True), found
    repaired = verify("--repair")
    assert (repaired.returncode, "Repaired:\n  train-00003" in repaired.stdout) == (0, True), repaired
    assert tree(out) == whole


def test_a_backend_of_ones_own_goes_by_its_name(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    code = """
import joblib, sys
from joblib._parallel_backends import ThreadingBackend
class Plain(ThreadingBackend):
    supports_return_generator = False
joblib.register_parallel_backend("plain", Plain)
import npy2tfrecord
npy2tfrecord.convert("arrays", sys.argv[1], backend="plain", jobs=2, num_shards=12, stats=True, seed=3, on_error="skip")
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "out"], cwd=source.parent, check=True, timeout=LIMIT)
    assert tree(tmp_path / "out") == whole


def test_a_local_cluster_is_started_and_ended(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    with socket.socket() as another:
        with contextlib.suppress(OSError):  # another process has it, which is as good
            another.bind(("127.0.0.1", 8787))  # where Dask's schedulers listen for HTTP by default
            another.listen()
        run = convert(source.parent, tmp_path / "out", "--backend", "dask", "--jobs", "2")
    assert run.returncode == 3, run.stderr
    assert "in use" not in run.stderr
    assert tree(tmp_path / "out") == whole


def refused(cluster: Cluster, source: Path, out: Path, *parts: str) -> None:
    run = convert(source.parent, out, "--backend", "dask", "--scheduler", cluster.address)
    assert run.returncode == 2, run
    assert "Traceback" not in run.stderr
    for part in ("Dask worker tcp://127.0.0.1:", *parts):
        assert part in run.stderr
    assert not list(out.glob("*.tfrecord"))


def test_a_worker_with_another_version_or_without_the_package_is_named(
    cluster: Cluster, source: Path, tmp_path: Path
) -> None:
    cluster.worker()
    paths = tmp_path / "paths"
    old_version(paths)
    other = cluster.worker(PYTHONPATH=str(paths))
    refused(cluster, source, tmp_path / "out", "has npy2tfrecord 0.0.1; expected")
    other.kill()
    other.wait(LIMIT)
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "sitecustomize.py").write_text(LACKING)
    cluster.worker(PYTHONPATH=str(tmp_path / "lacking"))
    refused(cluster, source, tmp_path / "out", "has no package npy2tfrecord")


def old_version(paths: Path) -> None:
    """Make a folder that, on Python's path, lets this package be of an old version."""
    (paths / "npy2tfrecord-0.0.1.dist-info").mkdir(parents=True)
    metadata = paths / "npy2tfrecord-0.0.1.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: npy2tfrecord\nVersion: 0.0.1\n")


LACKING = """
import sys, importlib.metadata as m
sys.modules["npy2tfrecord"] = None
plain = m.Distribution.from_name.__func__
def lacking(cls, name):
    if name == "npy2tfrecord":
        raise m.PackageNotFoundError(name)
    return plain(cls, name)
m.Distribution.from_name = classmethod(lacking)
"""


ELSEWHERE = """
import os, builtins
hidden, plain, exists = os.environ["HIDDEN"], builtins.open, os.path.exists
def is_hidden(path):
    return isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(hidden)
def open_elsewhere(path, *arguments, **keywords):
    if is_hidden(path):
        raise FileNotFoundError(2, "No such file or directory", path)
    return plain(path, *arguments, **keywords)
builtins.open = open_elsewhere
os.path.exists = lambda path: exists(path) and not is_hidden(path)
"""


def test_a_worker_that_sees_another_file_system_is_named(cluster: Cluster, source: Path, tmp_path: Path) -> None:
    cluster.worker()
    paths = tmp_path / "paths"
    paths.mkdir()
    (paths / "sitecustomize.py").write_text(ELSEWHERE)
    out = tmp_path / "out"
    other = cluster.worker(PYTHONPATH=str(paths), HIDDEN=str(out))
    refused(cluster, source, out, "does not share the output's file system", str(out))
    other.kill()
    other.wait(LIMIT)
    cluster.worker(PYTHONPATH=str(paths), HIDDEN=str(source))
    refused(cluster, source, tmp_path / "new", f"does not see the source {source}")


@pytest.mark.parametrize("lack", ["version", "sources", "output"])
def test_a_worker_that_comes_later_and_does_not_fit_is_named(
    lack: str, cluster: Cluster, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    first, out, paths = cluster.holding_worker(after=2), tmp_path / "out", tmp_path / "paths"
    run = started(cluster, source, out, 2)  # the first does no more, so that there is work for the next
    if lack == "version":
        old_version(paths)
    else:
        paths.mkdir()
        (paths / "sitecustomize.py").write_text(ELSEWHERE)
    other = cluster.worker(PYTHONPATH=str(paths), HIDDEN=str(source if lack == "sources" else out))
    _, told = run.communicate(timeout=LIMIT)
    assert run.returncode == 2, told
    assert "Traceback" not in told
    expected = {
        "version": "has npy2tfrecord 0.0.1; expected",
        "sources": f"does not see the source {source}",
        "output": f"does not share the output's file system {out}",
    }
    assert "npy2tfrecord: Dask worker tcp://127.0.0.1:" in told
    assert expected[lack] in told
    assert "Run the same command again" in told
    for worker in (first, other):
        worker.kill()
        worker.wait(LIMIT)
    cluster.worker()
    run_again = convert(source.parent, out, "--backend", "dask", "--scheduler", cluster.address)
    assert run_again.returncode == 3, run_again.stderr
    assert tree(out) == whole


def test_a_worker_that_comes_later_and_lacks_the_package_takes_nothing_down(
    cluster: Cluster, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    cluster.holding_worker(after=2)
    out, paths = tmp_path / "out", tmp_path / "paths"
    run = started(cluster, source, out, 2)  # the first does no more, so that there is work for the next
    paths.mkdir()
    (paths / "sitecustomize.py").write_text(LACKING)
    other = cluster.worker(PYTHONPATH=str(paths))
    other.wait(LIMIT)  # Dask ends a worker that cannot read its tasks
    cluster.release()
    _, told = run.communicate(timeout=LIMIT)
    assert run.returncode == 3, told
    assert tree(out) == whole


WAITING = """
import sys
from npy2tfrecord.commands import main
from npy2tfrecord.jobs import dask_cluster
dask_cluster._CONNECT_SECONDS, dask_cluster._FIRST_WORKER_SECONDS = map(float, sys.argv[1:3])
sys.exit(main.main(sys.argv[3:]))
"""


def test_no_scheduler_and_no_worker_are_told(cluster: Cluster, source: Path, tmp_path: Path) -> None:
    def convert_after(connect: float, first_worker: float) -> subprocess.CompletedProcess[str]:
        words = ["convert", str(source), str(tmp_path / "out"), "--backend", "dask", "--scheduler", cluster.address]
        command = [sys.executable, "-c", WAITING, str(connect), str(first_worker), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)

    run = convert_after(LIMIT, 0.5)
    assert run.returncode == 2, run
    assert "has no worker" in run.stderr
    for process in cluster._processes:
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT)
    run = convert_after(0.5, LIMIT)
    assert run.returncode == 2, run
    assert "no Dask scheduler answers" in run.stderr


def test_a_cluster_by_ssh(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/usr/bin/env bash\nexec bash -c "${!#}"\n')  # runs here what it is to run there
    ssh.chmod(0o755)
    dask = tmp_path / "dask"
    dask.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dask "$@"\n')
    dask.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = {"DASK": str(dask), "DASK_SSH": str(ssh), "DASK_PORT": str(port), "DASK_HOST": "127.0.0.1"}
    script = Path(__file__).parents[2] / "scripts" / "dask-ssh"
    with open(tmp_path / "log", "wb") as log:
        started = subprocess.Popen(
            [script, "one", "two"],
            cwd=tmp_path,
            env={**os.environ, **chosen, "DASK_WORKERS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        Cluster._wait(lambda: (tmp_path / "log").read_bytes().count(b"Registered to") == 2)
        run = convert(source.parent, tmp_path / "out", "--backend", "dask", "--scheduler", f"tcp://127.0.0.1:{port}")
        assert run.returncode == 3, run.stderr
        assert tree(tmp_path / "out") == whole
    finally:
        started.terminate()
        started.wait(LIMIT)
    assert started.returncode == 143
    with socket.socket() as gone:
        assert gone.connect_ex(("127.0.0.1", port)) != 0


RAY = """
import sys
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
from npy2tfrecord.commands import main
sys.exit(main.main(sys.argv[1:]))
"""


def test_ray_writes_the_same_bytes(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    pytest.importorskip("ray.util.joblib")
    words = ["convert", "arrays", str(tmp_path / "out"), *SHARDS, "--on-error", "skip", "--backend", "ray", "-j", "2"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with contextlib.suppress(KeyError):
        del environment["RAY_ADDRESS"]
    run = subprocess.run(
        [sys.executable, "-c", RAY, *words],
        cwd=source.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert run.returncode == 3, run.stderr
    assert tree(tmp_path / "out") == whole
