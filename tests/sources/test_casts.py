"""`--dtype` and `--void-dtype`: exact or rounded, never overflowing in silence."""

from __future__ import annotations

import itertools
import math
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from converted import Command, read_back, same, save, shards_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES, SUPPORTED_NAMES, dtype_from_name
from npy2tfrecord.sources.cast import Cast
from npy2tfrecord.writing import encoding

NAMES = SUPPORTED_NAMES + EXTENSION_NAMES
REAL = [name for name in NAMES if not name.startswith("complex")]
INTEGERS = [name for name in NAMES if "int" in name]
PAIRS = [(a, b) for a, b in itertools.permutations(NAMES, 2) if not a.startswith("complex") or b.startswith("complex")]


def interesting(name: str) -> np.ndarray:
    """Values of a dtype: its limits, what is near the limits of the others, and all bit patterns of small ones."""
    dtype = dtype_from_name(name)
    if name == "bool":
        return np.array([False, True])
    if dtype.itemsize == 1:
        return np.arange(256, dtype=np.uint8).view(dtype)
    if dtype.itemsize == 2:
        return np.arange(65536, dtype=np.uint16)[:: 1 if name == "float16" else 5].view(dtype)
    if name in INTEGERS:
        info = np.iinfo(dtype)
        exponents = [s * 2**e + d for e in range(64) for s in (1, -1) for d in (-1, 0, 1)]
        return np.array([n for n in [*exponents, 65519, 65520, 300] if info.min <= n <= info.max], dtype=dtype)
    parts = [
        0.0,
        -0.0,
        0.5,
        1.5,
        2.5,
        -0.5,
        1e-9,
        1 / 3,
        65504,
        65519.99,
        65520,
        448,
        464,
        465,
        57344,
        math.inf,
        math.nan,
    ]
    parts += [s * 2.0**e + d for e in range(-20, 66) for s in (1, -1) for d in (-0.5, 0, 0.5)]
    parts += [3e38, 3.39e38, 3.41e38, 1e300, -1e300, 5e-324, -math.inf]
    with np.errstate(over="ignore"):
        real = np.array(parts).astype(dtype)
        if not name.startswith("complex"):
            return real
        mixed = np.array([complex(a, b) for a in parts[::9] for b in parts[::13]])
        mixed = np.append(mixed, [complex(math.nan, 1e300), complex(1e300, math.nan), complex(math.inf, 1e300)])
        return np.append(real, mixed.astype(dtype))


def fits(value: Any, to: str) -> bool:
    """Whether one value goes into a dtype: the definition, slow and plain."""
    dtype = dtype_from_name(to)
    if isinstance(value, complex):
        part = "float32" if to == "complex64" else "float64"
        return fits(value.real, part) and fits(value.imag, part)
    if to == "bool":
        return bool(value == 0 or value == 1)
    if to in INTEGERS:
        info = np.iinfo(dtype)
        return math.isfinite(value) and info.min <= round(Fraction(value)) <= info.max
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = complex(np.asarray(value).astype(dtype)).real
    if math.isnan(value):
        return math.isnan(after)
    return after == value if math.isinf(value) else math.isfinite(after)


def values_of(array: np.ndarray) -> list[Any]:
    """As Python's numbers, exactly."""
    if array.dtype.name in EXTENSION_NAMES:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            array = array.astype(np.float64)
    return list(array.tolist())


def oracle(array: np.ndarray, to: str) -> tuple[np.ndarray, np.ndarray]:
    """What the cast gives, and which values fit."""
    good = np.array([fits(value, to) for value in values_of(array)], dtype=bool)
    kept = array[good]
    with np.errstate(all="ignore"):
        if to in INTEGERS and array.dtype.name not in (*INTEGERS, "bool"):
            rounded = [round(Fraction(value)) for value in values_of(kept)]  # half to even, in exact arithmetic
            return np.array(rounded, dtype=dtype_from_name(to)), good
        if "float8_e8m0fnu" in (array.dtype.name, to) and {array.dtype.name, to} <= set(EXTENSION_NAMES):
            kept = kept.astype(np.float32)  # ml_dtypes has no direct way
        return kept.astype(dtype_from_name(to)), good


