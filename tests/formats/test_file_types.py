"""What people have in place of an array: each is called by its name, with a remedy that works."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from arrays import npy_header
from converted import Command

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.file_types import not_of_type, packed_by_name
from npy2tfrecord.formats.npy import parse_header

ARRAY = np.arange(6, dtype="<f4").reshape(2, 3)


def saved(array: np.ndarray = ARRAY, *, allow_pickle: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=allow_pickle)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    np.savez(out, x=ARRAY)
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
LOGIN = b"\r\n\r\n<!DOCTYPE html>\n<html lang=en><head><title>Sign in</title>" + bytes(range(33, 127)) * 3

# What the person had, and words that the message must have.
HAD: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "a clone without git-lfs": (LFS, ("a git-lfs pointer", "git lfs pull")),
    "a DataLad clone": (
        b"/annex/objects/MD5E-s152--" + b"0a" * 16 + b".npy\n",
        ("a git-annex pointer", "git annex get"),
    ),
    "a folder that was on a Mac": (
        b"\0\5\x16\7\0\2\0\0Mac OS X\0\2\0\0\0\t",
        ("AppleDouble", "--exclude '._*'"),
    ),
    "a login page": (LOGIN, ("an HTML page", "download or copy it again")),
    "an HTML page in capitals": (b"\xef\xbb\xbf<HTML><BODY>404 Not Found", ("an HTML page", "download")),
    "an error of a bucket": (b'<?xml version="1.0"?><Error><Code>AccessDenied', ("an XML document", "download")),
    **{
        f"a pickle of protocol {protocol}": (pickle.dumps(value, protocol), ("a pickle", "allow_pickle=False)"))
        for protocol in range(6)
        for value in ([1, 2, 3],)
    },
    **{
        f"array.dump of protocol {protocol}": (pickle.dumps(ARRAY, protocol), ("a pickle", "never loaded", "np.save("))
        for protocol in range(6)
    },
    "gzip": (gzip.compress(saved()), ("gzip-compressed", "gunzip")),
    "bzip2": (bz2.compress(saved()), ("bzip2-compressed", "unpack it")),
    "xz": (lzma.compress(saved()), ("xz-compressed", "unpack it")),
    "np.savez to a .npy": (zipped(), ("a zip archive", "name it .npz")),
    "HDF5": (b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0", ("an HDF5 file", "h5py.File(OLD)")),
    "MATLAB": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Mon", ("a MATLAB file", "scipy.io.loadmat(OLD)")),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", ("a MATLAB file of version 7.3", "h5py.File(OLD)")),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", ("a PNG image", "PIL.Image.open(OLD)")),
    "a photograph": (b"\xff\xd8\xff\xe0\0\x10JFIF\0", ("a JPEG image", "PIL.Image.open(OLD)")),
    "np.savetxt": (b"0.0 1.0 2.0\n3.0 4.0 5.0\n", ("text, which begins with '0.0 1.0 2.0'", "np.loadtxt(OLD))")),
    "a CSV": (b"0,1,2\r\n3,4,5\r\n", ("text, which begins with '0,1,2", "np.loadtxt(OLD, delimiter=','))")),
    "a CSV of Excel": ("Größe;2\n".encode() * 40, ("text, which begins with 'Größe;2'", "delimiter=';'")),
    "a text cut in a letter": (
        b"x" * 127 + "ü".encode(),
        ("text, which begins with 'xxxxxxxxxxxxxxxxxxxxxxxx'", "download"),
    ),
    "an empty text": (b"\r\n", ("text, which begins with ''", "download")),
    "nothing but a byte order mark": (b"\xef\xbb\xbf", ("text, which begins with ''", "download")),
    "JSON": (b'{"message": "Not Found"}', ('text, which begins with \'{"message"',)),
    "array.tofile": (ARRAY.tobytes(), ("starts with b'", "np.fromfile(OLD, DTYPE)", "raw numbers")),
    "a file of holes": (bytes(4096), ("zeros", "not finished", "download or copy it again")),
    "an empty file": (b"", ("the file is empty", "download or copy it again", "--exclude")),
    "a truncated download": (saved()[:140], ("140 bytes, 12 bytes too few", "expected 152 bytes: download")),
    "a download of a few bytes": (saved()[:20], ("ends inside its header, after 20 of 128 bytes", "download")),
    "a file that was padded": (saved() + bytes(360), ("512 bytes, 360 bytes too many", "152 bytes: save, download or")),
    "np.save twice into one file": (saved() + saved(), ("a second array behind the first", "at byte 152", "np.savez")),
    "a file that was read as latin-1": (
        saved().decode("latin-1").encode(),
        ("a .npy file that was changed", "copied as text", "in binary mode"),
    ),
    "a file that was read as UTF-8": (
        saved().decode("utf-8", "replace").encode(),
        ("a .npy file that was changed", "copied as text", "in binary mode"),
    ),
    "a copy with line ends of Windows": (
        saved().replace(b"\n", b"\r\n"),
        ("line ends of Windows", r"(2, 3), } \r", "not copied as text", "in binary mode"),
    ),
}
# What is said of files alone, as no archive has it.
FILES_ONLY = ("an empty file", "np.save twice into one file")


@pytest.mark.parametrize("kind", HAD)
def test_a_file_is_called_by_name(kind: str, tmp_path: Path, command: Command) -> None:
    data, parts = HAD[kind]
    (tmp_path / "x.npy").write_bytes(data)
    result = command.refused(4, "x.npy: ", *parts, words=("scan", tmp_path))
    assert result.err.strip().isprintable()
    assert len(result.err) - len(str(tmp_path)) < 320  # four lines of a terminal


@pytest.mark.parametrize("kind", [kind for kind in HAD if kind not in FILES_ONLY])
def test_so_is_a_member_of_an_archive(kind: str, tmp_path: Path, command: Command) -> None:
    data, parts = HAD[kind]
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data)
        archive.writestr("y.npy", saved())
    parts = tuple(part.replace("a .npy file, ", "") for part in parts)
    result = command.refused(4, "b.npz[x.npy]: ", *parts, words=("scan", tmp_path))
    assert "NAME=FILE.npz takes the member NAME alone" in result.err
    command.ok("scan", f"y={tmp_path / 'b.npz'}")


@pytest.mark.parametrize("kind", [kind for kind, (_, parts) in HAD.items() if "a zip archive" not in parts])
def test_so_is_an_archive(kind: str, tmp_path: Path, command: Command) -> None:
    data, parts = HAD[kind]
    (tmp_path / "x.npz").write_bytes(data)
    if data.startswith(b"\x93NUMPY"):
        parts = ("a .npy file", "name it .npy")
    elif data.startswith((b"\xef\xbf\xbdNUMPY", b"\xc2\x93NUMPY")):
        parts = parts[:1]
    command.refused(4, "x.npz: ", "expected an .npz file: ", *parts, words=("scan", tmp_path))


def test_any_few_bytes_are_one_error() -> None:
    rng = np.random.default_rng(5)
    for size in range(1, 20):
        for _ in range(300):
            start = rng.choice(np.frombuffer(b"\x93NUMPY\n\r \xef\xbb\xbf\xc3\x80<\0PK{(,7", "u1"), size).tobytes()
            assert str(not_of_type("a .npy file", start, "x.npy")).isprintable()


@pytest.mark.parametrize("cut", [60, 200, -4])
def test_a_truncated_archive(cut: int, tmp_path: Path, command: Command) -> None:
    data = zipped()[:cut]
    (tmp_path / "x.npz").write_bytes(data)
    parts = (f"x.npz: {len(data)} bytes, without an archive's end", "a whole .npz file: download or copy it again")
    command.refused(4, *parts, words=("scan", tmp_path))


def test_apple_doubles_can_be_excluded_as_is_said(tmp_path: Path, command: Command) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.npy").write_bytes(saved())
    (tmp_path / "d" / "._a.npy").write_bytes(HAD["a folder that was on a Mac"][0])
    assert "1 array" in command.ok("scan", "--exclude", "._*", tmp_path).out


# --- dtypes that can't be converted: the line of Python in the message is run -----------------------

UNSUPPORTED: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
    "names": (np.array(["cat", "dog", "cat"]), ("an array of strings, dtype '<U3'", "--labels")),
    "names of Python 2": (np.array([b"cat", b"dog"]), ("an array of byte strings, dtype '|S3'", "--labels")),
    "a list of lists": (np.array([1, 2.5, None], object)[:2], ("an object array", "pickled", "never loaded")),
    "long double": (np.zeros((2, 3), "longdouble"), ("extended-precision floats", "'<f16'")),
    "long complex": (np.zeros((2, 3), "clongdouble"), ("extended-precision complex", "'<c32'")),
    "records": (
        np.zeros(3, [("time", "<f8"), ("value", "<i4"), ("p", "<f4", (2,))]),
        ("a structured array with 'time', 'value', 'p'",),
    ),
    "a record of records": (np.zeros(3, [("p", [("x", "<f8"), ("y", "<f8")])]), ("a structured array with 'p'",)),
    "raw items": (np.zeros((2, 3), "V8"), ("an array of void (raw bytes), dtype '|V8'",)),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_the_remedy_for_a_dtype_works(kind: str, tmp_path: Path, command: Command) -> None:
    array, parts = UNSUPPORTED[kind]
    if array.dtype.kind in "fc" and array.dtype.itemsize not in (16, 32):
        pytest.skip("another kind of extended precision")
    for file in ("a.npy", "a.npz"):
        path = tmp_path / file
        if file == "a.npy":
            path.write_bytes(saved(array, allow_pickle=True))
        else:
            np.savez(path, x=array)
        result = command.refused(4, f"{file}", *parts, "expected numbers: np.save(FILE, ", words=("scan", path))
        assert result.err.strip().isprintable()
        match = re.search(r"np\.save\(FILE, (.*?)(?:, allow_pickle=False\),|\)(?:, or| for|$))", result.err.strip())
        assert match is not None
        remedied = eval(match[1], {"np": np, "array": array})
        while remedied.dtype.names:  # fields of a field
            remedied = remedied[remedied.dtype.names[0]]
        np.save(tmp_path / "again.npy", remedied, allow_pickle=False)
        command.ok("scan", tmp_path / "again.npy")


def test_a_field_whose_name_is_strange(tmp_path: Path) -> None:
    for name in ("\x1b[31m", "a'b", "größe", "shape", "x" * 300):
        path = tmp_path / "a.npy"
        with contextlib.suppress(UserWarning):
            path.write_bytes(npy_header([(name, "<f4")], (3,), version=3) + bytes(12))
        raw = path.read_bytes()[:-12]
        with pytest.raises(InputError, match="a structured array") as caught:
            parse_header(raw, "a.npy")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


# --- packed files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tool"), [("x.npy.gz", "gunzip"), ("X.NPY.GZ", "gunzip"), ("b.npz.xz", "unxz"), ("a.npy.zst", "unzstd")]
)
def test_a_packed_file_is_refused_by_its_name(name: str, tool: str) -> None:
    error = packed_by_name(f"d/{name}".encode())
    assert error is not None
    assert str(error) == f"d/{name}: a compressed file; expected a .npy or .npz file as it is: unpack it with {tool}"


@pytest.mark.parametrize("name", ["x.npy", "x.gz", "x.npy.txt", "npy.gz", ".gz", "", "x.npygz"])
def test_others_are_not(name: str) -> None:
    assert packed_by_name(name.encode()) is None
