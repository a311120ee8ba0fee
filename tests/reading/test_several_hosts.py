"""Shares of several hosts: together everything once, for more hosts than shards too, and after a stop."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import number_of, write_dataset

import readers
from npy2tfrecord.errors import UsageError

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


def read(path: Path, workers: int, steps: int | None = None, **options: Any) -> list[int]:
    """The keys that several workers read in step, in batches of 2; stopped after `steps`."""
    shares = [
        keys(readers.load_dataset(path, features="key", batch_size=2, worker=(i, workers), **options).take(steps or -1))
        for i in range(workers)
    ]
    return [*chain.from_iterable(shares)]


@pytest.mark.parametrize("before", [1, 2, 3, 5])
@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_stopped_epoch_continues_with_any_number_of_workers(path: Path, before: int, after: int) -> None:
    consumed = read(path, before, 2)
    assert len(consumed) == 4 * before
    left = read(path, after, start=(len(consumed), before))
    assert sorted(consumed + left) == list(range(COUNT))
    alone = readers.load_dataset(path, features="key", batch_size=2, start=(len(consumed), before))
    assert alone.cardinality() == -(-(COUNT - len(consumed)) // 2)


def test_an_epoch_stopped_again_and_again_gives_every_example_once(path: Path) -> None:
    stops: list[tuple[int, int]] = []
    seen: list[int] = []
    for workers in (3, 5, 1, 2):
        seen += read(path, workers, 1, start=stops or 0)
        stops.append((2 * workers, workers))
    assert sorted(seen + read(path, 2, start=stops)) == list(range(COUNT))


def test_a_single_reader_continues_with_what_is_behind_what_it_consumed(path: Path) -> None:
    for start in (0, 1, 14, 15, COUNT):
        assert read(path, 1, start=start) == list(range(start, COUNT))
    part = readers.load_dataset(path, features="key", split="train[3:20]", batch_size=2, start=5)
    assert keys(part) == list(range(8, 20))
    skipped = readers.load_dataset(path, features="key", batch_size=2, start=5, on_corrupt="skip")
    assert keys(skipped) == list(range(5, COUNT))


def test_the_last_step_may_have_been_smaller(path: Path) -> None:
    """29 examples of 5 workers: after 3 steps of 2 examples every share is at its end."""
    assert read(path, 2, start=(30, 5)) == []


def test_files_as_they_are_continue_too(tmp_path: Path) -> None:
    for i in range(11):
        np.save(tmp_path / f"{i:02}.npy", np.full(3, i))
    load = {"features": "array", "batch_size": 2}
    consumed = [readers.load_npy(tmp_path, worker=(i, 2), **load).take(1) for i in range(2)]
    left = [readers.load_npy(tmp_path, worker=(i, 3), start=(4, 2), **load) for i in range(3)]
    found = [int(array[0]) for dataset in (*consumed, *left) for batch in dataset for array in batch]
    assert sorted(found) == list(range(11))


@pytest.mark.parametrize(
    "options",
    [
        {"start": -1},
        {"start": (3, 2)},
        {"start": (4, 0)},
        {"start": "4"},
        {"start": [(4, 2), 3]},
        {"start": COUNT + 1},
        {"start": (40, 5)},
        {"start": 4, "shuffle": True, "seed": 1},
        {"start": 4, "repeat": True},
        {"start": 4, "buckets": 2},
        {"start": 4, "window": 2},
        {"start": 4, "deterministic": False},
    ],
    ids=str,
)
def test_a_start_that_says_nothing_about_what_was_consumed_is_refused(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="start"):
        readers.load_dataset(path, batch_size=2, **options)
