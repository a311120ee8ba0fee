"""`verify` finds every damage and names it; `--source` and `--repair` go back to the sources.

`scripts/stress flip-bits` turns over every single bit of the shard of which a sample is taken here.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from converted import Command
from faults import tree

from npy2tfrecord import convert, verify
from npy2tfrecord.checking import verifier
from npy2tfrecord.errors import ConflictError, DamageError, UsageError
from npy2tfrecord.formats import manifest, manifest_parsing
from npy2tfrecord.formats.manifest import Manifest
from npy2tfrecord.formats.shard import read_records
from npy2tfrecord.storage.set_files import LocalFiles

FLIPS = int(os.environ.get("NPY2TFRECORD_STRESS_FLIPS", "2500"))  # 0: every bit
PART, PARTS = map(int, os.environ.get("NPY2TFRECORD_STRESS_PART", "0/1").split("/"))  # of every bit
SEED = int(os.environ.get("NPY2TFRECORD_STRESS_SEED", "") or random.SystemRandom().randrange(2**32))
OPTIONS = {"jobs": 1, "fsync": False, "num_shards": 3, "split": "train=0.7,val=0.3", "labels": "dirs"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(9)
    for i in range(60):
        (root / f"c{i % 3}").mkdir(exist_ok=True)
        np.save(root / f"c{i % 3}" / f"{i:02d}.npy", rng.standard_normal((4, 3)).astype("f4"))
    return root


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "out"
    convert(source, out, **OPTIONS)
    return out


@pytest.fixture
def out(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "out"))


@pytest.fixture
def chance() -> random.Random:
    print(f"seed {SEED}")  # noqa: T201  shown when the test fails
    return random.Random(SEED)


def spans(file: Path, compression: str = "none") -> list[tuple[int, int]]:
    """Where every record of a shard begins and ends."""
    return [(record.offset, record.offset + record.size) for record in read_records(str(file), compression)]


def finding(out: Path, made: Manifest, number: int = 0) -> list[str]:
    """What is said of one shard."""
    return verifier._check_shard(LocalFiles(str(out), links=False), made, made.shards[number])[1]


# --- one shard of 64 KiB ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of 64 KiB, with records of several sizes."""
    root = tmp_path_factory.mktemp("single")
    rng = np.random.default_rng(4)
    (root / "source").mkdir()
    for i, size in enumerate([*range(0, 3000, 50), 0]):
        np.save(root / "source" / f"{i:02d}.npy", rng.integers(0, 256, (size // 2, 1)).astype("u1"))
    free = 2**16 - sum(p.stat().st_size for p in convert_one(root).glob("*.tfrecord"))
    np.save(root / "source" / "99.npy", rng.integers(0, 256, (free - 105, 1)).astype("u1"))
    shutil.rmtree(root / "out")
    convert_one(root)
    return root / "out"


def convert_one(root: Path) -> Path:
    convert(root / "source", root / "out", jobs=1, fsync=False, num_shards=1)
    return root / "out"


def test_every_flipped_bit_is_found_in_its_record(single: Path, chance: random.Random) -> None:
    made = manifest_parsing.load(single)
    (shard,) = made.shards
    assert abs(shard.bytes - 2**16) < 100
    path = single / shard.file
    data, places = path.read_bytes(), spans(path)
    bits = range(8 * len(data))
    for number, (start, stop) in enumerate(places):
        mine = range(8 * start, 8 * stop)
        for bit in (
            mine[PART::PARTS] if not FLIPS else chance.sample(mine, min(len(mine), 1 + len(mine) * FLIPS // len(bits)))
        ):
            with path.open("r+b") as file:
                file.seek(bit // 8)
                file.write(bytes([data[bit // 8] ^ 1 << bit % 8]))
            (found,) = finding(single, made)
            assert found.startswith(f"{shard.file}: record {number} at offset {start}"), (bit, found)
            with path.open("r+b") as file:
                file.seek(bit // 8)
                file.write(data[bit // 8 : bit // 8 + 1])
    assert not finding(single, made)


def test_every_truncation_is_found_in_its_record(single: Path, chance: random.Random) -> None:
    made = manifest_parsing.load(single)
    (shard,) = made.shards
    path = single / shard.file
    data, places = path.read_bytes(), spans(path)
    stops = [stop for _, stop in places]
    sizes = (
        range(len(data))[PART::PARTS] if not FLIPS else sorted({*chance.sample(range(len(data)), 800), *stops[:-1], 0})
    )
    try:
        for size in reversed(sizes):
            os.truncate(path, size)
            (found,) = finding(single, made)
            number = sum(stop <= size for stop in stops)
            if size in {0, *stops}:
                assert f"there are {number} records" in found
                assert "behind its last line" in found
            else:
                assert found.startswith(f"{shard.file}: record {number} at offset {places[number][0]}"), (size, found)
    finally:
        path.write_bytes(data)


# --- records that are whole ---------------------------------------------------------------------


def swap_first_and_last(records: list[bytes]) -> list[bytes]:
    return [records[-1], *records[1:-1], records[0]]


WHOLE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "swapped": (swap_first_and_last, "record 0, key"),
    "turned round": (lambda records: records[::-1], "record 0, key"),
    "one doubled in the place of another": (lambda r: [*r[:4], r[2], *r[5:]], "record 4, key"),
    "one more": (lambda r: [*r[:4], r[3], *r[4:]], "there are more records"),
    "one less": (lambda r: [*r[:4], *r[5:]], "records, the manifest says"),
    "none": (lambda r: [], "there are 0 records"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_records_in_other_places_are_found(kind: str, out: Path, source: Path) -> None:
    change, told = WHOLE[kind]
    made = manifest_parsing.load(out)
    file = made.shards[1].file
    data = (out / file).read_bytes()
    records = [data[start:stop] for start, stop in spans(out / file)]
    assert len({len(record) for record in records}) == 1
    (out / file).write_bytes(b"".join(change(records)))
    with pytest.raises(DamageError, match=f"{file}: every record is whole") as caught:
        verify(out)
    assert told in str(caught.value)
    with pytest.raises(DamageError) as caught:
        verify(out, source=source)
    number = next((i for i, (a, b) in enumerate(zip(change(records), records, strict=False)) if a != b), None)
    if number is None:
        number = len(change(records))
    assert f"{file}: record {number}, key " in str(caught.value)
    assert f"is not what its source makes, {source}" in str(caught.value)


def test_records_of_other_lengths_are_named_by_the_index(single: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(single, tmp_path / "out"))
    made = manifest_parsing.load(out)
    path = out / made.shards[0].file
    data = path.read_bytes()
    records = [data[start:stop] for start, stop in spans(path)]
    at = next(i for i in range(5, len(records)) if len(records[i]) != len(records[i + 1]))
    records[at], records[at + 1] = records[at + 1], records[at]
    path.write_bytes(b"".join(records))
    (found,) = finding(out, made)
    assert f"of record {at}" in found


def test_shards_that_were_exchanged_are_found(out: Path, source: Path) -> None:
    made = manifest_parsing.load(out)
    first, second = (out / shard.file for shard in made.shards[:2])
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(DamageError) as caught:
        verify(out)
    assert f"\n  {first.name}: " in str(caught.value)
    assert f"\n  {second.name}: " in str(caught.value)
    verify(out, source=source, repair=True)
    assert (first.read_bytes(), second.read_bytes()) == (one, two)


@pytest.mark.parametrize("compression", ["gzip", "zlib"])
def test_damaged_compression_is_found(compression: str, source: Path, tmp_path: Path, chance: random.Random) -> None:
    out = tmp_path / "out"
    convert(source, out, compression=compression, num_shards=1, jobs=1, fsync=False)
    made = manifest_parsing.load(out)
    (shard,) = made.shards
    path = out / shard.file
    data = path.read_bytes()
    for bit in chance.sample(range(8 * len(data)), 300):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        (found,) = finding(out, made)
        assert found.startswith(f"{shard.file}: "), bit
    for size in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert finding(out, made)
        with pytest.raises(DamageError, match=shard.file):
            verify(out, source=source)
    path.write_bytes(data)
    verify(out, source=source)


# --- what lies beside the shards ----------------------------------------------------------------


def test_every_changed_byte_of_manifest_index_and_neighbours_is_found(out: Path, chance: random.Random) -> None:
    files = [name for name in tree(out) if not name.endswith(".tfrecord")]
    assert {"manifest.json", "features.json", "dataset_info.json", "label.labels.txt", "croissant.json"} <= set(files)
    for name in files:
        path = out / name
        data = path.read_bytes()
        places = range(len(data))[PART::PARTS] if not FLIPS else chance.sample(range(len(data)), min(len(data), 60))
        for place in places:
            changed = bytearray(data)
            changed[place] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            with pytest.raises((DamageError, UsageError), match=name.replace(".", r"\.")):
                verify(out)
        for wrong in (data[:-1], b"", data + b"\n", data + data):
            path.write_bytes(wrong)
            with pytest.raises((DamageError, UsageError), match=name.replace(".", r"\.")):
                verify(out)
        path.unlink()
        with pytest.raises((DamageError, UsageError), match=name.replace(".", r"\.")):
            verify(out)
        path.write_bytes(data)
    verify(out)


def test_names_that_are_not_of_the_set_are_found(out: Path) -> None:
    file = manifest_parsing.load(out).shards[0].file
    shutil.copy(out / file, out / f"{file}.1")
    with pytest.raises(DamageError, match=r"tfrecord\.1: not in the manifest"):
        verify(out)


@pytest.mark.parametrize("name", ["train-00001-of-00003.tfrecord", "index", "index/val-00000-of-00003.idx"])
def test_links_are_not_followed(out: Path, name: str) -> None:
    path = out / name
    path.rename(out.parent / "elsewhere")
    path.symlink_to(out.parent / "elsewhere")
    with pytest.raises(DamageError, match=name):
        verify(out)


# --- going back to the sources ------------------------------------------------------------------


def test_repair_gives_the_same_bytes_again(
    out: Path, source: Path, converted: Path, chance: random.Random, command: Command
) -> None:
    expected = tree(converted)
    names = [name for name in expected if name != "manifest.json"]
    for _ in range(6):
        for name in chance.sample(names, 3):
            data = bytearray(expected[name])
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            (out / name).write_bytes(data[: chance.choice([len(data), len(data) // 2])])
        intact = {name: (out / name).stat().st_ino for name in names if (out / name).read_bytes() == expected[name]}
        assert command("verify", out).code == 7
        command.ok("verify", out, "--repair", "--source", source)
        assert tree(out) == expected
        for name, inode in intact.items():
            if name.endswith(".tfrecord") and {manifest.index_name(name), manifest.keys_name(name)} <= intact.keys():
                assert (out / name).stat().st_ino == inode, "an intact shard was written again"
        command.ok("verify", out, "--source", source)


def test_repair_never_takes_what_the_sources_were_not(out: Path, source: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(source, tmp_path / "other"))
    for path in other.rglob("*.npy"):
        np.save(path, np.zeros((4, 3), "f4"))
    file = manifest_parsing.load(out).shards[0].file
    (out / file).write_bytes(b"")
    before = tree(out)
    with pytest.raises(ConflictError, match=f"{file} is lost or damaged"):
        verify(out, source=other, repair=True)
    assert {name: data for name, data in tree(out).items() if not name.startswith(".npy2tfrecord")} == before


def test_changed_values_are_told_by_their_source(source: Path, tmp_path: Path, command: Command) -> None:
    mine, out = Path(shutil.copytree(source, tmp_path / "mine")), tmp_path / "out"
    words = ("convert", "--num-shards", 3, mine, out)
    command.ok(*words)
    path = mine / "c1" / "01.npy"
    status = path.stat()
    np.save(path, np.load(path) + 1)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "nothing left to do" in command.ok(*words).out  # sizes and names alone are looked at
    before = tree(out)
    told = command("verify", out, "--source", mine)
    assert told.code == 7
    assert f"key 'c1/01', is not what its source makes, {path}" in told.err
    command.ok("verify", out)
    assert tree(out) == before
    path.unlink()
    assert "60 source files then, 59 now" in command("verify", out, "--source", mine).err


def test_repair_says_what_it_repaired(out: Path, source: Path, command: Command) -> None:
    file = manifest_parsing.load(out).shards[0].file
    (out / file).write_bytes(b"")
    (out / "features.json").unlink()
    told = command.ok("verify", out, "--repair", "--source", source).out
    assert re.search(rf"Repaired:\n  features.json: .*\n  {file}: .*\n.* are whole\n", told), told
    assert "Repaired" not in command.ok("verify", out, "--repair", "--source", source).out
    (out / file).write_bytes(b"")
    (told,) = json.loads(command.ok("verify", out, "--repair", "--json", "--source", source).out)["repaired"]
    assert told.startswith(f"{file}: ")


def test_repair_needs_the_sources(out: Path, source: Path, command: Command) -> None:
    with pytest.raises(UsageError, match="repair needs the sources"):
        verify(out, repair=True)
    command.refused(2, "OUT is missing", "verify OUT --source SOURCE...", words=("verify", "--source", source, out))


# --- the readers --------------------------------------------------------------------------------


def read_by_number(out: Path) -> list[tuple[str, bytes]]:
    import readers

    source = readers.ArraySource(out, split="train+val" if (out / "val-00000-of-00003.tfrecord").exists() else None)
    try:
        return [(example["key"], example["array"].tobytes()) for example in source]
    finally:
        source.close()


def read_in_pipeline(out: Path) -> list[tuple[str, bytes]]:
    import readers

    dataset = readers.load_dataset(out, shuffle=False, deterministic=True)
    return [(e["key"].decode(), e["array"].tobytes()) for e in dataset.as_numpy_iterator()]


def read_train(reader: str, out: Path) -> list[bytes]:
    """The keys of one of two splits."""
    import readers

    if reader == "by number":
        return [example["key"].encode() for example in readers.ArraySource(out, split="train")]
    corrupt = "skip" if reader == "skipping" else "raise"
    dataset = readers.load_dataset(out, split="train", on_corrupt=corrupt, shuffle=False, deterministic=True)
    return [example["key"] for example in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("kind", WHOLE)
def test_reading_by_number_takes_no_whole_records_in_other_places(kind: str, out: Path) -> None:
    change, _ = WHOLE[kind]
    file = manifest_parsing.load(out).splits["train"][1].file
    data = (out / file).read_bytes()
    records = [data[start:stop] for start, stop in spans(out / file)]
    read_train("by number", out)
    (out / file).write_bytes(b"".join(change(records)))
    with pytest.raises(
        Exception, match=f"{file}: .* bytes, expected|{file}: ends in the bytes|{file}.* a whole record"
    ) as caught:
        read_train("by number", out)
    assert type(caught.value).__name__ in ("DamageError", "InvalidArgumentError")
    with pytest.raises(DamageError, match=file):
        verify(out)


@pytest.mark.parametrize(
    ("reader", "part"),
    [
        ("by number", "shard"),
        ("by number", "index"),
        ("by number", "keys"),
        ("skipping", "shard"),
        ("skipping", "index"),
    ],
)
def test_a_pipe_does_not_hang_the_readers(part: str, reader: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import readers
    from readers.shards import presence

    file = manifest_parsing.load(out).splits["train"][0].file
    path = out / {"shard": file, "index": manifest.index_name(file), "keys": manifest.keys_name(file)}[part]
    path.unlink()
    os.mkfifo(path)
    skips = (reader, part) == ("skipping", "shard")  # a shard that can't be read is left out
    said = f"{path.name}.*: not a regular file"
    with pytest.warns(readers.DamageWarning, match=said) if skips else pytest.raises(DamageError, match=said):
        read_train(reader, out)
    # As if it were put there after the sizes had been looked at.
    monkeypatch.setattr(presence, "_problem", lambda *shard, **how: "")
    with pytest.warns(readers.DamageWarning, match=said) if skips else pytest.raises(DamageError, match=said):
        read_train(reader, out)


def test_a_pipe_in_the_place_of_an_index_does_not_keep_a_damaged_record_from_being_told(out: Path) -> None:
    import tensorflow as tf

    file = manifest_parsing.load(out).splits["train"][0].file
    data = bytearray((out / file).read_bytes())
    data[len(data) // 2] ^= 1
    (out / file).write_bytes(data)
    index = out / manifest.index_name(file)
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"record \d+ of .*{file} is damaged or missing"):
        read_train("pipeline", out)


@pytest.mark.parametrize(("read", "count"), [(read_by_number, 300), (read_in_pipeline, 4)])
def test_readers_never_give_less_or_other_records_in_silence(
    read: Callable[[Path], list[tuple[str, bytes]]], count: int, single: Path, tmp_path: Path, chance: random.Random
) -> None:
    out = Path(shutil.copytree(single, tmp_path / "out"))
    path = next(out.glob("*.tfrecord"))
    data = path.read_bytes()
    places = spans(path)
    expected = read(out)
    keys = [key.encode() for key, _ in expected]
    assert len(expected) == len(places)
    damaged: list[bytes] = []
    for _ in range(count):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    damaged += [data.replace(name, name[:-1] + b"\xaf", 1) for name in (b"array/", b"key", keys[7])]  # no UTF-8 now
    damaged += [data[:n] for n in (0, 1, places[3][0], places[3][0] + 7, places[3][1] - 1, len(data) - 1)]
    damaged += [data[: places[-1][0]], data + data[places[-1][0] :], data[places[0][1] :]]
    for wrong in damaged:
        path.write_bytes(wrong)
        with pytest.raises(Exception, match=r"train-00000-of-00001") as caught:  # TensorFlow has errors of its own
            read(out)
        assert not isinstance(caught.value, AssertionError)
    path.write_bytes(data)
    assert read(out) == expected
