"""`.npz` archives: each member a feature; nothing an archive claims is believed."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import npy_header
from converted import Command, read_back, same, save, shards_of
from hypothesis import given, settings
from hypothesis import strategies as st

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.sources import array_reader
from npy2tfrecord.writing import encoding

RNG = np.random.default_rng(6)
ARRAYS = {"x": RNG.normal(size=(6, 5)).astype(np.float32), "y": np.arange(6), "z": np.array(2.5)}
SAVERS = {"stored": np.savez, "deflated": np.savez_compressed}


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def archive(members: dict[str, bytes], *, deflate: bool = True) -> bytearray:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return bytearray(out.getvalue())


@pytest.mark.parametrize("kind", SAVERS)
def test_members_are_features(tmp_path: Path, command: Command, kind: str) -> None:
    (tmp_path / "d" / "a").mkdir(parents=True)
    for key in ("1", "a/2"):
        SAVERS[kind](tmp_path / "d" / f"{key}.npz", **ARRAYS)
    command.ok("convert", tmp_path / "d", tmp_path / "out")
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "again")
    for out in ("out", "again"):
        found = read_back(tmp_path / out)
        assert set(found) == {"1", "a/2"}
        for example in found.values():
            assert set(example.arrays) == {"x", "y", "z"}
            assert all(same(example.arrays[name], array) for name, array in ARRAYS.items())


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("order", "CF")
def test_rows_of_members(tmp_path: Path, command: Command, kind: str, order: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(array_reader, "BLOCK_BYTES", 100)
    arrays = {"x": np.asarray(RNG.normal(size=(50, 6)), order=order), "y": np.arange(50, dtype=np.uint8)}
    SAVERS[kind](tmp_path / "b.npz", **arrays)
    command.ok("convert", "--rows", tmp_path / "b.npz", tmp_path / "out", "--num-shards", "3")
    found = read_back(tmp_path / "out")
    assert len(found) == 50
    for key, example in found.items():
        assert all(same(example.arrays[name], array[int(key[2:])]) for name, array in arrays.items())


def test_stored_and_deflated_give_the_same_bytes(tmp_path: Path) -> None:
    for kind, saver in SAVERS.items():
        saver(tmp_path / "b.npz", **ARRAYS)
        npy2tfrecord.convert(tmp_path / "b.npz", tmp_path / kind)
    assert shards_of(tmp_path / "stored") == shards_of(tmp_path / "deflated")


def test_members_larger_than_the_buffer_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "BUFFER_BYTES", 4096)
    array = RNG.integers(0, 9, (300, 70))
    for kind, saver in SAVERS.items():
        for order in "CF":
            saver(tmp_path / "b.npz", x=np.asarray(array, order=order), y=array[0])
            npy2tfrecord.convert(tmp_path / "b.npz", tmp_path / f"{kind}{order}", jobs=1)
            found = read_back(tmp_path / f"{kind}{order}")["b"].arrays
            assert same(found["x"], array)
            assert same(found["y"], array[0])


def test_named_source_takes_the_member_of_that_name_or_the_only_one(tmp_path: Path, command: Command) -> None:
    np.savez(tmp_path / "b.npz", **ARRAYS)
    np.savez(tmp_path / "one.npz", other=np.ones(3))
    command.ok("convert", f"x={tmp_path / 'b.npz'}", f"mask={tmp_path / 'one.npz'}", tmp_path / "out")
    example = read_back(tmp_path / "out")["b"]
    assert set(example.arrays) == {"x", "mask"}
    assert same(example.arrays["mask"], np.ones(3))
    words = ("convert", f"w={tmp_path / 'b.npz'}", tmp_path / "new")
    command.refused(4, "b.npz: members x, y, z", "one named 'w'", words=words, out=tmp_path / "new")


def test_members_that_are_not_asked_for_need_not_be_arrays(tmp_path: Path, command: Command) -> None:
    (tmp_path / "b.npz").write_bytes(
        archive({"x.npy": npy(np.ones(3)), "names.npy": npy(np.array(["a"])), "n.txt": b"n"})
    )
    command.ok("convert", f"x={tmp_path / 'b.npz'}", tmp_path / "out")
    assert same(read_back(tmp_path / "out")["b"].arrays["x"], np.ones(3))
    words = ("convert", tmp_path / "b.npz", tmp_path / "new")
    command.refused(4, "b.npz[names.npy]", "an array of strings", words=words, out=tmp_path / "new")


def test_archives_beside_files_are_joined(tmp_path: Path) -> None:
    save(tmp_path / "img", {"1": np.ones(2)})
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "more" / "1.npz", boxes=np.zeros((0, 4)), classes=np.zeros(0, int))
    npy2tfrecord.convert([f"image={tmp_path / 'img'}", tmp_path / "more"], tmp_path / "out")
    assert set(read_back(tmp_path / "out")["1"].arrays) == {"image", "boxes", "classes"}


def test_zip64(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file, file.open("x.npy", "w", force_zip64=True) as member:
        member.write(npy(ARRAYS["x"]))
    npy2tfrecord.convert(tmp_path / "b.npz", tmp_path / "out")
    assert same(read_back(tmp_path / "out")["b"].arrays["x"], ARRAYS["x"])


# --- what must be refused ------------------------------------------------------------------------

LONG = npy(np.zeros(300_000, np.float32))


def patched(data: bytearray, *, central: dict[int, bytes], local: dict[int, bytes] | None = None) -> bytes:
    """The archive with bytes of its first member's central (and local) header replaced."""
    start = data.index(b"PK\x01\x02")
    for offset, value in central.items():
        data[start + offset : start + offset + len(value)] = value
    for offset, value in (local or {}).items():
        data[offset : offset + len(value)] = value
    return bytes(data)


