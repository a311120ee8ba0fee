"""Several splits and several data sets at once: one data set to whoever reads them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import key_of, same_bits, write_dataset

import readers
from npy2tfrecord.errors import DamageError, UsageError
from readers.manifests import united

tf = pytest.importorskip("tensorflow")

CLASSES = (("cat", "dog"), ("bird", "dog", "owl"))
SIZES = (23, 14)


def arrays_of(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.standard_normal((int(n), 3)).astype("f4") for n in rng.integers(1, 9 + number, SIZES[number])]


def keys_of(number: int) -> list[str]:
    return [f"{number}/{key_of(i)}" for i in range(SIZES[number])]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, `2026-11-24` and `2026-11-25`, in one folder. Their classes differ."""
    folder = tmp_path_factory.mktemp("nights")
    for number, name in enumerate(("2026-11-24", "2026-11-25")):
        labels = [i % len(CLASSES[number]) for i in range(SIZES[number])]
        write_dataset(
            folder / name, arrays_of(number), labels=labels, classes=CLASSES[number], keys=keys_of(number),
            splits={"train": SIZES[number] - 4, "val": 4},
        )  # fmt: skip
    (folder / ".cache").mkdir()
    return folder


def elements(dataset: Any, batched: bool) -> list[tuple[str, np.ndarray, str]]:
    """Key, array and class of every example."""
    found = []
    names = ("bird", "cat", "dog", "owl")
    for element in dataset.unbatch() if batched else dataset:
        found.append((element["key"].numpy().decode(), element["array"].numpy(), names[int(element["label"])]))
    return found


EXPECTED = {
    key: (array, CLASSES[number][i % len(CLASSES[number])])
    for number in range(2)
    for i, (key, array) in enumerate(zip(keys_of(number), arrays_of(number), strict=True))
}
TRAIN = [*keys_of(0)[:-4], *keys_of(1)[:-4]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 5},
        {"batch_size": 5, "shuffle": True, "seed": 1},
        {"shuffle": 7, "seed": 1},
        {"batch_size": 5, "map_fn": lambda element: element, "shuffle": True},
        {"batch_size": 5, "buckets": 3},
    ],
)
def test_sets_are_read_as_one_with_classes_by_name(nights: Path, options: dict[str, Any]) -> None:
    dataset = readers.load_dataset(nights, split="train", **options)
    found = elements(dataset, "batch_size" in options)
    if not options.keys() & {"shuffle", "buckets"}:
        assert [key for key, _, _ in found] == TRAIN
    assert sorted(key for key, _, _ in found) == sorted(TRAIN)
    for key, array, name in found:
        expected, label = EXPECTED[key]
        assert same_bits(array[: len(expected)], expected)
        assert not array[len(expected) :].any()
        assert name == label
    if "buckets" not in options:
        assert dataset.cardinality() == -(-len(TRAIN) // options.get("batch_size", 1))


def test_a_list_a_folder_and_an_array_source_agree(nights: Path) -> None:
    paths = sorted(path for path in nights.iterdir() if path.name[0] != ".")
    splits = "train[:50%]+val+train[50%:]"
    first = [key for key, _, _ in elements(readers.load_dataset(nights, split=splits), False)]
    assert [key for key, _, _ in elements(readers.load_dataset(paths, split=splits), False)] == first
    source = pickle.loads(pickle.dumps(readers.ArraySource(paths, split=splits)))
    assert [example["key"] for example in source] == first
    assert [source[i]["key"] for i in range(len(source))] == first
    assert len(first) == sum(SIZES)
    assert set(first[15:23]) == {*keys_of(0)[-4:], *keys_of(1)[-4:]}
    names = readers.load_manifest(nights).labels
    assert names == ("bird", "cat", "dog", "owl")
    for example in source:
        expected, label = EXPECTED[example["key"]]
        assert same_bits(example["array"], expected)
        assert names[example["label"]] == label
    assert source[source.index_of(keys_of(1)[3])]["key"] == keys_of(1)[3]


def test_workers_share_all_sets(nights: Path) -> None:
    shares = [
        [key for key, _, _ in elements(readers.load_dataset(nights, split="train", worker=(i, 5)), False)]
        for i in range(5)
    ]
    assert sorted(chain.from_iterable(shares)) == sorted(TRAIN)


def test_the_united_manifest_is_that_of_one_data_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((int(n), 2)).astype("f4") for n in rng.integers(1, 9, 30)]
    stats = [{"array": one_stats(np.concatenate(part))} for part in (arrays, arrays[:11], arrays[11:])]
    whole = readers.load_manifest(write_dataset(tmp_path / "whole", arrays, stats=stats[0]))
    write_dataset(tmp_path / "parts" / "a", arrays[:11], stats=stats[1])
    write_dataset(tmp_path / "parts" / "b", arrays[11:], stats=stats[2])
    parts = readers.load_manifest(tmp_path / "parts")
    assert replace(parts.features[0], stats=None) == replace(whole.features[0], stats=None)
    assert parts.features[0].stats is not None
    assert whole.features[0].stats is not None
    for name in ("count", "mean", "std"):
        np.testing.assert_allclose(parts.features[0].stats[name], whole.features[0].stats[name])
    assert parts.examples == whole.examples


