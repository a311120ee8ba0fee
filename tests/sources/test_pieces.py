"""Arrays that are read in pieces come back whole: the buffers are made tiny, so that small arrays count as large."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

import hypothesis
import numpy as np
import pytest
from arrays import DTYPES, FORMS, Form, same_bits, values_of, write_npy
from converted import read_back
from hypothesis import strategies as st

import npy2tfrecord
from npy2tfrecord import syscalls
from npy2tfrecord.errors import InputError
from npy2tfrecord.sources import array_reader
from npy2tfrecord.writing import encoding

SHAPES = st.integers(1, 5).flatmap(
    lambda rank: st.lists(st.tuples(*[st.integers(0, 9)] * rank), min_size=1, max_size=6)
)


@hypothesis.settings(
    max_examples=300, database=None, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(
    shapes=SHAPES,
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3),
    forms=st.lists(st.sampled_from(FORMS), min_size=1, max_size=4),
    buffer=st.sampled_from([64, 256, 1024]),  # a quarter of it, for large records, holds one value of 16 bytes
    block=st.sampled_from([1, 16, 100, 1000, 5000]),
    run=st.sampled_from([1, 32, 4096]),
    rows=st.booleans(),
    compression=st.sampled_from(["none", "zlib"]),
    shuffle=st.booleans(),
)
def test_arrays_read_in_pieces_are_whole(
    shapes: list[tuple[int, ...]],
    dtypes: list[str],
    forms: list[Form],
    buffer: int,
    block: int,
    run: int,
    rows: bool,
    compression: str,
    shuffle: bool,
) -> None:
    hypothesis.assume(not rows or any(shape[0] for shape in shapes))
    with tempfile.TemporaryDirectory() as temporary:
        root, sources = Path(temporary), {}
        for f, dtype in enumerate(dtypes):
            sources[f"f{f}"] = root / f"f{f}"
            for i, shape in enumerate(shapes):
                form = forms[(i + f) % len(forms)]
                write_npy(root / f"f{f}" / f"{i}.npy", values_of(dtype, shape, i), form)
        with (
            mock.patch.object(encoding, "BUFFER_BYTES", buffer),
            mock.patch.multiple(array_reader, BLOCK_BYTES=block, _RUN_BYTES=run, _CAST_BYTES=64),
        ):
            npy2tfrecord.convert(
                sources, root / "out", jobs=1, fsync=False, rows=rows, compression=compression, shuffle=shuffle
            )
        found = read_back(root / "out")
        for name, directory in sources.items():
            for i, shape in enumerate(shapes):
                expected = np.load(directory / f"{i}.npy")
                arrays = {f"{i}#{r}": expected[r] for r in range(shape[0])} if rows else {str(i): expected}
                for key, array in arrays.items():
                    assert same_bits(found[key].arrays[name], array), (name, key)


@pytest.mark.parametrize(
    ("buffer", "last"), [*((16, last) for last in (1, 7, 64, 65)), *((100, last) for last in (1, 7, 64, 65, 1000))]
)
def test_statistics_of_arrays_read_in_pieces_are_whole(buffer: int, last: int, tmp_path: Path) -> None:
    """Also where the values of one index of all channels are more than the buffer holds."""
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=(12 + i, last)) for i in range(3)]
    (tmp_path / "source").mkdir()
    for i, array in enumerate(arrays):
        np.save(tmp_path / "source" / f"{i}.npy", array)
    with mock.patch.object(encoding, "BUFFER_BYTES", buffer):
        made = npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", jobs=1, fsync=False, stats=True)
    values = np.concatenate(arrays) if last <= 64 else np.concatenate([array.reshape(-1, 1) for array in arrays])
    stats = made.features[0].stats
    assert stats is not None
    assert stats["min"] == values.min(axis=0).tolist()
    assert stats["max"] == values.max(axis=0).tolist()
    np.testing.assert_allclose(stats["mean"], values.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(stats["std"], values.std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_arrays_larger_than_the_buffer_as_it_is_come_back(tmp_path: Path, form: Form) -> None:
    array = values_of("float64", (3, 1100, 701), 5)
    assert array.nbytes > encoding.BUFFER_BYTES
    write_npy(tmp_path / "source" / "a.npy", array, form)
    write_npy(tmp_path / "source" / "b.npy", array[:, ::2, ::2].copy(), form)
    npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", jobs=1, fsync=False, num_shards=1)
    found = read_back(tmp_path / "out")
    for key in ("a", "b"):
        assert same_bits(found[key].arrays["array"], np.load(tmp_path / "source" / f"{key}.npy"))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_large_array_that_fails_halfway_is_told_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: bool, place: int
) -> None:
    """The record has begun to be written when its source turns out to be unreadable: the shard starts again."""
    monkeypatch.setattr(encoding, "BUFFER_BYTES", 256)
    for i in range(3):
        write_npy(tmp_path / "source" / f"{i}.npy", values_of("uint8", (1000,), i))
    real = array_reader.ArrayReader._read_raw

    def failing(self: array_reader.ArrayReader, view: memoryview, start: int) -> None:
        if start > 500 and self.path.endswith(b"/%d.npy" % place):
            raise InputError(self.path, "cannot be read: Input/output error", "a readable file")
        real(self, view, start)

    monkeypatch.setattr(array_reader.ArrayReader, "_read_raw", failing)
    options = {"jobs": 1, "fsync": False, "num_shards": 1, "shuffle": False, "on_error": "skip" if skip else "fail"}
    if not skip:
        with pytest.raises(InputError, match=f"/{place}.npy: cannot be read: Input/output error"):
            npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", **options)
        assert not list((tmp_path / "out").rglob("*.tfrecord*"))
        return
    manifest = npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", **options)
    assert [Path(skipped.source).name for skipped in manifest.skipped] == [f"{place}.npy"]
    found = read_back(tmp_path / "out")
    assert found.keys() == {"0", "1", "2"} - {str(place)}
    for key, example in found.items():
        assert same_bits(example.arrays["array"], np.load(tmp_path / "source" / f"{key}.npy"))
    (shard,) = manifest.shards
    assert (tmp_path / "out" / shard.file).stat().st_size == shard.bytes


@pytest.mark.parametrize("limit", [1, 7, 100, 130])
def test_reads_that_are_cut_short_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """The system may give less than it is asked for, at any time, and it is not the end of the file."""
    for i in range(6):
        write_npy(tmp_path / "source" / f"{i}.npy", values_of("int16", (i * 20, 3), i), FORMS[i % len(FORMS)])

    def preadv(handle: int, views: list[memoryview], offset: int) -> int:
        (view,) = views
        return os.preadv(handle, [view[:limit]], offset)

    def readv(handle: int, views: tuple[bytearray | memoryview, ...]) -> int:
        left, some = limit, []
        for view in views:
            some.append(memoryview(view)[:left])
            left -= len(some[-1])
        return os.readv(handle, some)

    monkeypatch.setattr(syscalls, "preadv", preadv)
    monkeypatch.setattr(syscalls, "readv", readv)
    npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", jobs=1, fsync=False)
    found = read_back(tmp_path / "out")
    assert len(found) == 6
    for key, example in found.items():
        assert same_bits(example.arrays["array"], np.load(tmp_path / "source" / f"{key}.npy"))


def test_rows_of_a_file_that_changed_meanwhile_are_all_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it changed is known only when it is closed, and by then rows of it may have been written."""
    monkeypatch.setattr(encoding, "BUFFER_BYTES", 512)
    for i in range(3):
        write_npy(tmp_path / "source" / f"{i}.npy", values_of("int16", (20, 10), i))
    real, closed = array_reader.ArrayReader.finish, []

    def finish(self: array_reader.ArrayReader) -> None:
        if self.path.endswith(b"/1.npy"):
            closed.append(self.path)
            if len(closed) == 2:  # rows that an earlier window held are in the file by now
                os.utime(self.path, (0, 0))
        real(self)

    monkeypatch.setattr(array_reader.ArrayReader, "finish", finish)
    options = {"rows": True, "jobs": 1, "fsync": False, "num_shards": 1, "on_error": "skip"}
    manifest = npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", **options)
    assert {Path(skipped.source).name for skipped in manifest.skipped} == {"1.npy"}
    found = read_back(tmp_path / "out")
    assert found.keys() == {f"{i}#{row}" for i in (0, 2) for row in range(20)}
    for key, example in found.items():
        name, _, row = key.partition("#")
        assert same_bits(example.arrays["array"], np.load(tmp_path / "source" / f"{name}.npy")[int(row)])
