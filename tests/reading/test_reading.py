"""`load_dataset`: values, shapes, padding, order, slices, what it refuses."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reading_data import number_of, random_array, same_bits, write_dataset

import npy2tfrecord
import readers
from npy2tfrecord.errors import DamageError, UsageError
from npy2tfrecord.formats.dtypes import SUPPORTED_NAMES, dtype_from_name
from npy2tfrecord.planning.feature_summary import feature_info

tf = pytest.importorskip("tensorflow")

READABLE = (*SUPPORTED_NAMES, "bfloat16")


def padded(arrays: list[np.ndarray], value: Any = 0, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """What a batch of arrays must be, by NumPy."""
    sizes = shape or tuple(max(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True))
    out = np.full((len(arrays), *sizes), value, dtype=arrays[0].dtype)
    for i, array in enumerate(arrays):
        out[(i, *(slice(n) for n in array.shape))] = array
    return out


def keys_in_order(dataset: Any) -> list[int]:
    found: list[int] = []
    for element in dataset:
        keys = np.atleast_1d(element["key"].numpy() if isinstance(element, dict) else element.numpy())
        found.extend(number_of(key) for key in keys)
    return found


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((4, 3)).astype("f4") for _ in range(103)]
    return write_dataset(tmp_path_factory.mktemp("fixed"), arrays, labels=[i % 5 for i in range(103)]), arrays


@pytest.fixture(scope="module")
def varying(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal((int(n), 3)).astype("f4") for n in rng.integers(0, 12, 57)]
    return write_dataset(tmp_path_factory.mktemp("varying"), arrays), arrays


# --- every dtype, every shape, bit for bit ---------------------------------------------------------


def test_every_dtype_comes_back_bit_for_bit_however_it_is_read(tmp_path: Path, rng: Any) -> None:
    shapes = {
        "one": [(2, 3)] * 5,
        "first": [(0, 2), (3, 2), (1, 2), (4, 2), (2, 2)],
        "any": [(2, 3), (1, 5), (0, 2), (3, 1), (4, 4)],
    }
    arrays = {
        f"{name}-{kind}": [random_array(rng, dtype_from_name(name), shape) for shape in each]
        for name in READABLE
        for kind, each in shapes.items()
    }
    path = write_dataset(tmp_path, arrays, shards=1)
    for single in readers.load_dataset(path):
        for name, each in arrays.items():
            assert same_bits(single[name], each[number_of(single["key"])]), name
    explicit = dict.fromkeys(arrays, (6, 6))
    for value, options in (
        (0, {}),
        (1, {}),
        (1, {"padding": explicit}),
        (1, {"map_fn": lambda element: element}),
        (0, {"padding": "dataset", "shuffle": 2, "seed": 1}),
    ):
        (batch,) = readers.load_dataset(path, batch_size=5, padding_value=value, **options)
        order = [number_of(key) for key in batch["key"].numpy()]
        for name, each in arrays.items():
            shape = explicit[name] if options.get("padding") == explicit else None
            assert same_bits(batch[name], padded([each[i] for i in order], value, shape)), (name, value)
    (batch,) = readers.load_dataset(path, batch_size=5, ragged=True)
    for name, each in arrays.items():
        flat = batch[name].flat_values if name.split("-")[1] != "one" else batch[name]
        assert same_bits(tf.reshape(flat, [-1]), np.concatenate([array.reshape(-1) for array in each])), name


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3"])
def test_a_dtype_that_tensorflow_cannot_handle_is_refused_by_name(tmp_path: Path, dtype: str, rng: Any) -> None:
    path = write_dataset(tmp_path, [random_array(rng, dtype_from_name(dtype), (2,))])
    with pytest.raises(UsageError, match=f"'array' is {dtype}, which tf.data does not handle"):
        readers.load_dataset(path)


@st.composite
def shaped_arrays(draw: Any) -> tuple[list[np.ndarray], str]:
    rank = draw(st.integers(0, 8))
    sizes = st.integers(0, 3 if rank > 4 else 6)
    base = draw(st.tuples(*[sizes] * rank))
    vary = draw(st.tuples(*[st.booleans()] * rank))
    count = draw(st.integers(1, 6))
    shapes = [
        tuple(draw(sizes) if moves else size for size, moves in zip(base, vary, strict=True)) for _ in range(count)
    ]
    dtype = draw(st.sampled_from(["float32", "uint64", "bool", "complex128", "bfloat16", "int8"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return [random_array(rng, dtype_from_name(dtype), shape) for shape in shapes], dtype


@settings(max_examples=60)
@given(shaped_arrays(), st.sampled_from([0, 1]), st.integers(0, 2))
@example(([np.array(1j)], "complex128"), 0, 0)
def test_batches_of_any_shapes_are_padded_as_numpy_would(
    made: tuple[list[np.ndarray], str], value: int, extra: int
) -> None:
    from readers.options import ReadOptions
    from readers.pipeline.decoders import make_decoder
    from readers.pipeline.decoding import decode, decode_one
    from readers.pipeline.strategy import method

    arrays, dtype = made
    shapes = [array.shape for array in arrays]
    counts = np.ones(len(arrays), np.int64)
    info = feature_info(name="a", dtype=dtype, itemsize=arrays[0].itemsize, shapes=shapes, counts=counts)
    columns = {
        "key": tf.constant([str(i) for i in range(len(arrays))]),
        "a": tf.constant([array.tobytes() for array in arrays]),
        "a/shape": tf.constant(np.array(shapes, np.int64).reshape(len(arrays), -1)),
    }
    largest = info.max_shape
    larger = tuple(n + extra for n in largest)
    for padding, shape in (("batch", largest), ("dataset", largest), ({"a": larger}, larger)):
        options = ReadOptions(batch_size=9, padding=padding, padding_value=value)  # type: ignore[arg-type]
        decoder = make_decoder(info, method(info), options)
        assert same_bits(decode(decoder, columns), padded(arrays, value, shape))
    for i, array in enumerate(arrays):
        assert same_bits(decode_one(decoder, {name: column[i : i + 1] for name, column in columns.items()}), array)


@pytest.mark.parametrize(
    "shapes",
    [
        [()] * 4,
        [(0,)] * 4,
        [(0, 3), (0, 2), (0, 3)],
        [(2, 0), (1, 0)],
        [(1, 2, 1, 2, 1, 2, 1), (1, 2, 3, 1, 2, 2, 1), (1, 2, 2, 2, 1, 2, 1)],
        [(1, 2, 1, 2, 1, 2)] * 5,
        [(3, 1, 1, 1, 1, 2), (1, 1, 1, 1, 1, 2)],
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_unusual_shapes_survive_the_whole_way(tmp_path: Path, shapes: list[tuple[int, ...]], dtype: str) -> None:
    rng = np.random.default_rng(4)
    arrays = [random_array(rng, dtype, shape) for shape in shapes]
    path = write_dataset(tmp_path, arrays, shards=2)
    for options in ({}, {"map_fn": lambda x: x}):
        dataset = readers.load_dataset(path, batch_size=2, padding_value=1, **options)
        for element in dataset:
            dataset.element_spec["array"].shape.assert_is_compatible_with(element["array"].shape)
            expected = padded([arrays[number_of(key)] for key in element["key"].numpy()], 1)
            assert same_bits(element["array"], expected)
    for element in readers.load_dataset(path):
        assert same_bits(element["array"], arrays[number_of(element["key"])])


def test_nan_payloads_and_negative_zero_survive(tmp_path: Path) -> None:
    bits = np.array([0x7FC00001, 0xFF800001, 0x80000000, 0x7F800000], dtype=np.uint32)
    path = write_dataset(tmp_path, [bits.view("f4"), bits.view("f4")[:2]], shards=1)
    (batch,) = readers.load_dataset(path, batch_size=2, padding_value=math.nan)
    assert batch["array"].numpy()[0].tobytes() == bits.tobytes()
    assert batch["array"].numpy()[1, :2].tobytes() == bits[:2].tobytes()
    assert np.isnan(batch["array"].numpy()[1, 2:]).all()


# --- structure, shapes, cardinality ----------------------------------------------------------------


def test_elements_are_dicts_with_key_and_label(fixed: Any) -> None:
    path, arrays = fixed
    dataset = readers.load_dataset(path, batch_size=10)
    assert dataset.element_spec["array"] == tf.TensorSpec((None, 4, 3), tf.float32)
    assert dataset.element_spec["label"] == tf.TensorSpec((None,), tf.int64)
    assert dataset.cardinality() == 11
    seen = {}
    for batch in dataset:
        for key, array, label in zip(batch["key"].numpy(), batch["array"].numpy(), batch["label"].numpy(), strict=True):
            seen[number_of(key)] = array, label
    assert sorted(seen) == list(range(103))
    assert all(same_bits(seen[i][0], arrays[i]) and seen[i][1] == i % 5 for i in seen)


def test_features_choose_the_structure(fixed: Any) -> None:
    path, _ = fixed
    assert readers.load_dataset(path, features="array").element_spec == tf.TensorSpec((4, 3), tf.float32)
    array, label = readers.load_dataset(path, features=("array", "label"), batch_size=2).element_spec
    assert array.shape == (None, 4, 3)
    assert label.dtype == tf.int64
    assert set(readers.load_dataset(path, features={"x": "array"}).element_spec) == {"x"}
    with pytest.raises(UsageError, match="no feature 'mask' here; there are 'key', 'label', 'array'"):
        readers.load_dataset(path, features="mask")


@pytest.mark.parametrize("batch_size", [1, 7, 103, 200])
@pytest.mark.parametrize("options", [{}, {"shuffle": 50, "seed": 1}, {"map_fn": lambda x: x}])
def test_all_batches_but_the_last_are_full(fixed: Any, batch_size: int, options: dict[str, Any]) -> None:
    path, _ = fixed
    sizes = (
        [len(keys.numpy()) for keys in readers.load_dataset(path, features="key", batch_size=batch_size)]
        if ("map_fn" not in options)
        else [len(b["key"]) for b in readers.load_dataset(path, batch_size=batch_size, **options)]
    )
    assert sizes == [batch_size] * (103 // batch_size) + ([103 % batch_size] if 103 % batch_size else [])


def test_drop_remainder_makes_the_batch_axis_static(fixed: Any) -> None:
    path, _ = fixed
    for options in ({}, {"shuffle": True}, {"map_fn": lambda x: x}):
        dataset = readers.load_dataset(path, batch_size=10, drop_remainder=True, **options)
        assert dataset.element_spec["array"].shape == (10, 4, 3)
        assert dataset.cardinality() == 10
        assert len(list(dataset)) == 10


def test_single_examples_have_their_own_shape(varying: Any) -> None:
    path, arrays = varying
    dataset = readers.load_dataset(path)
    assert dataset.element_spec["array"].shape.as_list() == [None, 3]
    assert dataset.cardinality() == len(arrays)
    assert all(same_bits(x["array"], arrays[number_of(x["key"])]) for x in dataset)


def test_lengths_come_along(varying: Any) -> None:
    path, arrays = varying
    for batch in readers.load_dataset(path, batch_size=8, with_lengths=True):
        assert batch["array/length"].numpy().tolist() == [len(arrays[number_of(k)]) for k in batch["key"].numpy()]
    for lengths, keys in readers.load_dataset(path, batch_size=8, features=("array/length", "key")):
        assert lengths.numpy().tolist() == [len(arrays[number_of(k)]) for k in keys.numpy()]


def test_ragged_batches_keep_every_length(varying: Any) -> None:
    path, arrays = varying
    for batch in readers.load_dataset(path, batch_size=8, ragged=True):
        assert batch["array"].shape.as_list()[1:] == [None, 3]
        for row, key in zip(batch["array"], batch["key"].numpy(), strict=True):
            assert same_bits(row, arrays[number_of(key)])


# --- order -----------------------------------------------------------------------------------------


def test_order_is_the_same_on_one_core_and_on_many_and_from_run_to_run(fixed: Any) -> None:
    path, _ = fixed
    for options in ({"batch_size": 4}, {"batch_size": 4, "shuffle": 30, "seed": 5}, {"shuffle": True, "seed": 5}, {}):
        orders = [keys_in_order(readers.load_dataset(path, num_parallel_calls=n, **options)) for n in (1, 2, 16, 16)]
        assert all(order == orders[0] for order in orders)
        assert sorted(orders[0]) == list(range(103))


def test_every_epoch_is_shuffled_anew_from_the_seed(fixed: Any) -> None:
    path, _ = fixed
    first = readers.load_dataset(path, shuffle=True, seed=3, batch_size=103)
    epochs = [keys_in_order(first) for _ in range(3)]
    again = readers.load_dataset(path, shuffle=True, seed=3, batch_size=103)
    assert [keys_in_order(again) for _ in range(3)] == epochs
    assert len({tuple(epoch) for epoch in epochs}) == 3
    repeated = keys_in_order(readers.load_dataset(path, shuffle=True, seed=3, batch_size=103, repeat=2))
    assert sorted(repeated[:103]) == sorted(repeated[103:]) == list(range(103))
    assert repeated[:103] != repeated[103:]
    other = readers.load_dataset(path, shuffle=True, seed=4, batch_size=103)
    assert keys_in_order(other) != epochs[0]


def test_repeat_for_ever_and_cache(fixed: Any) -> None:
    path, _ = fixed
    assert readers.load_dataset(path, repeat=True).cardinality() == tf.data.INFINITE_CARDINALITY
    for options in ({"batch_size": 10}, {"batch_size": 10, "shuffle": True}, {}):
        dataset = readers.load_dataset(path, cache=True, repeat=2, **options)
        assert sorted(keys_in_order(dataset)) == sorted([*range(103)] * 2)


# --- slices and workers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slice_", "expected"),
    [
        ("", range(103)),
        ("[:80%]", range(82)),
        ("[80%:]", range(82, 103)),
        ("[10:20]", range(10, 20)),
        ("[-5:]", range(98, 103)),
        ("[:-10%]", range(93)),
        ("[50:50]", range(0)),
        ("[90:1000]", range(90, 103)),
    ],
)
@pytest.mark.parametrize("options", [{"batch_size": 8}, {"shuffle": 10, "batch_size": 8}, {}])
def test_a_slice_is_exactly_those_examples(fixed: Any, slice_: str, expected: range, options: dict[str, Any]) -> None:
    path, _ = fixed
    dataset = readers.load_dataset(path, split=f"train{slice_}", **options)
    assert sorted(keys_in_order(dataset)) == list(expected)


@pytest.mark.parametrize("split", ["train[", "train[5]", "train[a:b]", "test", "train[:200%]", ""])
def test_a_split_that_makes_no_sense_is_refused(fixed: Any, split: str) -> None:
    with pytest.raises(UsageError):
        readers.load_dataset(fixed[0], split=split)


def test_one_of_several_splits_must_be_named(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.zeros(2)] * 10, splits={"train": 7, "val": 3})
    with pytest.raises(UsageError, match="several splits here, say which: 'train', 'val'"):
        readers.load_dataset(path)
    assert sorted(keys_in_order(readers.load_dataset(path, split="val"))) == [7, 8, 9]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 4, "shuffle": True, "seed": 1}])
def test_workers_share_a_split_without_overlap(fixed: Any, count: int, options: dict[str, Any]) -> None:
    path, _ = fixed
    shares = [keys_in_order(readers.load_dataset(path, worker=(i, count), **options)) for i in range(count)]
    assert sorted(chain.from_iterable(shares)) == list(range(103))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- shards that are not what the manifest says ----------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
def test_a_missing_shorter_or_longer_shard_is_named_before_anything_is_read(tmp_path: Path, compression: str) -> None:
    path = write_dataset(tmp_path, [np.arange(5)] * 30, compression=compression)
    shard = path / "train-00001-of-00003.tfrecord"
    content = shard.read_bytes()
    assert sorted(keys_in_order(readers.load_dataset(path, batch_size=4))) == list(range(30))
    for change in (content[:-1], content + b"\0", b""):
        shard.write_bytes(change)
        with pytest.raises(DamageError, match=rf"train-00001-of-00003.tfrecord: {len(change)} bytes, expected"):
            readers.load_dataset(path)
    shard.unlink()
    with pytest.raises(DamageError, match=r"train-00001-of-00003.tfrecord: No such file"):
        readers.load_dataset(path)
    shard.mkdir()
    with pytest.raises(DamageError, match=r"train-00001-of-00003.tfrecord: not a regular file"):
        readers.load_dataset(path)


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_size": 4, "shuffle": True}, {}])
@pytest.mark.parametrize("where", ["data", "length", "foot"])
def test_a_damaged_record_is_an_error_that_says_which(tmp_path: Path, where: str, options: dict[str, Any]) -> None:
    path = write_dataset(tmp_path, [np.arange(5)] * 30)
    shard = path / "train-00001-of-00003.tfrecord"
    offset, length = map(int, (path / "index/train-00001-of-00003.idx").read_text().splitlines()[6].split())
    content = bytearray(shard.read_bytes())
    content[{"data": offset + length - 6, "length": offset + 1, "foot": offset + length - 2}[where]] ^= 4
    shard.write_bytes(content)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        list(readers.load_dataset(path, **options))
    message = f"record 6 of {shard} is damaged or missing, at offset {offset}."
    assert message in error.value.message


def test_a_shape_that_a_record_claims_is_not_believed(tmp_path: Path) -> None:
    arrays = [np.zeros((n, 2), "f4") for n in (3, 4, 5)]
    lying = [np.zeros((n, 2), "f4") for n in (3, 4, 9)]
    path = write_dataset(tmp_path / "a", arrays, shards=1)
    other = write_dataset(tmp_path / "b", lying, shards=1)
    manifest = readers.load_manifest(path)
    size = (other / manifest.shards[0].file).stat().st_size
    (path / manifest.shards[0].file).write_bytes((other / manifest.shards[0].file).read_bytes())
    text = (path / "manifest.json").read_bytes()
    assert str(manifest.shards[0].bytes).encode() in text
    tail = (path / manifest.shards[0].file).read_bytes()[-8:].hex()
    shard = replace(manifest.shards[0], bytes=size, tail=tail)
    (path / "manifest.json").write_bytes(replace(manifest, splits={"train": (shard,)}).encode())
    for options in ({"batch_size": 3}, {}, {"batch_size": 3, "ragged": True}):
        with pytest.raises(tf.errors.InvalidArgumentError, match="does not have the size that the manifest says"):
            list(readers.load_dataset(path, **options))


# --- map_fn, normalize, checkpoints ----------------------------------------------------------------


def test_map_fn_sees_single_examples_before_they_are_batched(varying: Any) -> None:
    path, arrays = varying

    def crop(element: dict[str, Any]) -> dict[str, Any]:
        return {"array": element["array"][:5] * 2, "n": tf.shape(element["array"])[0], "key": element["key"]}

    for batch in readers.load_dataset(path, batch_size=8, map_fn=crop, shuffle=20):
        expected = padded([arrays[number_of(k)][:5] * 2 for k in batch["key"].numpy()])
        assert same_bits(batch["array"], expected)
        assert batch["n"].numpy().tolist() == [len(arrays[number_of(k)]) for k in batch["key"].numpy()]


def test_map_fn_of_a_tuple_gets_its_members(fixed: Any) -> None:
    path, arrays = fixed

    def pair(array: Any, key: Any) -> tuple[Any, Any]:
        return tf.cast(array[0], tf.float64), key

    dataset = readers.load_dataset(path, features=("array", "key"), batch_size=10, map_fn=pair)
    assert dataset.element_spec[0] == tf.TensorSpec((None, 3), tf.float64)
    for rows, keys in dataset:
        assert all(same_bits(r, arrays[number_of(k)][0].astype("f8")) for r, k in zip(rows, keys.numpy(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int64", "bool", "uint64", "bfloat16"])
def test_normalize_uses_the_manifests_statistics(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(3)
    arrays = [(rng.random((int(n), 2)) * 9).astype(dtype_from_name(dtype)) for n in rng.integers(1, 6, 20)]
    stats = {"array": {"count": 1, "mean": [1.5, 2.0], "std": [2.0, 0.0]}}
    path = write_dataset(tmp_path, arrays, stats=stats)
    kind = "f8" if dtype == "float64" else "f4"
    expected = [((a.astype(kind) - np.array([1.5, 2], kind)) / np.array([2, 1], kind)).astype(kind) for a in arrays]
    for batch in readers.load_dataset(path, batch_size=6, normalize=True, padding_value=-1):
        np.testing.assert_allclose(
            batch["array"], padded([expected[number_of(k)] for k in batch["key"].numpy()], -1), rtol=1e-6
        )
    for element in readers.load_dataset(path, normalize=True):
        np.testing.assert_allclose(element["array"], expected[number_of(element["key"])], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["complex64", "<M8[ns]", "<m8[s]"])
@pytest.mark.parametrize("stats", [False, True])
def test_normalize_of_what_has_no_statistics_does_not_ask_for_them(tmp_path: Path, dtype: str, stats: bool) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.arange(6).astype(dtype))
    npy2tfrecord.convert(tmp_path / "in", tmp_path / "out", stats=stats)
    name = np.dtype(dtype).name
    with pytest.raises(UsageError, match=rf"feature 'array' is {re.escape(name)}, .*features=…, or .*map_fn") as caught:
        readers.load_dataset(tmp_path / "out", normalize=True)
    assert "--stats" not in str(caught.value)
    assert len(list(readers.load_dataset(tmp_path / "out"))) == 1


def test_normalize_without_statistics_is_refused(fixed: Any) -> None:
    with pytest.raises(UsageError, match="convert again with --stats"):
        readers.load_dataset(fixed[0], normalize=True)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4},
        {"batch_size": 4, "shuffle": 30, "seed": 2, "repeat": 2},
        {"shuffle": 30, "repeat": True},
        {"batch_size": 4, "map_fn": lambda x: x, "shuffle": True},
    ],
)
def test_an_iterators_checkpoint_goes_on_with_exactly_the_next_element(
    varying: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    dataset = readers.load_dataset(varying[0], **options)
    iterator = iter(dataset)
    for _ in range(7):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "checkpoint"))
    expected = [np.array(next(iterator)["key"]).tolist() for _ in range(5)]
    restored = iter(dataset)
    tf.train.Checkpoint(iterator=restored).restore(saved)
    assert [np.array(next(restored)["key"]).tolist() for _ in range(5)] == expected


def test_the_pipeline_holds_no_python(varying: Any) -> None:
    for options in (
        {"batch_size": 4},
        {"shuffle": True},
        {"batch_size": 4, "map_fn": lambda x: x},
        {"batch_size": 4, "ragged": True},
    ):
        graph = readers.load_dataset(varying[0], **options)._as_serialized_graph().numpy()
        assert b"PyFunc" not in graph
        assert b"EagerPyFunc" not in graph


# --- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"drop_remainder": True}, "give a batch_size too"),
        ({"shuffle": -1}, "shuffle=-1"),
        ({"shuffle": "lots"}, "such as '256MB'"),
        ({"seed": "x"}, "seed='x'"),
        ({"repeat": 0}, "repeat=0"),
        ({"padding": "most"}, "padding='most'"),
        ({"batch_size": 2, "padding": {"array": (1, 1)}}, r"padding of 'array' to \(1, 1\): its largest arrays need"),
        ({"batch_size": 2, "padding": {"arrays": (1, 1)}}, "padding for 'arrays': no such feature"),
        ({"padding_value": "x"}, "padding_value='x'"),
        ({"padding_value": 1j}, "padding_value=1j is no value of 'array'"),
        ({"worker": (2, 2)}, r"worker=\(2, 2\): expected \(index, count\)"),
        ({"features": []}, "features="),
        ({"features": 3}, "features=3"),
        ({"map_fn": 3}, "map_fn=3"),
        ({"prefetch": -2}, "prefetch=-2"),
        ({"num_parallel_calls": 0}, "num_parallel_calls=0"),
        ({"cache": 3}, "cache=3"),
        ({"ragged": True}, "give a batch_size too"),
        ({"features": "array", "with_lengths": True}, "name them"),
        ({"features": "array/length"}, "all arrays of 'array' have the shape"),
    ],
)
def test_options_that_make_no_sense_are_refused(fixed: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        readers.load_dataset(fixed[0], **options)


def numpy_numbers(options: dict[str, Any]) -> dict[str, Any]:
    """The same options with NumPy's numbers."""
    kinds: dict[type, Any] = {bool: np.bool_, int: np.int64, tuple: lambda each: tuple(map(np.int32, each))}
    return {name: kinds.get(type(value), lambda same: same)(value) for name, value in options.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 8, "drop_remainder": True, "repeat": 2, "prefetch": 1, "num_parallel_calls": 2},
        {"batch_size": 8, "shuffle": 20, "seed": 3, "worker": (1, 2), "deterministic": True},
        {"batch_size": 8, "shuffle": True, "seed": 3, "repeat": False},
        {"batch_size": 4, "buckets": 3, "tune_malloc": False},
        {"batch_size": 4, "buckets": (3, 7), "prefetch": -1, "ragged": True},
        {"batch_size": 4, "with_lengths": True, "padding_value": 1, "cache": True},
    ],
)
def test_numpy_numbers_mean_what_pythons_do(varying: Any, options: dict[str, Any]) -> None:
    plain = readers.load_dataset(varying[0], **options)
    same = readers.load_dataset(varying[0], **numpy_numbers(options))
    assert same.cardinality() == plain.cardinality()
    assert same.element_spec == plain.element_spec
    assert keys_in_order(same) == keys_in_order(plain)


@pytest.mark.parametrize(
    "name", ["batch_size", "shuffle", "seed", "repeat", "prefetch", "num_parallel_calls", "worker", "buckets"]
)
@pytest.mark.parametrize("value", [np.float32(8), 8.0, np.array([2.0]), "x", np.datetime64("2020"), object()])
def test_what_is_no_whole_number_is_refused_by_name(varying: Any, name: str, value: Any) -> None:
    options = {"batch_size": 8} | {name: value}
    with pytest.raises(UsageError, match=f"^{name}="):
        readers.load_dataset(varying[0], **options)


def test_padding_values_that_the_dtype_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.zeros(n, np.uint8) for n in (1, 2)])
    for value in (-1, 256, 0.5, math.nan):
        with pytest.raises(UsageError, match="is no value of 'array', which is uint8"):
            readers.load_dataset(path, batch_size=2, padding_value=value)


def test_no_data_set_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no manifest.json"):
        readers.load_dataset(tmp_path)
