"""Arrays that nobody here made: converted, and read back equal to what NumPy loads."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import same_bits
from converted import read_back, save

import npy2tfrecord
import readers
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.dtypes import SUPPORTED_NAMES


def back(out: Path) -> dict[str, np.ndarray]:
    """The arrays by key, through our reader for tf.data."""
    return {os.fsdecode(e["key"]): e["array"] for e in readers.load_dataset(out).as_numpy_iterator()}


def directory_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


# --- images -------------------------------------------------------------------------------------


def test_sample_images_of_scikit_learn_come_back(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    images = load_sample_images()
    named = {Path(name).name: image for name, image in zip(images.filenames, images.images, strict=True)}
    assert len(named) == 2
    npy2tfrecord.convert(save(tmp_path / "source", named), tmp_path / "out", fsync=False)
    found = back(tmp_path / "out")
    assert found.keys() == named.keys()
    for name, image in named.items():
        assert same_bits(found[name], image)


def test_images_of_scikit_image_come_back(tmp_path: Path) -> None:
    from skimage import io

    files = [p for p in directory_of("skimage.data").iterdir() if p.suffix in (".png", ".jpg")]
    kinds: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for file in files:
        image = io.imread(file)
        kinds.setdefault((image.dtype.name, image.ndim), {})[file.name] = image
    assert sum(map(len, kinds.values())) >= 20
    assert len(kinds) >= 2
    for (dtype, rank), images in kinds.items():
        root = tmp_path / f"{dtype}-{rank}"
        npy2tfrecord.convert(save(root / "source", images), root / "out", fsync=False, shard_size="1MB")
        found = back(root / "out")
        assert found.keys() == images.keys()
        for name, image in images.items():
            assert same_bits(found[name], image)


# --- the .npy and .npz files that packages bring along ------------------------------------------

PACKAGES = ("numpy", "scipy", "matplotlib", "skimage")


def files_of(package: str) -> Iterator[Path]:
    yield from sorted(p for p in directory_of(package).rglob("*.np[yz]"))


def load(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file by the feature they become; None where one holds what is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        try:
            loaded = np.load(path, allow_pickle=False)
            arrays = {name: loaded[name] for name in loaded.files} if path.suffix == ".npz" else {"array": loaded}
        except ValueError:  # objects
            return None
    return arrays if all(array.dtype.name in SUPPORTED_NAMES for array in arrays.values()) else None


@pytest.mark.parametrize("package", PACKAGES)
def test_files_of_packages_come_back_or_are_refused_by_name(tmp_path: Path, package: str) -> None:
    taken = refused = 0
    for number, path in enumerate(files_of(package)):
        out = tmp_path / str(number)
        expected = load(path)
        if expected is None:
            with pytest.raises(InputError) as caught:
                npy2tfrecord.convert(path, out)
            assert caught.value.where.startswith(os.fsencode(path))
            assert not out.exists()
            refused += 1
            continue
        if len(expected) > 64:
            with pytest.raises(UsageError, match=r"more than 64 members.*--members"):
                npy2tfrecord.convert(path, out)
            refused += 1
            continue
        npy2tfrecord.convert(path, out, fsync=False)
        ((key, example),) = read_back(out).items()
        assert key == path.stem
        assert example.arrays.keys() == expected.keys()
        for name, array in expected.items():
            assert same_bits(example.arrays[name], array), (path, name)
        with contextlib.closing(readers.ArraySource(out)) as source:
            for name, array in expected.items():
                assert same_bits(source[0][name], array), (path, name)
        taken += 1
    assert taken >= {"numpy": 2, "scipy": 13, "matplotlib": 3, "skimage": 4}[package]
    assert refused >= {"numpy": 4, "scipy": 1, "matplotlib": 1}.get(package, 0)


def test_directory_of_numpys_test_files_is_taken_but_for_its_objects(tmp_path: Path) -> None:
    source = directory_of("numpy") / "lib" / "tests" / "data"
    with pytest.raises(InputError, match="an object array"):
        npy2tfrecord.convert(source, tmp_path / "out", exclude=["*.npz"])
    assert not (tmp_path / "out").exists()
    manifest = npy2tfrecord.convert(source, tmp_path / "out", exclude=["*.npz"], on_error="skip", fsync=False)
    loaded = {path.stem: load(path) for path in source.glob("*.npy")}
    usable = {key: arrays["array"] for key, arrays in loaded.items() if arrays is not None}
    assert usable.keys() == {"python3", "win64python2"}
    assert {Path(s.source).stem for s in manifest.skipped} == loaded.keys() - usable.keys()
    found = back(tmp_path / "out")
    assert found.keys() == usable.keys()
    for key, array in usable.items():
        assert same_bits(found[key], array)


# --- a model, and a reader of others ------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[np.ndarray, int]]]:
    """scikit-learn's 1,797 handwritten digits, a file each in the folder of its class; and what they are by key."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    root = tmp_path_factory.mktemp("digits")
    known = {
        f"{label}/{i:04}": (image, int(label))
        for i, (image, label) in enumerate(zip(loaded.images, loaded.target, strict=True))
    }
    save(root / "source", {key: image for key, (image, _) in known.items()})
    npy2tfrecord.convert(
        root / "source", root / "out", labels="dirs", split="train=0.8,test=0.2", num_shards=4, fsync=False
    )
    return root / "out", known


