"""Buckets, mixing, damage that is skipped, workers of tf.distribute, memory settings."""

from __future__ import annotations

import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_data import number_of, same_bits, write_dataset

import readers
from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.manifest import Histogram
from readers.pipeline.buckets import cut

tf = pytest.importorskip("tensorflow")


def keys(dataset: Any) -> list[int]:
    return [number_of(key) for element in dataset for key in np.atleast_1d(element["key"].numpy())]


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return np.clip(np.random.default_rng(1).lognormal(4, 0.6, 2000), 1, 1000).astype(int)


@pytest.fixture(scope="module")
def lognormal(tmp_path_factory: pytest.TempPathFactory, lengths: np.ndarray) -> Path:
    arrays = [np.full((n, 2), i, "f4") for i, n in enumerate(lengths)]
    return write_dataset(tmp_path_factory.mktemp("lognormal"), arrays, shards=4)


def padding_share(dataset: Any, lengths: np.ndarray) -> float:
    computed = real = 0
    for batch in dataset:
        found = [number_of(key) for key in batch["key"].numpy()]
        for row, i in zip(batch["array"].numpy(), found, strict=True):
            assert (row[: lengths[i]] == i).all()
            assert (row[lengths[i] :] == 0).all()
        computed += batch["array"].shape[0] * batch["array"].shape[1]
        real += lengths[found].sum()
    return 1 - real / computed


# --- buckets ---------------------------------------------------------------------------------------


def test_buckets_keep_padding_below_a_tenth_where_it_was_half(lognormal: Path, lengths: np.ndarray) -> None:
    plain = readers.load_dataset(lognormal, batch_size=32)
    bucketed = readers.load_dataset(lognormal, batch_size=32, buckets=8, shuffle=True, seed=1)
    assert padding_share(plain, lengths) > 0.4
    assert padding_share(bucketed, lengths) < 0.1
    assert sorted(keys(bucketed)) == list(range(2000))
    assert keys(readers.load_dataset(lognormal, batch_size=32, buckets=8, shuffle=True, seed=1)) == keys(
        readers.load_dataset(lognormal, batch_size=32, buckets=8, shuffle=True, seed=1, num_parallel_calls=1)
    )


