"""A source whose content changes during a run is found; a change that leaves the content alone is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import tree
from faults import Injector, injected

import npy2tfrecord
from npy2tfrecord.conversion.progress import Progress
from npy2tfrecord.errors import InputError, OutputError

Change = Callable[[Path], None]

OPTIONS: dict[str, Any] = {"jobs": 1, "num_shards": 3, "fsync": False}


def _plain(path: Path, values: np.ndarray) -> Path:
    np.save(path.with_suffix(".npy"), values)
    return path.with_suffix(".npy")


def _fortran(path: Path, values: np.ndarray) -> Path:
    return _plain(path, np.asfortranarray(values))


def _stored(path: Path, values: np.ndarray) -> Path:
    np.savez(path.with_suffix(".npz"), array=values)
    return path.with_suffix(".npz")


def _deflated(path: Path, values: np.ndarray) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), array=values)
    return path.with_suffix(".npz")


FORMS = [(_plain, False), (_plain, True), (_fortran, False), (_fortran, True), (_stored, False), (_deflated, True)]


def _link(path: Path) -> None:
    os.link(path, path.with_name(f"another name of {path.name}"))


def _replace_by_a_copy(path: Path) -> None:
    """The same content and times under another inode, as on file systems that number their files anew."""
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def _change_mode(path: Path) -> None:
    path.chmod(0o440)


def _overwrite(path: Path) -> None:
    """Other bytes in place, of the same size."""
    data = bytearray(path.read_bytes())
    data[-200] ^= 0xFF
    path.write_bytes(data)
    _touch(path)


def _touch(path: Path) -> None:
    """Times of their own: a write within the same tick of the system's clock would leave them as they were."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def _grow(path: Path) -> None:
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=times)


def _replace(path: Path) -> None:
    times = path.stat()
    _replace_by_a_copy(path)
    _overwrite(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns - 10**9))  # older than what it replaced


@pytest.fixture(params=FORMS, ids=lambda form: f"{form[0].__name__[1:]}{'-rows' * form[1]}")
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Path], dict[str, Any]]:
    save, rows = request.param
    (tmp_path / "s").mkdir()
    arrays = np.random.default_rng(0).standard_normal((3, 10, 40))
    return [save(tmp_path / "s" / f"{i}", array) for i, array in enumerate(arrays)], {**OPTIONS, "rows": rows}


def _convert_while(change: Change, files: list[Path], out: Path, options: dict[str, Any]) -> None:
    """Convert; every file is changed when all are scanned and none is written."""
    changed: list[Path] = []

    def change_all(progress: Progress) -> None:
        if progress.bytes_total and not changed:
            changed.extend(files)
            for path in files:
                change(path)

    npy2tfrecord.convert(files[0].parent, out, progress=change_all, **options)
    assert changed


@pytest.mark.parametrize("change", [_change_mode, _link, _replace_by_a_copy])
def test_a_change_that_leaves_the_content_alone_ends_no_run(
    sources: tuple[list[Path], dict[str, Any]], change: Change, tmp_path: Path
) -> None:
    files, options = sources
    npy2tfrecord.convert(tmp_path / "s", tmp_path / "expected", **options)
    _convert_while(change, files, tmp_path / "out", options)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


@pytest.mark.parametrize("change", [_touch, _overwrite, _grow, _replace])
def test_a_change_of_the_content_ends_the_run(
    sources: tuple[list[Path], dict[str, Any]], change: Change, tmp_path: Path
) -> None:
    files, options = sources
    with pytest.raises(InputError, match=r"has changed since it was scanned|the archive is damaged"):
        _convert_while(change, files, tmp_path / "out", options)
    assert not list((tmp_path / "out").glob("*.tfrecord"))


@pytest.mark.parametrize("change", [_touch, _overwrite, _grow, _replace, Path.unlink])
def test_a_small_file_on_storage_that_waits_is_written_as_it_was_when_it_was_scanned(
    change: Change, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    files = [_plain(tmp_path / "s" / f"{i}", np.arange(400.0) + i) for i in range(3)]
    npy2tfrecord.convert(tmp_path / "s", tmp_path / "expected", **OPTIONS)
    _convert_while(change, files, tmp_path / "out", {**OPTIONS, "in_flight": 4})
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_a_shard_is_kept_when_only_the_status_of_its_sources_changed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    files = [_plain(tmp_path / "s" / f"{i}", np.arange(2000.0) + i) for i in range(4)]

    # The eighth file that gets its name is the first of the second shard's: the plan and three of the first are there.
    with injected("rename", Injector(8, 8)), pytest.raises(OutputError):
        npy2tfrecord.convert(tmp_path / "s", tmp_path / "out", **OPTIONS)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}
    assert finished
    for path in files:
        _change_mode(path)
        _replace_by_a_copy(path)
    npy2tfrecord.convert(tmp_path / "s", tmp_path / "out", **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