def one_stats(values: np.ndarray) -> dict[str, Any]:
    wide = values.astype("f8")
    return {"count": [len(wide)] * 2, "mean": wide.mean(0).tolist(), "std": wide.std(0).tolist()}


def test_one_size_in_each_set_is_an_axis_that_varies(tmp_path: Path) -> None:
    paths = [write_dataset(tmp_path / str(n), [np.zeros((n, 2), "f4")] * n) for n in (2, 3)]
    info = readers.load_manifest(paths).features[0]
    assert info.shape == (None, 2)
    assert info.histograms[0] is not None
    assert (info.histograms[0].sizes, info.histograms[0].counts) == ((2, 3), (2, 3))
    (batch,) = readers.load_dataset(paths, batch_size=5)
    assert batch["array"].shape == (5, 3, 2)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ({"array": [np.zeros(2, "f8")]}, {}, "feature 'array' has the dtype float64, expected float32"),
        ({"array": [np.zeros((2, 1), "f4")]}, {}, "feature 'array' has the rank 2, expected 1"),
        ({"arrays": [np.zeros(2, "f4")]}, {}, "feature 'array': none, expected one"),
        ({"array": [np.zeros(2, "f4")], "mask": [np.zeros(2)]}, {}, "feature 'mask': one, expected none"),
        ({"array": [np.zeros(2, "f4")]}, {"labels": [1]}, "labels: int64, expected none"),
        ({"array": [np.zeros(2, "f4")]}, {"compression": "gzip"}, "compression: gzip, expected none"),
    ],
)
def test_sets_that_differ_are_refused_by_name(
    tmp_path: Path, features: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    first = write_dataset(tmp_path / "first", [np.zeros(2, "f4")] * 3)
    other = write_dataset(tmp_path / "other", features, **options)
    for read in (readers.load_dataset, readers.ArraySource, readers.load_manifest):
        with pytest.raises(UsageError) as error:
            read([first, other])
        assert str(error.value) == f"{other} can't be read together with {first}: {message}"


def test_a_set_or_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "sets" / "a", [np.zeros(2, "f4")] * 3)
    with pytest.raises(UsageError, match=f"{tmp_path / 'sets' / 'b'}: no such directory"):
        readers.load_dataset([first, tmp_path / "sets" / "b"])
    (tmp_path / "sets" / "b" / ".npy2tfrecord").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"sets/b has no manifest\.json: its conversion is unfinished"):
        readers.load_dataset(tmp_path / "sets")
    other = write_dataset(tmp_path / "sets" / "c", [np.zeros(2, "f4")] * 3)
    (other / "train-00001-of-00003.tfrecord").unlink()
    with pytest.raises(DamageError, match=r"sets/c/train-00001-of-00003\.tfrecord: No such file"):
        readers.load_dataset([first, other])


@pytest.mark.parametrize("path", [[], 3, None, [3], {"a": 1}, [["a"]]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    for read in (readers.load_dataset, readers.ArraySource, readers.load_manifest):
        with pytest.raises(UsageError, match=r"^path="):
            read(path)


def test_uniting_is_in_the_order_given() -> None:
    """A pure function: nothing is opened."""
    made = {name: readers.manifests.Manifest(features=(), splits={"train": ()}) for name in ("b", "a")}
    assert united(made).splits == {"train": ()}


@pytest.mark.parametrize("split", ["train+", "+val", "train+test", "train++val", "train[:50%]val"])
def test_a_sum_that_makes_no_sense_is_refused(nights: Path, split: str) -> None:
    with pytest.raises(UsageError):
        readers.load_dataset(nights, split=split)
