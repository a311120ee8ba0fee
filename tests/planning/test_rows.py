"""`--rows`: every row along axis 0 is an example."""

from __future__ import annotations

import os
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import npy_header
from converted import Command, read_back, same, save, shards_of

import npy2tfrecord
from npy2tfrecord import syscalls
from npy2tfrecord.conversion import converter
from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.npy import header_size, parse_header
from npy2tfrecord.sources import array_reader
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.storage.open_files import stamp
from npy2tfrecord.writing import shard_writer

RNG = np.random.default_rng(5)
X = RNG.normal(size=(57, 4, 3)).astype(np.float32)
Y = RNG.integers(0, 9, 57)


@pytest.fixture
def xy(tmp_path: Path) -> Path:
    return save(tmp_path, {"X": X, "y": Y})


def check_rows(out: Path, **arrays: np.ndarray) -> None:
    found = read_back(out)
    assert set(found) == {f"X#{i}" for i in range(57)}
    for key, example in found.items():
        assert set(example.arrays) == set(arrays)
        for name, array in arrays.items():
            assert same(example.arrays[name], array[int(key[2:])])


def test_rows_of_one_file(xy: Path, command: Command) -> None:
    command.ok("convert", "--rows", xy / "X.npy", xy / "out")
    check_rows(xy / "out", array=X)
    made = npy2tfrecord.convert(xy / "X.npy", xy / "again", rows=True)
    assert made.features[0].shape == (4, 3)
    check_rows(xy / "again", array=X)


def test_files_go_row_by_row_and_one_axis_gives_scalars(xy: Path, command: Command) -> None:
    command.ok("convert", "--rows", f"x={xy / 'X.npy'}", f"y={xy / 'y.npy'}", xy / "out", "--num-shards", "4")
    check_rows(xy / "out", x=X, y=Y)
    assert len(list((xy / "out").glob("*.tfrecord"))) == 4
    made = npy2tfrecord.convert({"x": xy / "X.npy", "y": xy / "y.npy"}, xy / "again", rows=True)
    assert made.features[1].shape == ()
    check_rows(xy / "again", x=X, y=Y)


def test_rows_are_shuffled_unless_told_not_to(xy: Path) -> None:
    npy2tfrecord.convert(xy / "X.npy", xy / "a", rows=True)
    npy2tfrecord.convert(xy / "X.npy", xy / "b", rows=True, shuffle=False)
    ordered = [f"X#{i}" for i in range(57)]
    assert list(read_back(xy / "b")) == ordered
    assert list(read_back(xy / "a")) != ordered


def test_lengths_are_compared_before_anything_is_read(xy: Path, command: Command) -> None:
    save(xy, {"y": Y[:-1]})
    words = ("convert", "--rows", f"x={xy / 'X.npy'}", f"y={xy / 'y.npy'}", xy / "out")
    command.refused(4, "y.npy: 56 rows; expected 57", "X.npy has", words=words, out=xy / "out")


def test_directory_of_arrays_with_any_number_of_rows(tmp_path: Path, command: Command) -> None:
    arrays = {"a/1": X[:7], "a/2": X[:1], "b/3": X[:0], "b/4": X[:31]}
    save(tmp_path / "x", arrays)
    save(tmp_path / "y", {key: array[:, 0, 0].astype(np.float64) for key, array in arrays.items()})
    command.ok("convert", "--rows", f"x={tmp_path / 'x'}", f"y={tmp_path / 'y'}", tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert set(found) == {f"{key}#{i}" for key, array in arrays.items() for i in range(len(array))}
    for name, example in found.items():
        key, _, row = name.partition("#")
        assert same(example.arrays["x"], arrays[key][int(row)])
        assert same(example.arrays["y"], np.float64(arrays[key][int(row), 0, 0]))


def test_files_whose_rows_do_not_agree_are_skipped_alone(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "x", {"1": X[:3], "2": X[:4], "3": X[:2]})
    save(tmp_path / "y", {"1": Y[:3], "2": Y[:5], "3": Y[:2]})
    named = (f"x={tmp_path / 'x'}", f"y={tmp_path / 'y'}")
    out = tmp_path / "out"
    command.refused(4, "y/2.npy: 5 rows; expected 4", words=("convert", "--rows", *named, out), out=out)
    result = command("convert", "--rows", *named, out, "--on-error", "skip")
    assert result.code == 3
    assert "5 rows" in result.out
    assert {key.partition("#")[0] for key in read_back(out)} == {"1", "3"}


def test_arrays_without_rows(tmp_path: Path, command: Command) -> None:
    save(tmp_path, {"none": X[:0], "scalar": 1.0})
    out = tmp_path / "out"
    command.refused(2, "every array has 0 rows", words=("convert", "--rows", tmp_path / "none.npy", out), out=out)
    command.refused(4, "rank 0", words=("convert", "--rows", tmp_path / "scalar.npy", out), out=out)


def test_rows_without_values(tmp_path: Path) -> None:
    save(tmp_path, {"X": np.zeros((5, 0), np.float32)})
    npy2tfrecord.convert(tmp_path / "X.npy", tmp_path / "out", rows=True)
    found = read_back(tmp_path / "out")
    assert len(found) == 5
    assert all(same(e.arrays["array"], np.zeros(0, np.float32)) for e in found.values())


@pytest.mark.parametrize("shape", [(10**15, 0), (10**18, 0, 3), (0, 10**18, 10**18), (10**19 - 1, 0)])
def test_claimed_rows_are_not_believed(tmp_path: Path, command: Command, shape: tuple[int, ...]) -> None:
    (tmp_path / "X.npy").write_bytes(npy_header("<f4", shape))
    tracemalloc.start()
    words = ("convert", "--rows", tmp_path / "X.npy", tmp_path / "out")
    command.refused(4, "X.npy", words=words, out=tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_more_rows_than_can_be_planned(tmp_path: Path, command: Command) -> None:
    with open(tmp_path / "X.npy", "wb") as file:  # sparse: the size is true, and costs nothing
        file.write(npy_header("|u1", (2**42,)))
        file.truncate(file.tell() + 2**42)
    words = ("convert", "--rows", tmp_path / "X.npy", tmp_path / "out")
    command.refused(2, "X.npy: 4398046511104 rows", words=words, out=tmp_path / "out")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(57,), (57, 1), (57, 4, 3), (1, 5), (3, 2, 2, 2)])
