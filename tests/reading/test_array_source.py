"""`ArraySource`: random access without TensorFlow."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import key_of, keys_of, random_array, same_bits, write_dataset

import readers
from npy2tfrecord.errors import DamageError, UsageError
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES, SUPPORTED_NAMES, dtype_from_name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((int(n), 3)).astype("f4") for n in rng.integers(0, 9, 101)]
    return write_dataset(
        tmp_path_factory.mktemp("source"), arrays, shards=4, labels=[i % 3 for i in range(101)]
    ), arrays


@pytest.mark.parametrize("dtype", SUPPORTED_NAMES + EXTENSION_NAMES)
def test_every_dtype_comes_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(2)
    arrays = [random_array(rng, dtype_from_name(dtype), shape) for shape in ((2, 3), (0, 3), (4, 1))]
    source = readers.ArraySource(write_dataset(tmp_path, arrays, shards=2))
    assert all(same_bits(example["array"], array) for example, array in zip(source, arrays, strict=True))


def test_examples_by_number_slice_and_list(data: Any) -> None:
    path, arrays = data
    source = readers.ArraySource(path)
    assert len(source) == 101
    assert source[7]["key"] == key_of(7)
    assert source[7]["label"] == 1
    assert source[np.int64(-1)]["key"] == key_of(100)
    assert all(same_bits(source[i]["array"], arrays[i]) for i in range(101))
    assert [x["key"] for x in source[90:200:3]] == [key_of(i) for i in range(90, 101, 3)]
    picked = [3, 100, 3, -1, 27, 26, 0]
    assert [x["key"] for x in source[picked]] == [key_of(i % 101) for i in picked]
    assert all(same_bits(x["array"], arrays[i % 101]) for i, x in zip(picked, source[np.array(picked)], strict=True))
    assert [x["key"] for x in source] == [key_of(i) for i in range(101)]
    source[0]["array"][...] = 5  # the caller's own
    for index in (101, -102):
        with pytest.raises(IndexError, match=f"example {index} of 101"):
            source[index]
    with pytest.raises(TypeError):
        source["a"]


def test_slices_of_a_split_and_features(data: Any) -> None:
    path, arrays = data
    tail = readers.ArraySource(path, split="train[80%:]", features=("array", "label"))
    assert len(tail) == 20
    assert same_bits(tail[0][0], arrays[81])
    assert [example[1] for example in tail] == [i % 3 for i in range(81, 101)]
    assert same_bits(readers.ArraySource(path, features="array")[5], arrays[5])
    assert set(readers.ArraySource(path, features={"x": "array"})[5]) == {"x"}
    assert list(readers.ArraySource(path, split="train[5:5]")) == []
    with pytest.raises(UsageError, match="no feature 'x'"):
        readers.ArraySource(path, features="x")


def test_several_threads_read_at_once(data: Any) -> None:
    path, arrays = data
    source = readers.ArraySource(path, features="array")
    order = np.random.default_rng(3).integers(0, 101, 2000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(source.__getitem__, order.tolist()))
    assert all(same_bits(array, arrays[i]) for i, array in zip(order, found, strict=True))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_it_pickles_into_other_processes(data: Any, method: str) -> None:
    source = readers.ArraySource(data[0], split="train[1:]")
    assert source[0]["key"] == key_of(1)
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 100
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(keys_of, [source, again], [[5, 99]] * 2)) == [[key_of(6), key_of(100)]] * 2


def test_it_never_imports_tensorflow(data: Any) -> None:
    program = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import readers\n"
        f"source = readers.ArraySource({str(data[0])!r}, split='train')\n"
        "assert len(source[[0, 1]]) == 2 and source[5]['array'].dtype == 'float32'\n"
        "assert readers.load_manifest(sys.argv[1]).labels == ()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(data[0])], check=True)


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.arange(4)] * 6, shards=1)
    shard = path / "train-00000-of-00001.tfrecord"
    content = shard.read_bytes()
    size = len(content) // 6
    for position in range(2 * size, 3 * size):
        shard.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        source = readers.ArraySource(path)
        with pytest.raises(DamageError, match=rf"00001.tfrecord: record 2 at offset {2 * size}: "):
            source[2]
        with pytest.raises(DamageError, match="record 2 at"):
            list(source)
        assert source[3]["key"] == key_of(3)
        source.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: "", "not 6 lines"),
        (lambda t: t + "5 5\n", "not 6 lines"),
        (lambda t: t.replace("0 ", "x ", 1), "not 6 lines"),
        (lambda t: "1" + t, "do not fill the shard"),
        (lambda t: t.rstrip() + "0\n", "do not fill the shard"),
        (lambda t: t.rstrip() + "0" * 30 + "\n", "do not fill the shard|a size that no record can have"),
        (None, "No such file or directory; it is needed"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = write_dataset(tmp_path, [np.arange(4)] * 6, shards=1)
    index = path / "index/train-00000-of-00001.idx"
    if change is None:
        index.unlink()
    else:
        index.write_text(change(index.read_text()))
    with pytest.raises(DamageError, match=message):
        readers.ArraySource(path)[0]


def test_a_short_shard_is_found_when_it_is_opened_and_later(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.arange(4)] * 6, shards=1)
    source, opened = readers.ArraySource(path), readers.ArraySource(path)
    opened[0]
    shard = path / "train-00000-of-00001.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content[:-3])
    with pytest.raises(DamageError, match="before a record does"):
        opened[5]
    with pytest.raises(DamageError, match=f"{len(content) - 3} bytes, expected {len(content)} by the manifest"):
        source[5]
    with pytest.raises(DamageError, match=f"{len(content) - 3} bytes, expected {len(content)} by the manifest"):
        readers.ArraySource(path)


def test_compressed_shards_are_a_clear_error(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.arange(4)] * 6, compression="gzip")
    with pytest.raises(UsageError, match="gzip-compressed, so that no record can be found by itself"):
        readers.ArraySource(path)


def test_keys_labels_and_shapes_of_every_length_are_told_apart(tmp_path: Path) -> None:
    """Records that are equally long but differ in which part is."""
    rng = np.random.default_rng(5)
    count = 400
    labels = [int(n) for n in rng.choice([0, 1, 127, 128, 300, 2**40, -1, -(2**63), 2**63 - 1], count)]
    a = [rng.integers(0, 255, int(n)).astype("u1") for n in rng.integers(0, 6, count)]
    b = [rng.integers(0, 255, (int(n), 1)).astype("u1") for n in rng.integers(0, 6, count)]
    source = readers.ArraySource(write_dataset(tmp_path, {"a": a, "b": b}, labels=labels))
    order = [*range(count), *rng.permutation(count).tolist()]
    for i in order:
        example = source[i]
        assert example["key"] == key_of(i)
        assert example["label"] == labels[i]
        assert same_bits(example["a"], a[i])
        assert same_bits(example["b"], b[i])


def test_only_so_many_shards_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("readers.array_source._MAX_OPEN", 3)
    arrays = [np.full(3, i) for i in range(60)]
    source = readers.ArraySource(write_dataset(tmp_path, arrays, shards=30), features="array")
    before = len(os.listdir("/dev/fd"))
    order = np.random.default_rng(6).integers(0, 60, 500).tolist()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(
            same_bits(array, arrays[i]) for i, array in zip(order, pool.map(source.__getitem__, order), strict=True)
        )
    assert len(os.listdir("/dev/fd")) <= before + 3
    source.close()
    assert len(os.listdir("/dev/fd")) == before
    assert same_bits(source[7], arrays[7])


def test_positions_take_few_bytes_a_record(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, [np.int8(1)] * 5000, shards=1)
    source = readers.ArraySource(path)
    source[0]
    tables = [array for table in source._tables.values() for array in table]
    tables += [keys._ends for keys in source._keys.values()]
    assert sum(array.nbytes for array in tables) <= 16 * 5000
    assert all(array.base is None or isinstance(array.base, bytes) for array in tables)


def test_an_example_is_found_by_its_key(data: Any) -> None:
    source = readers.ArraySource(data[0])
    assert [source.index_of(key_of(i)) for i in range(101)] == [*range(101)]
    part = readers.ArraySource(data[0], split="train[30:60]")
    assert part[part.index_of(key_of(47))]["key"] == key_of(47)
    for key in ("k/0000", "/00001", "", key_of(29), key_of(60), "k/00001\n"):
        with pytest.raises(KeyError, match="no example has the key"):
            part.index_of(key)


def test_keys_with_newlines_and_backslashes_are_found(tmp_path: Path) -> None:
    keys = ["a", "a\nb", "b", "a\\nb", "\\", "\n", "b\\", "", "c\udc80"]
    path = write_dataset(tmp_path, [np.arange(3)] * len(keys), shards=2, keys=keys)
    source = readers.ArraySource(path)
    assert [source.index_of(key) for key in keys] == [*range(len(keys))]
    assert [example["key"] for example in source] == keys


def test_a_dtype_that_the_manifest_does_not_name_is_damage(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "out", [np.arange(3, dtype="f4")] * 4, shards=1)
    other = write_dataset(tmp_path / "other", [np.arange(3, dtype="i4")] * 4, shards=1)
    (path / "manifest.json").write_bytes(
        dataclasses.replace(readers.load_manifest(other), features=readers.load_manifest(path).features).encode()
    )
    for folder in ("index", "."):
        for file in (other / folder).glob("train*"):
            (path / folder / file.name).write_bytes(file.read_bytes())
    for i in range(4):
        with pytest.raises(
            DamageError, match=r"record \d at offset \d+: 'array' is b'int32', the manifest says float32"
        ):
            readers.ArraySource(path)[i]


def test_files_are_closed_when_nothing_holds_the_source(data: Any) -> None:
    path, _ = data
    gc.collect()
    gc.disable()  # a cycle would keep them open until it is found
    try:
        before = len(os.listdir("/dev/fd"))
        source = readers.ArraySource(path)
        assert source[5]["label"] == 2
        assert len(os.listdir("/dev/fd")) == before + 1
        del source
        assert len(os.listdir("/dev/fd")) == before
    finally:
        gc.enable()


def test_files_are_closed_in_silence_at_the_end_of_python(tmp_path: Path) -> None:
    out = write_dataset(tmp_path, [np.arange(3)])
    # An array that NumPy's module holds goes late, when ours have nothing in them any more.
    code = (
        f"import numpy, readers; source = readers.ArraySource({str(out)!r}); source[0];"
        " numpy.held = numpy.full(1, None, object); numpy.held[0] = source"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
