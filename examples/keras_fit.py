"""Training with Keras: tuples for `fit`, batches of static size, augmentation before batching."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from digits import data_set

import readers


def brighten(array: Any, label: Any) -> tuple[Any, Any]:
    return array + tf.random.uniform([], -0.1, 0.1), label


def main() -> None:
    path = data_set()
    features = ("array", "label")
    train = readers.load_dataset(
        path, split="train", features=features, batch_size=32, shuffle=True, seed=1, map_fn=brighten, repeat=True
    )
    test = readers.load_dataset(path, split="test", features=features, batch_size=32)
    classes = readers.load_manifest(path).labels or ()
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(len(classes), activation="softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train, steps_per_epoch=10, epochs=5, shuffle=False, verbose=0)  # it is shuffled already
    loss, accuracy = model.evaluate(test, verbose=0)
    predicted = model.predict(readers.load_dataset(path, split="test", features="array", batch_size=32), verbose=0)
    backend = keras.backend.backend()  # the environment variable KERAS_BACKEND chooses: tensorflow, jax or torch
    print(f"loss {loss:.3f}, accuracy {accuracy:.3f}, {len(predicted)} predictions with {backend}")  # noqa: T201


if __name__ == "__main__":
    main()