def bomb() -> bytes:
    """A member that unpacks to 300,000 floats where archive and header claim 3."""
    short = npy_header("<f4", (3,)) + bytes(12)
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = packed.compress(npy_header("<f4", (3,)) + bytes(1_200_000)) + packed.flush()
    return raw_archive(stream, len(short), zlib.crc32(short))


def raw_archive(stream: bytes, size: int, crc: int, *, method: int = 8, packed: int | None = None) -> bytes:
    """A zip with one member, put together by hand."""
    claims = struct.pack(
        "<HHHHHIIIHH", 20, 0, method, 0, 33, crc, len(stream) if packed is None else packed, size, 5, 0
    )
    local = b"PK\x03\x04" + claims + b"x.npy"
    central = b"PK\x01\x02" + struct.pack("<H", 20) + claims + bytes(10) + struct.pack("<I", 0) + b"x.npy"
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(stream), 0)
    return local + stream + central + end


def zip64(size: int, shape: tuple[int, ...], *, method: int = 8) -> bytes:
    """A member that claims `size` bytes in the extension for large archives."""
    stream = npy_header("<f4", shape)
    stream = deflated(stream) if method else stream
    packed = len(stream) if method else size
    extra = struct.pack("<HHQQ", 1, 16, size, packed)
    head = struct.pack("<HHHHHIIIHH", 45, 0, method, 0, 33, 0, 2**32 - 1, 2**32 - 1, 5, len(extra))
    local = b"PK\x03\x04" + head + b"x.npy" + extra
    central = b"PK\x01\x02" + struct.pack("<H", 45) + head + bytes(10) + struct.pack("<I", 0) + b"x.npy" + extra
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local) + len(stream), 0)
    return local + stream + central + end


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def overlapping() -> bytes:
    """An archive whose member `a`, stored, holds all of member `b`: each is whole by itself."""

    def record(name: bytes, data: bytes) -> bytes:
        crc, size = zlib.crc32(data), len(data)
        return struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, crc, size, size, len(name), 0) + name + data

    def entry(name: bytes, data: bytes, offset: int) -> bytes:
        numbers = (20, 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0, 0, 0, 0, 0, offset)
        return struct.pack("<4s6H3L5H2L", b"PK\1\2", *numbers) + name

    inner = npy(np.arange(5))
    outer = npy(np.frombuffer(record(b"b.npy", inner), np.uint8))
    whole = record(b"a.npy", outer)
    entries = entry(b"a.npy", outer, 0) + entry(b"b.npy", inner, whole.index(b"PK\3\4", 4))
    return whole + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(entries), len(whole), 0)


def twice() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("x.npy", npy(1.0))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("x.npy", npy(2.0))
    return out.getvalue()


