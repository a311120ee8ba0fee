"""Data sets written to buckets: the bytes of a local conversion, whatever happens on the way."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, save
from fault_proxy import BUSY, CUT, LOST, PASS, RESET, FaultProxy, Request, proxied
from faults import tree
from object_servers import ObjectServer

import npy2tfrecord
from npy2tfrecord.conversion import converter
from npy2tfrecord.errors import OutputError
from npy2tfrecord.formats.manifest import Manifest
from npy2tfrecord.storage import objects
from npy2tfrecord.storage.objects import Prefix

COMMAND = [sys.executable, "-m", "npy2tfrecord"]
SHARDS = 5
ROUNDS = int(os.environ.get("NPY2TFRECORD_STRESS_ROUNDS", "6"))
SEED = int(os.environ.get("NPY2TFRECORD_STRESS_SEED", "") or random.SystemRandom().randrange(2**32))
FAULTS = (RESET, BUSY, CUT, LOST)

Contents = dict[str, bytes]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    arrays = {f"{name}/{i:03}": rng.random((int(rng.integers(1, 40)), 8)) for name in "ab" for i in range(50)}
    return save(tmp_path_factory.mktemp("source"), arrays)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What a conversion on this machine writes, but `.npy2tfrecord`, which is empty in the end."""
    out = tmp_path_factory.mktemp("whole") / "out"
    npy2tfrecord.convert(source, out, num_shards=SHARDS)
    return tree(out)


def new_place(server: ObjectServer) -> str:
    return f"{server.url}/{server.new_prefix()}/out"


def contents(url: str) -> Contents:
    place = Prefix(url)
    return {info.name: place.read(info.name, limit=info.size, etag=info.etag) for info in place.list_objects()}


def words(source: Path, url: str, *options: object) -> list[str]:
    return [*COMMAND, "convert", *map(str, options), "--num-shards", str(SHARDS), str(source), url]


def test_every_file_has_the_bytes_of_a_local_conversion(
    object_server: ObjectServer, source: Path, tmp_path: Path
) -> None:
    options = {"labels": "dirs", "split": "train=0.8,val=0.2", "num_shards": 3, "stats": True}
    for compression in ("none", "gzip"):
        url, out = new_place(object_server), tmp_path / compression
        made = npy2tfrecord.convert(source, url, compression=compression, read_back=True, **options)
        assert made == npy2tfrecord.convert(source, out, compression=compression, **options)
        assert contents(url) == tree(out)