@pytest.mark.parametrize(("source", "to"), PAIRS)
def test_every_pair_of_dtypes(source: str, to: str) -> None:
    array = interesting(source)
    expected, good = oracle(array, to)
    cast = Cast.of(source, to, "x")
    out = np.empty(len(array), dtype=cast.out_dtype)
    assert cast.apply(array, out) == len(array) - int(good.sum())
    assert same(out[good], expected)
    assert good.any()
    kept = np.empty(len(expected), dtype=cast.out_dtype)
    assert cast.apply(array[good], kept) == 0
    assert same(kept, expected)


@pytest.mark.parametrize("source", ["complex64", "complex128"])
@pytest.mark.parametrize("to", REAL)
def test_imaginary_parts_are_not_dropped(source: str, to: str) -> None:
    with pytest.raises(UsageError, match="imaginary"):
        Cast.of(source, to, "x")


@settings(max_examples=200)
@given(data=st.data())
def test_any_values(data: st.DataObject) -> None:
    numpy_pairs = [(a, b) for a, b in PAIRS if a in SUPPORTED_NAMES]
    source, to = data.draw(st.sampled_from(numpy_pairs))
    array = data.draw(hnp.arrays(source, st.integers(1, 20)))
    expected, good = oracle(array, to)
    cast = Cast.of(source, to, "x")
    out = np.empty(len(array), dtype=cast.out_dtype)
    assert cast.apply(array, out) == len(array) - int(good.sum())
    assert same(out[good], expected)


# --- from end to end -----------------------------------------------------------------------------

END_TO_END = [
    ("float64", "float16"), ("float64", "bfloat16"), ("float32", "uint8"), ("int64", "int8"), ("uint8", "float32"),
    ("bool", "int32"), ("float32", "float8_e4m3fn"), ("float32", "complex64"), ("int16", "bool"),
    ("float16", "float64"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "to"), END_TO_END)
@pytest.mark.parametrize("order", [">", "<"])
def test_converted_files_hold_what_astype_gives(
    tmp_path: Path, command: Command, source: str, to: str, order: str
) -> None:
    array = interesting(source)
    expected, good = oracle(array, to)
    whole = array[good][: good.sum() // 2 * 2].reshape(2, -1)
    stored = whole.astype(whole.dtype.newbyteorder(order))
    for name, each in (("C", stored), ("F", np.asfortranarray(stored))):
        save(tmp_path / name, {"1": each})
        command.ok("convert", tmp_path / name, tmp_path / f"out{name}", "--dtype", to)
        found = read_back(tmp_path / f"out{name}")["1"].arrays["array"]
        assert same(found, expected[: whole.size].reshape(2, -1))
    made = npy2tfrecord.convert(tmp_path / "C", tmp_path / "python", dtype=dtype_from_name(to))
    assert made.features[0].dtype == to
    assert shards_of(tmp_path / "python") == shards_of(tmp_path / "outC") == shards_of(tmp_path / "outF")


def test_each_feature_has_its_own_dtype(tmp_path: Path, command: Command) -> None:
    save(tmp_path, {"i/1": np.ones(3), "m/1": np.ones(3), "o/1": np.ones(3)})
    named = [f"{name}={tmp_path / name}" for name in "imo"]
    command.ok("convert", *named, tmp_path / "out", "--dtype", "i:uint8", "--dtype", "m:int32", "--dtype", "float16")
    made = npy2tfrecord.convert(named, tmp_path / "again", dtype={"i": "uint8", "m": np.int32, None: "float16"})
    assert [info.dtype for info in made.features] == ["uint8", "int32", "float16"]
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "again")


def test_arrays_that_have_the_dtype_already_are_left_as_they_are(tmp_path: Path) -> None:
    noise = np.frombuffer(np.random.default_rng(1).bytes(4000), dtype=np.float32)  # NaNs of many kinds
    save(tmp_path / "d", {"1": noise})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", dtype="float32")
    assert same(read_back(tmp_path / "out")["1"].arrays["array"], noise)


