"""Slices, shares and lanes: arithmetic that must lose nothing and read nothing twice."""

from __future__ import annotations

from itertools import chain, zip_longest

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


def in_turn(lanes: list[list[int]], batch: int) -> list[list[int]]:
    """Batches of the lanes, one from each in turn, as a pipeline interleaves them."""
    batches = [[lane[i : i + batch] for i in range(0, len(lane), batch)] for lane in lanes]
    return [each for turn in zip_longest(*batches) for each in turn if each is not None]


@given(sizes, st.integers(1, 20), st.integers(1, 16), st.booleans())
def test_lanes_read_everything_once_and_end_with_the_smaller_batch(
    shard_sizes: list[int], batch: int, count: int, seekable: bool
) -> None:
    total = sum(shard_sizes)
    lanes = splits.lanes(splits.cut(shard_sizes, 0, total), batch, count, seekable=seekable)
    read = [numbers(lane, shard_sizes) for lane in lanes]
    assert len(lanes) <= count
    assert list(chain.from_iterable(read)) == list(range(total))
    batches = in_turn(read, batch)
    assert all(len(each) == batch for each in batches[:-1])
    assert not batches or batches[0] == list(range(min(batch, total)))


@given(st.integers(1, 300), st.integers(4, 90), st.integers(1, 32), st.integers(0, 90))
def test_lanes_of_equal_shards_begin_where_shards_do(size: int, shards: int, batch: int, larger: int) -> None:
    """So that nothing is read only to be passed over, and nobody waits long for the last lane."""
    shard_sizes = [size + 1] * min(larger, shards) + [size] * max(0, shards - larger)
    whole = splits.cut(shard_sizes, 0, sum(shard_sizes))
    lanes = splits.lanes(whole, batch, 16, seekable=False)
    lengths = [sum(part.count for part in lane) for lane in lanes]
    if size >= 4 * batch:
        assert len(lanes) >= 4
        assert all(lane[0].first < 4 * batch for lane in lanes)
        assert max(lengths) <= min(lengths) + 2 * max(shard_sizes) + 4 * batch


@given(sizes, st.integers(1, 30))
def test_splitting_up_gives_pieces_enough(shard_sizes: list[int], pieces: int) -> None:
    total = sum(shard_sizes)
    whole = splits.cut(shard_sizes, 0, total)
    parts = splits.split_up(whole, pieces)
    assert numbers(parts, shard_sizes) == list(range(total))
    assert all(part.count > 0 for part in parts)


def test_narrowing_keeps_places_in_the_shard() -> None:
    assert splits.narrow((Part(3, 10, 5), Part(7, 0, 5)), 3, 7) == (Part(3, 13, 2), Part(7, 0, 2))
