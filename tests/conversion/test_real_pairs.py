"""Data that people really have: digits as X.npy and y.npy, images with masks, and archives of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, read_back, same, save, shards_of

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.formats.npy import SUPPORTED_NAMES

# --- scikit-learn's digits: one X.npy beside y.npy -------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    root = tmp_path_factory.mktemp("digits")
    return save(root, {"X": found.images, "y": found.target})


OPTIONS: dict[str, Any] = {"rows": True, "split": "train=0.8,val=0.2", "dtype": {"image": "float32"}, "num_shards": 4}


def test_digits_by_rows(digits: Path, tmp_path: Path, command: Command) -> None:
    sources = [f"image={digits / 'X.npy'}", f"digit={digits / 'y.npy'}"]
    made = npy2tfrecord.convert(sources, tmp_path / "out", **OPTIONS)
    command.ok(
        "convert", "--rows", "--split", "train=0.8,val=0.2", "--dtype", "image:float32", "--num-shards", "4",
        *sources, tmp_path / "cli",
    )  # fmt: skip
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "cli")
    assert made.examples == 1797
    x, y = np.load(digits / "X.npy"), np.load(digits / "y.npy")
    for key, example in read_back(tmp_path / "out").items():
        row = int(key.removeprefix("X#"))
        assert same(example.arrays["image"], x[row].astype(np.float32))
        assert same(example.arrays["digit"], y[row])


def test_digits_train_a_model(digits: Path, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    import readers

    npy2tfrecord.convert({"image": digits / "X.npy", "digit": digits / "y.npy"}, tmp_path / "out", **OPTIONS)
    common: dict[str, Any] = {"features": ("image", "digit"), "batch_size": 64}
    train = readers.load_dataset(tmp_path / "out", split="train", shuffle=True, seed=1, **common)
    val = readers.load_dataset(tmp_path / "out", split="val", **common)
    keras.utils.set_random_seed(7)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8)),
            layers.Rescaling(1 / 16),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(train, validation_data=val, epochs=12, shuffle=False, verbose=0)
    assert history.history["val_accuracy"][-1] > 0.9


# --- scikit-image's pictures, with masks made from them --------------------------------------------

# Those that come with the package; others it fetches.
PICTURES = ["astronaut", "camera", "cell", "coffee", "moon", "page", "text", "clock", "brick", "grass"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, filters = pytest.importorskip("skimage.data"), pytest.importorskip("skimage.filters")
    root = tmp_path_factory.mktemp("pictures")
    for name in PICTURES:
        image = getattr(data, name)()
        grey = image if image.ndim == 2 else image.mean(axis=-1)
        folder = "colour" if image.ndim == 3 else "grey"
        save(root / "image", {f"{folder}/{name}": image if image.ndim == 3 else np.stack([image] * 3, axis=-1)})
        save(root / "mask", {f"{folder}/{name}": grey > filters.threshold_otsu(grey)})
    return root


def test_pictures_with_masks(pictures: Path, tmp_path: Path, command: Command) -> None:
    sources = [f"image={pictures / 'image'}", f"mask={pictures / 'mask'}"]
    command.ok("convert", *sources, tmp_path / "out", "--labels", "dirs", "--dtype", "mask:uint8")
    found = read_back(tmp_path / "out")
    assert len(found) == len(list(pictures.glob("image/*/*.npy")))
    for key, example in found.items():
        assert same(example.arrays["image"], np.load(pictures / "image" / f"{key}.npy"))
        assert same(example.arrays["mask"], np.load(pictures / "mask" / f"{key}.npy").astype(np.uint8))
        assert example.arrays["image"].shape[:2] == example.arrays["mask"].shape
        assert example.label == ["colour", "grey"].index(key.split("/")[0])


def test_masks_that_lack_are_said(pictures: Path, tmp_path: Path, command: Command) -> None:
    words = ("convert", f"image={pictures / 'image'}", f"mask={pictures / 'mask' / 'grey'}", tmp_path / "out")
    command.refused(4, "have no mask", "have no image", "--key-by", words=words, out=tmp_path / "out")


def test_pictures_come_back(pictures: Path, tmp_path: Path) -> None:
    sources = {"image": pictures / "image", "mask": pictures / "mask"}
    npy2tfrecord.convert(sources, tmp_path / "out", split="a=0.5,b=0.5", seed=2)
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    for file in pictures.rglob("*.npy"):
        assert (tmp_path / "back" / file.relative_to(pictures)).read_bytes() == file.read_bytes()


# --- archives that other projects ship -------------------------------------------------------------


def archives(package: str) -> list[Path]:
    module = pytest.importorskip(package)
    return sorted(Path(module.__file__).parent.rglob("*.npz"))


def members(file: Path) -> dict[str, np.ndarray] | None:
    """What NumPy finds in an archive; None if it holds what is no array of numbers."""
    arrays = {}
    with np.load(file) as archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError:  # pickled objects
                return None
            if arrays[name].dtype.name not in SUPPORTED_NAMES:
                return None
    return arrays


@pytest.mark.parametrize("package", ["matplotlib", "scipy"])
def test_archives_of_other_projects(package: str, tmp_path: Path) -> None:
    files = archives(package)
    good = refused = 0
    for i, file in enumerate(files):
        arrays, out = members(file), tmp_path / str(i)
        if arrays is None:
            with pytest.raises(InputError, match=file.name):
                npy2tfrecord.convert(file, out)
            assert not out.exists()
            refused += 1
            continue
        if len(arrays) > 64:
            with pytest.raises(UsageError, match="--members"):
                npy2tfrecord.convert(file, out)
            continue
        npy2tfrecord.convert(file, out)
        (example,) = read_back(out).values()
        assert example.arrays.keys() == arrays.keys()
        assert all(same(example.arrays[name], array) for name, array in arrays.items())
        good += 1
    assert good
    assert refused


def test_one_member_of_an_archive_that_holds_other_things(tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    file, names = tmp_path / "sparse.npz", ("data", "indices", "indptr")
    sparse.save_npz(file, sparse.random(20, 30, 0.2, format="csc", random_state=0))
    with pytest.raises(InputError, match="format"):  # its format is a string
        npy2tfrecord.convert(file, tmp_path / "out")
    npy2tfrecord.convert(dict.fromkeys(names, file), tmp_path / "out")
    (example,) = read_back(tmp_path / "out").values()
    with np.load(file) as archive:
        assert all(same(example.arrays[name], archive[name]) for name in names)


def test_tables_by_rows(tmp_path: Path, command: Command) -> None:
    file = next(file for file in archives("scipy") if file.name == "gcvspl.npz")
    command.ok("convert", "--rows", file, tmp_path / "out", "--split", "train=0.7,val=0.3")
    with np.load(file) as archive:
        for key, example in read_back(tmp_path / "out").items():
            row = int(key.partition("#")[2])
            assert all(same(example.arrays[name], archive[name][row]) for name in archive.files)


def test_topography_and_its_axes(tmp_path: Path, command: Command) -> None:
    file = next(file for file in archives("matplotlib") if file.name == "topobathy.npz")
    command.ok("convert", file, tmp_path / "out", "--dtype", "topo:bfloat16")
    (example,) = read_back(tmp_path / "out").values()
    with np.load(file) as archive:
        assert same(example.arrays["topo"], archive["topo"].astype(example.arrays["topo"].dtype))
        assert same(example.arrays["longitude"], archive["longitude"])
