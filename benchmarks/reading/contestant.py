"""One contestant in a process of its own: reads what is prepared, or prepares it once, and prints what it took.

Run as `python contestant.py JSON`, with the keys of `Task`; prints one line of JSON. The first epoch is a warm-up
in which every array is counted and summed, so that what was read is what was written.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from sets import Arrays

Epoch = Callable[[], Iterable[Any]]
WORKERS = 4
BUFFER = 16_384  # examples that a shuffle mixes


def pad(arrays: list[Any]) -> np.ndarray:
    arrays = [np.asarray(array) for array in arrays]
    if all(array.shape == arrays[0].shape for array in arrays):
        return np.stack(arrays)
    out = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def batches(arrays: Iterable[Any], size: int) -> Iterator[np.ndarray]:
    held: list[Any] = []
    for array in arrays:
        held.append(array)
        if len(held) == size:
            yield pad(held)
            held = []
    if held:
        yield pad(held)


def prepared(directory: Path, make: Callable[[Path], Any]) -> Path:
    """A directory that `make` fills, once."""
    done = directory.with_suffix(".done")
    if not done.exists():
        directory.mkdir(parents=True, exist_ok=True)
        make(directory)
        done.touch()
    return directory


class Tensors:
    """An array by number as a PyTorch tensor; a class, so that worker processes can be given it."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    def __call__(self, i: int) -> Any:
        import torch

        return torch.from_numpy(self.arrays[i].copy())


# --- TensorFlow --------------------------------------------------------------------------------------


def readers_(arrays: Arrays, root: Path, shuffle: bool, ragged: bool = False) -> Epoch:
    import readers

    seed = 1 if shuffle else None
    dataset = readers.load_dataset(
        root / "shards", features="array", batch_size=arrays.set.batch, shuffle=shuffle, seed=seed, ragged=ragged
    )
    return lambda: dataset


