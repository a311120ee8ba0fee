"""The disk takes a shard while more of it is read, and its errors are never lost."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from converted import save, shards_of

import npy2tfrecord
from npy2tfrecord import syscalls
from npy2tfrecord.errors import OutputError
from npy2tfrecord.writing import encoding, write_back


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Arrays that are written in many pieces, each of which the disk is to take."""
    monkeypatch.setattr(write_back, "STEP_BYTES", 1000)
    monkeypatch.setattr(encoding, "BUFFER_BYTES", 2000)
    rng = np.random.default_rng(0)
    return save(tmp_path / "source", {f"{i:03}": rng.random(200) for i in range(40)})


def test_writing_goes_on_while_the_disk_takes_what_is_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npy2tfrecord.convert(source, tmp_path / "plain", num_shards=1, jobs=1, fsync=False)
    writes, begun = 0, threading.Event()
    went_on = threading.Event()
    write, fsync = syscalls.write, syscalls.fsync

    def counted(handle: int, data: bytes | memoryview) -> int:
        nonlocal writes
        writes += begun.is_set()
        if writes > 3:
            went_on.set()
        return write(handle, data)

    def slow(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert went_on.wait(60)
        fsync(handle)

    monkeypatch.setattr(syscalls, "write", counted)
    monkeypatch.setattr(syscalls, "fsync", slow)
    npy2tfrecord.convert(source, tmp_path / "out", num_shards=1, jobs=1)
    assert went_on.is_set()
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "plain")


def test_an_error_that_the_system_reports_once_ends_the_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = False

    def fsync(handle: int) -> None:
        nonlocal failed
        if threading.current_thread() is not threading.main_thread() and not failed:
            failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(syscalls, "fsync", fsync)
    with pytest.raises(OutputError, match="Input/output error"):
        npy2tfrecord.convert(source, tmp_path / "out", num_shards=1, jobs=1)
    assert failed
    assert not list((tmp_path / "out").glob("*.tfrecord"))
    monkeypatch.undo()
    npy2tfrecord.convert(source, tmp_path / "out", num_shards=1, jobs=1)
    npy2tfrecord.convert(source, tmp_path / "plain", num_shards=1, jobs=1)
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "plain")


def test_a_file_is_open_as_long_as_the_disk_takes_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: set[int] = set()
    closed_early = threading.Event()
    close, write = syscalls.close, syscalls.write
    count = 0

    def held(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            under_way.add(handle)
            closed_early.wait(0.5)  # the time that a close would have, were it not to wait
            under_way.discard(handle)

    def closed(handle: int) -> None:
        if handle in under_way:
            closed_early.set()
        close(handle)

    def failing(handle: int, data: bytes | memoryview) -> int:
        nonlocal count
        count += len(data) > 1000
        if count > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    for name, function in (("fsync", held), ("close", closed), ("write", failing)):
        monkeypatch.setattr(syscalls, name, function)
    with pytest.raises(OutputError, match="No space left"):
        npy2tfrecord.convert(source, tmp_path / "out", num_shards=1, jobs=1)
    assert not closed_early.is_set()


def test_a_system_without_another_thread_does_without(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npy2tfrecord.convert(source, tmp_path / "plain", num_shards=1, jobs=1)

    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "write-back":
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        npy2tfrecord.convert(source, tmp_path / "out", num_shards=1, jobs=1)
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "plain")
