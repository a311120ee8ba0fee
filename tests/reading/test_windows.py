"""`window` and `hop`: pieces of arrays as examples."""

from __future__ import annotations

import pickle
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import key_of, number_of, same_bits, write_dataset

import readers
from npy2tfrecord.errors import DamageError, UsageError

tf = pytest.importorskip("tensorflow")

LENGTHS = (0, 3, 4, 5, 9, 12, 4, 17, 1, 8)
Window = tuple[int, int]  # an example's number, and where the window begins


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((2, n, 3)).astype("f4") for n in LENGTHS]
    masks = [np.arange(n) % 256 for n in LENGTHS]
    path = write_dataset(
        tmp_path_factory.mktemp("signals"),
        {"array": arrays, "mask": masks, "fixed": [np.array([i, i]) for i in range(len(arrays))]},
        labels=list(range(len(arrays))),
    )
    return path, arrays


def windows_of(lengths: tuple[int, ...], window: int, hop: int) -> list[Window]:
    return [(i, start) for i, n in enumerate(lengths) for start in range(0, n - window + 1, hop)]


def check(element: dict[str, Any], arrays: list[np.ndarray], window: int) -> list[Window]:
    """That a batch holds what it says, and which windows these are."""
    found = []
    for i, key in enumerate(element["key"].numpy()):
        number, start = number_of(key), int(element["start"][i])
        assert same_bits(element["array"][i], arrays[number][:, start : start + window])
        assert element["mask"].numpy()[i].tolist() == list(range(start, start + window))
        assert element["fixed"].numpy()[i].tolist() == [number, number]
        assert int(element["label"][i]) == number
        found.append((number, start))
    return found


@pytest.mark.parametrize("options", [{}, {"shuffle": True, "seed": 1}, {"map_fn": lambda x: x}, {"cache": True}])
def test_windows_are_cut_from_the_axis_that_varies(signals: Any, options: dict[str, Any]) -> None:
    path, arrays = signals
    dataset = readers.load_dataset(path, window=4, hop=3, batch_size=3, **options)
    assert dataset.element_spec["array"].shape.as_list() == [None, 2, 4, 3]
    assert dataset.element_spec["start"].dtype == tf.int64
    found = [each for element in dataset for each in check(element, arrays, 4)]
    expected = windows_of(LENGTHS, 4, 3)
    assert (sorted(found) if "shuffle" in options else found) == expected
    assert dataset.cardinality() == -(-len(expected) // 3)


def test_windows_lie_side_by_side_without_hop_and_a_hop_may_be_larger(signals: Any) -> None:
    path, _ = signals
    for window, hop in ((4, None), (1, 5), (17, 1)):
        dataset = readers.load_dataset(path, window=window, hop=hop, features=("key", "start", "array"))
        found = [(number_of(key), int(start)) for key, start, _ in dataset]
        assert found == windows_of(LENGTHS, window, hop or window)
        assert dataset.cardinality() == len(found)


def test_workers_and_slices_share_the_arrays(signals: Any) -> None:
    path, _ = signals
    shares = []
    for i in range(3):
        dataset = readers.load_dataset(path, window=4, features=("key", "start", "array"), worker=(i, 3))
        assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
        shares.append([(number_of(key), int(start)) for key, start, _ in dataset])
    assert sorted(chain.from_iterable(shares)) == windows_of(LENGTHS, 4, 4)


def test_arrays_of_one_size_are_cut_along_axis_0_and_always_counted(tmp_path: Path) -> None:
    arrays = [np.full((10, 2), i, "u1") for i in range(7)]
    path = write_dataset(tmp_path, arrays)
    dataset = readers.load_dataset(path, window=4, hop=2, split="train[2:5]")
    assert dataset.cardinality() == 3 * 4
    assert [(number_of(x["key"]), int(x["start"])) for x in dataset] == [
        (i, s) for i in (2, 3, 4) for s in (0, 2, 4, 6)
    ]


def test_more_sizes_than_the_manifest_counts_make_the_cardinality_unknown(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.zeros(n, "u1") for n in range(300)], shards=1)
    dataset = readers.load_dataset(path, window=100, features=("start", "array"), batch_size=64)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    assert sum(len(starts) for starts, _ in dataset) == len(windows_of(tuple(range(300)), 100, 100))


def test_files_as_they_are_are_cut_too(tmp_path: Path) -> None:
    for i, n in enumerate(LENGTHS):
        np.save(tmp_path / f"{i}.npy", np.arange(n))
    dataset = readers.load_npy(tmp_path, window=4, hop=1, features=("array", "start"))
    assert [int(start) for _, start in dataset] == [start for _, start in windows_of(LENGTHS, 4, 1)]
    assert all(array[0] == start for array, start in dataset)


