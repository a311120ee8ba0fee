"""Without `shuffle` the order is the data set's: split, shard, record, whichever pipeline reads it."""

from __future__ import annotations

import shutil
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_data import number_of, write_dataset

import readers
from readers import splits
from readers.pipeline import strategy
from readers.splits import Part

pytest.importorskip("tensorflow")

COUNT = 103
PIPELINES: dict[str, dict[str, Any]] = {
    "batches": {"batch_size": 4},
    "batches larger than shards": {"batch_size": 40},
    "one batch": {"batch_size": 200},
    "full batches": {"batch_size": 4, "drop_remainder": True},
    "ragged": {"batch_size": 4, "ragged": True},
    "single": {},
    "mapped": {"map_fn": lambda element: element},
    "mapped batches": {"map_fn": lambda element: element, "batch_size": 4},
    "cached": {"batch_size": 4, "cache": True},
    "on one core": {"batch_size": 4, "num_parallel_calls": 1},
    "on many": {"batch_size": 4, "num_parallel_calls": 16},
}


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one block each, so that many lanes are at work on few records."""
    monkeypatch.setattr(strategy, "RUN_BYTES", 1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data sets of records of many lengths, in eight shards of 12 or 13 records, in one, and in as many as records."""
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((int(n), 3)).astype("f4") for n in rng.integers(0, 12, COUNT)]
    made = {
        name: write_dataset(tmp_path_factory.mktemp("order") / "set", arrays, shards=shards, compression=compression)
        for name, shards, compression in (
            ("eight shards", 8, "none"),
            ("one shard", 1, "none"),
            ("a record a shard", COUNT, "none"),
            ("gzip", 8, "gzip"),
            ("zlib, one shard", 1, "zlib"),
        )
    }
    made["no index"] = made["eight shards"].parent / "no-index"
    shutil.copytree(made["eight shards"], made["no index"])
    shutil.rmtree(made["no index"] / "index")
    return made


def order_of(dataset: Any) -> list[int]:
    return [number_of(key) for element in dataset for key in np.atleast_1d(element["key"].numpy())]


@pytest.mark.parametrize(
    "name", ["eight shards", "one shard", "a record a shard", "gzip", "zlib, one shard", "no index"]
)
@pytest.mark.usefixtures("short_runs")
def test_every_pipeline_keeps_the_order(sets: dict[str, Path], name: str) -> None:
    for pipeline, options in PIPELINES.items():
        expected = range(100) if options.get("drop_remainder") else range(COUNT)
        assert order_of(readers.load_dataset(sets[name], **options)) == list(expected), pipeline
    assert order_of(readers.load_dataset(sets[name], batch_size=4, repeat=2)) == [*range(COUNT)] * 2


@pytest.mark.parametrize("blocks", [2, 3, 1000])
def test_runs_of_several_batches_keep_the_order(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    batch_bytes = 4 * 11 * 3 * 4
    monkeypatch.setattr(strategy, "RUN_BYTES", blocks * batch_bytes)
    assert order_of(readers.load_dataset(sets["eight shards"], batch_size=4)) == list(range(COUNT))


@pytest.mark.parametrize("name", ["eight shards", "gzip"])
@pytest.mark.parametrize("options", [{"batch_size": 4}, {}])
@pytest.mark.usefixtures("short_runs")
def test_slices_and_shares_keep_the_order(sets: dict[str, Path], name: str, options: dict[str, Any]) -> None:
    assert order_of(readers.load_dataset(sets[name], split="train[17:90]", **options)) == list(range(17, 90))
    shares = [order_of(readers.load_dataset(sets[name], worker=(i, 3), **options)) for i in range(3)]
    assert all(share == sorted(share) for share in shares)
    assert sorted(chain.from_iterable(shares)) == list(range(COUNT))


@pytest.mark.parametrize("large_bytes", [1, strategy.LARGE_BYTES])
def test_large_and_small_examples_keep_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(strategy, "LARGE_BYTES", large_bytes)
    monkeypatch.setattr(strategy, "RUN_BYTES", 1)
    path = write_dataset(tmp_path, [np.full((4, 3), i, "f4") for i in range(COUNT)], shards=5)
    for options in PIPELINES.values():
        assert order_of(readers.load_dataset(path, **options))[:100] == list(range(100))


def test_files_as_they_are_keep_the_order_of_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "RUN_BYTES", 1)
    for i in range(40):
        np.save(tmp_path / f"{i:02d}.npy", np.full((i % 5 + 1, 2), i))
    for options in ({"batch_size": 3}, {}, {"batch_size": 3, "map_fn": lambda element: element}):
        found = [key for x in readers.load_npy(tmp_path, **options) for key in np.atleast_1d(x["key"].numpy())]
        assert found == [b"%02d" % i for i in range(40)]


def test_buckets_and_freed_order_read_everything_once(sets: dict[str, Path]) -> None:
    for name in ("eight shards", "gzip"):
        for options in ({"buckets": 3}, {"deterministic": False}):
            assert sorted(order_of(readers.load_dataset(sets[name], batch_size=4, **options))) == list(range(COUNT))


def test_what_is_behind_a_damaged_length_is_read_in_order(sets: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "set"
    shutil.copytree(sets["eight shards"], path)
    shard = path / "train-00001-of-00008.tfrecord"
    offset = int((path / "index/train-00001-of-00008.idx").read_text().splitlines()[4].split()[0])
    content = bytearray(shard.read_bytes())
    content[offset + 1] ^= 4
    shard.write_bytes(content)
    with pytest.warns(readers.DamageWarning):
        dataset = readers.load_dataset(path, batch_size=4, on_corrupt="skip")
    assert order_of(dataset) == [i for i in range(COUNT) if i != 12 + 4]


# --- the arithmetic --------------------------------------------------------------------------------

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@given(sizes, st.integers(1, 20), st.integers(1, 5), st.booleans())
def test_runs_are_whole_batches_one_behind_the_other(
    shard_sizes: list[int], batch: int, most: int, seekable: bool
) -> None:
    total = sum(shard_sizes)
    starts = [0, *accumulate(shard_sizes)]
    runs = splits.runs(splits.cut(shard_sizes, 0, total), batch, most, seekable=seekable)
    read = [starts[part.shard] + part.first + i for run in runs for part in run for i in range(part.count)]
    assert read == list(range(total))
    lengths = [sum(part.count for part in run) for run in runs]
    assert all(length and not length % batch for length in lengths[:-1])
    if seekable:
        assert all(length == batch * most for length in lengths[:-1])
    else:  # a run begins at the first whole batch of a part, so that little is read only to be passed over
        firsts = [run[0] for run in runs]
        assert all(part.first < batch for part in firsts)


def test_shards_are_read_by_runs_of_their_own_where_they_cannot_be_entered() -> None:
    runs = splits.runs((Part(0, 0, 10), Part(1, 0, 10), Part(2, 0, 3)), 4, 1, seekable=False)
    assert runs == [(Part(0, 0, 10), Part(1, 0, 2)), (Part(1, 2, 8),), (Part(2, 0, 3),)]
    assert [sum(part.count for part in run) for run in runs] == [b - a for a, b in pairwise((0, 12, 20, 23))]
