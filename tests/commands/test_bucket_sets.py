"""info, show, verify and export of data sets in buckets, on real servers on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from arrays import tree
from converted import Command, save
from fault_proxy import DENIED, PASS, proxied
from object_servers import ObjectServer, forget_clouds, free_ports

import npy2tfrecord
from npy2tfrecord.errors import DamageError, UsageError

COMPRESSIONS = ["none", "gzip", "zlib"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set of 40 arrays in 3 shards, by compression, and the arrays themselves as `data`."""
    directory = tmp_path_factory.mktemp("sets")
    data = save(directory / "data", {f"{'ab'[i % 2]}/{i:03}": np.full((i % 4 + 1, 5), i, "i2") for i in range(40)})
    for compression in COMPRESSIONS:
        npy2tfrecord.convert(
            data, directory / compression, num_shards=3, labels="dirs", compression=compression, jobs=1
        )
    return {name: directory / name for name in ("data", *COMPRESSIONS)}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_commands_say_of_a_bucket_what_they_say_of_a_disk(
    local: dict[str, Path], s3: ObjectServer, command: Command, tmp_path: Path, compression: str
) -> None:
    here, url = local[compression], s3.upload(local[compression])
    for words in (["info", "--shards"], ["info", "--json"]):
        said = command.ok(*words, url).out
        assert said.replace(url, str(here)) == command.ok(*words, here).out
    for words in (["show"], ["show", "--json"]):
        assert command.ok(*words, url, "b/033").out == command.ok(*words, here, "b/033").out
    command.refused(2, f"{url} has no example with the key 'c/1'", words=("show", url, "c/1"))
    assert "all 40 examples in 3 shards are whole" in command.ok("verify", url).out
    assert command.ok("verify", url, "--source", local["data"]).out.startswith(url)
    assert "3 shards have their sizes and last bytes" in command.ok("verify", "--quick", url).out
    command.ok("export", url, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(local["data"])


def test_every_vendors_server_is_read(local: dict[str, Path], object_server: ObjectServer, tmp_path: Path) -> None:
    url = object_server.upload(local["none"])
    manifest = npy2tfrecord.verify(url)
    assert npy2tfrecord.verify(url, quick=True).examples == manifest.examples == 40
    assert npy2tfrecord.export(url, tmp_path / "back") == 40
    assert tree(tmp_path / "back") == tree(local["data"])


def test_verify_reads_each_shard_once_and_quick_none(
    local: dict[str, Path], s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.upload(local["none"])
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        npy2tfrecord.verify(url)
        read = [request for request in proxy.asked(r"\.tfrecord") if request.method == "GET"]
        assert len(read) == 3
        before = len(proxy.requests)
        npy2tfrecord.verify(url, quick=True)
        ranges = [request.range for request in proxy.requests[before:] if request.path.endswith(".tfrecord")]
        assert len(ranges) == 3
        for asked in ranges:
            first, last = map(int, str(asked).removeprefix("bytes=").split("-"))
            assert last - first == 7


def test_damage_in_a_bucket_is_found(local: dict[str, Path], s3: ObjectServer, command: Command) -> None:
    import obstore

    prefix, store = s3.new_prefix(), s3.store()
    url = s3.upload(local["none"], prefix)
    shard = sorted(local["none"].glob("*.tfrecord"))[1]
    data = shard.read_bytes()
    changed = data[:60] + bytes([data[60] ^ 1]) + data[61:]
    obstore.put(store, f"{prefix}/{shard.name}", changed)
    command.refused(7, f"{url} is damaged", f"{shard.name}: record 0 at offset 0", words=("verify", url))
    command.ok("verify", "--quick", url)  # which reads no record
    obstore.put(store, f"{prefix}/{shard.name}", data[:-1])
    command.refused(7, f"{shard.name}: it has {len(data) - 1} bytes", words=("verify", "--quick", url))
    obstore.delete(store, f"{prefix}/{shard.name}")
    for words in (("verify", url), ("verify", "--quick", url)):
        command.refused(7, f"{shard.name}: no such object", words=words)
    obstore.put(store, f"{prefix}/{shard.name}", data)
    obstore.put(store, f"{prefix}/train-00000-of-00009.tfrecord", data)
    for words in (("verify", url), ("verify", "--quick", url)):
        command.refused(7, "train-00000-of-00009.tfrecord: not in the manifest", words=words)


def test_quick_is_for_a_disk_too(local: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    out = shutil.copytree(local["none"], tmp_path / "out")
    npy2tfrecord.verify(out, quick=True)
    shard = sorted(out.glob("*.tfrecord"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamageError, match=rf"{shard.name}: its last bytes are"):
        npy2tfrecord.verify(out, quick=True)
    with pytest.raises(UsageError, match="--quick reads no records"):
        npy2tfrecord.verify(out, quick=True, source=local["data"])


def run(*words: str, **environment: str) -> tuple[int, str, float]:
    """The exit code of a command in a process of its own, its message and how long it took."""
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "npy2tfrecord", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )
    return process.returncode, process.stderr, time.monotonic() - started


def test_what_is_wrong_is_said_within_seconds(
    local: dict[str, Path], s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3.upload(local["none"])
    (port,) = free_ports(1)
    cases = {
        "there is no such bucket": run("info", "s3://no-such-bucket/set"),
        "nothing is there": run("info", f"{s3.url}/no-such-set"),
        "the server denies it": run("info", url, AWS_SECRET_ACCESS_KEY="wrong"),
        "no connection to the server": run("info", url, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}"),
        "AWS_ENDPOINT_URL is no URL": run("info", url, AWS_ENDPOINT_URL="nonsense"),
    }
    forget_clouds(monkeypatch)
    cases["no credentials are set"] = run("info", url)
    for expected, (code, message, seconds) in cases.items():
        assert code == 2, (expected, message)
        assert expected in message, (expected, message)
        assert "Traceback" not in message
        assert "test-secret" not in message
        assert seconds < 30, (expected, seconds)


def test_a_set_in_a_bucket_that_may_not_be_listed_is_read(
    local: dict[str, Path], s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import readers

    url = s3.upload(local["none"])
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        proxy.fault = lambda request: DENIED if "list-type" in request.path else PASS
        assert len(list(readers.ArraySource(url))) == 40


def test_damage_in_a_bucket_is_repaired(local: dict[str, Path], s3: ObjectServer, command: Command) -> None:
    import obstore

    for name in ("lost shard", "damaged shard", "lost index", "lost keys"):
        prefix, store = s3.new_prefix(), s3.store()
        url = s3.upload(local["none"], prefix)
        shard = sorted(local["none"].glob("*.tfrecord"))[1]
        if name == "damaged shard":
            data = shard.read_bytes()
            obstore.put(store, f"{prefix}/{shard.name}", data[:60] + bytes([data[60] ^ 1]) + data[61:])
        elif name == "lost shard":
            obstore.delete(store, f"{prefix}/{shard.name}")
        else:
            obstore.delete(store, f"{prefix}/index/{shard.stem}.{'idx' if 'index' in name else 'keys'}")
        said = command.ok("verify", "--repair", url, "--source", local["data"]).out
        assert said.startswith("Repaired:\n  "), name
        assert "all 40 examples in 3 shards are whole" in said
        command.ok("verify", url)
        there = {
            path["path"].removeprefix(f"{prefix}/"): bytes(obstore.get(store, path["path"]).bytes())
            for page in obstore.list(store, prefix)
            for path in page
        }
        assert there == tree(local["none"]), name


def test_pages_and_previews_show_a_set_in_a_bucket(
    local: dict[str, Path], s3: ObjectServer, command: Command, tmp_path: Path
) -> None:
    import readers

    url = s3.upload(local["none"])
    command.ok("info", "--html", tmp_path / "page.html", url)
    assert url in tmp_path.joinpath("page.html").read_text()
    assert str(readers.preview(url, 4)) == str(readers.preview(local["none"], 4))
    assert len(readers.preview(url, 4)._repr_html_()) == len(readers.preview(local["none"], 4)._repr_html_())


def test_a_prefix_of_data_sets_is_read_as_a_folder_of_them(local: dict[str, Path], s3: ObjectServer) -> None:
    import readers

    prefix = s3.new_prefix()
    for name in "ab":
        s3.upload(local["none"], f"{prefix}/{name}")
    url = f"{s3.url}/{prefix}"
    assert readers.load_manifest(url).examples == 80
    one = [example["key"] for example in readers.ArraySource(local["none"])]
    assert [example["key"] for example in readers.ArraySource(url)] == 2 * one
    assert len(readers.preview(url, 4).examples) == 4
    s3.upload(local["data"], f"{prefix}/0")  # the first one is no data set
    with pytest.raises(UsageError, match="it is no data set"):
        readers.load_manifest(url)