@pytest.mark.parametrize("byte_order", "<>")
def test_memory_order_and_byte_order_do_not_matter(
    tmp_path: Path, order: Any, shape: tuple[int, ...], byte_order: str
) -> None:
    array = RNG.normal(size=shape).astype(f"{byte_order}f8")
    save(tmp_path, {"X": np.asarray(array, order=order)})
    npy2tfrecord.convert(tmp_path / "X.npy", tmp_path / "out", rows=True)
    for key, example in read_back(tmp_path / "out").items():
        assert same(example.arrays["array"], array[int(key[2:])].astype("<f8"))


def open_array(path: Path) -> tuple[array_reader.ArrayReader, int]:
    raw = path.read_bytes()[:65536]
    header = parse_header(raw[: header_size(raw)])
    cast = Cast(header.dtype.name, header.dtype.name)
    return array_reader.ArrayReader(os.fsencode(path), header, cast, stamp(os.stat(path))), header.nbytes


@pytest.mark.parametrize("block", [1, 40, 1000, 10**6])
@pytest.mark.parametrize("shape", [(30, 7), (7, 30), (100, 3, 5), (2, 1, 50), (5, 4, 3, 2)])
def test_fortran_order_is_turned_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(array_reader, "BLOCK_BYTES", block)
    monkeypatch.setattr(array_reader, "_RUN_BYTES", 16)
    array = np.asfortranarray(RNG.integers(0, 999, shape).astype(np.int32))
    np.save(tmp_path / "X.npy", array)
    opened, size = open_array(tmp_path / "X.npy")
    expected = array.tobytes("C")
    for start in range(0, size, 52):
        buffer = bytearray(min(68, size - start))
        opened.read(memoryview(buffer), start)
        assert buffer == expected[start : start + len(buffer)]
    opened.finish()


