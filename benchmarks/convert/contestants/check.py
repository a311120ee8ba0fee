"""Reads an output back by its own library: `check.py KIND SOURCE OUT`. Prints how many records it holds.

Compares 50 of them, or all if there are fewer, with NumPy's reading of their sources.
"""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

COMPARED = 50

Records = tuple[int, Iterator[tuple[str | None, np.ndarray]]]
"""How many there are, and some of them: key (None where the format has none) and array."""


def _some(count: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, COMPARED)).astype(int).tolist()))


def read_tfrecords(source: str, out: str) -> Records:
    import tensorflow as tf

    files = sorted(glob.glob(glob.escape(out) + "/**/*.tfrecord*", recursive=True))
    with open(files[0], "rb") as file:
        kind = "GZIP" if file.read(2) == b"\x1f\x8b" else None
    large = max(map(os.path.getsize, files)) > 2**30
    dataset = tf.data.TFRecordDataset(files, kind, num_parallel_reads=None if large else 4)
    counted = dataset.batch(1 if large else 64, num_parallel_calls=None).map(tf.size)
    count = int(sum(counted.as_numpy_iterator()))

    def records() -> Iterator[tuple[str | None, np.ndarray]]:
        for file in files:
            for data in tf.data.TFRecordDataset(file, kind).take(-(-COMPARED // len(files))).as_numpy_iterator():
                feature = tf.train.Example.FromString(data).features.feature
                shape = list(feature["array/shape"].int64_list.value)
                yield (
                    feature["key"].bytes_list.value[0].decode(),
                    np.frombuffer(feature["array"].bytes_list.value[0], "<f4").reshape(shape),
                )

    return count, records()


def read_tfds(source: str, out: str) -> Records:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(glob.glob(glob.escape(out) + "/arrays/1.0.0")[0])
    count = builder.info.splits["train"].num_examples
    step = max(1, count // COMPARED)
    dataset = builder.as_dataset(split="train", shuffle_files=False).shard(step, 0)
    return count, ((each["key"].decode(), each["array"]) for each in dataset.as_numpy_iterator())


def read_mds(source: str, out: str) -> Records:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=out, shuffle=False, batch_size=1)
    return len(dataset), ((dataset[i]["key"], dataset[i]["array"]) for i in _some(len(dataset)))


def read_litdata(source: str, out: str) -> Records:
    from litdata import StreamingDataset

    dataset: Any = StreamingDataset(out)
    return len(dataset), ((dataset[i]["key"], dataset[i]["array"]) for i in _some(len(dataset)))


def read_webdataset(source: str, out: str) -> Records:
    import tarfile

    import webdataset

    files = sorted(glob.glob(glob.escape(out) + "/*.tar"))
    count = 0
    for file in files:
        with tarfile.open(file) as tar:
            count += sum(1 for _ in tar)

    def records() -> Iterator[tuple[str | None, np.ndarray]]:
        for i, each in enumerate(webdataset.WebDataset(files, shardshuffle=False).decode()):
            if i == COMPARED:
                return
            yield each["__key__"], each["npy"]

    return count, records()


def read_array_record(source: str, out: str) -> Records:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    files = sorted(glob.glob(glob.escape(out) + "/*.array_record"))
    dataset: Any = ArrayRecordDataSource(files)
    return len(dataset), ((None, np.load(io.BytesIO(dataset[i]))) for i in _some(len(dataset)))


READERS: dict[str, Callable[[str, str], Records]] = {
    "tfrecords": read_tfrecords,
    "tfds": read_tfds,
    "mds": read_mds,
    "litdata": read_litdata,
    "webdataset": read_webdataset,
    "array_record": read_array_record,
}


def main() -> None:
    kind, source, out = sys.argv[1:]
    count, records = READERS[kind](source, out)
    if kind == "array_record":  # it stores no keys: they are in the order they were written
        from contestant import key_of, paths_of

        keys = [key_of(path, source) for path in paths_of(source)[:count]]
        records = ((keys[i], array) for i, (_, array) in zip(_some(count), records, strict=True))
    compared = 0
    for key, array in records:
        expected = np.load(f"{source}/{key}.npy")
        if array.dtype != expected.dtype or array.shape != expected.shape or array.tobytes() != expected.tobytes():
            sys.exit(f"{key} differs from its source")
        compared += 1
    if compared < min(count, 10):
        sys.exit(f"only {compared} of {count} records were compared")
    print(count)


if __name__ == "__main__":
    main()