def test_features_that_differ_in_size_are_an_error_that_names_the_example(tmp_path: Path) -> None:
    arrays = {"a": [np.zeros(n) for n in (5, 7, 6)], "b": [np.zeros(n) for n in (5, 6, 7)]}
    path = write_dataset(tmp_path, arrays, shards=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="differ in size, in example"):
        list(readers.load_dataset(path, window=2))


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ({"a": [np.zeros((n, n)) for n in (2, 3)]}, {}, r"feature 'a' varies along the axes \[0, 1\]"),
        ({"a": [np.zeros(())]}, {}, "no feature read here has an axis"),
        ({"a": [np.zeros(5)], "b": [np.zeros(6)]}, {}, "differ in size: a 5, b 6; choose"),
        (
            {"a": [np.zeros(n) for n in (5, 6)], "b": [np.zeros(2)] * 2},
            {"window": 6, "features": "b"},
            "axis 0 of 'b' has 2",
        ),
        ({name: [np.zeros(n), np.zeros(7)] for name, n in (("a", 5), ("b", 6))}, {}, "a 5 to 7, b 6 to 7"),
        ({"a": [np.zeros((2, 9))]}, {"window": 3}, "window=3: longer than all arrays; axis 0 of 'a' has 2 at most"),
        ({"start": [np.zeros(5)]}, {}, "called 'start' already"),
        ({"a": [np.zeros(5)]}, {"window": 0}, "window=0"),
        ({"a": [np.zeros(5)]}, {"window": 2.0}, r"window=2\.0"),
        ({"a": [np.zeros(5)]}, {"hop": 0}, "hop=0"),
        ({"a": [np.zeros(5)]}, {"window": None, "hop": 2}, "hop=2: give a window too"),
        ({"a": [np.zeros(n) for n in (5, 6)]}, {"buckets": 2, "batch_size": 2}, "windows are all of one size"),
        ({"a": [np.zeros(5)]}, {"window": None, "features": "start"}, "no feature 'start'"),
        ({"a": [np.zeros(5)]}, {"features": "key"}, "no feature read here has an axis"),
    ],
)
def test_windows_that_make_no_sense_are_refused(
    tmp_path: Path, features: Any, options: dict[str, Any], message: str
) -> None:
    path = write_dataset(tmp_path, features)
    with pytest.raises(UsageError, match=message):
        readers.load_dataset(path, **{"window": 2} | options)
    if "buckets" not in options:
        with pytest.raises(UsageError, match=message):
            readers.ArraySource(path, **{"window": 2} | options)


# --- by number -----------------------------------------------------------------------------------


def assert_same_windows(source: readers.ArraySource, dataset: Any) -> None:
    """That a source holds the windows of a data set, in its order, in every way of asking for them."""
    expected = list(dataset.as_numpy_iterator())
    assert len(source) == len(expected)
    everything = [[source[i] for i in range(len(source))], list(source), source[:], source[range(-len(source), 0)]]
    for found in everything:
        for example, element in zip(found, expected, strict=True):
            assert example.keys() == element.keys()
            for name, value in element.items():
                if name == "key":
                    assert example[name] == value.decode()
                else:
                    assert isinstance(example[name], int) or example[name].flags.c_contiguous
                    assert np.array_equal(example[name], value)
                    assert isinstance(example[name], int) or same_bits(example[name], value)


@pytest.mark.parametrize(("window", "hop"), [(4, 3), (4, None), (1, 5), (17, 1), (5, 1)])
@pytest.mark.parametrize("split", [None, "train[2:7]", "train[-30%:]+train[:3]"])
def test_windows_by_number_are_those_of_load_dataset(
    signals: Any, window: int, hop: int | None, split: str | None
) -> None:
    path, _ = signals
    options: dict[str, Any] = {"window": window, "hop": hop, "split": split}
    source = readers.ArraySource(path, **options)
    if split is None:
        assert [(number_of(x["key"].encode()), x["start"]) for x in source] == windows_of(
            LENGTHS, window, hop or window
        )
    assert_same_windows(source, readers.load_dataset(path, **options))
    assert_same_windows(pickle.loads(pickle.dumps(source)), readers.load_dataset(path, **options))
    with pytest.raises(IndexError, match=f"window {len(source)} of {len(source)}"):
        source[len(source)]


