"""A failing system call never leads to wrong output, and the next run goes on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults import CALLS, Injector, assert_nothing_half_written, injected, short_writes, tree

from npy2tfrecord import convert, syscalls, verify
from npy2tfrecord.errors import ConflictError, Error, InputError, OutputError
from npy2tfrecord.formats import manifest

OPTIONS = {"num_shards": 3, "jobs": 1, "seed": 5}
ERRORS = {
    "open": (errno.EMFILE, errno.EACCES, errno.EROFS, errno.ESTALE),
    "write": (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "close": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EACCES, errno.ESTALE),
    "readv": (errno.EIO, errno.ESTALE),
    "mkdir": (errno.EACCES, errno.ENOSPC),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(3)
    for i in range(9):
        (directory / f"{i % 2}").mkdir(exist_ok=True)
        np.save(directory / f"{i % 2}" / f"{i}.npy", rng.standard_normal((3 + i, 4)).astype("f4"))
    np.save(directory / "turned.npy", np.asfortranarray(rng.standard_normal((5, 4)).astype(">f4")))
    return directory


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync still needs an open file, but waits for no disk: that takes ten times as long as all the rest."""
    monkeypatch.setattr(syscalls, "fsync", os.fstat)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    convert(source, out, **OPTIONS)
    return tree(out)


def _count(name: str, source: Path, out: Path) -> int:
    counter = Injector()
    with injected(name, counter):
        convert(source, out, **OPTIONS)
    shutil.rmtree(out)
    return counter.calls


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", CALLS)
def test_every_failing_call_is_told_and_the_next_run_ends_well(
    name: str, lasting: bool, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    calls = _count(name, source, out)
    failures = 0
    for number in range(1, calls + 1):
        errors = ERRORS.get(name, (errno.EIO,))
        for error in (errors[number % len(errors)],) if lasting else errors:
            injector = Injector(number, 10**9 if lasting else number, error)
            with injected(name, injector):
                try:
                    convert(source, out, **OPTIONS)
                except (OutputError, InputError):
                    failures += 1
                else:
                    assert tree(out) == whole or name in ("unlink", "rmdir"), f"{name} {number}: wrong output"
            assert_nothing_half_written(out, whole)
            convert(source, out, **OPTIONS)
            assert tree(out) == whole, f"{name} {number}: another result after going on"
            shutil.rmtree(out)
    assert failures or name in ("unlink", "rmdir", "preadv", "pread"), "no call failed: nothing was tested"


def test_a_write_may_take_less_than_it_was_given(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    with short_writes(7):
        convert(source, tmp_path / "out", **OPTIONS)
    assert tree(tmp_path / "out") == whole


def test_overwriting_goes_on_where_it_was_stopped(source: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", OPTIONS | {"seed": 6}
    convert(source, out, **OPTIONS)
    convert(source, tmp_path / "other", **other)
    # Renamed are the plan, then index, keys and shard of each.
    with injected("rename", Injector(8, 8)), pytest.raises(OutputError):
        convert(source, out, overwrite=True, **other)
    done = {path: _identity(path) for path in out.glob("*.tfrecord")}
    assert len(done) == 2
    convert(source, out, overwrite=True, **other)
    assert {path: _identity(path) for path in done} == done
    assert tree(out) == tree(tmp_path / "other")
    convert(source, out, overwrite=True, **other)  # what is finished is written anew
    assert {path: _identity(path) for path in done} != done


def _identity(path: Path) -> tuple[int, int]:
    """A file written anew may get the number of the one it replaced, but not its time."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _alter(path: Path) -> None:
    """Another byte in it, at the same size and time."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change", [_truncate, _alter, Path.unlink, Path.touch], ids=["cut", "altered", "gone", "as is"]
)
@pytest.mark.parametrize("part", ["shard", "index", "keys", "source"])
@pytest.mark.parametrize("years", [0, -10], ids=["now", "clock set back"])
def test_going_on_trusts_neither_times_nor_names(
    years: int, part: str, change: Callable[[Path], None], source: Path, tmp_path: Path
) -> None:
    mine, out = Path(shutil.copytree(source, tmp_path / "source")), tmp_path / "out"
    with injected("rename", Injector(8, 8)), pytest.raises(OutputError):
        convert(mine, out, **OPTIONS)
    shard, other = sorted(out.glob("*.tfrecord"))
    beside = {"index": out / manifest.index_name(shard.name), "keys": out / manifest.keys_name(shard.name)}
    path = {"shard": shard, "source": mine / "0" / "4.npy", **beside}[part]
    change(path)
    for written in (*out.rglob("*"), *mine.rglob("*")) if years else ():
        then = written.stat().st_mtime + years * 365 * 86400
        os.utime(written, (then, then))
    if part == "source" and change in (_truncate, Path.unlink):
        with pytest.raises((InputError, ConflictError)):
            convert(mine, out, **OPTIONS)
        return
    kept = other.stat().st_ino
    convert(mine, out, **OPTIONS)
    convert(mine, tmp_path / "unbroken", **OPTIONS)
    assert tree(out) == tree(tmp_path / "unbroken")
    if part != "source" and not years:
        assert other.stat().st_ino == kept, "a whole shard was written again"


def test_a_directory_that_cannot_be_looked_into_is_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(OutputError, match=f"cannot look into {tmp_path}/out: Permission denied"):
        convert(source, tmp_path / "out", **OPTIONS)


def test_a_disk_of_which_nothing_can_be_asked_is_no_endless_search(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    convert(source, tmp_path / "out", **OPTIONS)
    monkeypatch.undo()
    verify(tmp_path / "out")


def test_a_shard_whose_sync_failed_is_written_anew(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with injected("fsync", Injector(1, 1)), pytest.raises(OutputError, match="Input/output error"):
        convert(source, out, **OPTIONS)
    assert not list(out.glob("*.tfrecord"))
    convert(source, out, **OPTIONS)
    assert tree(out) == whole
    assert verify(out).examples == 10


def test_no_room_is_found_out_before_the_first_write(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.statvfs(tmp_path)
    full = os.statvfs_result((status.f_bsize, 1, 10, 5, 3, *tuple(status)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(OutputError, match="3 are free"):
        convert(source, tmp_path / "out", **OPTIONS)
    assert not list(tmp_path.rglob("*.tfrecord"))
    assert not list(tmp_path.rglob("*.shard"))


@pytest.mark.parametrize("blocks", [(0, 0, 0), (10, 0, 0)], ids=["of no size", "with nothing free"])
def test_a_file_system_that_does_not_know_its_room_is_not_full(
    blocks: tuple[int, ...], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.statvfs(tmp_path)
    unknown = os.statvfs_result((status.f_bsize, 1, *blocks, *tuple(status)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: unknown)
    convert(source, tmp_path / "out", **OPTIONS)
    assert verify(tmp_path / "out").examples == 10


def test_every_error_survives_the_way_from_a_worker() -> None:
    import pickle

    def leaves(cls: type[Error]) -> list[type[Error]]:
        return [cls] + [leaf for sub in cls.__subclasses__() for leaf in leaves(sub)]

    for cls in leaves(Error):
        error = cls(b"x\xff.npy", "found", "expected") if issubclass(cls, InputError) else cls("a message")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is cls
        assert (str(again), again.exit_code) == (str(error), cls.exit_code)
