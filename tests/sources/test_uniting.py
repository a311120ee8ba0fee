"""Arrays of several dtypes or ranks in one feature, brought to one by options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, same, save

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError


@pytest.fixture
def mixed(tmp_path: Path) -> dict[str, np.ndarray]:
    """Arrays of float32, float64 in both orders, float16 and integers, of one rank."""
    rng = np.random.default_rng(0)
    arrays = {
        "a/f4": rng.normal(size=(3, 4)).astype("f4"),
        "b/f8": rng.normal(size=(3, 4)),
        "c/f8": np.asfortranarray(rng.normal(size=(5, 4))),
        "d/f4": rng.normal(size=(3, 4)).astype(">f4"),
        "e/i2": rng.integers(-99, 99, (3, 4)).astype("i2"),
        "f/f2": rng.normal(size=(3, 4)).astype("f2"),
    }
    save(tmp_path / "data", arrays)
    return arrays


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stats", [False, True])
def test_a_cast_unites_dtypes(
    mixed: dict[str, np.ndarray], tmp_path: Path, command: Command, dtype: str, stats: bool
) -> None:
    words = ("convert", tmp_path / "data", tmp_path / "out", "--dtype", dtype, *["--stats"] * stats)
    command.ok(*words)
    found = read_back(tmp_path / "out")
    assert set(found) == set(mixed)
    for key, array in mixed.items():
        assert same(found[key].arrays["array"], np.ascontiguousarray(array.astype(dtype)))
    command.ok("verify", tmp_path / "out", "--source", tmp_path / "data")
    assert "nothing left" in command.ok(*words).out
    if stats:
        (info,) = npy2tfrecord.convert(tmp_path / "data", tmp_path / "out", dtype=dtype, stats=True).features
        assert info.stats is not None
        everything = np.concatenate([array.astype(dtype).reshape(-1) for array in mixed.values()])
        assert info.stats["min"] == [
            pytest.approx(float(everything.reshape(-1, 4)[:, i].min())) for i in range(4)
        ] or info.stats["min"] == [pytest.approx(float(everything.min()))]


def test_a_cast_unites_dtypes_of_rows_and_members(mixed: dict[str, np.ndarray], tmp_path: Path) -> None:
    npy2tfrecord.convert(tmp_path / "data", tmp_path / "rows", dtype="float32", rows=True)
    found = read_back(tmp_path / "rows")
    for key, array in mixed.items():
        for row, values in enumerate(array):
            assert same(found[f"{key}#{row}"].arrays["array"], values.astype("<f4"))
    np.savez(tmp_path / "all.npz", **{key.replace("/", "_"): array for key, array in mixed.items()})
    npy2tfrecord.convert(tmp_path / "all.npz", tmp_path / "members", dtype="float64", members=True)
    found = read_back(tmp_path / "members")
    for key, array in mixed.items():
        assert same(found[f"all/{key.replace('/', '_')}"].arrays["array"], np.ascontiguousarray(array.astype("<f8")))


def test_large_arrays_of_several_dtypes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = {str(i): rng.normal(size=1_200_000).astype(dtype) for i, dtype in enumerate(("f4", "f8", "f4"))}
    save(tmp_path / "data", arrays)
    npy2tfrecord.convert(tmp_path / "data", tmp_path / "out", dtype="float32")
    found = read_back(tmp_path / "out")
    assert all(same(found[key].arrays["array"], array.astype("f4")) for key, array in arrays.items())


def test_the_error_names_the_way_out(mixed: dict[str, np.ndarray], tmp_path: Path, command: Command) -> None:
    words = ("convert", tmp_path / "data", tmp_path / "out")
    command.refused(4, "2 of float32", "2 of float64", "cast them to one, as with --dtype float64", words=words)
    save(tmp_path / "data", {"g": np.zeros((3, 4), "c8")})
    with pytest.raises(UsageError, match="would drop the imaginary part"):
        npy2tfrecord.convert(tmp_path / "data", tmp_path / "out", dtype="float32")
    save(tmp_path / "data", {"h": np.zeros((3, 4), "M8[s]")})
    with pytest.raises(InputError, match="do not agree") as error:
        npy2tfrecord.convert(tmp_path / "data", tmp_path / "out")
    assert "--dtype" not in str(error.value)
    with pytest.raises(UsageError, match="never cast"):
        npy2tfrecord.convert(tmp_path / "data", tmp_path / "out", dtype="complex128")