@pytest.mark.parametrize("shape", [(2_000_000, 16), (40_000, 800), (40, 800_000), (500, 64, 1000)])
def test_fortran_order_stays_within_the_stated_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with open(tmp_path / "X.npy", "wb") as file:  # sparse: 128 MB that take no room
        file.write(npy_header("<f4", shape, fortran=True))
        file.truncate(file.tell() + int(np.prod(shape)) * 4)
    opened, _ = open_array(tmp_path / "X.npy")
    row_bytes = int(np.prod(shape[1:])) * 4
    buffer = memoryview(bytearray(row_bytes))
    tracemalloc.start()
    for row in (0, shape[0] // 2, shape[0] - 1):
        opened.read(buffer, row * row_bytes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    opened.close()
    assert peak <= 3 * max(array_reader.BLOCK_BYTES, row_bytes) + 2**20


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("deflated", [False, True])
def test_files_that_must_be_passed_over_are_passed_over_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Any, deflated: bool
) -> None:
    monkeypatch.setattr(shard_writer, "BUFFER_BYTES", 4_000)
    monkeypatch.setattr(array_reader, "BLOCK_BYTES", 10_000)
    array = np.asarray(RNG.integers(0, 99, (2000, 8)), order=order)
    (np.savez_compressed if deflated else np.savez)(tmp_path / "X.npz", x=array)
    size, read = (tmp_path / "X.npz").stat().st_size, 0
    real_pread, real_read = syscalls.pread, syscalls.preadv

    def preading(handle: int, count: int, offset: int) -> bytes:
        nonlocal read
        data = real_pread(handle, count, offset)
        read += len(data)
        return data

    def reading(handle: int, views: list[memoryview], offset: int) -> int:
        nonlocal read
        count = real_read(handle, views, offset)
        read += count
        return count

    monkeypatch.setattr(syscalls, "pread", preading)
    monkeypatch.setattr(syscalls, "preadv", reading)
    npy2tfrecord.convert(tmp_path / "X.npz", tmp_path / "out", rows=True, num_shards=3, jobs=1)
    # Once for its CRC; then once for every block of rows of every shard, of which there are 13, or every shard.
    assert read < size * (1 + 3 * (14 if order == "F" and deflated else 1.5))
    monkeypatch.undo()
    found = read_back(tmp_path / "out")
    assert all(same(e.arrays["x"], array[int(key[2:])]) for key, e in found.items())


def test_shuffled_rows_are_read_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within each filling of the buffer a file is read from its start to its end, whatever order the records have."""
    monkeypatch.setattr(shard_writer, "BUFFER_BYTES", 16_000)
    array = RNG.normal(size=(2000, 8)).astype(np.float32)
    save(tmp_path, {"X": array})
    offsets: dict[int, list[int]] = defaultdict(list)
    opened: list[int] = []
    real_open, real_read = syscalls.open, syscalls.preadv

    def opening(path: Any, *rest: Any) -> int:
        handle = real_open(path, *rest)
        if os.fspath(path) == os.fsencode(tmp_path / "X.npy"):
            opened.append(len(opened))
            current[handle] = len(opened)
        return handle

    current: dict[int, int] = {}

    def reading(handle: int, views: list[memoryview], offset: int) -> int:
        if handle in current:
            offsets[current[handle]].append(offset)
        return real_read(handle, views, offset)

    monkeypatch.setattr(syscalls, "open", opening)
    monkeypatch.setattr(syscalls, "preadv", reading)
    npy2tfrecord.convert(tmp_path / "X.npy", tmp_path / "out", rows=True, num_shards=3, jobs=1)
    monkeypatch.undo()
    passes = [each for each in offsets.values() if len(each) > 1]
    assert 3 <= len(passes) <= 20
    assert all(each == sorted(each) for each in passes)
    assert sum(map(len, passes)) >= 2000 / 64
    found = read_back(tmp_path / "out")
    assert list(found) != sorted(found, key=lambda key: int(key[2:]))
    assert all(same(e.arrays["array"], array[int(key[2:])]) for key, e in found.items())


def test_a_large_array_is_never_held(tmp_path: Path) -> None:
    shape = (4096, 65536)  # 1 GiB, sparse
    with open(tmp_path / "X.npy", "wb") as file:
        file.write(npy_header("<f4", shape))
        file.truncate(file.tell() + 4 * shape[0] * shape[1])
    tracemalloc.start()
    made = npy2tfrecord.convert(tmp_path / "X.npy", tmp_path / "out", rows=True, dry_run=True)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    assert made.examples == 4096
    tracemalloc.reset_peak()
    made = npy2tfrecord.convert(
        tmp_path / "X.npy", tmp_path / "out", rows=True, dtype="uint8", compression="gzip", jobs=1, fsync=False
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.examples == 4096
    assert peak < 4 * shard_writer.BUFFER_BYTES


def test_rows_larger_than_the_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "BUFFER_BYTES", 1000)
    monkeypatch.setattr(shard_writer, "LARGE_BUFFER_BYTES", 1000)
    array = RNG.normal(size=(9, 700))
    for order in "CF":
        save(tmp_path, {"X": np.asarray(array, order=order)})  # type: ignore[call-overload]
        npy2tfrecord.convert(tmp_path / "X.npy", tmp_path / order, rows=True, jobs=1)
        for key, example in read_back(tmp_path / order).items():
            assert same(example.arrays["array"], array[int(key[2:])])
    assert shards_of(tmp_path / "C") == shards_of(tmp_path / "F")


@pytest.mark.parametrize("buffer", [1000, 10**6])
def test_file_that_is_lost_while_converting_ends_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    """Neither an endless attempt nor rows of it in the output."""
    monkeypatch.setattr(shard_writer, "BUFFER_BYTES", buffer)
    save(tmp_path / "x", {"1": X, "2": X, "3": X})
    real = converter.plan

    def losing(*args: Any) -> Any:
        planned = real(*args)
        (tmp_path / "x" / "2.npy").unlink(missing_ok=True)
        return planned

    monkeypatch.setattr(converter, "plan", losing)
    made = npy2tfrecord.convert(tmp_path / "x", tmp_path / "out", rows=True, on_error="skip", jobs=1)
    assert {key.partition("#")[0] for key in read_back(tmp_path / "out")} == {"1", "3"}
    assert len(made.skipped) == 1  # once, however many rows it has
    save(tmp_path / "x", {"2": X})
    with pytest.raises(InputError, match=r"2\.npy: the file is gone"):
        npy2tfrecord.convert(tmp_path / "x", tmp_path / "new", rows=True, jobs=1)


def test_any_number_of_jobs_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path, {"X": RNG.normal(size=(12_000, 16)), "y": np.arange(12_000)})
    sources = {"x": tmp_path / "X.npy", "y": tmp_path / "y.npy"}
    for jobs in (1, 2):
        npy2tfrecord.convert(sources, tmp_path / f"out{jobs}", rows=True, num_shards=5, jobs=jobs)
    assert shards_of(tmp_path / "out1") == shards_of(tmp_path / "out2")
    assert (tmp_path / "out1/manifest.json").read_bytes() == (tmp_path / "out2/manifest.json").read_bytes()
