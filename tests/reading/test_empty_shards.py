"""Sets in which some shards hold no example are read like any others."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import key_of, number_of, write_dataset

import readers

tf = pytest.importorskip("tensorflow")

PIPELINES: list[dict[str, Any]] = [
    {"batch_size": 4},
    {"batch_size": 4, "drop_remainder": True},
    {"batch_size": 4, "shuffle": True, "seed": 1},
    {"batch_size": 4, "buckets": 2},
    {"batch_size": 4, "ragged": True},
    {"batch_size": 4, "map_fn": lambda element: element},
    {"shuffle": 5},
    {},
]


def arrays(count: int) -> list[np.ndarray]:
    return [np.full((2 + i % 3,), i, "f4") for i in range(count)]


def keys(dataset: Any) -> list[int]:
    return [number_of(key) for element in dataset for key in np.atleast_1d(element["key"].numpy())]


@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
@pytest.mark.parametrize("empty", [(0,), (2, 3), (0, 1, 2, 4)])
def test_every_pipeline_reads_them(empty: tuple[int, ...], compression: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path, arrays(20), shards=5, empty=empty, compression=compression)
    for options in PIPELINES:
        assert sorted(keys(readers.load_dataset(path, **options))) == list(range(20))
    assert sorted(keys(readers.load_dataset(path, split="train[3:17]", batch_size=4))) == list(range(3, 17))
    shares = [keys(readers.load_dataset(path, worker=(i, 3), batch_size=2)) for i in range(3)]
    assert sorted(chain.from_iterable(shares)) == list(range(20))
    if compression == "none":
        source = readers.ArraySource(path)
        assert [example["key"] for example in source] == [key_of(i) for i in range(20)]
        assert [source.index_of(key_of(i)) for i in range(20)] == list(range(20))
        assert sorted(keys(readers.load_dataset(path, batch_size=4, on_corrupt="skip"))) == list(range(20))


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_split_without_examples_is_an_empty_dataset(shards: int, compression: str, tmp_path: Path) -> None:
    path = write_dataset(
        tmp_path, arrays(8), shards=shards, empty=range(shards), splits={"none": 0}, compression=compression
    )
    for options in PIPELINES:
        dataset = readers.load_dataset(path, **options)
        assert keys(dataset) == []
        assert dataset.cardinality() in (0, tf.data.UNKNOWN_CARDINALITY)
    if compression == "none":
        assert list(readers.ArraySource(path)) == []
        assert keys(readers.load_dataset(path, on_corrupt="skip")) == []
