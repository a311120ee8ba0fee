"""The order of examples follows from their keys alone, whatever the order in which they are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xxhash
from arrays import tree
from converted import read_back, save

from npy2tfrecord import convert
from npy2tfrecord.planning import order, planner
from npy2tfrecord.planning.order import hash_keys, sort_keys

NAMES = ["b", "a", "a-b/x", "a/x", "a/b/x", "a.b", "a-", "c/10", "c/9"]
IN_ORDER = ["a", "a-", "a.b", "b", "a/x", "a/b/x", "a-b/x", "c/10", "c/9"]


def test_directories_come_before_those_inside_them_and_all_compare_as_bytes() -> None:
    keys = [name.encode() for name in NAMES]
    assert [NAMES[i] for i in sort_keys(keys, rows=False).tolist()] == IN_ORDER


def test_rows_compare_as_numbers() -> None:
    keys = [b"x#10", b"x#9", b"x-#0", b"x/a#1", b"a#0#2"]
    assert [keys[i] for i in sort_keys(keys, rows=True).tolist()] == [b"a#0#2", b"x#9", b"x#10", b"x-#0", b"x/a#1"]


def test_in_natural_order_numbers_count_as_numbers() -> None:
    keys = [b"b10", b"b9", b"a10/x", b"a9/x", b"b09", b"a9/b/1"]
    expected = [b"b09", b"b9", b"b10", b"a9/x", b"a9/b/1", b"a10/x"]
    assert [keys[i] for i in sort_keys(keys, rows=False, natural=True).tolist()] == expected


def test_in_order_the_records_are_sorted_by_their_keys(tmp_path: Path) -> None:
    save(tmp_path / "in", {name: np.arange(3) for name in NAMES})
    convert(tmp_path / "in", tmp_path / "out", shuffle=False, num_shards=4, fsync=False)
    assert list(read_back(tmp_path / "out")) == IN_ORDER


def test_shuffled_the_records_are_sorted_by_a_hash_of_their_keys(tmp_path: Path) -> None:
    save(tmp_path / "in", {name: np.arange(3) for name in NAMES})
    convert(tmp_path / "in", tmp_path / "out", seed=7, num_shards=4, fsync=False)
    expected = sorted(NAMES, key=lambda name: xxhash.xxh3_64_intdigest(name.encode(), 7))
    assert list(read_back(tmp_path / "out")) == expected


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rows", [True, False])
def test_the_order_of_the_sources_changes_nothing(shuffle: bool, rows: bool, tmp_path: Path) -> None:
    one = save(tmp_path / "one", {"a/1": np.arange(12).reshape(12, 1), "b/1": np.arange(20).reshape(20, 1)})
    two = save(tmp_path / "two", {"a/0": np.arange(9).reshape(9, 1), "c": np.arange(11).reshape(11, 1)})
    for name, sources in (("x", [one, two]), ("y", [two, one])):
        convert(sources, tmp_path / name, rows=rows, shuffle=shuffle, stats=True, num_shards=3, fsync=False)
    assert tree(tmp_path / "x") == tree(tmp_path / "y")


def test_keys_with_the_same_hash_are_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in", {name: np.arange(3) for name in NAMES})
    monkeypatch.setattr(order, "xxh3_64_intdigest", lambda key, seed: 5)
    assert hash_keys([b"a", b"b"]).tolist() == [5, 5]
    assert planner.shuffle(hash_keys([b"a", b"b"])) is None
    convert(tmp_path / "in", tmp_path / "out", fsync=False)
    assert list(read_back(tmp_path / "out")) == IN_ORDER
