"""Dates and time spans: int64 in the records, their unit in the manifest, and themselves again when they come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import npy_header
from converted import Command, read_back, same, save

import npy2tfrecord
import readers
from npy2tfrecord.errors import DamageError, InputError, UsageError
from npy2tfrecord.formats import manifest, manifest_parsing
from npy2tfrecord.formats.dtypes import parse_descr, time_from_name
from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.shard import read_records

UNITS = ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "25s", "10us"]
DTYPES = [f"<{kind}8{unit}" for kind in "Mm" for unit in ("", *(f"[{unit}]" for unit in UNITS))]
NUMBERS = np.array([[0, 1, -1], [2**62, -(2**63), 1_577_836_800]])  # the one but last is NaT


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_comes_back_as_it_was(dtype: str, tmp_path: Path) -> None:
    array = NUMBERS.view(dtype)
    save(tmp_path / "in", {"a": array})
    made = npy2tfrecord.convert(tmp_path / "in", tmp_path / "out", fsync=False)
    (info,) = made.features
    assert (info.dtype, info.time, info.shape) == ("int64", array.dtype.name, (2, 3))
    assert manifest_parsing.load(tmp_path / "out") == made
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back" / "a.npy").read_bytes() == (tmp_path / "in" / "a.npy").read_bytes()
    found = readers.ArraySource(tmp_path / "out")[0]["array"]
    assert same(found, array)
    npy2tfrecord.verify(tmp_path / "out", source=tmp_path / "in")


def test_records_hold_integers(tmp_path: Path) -> None:
    save(tmp_path / "in", {"a": NUMBERS.view("<M8[ns]")})
    npy2tfrecord.convert(tmp_path / "in", tmp_path / "out")
    (record,) = read_records(tmp_path / "out" / "train-00000-of-00001.tfrecord")
    example = parse_example(record.data)
    assert bytes(memoryview(example["array/dtype"])) == b"int64"  # type: ignore[arg-type]
    assert bytes(memoryview(example["array"])) == NUMBERS.tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize("descr", [">M8[ns]", ">m8[25s]"])
def test_big_endian_and_fortran_order(descr: str, tmp_path: Path) -> None:
    swapped = NUMBERS.astype(">i8")
    (tmp_path / "a.npy").write_bytes(npy_header(descr, (2, 3), fortran=True) + swapped.tobytes("F"))
    assert same(np.load(tmp_path / "a.npy").astype(np.dtype(descr).newbyteorder("<")).view("<i8"), NUMBERS)
    npy2tfrecord.convert(tmp_path / "a.npy", tmp_path / "out")
    assert same(read_back(tmp_path / "out")["a"].arrays["array"].view("<i8"), NUMBERS)


@pytest.mark.parametrize(
    "descr", ["M8[ns]", "datetime64[ns]", "timedelta64[25s]", "datetime64", "<M8[generic]", "=m8[D]"]
)
def test_spellings_are_what_numpy_takes_them_for(descr: str) -> None:
    assert parse_descr(descr) == np.lib.format.descr_to_dtype(descr)


def test_rows_and_members(tmp_path: Path) -> None:
    days = np.array(["2020-01-01", "2020-02-29", "NaT"], "M8[D]")
    np.savez(tmp_path / "a.npz", day=days, span=np.diff(days, prepend=days[:1]))
    npy2tfrecord.convert(tmp_path / "a.npz", tmp_path / "out", rows=True, shuffle=False)
    found = list(readers.ArraySource(tmp_path / "out"))
    assert [str(each["day"]) for each in found] == ["2020-01-01", "2020-02-29", "NaT"]
    assert found[1]["span"].dtype == np.dtype("m8[D]")
    assert found[1]["span"] == np.timedelta64(59, "D")
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    assert same(np.load(tmp_path / "back" / "day" / "a.npy"), days)


def test_load_dataset_and_load_npy_give_int64(tmp_path: Path) -> None:
    save(tmp_path / "in", {"a": NUMBERS.view("<M8[ns]")})
    npy2tfrecord.convert(tmp_path / "in", tmp_path / "out")
    for dataset in (readers.load_dataset(tmp_path / "out"), readers.load_npy(tmp_path / "in")):
        (example,) = dataset.as_numpy_iterator()
        assert same(example["array"], NUMBERS)


def test_what_is_shown(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "in", {"a": np.array(["2020-01-01T12:30", "NaT"], "M8[m]")})
    assert "datetime64[m] as int64" in command.ok("scan", tmp_path / "in").out
    scanned = json.loads(command.ok("scan", "--json", tmp_path / "in").out)["features"]["array"]
    assert (scanned["dtype"], scanned["time"]) == ("int64", "datetime64[m]")
    command.ok("convert", "--stats", tmp_path / "in", tmp_path / "out")
    assert "datetime64[m] as int64" in command.ok("info", tmp_path / "out").out
    assert "stats" not in json.loads((tmp_path / "out" / "manifest.json").read_text())["features"]["array"]
    shown = command.ok("show", tmp_path / "out", "a").out
    assert "2020-01-01T12:30" in shown
    assert "NaT" in shown


def test_units_that_differ_name_both_files(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "in", {"a": np.zeros(2, "M8[ns]"), "b": np.zeros(2, "M8[us]")})
    parts = ("of datetime64[ns]", "in/a.npy", "of datetime64[us]", "in/b.npy")
    command.refused(4, *parts, words=("convert", tmp_path / "in", tmp_path / "out"), out=tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "array:int64"])
def test_a_cast_says_what_it_is(dtype: str, tmp_path: Path, command: Command) -> None:
    save(tmp_path / "in", {"a": np.zeros(2, "m8[s]")})
    words = ("convert", "--dtype", dtype, tmp_path / "in", tmp_path / "out")
    command.refused(2, "feature 'array' is timedelta64[s]", "never cast", words=words, out=tmp_path / "out")


def test_a_cast_of_the_others_is_possible(tmp_path: Path) -> None:
    save(tmp_path / "t", {"a": np.zeros(2, "M8[s]")})
    save(tmp_path / "x", {"a": np.zeros(2)})
    sources = [f"t={tmp_path / 't'}", f"x={tmp_path / 'x'}"]
    with pytest.raises(UsageError, match="feature 't' is datetime64"):
        npy2tfrecord.convert(sources, tmp_path / "out", dtype="float32")
    made = npy2tfrecord.convert(sources, tmp_path / "out", dtype={"x": "float32"})
    assert [(info.dtype, info.time) for info in made.features] == [("int64", "datetime64[s]"), ("float32", None)]


def changed(document: dict[str, Any], **members: Any) -> bytes:
    document["features"]["array"].update(members)
    del document["hash"]
    data = json.dumps(document, indent=1).encode()
    end = manifest.Hash(data + b"\n").hexdigest()
    return data[:-2] + f',\n "hash": "{end}"\n}}\n'.encode()


@pytest.mark.parametrize(
    "time", ["float32", "M8[ns]", "datetime64[1ns]", "datetime64[generic]", "datetime64[ns] ", "", "V8", 3, None]
)
def test_a_manifest_names_nothing_else(time: Any, tmp_path: Path) -> None:
    save(tmp_path / "in", {"a": NUMBERS.view("<M8[ns]")})
    npy2tfrecord.convert(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    document = json.loads(path.read_text())
    assert changed(document, time="datetime64[ns]") == path.read_bytes()
    document = json.loads(path.read_text())
    path.write_bytes(changed(document, time=time))
    with pytest.raises(DamageError, match=r"features\.array\.time: found"):
        manifest_parsing.load(tmp_path / "out")


def test_a_manifest_says_so_of_integers_only(tmp_path: Path) -> None:
    save(tmp_path / "in", {"a": NUMBERS.view("<M8[ns]")})
    npy2tfrecord.convert(tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    path.write_bytes(changed(json.loads(path.read_text()), dtype="float64"))
    with pytest.raises(DamageError, match=r"time: found 'datetime64\[ns\]', expected none with float64"):
        manifest_parsing.load(tmp_path / "out")


def test_names_are_looked_at_first() -> None:
    for name in ("datetime64[ns", "datetime64[3]", "datetime64[s/3]", "int64", "datetime64[999999999999s]"):
        with pytest.raises(ValueError, match="is no datetime64"):
            time_from_name(name)
        if name != "int64":
            with pytest.raises(InputError):
                parse_descr(name)