def test_windows_by_number_of_arrays_of_one_size_and_of_several_sets(signals: Any, tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "a", [np.arange(20).reshape(10, 2) + i for i in range(7)])
    assert_same_windows(
        readers.ArraySource(path, window=4, hop=3, split="train[2:6]"),
        readers.load_dataset(path, window=4, hop=3, split="train[2:6]"),
    )
    other = write_dataset(tmp_path / "b", [np.arange(10).reshape(5, 2)] * 3, shards=1)
    both = [str(other), str(path)]
    assert len(readers.ArraySource(both, window=4)) == 3 * 1 + 7 * 2
    assert_same_windows(readers.ArraySource(both, window=4), readers.load_dataset(both, window=4))
    long = write_dataset(tmp_path / "c", [np.arange(n) for n in (9, 30, 8)], keys=["k" * 2000, "b", "c"])
    assert_same_windows(readers.ArraySource(long, window=9), readers.load_dataset(long, window=9))


def test_a_window_is_found_by_its_key_and_is_the_callers_own(signals: Any) -> None:
    path, arrays = signals
    source = readers.ArraySource(path, window=4, hop=3, features=("key", "array", "start"))
    firsts = {number: i for i, (number, start) in enumerate(windows_of(LENGTHS, 4, 3)) if start == 0}
    for number in range(len(LENGTHS)):
        if number in firsts:
            assert source.index_of(key_of(number)) == firsts[number]
        else:
            with pytest.raises(KeyError, match="no window has the key"):
                source.index_of(key_of(number))
    (_, one, _), (_, two, start) = source[[firsts[7], firsts[7] + 1]]
    one[:] = 0
    assert (start, same_bits(two, arrays[7][:, 3:7])) == (3, True)


def test_features_that_differ_in_size_are_refused_by_number_too(tmp_path: Path) -> None:
    arrays = {"a": [np.zeros(n) for n in (5, 7, 6)], "b": [np.zeros(n) for n in (5, 6, 7)]}
    path = write_dataset(tmp_path, arrays)
    with pytest.raises(UsageError, match="differ in size, in example k/00001: a 7, b 6"):
        readers.ArraySource(path, window=2)
    assert len(readers.ArraySource(path, window=2, features="a")) == len(windows_of((5, 7, 6), 2, 2))


def test_a_damaged_shape_or_value_is_never_read_as_windows(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.arange(n, dtype="u1") for n in (5, 7, 6)], shards=1)
    shard = path / "train-00000-of-00001.tfrecord"
    whole = shard.read_bytes()
    shape = whole.index(b"array/shape") + len(b"array/shape") + 6
    assert whole[shape] == 5
    shard.write_bytes(whole[:shape] + b"\x06" + whole[shape + 1 :])
    with pytest.raises(DamageError, match=r"record 0 at offset 0: the CRC of the record's data is wrong"):
        readers.ArraySource(path, window=2)
    value = whole.index(bytes(range(7)))
    shard.write_bytes(whole[:value] + b"\x01" + whole[value + 1 :])
    source = readers.ArraySource(path, window=2)
    assert source[1]["start"] == 2
    with pytest.raises(DamageError, match="record 1 at offset"):
        source[2]


def test_a_copy_in_another_process_counts_windows_again_only_if_the_set_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = (5, 9, 4, 7)
    path = write_dataset(tmp_path / "set", [np.arange(n) for n in lengths], shards=2)
    source = readers.ArraySource(path, window=4, hop=2)
    pickled = pickle.dumps(source)
    with monkeypatch.context() as patched:
        patched.setattr("readers.array_source.read_sizes", None)  # what reads the head of every record
        again = pickle.loads(pickled)
    assert [(example["key"], example["start"]) for example in again] == [
        (key_of(i), start) for i, start in windows_of(lengths, 4, 2)
    ]
    write_dataset(tmp_path / "other", [np.arange(n) for n in reversed(lengths)], shards=2)
    (tmp_path / "set").rename(tmp_path / "before")
    (tmp_path / "other").rename(tmp_path / "set")
    changed = pickle.loads(pickled)
    assert [(example["key"], example["start"]) for example in changed] == [
        (key_of(i), start) for i, start in windows_of(lengths[::-1], 4, 2)
    ]


def test_only_so_many_bytes_are_held_while_all_windows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = [np.full((3 + 2 * (i % 2), 100), i, np.float64) for i in range(60)]  # every second one is too short
    source = readers.ArraySource(write_dataset(tmp_path, arrays), window=5)
    monkeypatch.setattr("readers.array_source._GAP_BYTES", 0)
    monkeypatch.setattr("readers.array_source._RUN_BYTES", 20_000)
    monkeypatch.setattr("readers.array_source._HELD_BYTES", 32_000)
    monkeypatch.setattr(source, "_most_waiting", 4)  # as in a bucket
    held = []
    real = source._read_runs

    def read_runs(runs: Any, count: int) -> Any:
        held.append(sum(run.size for run in runs))
        return real(runs, count)

    monkeypatch.setattr(source, "_read_runs", read_runs)
    assert [int(example["array"][0, 0]) for example in source] == list(range(1, 60, 2))
    assert len(held) > 5
    assert max(held) <= 32_000