@pytest.mark.parametrize(("budget", "limit"), [("4000 elements", 4000), ("16kB", 4000)])
def test_a_budget_a_batch_is_kept(lognormal: Path, budget: str, limit: int) -> None:
    dataset = readers.load_dataset(lognormal, batch_size=budget, buckets=6)
    shapes = [batch["array"].shape for batch in dataset]
    assert all(np.prod(shape) <= limit or shape[0] == 1 for shape in shapes)
    assert max(shape[0] for shape in shapes) > 2 * min(shape[0] for shape in shapes[: len(shapes) // 2])
    assert sum(shape[0] for shape in shapes) == 2000


def test_boundaries_of_your_own_and_ragged_batches(lognormal: Path, lengths: np.ndarray) -> None:
    for options in ({}, {"ragged": True}, {"drop_remainder": True}):
        for batch in readers.load_dataset(lognormal, batch_size=16, buckets=(50, 100), **options):
            sizes = {int(np.searchsorted([50, 100], lengths[number_of(key)])) for key in batch["key"].numpy()}
            assert len(sizes) == 1
            assert len(batch["key"]) == 16 or "drop_remainder" not in options


def test_several_features_go_by_their_longest_axis(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(1, 50, 64), rng.integers(1, 50, 64)
    path = write_dataset(
        tmp_path, {"a": [np.zeros(n) for n in a], "b": [np.zeros((3, n), "i4") for n in b], "c": [np.zeros(2)] * 64}
    )
    for batch in readers.load_dataset(path, batch_size=4, buckets=(10, 20, 30)):
        found = [number_of(key) for key in batch["key"].numpy()]
        assert len({int(np.searchsorted([10, 20, 30], max(a[i], b[i]))) for i in found}) == 1


@given(
    st.dictionaries(st.integers(1, 300), st.integers(1, 50), min_size=2, max_size=12),
    st.integers(2, 5),
)
def test_cuts_are_the_best_there_are(counts: dict[int, int], count: int) -> None:
    import itertools

    sizes = sorted(counts)
    histogram = Histogram(tuple(sizes), tuple(counts[size] for size in sizes))

    def padding(uppers: tuple[int, ...]) -> int:
        return sum(n * (min(u for u in uppers if u >= size) - size) for size, n in counts.items())

    chosen = cut(histogram, count)
    assert chosen[-1] == sizes[-1]
    assert len(chosen) <= count
    best = min(padding((*rest, sizes[-1])) for rest in itertools.combinations(sizes[:-1], min(count, len(sizes)) - 1))
    assert padding(chosen) == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4, "buckets": 1}, "buckets=1"),
        ({"batch_size": 4, "buckets": (5, 3)}, "boundaries that rise"),
        ({"batch_size": 4, "buckets": "x"}, "buckets='x'"),
        ({"buckets": 4}, "give a batch_size too"),
        ({"batch_size": "4MB"}, "needs buckets"),
        ({"batch_size": "many", "buckets": 3}, "batch_size='many'"),
        ({"batch_size": 4, "buckets": 3, "padding": "dataset"}, "leave padding out"),
        ({"batch_size": 4, "buckets": 3, "features": "key"}, "nothing to sort by length"),
    ],
)
def test_bucket_options_that_make_no_sense_are_refused(lognormal: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        readers.load_dataset(lognormal, **options)


# --- damage ----------------------------------------------------------------------------------------


def damage(path: Path, record: int, part: str, shard: str = "train-00001-of-00003") -> None:
    offset, length = map(int, (path / f"index/{shard}.idx").read_text().splitlines()[record].split())
    file = path / f"{shard}.tfrecord"
    content = bytearray(file.read_bytes())
    content[{"data": offset + length - 6, "length": offset + 1, "head crc": offset + 9}[part]] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("part", ["data", "length", "head crc"])
@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 4, "shuffle": True, "seed": 1}, {}])
def test_only_the_damaged_records_are_skipped(tmp_path: Path, part: str, options: dict[str, Any]) -> None:
    arrays = [np.arange(i, i + 5) for i in range(60)]
    path = write_dataset(tmp_path, arrays)
    damage(path, 6, part)
    damage(path, 7, "data")
    damage(path, 13, part)
    expected = [i for i in range(60) if i not in (26, 27, 33)]
    with pytest.warns(readers.DamageWarning) as caught:
        dataset = readers.load_dataset(path, on_corrupt="skip", **options)
    message = str(caught[0].message)
    assert message.startswith("3 damaged or missing records left out:\n  record 6 of")
    assert "key k/00026" in message
    elements = list(dataset)
    assert sorted(keys(elements)) == expected
    assert dataset.cardinality() == len(elements)
    for element in elements:
        for key, array in zip(np.atleast_1d(element["key"]), np.array(element["array"]).reshape(-1, 5), strict=True):
            assert same_bits(array, arrays[number_of(key)])


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 4, "shuffle": True}, {}])
def test_cut_and_missing_shards_are_skipped_and_counted(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_dataset(tmp_path, [np.arange(i, i + 5) for i in range(60)])
    cut = path / "train-00001-of-00003.tfrecord"
    offset, _ = map(int, (path / "index/train-00001-of-00003.idx").read_text().splitlines()[17].split())
    cut.write_bytes(cut.read_bytes()[: offset + 20])
    damage(path, 4, "length")
    (path / "train-00000-of-00003.tfrecord").unlink()
    with pytest.warns(readers.DamageWarning) as caught:
        dataset = readers.load_dataset(path, on_corrupt="skip", **options)
    message = str(caught[0].message).splitlines()
    assert message[0] == "24 damaged or missing records left out:"
    assert message[1].startswith("  records 0 to 19 of ")
    assert message[1].endswith("train-00000-of-00003.tfrecord at offset 0: No such file or directory")
    assert "record 4 of" in message[2]
    assert f"records 17 to 19 of {cut} at offset {offset}: the file ends at {offset + 20} bytes" in message[3]
    expected = [i for i in range(20, 60) if i not in (24, 37, 38, 39)]
    found = keys([*dataset])
    assert (sorted(found) if "shuffle" in options else found) == expected
    assert dataset.cardinality() == -(-len(expected) // options.get("batch_size", 1))


def test_a_data_set_that_is_lost_is_empty(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.arange(5)] * 6)
    for shard in path.glob("*.tfrecord"):
        shard.write_bytes(b"")
    with pytest.warns(readers.DamageWarning, match="6 damaged or missing records"):
        assert not list(readers.load_dataset(path, on_corrupt="skip", batch_size=4))


def test_sound_shards_warn_of_nothing(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.arange(5)] * 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keys(readers.load_dataset(path, on_corrupt="skip", batch_size=4)) == keys(
            readers.load_dataset(path, batch_size=4)
        )
    packed = write_dataset(tmp_path / "packed", [np.arange(5)] * 20, compression="gzip")
    with pytest.raises(UsageError, match="gzip-compressed shards records can't be found"):
        readers.load_dataset(packed, on_corrupt="skip")


def test_damage_in_a_compressed_shard_is_an_error_too(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.random.default_rng(i).random(50) for i in range(60)], compression="gzip")
    shard = path / "train-00001-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"of .*train-00001-of-00003.tfrecord is damaged or missing"
    ):
        list(readers.load_dataset(path, batch_size=4))


