"""Requests for files: what comes back, and what is left to be looked at with care."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from npy2tfrecord import syscalls
from npy2tfrecord.storage.in_flight import InFlight
from npy2tfrecord.storage.kept import KeptFiles, memory_of
from npy2tfrecord.storage.local import FileStarts, Ranges, WholeFiles, patiently
from npy2tfrecord.storage.open_files import open_source, stamp

COUNT = 200
START = b"start of every file"


def columns(count: int) -> dict[str, Any]:
    """What a request for starts fills in, with nothing known."""
    return {"known": {}, "ids": [-1] * count, "stamps": [0] * count, "places": [-1] * count}


@pytest.mark.parametrize("limit", [1, 16])
def test_starts_that_are_known_need_no_look(paths: list[bytes], limit: int) -> None:
    looked: list[int] = []
    size = len(START) + 6
    Path(os.fsdecode(paths[5])).write_bytes(START + b"longer")
    Path(os.fsdecode(paths[5])).write_bytes(START + b"longer than before")
    Path(os.fsdecode(paths[6])).write_bytes(START[::-1] + b"000006")

    def take(number: int, start: bytes, size: int, stamped: int, place: int, has_more: bool) -> int:
        looked.append(number)
        return 0

    filled = columns(COUNT)
    files = FileStarts(
        paths=paths, size=8, take=take, odd=lambda number, error: None, **{**filled, "known": {START[:8]: (size, 7)}}
    )
    with InFlight(limit) as requests:
        requests.run(files.read, range(COUNT))
    assert sorted(looked) == [5, 6]
    assert filled["ids"] == [-1 if i in (5, 6) else 7 for i in range(COUNT)]
    assert all(filled["stamps"][i] == stamp(os.stat(paths[i])) for i in range(COUNT) if i not in (5, 6))


@pytest.fixture
def paths(tmp_path: Path) -> list[bytes]:
    for i in range(COUNT):
        (tmp_path / f"{i:03}").write_bytes(START + b"%06d" % i)
    return [os.fsencode(tmp_path / f"{i:03}") for i in range(COUNT)]


@pytest.mark.parametrize("limit", [1, 16])
def test_whole_files_are_read_and_whatever_is_odd_is_passed_on(paths: list[bytes], limit: int) -> None:
    stamps = [stamp(os.stat(path)) for path in paths]
    Path(os.fsdecode(paths[3])).write_bytes(START + b"1234567")  # longer
    Path(os.fsdecode(paths[4])).write_bytes(START + b"12345")  # shorter
    Path(os.fsdecode(paths[5])).write_bytes(START + b"654321")  # another
    Path(os.fsdecode(paths[6])).write_bytes(START[::-1] + b"000006")
    os.unlink(paths[7])
    buffer = memoryview(bytearray(6 * COUNT))
    digests: list[int | None] = [None] * COUNT
    odd: dict[int, int | None] = {}

    def is_odd(number: int, error: OSError | None) -> None:
        odd[number] = error.errno if error else None

    files = WholeFiles(
        paths=paths,
        starts=[START] * COUNT,
        views=[buffer[6 * i : 6 * i + 6] for i in range(COUNT)],
        stamps=stamps,
        odd=is_odd,
        data=[buffer[6 * i : 6 * i + 6] for i in range(COUNT)],
        digest=lambda data: int(bytes(data)),
        digests=digests,
    )
    with InFlight(limit) as requests:
        requests.run(files.read, range(COUNT), paths.__getitem__)
    assert odd == {3: None, 4: None, 5: None, 6: None, 7: errno.ENOENT}
    assert digests == [None if i in odd else i for i in range(COUNT)]


@pytest.mark.parametrize("limit", [1, 16])
def test_starts_are_read_and_more_where_it_is_needed(paths: list[bytes], limit: int) -> None:
    found: dict[int, bytes] = {}
    missing: list[int] = []
    os.unlink(paths[9])

    def take(number: int, start: bytes, size: int, stamped: int, place: int, has_more: bool) -> int:
        assert place == -1
        assert size == len(START) + 6
        assert stamped == stamp(os.stat(paths[number]))
        found[number] = start
        return 22 if number % 2 and has_more else 0

    starts = FileStarts(
        paths=paths, size=8, take=take, odd=lambda number, error: missing.append(number), **columns(COUNT)
    )
    with InFlight(limit) as requests:
        requests.run(starts.read, range(COUNT))
    assert missing == [9]
    assert found == {i: (START + b"%06d" % i)[: 22 if i % 2 else 8] for i in range(COUNT) if i != 9}


@pytest.mark.parametrize("limit", [1, 16])
def test_small_files_are_kept_whole_while_there_is_room(paths: list[bytes], limit: int) -> None:
    size = len(START) + 6
    places: dict[int, int] = {}
    starts: dict[int, bytes] = {}

    def take(number: int, start: bytes, size: int, stamped: int, place: int, has_more: bool) -> int:
        places[number], starts[number] = place, start
        return 0

    with KeptFiles(100 * size + 1) as kept, InFlight(limit) as requests:
        files = FileStarts(
            paths=paths, size=8, take=take, odd=lambda number, error: None, kept=lambda: kept, **columns(COUNT)
        )
        requests.run(files.read, range(COUNT))
        memory = memory_of(kept.number)
        assert memory is not None
        count = sum(place >= 0 for place in places.values())
        assert count == 100 if limit == 1 else 0 < count <= 100
        for i, place in places.items():
            assert starts[i] == START[:8]
            if place >= 0:
                assert bytes(memory[place : place + size]) == START + b"%06d" % i
    assert memory_of(kept.number) is None


@pytest.mark.parametrize("limit", [1, 16])
@pytest.mark.parametrize("has_preadv", [True, False])
def test_ranges_fill_their_buffers(
    tmp_path: Path, limit: int, has_preadv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_preadv:
        monkeypatch.setattr(syscalls, "preadv", None)
    data = os.urandom(10_000)
    (tmp_path / "file").write_bytes(data)
    buffer = bytearray(10_100)
    view = memoryview(buffer)
    odd: list[int] = []
    with InFlight(limit) as requests, closing(open_source(os.fsencode(tmp_path / "file"))) as file:
        ranges = Ranges(
            files=[file] * 101,
            offsets=[100 * i for i in range(101)],
            views=[(view[100 * i : 100 * i + 30], view[100 * i + 30 : 100 * i + 100]) for i in range(101)],
            odd=lambda number, error: odd.append(number),
        )
        requests.run(ranges.read, range(101))
    assert buffer[:10_000] == data
    assert odd == [100]


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EAGAIN])
def test_a_passing_error_is_tried_again(code: int) -> None:
    errors = [OSError(code, "passing")] * 2

    def call() -> str:
        if errors:
            raise errors.pop()
        return "read"

    assert patiently(call) == "read"


def test_a_passing_error_that_stays_is_raised() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise OSError(errno.ESTALE, "stale")

    with pytest.raises(OSError, match="stale"):
        patiently(call)
    assert 3 <= len(calls) <= 5


def test_an_input_output_error_is_not_tried_again() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise OSError(errno.EIO, "broken disk")

    with pytest.raises(OSError, match="broken disk"):
        patiently(call)
    assert len(calls) == 1
