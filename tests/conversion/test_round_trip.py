"""Every supported array comes back bit for bit, whoever reads the shards; `np.load` says what was in the files."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from arrays import DTYPES, FORMS, RANKS, Form, empty_shapes, same_bits, shape_of, shards, values_of, write_npy
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

import npy2tfrecord
import readers
from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.shard import array_of, read_records

Read = dict[str, dict[str, np.ndarray]]  # feature: {key: array}


# --- what is converted --------------------------------------------------------------------------


def write_fixed(root: Path, dtype: str) -> dict[str, Path]:
    """A feature for every rank, an example for every way to store it; `r1` has one shape, and so on."""
    for rank in RANKS:
        for seed, form in enumerate(FORMS):
            write_npy(root / f"r{rank}" / f"{form.name}.npy", values_of(dtype, shape_of(rank), seed), form)
    return {f"r{rank}": root / f"r{rank}" for rank in RANKS}


def write_varying(root: Path, dtype: str) -> dict[str, Path]:
    """Features whose first axis varies, whose axes all vary, or that are empty, with every way to store it."""
    sources = {}
    for rank in (1, 2, 3, 5, 7, 32):
        empty = empty_shapes(rank)
        shapes = {
            "first": [(n, *shape_of(rank)[1:]) for n in (3, 0, 1, 7)],
            "all": [shape_of(rank), *empty, tuple(n + 1 for n in shape_of(rank)[:3]) + shape_of(rank)[3:]],
            "empty": [empty[-2]],
            "vary-empty": [(n, *empty[-2][1:-1], 0) for n in (2, 0, 5)] if rank > 1 else [(0,)],
        }
        for kind, choices in shapes.items():
            sources[f"{kind}{rank}"] = root / f"{kind}{rank}"
            for seed, form in enumerate(FORMS):
                array = values_of(dtype, choices[seed % len(choices)], seed)
                write_npy(root / f"{kind}{rank}" / f"{form.name}.npy", array, form)
    return sources


WRITERS = {"fixed": write_fixed, "varying": write_varying}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Read]]:
    """Converts the grid of one dtype; gives the output and what NumPy reads from the sources."""

    @functools.cache
    def convert(kind: str, dtype: str) -> tuple[Path, Read]:
        root = tmp_path_factory.mktemp(f"{kind}-{dtype}")
        sources = WRITERS[kind](root / "source", dtype)
        npy2tfrecord.convert(sources, root / "out", fsync=False, jobs=1, num_shards=3)
        expected = {
            name: {path.stem: np.load(path, allow_pickle=False) for path in directory.iterdir()}
            for name, directory in sources.items()
        }
        return root / "out", expected

    return convert


def check(found: Read, expected: Read) -> None:
    """Every key and array is there once, and none else."""
    assert found.keys() == expected.keys()
    for name, arrays in expected.items():
        assert found[name].keys() == arrays.keys()
        for key, array in arrays.items():
            assert same_bits(found[name][key], array), (name, key, found[name][key], array)


def gather(examples: Iterator[dict[str, Any]], names: Any) -> Read:
    """From examples to arrays by feature and key."""
    read: Read = {name: {} for name in names}
    for example in examples:
        key = os.fsdecode(example["key"])
        for name in names:
            assert key not in read[name]
            read[name][key] = np.asarray(example[name])
    return read


GRID = pytest.mark.parametrize("kind", WRITERS)
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES)


# --- our reader ---------------------------------------------------------------------------------


@GRID
@EACH_DTYPE
def test_load_dataset_gives_what_numpy_loads(converted: Any, kind: str, dtype: str) -> None:
    out, expected = converted(kind, dtype)
    dataset = readers.load_dataset(out)
    check(gather(dataset.as_numpy_iterator(), expected), expected)


# --- TensorFlow alone ---------------------------------------------------------------------------


def decode(raw: Any, dtype: str) -> Any:
    import tensorflow as tf

    if dtype in ("uint32", "uint64"):  # which decode_raw lacks
        return tf.bitcast(tf.io.decode_raw(raw, dtype[1:]), dtype)
    return tf.io.decode_raw(raw, dtype)


@GRID
@EACH_DTYPE
def test_tf_io_gives_what_numpy_loads(converted: Any, kind: str, dtype: str) -> None:
    import tensorflow as tf

    out, expected = converted(kind, dtype)
    spec = {"key": tf.io.FixedLenFeature([], tf.string)}
    for name in expected:
        spec[name] = spec[f"{name}/dtype"] = tf.io.FixedLenFeature([], tf.string)
        spec[f"{name}/shape"] = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)

    def parse(record: Any) -> dict[str, Any]:
        values = tf.io.parse_single_example(record, spec)
        arrays = {name: tf.reshape(decode(values[name], dtype), values[f"{name}/shape"]) for name in expected}
        return {"key": values["key"], "dtypes": [values[f"{name}/dtype"] for name in expected], **arrays}

    examples = list(tf.data.TFRecordDataset(shards(out)).map(parse).as_numpy_iterator())
    assert {bytes(name) for example in examples for name in example["dtypes"]} == {dtype.encode()}
    check(gather(iter(examples), expected), expected)


@GRID
@EACH_DTYPE
def test_train_example_has_just_the_documented_features(converted: Any, kind: str, dtype: str) -> None:
    import tensorflow as tf

    out, expected = converted(kind, dtype)
    read: Read = {name: {} for name in expected}
    for record in tf.data.TFRecordDataset(shards(out)).as_numpy_iterator():
        message = tf.train.Example.FromString(record)
        feature = message.features.feature
        assert set(feature) == {"key", *(n + part for n in expected for part in ("", "/shape", "/dtype"))}
        (key,) = feature["key"].bytes_list.value
        for name in expected:
            (data,), (its_dtype,) = feature[name].bytes_list.value, feature[f"{name}/dtype"].bytes_list.value
            assert its_dtype == dtype.encode()
            shape = tuple(feature[f"{name}/shape"].int64_list.value)
            read[name][key.decode()] = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    check(read, expected)


# --- TensorFlow Datasets, with no code of ours --------------------------------------------------


def tfds_builder(out: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(str(out))


def restored(example: dict[str, Any], names: Any, dtype: str) -> dict[str, Any]:
    """Flat values given their shape, and bytes their dtype, where `docs/format.md` says that TFDS can't."""
    arrays = {"key": example["key"]}
    for name in names:
        value = np.asarray(example[name])
        if dtype == "uint32":
            assert value.dtype == np.uint8
            assert value.shape[-1] == 4
            value = value.view("<u4")[..., 0]
        if f"{name}/shape" in example:
            assert value.ndim == 1
            value = value.reshape(example[f"{name}/shape"])
        arrays[name] = value
    return arrays