def test_overflow_names_the_source_and_the_count(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"good": np.ones(9), "bad": np.array([1, 1e9, -1e9, np.inf, np.nan, 65504, 65520, 2, 3])})
    out = tmp_path / "out"
    words = ("convert", tmp_path / "d", out, "--dtype", "float16")
    command.refused(4, "d/bad.npy: 3 values do not fit into float16", words=words, out=out)
    result = command(*words, "--on-error", "skip")
    assert result.code == 3
    assert "d/bad.npy: 3 values do not fit" in result.out
    assert list(read_back(out)) == ["good"]


def test_one_value_that_does_not_fit(tmp_path: Path) -> None:
    save(tmp_path / "d", {"bad": np.array([1, 256])})
    with pytest.raises(InputError, match="1 value does not fit into uint8"):
        npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", dtype="uint8")
    assert not (tmp_path / "out").exists()


def test_overflow_names_the_row(tmp_path: Path, command: Command) -> None:
    array = np.ones((50, 8))
    array[33, 2:4] = 1e9
    for order in "CF":
        save(tmp_path, {"X": np.asarray(array, order=order)})  # type: ignore[call-overload]
        words = ("convert", "--rows", tmp_path / "X.npy", tmp_path / order, "--dtype", "float16")
        command.refused(4, "X.npy#33: 2 values do not fit", words=words, out=tmp_path / order)
        result = command(*words, "--on-error", "skip")
        assert result.code == 3
        assert "X.npy#33: 2 values" in result.out
        assert set(read_back(tmp_path / order)) == {f"X#{i}" for i in range(50)} - {"X#33"}


@pytest.mark.parametrize("rows", [False, True])
def test_count_is_of_the_whole_array_however_large(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, rows: bool
) -> None:
    monkeypatch.setattr(encoding, "BUFFER_BYTES", 1000)
    array = np.ones((3, 5000))
    array[1, ::7] = 1e9
    save(tmp_path, {"X": array})
    words = ["convert", tmp_path / "X.npy", tmp_path / "out", "--dtype", "float16", "--jobs", "1"]
    words += ["--rows"] * rows
    where = "X.npy#1" if rows else "X.npy"
    command.refused(4, f"{where}: 715 values do not fit", words=tuple(words), out=tmp_path / "out")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_left_behind_whichever_shard_fails(tmp_path: Path, command: Command, seed: int) -> None:
    save(tmp_path / "d", {f"{i}": np.full(3, 1e9 if i == 7 else 1.0) for i in range(20)})
    words = ("convert", tmp_path / "d", tmp_path / "new" / "out", "--dtype", "float16", "--num-shards", "5")
    command.refused(4, "7.npy: 3 values", words=(*words, "--seed", seed), out=tmp_path / "new")
    (tmp_path / "there").mkdir()
    words = ("convert", tmp_path / "d", tmp_path / "there", "--dtype", "float16", "--num-shards", "5", "--seed", seed)
    command.refused(4, "7.npy: 3 values", words=words, out=tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "float12"], "unknown dtype 'float12'"),
        (["--dtype", "x:float16"], "no such feature"),
        (["--dtype", "float16", "--dtype", "float32"], "given twice"),
        (["--dtype", "array:float16", "--dtype", "array:float32"], "given twice"),
        (["--dtype", "object"], "unknown dtype"),
        (["--dtype", ""], "unknown dtype"),
        (["--void-dtype", "float12"], "unknown dtype"),
    ],
)
def test_dtypes_that_make_no_sense(tmp_path: Path, command: Command, options: list[str], message: str) -> None:
    save(tmp_path / "d", {"1": np.ones(2)})
    command.refused(2, message, words=("convert", tmp_path / "d", tmp_path / "out", *options), out=tmp_path / "out")