def readers_ragged(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    return readers_(arrays, root, shuffle, ragged=True)


def load_npy(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import readers

    dataset = readers.load_npy(
        root / "npy", features="array", batch_size=arrays.set.batch, shuffle=shuffle, seed=1 if shuffle else None
    )
    return lambda: dataset


def tfds(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    """Decodes the array alone and reads ahead, as its performance guide says; no cache: files are what is read."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(root / "shards")
    dataset = builder.as_dataset(
        split="train",
        shuffle_files=shuffle,
        decoders=tfds.decode.PartialDecoding({"array": True}),
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    if shuffle:
        dataset = dataset.shuffle(BUFFER)
    dataset = dataset.padded_batch(arrays.set.batch) if arrays.set.lengths else dataset.batch(arrays.set.batch)
    dataset = dataset.prefetch(-1)
    return lambda: (batch["array"] for batch in dataset)


def bare(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    """No parse at all: the floor that TFRecordDataset's own way of reading sets."""
    import tensorflow as tf

    files = sorted(map(str, (root / "shards").glob("*.tfrecord")))
    dataset = tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE)
    if shuffle:
        dataset = dataset.shuffle(BUFFER)
    return lambda: dataset.batch(arrays.set.batch).prefetch(-1)


def np_load(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import tensorflow as tf

    files = sorted(map(str, (root / "npy").rglob("*.npy")))[: len(arrays)]
    dataset = tf.data.Dataset.from_tensor_slices(files)
    if shuffle:
        dataset = dataset.shuffle(len(files))
    rank = len(arrays.set.shape)

    def load(path: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(np.load, [path], tf.float32), [None] * rank)

    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).padded_batch(arrays.set.batch)
    return lambda: dataset.prefetch(-1)


# --- others ------------------------------------------------------------------------------------------


def tfrecord(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    """The PyTorch package's loader without its DataLoader, which is its fastest way."""
    import tfrecord as package

    files = sorted((root / "shards").glob("*.tfrecord"))
    spec = {"array": "byte", "array/shape": "int"}

    def examples() -> Iterator[np.ndarray]:
        for file in files:
            for example in package.tfrecord_loader(str(file), None, spec):
                yield np.frombuffer(example["array"], np.float32).reshape(example["array/shape"])

    def epoch() -> Iterable[Any]:
        found: Iterable[Any] = examples()
        if shuffle:
            from tfrecord.iterator_utils import shuffle_iterator

            found = shuffle_iterator(found, BUFFER)
        return batches(found, arrays.set.batch)

    return epoch


def webdataset(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import torch
    import webdataset as wds

    def make(out: Path) -> None:
        with wds.ShardWriter(str(out / "%05d.tar"), maxsize=128e6, maxcount=10**9, verbose=0) as writer:
            for i in range(len(arrays)):
                writer.write({"__key__": f"{i:07d}", "npy": arrays[i]})

    out = prepared(root / f"webdataset-{len(arrays)}", make)
    urls = sorted(map(str, out.glob("*.tar")))
    dataset = wds.WebDataset(urls, shardshuffle=len(urls) if shuffle else False)
    if shuffle:
        dataset = dataset.shuffle(BUFFER // WORKERS)
    dataset = dataset.decode().to_tuple("npy").map(lambda pair: pair[0]).batched(arrays.set.batch, collation_fn=pad)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=min(WORKERS, len(urls)), persistent_workers=True
    )
    return lambda: loader


def mosaicml(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import torch
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    kind = "ndarray:float32" if arrays.set.lengths else f"ndarray:float32:{','.join(map(str, arrays.set.shape))}"

    def make(out: Path) -> None:
        with MDSWriter(out=str(out), columns={"array": kind}) as writer:
            for i in range(len(arrays)):
                writer.write({"array": arrays[i]})

    out = prepared(root / f"mosaicml-{len(arrays)}", make)
    dataset = StreamingDataset(local=str(out), shuffle=shuffle, batch_size=arrays.set.batch)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=arrays.set.batch,
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=lambda examples: pad([example["array"] for example in examples]),
    )
    return lambda: loader


def litdata(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import litdata as package

    def make(out: Path) -> None:
        package.optimize(
            fn=Tensors(arrays),
            inputs=list(range(len(arrays))),
            output_dir=str(out),
            chunk_bytes="64MB",
            num_workers=WORKERS,
            verbose=False,
        )

    out = prepared(root / f"litdata-{len(arrays)}", make)
    dataset = package.StreamingDataset(str(out), shuffle=shuffle)
    loader = package.StreamingDataLoader(
        dataset, batch_size=arrays.set.batch, num_workers=WORKERS, persistent_workers=True, collate_fn=pad
    )
    return lambda: loader


def array_records(arrays: Arrays, root: Path) -> tuple[Any, Callable[[bytes], np.ndarray]]:
    """Grain's source, a record a group and uncompressed, as its guide advises for random access; and the decoder."""
    import grain
    from array_record.python import array_record_module

    def make(out: Path) -> None:
        writer = array_record_module.ArrayRecordWriter(str(out / "data.array_record"), "group_size:1,uncompressed")
        for i in range(len(arrays)):
            writer.write(arrays[i].tobytes())
        writer.close()

    out = prepared(root / f"grain-{len(arrays)}", make)
    inner = arrays.set.shape[1:]
    source = grain.sources.ArrayRecordDataSource([str(out / "data.array_record")])
    return source, lambda record: np.frombuffer(record, np.float32).reshape(-1, *inner)


def grain(arrays: Arrays, root: Path, shuffle: bool, workers: int = 0) -> Epoch:
    """One iterator that repeats: threads and processes continue from epoch to epoch."""
    import grain as package

    source, decode = array_records(arrays, root)
    dataset: Any = package.MapDataset.source(source)
    if shuffle:
        dataset = dataset.shuffle(seed=1)
    dataset = dataset.map(decode).batch(arrays.set.batch, batch_fn=pad)
    steps = len(dataset)
    # Its default buffer of 500 is meant for single examples; these are batches, and must not hold epochs.
    iterable = dataset.repeat().to_iter_dataset(package.ReadOptions(num_threads=8, prefetch_buffer_size=8))
    if workers:
        iterable = iterable.mp_prefetch(package.MultiprocessingOptions(num_workers=workers))
    iterator = iter(iterable)
    return lambda: islice(iterator, steps)


def grain_workers(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    return grain(arrays, root, shuffle, WORKERS)


# --- by number: lists of arrays ----------------------------------------------------------------------


def numbers(count: int, shuffle: bool, size: int) -> list[list[int]]:
    order = (np.random.default_rng(1).permutation(count) if shuffle else np.arange(count)).tolist()
    return [order[start : start + size] for start in range(0, count, size)]


def array_source(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import readers

    source = readers.ArraySource(root / "shards", features="array")
    if not shuffle:
        return lambda: ([array] for array in source)
    groups = numbers(len(arrays), True, arrays.set.batch)
    return lambda: ([source[i] for i in group] for group in groups)


def array_source_lists(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import readers

    source = readers.ArraySource(root / "shards", features="array")
    groups = numbers(len(arrays), shuffle, arrays.set.batch)
    return lambda: (source[group] for group in groups)


def array_source_grain(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import grain as package

    import readers

    dataset: Any = package.MapDataset.source(readers.ArraySource(root / "shards", features="array"))
    if shuffle:
        dataset = dataset.shuffle(seed=1)
    iterable = dataset.to_iter_dataset()
    return lambda: ([array] for array in iterable)


def array_record(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    source, decode = array_records(arrays, root)
    groups = numbers(len(arrays), shuffle, arrays.set.batch)
    return lambda: ([decode(source[i]) for i in group] for group in groups)


def array_record_lists(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    source, decode = array_records(arrays, root)
    groups = numbers(len(arrays), shuffle, arrays.set.batch)
    return lambda: ([decode(record) for record in source.__getitems__(group)] for group in groups)


def array_record_grain(arrays: Arrays, root: Path, shuffle: bool) -> Epoch:
    import grain as package

    source, decode = array_records(arrays, root)
    dataset: Any = package.MapDataset.source(source)
    if shuffle:
        dataset = dataset.shuffle(seed=1)
    iterable = dataset.map(decode).to_iter_dataset()
    return lambda: ([array] for array in iterable)


CONTESTANTS = {
    "readers": readers_,
    "readers, ragged": readers_ragged,
    "load_npy": load_npy,
    "tfds": tfds,
    "bare TFRecordDataset": bare,
    "np.load in a map": np_load,
    "tfrecord": tfrecord,
    "webdataset": webdataset,
    "mosaicml": mosaicml,
    "litdata": litdata,
    "grain": grain,
    "grain, 4 processes": grain_workers,
    "ArraySource": array_source,
    "ArraySource, lists": array_source_lists,
    "ArraySource in grain": array_source_grain,
    "array_record": array_record,
    "array_record, lists": array_record_lists,
    "array_record in grain": array_record_grain,
}


def sum_firsts(batch: Any) -> tuple[int, float]:
    """How many arrays are in a batch, and the sum of their first values."""
    if isinstance(batch, list):
        return len(batch), sum(float(array.flat[0]) for array in batch)
    if hasattr(batch, "to_tensor"):
        batch = batch.to_tensor()
    values = batch.numpy() if hasattr(batch, "numpy") else np.asarray(batch)
    return len(values), float(values.reshape(len(values), -1)[:, 0].astype(np.float64).sum())


def main() -> None:
    task = json.loads(sys.argv[1])
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    arrays = Arrays(task["set"], task["count"], task["limit"])
    epoch = CONTESTANTS[task["name"]](arrays, Path(task["root"]), task["shuffle"])
    unparsed = task["name"] == "bare TFRecordDataset"
    count, total = 0, 0.0
    for batch in epoch():  # the warm-up, and the proof
        found = (int(batch.shape[0]), 0.0) if unparsed else sum_firsts(batch)
        count, total = count + found[0], total + found[1]
    if count != len(arrays) or not (unparsed or abs(total - arrays.check()) < 1e-3):
        sys.exit(f"what was read is not what was written: {count} arrays of {len(arrays)}")
    seconds: list[float] = []
    while len(seconds) < task["epochs"] and sum(seconds) < task["seconds"]:
        started = time.perf_counter()
        for _batch in epoch():
            pass
        seconds.append(time.perf_counter() - started)
    print("\n" + json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
