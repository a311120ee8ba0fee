"""Slices and shares: arithmetic that must lose nothing and read nothing twice."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from readers import splits
from readers.splits import Part

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12)


def numbers(parts: object, shard_sizes: list[int]) -> list[int]:
    starts = [sum(shard_sizes[:i]) for i in range(len(shard_sizes))]
    return [starts[p.shard] + p.first + i for p in parts for i in range(p.count)]  # type: ignore[attr-defined]


@given(sizes, st.integers(0, 500), st.integers(0, 500))
def test_a_cut_is_exactly_the_records_between(shard_sizes: list[int], a: int, b: int) -> None:
    total = sum(shard_sizes)
    start, stop = min(a, total), min(max(a, b), total)
    parts = splits.cut(shard_sizes, start, stop)
    assert numbers(parts, shard_sizes) == list(range(start, stop))
    assert all(part.count > 0 for part in parts)


@given(sizes, st.integers(1, 60))
def test_shares_are_disjoint_complete_and_balanced_to_one(shard_sizes: list[int], count: int) -> None:
    total = sum(shard_sizes)
    whole = splits.cut(shard_sizes, 0, total)
    shares = [numbers(splits.share(whole, i, count), shard_sizes) for i in range(count)]
    assert list(chain.from_iterable(shares)) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(sizes, st.integers(1, 30))
def test_splitting_up_gives_pieces_enough(shard_sizes: list[int], pieces: int) -> None:
    total = sum(shard_sizes)
    whole = splits.cut(shard_sizes, 0, total)
    parts = splits.split_up(whole, pieces)
    assert numbers(parts, shard_sizes) == list(range(total))
    assert all(part.count > 0 for part in parts)


def test_narrowing_keeps_places_in_the_shard() -> None:
    assert splits.narrow((Part(3, 10, 5), Part(7, 0, 5)), 3, 7) == (Part(3, 13, 2), Part(7, 0, 2))