@GRID
@EACH_DTYPE
def test_tfds_gives_what_numpy_loads(converted: Any, kind: str, dtype: str) -> None:
    out, expected = converted(kind, dtype)
    dataset = tfds_builder(out).as_dataset(split="train")
    flat = {name for name in expected if f"{name}/shape" in dataset.element_spec}
    assert flat == (
        {f"{n}{r}" for n in ("all", "vary-empty") for r in (2, 3, 5, 7, 32)} if kind == "varying" else set()
    )
    check(gather((restored(e, expected, dtype) for e in dataset.as_numpy_iterator()), expected), expected)


def test_tfds_turns_bytes_into_uint32_with_one_bitcast(tmp_path: Path) -> None:
    import tensorflow as tf

    array = values_of("uint32", (3, 5), 0)
    write_npy(tmp_path / "a.npy", array)
    npy2tfrecord.convert(tmp_path / "a.npy", tmp_path / "out", fsync=False)
    (value,) = tfds_builder(tmp_path / "out").as_dataset(split="train").map(lambda e: tf.bitcast(e["array"], tf.uint32))
    assert same_bits(value, array)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e4m3b11fnuz"])
def test_tfds_reads_the_dtypes_of_ml_dtypes(tmp_path: Path, dtype: str) -> None:
    import ml_dtypes

    array = np.arange(6).reshape(2, 3).astype(getattr(ml_dtypes, dtype))
    np.save(tmp_path / "a.npy", array)
    npy2tfrecord.convert(tmp_path / "a.npy", tmp_path / "out", fsync=False, void_dtype=dtype)
    (example,) = tfds_builder(tmp_path / "out").as_dataset(split="train").as_numpy_iterator()
    if dtype != "bfloat16":
        assert example["array"].dtype == np.uint8
    assert same_bits(example["array"].view(array.dtype), array)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """100 scalars in the folders of two classes, in two splits."""
    for i in range(100):
        write_npy(tmp_path / "source" / ("cat", "a dog")[i % 2] / f"{i}.npy", np.array(i, "<i2"))
    options = {"labels": "dirs", "split": "train=0.7,test=0.3", "num_shards": 3}
    npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", fsync=False, **options)
    return tmp_path / "out"


def test_tfds_knows_the_names_of_the_classes(labelled: Path) -> None:
    builder = tfds_builder(labelled)
    assert builder.info.features["label"].names == ["a dog", "cat"]
    for example in builder.as_dataset(split="train+test").as_numpy_iterator():
        assert builder.info.features["label"].int2str(example["label"]) == os.fsdecode(example["key"]).partition("/")[0]
        assert ["cat", "a dog"][example["array"] % 2] == os.fsdecode(example["key"]).partition("/")[0]


def test_tfds_reads_slices_of_splits(labelled: Path) -> None:
    builder = tfds_builder(labelled)

    def keys(split: str) -> list[bytes]:
        return [example["key"] for example in builder.as_dataset(split=split).as_numpy_iterator()]

    whole = keys("train")
    assert len(whole) == builder.info.splits["train"].num_examples
    assert len({*whole, *keys("test")}) == 100
    half = len(whole) // 2
    first, second = keys(f"train[:{half}]"), keys(f"train[{half}:]")
    assert (len(first), {*first, *second}) == (half, {*whole})
    assert sorted(keys("train[:25%]") + keys("train[25%:]")) == sorted(whole)
    assert len(keys(f"train[{half}:{half + 1}]")) == 1