def test_digits_come_back_with_their_classes(digits: tuple[Path, dict[str, tuple[np.ndarray, int]]]) -> None:
    out, known = digits
    seen = set()
    for split in ("train", "test"):
        for example in readers.load_dataset(out, split=split).as_numpy_iterator():
            key = example["key"].decode()
            image, label = known[key]
            assert same_bits(example["array"], image)
            assert example["label"] == label
            seen.add(key)
    assert seen == known.keys()
    assert len(seen) == 1797


def test_model_trained_on_the_shards_knows_the_digits(
    digits: tuple[Path, dict[str, tuple[np.ndarray, int]]],
) -> None:
    import keras

    keras.utils.set_random_seed(0)
    options: dict[str, Any] = {"features": ("array", "label"), "batch_size": 32}
    train = readers.load_dataset(digits[0], split="train", shuffle=True, seed=0, **options)
    test = readers.load_dataset(digits[0], split="test", **options)
    model = keras.Sequential(
        [
            keras.layers.Rescaling(1 / 16),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss=loss, metrics=["accuracy"])
    model.fit(train, epochs=12, verbose=0, shuffle=False)  # the data set is shuffled, and not by Keras
    assert model.evaluate(test, verbose=0, return_dict=True)["accuracy"] >= 0.95


READ_WITH_TFRECORD = """
import pickle, sys
from tfrecord.reader import tfrecord_loader
kinds = {"key": "byte", "array": "byte", "array/dtype": "byte", "array/shape": "int", "label": "int"}
read = []
for path in sys.argv[1:]:
    index = path.replace("out/", "out/index/").replace(".tfrecord", ".idx")
    read.append([list(tfrecord_loader(path, index, kinds, shard=(part, 3))) for part in range(3)])
pickle.dump(read, sys.stdout.buffer)
"""


def test_tfrecord_of_pypi_reads_the_shards_by_our_index(
    digits: tuple[Path, dict[str, tuple[np.ndarray, int]]],
) -> None:
    out, known = digits
    shards = sorted(map(str, out.glob("*.tfrecord")))
    # In a process of its own: it and TensorFlow can't be imported together.
    command = [sys.executable, "-c", READ_WITH_TFRECORD, *shards]
    read = pickle.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    sizes = {shard.file: shard.examples for shard in manifest_parsing.load(out).shards}
    seen = []
    for path, parts in zip(shards, read, strict=True):
        count = sizes[Path(path).name]
        assert [len(part) for part in parts] == [count * (i + 1) // 3 - count * i // 3 for i in range(3)]
        for example in itertools.chain(*parts):
            key = bytes(example["key"]).decode()
            image, label = known[key]
            assert bytes(example["array/dtype"]) == b"float64"
            assert list(example["array/shape"]) == [8, 8]
            assert bytes(example["array"]) == image.tobytes()
            assert list(example["label"]) == [label]
            seen.append(key)
    assert sorted(seen) == sorted(known)
