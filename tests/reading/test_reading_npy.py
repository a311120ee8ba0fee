"""`load_npy`: the same elements straight from files."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from reading_data import random_array, same_bits

import readers
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.formats.dtypes import SUPPORTED_NAMES

tf = pytest.importorskip("tensorflow")


def save(root: Path, arrays: dict[str, np.ndarray]) -> Path:
    for key, array in arrays.items():
        file = root / f"{key}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    return root


def expected_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).reshape(array.shape)


@pytest.mark.parametrize("dtype", SUPPORTED_NAMES)
def test_every_dtype_byte_order_and_memory_order(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {}
    for order, memory in itertools.product("<>", "CF"):
        for shape in ((2, 3, 4), (0, 3, 1), (1, 1, 5)):
            made = random_array(rng, np.dtype(dtype).newbyteorder(order) if dtype != "bool" else dtype, shape)
            arrays[f"{'be' if order == '>' else 'le'}/{memory}/{'x'.join(map(str, shape))}"] = np.array(
                made, order=memory
            )
    path = save(tmp_path, arrays)
    for element in readers.load_npy(path):
        assert same_bits(element["array"], expected_of(arrays[element["key"].numpy().decode()]))
    count = 0
    for batch in readers.load_npy(path, batch_size=5, shuffle=True):
        for key, row in zip(batch["key"].numpy(), batch["array"].numpy(), strict=True):
            array = expected_of(arrays[key.decode()])
            assert same_bits(row[tuple(slice(n) for n in array.shape)], array)
            count += 1
    assert count == len(arrays)


def test_named_sources_are_joined_and_folders_are_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    keys = [f"{folder}/{i}" for folder in ("cat", "dog") for i in range(9)]
    images = {key: rng.random((4, 4, 3)).astype("f4") for key in keys}
    masks = {
        key: rng.integers(0, 9, (int(n),)).astype("u4") for key, n in zip(keys, rng.integers(1, 9, 18), strict=True)
    }
    sources = {"image": save(tmp_path / "i", images), "mask": save(tmp_path / "m", masks)}
    dataset = readers.load_npy(sources, labels="dirs", batch_size=4)
    assert dataset.cardinality() == 5
    assert dataset.element_spec["image"].shape.as_list() == [None, 4, 4, 3]
    seen = []
    for batch in dataset:
        for i, raw in enumerate(batch["key"].numpy()):
            key = raw.decode()
            seen.append(key)
            assert same_bits(batch["image"][i], images[key])
            assert same_bits(batch["mask"][i, : len(masks[key])], masks[key])
            assert batch["label"][i].numpy() == (key[0] == "d")
    assert sorted(seen) == keys
    first = readers.load_npy(sources, features=("mask", "key"), split="train[:5]")
    assert [key.numpy().decode() for _, key in first] == keys[:5]


def test_rows_of_files_are_examples(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = {
        "a": rng.random((7, 3)),
        "b": rng.random((1, 3)).astype(">f8"),
        "c": rng.random((0, 3)),
        "d": rng.random((40, 3)),
    }
    y = {key: np.arange(len(value), dtype="i2") for key, value in x.items()}
    sources = {"x": save(tmp_path / "x", x), "y": save(tmp_path / "y", y)}
    expected = {f"{key}#{i}": (row, i) for key, rows in x.items() for i, row in enumerate(rows)}
    for options in (
        {"batch_size": 5},
        {"batch_size": 5, "shuffle": True, "seed": 1},
        {"batch_size": 5, "split": "train[3:45]"},
        {"batch_size": 5, "worker": (1, 3)},
    ):
        seen = {}
        for batch in readers.load_npy(sources, rows=True, **options):
            for key, a, b in zip(batch["key"].numpy(), batch["x"].numpy(), batch["y"].numpy(), strict=True):
                seen[key.decode()] = a, b
        for key, (a, b) in seen.items():
            assert (a == expected[key][0]).all()
            assert b == expected[key][1]
        assert len(seen) == {"split": 42, "worker": 16}.get(list(options)[-1], 48)


def test_options_are_those_of_load_dataset(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    arrays = {f"{i:03d}": rng.random((int(n), 2)).astype("f4") for i, n in enumerate(rng.integers(1, 40, 60))}
    path = save(tmp_path, arrays)
    whole = [key.numpy() for key in readers.load_npy(path, features="key")]
    assert sorted(key.decode() for key in whole) == sorted(arrays)
    ragged = next(iter(readers.load_npy(path, batch_size=4, ragged=True)))
    assert same_bits(ragged["array"][2], arrays[ragged["key"][2].numpy().decode()])
    shares = [{k.numpy() for k in readers.load_npy(path, features="key", worker=(i, 3))} for i in range(3)]
    assert set().union(*shares) == set(whole)
    assert [len(share) for share in shares] == [20] * 3
    bucketed = readers.load_npy(path, batch_size=4, buckets=3)
    assert sum(len(batch["key"]) for batch in bucketed) == 60
    doubled = readers.load_npy(path, batch_size=4, padding="dataset", map_fn=lambda x: {**x, "array": x["array"] * 2})
    for batch in doubled:
        key = batch["key"][0].numpy().decode()
        assert same_bits(batch["array"][0, : len(arrays[key])], arrays[key] * 2)
    orders = [[k.numpy() for k in readers.load_npy(path, features="key", shuffle=True, seed=5)] for _ in range(2)]
    assert orders[0] == orders[1] != whole
    graph = readers.load_npy(path, batch_size=4, shuffle=True)._as_serialized_graph().numpy()
    assert b"PyFunc" not in graph


def test_a_file_that_changed_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = save(tmp_path, {str(i): np.arange(5) for i in range(6)})
    dataset = readers.load_npy(path, batch_size=2)
    (path / "3.npy").write_bytes((path / "3.npy").read_bytes()[:-8])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"3\.npy.*has changed since it was scanned"):
        list(dataset)
    with pytest.raises(InputError, match=r"3\.npy: 160 bytes"):
        readers.load_npy(path)


def test_what_cannot_be_read_in_place_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", array=np.zeros(3))
    with pytest.raises(UsageError, match="convert them"):
        readers.load_npy(tmp_path)
    path = save(tmp_path / "f", {"a": np.asfortranarray(np.zeros((3, 4)))})
    with pytest.raises(UsageError, match="Fortran order"):
        readers.load_npy(path, rows=True)
    with pytest.raises(UsageError, match="normalize"):
        readers.load_npy(path, normalize=True)
    with pytest.raises(UsageError, match="batchsize: no such option"):
        readers.load_npy(path, batchsize=3)
