"""Shares of several hosts: together everything once, for more hosts than shards too, and after a stop."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import number_of, write_dataset

import readers

tf = pytest.importorskip("tensorflow")

COUNT = 29


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("hosts"), [np.full(3, i) for i in range(COUNT)], shards=2)


def keys(dataset: Any) -> list[int]:
    return [number_of(key) for batch in dataset for key in batch.numpy()]


def test_more_hosts_than_shards_and_contexts_read_everything_once(path: Path) -> None:
    pairs = [(i, 5) for i in range(5)]
    contexts = [tf.distribute.InputContext(num_input_pipelines=5, input_pipeline_id=i) for i in range(5)]
    for workers in (pairs, contexts):
        shares = [keys(readers.load_dataset(path, features="key", batch_size=2, worker=each)) for each in workers]
        assert [*chain.from_iterable(shares)] == list(range(COUNT))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_ranks_of_an_array_source_read_everything_once(path: Path) -> None:
    source = readers.ArraySource(path)
    shares = [[int(example["array"][0]) for example in source[rank::5]] for rank in range(5)]
    assert sorted(chain.from_iterable(shares)) == list(range(COUNT))


def test_what_is_left_after_a_stop_is_shared_by_any_number(path: Path) -> None:
    consumed = keys(readers.load_dataset(path, features="key", batch_size=4).take(3))
    left = [
        keys(readers.load_dataset(path, split="train[12:]", features="key", batch_size=4, worker=(i, 3)))
        for i in range(3)
    ]
    assert [*consumed, *chain.from_iterable(left)] == list(range(COUNT))
