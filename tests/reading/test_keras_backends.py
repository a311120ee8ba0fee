"""Keras trains and predicts on what `load_dataset` gives, whichever backend computes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npy2tfrecord

ROOT = Path(__file__).parents[2]
BACKENDS = ("tensorflow", "jax", "torch")

# A backend is chosen once, when Keras is imported: so each has a process of its own.
_PROGRAM = """
import json, sys
import keras
import readers

path = sys.argv[1]
both = ("array", "label")
train = readers.load_dataset(path, features=both, batch_size=16, shuffle=True, seed=1, padding="dataset")
model = keras.Sequential([keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
history = model.fit(train, epochs=8, shuffle=False, verbose=0)
in_order = readers.load_dataset(path, features=both, batch_size=16, padding="dataset")
predicted = model.predict(in_order.map(lambda array, label: array), verbose=0)
labels = [int(label) for _, batch in in_order for label in batch]
print(json.dumps({
    "backend": keras.backend.backend(),
    "accuracy": history.history["accuracy"][-1],
    "predicted": predicted.argmax(1).tolist(),
    "labels": labels,
}))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_keras_fits_and_predicts(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: Keras is not tried with it as its backend")
    rng = np.random.default_rng(0)
    for i in range(100):
        array = rng.normal(i % 2 * 2 - 1, 0.3, (int(rng.integers(4, 12)), 3)).astype("f4")
        file = tmp_path / "arrays" / ("low", "high")[i % 2] / f"{i}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    npy2tfrecord.convert(str(tmp_path / "arrays"), str(tmp_path / "shards"), labels="dirs", num_shards=3, jobs=1)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "shards")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == backend
    assert len(found["labels"]) == 100
    assert found["accuracy"] > 0.95
    assert np.mean(np.equal(found["predicted"], found["labels"])) > 0.95