# --- mixing and distribution -----------------------------------------------------------------------


def test_mix_draws_by_weight(tmp_path: Path) -> None:
    a = write_dataset(tmp_path / "a", [np.zeros(3)] * 600)
    b = readers.load_dataset(write_dataset(tmp_path / "b", [np.ones(3)] * 600), repeat=True)
    mixed = readers.mix([a, b], weights=[3, 1], seed=1, repeat=True)
    share = np.mean([float(element["array"][0]) for element in mixed.take(800)])
    assert 0.18 < share < 0.32
    both = readers.mix([a, a])
    assert len(list(both)) == 1200
    with pytest.raises(UsageError, match="expected 2 numbers above 0"):
        readers.mix([a, b], weights=[1, -1])
    with pytest.raises(UsageError, match="can't be mixed"):
        readers.mix([a, tf.data.Dataset.range(3)])
    with pytest.raises(UsageError, match="expected a list"):
        readers.mix(str(a))


def test_workers_of_tf_distribute_share_the_examples(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.zeros(3)] * 50)
    shares = [
        keys(readers.load_dataset(path, batch_size=4, worker=tf.distribute.InputContext(3, i, 3))) for i in range(3)
    ]
    assert sorted(chain.from_iterable(shares)) == list(range(50))
    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = strategy.distribute_datasets_from_function(
            lambda context: readers.load_dataset(path, batch_size=5, worker=context)
        )
        assert sorted(keys(dataset)) == list(range(50))


@pytest.mark.parametrize("tune", [True, False, None])
def test_memory_settings_change_no_value(tmp_path: Path, tune: bool | None) -> None:
    path = write_dataset(tmp_path, [np.full((300, 300), i) for i in range(6)])
    for batch in readers.load_dataset(path, batch_size=2, tune_malloc=tune):
        assert all((a == number_of(k)).all() for a, k in zip(batch["array"].numpy(), batch["key"].numpy(), strict=True))


def test_the_memory_setting_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    from readers.pipeline import malloc

    path = write_dataset(tmp_path, [np.zeros(3)] * 6)
    monkeypatch.setattr(malloc, "_done", False)
    monkeypatch.setattr(malloc, "_set_thresholds", lambda: True)
    with caplog.at_level("INFO", logger="readers"):
        for tune in (False, None, True, True):
            readers.load_dataset(path, batch_size=2, tune_malloc=tune)
    (line,) = (record.getMessage() for record in caplog.records if record.name == "readers")
    assert "MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=536870912" in line