GOOD = npy(np.arange(1000.0))
SMALL = npy_header("<f4", (3,)) + bytes(12)
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "the file is empty"),
    "no zip": (lambda: b"hello", "text, which begins with 'hello'; expected an .npz file"),
    "npy under another name": (lambda: GOOD, "a .npy file; expected an .npz file: name it .npy"),
    "no members": (lambda: bytes(archive({})), "nothing in it"),
    "truncated": (lambda: bytes(archive({"x.npy": GOOD})[:-30]), "without an archive's end"),
    "cut in the middle": (lambda: bytes(archive({"x.npy": GOOD}))[:700], "without an archive's end"),
    "encrypted": (lambda: patched(archive({"x.npy": GOOD}), central={8: b"\1\0"}, local={6: b"\1\0"}), "encrypted"),
    "pickled": (lambda: bytes(archive({"x.npy": npy_header("|O", (1,)) + b"cos\nsystem\n"})), "pickled"),
    "text": (lambda: bytes(archive({"x.npy": npy(np.array(["a"]))})), "strings"),
    "structured": (lambda: bytes(archive({"x.npy": npy(np.zeros(2, "i4,f4"))})), "structured"),
    "no npy": (lambda: bytes(archive({"readme.txt": b"hi"})), "no .npy"),
    "empty member": (lambda: bytes(archive({"x.npy": b""})), "an empty member"),
    "folders in names": (lambda: bytes(archive({"../x.npy": GOOD})), "'../x'"),
    "key": (lambda: bytes(archive({"key.npy": GOOD})), "'key'"),
    "two of one name": (twice, "2 members named 'x'"),
    "bzip2": (lambda: raw_archive(deflated(SMALL), len(SMALL), zlib.crc32(SMALL), method=12), "compression method 12"),
    "trailing bytes": (lambda: bytes(archive({"x.npy": GOOD + b"!"})), "1 byte too many"),
    "too few values": (lambda: bytes(archive({"x.npy": GOOD[:-1]})), "1 byte too few"),
    "ends in header": (lambda: bytes(archive({"x.npy": GOOD[:60]})), "ends inside its header"),
    "wrong CRC": (lambda: raw_archive(deflated(SMALL), len(SMALL), 1), "CRC-32"),
    "wrong CRC, stored": (lambda: raw_archive(SMALL, len(SMALL), 1, method=0), "CRC-32"),
    "stored sizes differ": (lambda: raw_archive(SMALL, len(SMALL) - 1, 0, method=0), "sizes differ"),
    "overlapping members": (overlapping, "ends inside what follows it after"),
    "bomb": (bomb, "unpacks to more than the archive says"),
    "huge size": (
        lambda: raw_archive(deflated(SMALL), 2**32 - 2, zlib.crc32(SMALL)),
        f"{2**32 - 2} bytes",
    ),
    "huge stored size": (lambda: raw_archive(SMALL, 2**32 - 2, 0, method=0, packed=2**32 - 2), "bytes"),
    "huge shape": (
        lambda: raw_archive(deflated(npy_header("<f4", (2**24,))), 2**26 + 128, 0),
        "ends",
    ),
    "huge in zip64": (lambda: zip64(2**60 + 128, (2**58,)), "ends"),
    "huge and stored in zip64": (lambda: zip64(2**60 + 128, (2**58,), method=0), "ends"),
    "more than any file can have": (lambda: zip64(2**63 - 4, (2**61 - 33,)), "ends"),
    "stream ends early": (
        lambda: raw_archive(deflated(SMALL)[:-4], len(SMALL), zlib.crc32(SMALL), packed=len(deflated(SMALL)) - 4),
        "",
    ),
    "noise": (lambda: raw_archive(b"\xff" * 50, len(SMALL), 0), "damaged compressed data"),
}


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_archives_are_refused(tmp_path: Path, command: Command, name: str, rows: bool) -> None:
    make, message = BAD[name]
    (tmp_path / "b.npz").write_bytes(make())
    options = ["--rows"] if rows else []
    tracemalloc.start()
    result = command.refused(
        4, "b.npz", message, words=("convert", *options, tmp_path / "b.npz", tmp_path / "out"), out=tmp_path / "out"
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000
    assert not result.out
    with pytest.raises(InputError):
        npy2tfrecord.convert(tmp_path / "b.npz", tmp_path / "out", rows=rows)
    # … and left out of a directory where others are good
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "bad.npz").write_bytes(make())
    np.savez(tmp_path / "d" / "good.npz", x=np.zeros(3, np.float32))
    assert command("convert", *options, tmp_path / "d", tmp_path / "out", "--on-error", "skip").code == 3
    assert {key.partition("#")[0] for key in read_back(tmp_path / "out")} == {"good"}


