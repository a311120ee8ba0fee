"""The Python behind scripts/quickstart: a small set of arrays to convert, and a model to train from the shards."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import readers

CLASSES = {"high": 55, "low": 25}  # the bin of each class's tone
ARRAYS_A_CLASS = 100
BINS = 80
BATCH_SIZE = 16
MAX_CHANNELS = 1024
MAX_VALUES = 1 << 18  # taken from one array: 1 MiB as float32


def make(directory: Path) -> None:
    """Writes float32 arrays of 20 to 400 frames and 80 bins, each a wandering tone in noise, in a folder a class."""
    if directory.exists():
        print(f"The arrays in {directory} are there already")
        return
    rng = np.random.default_rng(0)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, middle in CLASSES.items():
        (partial / name).mkdir(parents=True)
        for number in range(ARRAYS_A_CLASS):
            frames = int(rng.integers(20, 401))
            tone = middle + rng.normal(0, 1, frames).cumsum()
            energy = np.exp(-(((np.arange(BINS) - tone[:, None]) / 4) ** 2))
            noise = rng.normal(0, 0.2, (frames, BINS))
            np.save(partial / name / f"{number:03}.npy", (energy + noise).astype(np.float32))
    partial.rename(directory)
    print(f"Made {len(CLASSES) * ARRAYS_A_CLASS} spectrogram-like arrays in {directory}")


def train(directory: Path) -> None:
    """Trains a model for arrays of any rank, size and numeric dtype from the shards, for one epoch.

    An array becomes a sequence of frames. The model pools them, without the padding, and predicts the label. Where the
    set has no labels, it predicts the array's average frame through a bottleneck.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    def as_frames(example: dict[str, Any]) -> dict[str, Any]:
        array = example["array"]
        last = array.shape[-1] if array.shape.rank else None
        channels = last if last and last <= MAX_CHANNELS else 1
        frames = tf.reshape(array, (-1, channels))[: MAX_VALUES // channels]
        frames = tf.cast(tf.abs(frames) if array.dtype.is_complex else frames, tf.float32)
        frames = tf.where(tf.math.is_finite(frames), frames, 0.0)
        frames = tf.sign(frames) * tf.math.log1p(tf.abs(frames))  # whatever their scale
        average = tf.math.divide_no_nan(tf.reduce_sum(frames, 0), tf.cast(tf.shape(frames)[0], tf.float32))
        present = tf.ones_like(frames[:, :1])  # padding is 0 here
        return {"frames": frames, "present": present, "target": example.get("label", average)}

    def as_pair(batch: dict[str, Any]) -> tuple[Any, Any]:
        return (batch["frames"], batch["present"]), batch["target"]

    dataset = readers.load_dataset(
        os.fspath(directory), batch_size=BATCH_SIZE, shuffle="64MB", seed=0, padding="batch", map_fn=as_frames
    ).map(as_pair)
    keras.utils.set_random_seed(0)
    (frames, _), target = dataset.element_spec
    frames_in = keras.Input(frames.shape[1:])
    present_in = keras.Input((None, 1))
    seen = keras.layers.Dense(64, activation="relu")(frames_in) * present_in
    pooled = keras.ops.sum(seen, axis=1) / keras.ops.maximum(keras.ops.sum(present_in, axis=1), 1)
    pooled = keras.layers.Dense(16, activation="relu")(pooled)
    if target.dtype.is_integer:
        output = keras.layers.Dense(len(CLASSES), activation="softmax")(pooled)
        loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    else:
        output = keras.layers.Dense(target.shape[-1])(pooled)
        loss, metrics = "mean_squared_error", []
    model = keras.Model((frames_in, present_in), output)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=metrics)
    history = model.fit(dataset, shuffle=False, verbose=2)
    print(f"Loss after one epoch: {history.history['loss'][-1]:.4g}")


def main() -> None:
    """Runs one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["make", "train"])
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    {"make": make, "train": train}[arguments.step](arguments.directory)


if __name__ == "__main__":
    main()
