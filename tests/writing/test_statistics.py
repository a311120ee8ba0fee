"""`--stats`: what NumPy gives for all values at once, whatever the division of the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import tree
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npy2tfrecord import convert
from npy2tfrecord.formats.manifest_parsing import load
from npy2tfrecord.writing import statistics
from npy2tfrecord.writing.statistics import Moments

NAMES = ("bool", "int8", "int64", "uint64", "float16", "float32", "float64")


def _expected(values: np.ndarray) -> dict[str, list[object]]:
    """Of every channel of values of shape (n, channels), by NumPy in one go."""
    wide = values.astype(np.longdouble)
    columns = [column[np.isfinite(column)] for column in wide.T]
    return {
        "count": [len(c) for c in columns],
        "mean": [float(c.mean()) if len(c) else None for c in columns],
        "std": [float(c.std()) if len(c) else None for c in columns],
        "nan": np.isnan(wide).sum(axis=0).tolist(),
        "inf": np.isinf(wide).sum(axis=0).tolist(),
    }


def _check(stats: dict[str, list[object]], values: np.ndarray) -> None:
    expected = _expected(values)
    for name in ("count", "nan", "inf"):
        assert stats[name] == expected[name], name
    for channel, column in enumerate(values.T):
        kept = column[np.isfinite(column.astype(np.longdouble))]
        low, high = stats["min"][channel], stats["max"][channel]
        assert (low, high) == ((kept.min().item(), kept.max().item()) if len(kept) else (None, None))
        if len(kept):
            scale = max(abs(float(kept.astype(np.float64).max())), abs(float(kept.astype(np.float64).min())), 1e-300)
            assert stats["mean"][channel] == pytest.approx(expected["mean"][channel], rel=1e-11, abs=1e-12 * scale)
            assert stats["std"][channel] == pytest.approx(expected["std"][channel], rel=1e-9, abs=1e-9 * scale)


def _array(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name == "bool":
        return rng.random(shape) < 0.3
    if np.dtype(name).kind in "iu":
        info = np.iinfo(name)
        return rng.integers(info.min, info.max, shape, dtype=name, endpoint=True)
    array = (rng.standard_normal(shape) * 7 + 100).astype(name)
    array[rng.random(shape) < 0.02] = np.nan
    array[rng.random(shape) < 0.02] = -np.inf
    return array


@pytest.mark.parametrize("name", NAMES)
def test_whole_feature_and_channels_agree_with_numpy(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(NAMES.index(name))
    source = tmp_path / "source"
    source.mkdir()
    flat, by_channel = [], []
    for i in range(30):
        one = _array(rng, name, (int(rng.integers(0, 50)),))
        three = _array(rng, name, (int(rng.integers(1, 9)), 5, 3))
        np.save(source / f"{i}.flat.npy", one)
        np.save(source / f"{i}.three.npy", np.asfortranarray(three))
        flat.append(one)
        by_channel.append(three.reshape(-1, 3))
    manifest = convert(source, tmp_path / "out", group_by_suffix=True, stats=True, num_shards=4)
    _check(dict(manifest.feature("flat").stats or {}), np.concatenate(flat)[:, None])
    _check(dict(manifest.feature("three").stats or {}), np.concatenate(by_channel))
    assert load(tmp_path / "out") == manifest


def test_the_same_bytes_for_any_number_of_jobs_and_a_resume(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((11_000, 16)).astype("f4")  # enough for worker processes
    np.save(tmp_path / "x.npy", rows)
    for jobs in (1, 2, 3):
        convert(tmp_path / "x.npy", tmp_path / f"out{jobs}", rows=True, stats=True, num_shards=7, jobs=jobs)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2") == tree(tmp_path / "out3")
    (tmp_path / "out2" / "train-00003-of-00007.tfrecord").unlink()
    convert(tmp_path / "x.npy", tmp_path / "out2", rows=True, stats=True, num_shards=7, jobs=2)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")


def test_large_arrays_that_pass_through_the_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from npy2tfrecord.writing import encoding

    monkeypatch.setattr(encoding, "BUFFER_BYTES", 1000)
    array = np.random.default_rng(0).standard_normal((100, 3))
    np.save(tmp_path / "x.npy", array)
    manifest = convert(tmp_path / "x.npy", tmp_path / "out", stats=True)
    _check(dict(manifest.features[0].stats or {}), array)


def test_values_as_they_are_written_and_only_those(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    np.save(source / "a.npy", np.array([[0.4], [1.6]]))
    np.save(source / "b.npy", np.array([[1e9], [2.0]]))  # does not fit, and is left out
    manifest = convert(source, tmp_path / "out", dtype="uint8", stats=True, on_error="skip")
    stats = manifest.features[0].stats
    assert stats is not None
    assert (stats["count"], stats["min"], stats["max"], stats["mean"]) == ([2], [0], [2], [1.0])


def test_none_for_complex_numbers_and_null_where_nothing_is_finite(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.ones(3, dtype="c8"))
    assert convert(tmp_path / "c.npy", tmp_path / "c", stats=True).features[0].stats is None
    np.save(tmp_path / "n.npy", np.full((4, 1), np.nan))
    convert(tmp_path / "n.npy", tmp_path / "n", stats=True)
    stats = json.loads((tmp_path / "n" / "manifest.json").read_text())["features"]["array"]["stats"]
    assert stats.pop("sums") == [["0p0", "0p0"]]
    assert stats == {"count": [0], "min": [None], "max": [None], "mean": [None], "std": [None], "nan": [4], "inf": [0]}


def test_arrays_without_a_value(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(3):
        np.save(tmp_path / "in" / f"{n}.npy", np.zeros((0, 4), dtype=np.float32))
    manifest = convert(tmp_path / "in", tmp_path / "out", stats=True)
    stats = manifest.feature("array").stats
    assert stats is not None
    assert stats["count"] == [0, 0, 0, 0]
    assert stats["mean"] == stats["max"] == [None] * 4


def test_a_large_mean_does_not_drown_the_deviation() -> None:
    values = np.random.default_rng(0).standard_normal(200_000) + 1e9
    seen = Moments(1)
    seen.add(values[None], 1)
    assert seen.summary()["std"][0] == pytest.approx(values.std(), rel=1e-6)


@settings(max_examples=60)
@given(
    values=hnp.arrays(np.float64, st.integers(0, 300), elements=st.floats(width=64)),
    cut=st.integers(0, 300),
    block=st.integers(1, 64),
)
@example(values=np.full(3, np.finfo(np.float64).max), cut=0, block=1)  # a rounded mean is above
@example(values=np.array([1, -1, -1]) * np.finfo(np.float64).max, cut=0, block=8)  # a difference overflows
def test_any_division_into_blocks_and_parts(values: np.ndarray, cut: int, block: int) -> None:
    whole, left, right = Moments(1), Moments(1), Moments(1)
    original = statistics._BLOCK_VALUES
    statistics._BLOCK_VALUES = block
    try:
        left.add(values[None, :cut], 1)
        right.add(values[None, cut:], 1)
    finally:
        statistics._BLOCK_VALUES = original
    whole.add(values[None], 1)
    again = Moments.of_states([left.state(), right.state()])
    assert again.state() == Moments.of_states([again.summary()]).state()
    joined = Moments.of_states([left.state(), right.state()]).summary()
    expected = whole.summary()
    for name in ("count", "min", "max", "nan", "inf"):
        assert joined[name] == expected[name]
    finite = values[np.isfinite(values)]
    if len(finite) and np.abs(finite).max() < 1e100:
        scale = float(np.abs(finite).max())
        assert joined["mean"][0] == pytest.approx(expected["mean"][0], rel=1e-9, abs=1e-11 * scale)
        assert joined["std"][0] == pytest.approx(expected["std"][0], rel=1e-6, abs=1e-8 * scale)


@settings(max_examples=60)
@given(
    values=hnp.arrays(st.sampled_from([np.float32, np.float64, np.int64]), st.tuples(st.integers(1, 40), st.just(12))),
    order=st.randoms(use_true_random=False),
    channels=st.sampled_from([(1, 1), (1, 3), (3, 3)]),
)
def test_any_order_of_records_and_any_division_gives_the_same_to_the_last_bit(
    values: np.ndarray, order: Any, channels: tuple[int, int]
) -> None:
    count, own = channels
    whole = Moments(count)
    whole.add(values, own)
    rows = list(range(len(values)))
    order.shuffle(rows)
    parts = [Moments(own), Moments(own)]
    for row in rows:
        part = parts[order.random() < 0.5]
        if order.random() < 0.5:
            part.add(values[row][None], own)
        else:
            cut = order.choice([0, 3, 6, 12])
            part.add_piece(values[row][:cut], own)
            part.add_piece(values[row][cut:], own)
            part.end_record(own)
    assert Moments.of_states((part.state() for part in parts), count).summary() == whole.summary()