def test_damage_is_found_in_fortran_order_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_reader, "BLOCK_BYTES", 1000)
    array = np.asfortranarray(RNG.normal(size=(70, 80)))
    for deflate in (False, True):
        data = archive({"x.npy": npy(array)}, deflate=deflate)
        if deflate:
            data[data.index(b"PK\x01\x02") + 16] ^= 1  # the CRC
        else:
            data[9000] ^= 1
        (tmp_path / "b.npz").write_bytes(data)
        with pytest.raises(InputError, match="CRC-32"):
            npy2tfrecord.convert(tmp_path / "b.npz", tmp_path / "out")


def test_one_bad_member_takes_its_archive_with_it(tmp_path: Path, command: Command) -> None:
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "1.npz", x=np.ones(2), y=np.ones(3))
    (tmp_path / "d" / "2.npz").write_bytes(archive({"x.npy": npy(np.ones(2)), "y.npy": npy(np.ones(3, "V2"))}))
    assert command("convert", tmp_path / "d", tmp_path / "out", "--on-error", "skip").code == 3
    assert set(read_back(tmp_path / "out")) == {"1"}


def test_archives_that_lack_a_member(tmp_path: Path, command: Command) -> None:
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "1.npz", x=np.ones(2), y=np.ones(3))
    np.savez(tmp_path / "d" / "2.npz", x=np.ones(2))
    out = tmp_path / "out"
    command.refused(4, "1 has no y, e.g. 2", words=("convert", tmp_path / "d", out), out=out)
    assert command("convert", tmp_path / "d", out, "--missing", "skip").code == 3
    assert set(read_back(out)) == {"1"}


@pytest.mark.parametrize("values", [np.zeros(300), np.arange(20), np.arange(5000) % 7])
def test_rows_shorter_than_what_inflate_holds_back(tmp_path: Path, values: np.ndarray) -> None:
    """Zlib takes all compressed bytes before it has given all values."""
    np.savez_compressed(tmp_path / "a.npz", x=values)
    npy2tfrecord.convert(tmp_path / "a.npz", tmp_path / "out", rows=True, shuffle=False)
    assert [example.arrays["x"] for example in read_back(tmp_path / "out").values()] == values.tolist()


def test_many_members_take_linear_time(tmp_path: Path) -> None:
    one = npy(np.float32(1))
    (tmp_path / "b.npz").write_bytes(archive({f"m{i}.npy": one for i in range(5000)}, deflate=False))
    start = time.process_time()
    report = npy2tfrecord.scan(tmp_path / "b.npz", members=True)
    assert report.counts == (5000,)
    assert time.process_time() - start < 20


SAMPLES = {
    kind: bytes(archive({"x.npy": npy(np.arange(9.0)), "y.npy": npy(np.arange(9))}, deflate=kind))
    for kind in (True, False)
}


@settings(max_examples=300)
@given(data=st.data(), deflate=st.booleans(), rows=st.booleans())
def test_no_damage_gives_a_wrong_array(tmp_path: Path, data: st.DataObject, deflate: bool, rows: bool) -> None:
    """Whatever byte is changed or cut: an error of ours, or the arrays as they were."""
    content = bytearray(SAMPLES[deflate])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) - 40, len(content)))]
    (tmp_path / "b.npz").write_bytes(content)
    try:
        npy2tfrecord.convert(tmp_path / "b.npz", tmp_path / "out", overwrite=True, rows=rows, fsync=False)
    except (InputError, UsageError):
        return
    for key, example in read_back(tmp_path / "out").items():
        for array in example.arrays.values():
            expected = np.arange(9, dtype=array.dtype)
            assert same(array, expected[int(key.rpartition("#")[2])] if rows else expected)
            assert array.dtype in (np.float64, np.int64)


def test_archive_behind_something_else_is_refused_as_by_numpy(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(3))
    path = tmp_path / "y.npz"
    path.write_bytes(b"PK" + (tmp_path / "x.npz").read_bytes())
    with pytest.raises(ValueError, match="pickled"):
        np.load(path)
    with pytest.raises(InputError, match="starts with b'PKPK"):
        npy2tfrecord.convert(path, tmp_path / "out")