def test_complex_to_real_is_refused(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1": np.ones(2, complex)})
    words = ("convert", tmp_path / "d", tmp_path / "out", "--dtype", "float32")
    command.refused(2, "imaginary part", words=words, out=tmp_path / "out")


# --- void -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXTENSION_NAMES)
def test_void_arrays_come_back_exactly(tmp_path: Path, command: Command, name: str) -> None:
    array = interesting(name)[:256].reshape(2, 128)
    save(tmp_path / "d", {"1": array, "2": array[:1]})
    command.ok("convert", tmp_path / "d", tmp_path / "out", "--void-dtype", name)
    found = read_back(tmp_path / "out")
    assert same(found["1"].arrays["array"], array)
    assert found["1"].arrays["array"].dtype == dtype_from_name(name)
    made = npy2tfrecord.convert(tmp_path / "d", tmp_path / "again", void_dtype=dtype_from_name(name))
    assert made.features[0].dtype == name
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    for key in "12":
        assert (tmp_path / "back" / f"{key}.npy").read_bytes() == (tmp_path / "d" / f"{key}.npy").read_bytes()


@pytest.mark.parametrize("name", EXTENSION_NAMES)
def test_readers_give_void_arrays_back_exactly(tmp_path: Path, name: str) -> None:
    import readers

    array = interesting(name)[:256].reshape(2, 128)
    save(tmp_path / "d", {"1": array})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", void_dtype=name)
    (element,) = readers.ArraySource(tmp_path / "out")
    assert same(element["array"], array)
    if name == "bfloat16":  # tf.data does not handle float8
        (tensor,) = readers.load_dataset(tmp_path / "out", features="array").as_numpy_iterator()
        assert same(tensor, array)


def test_void_arrays_can_be_cast_as_what_they_are(tmp_path: Path, command: Command) -> None:
    array = interesting("bfloat16")[:500]
    save(tmp_path / "d", {"1": array})
    command.ok("convert", tmp_path / "d", tmp_path / "out", "--void-dtype", "bfloat16", "--dtype", "float32")
    assert same(read_back(tmp_path / "out")["1"].arrays["array"], array.astype(np.float32))


def test_void_rows_and_members(tmp_path: Path, command: Command) -> None:
    array = np.arange(12).astype(ml_dtypes.bfloat16).reshape(4, 3)
    np.savez(tmp_path / "b.npz", x=array, y=np.arange(4))
    command.ok("convert", "--rows", tmp_path / "b.npz", tmp_path / "out", "--void-dtype", "bfloat16")
    found = read_back(tmp_path / "out")
    assert all(same(found[f"b#{i}"].arrays["x"], array[i]) for i in range(4))


@pytest.mark.parametrize(
    ("dtype", "options", "message"),
    [
        ("V2", [], "--void-dtype"),
        ("V1", [], "--void-dtype"),
        ("V1", ["--void-dtype", "bfloat16"], "items of the size of bfloat16"),
        ("V2", ["--void-dtype", "float8_e5m2"], "items of the size of float8_e5m2"),
        ("V3", ["--void-dtype", "bfloat16"], "void"),
        (ml_dtypes.float8_e5m2, [], "--void-dtype"),
    ],
)
def test_void_arrays_are_no_numbers_by_themselves(
    tmp_path: Path, command: Command, dtype: Any, options: list[str], message: str
) -> None:
    save(tmp_path / "d", {"1": np.zeros(3, dtype)})
    words = ("convert", tmp_path / "d", tmp_path / "out", *options)
    command.refused(4, "d/1.npy", message, words=words, out=tmp_path / "out")


def test_void_dtype_leaves_other_arrays_alone(tmp_path: Path) -> None:
    save(tmp_path, {"x/1": np.ones(2, ml_dtypes.bfloat16), "y/1": np.ones(2, np.uint16)})
    made = npy2tfrecord.convert({"x": tmp_path / "x", "y": tmp_path / "y"}, tmp_path / "out", void_dtype="bfloat16")
    assert [info.dtype for info in made.features] == ["bfloat16", "uint16"]