def test_worker_processes_put_their_shards(
    command: Command, s3: ObjectServer, source: Path, whole: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("npy2tfrecord.conversion.converter._SECONDS_FOR_PROCESSES", 0)
    url = new_place(s3)
    command.ok("convert", "--jobs", 2, "--num-shards", SHARDS, source, url)
    assert contents(url) == whole


def test_a_finished_set_is_left_alone(command: Command, faulty: FaultProxy, source: Path) -> None:
    url = new_place(faulty.server)
    command.ok("convert", "--num-shards", SHARDS, source, url)
    faulty.requests.clear()
    assert "nothing left to do" in command.ok("convert", "--num-shards", SHARDS, source, url).out
    assert {request.method for request in faulty.requests} <= {"GET", "HEAD"}
    assert not faulty.asked(r"\.(tfrecord|idx|keys)$")


def test_other_data_and_other_objects_are_not_touched(command: Command, s3: ObjectServer, source: Path) -> None:
    url = new_place(s3)
    command.ok("convert", "--num-shards", SHARDS, source, url)
    before = contents(url)
    command.refused(6, "num_shards is 5 there, 6 now", words=("convert", "--num-shards", 6, source, url))
    assert contents(url) == before
    above = url.removesuffix("/out")
    command.refused(6, "holds other objects (out/", words=("convert", source, above))
    assert contents(url) == before


def test_overwrite_replaces_a_set_and_leaves_nothing_of_it(
    command: Command, s3: ObjectServer, source: Path, whole: Contents
) -> None:
    url = new_place(s3)
    command.ok("convert", "--num-shards", 8, "--split", "train=0.5,val=0.5", "--labels", "dirs", source, url)
    command.ok("convert", "--overwrite", "--num-shards", SHARDS, source, url)
    assert contents(url) == whole


def test_a_dry_run_puts_nothing(command: Command, faulty: FaultProxy, source: Path) -> None:
    command.ok("convert", "--dry-run", source, new_place(faulty.server))
    assert {request.method for request in faulty.requests} <= {"GET", "HEAD"}


def test_a_lost_shard_is_put_again(command: Command, s3: ObjectServer, source: Path, whole: Contents) -> None:
    url = new_place(s3)
    command.ok("convert", "--num-shards", SHARDS, source, url)
    shards = sorted(name for name in whole if name.endswith(".tfrecord"))
    Prefix(url).delete([shards[0], f"index/{shards[2].removesuffix('.tfrecord')}.keys"])
    Prefix(url).put(shards[3], whole[shards[3]][:-1])
    command.ok("convert", "--num-shards", SHARDS, source, url)
    assert contents(url) == whole


def test_a_repair_by_another_compressor_replaces_the_manifest(
    s3: ObjectServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_place(s3)
    npy2tfrecord.convert(source, url, num_shards=SHARDS)
    Prefix(url).delete(["train-00000-of-00005.tfrecord"])
    repaired = converter.repaired_manifest

    def by_another(*arguments: Any) -> Manifest:
        made = repaired(*arguments)
        return replace(made, sources={**made.sources, "compressors": ["another 1.0"]})

    monkeypatch.setattr(converter, "repaired_manifest", by_another)
    made = npy2tfrecord.convert(source, url, num_shards=SHARDS)
    assert contents(url)["manifest.json"] == made.encode()
    assert made.sources["compressors"] == ["another 1.0"]


def test_bad_sources_leave_nothing(command: Command, s3: ObjectServer, tmp_path: Path) -> None:
    save(tmp_path / "in", {f"{i}": np.arange(100) for i in range(4)})
    with open(tmp_path / "in" / "2.npy", "r+b") as file:
        file.truncate(500)
    url = new_place(s3)
    command.refused(4, "2.npy", words=("convert", tmp_path / "in", url))
    assert contents(url) == {}


def test_sets_are_merged_into_a_bucket(command: Command, s3: ObjectServer, source: Path, tmp_path: Path) -> None:
    for name in "ab":
        command.ok("convert", "--include", f"{name}/*", source, tmp_path / name)
    sets = [tmp_path / "a", tmp_path / "b"]
    command.ok("merge", "--num-shards", 2, "--compression", "gzip", *sets, tmp_path / "merged")
    url = new_place(s3)
    command.ok("merge", "--num-shards", 2, "--compression", "gzip", *sets, url)
    assert contents(url) == tree(tmp_path / "merged")


# --- stops and faults -------------------------------------------------------------------------------------------------


def test_a_stopped_run_resumes_and_reads_no_shard(
    faulty: FaultProxy, source: Path, whole: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0)
    monkeypatch.setattr(objects, "_CLIENT_RETRIES", 0)
    url = new_place(faulty.server)
    faulty.fault = lambda request: BUSY if "00003-of" in request.path and request.method == "PUT" else PASS
    with pytest.raises(OutputError, match=r"the server answers 503 .*Run the same command again to resume"):
        npy2tfrecord.convert(source, url, num_shards=SHARDS, jobs=1)
    assert "manifest.json" not in contents(url)
    faulty.fault = lambda _: PASS
    faulty.requests.clear()
    npy2tfrecord.convert(source, url, num_shards=SHARDS, jobs=1)
    asked = [(request.method, request.path.rpartition("/")[2]) for request in faulty.asked(r"\.tfrecord$")]
    assert asked == [("PUT", f"train-0000{i}-of-00005.tfrecord") for i in (3, 4)]
    assert contents(url) == whole


@pytest.mark.parametrize("fault", FAULTS)
def test_each_request_may_fail(faulty: FaultProxy, source: Path, tmp_path: Path, fault: str) -> None:
    """A fault at each request in turn (at every third but for the worst): all is as if nothing had been."""
    npy2tfrecord.convert(source, tmp_path / "out", num_shards=1)
    expected, asked = tree(tmp_path / "out"), None
    for number in range(100) if fault == LOST else range(FAULTS.index(fault), 100, 3):
        if asked is not None and number >= asked:
            break
        faulty.requests.clear()
        faulty.fault = lambda request, number=number, fault=fault: fault if request.number == number else PASS
        url = new_place(faulty.server)
        npy2tfrecord.convert(source, url, num_shards=1, jobs=1)
        asked = len(faulty.requests)
        faulty.fault = lambda _: PASS
        assert contents(url) == expected, (number, fault)
    assert asked is not None


def test_killed_runs_resume(s3: ObjectServer, source: Path, whole: Contents, tmp_path: Path) -> None:
    chance, url, scratch = random.Random(SEED), new_place(s3), tmp_path / "scratch"
    print(f"seed {SEED}")  # noqa: T201  shown when the test fails
    for _ in range(ROUNDS):
        run = subprocess.Popen(words(source, url, "--scratch", scratch), stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.2, 0.8))
        run.kill()
        run.wait()
        there = contents(url)
        if "manifest.json" in there:
            assert {name: data for name, data in there.items() if not name.startswith(".npy2tfrecord")} == whole
        for name, data in there.items():  # nothing partial is ever visible
            assert name.startswith(".npy2tfrecord/") or data == whole[name], name
    subprocess.run(words(source, url, "--scratch", scratch), check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert contents(url) == whole
    assert list(scratch.iterdir()) == []  # also of those that were killed


def test_a_signal_removes_scratch(faulty: FaultProxy, source: Path, whole: Contents, tmp_path: Path) -> None:
    url, scratch = new_place(faulty.server), tmp_path / "scratch"
    faulty.fault = lambda request: "stall" if "00002-of" in request.path else PASS
    run = subprocess.Popen(words(source, url, "--scratch", scratch), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not faulty.asked("00002-of"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    assert "run the same command again to resume" in run.communicate(timeout=60)[1]
    assert run.returncode == 128 + signal.SIGTERM
    assert list(scratch.iterdir()) == []
    faulty.fault = lambda _: PASS
    subprocess.run(words(source, url), check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert contents(url) == whole


# --- several writers --------------------------------------------------------------------------------------------------


def test_two_runs_of_one_plan_make_one_set(s3: ObjectServer, source: Path, whole: Contents) -> None:
    for _ in range(2):
        url = new_place(s3)
        runs = [subprocess.Popen(words(source, url), stdout=subprocess.DEVNULL) for _ in range(3)]
        assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
        assert contents(url) == whole


def test_of_two_plans_one_is_refused(s3: ObjectServer, source: Path, tmp_path: Path) -> None:
    expected = {}
    for seed in (0, 1):
        npy2tfrecord.convert(source, tmp_path / str(seed), num_shards=SHARDS, seed=seed)
        expected[seed] = tree(tmp_path / str(seed))
    for _ in range(3):
        url = new_place(s3)
        runs = [
            subprocess.Popen(words(source, url, "--seed", seed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for seed in (0, 1)
        ]
        said = [run.communicate(timeout=60)[1].decode() for run in runs]
        codes = [run.returncode for run in runs]
        assert sorted(codes) == [0, 6], said
        assert contents(url) == expected[codes.index(0)]


def _convert_disturbed(server: ObjectServer, source: Path, url: str, name: str, data: bytes) -> list[str]:
    """Convert to `url`, while another one puts an object before the list that shows all shards; the requests after."""
    import obstore

    since: list[int] = []

    def fault(request: Request) -> str:
        is_list = re.search("list-type|comp=list", request.path)
        if not since and is_list and any("00004-of-00005.tfrecord" in each.path for each in proxy.requests):
            since.append(request.number)
            obstore.put(server.store(), f"{Prefix(url).path}/{name}", data)
        return PASS

    with proxied(server) as proxy, pytest.MonkeyPatch.context() as patch:
        proxy.server.use(patch)
        proxy.fault = fault
        npy2tfrecord.convert(source, url, num_shards=SHARDS, jobs=1)
        return [request.path for request in proxy.requests[since[0] :]]


def test_the_same_bytes_with_another_etag_are_read(azurite: ObjectServer, source: Path, whole: Contents) -> None:
    url, shard = new_place(azurite), "train-00001-of-00005.tfrecord"
    asked = _convert_disturbed(azurite, source, url, shard, whole[shard])
    assert any(shard in path for path in asked)
    with pytest.MonkeyPatch.context() as patch:
        azurite.use(patch)
        assert contents(url) == whole


def test_other_bytes_in_a_shard_keep_the_manifest_away(s3: ObjectServer, source: Path, whole: Contents) -> None:
    url, shard = new_place(s3), "train-00001-of-00005.tfrecord"
    for data in (whole[shard][:-1], whole[shard][:-1] + b"x"):
        with pytest.raises(OutputError, match=f"{shard} is not there as it was put"):
            _convert_disturbed(s3, source, url, shard, data)
        Prefix(url).delete(["train-00004-of-00005.tfrecord"])
        assert "manifest.json" not in contents(url)
    npy2tfrecord.convert(source, url, num_shards=SHARDS)
    assert contents(url) == whole


def test_a_store_that_creates_twice_is_refused(
    command: Command, moto: ObjectServer, source: Path, whole: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxied(moto) as proxy:
        proxy.server.use(monkeypatch)
        proxy.without = "if-none-match"
        url = new_place(proxy.server)
        arguments = ("convert", "--num-shards", SHARDS, source, url)
        command.refused(2, "creates an object that is there already", "--assume-single-writer", words=arguments)
        assert contents(url) == {}
        command.ok(*arguments, "--assume-single-writer")
        assert contents(url) == whole


def test_parts_need_nothing_but_the_bucket(s3: ObjectServer, source: Path, whole: Contents, tmp_path: Path) -> None:
    url = new_place(s3)
    runs = [
        subprocess.Popen(
            words(source, url, "--part", f"{number}/3", "--scratch", tmp_path / str(number)), stdout=subprocess.DEVNULL
        )
        for number in (1, 2)
    ]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    made = npy2tfrecord.convert(source, url, num_shards=SHARDS, part="3/3")
    assert [shard.file for shard in made.shards] == ["train-00002-of-00005.tfrecord"]
    there = contents(url)
    assert "manifest.json" not in there
    shards = {name for name in there if name.endswith(".tfrecord")}
    assert shards == {name for name in whole if name.endswith(".tfrecord")}
    etags = {info.name: info.etag for info in Prefix(url).list_objects() if info.name in shards}
    npy2tfrecord.convert(source, url, num_shards=SHARDS)
    assert contents(url) == whole
    assert etags == {info.name: info.etag for info in Prefix(url).list_objects() if info.name in shards}
    assert npy2tfrecord.convert(source, url, num_shards=SHARDS, part="1/3").examples == 100


def test_a_part_without_whole_sources_leaves_nothing(command: Command, s3: ObjectServer, tmp_path: Path) -> None:
    save(tmp_path / "in", {"a": np.arange(3), "b": np.arange(3.0)})
    url = new_place(s3)
    command.refused(4, "dtype", words=("convert", "--part", "1/2", tmp_path / "in", url))
    assert contents(url) == {}


def test_workers_of_a_cluster_have_scratch_of_their_own(
    s3: ObjectServer, source: Path, whole: Contents, tmp_path: Path
) -> None:
    url = new_place(s3)
    subprocess.run(
        words(source, url, "--backend", "dask", "--jobs", 2, "--scratch", tmp_path / "scratch"),
        check=True, stdout=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert contents(url) == whole
    assert list(tmp_path.joinpath("scratch").iterdir()) == []


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected", "options"),
    [
        (2, "scratch and assume_single_writer go with an output in a bucket", ("--scratch", ".", "SOURCE", "out")),
        (2, "expected no empty part", ("SOURCE", "s3://bucket/a//b")),
    ],
)
def test_what_buckets_cannot_do_is_refused(
    command: Command, code: int, expected: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    save(tmp_path, {"0": np.arange(3)})
    arguments = [str(tmp_path) if word == "SOURCE" else word for word in options]
    command.refused(code, expected, words=("convert", *arguments))


def test_scratch_without_room_is_reported(
    command: Command, s3: ObjectServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: Callable[[str], os.statvfs_result] = lambda _: os.statvfs_result((4096, 4096, 9, 1, 1, 9, 9, 9, 0, 255))  # noqa: E731
    monkeypatch.setattr(os, "statvfs", full)
    url = new_place(s3)
    command.refused(5, "4096 are free on the disk", words=("convert", source, url))
    assert "manifest.json" not in contents(url)


def test_a_missing_bucket_is_reported(command: Command, s3: ObjectServer, source: Path) -> None:
    command.refused(5, "no such bucket", words=("convert", source, "s3://no-such-bucket/x"))
