"""Labels of every kind as the readers give them: int64 classes, and float32 numbers to be predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from converted import save

import npy2tfrecord
import readers
from npy2tfrecord.errors import DamageError
from npy2tfrecord.formats.example import parse_example


def test_targets_are_float32_wherever_they_are_read(tmp_path: Path) -> None:
    source = save(tmp_path / "d", {f"{i:02}": np.full(3, i, np.float32) for i in range(20)})
    targets = {f"{i:02}": float(np.float32(i / 3)) for i in range(20)}
    table = tmp_path / "targets.csv"
    table.write_text("key,label\n" + "".join(f"{key},{target!r}\n" for key, target in targets.items()))
    out = tmp_path / "out"
    npy2tfrecord.convert(source, out, labels=table, num_shards=2)
    for dataset in (
        readers.load_dataset(out, batch_size=7),
        readers.load_dataset(out, batch_size=7, shuffle=True, seed=1),
        readers.load_npy(source, labels=table, batch_size=7),
    ):
        assert dataset.element_spec["label"].dtype == tf.float32
        found: dict[str, float] = {}
        for batch in dataset.as_numpy_iterator():
            found |= {key.decode(): float(n) for key, n in zip(batch["key"], batch["label"], strict=True)}
        assert found == targets
    array_source = readers.ArraySource(out)
    assert {example["key"]: example["label"] for example in array_source} == targets
    by_tfds = tfds.builder_from_directory(str(out)).as_dataset(split="train")
    assert {e["key"].decode(): float(e["label"]) for e in by_tfds.as_numpy_iterator()} == targets


def test_folders_that_are_numbers_are_labels_without_a_conversion(tmp_path: Path) -> None:
    source = save(tmp_path / "d", {f"{i}/a": np.full(3, i, np.float32) for i in range(12)})
    for batch in readers.load_npy(source, labels="dirs", batch_size=5).as_numpy_iterator():
        assert batch["label"].dtype == np.int64
        assert batch["label"].tolist() == batch["array"][:, 0].tolist()


@pytest.mark.parametrize("packed", [True, False])
def test_floats_are_read_packed_or_not(packed: bool) -> None:
    numbers = np.array([1.5, -0.25, 3e38], "<f4")
    each = [number.tobytes() for number in numbers]
    values = b"\x0a\x0c" + b"".join(each) if packed else b"".join(b"\x0d" + number for number in each)
    feature = b"\x12" + bytes([len(values)]) + values
    entry = b"\x0a\x01y\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    example = b"\x0a" + bytes([len(features)]) + features
    assert parse_example(memoryview(example)) == {"y": tuple(numbers.tolist())}
    assert tf.train.Example.FromString(example).features.feature["y"].float_list.value == numbers.tolist()
    for cut in (b"\x0a\x0d" + b"".join(each), b"\x0a\x10" + b"".join(each), b"\x0d" + each[0][:3], b"\x08\x01"):
        feature = b"\x12" + bytes([len(cut)]) + cut
        entry = b"\x0a\x01y\x12" + bytes([len(feature)]) + feature
        features = b"\x0a" + bytes([len(entry)]) + entry
        with pytest.raises(DamageError, match="malformed"):
            parse_example(memoryview(b"\x0a" + bytes([len(features)]) + features))
