"""Whole records, with checksums that are right, in places where they were not written: no reader takes them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_data import key_of, record, write_dataset

import readers
from npy2tfrecord import verify
from npy2tfrecord.errors import DamageError, Error
from npy2tfrecord.formats import keysums, manifest
from npy2tfrecord.formats import shard as shard_format
from npy2tfrecord.formats.keysums import MODULUS, key_sums, residues
from npy2tfrecord.formats.tfds_metadata import neighbour_files
from npy2tfrecord.formats.tfrecord import foot, head
from readers.pipeline.order import Order

COUNT = 90
Records = dict[str, list[bytes]]  # by shard
NAMES = [manifest.shard_name("train", i, 3) for i in range(3)]


def swap_neighbours(records: Records) -> None:
    shard = records[NAMES[1]]
    shard[4], shard[5] = shard[5], shard[4]


def swap_far(records: Records) -> None:
    shard = records[NAMES[1]]
    shard[0], shard[-1] = shard[-1], shard[0]


def double(records: Records) -> None:
    records[NAMES[1]][7] = records[NAMES[1]][8]


def turn(records: Records) -> None:
    records[NAMES[0]].reverse()


def swap_between_shards(records: Records) -> None:
    one, other = records[NAMES[0]], records[NAMES[2]]
    one[3], other[3] = other[3], one[3]


def swap_shards(records: Records) -> None:
    records[NAMES[0]], records[NAMES[2]] = records[NAMES[2]], records[NAMES[0]]


def take_a_strangers(records: Records) -> None:
    records[NAMES[1]][0] = record("k/99999", {"array": np.zeros((3, 2), "f4")})


DISORDERS = [swap_neighbours, swap_far, double, turn, swap_between_shards, swap_shards, take_a_strangers]
READINGS: dict[str, dict[str, Any]] = {
    "batches": {"batch_size": 8},
    "batches, the last one dropped": {"batch_size": 30, "drop_remainder": True},
    "shuffled": {"batch_size": 8, "shuffle": True},
    "buckets": {"batch_size": 4, "buckets": 2},
    "a function": {"batch_size": 8, "map_fn": lambda element: element},
    "single": {},
    "single, shuffled": {"shuffle": 10, "seed": 1},
    "one feature": {"features": "array", "batch_size": 8},
    "ragged": {"batch_size": 8, "ragged": True},
    "a slice": {"split": "train[2:88]", "batch_size": 8},
    "in no order": {"batch_size": 8, "deterministic": False},
    "skipping what is damaged": {"batch_size": 8, "on_corrupt": "raise", "cache": True},
}


def made(path: Path, *, varying: bool, compression: str = "none") -> Path:
    """Three shards; without `varying`, of equal records."""
    rng = np.random.default_rng(1)
    sizes = [3] * COUNT if not varying else [3 + 2 * (i % 2) for i in range(COUNT)]
    arrays = [rng.random((size, 2)).astype("f4") for size in sizes]
    return write_dataset(path / "out", arrays, compression=compression)


def records_of(path: Path) -> Records:
    found: Records = {}
    for file in NAMES:
        data, compression = (path / file).read_bytes(), manifest.load(path).compression
        assert compression == "none"
        spans = [(r.offset, r.offset + r.size) for r in shard_format.read_records(path / file)]
        found[file] = [data[start:stop] for start, stop in spans]
    return found


def disorder(path: Path, change: Callable[[Records], None]) -> None:
    records = records_of(path)
    before = {file: sum(map(len, each)) for file, each in records.items()}
    change(records)
    for file, each in records.items():
        assert sum(map(len, each)) == before[file]
        (path / file).write_bytes(b"".join(each))


CASES = {(reading, change) for reading in READINGS for change in (double, swap_shards)}
CASES |= {(reading, change) for reading in ("batches", "shuffled") for change in DISORDERS}


@pytest.mark.parametrize(("reading", "change"), sorted(CASES, key=str))
def test_no_pipeline_ends_well(reading: str, change: Callable[[Records], None], tmp_path: Path) -> None:
    options = READINGS[reading]
    path = made(tmp_path, varying=False)
    if "buckets" in options or "ragged" in options:
        path = made(tmp_path / "varying", varying=True)

    def even(records: Records) -> None:  # those of one size only, where there are two
        kept = {file: each[:] for file, each in records.items()}
        chosen = {file: each[::2] if len({*map(len, each)}) > 1 else each for file, each in records.items()}
        change(chosen)
        for file, each in records.items():
            step = 2 if len({*map(len, each)}) > 1 else 1
            each[::step] = chosen[file]
        assert records != kept

    assert len(list(readers.load_dataset(path, **options)))
    disorder(path, even)
    with pytest.raises((DamageError, tf.errors.InvalidArgumentError), match=r"every record is whole, but .*verify"):
        list(readers.load_dataset(path, **options))


@pytest.mark.parametrize("index", range(2))
def test_each_worker_checks_its_share(index: int, tmp_path: Path) -> None:
    path = made(tmp_path, varying=False)
    records = records_of(path)
    here = NAMES[0] if index == 0 else NAMES[2]

    def change(records: Records) -> None:
        records[here][2] = records[here][1]

    list(readers.load_dataset(path, batch_size=4, worker=(index, 2)))
    disorder(path, change)
    with pytest.raises(tf.errors.InvalidArgumentError, match=here):
        list(readers.load_dataset(path, batch_size=4, worker=(index, 2)))
    assert len(list(readers.load_dataset(path, batch_size=4, worker=(1 - index, 2)))) == 12
    assert len(records[here]) == 30


@pytest.mark.parametrize("cut", [0, 8, 30, 45, 60, 89])
def test_half_of_a_split_is_checked(cut: int, tmp_path: Path) -> None:
    """Also where a slice ends in the middle of a shard."""
    path = made(tmp_path, varying=False)
    disorder(path, swap_between_shards)  # 3 and 63
    for split, is_bad in ((f"train[:{cut}]", cut > 3), (f"train[{cut}:]", cut <= 63)):
        dataset = readers.load_dataset(path, split=split, batch_size=7)
        if is_bad:
            with pytest.raises(tf.errors.InvalidArgumentError, match="every record is whole"):
                list(dataset)
        else:
            list(dataset)


def array_sources(path: Path) -> Iterator[Callable[[], object]]:
    source = readers.ArraySource(path)
    yield lambda: list(source)
    yield lambda: [source[i] for i in range(COUNT)]
    yield lambda: source[:]
    yield lambda: source[random.Random(1).sample(range(COUNT), COUNT)]
    yield lambda: list(readers.ArraySource(path, features="array"))


@pytest.mark.parametrize("change", DISORDERS)
def test_an_array_source_says_which(change: Callable[[Records], None], tmp_path: Path) -> None:
    path = made(tmp_path, varying=False)
    before = records_of(path)
    disorder(path, change)
    after = records_of(path)
    with pytest.raises(DamageError, match=r"is not the one that was written there"):
        verify(path)
    wrong = [i * 30 + j for i, file in enumerate(NAMES) for j in range(30) if before[file][j] != after[file][j]]
    for read in array_sources(path):
        with pytest.raises(DamageError, match=r"record \d+ at offset \d+: a whole record, but not the one"):
            read()
    source = readers.ArraySource(path)
    for i in range(COUNT):
        if i in wrong:
            with pytest.raises(DamageError, match=f"{NAMES[i // 30]}: record {i % 30} at offset"):
                source[i]
        else:
            assert source[i]["key"] == key_of(i)


@pytest.mark.parametrize("compression", ["gzip", "zlib"])
def test_compressed_shards_are_checked(compression: str, tmp_path: Path) -> None:
    path = made(tmp_path, varying=False, compression=compression)
    list(readers.load_dataset(path, batch_size=8))
    one, other = (path / NAMES[0]).read_bytes(), (path / NAMES[2]).read_bytes()
    size = max(len(one), len(other))
    document = json.loads((path / "manifest.json").read_text())
    for name, data in ((NAMES[0], other), (NAMES[2], one)):
        (path / name).write_bytes(data)
    loaded = manifest.load(path)
    infos = tuple(
        manifest.ShardInfo(s.file, s.examples, (path / s.file).stat().st_size, s.hash, s.keys) for s in loaded.shards
    )
    fitting = manifest.Manifest(loaded.features, {"train": infos}, compression=compression)
    (path / "manifest.json").write_bytes(fitting.encode())
    assert size
    assert document["splits"]["train"]["shards"][0]["keys"] == list(infos[0].keys or ())
    with pytest.raises(tf.errors.InvalidArgumentError, match="every record is whole"):
        list(readers.load_dataset(path, batch_size=8))


def test_skipping_leaves_out_what_is_in_the_wrong_place(tmp_path: Path) -> None:
    path = made(tmp_path, varying=False)
    disorder(path, swap_between_shards)
    with pytest.warns(readers.DamageWarning, match="2 damaged records left out"):
        dataset = readers.load_dataset(path, batch_size=8, on_corrupt="skip")
    keys = [key for batch in dataset for key in batch["key"].numpy()]
    assert sorted(keys) == [key_of(i).encode() for i in range(COUNT) if i not in (3, 63)]


def test_what_an_early_converter_wrote_is_read(tmp_path: Path) -> None:
    path = made(tmp_path, varying=False)
    old = manifest.load(path)
    infos = tuple(manifest.ShardInfo(s.file, s.examples, s.bytes, s.hash) for s in old.shards)
    early = manifest.Manifest(old.features, {"train": infos})
    for name, content in (neighbour_files(early) | {"manifest.json": early.encode()}).items():
        (path / name).write_bytes(content)
    for keys in path.glob("index/*.keys"):
        keys.unlink()
    assert len(list(readers.load_dataset(path, batch_size=8, shuffle=True))) == 12
    assert len(list(readers.ArraySource(path))) == COUNT
    verify(path)


def test_without_the_files_of_keys_only_whole_shards_are_checked(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "out", [np.full(3, i) for i in range(64)], shards=16)
    for beside in path.glob("index/*"):
        beside.unlink()
    assert len(list(readers.load_dataset(path, split="train[10:]", batch_size=8))) == 7
    shard = path / "train-00005-of-00016.tfrecord"
    one, *others = [bytes(r.data) for r in shard_format.read_records(shard)]
    frame = [head(len(data)) + data + foot(crc32c(data)) for data in (one, one, *others[1:])]
    shard.write_bytes(b"".join(frame))
    assert len(list(readers.load_dataset(path, split="train[22:30]", batch_size=8))) == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{shard.name}: every record is whole"):
        list(readers.load_dataset(path, batch_size=8, shuffle=True))


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[4:] + d[:4], lambda d: b""])
def test_files_of_keys_that_lie_are_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = made(tmp_path, varying=False)
    keys = path / manifest.keys_name(NAMES[1])
    keys.write_bytes(change(keys.read_bytes()))
    readings: list[Callable[[], object]] = [
        lambda: readers.ArraySource(path)[40],
        lambda: readers.load_dataset(path, split="train[:40]"),
        lambda: verify(path),
    ]
    for read in readings:
        with pytest.raises(DamageError, match=r"train-00001-of-00003\.keys: .* manifest"):
            read()
    keys.unlink()
    with pytest.raises(DamageError, match=r"00003\.keys: No such file"):
        readers.ArraySource(path)[40]


# --- the arithmetic -----------------------------------------------------------------------------

KEY = st.binary(max_size=70) | st.binary(min_size=1, max_size=9).map(lambda piece: piece * 500)
KEYS = st.lists(KEY, min_size=1, max_size=20)


@given(KEYS, st.lists(st.integers(0, 20), max_size=4))
def test_sums_are_those_of_whole_numbers_and_can_be_joined(keys: list[bytes], cuts: list[int]) -> None:
    values = [int.from_bytes(key, "little") for key in keys]
    found = key_sums(residues(keys))
    assert found == (sum(values) % MODULUS, sum(i * value for i, value in enumerate(values)) % MODULUS)
    bounds = sorted({0, len(keys), *(min(cut, len(keys)) for cut in cuts)})
    parts = [residues(keys)[a:b] for a, b in pairwise(bounds)]
    assert keysums.joined([(key_sums(part), len(part)) for part in parts]) == found


@settings(max_examples=30)
@given(KEYS, st.integers(1, 7))
def test_the_graph_comes_to_the_same_sums(keys: list[bytes], block: int) -> None:
    known = residues(keys)
    shard = manifest.ShardInfo(NAMES[0], len(keys), 1, "0" * 32, key_sums(known))
    order = Order("", [shard], [[readers.splits.Part(0, 0, len(keys))]])

    def read(keys: list[bytes]) -> list[bytes]:
        blocks = tf.data.Dataset.from_tensor_slices(keys).batch(block)
        checked = order.check(blocks, tf.constant(0), lambda each: (each, each))
        return [key for each in checked for key in each.numpy()]

    assert read(keys) == keys
    others = keys[::-1]
    if [*map(keysums.residue, others)] != [*map(keysums.residue, keys)]:
        with pytest.raises(tf.errors.InvalidArgumentError, match="every record is whole"):
            read(others)


def test_places_beyond_32_bits_do_not_overflow() -> None:
    values = np.full(3, MODULUS - 1, "<u4")
    assert key_sums(values) == (MODULUS - 3, MODULUS - 3)
    large = keysums.joined([(keysums.KeySums(MODULUS - 1, 5), 2**40), (key_sums(values), 3)])
    assert large.weighted == (5 + 2**40 * (MODULUS - 3) + MODULUS - 3) % MODULUS


def test_sums_out_of_range_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path, varying=False)
    good = manifest.load(path)
    for wrong in ([1], [1, 2, 3], [0, MODULUS], [-1, 0], "x", None):
        document = good.to_json()
        document["splits"]["train"]["shards"][0]["keys"] = wrong
        del document["hash"]
        text = json.dumps(document, indent=1).encode() + b"\n"
        document["hash"] = manifest.Hash(text).hexdigest()
        (path / "manifest.json").write_bytes(json.dumps(document, indent=1).encode() + b"\n")
        with pytest.raises(Error, match=r"splits\.train\.shards\[0\]\.keys"):
            manifest.load(path)
