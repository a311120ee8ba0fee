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


@pytest.fixture
def gray_and_colour(tmp_path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "colour": rng.integers(0, 255, (4, 5, 3)).astype("u1"),
        "gray": rng.integers(0, 255, (4, 5)).astype("u1"),
        "turned": np.asfortranarray(rng.integers(0, 255, (4, 5)).astype("u1")),
    }
    save(tmp_path / "data", arrays)
    return arrays


def test_arrays_of_a_lower_rank_get_axes_of_1(
    gray_and_colour: dict[str, np.ndarray], tmp_path: Path, command: Command
) -> None:
    words = ("convert", tmp_path / "data", tmp_path / "out")
    command.refused(4, "add trailing axes of 1 with --rank 3", words=words)
    command.ok(*words, "--rank", "3", "--stats")
    found = read_back(tmp_path / "out")
    for key, array in gray_and_colour.items():
        assert same(found[key].arrays["array"], np.ascontiguousarray(array).reshape(4, 5, -1))
    command.ok("verify", tmp_path / "out", "--source", tmp_path / "data")
    assert "nothing left" in command.ok(*words, "--rank", "3", "--stats").out
    assert "array  uint8  (4, 5, 1–3)" in command.ok("scan", tmp_path / "data", "--rank", "3").out
    command.refused(
        4, "colour.npy: an array of rank 3; expected at most 2", words=("scan", tmp_path / "data", "--rank", "2")
    )


def test_ranks_of_one_feature_and_of_rows(gray_and_colour: dict[str, np.ndarray], tmp_path: Path) -> None:
    save(tmp_path / "labels", {key: np.int64(i) for i, key in enumerate(gray_and_colour)})
    sources = {"image": tmp_path / "data", "y": tmp_path / "labels"}
    npy2tfrecord.convert(sources, tmp_path / "out", rank={"image": 3})
    example = read_back(tmp_path / "out")["gray"].arrays
    assert (example["image"].shape, example["y"].shape) == ((4, 5, 1), ())
    npy2tfrecord.convert(tmp_path / "data", tmp_path / "rows", rank=2, rows=True)
    shapes = {key: each.arrays["array"].shape for key, each in read_back(tmp_path / "rows").items()}
    assert (shapes["gray#0"], shapes["colour#0"], shapes["turned#3"]) == ((5, 1), (5, 3), (5, 1))
    np.savez(tmp_path / "a.npz", **gray_and_colour)
    npy2tfrecord.convert(tmp_path / "a.npz", tmp_path / "members", rank=["array:3"], members=True)
    assert read_back(tmp_path / "members")["a/turned"].arrays["array"].shape == (4, 5, 1)


@pytest.mark.parametrize("rank", ["x", -1, 65, 1.5, ["2", "3"], {"a": None}, "a:b:c"])
def test_what_is_no_rank_is_refused(tmp_path: Path, rank: object) -> None:
    with pytest.raises(UsageError, match="rank"):
        npy2tfrecord.scan(tmp_path, rank=rank)  # type: ignore[arg-type]
