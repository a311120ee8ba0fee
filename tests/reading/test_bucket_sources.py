"""`ArraySource` of data sets in buckets, on real servers on loopback."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import save
from fault_proxy import BUSY, CUT, RESET, proxied
from object_servers import ObjectServer, forget_clouds

import npy2tfrecord
import readers
from npy2tfrecord.errors import DamageError, UsageError

ARRAYS = 60


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 60 small arrays in 4 shards."""
    directory = tmp_path_factory.mktemp("sets")
    arrays = {f"{'ab'[i % 2]}/{i:03}": np.full((i % 5 + 1, 8), i, np.float32) for i in range(ARRAYS)}
    data = save(directory / "data", arrays)
    npy2tfrecord.convert(data, directory / "out", labels="dirs", num_shards=4, jobs=1)
    return directory / "out"


def content(example: dict[str, Any]) -> tuple[str, int, bytes]:
    return example["key"], example["label"], example["array"].tobytes()


def contents(source: readers.ArraySource) -> list[tuple[str, int, bytes]]:
    return [content(example) for example in source]


def test_gives_what_the_local_set_gives(local: Path, object_server: ObjectServer) -> None:
    expected = readers.ArraySource(local)
    source = readers.ArraySource(object_server.upload(local))
    assert len(source) == len(expected) == ARRAYS
    assert contents(source) == contents(expected)
    wanted = [59, 3, 17, 3, 0, 42]
    assert [*map(content, source[wanted])] == [*map(content, expected[wanted])]
    assert content(source[7]) == content(expected[7])
    key = expected[33]["key"]
    assert source.index_of(key) == 33
    assert source.manifest.features == expected.manifest.features


def test_windows_are_counted_in_a_bucket(local: Path, s3: ObjectServer) -> None:
    expected = readers.ArraySource(local, window=2, hop=1)
    source = readers.ArraySource(s3.upload(local), window=2, hop=1)
    assert contents(source) == contents(expected)


def test_reads_sets_on_a_disk_and_in_a_bucket_as_one(local: Path, s3: ObjectServer) -> None:
    one = contents(readers.ArraySource(local))
    both = readers.ArraySource([str(local), s3.upload(local)])
    assert contents(both) == one + one


def test_neighbours_are_read_in_one_request(local: Path, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3.upload(local)
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        source = readers.ArraySource(url)
        source[0]
        before = len(proxy.requests)
        assert len(source[range(1, 12)]) == 11
        after = proxy.requests[before:]
        assert len(after) == 1, after
        assert all(request.method == "GET" for request in proxy.requests)


def test_an_object_that_changes_is_an_error(local: Path, s3: ObjectServer) -> None:
    import obstore

    prefix = s3.new_prefix()
    source = readers.ArraySource(s3.upload(local, prefix))
    source[0]
    name = readers.load_manifest(local).shards[0].file
    data = bytearray(local.joinpath(name).read_bytes())
    data[100] ^= 1
    obstore.put(s3.store(), f"{prefix}/{name}", bytes(data))
    with pytest.raises(DamageError, match=rf"{name}: it has changed: its ETag is another"):
        source[1]


def test_damage_is_found_by_checksums(local: Path, s3: ObjectServer) -> None:
    import obstore

    prefix = s3.new_prefix()
    url = s3.upload(local, prefix)
    name = readers.load_manifest(local).shards[0].file
    data = bytearray(local.joinpath(name).read_bytes())
    data[100] ^= 1
    obstore.put(s3.store(), f"{prefix}/{name}", bytes(data))
    with pytest.raises(DamageError, match=rf"{prefix}/{name}: record 0 at offset 0"):
        readers.ArraySource(url)[0]
    obstore.put(s3.store(), f"{prefix}/{name}", bytes(data[:-1]))
    with pytest.raises(DamageError, match=rf"{name}: {len(data) - 1} bytes, expected {len(data)} by the manifest"):
        readers.ArraySource(url)
    obstore.delete(s3.store(), f"{prefix}/{name}")
    with pytest.raises(DamageError, match=rf"{name}: no such object, expected a shard"):
        readers.ArraySource(url)


@pytest.mark.parametrize("fault", [RESET, CUT, BUSY])
def test_faults_that_pass_are_waited_for(
    local: Path, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    url = s3.upload(local)
    with proxied(s3) as proxy:
        proxy.server.use(monkeypatch)
        seen = set[str]()

        def first_time(request: Any) -> str:
            new = f"{request.path}{request.range}" not in seen
            seen.add(f"{request.path}{request.range}")
            return fault if new else "pass"

        proxy.fault = first_time
        assert contents(readers.ArraySource(url)) == contents(readers.ArraySource(local))
        assert any(request.fault == fault for request in proxy.requests)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_works_in_processes_after_it_was_used(local: Path, s3: ObjectServer, method: str) -> None:
    source = readers.ArraySource(s3.upload(local))
    indices = [50, 1, 20, 33]
    expected = [content(example) for example in source[indices]]  # obstore has threads from here on
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map_async(source.__getitem__, indices, chunksize=1).get(timeout=60)
    assert [content(example) for example in found] == expected


GRAIN = """
import sys
from absl import flags
import grain, readers

if __name__ == "__main__":
    flags.FLAGS(["test"])
    source = readers.ArraySource(sys.argv[1])
    source[0]
    dataset = grain.MapDataset.source(source).to_iter_dataset()
    dataset = dataset.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=2))
    print(sorted(example["key"] for example in dataset) == sorted(example["key"] for example in source), len(source))
"""


def test_grain_reads_it_in_worker_processes(local: Path, s3: ObjectServer, tmp_path: Path) -> None:
    pytest.importorskip("grain")
    script = tmp_path / "script.py"
    script.write_text(GRAIN)
    words = [sys.executable, str(script), s3.upload(local)]
    environment = {**os.environ, "PYTHONPATH": str(Path(readers.__file__).parent.parent)}
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert said.stdout == f"True {ARRAYS}\n", said.stderr


def test_what_is_wrong_with_a_place_is_said_at_once(
    local: Path, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"s3://no-such-bucket: there is no such bucket"):
        readers.ArraySource("s3://no-such-bucket")
    with pytest.raises(UsageError, match=r"s3://test/nothing: nothing is there"):
        readers.ArraySource("s3://test/nothing")
    url = s3.upload(local / "index")
    with pytest.raises(UsageError, match=rf"{url} has no manifest.json: it is no data set"):
        readers.ArraySource(url)
    with pytest.raises(UsageError, match=r"https:// is not supported"):
        readers.ArraySource("https://example.org/set")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UsageError, match=r"manifest.json: the server denies it \(SignatureDoesNotMatch\)"):
        readers.ArraySource(s3.upload(local))


def test_no_obstore_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_clouds(monkeypatch)
    monkeypatch.setitem(sys.modules, "obstore", None)
    expected = r"pip install 'npy2tfrecord\[cloud\]'" if sys.version_info >= (3, 11) else "need Python 3.11 or newer"
    with pytest.raises(UsageError, match=expected):
        readers.ArraySource("s3://test/set")
