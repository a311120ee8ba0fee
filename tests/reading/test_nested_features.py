"""`features` as tuples and dicts in each other, as `keras.Model.fit` takes models of several inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import write_dataset

import readers
from npy2tfrecord.errors import UsageError

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [np.full((4, 4, 3), i, "f4") for i in range(20)]
    sounds = [np.full((i % 5 + 1, 2), i, "f4") for i in range(20)]
    return write_dataset(
        tmp_path_factory.mktemp("nested"), {"image": images, "sound": sounds}, labels=[i % 3 for i in range(20)]
    )


FEATURES: Any = ({"picture": "image", "more": ["sound", "sound/length"]}, "label")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True, "seed": 1},
        {"map_fn": lambda inputs, label: (inputs, label)},
        {"buckets": 2},
        {"padding": {"sound": (9, 2)}, "map_fn": lambda inputs, label: (inputs, label), "padding_value": {"sound": 0}},
    ],
)
def test_elements_have_the_structure_asked_for(path: Path, options: dict[str, Any]) -> None:
    seen = []
    for inputs, labels in readers.load_dataset(path, features=FEATURES, batch_size=8, **options):
        sounds, lengths = inputs["more"]
        numbers = inputs["picture"].numpy()[:, 0, 0, 0].astype(int)
        assert labels.numpy().tolist() == (numbers % 3).tolist()
        assert lengths.numpy().tolist() == (numbers % 5 + 1).tolist()
        assert sounds.shape[1] == (9 if "padding" in options else lengths.numpy().max())
        for sound, length, number in zip(sounds.numpy(), lengths.numpy(), numbers, strict=True):
            assert (sound[:length] == number).all()
            assert not sound[length:].any()
        seen += numbers.tolist()
    assert sorted(seen) == list(range(20))


def test_single_examples_and_array_sources_too(path: Path) -> None:
    inputs, label = next(iter(readers.load_dataset(path, features=FEATURES)))
    assert (inputs["picture"].shape, inputs["more"][0].shape, label.dtype) == ((4, 4, 3), (1, 2), tf.int64)
    example = readers.ArraySource(path, features=({"image": "image", "both": ("sound", "image")}, "label"))[7]
    assert example[0]["image"].shape == example[0]["both"][1].shape == (4, 4, 3)
    assert (example[0]["both"][0].shape, example[1]) == ((3, 2), 1)


def test_keras_fits_a_model_of_two_inputs(path: Path) -> None:
    keras = pytest.importorskip("keras")
    image, sound = keras.Input((4, 4, 3), name="image"), keras.Input((5, 2), name="sound")
    flat = [keras.layers.Flatten()(each) for each in (image, sound)]
    model = keras.Model({"image": image, "sound": sound}, keras.layers.Dense(3)(keras.layers.Concatenate()(flat)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    features = ({"image": "image", "sound": "sound"}, "label")
    dataset = readers.load_dataset(path, features=features, batch_size=5, padding="dataset")
    history = model.fit(dataset, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (({"image": "picture"}, "label"), "no feature 'picture' here"),
        (({}, "label"), "features="),
        (((), "label"), "features="),
        (({"image": 3}, "label"), "features="),
        (({3: "image"}, "label"), "features="),
        ({"image", "label"}, "features="),
    ],
)
def test_structures_that_make_no_sense_are_refused(path: Path, features: Any, message: str) -> None:
    for read in (readers.load_dataset, readers.ArraySource):
        with pytest.raises(UsageError, match=message):
            read(path, features=features)
