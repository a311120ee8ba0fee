"""Files that are no `.npy`, or lie: each is one clear error, and nothing is left in the output."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from arrays import DTYPES, FORMS, npy_bytes, npy_header, npy_start, values_of
from converted import Command
from npy_mutations import WORDS, check_against_numpy, mutated

import npy2tfrecord
from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.npy import header_size

DATA = bytes(range(24))  # the values of six float32
GOOD = npy_header("<f4", (2, 3))


def saved(array: np.ndarray, **kwargs: bool) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **kwargs)
    return out.getvalue()


def says(text: str | bytes, version: int = 1) -> bytes:
    return npy_start(text, version) + DATA


def with_shape(shape: str) -> bytes:
    return says(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")


def with_descr(descr: str) -> bytes:
    return says(f"{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3), }}")


def with_order(order: str) -> bytes:
    return says(f"{{'descr': '<f4', 'fortran_order': {order}, 'shape': (2, 3), }}")


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("array.npy", GOOD + DATA)
    return out.getvalue()


class Bomb:
    """Tells when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


# What the file holds, and what the message must say of it.
MALFORMED: dict[str, tuple[bytes, str]] = {
    # cut short
    "empty file": (b"", "the file is empty"),
    "cut in the magic": (GOOD[:3], "ends inside its header, after 3 bytes"),
    "cut after the magic": (GOOD[:6], "ends inside its header, after 6 bytes"),
    "cut in the version": (GOOD[:7], "ends inside its header, after 7 bytes"),
    "cut after the version": (GOOD[:8], "ends inside its header, after 8 bytes"),
    "cut in the length": (GOOD[:9], "ends inside its header, after 9 bytes"),
    "cut in the length of version 2": (npy_header("<f4", (2, 3), version=2)[:11], "inside its header, after 11 bytes"),
    "cut before the header": (GOOD[:10], "after 10 of 128 bytes"),
    "cut in the header": (GOOD[:60], "after 60 of 128 bytes"),
    "cut at the end of the header": (GOOD[:127], "after 127 of 128 bytes"),
    "no data": (GOOD, "128 bytes, 24 bytes too few"),
    "cut in the data": (GOOD + DATA[:-1], "151 bytes, 1 byte too few for float32 of shape (2, 3)"),
    # not this format
    "text": (b"1 2 3\n4 5 6\n", "text, which begins with '1 2 3'"),
    "wrong magic": (b"\x93NUMPX" + GOOD[6:] + DATA, "starts with b'\\x93NUMPX'"),
    "magic in lower case": (b"\x93numpy" + GOOD[6:] + DATA, "starts with"),
    "magic without its first byte": (GOOD[1:] + DATA, "a .npy file that was changed (copied as text?)"),
    "byte order mark before it": (b"\xef\xbb\xbf" + GOOD + DATA, "a .npy file that was changed (copied as text?)"),
    "zip archive": (zipped(), "a zip archive"),
    "empty zip archive": (b"PK\x05\x06" + bytes(18), "a zip archive"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00" + bytes(30), "gzip-compressed data"),
    "pickle": (pickle.dumps([1, 2, 3]), "a pickle (Python objects, which are never loaded)"),
    "zeros": (bytes(200), "zeros (of a copy that was not finished?)"),
    "version 0.0": (b"\x93NUMPY\0\0" + GOOD[8:] + DATA, "version 0.0"),
    "version 1.1": (b"\x93NUMPY\1\1" + GOOD[8:] + DATA, "version 1.1"),
    "version 4.0": (b"\x93NUMPY\4\0" + GOOD[8:] + DATA, "version 4.0"),
    "version 255.255": (b"\x93NUMPY\xff\xff" + GOOD[8:] + DATA, "version 255.255"),
    # lengths that lie
    "header length 0": (npy_start("", size=0) + GOOD[10:] + DATA, "an empty header"),
    "header length 1": (npy_start("", size=1) + GOOD[10:] + DATA, "a header without an end"),
    "header length too small": (npy_start("", size=len(GOOD) - 75) + GOOD[10:] + DATA, "a header without an end"),
    "header length into the data": (
        npy_start("", size=len(GOOD) + 6) + GOOD[10:] + DATA,
        "a header with the character '\\x00'",
    ),
    "header length beyond the file": (npy_start("", size=60000) + GOOD[10:] + DATA, "of 60010 bytes"),
    "header length of 4 GiB": (npy_start("", 2, size=2**32 - 1) + GOOD[10:] + DATA, "a header of 4294967307 bytes"),
    "header of 1 MB": (npy_start(b" " * 10**6 + GOOD[10:], 2) + DATA, "a header of 1000"),
    "length of version 2 read as 1": (b"\x93NUMPY\2\0" + GOOD[8:] + DATA, "a header of"),
    # a header that is none
    "no dict": (says("(2, 3)"), "a header that is no dictionary"),
    "binary header": (says(bytes(range(128, 250))), "a header with the character '\\x80'"),
    "header not closed": (
        says("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), "),
        "a header without an end",
    ),
    "two dicts": (says("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} {}"), "a header that reads"),
    "NUL behind the header": (
        says("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}\0"),
        "a header with the character '\\x00'",
    ),
    "comma missing": (says("{'descr': '<f4' 'fortran_order': False, 'shape': (2, 3)}"), "a header that reads"),
    "no shape": (says("{'descr': '<f4', 'fortran_order': False}"), "a header with no 'shape'"),
    "no descr": (says("{'fortran_order': False, 'shape': (2, 3)}"), "a header with no 'descr'"),
    "no order": (says("{'descr': '<f4', 'shape': (2, 3)}"), "a header with no 'fortran_order'"),
    "extra key": (
        says("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': 1}"),
        "a header with the key 'x'",
    ),
    "key twice": (
        says("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'shape': (6,)}"),
        "a header with 'shape' twice",
    ),
    "unhashable key": (says("{['descr']: '<f4', 'fortran_order': False, 'shape': (2, 3)}"), "a header with no 'descr'"),
    "keys of bytes": (says("{b'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}"), "a header that reads"),
    "code in the header": (says("__import__('os').mkdir('executed')"), "a header that is no dictionary"),
    "code in the shape": (
        with_shape("(__import__('os').mkdir('executed'), 3)"),
        "a header whose shape is (__import__('os').mkdir('executed'), 3); expected a tuple of whole numbers from 0 on",
    ),
    "deep nesting": (says("(" * 5000), "a header that is no dictionary"),
    "deep shape": (
        with_shape("(" * 4000 + "2, 3" + ")" * 4000),
        "((((((…; expected a tuple of whole numbers from 0 on",
    ),
    "v3 header not UTF-8": (says(b"{'descr': '\xff\xfe', 'fortran_order': False, 'shape': (2, 3)}", 3), "not UTF-8"),
    "control characters": (
        says("{'descr': '\x1b[31m', 'fortran_order': False, 'shape': (2, 3)}"),
        "a header with the character '\\x1b'",
    ),
    # shapes
    "shape a list": (with_shape("[2, 3]"), "a header whose shape is [2, 3]; expected the tuple (2, 3)"),
    "shape a number": (with_shape("6"), "a header whose shape is 6; expected the tuple (6,)"),
    "shape in parentheses": (with_shape("(6)"), "a header whose shape is (6); expected a tuple, (6,)"),
    "shape None": (with_shape("None"), "a header whose shape is None; expected a tuple of whole numbers from 0 on"),
    "negative size": (
        with_shape("(-2, -3)"),
        "a header whose shape is (-2, -3); expected a tuple of whole numbers from 0 on",
    ),
    "size -1": (with_shape("(-1, 3)"), "a header whose shape is (-1, 3); expected a tuple of whole numbers from 0 on"),
    "float size": (
        with_shape("(2.0, 3)"),
        "a header whose shape is (2.0, 3); expected a tuple of whole numbers from 0 on",
    ),
    "size True": (
        with_shape("(True, 6)"),
        "a header whose shape is (True, 6); expected a tuple of whole numbers from 0 on",
    ),
    "size a string": (
        with_shape("('2', 3)"),
        "a header whose shape is ('2', 3); expected a tuple of whole numbers from 0 on",
    ),
    "hexadecimal size": (
        with_shape("(0x2, 3)"),
        "a header whose shape is (0x2, 3); expected a tuple of whole numbers from 0 on",
    ),
    "size with underscore": (
        with_shape("(1_0, 3)"),
        "a header whose shape is (1_0, 3); expected a tuple of whole numbers from 0 on",
    ),
    "size of 4000 digits": (
        with_shape(f"({'9' * 4000}, 3)"),
        "9999999…; expected sizes of at most 19 digits",
    ),
    "shape too small": (with_shape("(2, 2)"), "93 bytes, 8 bytes too many for float32 of shape (2, 2)"),
    "shape too large": (with_shape("(2, 4)"), "8 bytes too few"),
    "empty shape with data": (with_shape("(0, 3)"), "93 bytes, 24 bytes too many for float32 of shape (0, 3)"),
    "scalar with too much": (with_shape("()"), "89 bytes, 20 bytes too many for float32 of shape ()"),
    "shape of an exabyte": (with_shape("(1000000000000000, 250)"), "bytes too few"),
    "shape that overflows to the right size": (with_shape("(4611686018427387904, 4, 6)"), "shape (4611686018427387904"),
    "shape that overflows to 0": (npy_header("<f4", (2**32, 2**32)), "shape (4294967296, 4294967296)"),
    "shape of nothing beyond 64 bits": (npy_header("<f4", (0, 9999999999999999999)), "shape (0, 9999999999999999999)"),
    "shape of nothing that overflows": (npy_header("<f4", (0, 2**62, 2**62)), "shape (0, 4611686018427387904"),
    "rank 33": (npy_header("<f4", (1,) * 33) + DATA[:4], "an array of rank 33"),
    "rank 5000": (npy_header("<f4", (1,) * 5000) + DATA[:4], "an array of rank 5000"),
    # memory order
    "order a number": (with_order("0"), "a header whose fortran_order is 0"),
    "order None": (with_order("None"), "a header whose fortran_order is None"),
    "order a string": (with_order("'False'"), "a header whose fortran_order is 'False'"),
    "order in lower case": (with_order("false"), "a header whose fortran_order is false"),
    # dtypes
    "object array": (saved(np.array([Bomb(), None]), allow_pickle=True), "an object array"),
    "object array by its descr alone": (with_descr("'|O'"), "an object array"),
    "structured array": (saved(np.zeros(3, [("x", "<f4"), ("y", "<i4")])), "a structured array"),
    "structured array with an object": (with_descr("[('x', '|O')]"), "a structured array"),
    "empty list as dtype": (with_descr("[]"), "a structured array"),
    "tuple as dtype": (with_descr("('<f4', (2,))"), "a header whose descr is ('<f4', (2,))"),
    "number as dtype": (with_descr("4"), "a header whose descr is 4"),
    "byte strings": (saved(np.array([b"abc", b"de"])), "an array of byte strings"),
    "strings": (saved(np.array(["abc", "de"])), "an array of strings"),
    "empty strings by the trillion": (npy_header("|S0", (10**12,)), "an array of byte strings"),
    "dates in no unit there is": (with_descr("'<M8[B]'"), "dtype '<M8[B]'"),
    "time spans of no length": (with_descr("'<m8[0s]'"), "dtype '<m8[0s]'"),
    "time spans of too many units": (with_descr("'<m8[2147483648s]'"), "dtype '<m8[2147483648s]'"),
    "void": (saved(np.zeros(3, "V8")), "an array of void"),
    "void of 2 bytes": (saved(np.zeros(3, "V2")), "--void-dtype"),
    "void of 0 bytes": (npy_header("|V0", (10**12,)), "an array of void"),
    "extended precision": (with_descr("'<f16'"), "an array of extended-precision floats"),
    "extended complex": (with_descr("'<c32'"), "an array of extended-precision complex numbers"),
    "int of 3 bytes": (with_descr("'<i3'"), "dtype '<i3'"),
    "dtype of no size": (with_descr("'<'"), "dtype '<'"),
    "dtype of a gigabyte": (with_descr("'<f1000000000'"), "dtype '<f1000000000'"),
    "name with a byte order": (with_descr("'>float32'"), "dtype '>float32'; expected '<f4', as np.save writes float32"),
    "name in upper case": (with_descr("'UINT8'"), "dtype 'UINT8'; expected '|u1', as np.save writes uint8"),
    "name of another library": (with_descr("'torch.bfloat16'"), "dtype 'torch.bfloat16'; expected 'bfloat16'"),
    "name that was removed": (with_descr("'bool8'"), "dtype 'bool8'; expected '|b1', as np.save writes bool"),
    "half a byte": (with_descr("'int4'"), "expected numbers: np.save(FILE, array.astype('int8'))"),
    "empty dtype": (with_descr("''"), "dtype ''"),
    "two dtypes": (with_descr("'<f4,<i4'"), "dtype '<f4,<i4'"),
    "byte order unknown": (with_descr("'!f4'"), "dtype '!f4'"),
    # behind the data
    "one byte more": (GOOD + DATA + b"\0", "153 bytes, 1 byte too many for float32 of shape (2, 3)"),
    "a second array behind": ((GOOD + DATA) * 2, "a second array behind the first, at byte 152"),
    "a newline behind": (GOOD + DATA + b"\n", "153 bytes, 1 byte too many for float32 of shape (2, 3)"),
}


def test_there_are_many_kinds() -> None:
    assert len(MALFORMED) == len({data for data, _ in MALFORMED.values()}) > 100


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_file_is_one_clear_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    data, found = MALFORMED[kind]
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.npy").write_bytes(GOOD + DATA)
    bad = source / "bad.npy"
    bad.write_bytes(data)

    result = command("convert", "source", "out")
    assert (result.code, result.out) == (4, "")
    (line,) = result.err.splitlines()
    assert line.startswith("npy2tfrecord: source/bad.npy: ")
    assert found in line
    assert "; expected " in line
    assert line.isprintable()
    assert len(line) < 500
    # Nothing was made: not the output, and not what the file's code or pickle would make.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_file_is_skipped_with_its_reason(kind: str, tmp_path: Path) -> None:
    data, found = MALFORMED[kind]
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.npy").write_bytes(GOOD + DATA)
    (source / "bad.npy").write_bytes(data)
    manifest = npy2tfrecord.convert(source, tmp_path / "out", on_error="skip", fsync=False)
    assert manifest.examples == 1
    (skipped,) = manifest.skipped
    assert skipped.source == str(source / "bad.npy")
    assert found in skipped.reason


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_file_alone_is_bad_input_too(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npy"
    path.write_bytes(MALFORMED[kind][0])
    with pytest.raises(InputError) as caught:
        npy2tfrecord.convert(path, tmp_path / "out")
    assert caught.value.where == os.fsencode(path)
    assert caught.value.expected
    assert not (tmp_path / "out").exists()


def test_record_of_2_gib_is_refused_by_name(tmp_path: Path, command: Command) -> None:
    header = npy_header("|u1", (2**31 - 50,))
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2**31 - 50)  # sparse
    command.refused(2, f"{path}: a record of 21474", words=("convert", path, tmp_path / "out"), out=tmp_path / "out")


# --- the header's parser against NumPy's --------------------------------------------------------


def test_parser_takes_only_what_numpy_reads_alike() -> None:
    rng = random.Random(20240229)
    shapes = [(), (3,), (2, 3), (0,), (2, 0, 3), (1,) * 32, (1, 2, 3)]
    seeds = [
        npy_bytes(values_of(dtype, shape, 1), form)
        for dtype in DTYPES
        for shape in shapes
        for form in rng.sample(FORMS, 4)
    ]
    assert all(check_against_numpy(seed) for seed in seeds)
    taken = 0
    for _ in range(40_000):
        data = rng.choice(seeds)
        taken += check_against_numpy(mutated(rng, data, header_size(data)))
    assert taken > 1000  # else the changes are too wild to tell anything


def test_parser_survives_any_bytes() -> None:
    rng = random.Random(7)
    for _ in range(40_000):
        words = b"".join(rng.choice(WORDS) for _ in range(rng.randrange(30)))
        check_against_numpy(npy_start(words, rng.choice((1, 2, 3))))
        check_against_numpy(b"\x93NUMPY" + rng.randbytes(rng.randrange(40)))
