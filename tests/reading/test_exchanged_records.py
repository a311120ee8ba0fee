"""Whole records and whole shards, with checksums that are right, in places where they were not written."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from reading_data import key_of, record, write_dataset

import readers
from npy2tfrecord import verify
from npy2tfrecord.errors import DamageError
from npy2tfrecord.formats import manifest
from npy2tfrecord.formats import shard as shard_format

COUNT = 90
Records = dict[str, list[bytes]]  # by shard
NAMES = [manifest.shard_name("train", i, 3) for i in range(3)]


def swap_neighbours(records: Records) -> None:
    shard = records[NAMES[1]]
    shard[4], shard[5] = shard[5], shard[4]


def double(records: Records) -> None:
    records[NAMES[1]][7] = records[NAMES[1]][8]


def turn(records: Records) -> None:
    records[NAMES[0]][:-1] = records[NAMES[0]][-2::-1]


def swap_between_shards(records: Records) -> None:
    one, other = records[NAMES[0]], records[NAMES[2]]
    one[3], other[3] = other[3], one[3]


def take_a_strangers(records: Records) -> None:
    records[NAMES[1]][0] = record("k/99999", {"array": np.zeros((3, 2), "f4")})


DISORDERS = [swap_neighbours, double, turn, swap_between_shards, take_a_strangers]


def write_equal_records(path: Path, compression: str = "none", seed: int = 1) -> Path:
    rng = np.random.default_rng(seed)
    return write_dataset(path, [rng.random((3, 2)).astype("f4") for _ in range(COUNT)], compression=compression)


def records_of(path: Path) -> Records:
    found: Records = {}
    for file in NAMES:
        data = (path / file).read_bytes()
        found[file] = [data[r.offset : r.offset + r.size] for r in shard_format.read_records(path / file)]
    return found


def disorder(path: Path, change: Callable[[Records], None]) -> None:
    """Change the places of records, but not the last of a shard, which its tail would show."""
    records = records_of(path)
    before = {file: (sum(map(len, each)), each[-1]) for file, each in records.items()}
    change(records)
    for file, each in records.items():
        assert (sum(map(len, each)), each[-1]) == before[file]
        (path / file).write_bytes(b"".join(each))


def array_sources(path: Path) -> Iterator[Callable[[], object]]:
    source = readers.ArraySource(path)
    yield lambda: list(source)
    yield lambda: [source[i] for i in range(COUNT)]
    yield lambda: source[:]
    yield lambda: source[random.Random(1).sample(range(COUNT), COUNT)]
    yield lambda: list(readers.ArraySource(path, features="array"))


@pytest.mark.parametrize("change", DISORDERS)
def test_an_array_source_names_the_record(change: Callable[[Records], None], tmp_path: Path) -> None:
    path = write_equal_records(tmp_path)
    before = records_of(path)
    disorder(path, change)
    after = records_of(path)
    with pytest.raises(DamageError, match=r"is not the one that was written there"):
        verify(path)
    wrong = [i * 30 + j for i, file in enumerate(NAMES) for j in range(30) if before[file][j] != after[file][j]]
    assert wrong
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


def test_skipping_leaves_out_what_is_in_the_wrong_place(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    path = write_equal_records(tmp_path)
    disorder(path, swap_between_shards)
    with pytest.warns(readers.DamageWarning, match="2 damaged or missing records left out"):
        dataset = readers.load_dataset(path, batch_size=8, on_corrupt="skip")
    keys = [key for batch in dataset for key in batch["key"].numpy()]
    assert sorted(keys) == [key_of(i).encode() for i in range(COUNT) if i not in (3, 63)]


def exchange(path: Path) -> None:
    one, other = path / NAMES[0], path / NAMES[2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def take_another_versions(path: Path) -> None:
    other = write_equal_records(path.parent / "other", readers.load_manifest(path).compression, seed=2)
    shutil.copy(other / NAMES[0], path / NAMES[0])


def fill_the_end_with_zeros(path: Path) -> None:
    shard = path / NAMES[0]
    shard.write_bytes(shard.read_bytes()[:-100] + bytes(100))


@pytest.mark.parametrize("change", [exchange, take_another_versions, fill_the_end_with_zeros])
def test_exchanged_older_and_half_copied_shards_show_before_the_first_batch(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    path = write_equal_records(tmp_path / "out")
    before = readers.ArraySource(path)
    change(path)
    message = rf"{NAMES[0]}: ends in the bytes [0-9a-f]{{16}}, expected [0-9a-f]{{16}} by the manifest"
    openings: list[Callable[[], object]] = [
        lambda: readers.load_dataset(path, batch_size=8),
        lambda: readers.load_dataset(path, split="train[:5]", shuffle=True),
        lambda: readers.ArraySource(path),
        lambda: before[0],
    ]
    for opening in openings:
        with pytest.raises(DamageError, match=message):
            opening()
    readers.load_dataset(path, split="train[35:50]", batch_size=8)  # not among these shards


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"a\n", lambda d: b"", lambda d: b"\\x" + d[2:]])
def test_files_of_keys_that_lie_are_refused(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = write_equal_records(tmp_path)
    keys = path / manifest.keys_name(NAMES[1])
    keys.write_bytes(change(keys.read_bytes()))
    for read in (lambda: readers.ArraySource(path)[40], lambda: readers.ArraySource(path).index_of("k/00040")):
        with pytest.raises(DamageError, match=r"train-00001-of-00003\.keys: "):
            read()
    keys.unlink()
    with pytest.raises(DamageError, match=r"00003\.keys: No such file"):
        readers.ArraySource(path)[40]