@pytest.mark.parametrize("odd", [b" x", b"x\n", b"\xff", b"\xe2\x80\xa8"])
def test_tfds_has_numbers_where_a_class_has_a_name_it_cannot_read(tmp_path: Path, odd: bytes) -> None:
    for number, name in enumerate(sorted((b"cat", odd))):
        write_npy(tmp_path / "source" / os.fsdecode(name) / "0.npy", np.array(number, "<i2"))
    npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", fsync=False, labels="dirs")
    builder = tfds_builder(tmp_path / "out")
    assert builder.info.features["label"].num_classes == 2
    examples = list(builder.as_dataset(split="train").as_numpy_iterator())
    assert [(e["array"], e["label"]) for e in sorted(examples, key=lambda e: e["label"])] == [(0, 0), (1, 1)]


def test_tfds_reads_labels_that_are_plain_integers(tmp_path: Path) -> None:
    for i in range(5):
        write_npy(tmp_path / "source" / f"{i}.npy", np.array([i], "<f4"))
    (tmp_path / "labels.csv").write_text("key,label\n" + "".join(f"{i},{i * 10**12 - 7}\n" for i in range(5)))
    options = {"labels": str(tmp_path / "labels.csv"), "fsync": False}
    npy2tfrecord.convert(tmp_path / "source", tmp_path / "out", **options)
    for example in tfds_builder(tmp_path / "out").as_dataset(split="train").as_numpy_iterator():
        assert example["label"] == int(example["array"][0]) * 10**12 - 7


# --- a wider grid, driven by Hypothesis ---------------------------------------------------------


@st.composite
def stored_arrays(draw: st.DrawFn) -> tuple[np.ndarray, Form]:
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder("<")
    shape = draw(numpy_strategies.array_shapes(min_dims=0, max_dims=32, min_side=0, max_side=3).filter(is_small))
    elements = None if dtype.kind == "b" else st.binary(min_size=dtype.itemsize, max_size=dtype.itemsize)
    if elements is None:
        return draw(numpy_strategies.arrays(bool, shape)), draw(st.sampled_from(FORMS))
    count = int(np.prod(shape, dtype=np.int64))
    distinct = draw(st.lists(elements, min_size=1, max_size=8))
    data = b"".join(distinct[i % len(distinct)] for i in range(count))
    return np.frombuffer(data, dtype).reshape(shape), draw(st.sampled_from(FORMS))


def is_small(shape: tuple[int, ...]) -> bool:
    return int(np.prod(shape, dtype=np.int64)) <= 5000


SETTINGS = {
    "database": None,
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(hypothesis.HealthCheck),
}


@hypothesis.settings(max_examples=150, **SETTINGS)
@hypothesis.given(st.lists(stored_arrays(), min_size=1, max_size=8), st.data())
def test_any_arrays_together_come_back_as_numpy_loads_them(arrays: list[tuple[np.ndarray, Form]], data: Any) -> None:
    """Each array is a feature of one example, whatever the others are."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        sources = {f"f{i}": write_npy(root / f"{i}.npy", *stored) for i, stored in enumerate(arrays)}
        compression = data.draw(st.sampled_from(["none", "gzip", "zlib"]))
        manifest = npy2tfrecord.convert(sources, root / "out", fsync=False, jobs=1, compression=compression)
        (shard,) = manifest.shards
        (record,) = read_records(root / "out" / shard.file, compression)
        example = parse_example(record.data)
        for info in manifest.features:
            expected = np.load(sources[info.name])
            assert info.shape == expected.shape
            assert same_bits(array_of(example, info), expected)


@hypothesis.settings(max_examples=20, **SETTINGS)
@hypothesis.given(st.data())
def test_any_shapes_of_one_dtype_come_back_from_every_reader(data: Any) -> None:
    import tensorflow as tf

    dtype = data.draw(st.sampled_from(DTYPES))
    rank = data.draw(st.integers(0, 8))
    shapes = data.draw(st.lists(st.tuples(*[st.integers(0, 4)] * rank), min_size=1, max_size=6))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for i, shape in enumerate(shapes):
            write_npy(root / "source" / f"{i}.npy", values_of(dtype, shape, i), data.draw(st.sampled_from(FORMS)))
        npy2tfrecord.convert(
            root / "source", root / "out", fsync=False, jobs=1, num_shards=data.draw(st.integers(1, 4))
        )
        expected = {"array": {str(i): np.load(root / "source" / f"{i}.npy") for i in range(len(shapes))}}
        check(gather(readers.load_dataset(root / "out").as_numpy_iterator(), expected), expected)
        read: Read = {"array": {}}
        for record in tf.data.TFRecordDataset(shards(root / "out")).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            array = np.frombuffer(feature["array"].bytes_list.value[0], np.dtype(dtype).newbyteorder("<"))
            key = feature["key"].bytes_list.value[0].decode()
            read["array"][key] = array.reshape(tuple(feature["array/shape"].int64_list.value))
        check(read, expected)
