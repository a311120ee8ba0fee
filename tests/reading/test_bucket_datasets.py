"""`load_dataset` of data sets in buckets: real servers on loopback, shards by way of a cache on the disk."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from converted import save
from fault_proxy import BUSY, CUT, LOST, RESET, STALL, Request, once, proxied
from object_servers import ObjectServer

import npy2tfrecord
import readers
from npy2tfrecord.errors import UsageError

ARRAYS, SHARDS = 96, 8


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 96 arrays of 4 KB in 8 shards."""
    directory = tmp_path_factory.mktemp("sets")
    data = save(directory / "data", {f"{i:03}": np.full((32, 32), i, np.float32) for i in range(ARRAYS)})
    npy2tfrecord.convert(data, directory / "out", num_shards=SHARDS, jobs=1)
    return directory / "out"


def keys(dataset: Any) -> list[bytes]:
    """The keys in order, each compared with its array."""
    found = []
    for example in dataset.as_numpy_iterator():
        for key, array in zip(np.atleast_1d(example["key"]), example["array"].reshape(-1, 32, 32), strict=True):
            assert (array == int(key)).all()
            found.append(key)
    return found


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


OPTIONS: list[dict[str, Any]] = [
    {},
    {"batch_size": 10},
    {"batch_size": 10, "shuffle": True, "seed": 3},
    {"split": "train[20:70]", "batch_size": 7, "drop_remainder": True},
    {"worker": (1, 3), "shuffle": 16, "seed": 1},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_gives_what_the_local_set_gives(local: Path, s3: ObjectServer, tmp_path: Path, options: dict[str, Any]) -> None:
    expected = readers.load_dataset(local, **options)
    dataset = readers.load_dataset(s3.upload(local), cache=str(tmp_path / "cache"), **options)
    assert dataset.element_spec == expected.element_spec
    assert dataset.cardinality() == expected.cardinality()
    for _ in range(2):  # epochs
        assert sorted(keys(dataset)) == sorted(keys(expected))
    if not options.get("shuffle"):
        assert keys(dataset) == keys(expected)
    used = {f"{shard.hash}-{shard.bytes}.tfrecord" for shard in readers.load_manifest(local).shards}
    assert set(kept(tmp_path / "cache")) <= used


@pytest.mark.parametrize("object_server", ["moto", "azurite", "google"], indirect=True)
def test_reads_from_every_vendors_server(local: Path, object_server: ObjectServer, tmp_path: Path) -> None:
    dataset = readers.load_dataset(object_server.upload(local), cache=str(tmp_path / "cache"), batch_size=10)
    assert keys(dataset) == keys(readers.load_dataset(local, batch_size=10))


def test_later_epochs_and_runs_ask_for_no_shard(
    local: Path, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.upload(local)
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the user's cache
        dataset = readers.load_dataset(url, batch_size=10)
        assert not proxy.asked(r"\.tfrecord")
        expected = keys(dataset)
        assert len(proxy.asked(r"\.tfrecord")) == SHARDS
        assert keys(dataset) == expected
        assert keys(readers.load_dataset(url, batch_size=10)) == expected
        assert len(proxy.asked(r"\.tfrecord")) == SHARDS
    assert len(kept(tmp_path / "npy2tfrecord")) == SHARDS


def test_sets_on_a_disk_and_in_a_bucket_are_read_as_one(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    one = keys(readers.load_dataset(local))
    paths = [str(local), s3.upload(local)]
    assert keys(readers.load_dataset(paths, cache=str(tmp_path / "cache"))) == 2 * one
    assert len(kept(tmp_path / "cache")) == SHARDS


def test_an_iterator_continues_from_a_checkpoint(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    url = s3.upload(local)

    def iterator(cache: str) -> Any:
        options = {"batch_size": 8, "shuffle": True, "seed": 1, "repeat": True, "deterministic": True}
        return iter(readers.load_dataset(url, cache=str(tmp_path / cache), **options))

    first = iterator("one")
    for _ in range(5):
        next(first)
    saved = tf.train.Checkpoint(iterator=first).save(str(tmp_path / "checkpoint"))
    expected = [next(first)["key"].numpy().tolist() for _ in range(12)]
    other = iterator("two")  # of another machine: nothing is there yet
    tf.train.Checkpoint(iterator=other).restore(saved)
    assert [next(other)["key"].numpy().tolist() for _ in range(12)] == expected


def test_what_was_used_longest_ago_goes_first(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    from readers.shards.cache import ShardCache

    shards = readers.load_manifest(s3.upload(local)).shards
    each = max(shard.bytes for shard in shards)
    cache = ShardCache(str(tmp_path / "cache"), 3 * each)
    held = [cache.hold(shard) for shard in shards[:3]]  # type: ignore[arg-type]
    for age, shard in enumerate(shards[:3]):
        os.utime(cache.path_of(shard), (1000 + age, 1000 + age))  # type: ignore[arg-type]
    os.close(held[1])  # the first one is older, but in use
    os.close(cache.hold(shards[3]))  # type: ignore[arg-type]
    there = [os.path.exists(cache.path_of(shard)) for shard in shards[:4]]  # type: ignore[arg-type]
    assert there == [True, False, True, True]
    for handle in (held[0], held[2]):
        os.close(handle)


def test_a_cache_smaller_than_the_set_gives_all_of_it(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    dataset = readers.load_dataset(
        s3.upload(local), cache=str(tmp_path / "cache"), cache_size=60_000, batch_size=10, shuffle=True, repeat=2
    )
    assert sorted(keys(dataset)) == sorted(2 * keys(readers.load_dataset(local)))


def test_a_full_cache_of_files_in_use_is_reported(
    local: Path, s3: ObjectServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from readers.shards.cache import ShardCache

    shards = readers.load_manifest(s3.upload(local)).shards
    cache = ShardCache(str(tmp_path), 1)
    with caplog.at_level(logging.WARNING, "readers"):
        handles = [cache.hold(shard) for shard in shards[:2]]  # type: ignore[arg-type]
    assert "all of its files are in use" in caplog.text
    assert len(kept(tmp_path)) == 2
    for handle in handles:
        os.close(handle)


FETCH = """
import os, sys
import readers
from readers.shards.cache import ShardCache

cache = ShardCache(sys.argv[2])
shards = readers.load_manifest(sys.argv[1]).shards
print("ready", flush=True)
sys.stdin.readline()
for shard in shards:
    os.close(cache.hold(shard))
"""


def test_two_processes_fetch_each_shard_once(
    local: Path, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.upload(local)
    with proxied(s3) as proxy:
        proxy.delay = 0.05
        proxy.server.use(monkeypatch)
        words = [sys.executable, "-c", FETCH, url, str(tmp_path)]
        processes = [
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.communicate("go\n", timeout=60)
            assert process.returncode == 0
        assert [request.method for request in proxy.asked(r"\.tfrecord")].count("GET") == SHARDS
    assert len(kept(tmp_path)) == SHARDS


def test_a_process_that_was_killed_leaves_nothing_in_the_way(
    local: Path, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.upload(local)
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        words = [sys.executable, "-c", FETCH, url, str(tmp_path)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            proxy.fault = once(STALL, r"\.tfrecord")
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            while not proxy.asked(r"\.tfrecord"):
                time.sleep(0.01)
            process.kill()
    s3.use(monkeypatch)
    assert [name for name in kept(tmp_path) if name.endswith(".part")]
    assert keys(readers.load_dataset(url, cache=str(tmp_path))) == keys(readers.load_dataset(local))
    assert all(name.endswith(".tfrecord") for name in kept(tmp_path))


@pytest.mark.parametrize("fault", [RESET, CUT, LOST, BUSY])
def test_faults_that_pass_are_not_seen(
    local: Path, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    url = s3.upload(local)
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        seen = set[str]()

        def first_time(request: Request) -> str:
            new = request.path not in seen
            seen.add(request.path)
            return fault if new else "pass"

        proxy.fault = first_time
        dataset = readers.load_dataset(url, cache=str(tmp_path / "cache"), batch_size=10)
        assert keys(dataset) == keys(readers.load_dataset(local, batch_size=10))


def test_an_answer_that_never_comes_ends_in_another_attempt(
    local: Path, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from npy2tfrecord.storage import objects

    monkeypatch.setattr(objects, "READ_SECONDS", 1)
    url = s3.upload(local)
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        proxy.fault = once(STALL, r"\.tfrecord")
        dataset = readers.load_dataset(url, cache=str(tmp_path / "cache"), batch_size=10)
        assert keys(dataset) == keys(readers.load_dataset(local, batch_size=10))


def test_a_wrong_shard_is_an_error_that_names_it(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    import obstore

    prefix = s3.new_prefix()
    url = s3.upload(local, prefix)
    name = readers.load_manifest(local).shards[2].file
    data = bytearray(local.joinpath(name).read_bytes())
    data[100] ^= 1
    obstore.put(s3.store(), f"{prefix}/{name}", bytes(data))
    dataset = readers.load_dataset(url, cache=str(tmp_path / "cache"))
    with pytest.raises(tf.errors.OpError, match=rf"{url}/{name}: it is not what was written"):
        keys(dataset)
    obstore.put(s3.store(), f"{prefix}/{name}", local.joinpath(name).read_bytes())
    assert keys(readers.load_dataset(url, cache=str(tmp_path / "cache"))) == keys(readers.load_dataset(local))


def test_a_file_that_lost_its_end_is_fetched_again(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    dataset = readers.load_dataset(s3.upload(local), cache=str(tmp_path))
    expected = keys(dataset)
    for number, name in enumerate(kept(tmp_path)):
        path = tmp_path / name
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(size // 2)
            file.truncate(size if number % 2 else size // 2)
    assert keys(readers.load_dataset(s3.upload(local), cache=str(tmp_path))) == expected


def test_options_that_make_no_sense_are_refused(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    url = s3.upload(local)
    with pytest.raises(UsageError, match=r"cache_size is for data sets in buckets"):
        readers.load_dataset(local, cache_size="1GB")
    with pytest.raises(UsageError, match=r"cache_size='much': expected a size"):
        readers.load_dataset(url, cache_size="much")
    with pytest.raises(UsageError, match=r"on_corrupt='skip' is for data sets on a disk"):
        readers.load_dataset(url, on_corrupt="skip", cache=str(tmp_path))
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(UsageError, match=r"file' is no directory"):
        readers.load_dataset(url, cache=str(tmp_path / "file"))
