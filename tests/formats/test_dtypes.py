"""How headers spell dtypes: each as NumPy reads it, and nothing that NumPy could take for something else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from arrays import npy_header
from converted import Command, read_back

import npy2tfrecord
from npy2tfrecord.errors import InputError
from npy2tfrecord.formats import dtypes
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES, SUPPORTED_NAMES, parse_descr

ml_dtypes = pytest.importorskip("ml_dtypes")

NAMES = [*SUPPORTED_NAMES, "int", "uint", "half", "single", "double", "float", "complex"]
CODES = [np.dtype(name).str[1:] for name in SUPPORTED_NAMES] + list("?bBhHiIlLqQefdFD")


@pytest.mark.parametrize("descr", [*NAMES, *(order + code for code in CODES for order in ("", "<", ">", "=", "|"))])
def test_every_spelling_is_what_numpy_takes_it_for(descr: str) -> None:
    assert parse_descr(descr) == np.lib.format.descr_to_dtype(descr)


@pytest.mark.parametrize("name", EXTENSION_NAMES)
def test_the_names_of_ml_dtypes_are_taken(name: str) -> None:
    assert parse_descr(name) == np.dtype(getattr(ml_dtypes, name))


@pytest.mark.parametrize("order", "<>")
def test_the_code_that_the_package_bfloat16_writes_is_bfloat16(order: str) -> None:
    # np.load does not read its own file: "descr is not a valid dtype descriptor: '<g2'".
    assert parse_descr(f"{order}g2") == np.dtype(ml_dtypes.bfloat16).newbyteorder(order)


@pytest.mark.parametrize("name", [*EXTENSION_NAMES, "int4", "uint4"])
def test_what_np_save_makes_of_ml_dtypes_has_lost_its_name(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3, getattr(ml_dtypes, name)))
    words = (tmp_path / "a.npy").read_bytes()[:40]
    itemsize = np.dtype(getattr(ml_dtypes, name)).itemsize
    assert any(b"'%s%d'" % (code, itemsize) in words for code in (b"<V", b"|V", b"<f"))
    assert parse_descr(f"<V{itemsize}") == np.dtype(f"V{itemsize}")


@pytest.mark.parametrize(
    ("descr", "array"),
    [
        ("float32", np.arange(6, dtype="<f4")),
        ("?", np.array([True, False] * 3)),
        ("f4", np.arange(6, dtype="<f4")),
        ("int", np.arange(6, dtype="<i8")),
        (">h", np.arange(6, dtype=">i2")),
        ("bfloat16", np.arange(6).astype(ml_dtypes.bfloat16)),
        ("<g2", np.arange(6).astype(ml_dtypes.bfloat16)),
        (">g2", np.arange(6).astype(ml_dtypes.bfloat16).view("u2").byteswap()),
        ("float8_e4m3fn", np.arange(6).astype(ml_dtypes.float8_e4m3fn)),
    ],
)
def test_headers_that_np_save_does_not_write_are_converted(
    descr: str, array: np.ndarray, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "a.npy").write_bytes(npy_header(descr, (2, 3)) + array.tobytes())
    command.ok("convert", tmp_path / "a.npy", tmp_path / "out")
    found = read_back(tmp_path / "out")["a"].arrays["array"]
    assert found.shape == (2, 3)
    assert found.astype("f8").reshape(-1).tolist() == [0, 1, 2, 3, 4, 5] or found.dtype == bool
    if "g2" not in descr:
        assert found.reshape(-1).tolist() == array.tolist()
    command.ok("verify", tmp_path / "out", "--source", tmp_path / "a.npy")


@pytest.mark.parametrize("descr", ["", "<", "f", "?4", "<float32", "f4 ", " f4", "f4\n", "f4,f4", "3f4", "(2,)f4"])
def test_numpys_other_spellings_are_not_evaluated(descr: str) -> None:
    if descr == "f":
        assert parse_descr(descr) == np.float32
        return
    with pytest.raises(InputError):
        parse_descr(descr)


def test_missing_ml_dtypes_is_named(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.npy").write_bytes(npy_header("bfloat16", (1,)) + b"\0\0")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    words = ("convert", tmp_path / "a.npy", tmp_path / "out")
    command.refused(
        4, "a.npy: dtype 'bfloat16', which takes the package ml_dtypes", "pip install ml_dtypes", words=words
    )


def test_an_older_ml_dtypes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.npy").write_bytes(npy_header("float8_e3m4", (1,)) + b"\0")
    monkeypatch.delattr(ml_dtypes, "float8_e3m4")
    with pytest.raises(InputError, match=r"float8_e3m4.*expected a version of ml_dtypes"):
        npy2tfrecord.convert(tmp_path / "a.npy", tmp_path / "out")


def test_tables_have_only_what_can_be_written() -> None:
    assert {np.dtype(code).name for code in (*dtypes._NAMES.values(), *dtypes._CODES.values())} == set(SUPPORTED_NAMES)
