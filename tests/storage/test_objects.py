"""Objects in buckets, against every server that is installed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import BUSY, CONFLICT, CUT, LOST, RESET, STALL, FaultProxy, once
from object_servers import ObjectServer, forget_clouds

from npy2tfrecord import paths
from npy2tfrecord.errors import UsageError
from npy2tfrecord.storage import objects
from npy2tfrecord.storage.errors import ChangedObjectError
from npy2tfrecord.storage.objects import ObjectInfo, Prefix

LARGE = 20 * 2**20  # more than an upload of one part


@pytest.fixture
def place(object_server: ObjectServer) -> Prefix:
    """A place of its own at each server in turn."""
    return Prefix(f"{object_server.url}/{object_server.new_prefix()}")


def test_an_object_is_what_was_put(place: Prefix) -> None:
    put = place.put("a/b.txt", b"hello")
    assert (put.name, put.size) == ("a/b.txt", 5)
    assert place.head("a/b.txt") == ObjectInfo("a/b.txt", 5, put.etag, place.head("a/b.txt").version)
    assert place.read("a/b.txt", limit=5, etag=put.etag) == b"hello"
    place.put("empty", b"")
    assert place.read("empty", limit=0) == b""
    assert [(info.name, info.size) for info in place.list_objects()] == [("a/b.txt", 5), ("empty", 0)]
    assert [info.name for info in place.list_objects("a")] == ["a/b.txt"]
    assert [info.name for info in place.below("a").list_objects()] == ["b.txt"]
    assert place.first_names(1, outside="a/") == ["empty"]


def test_a_list_gives_the_etag_that_a_put_gave(place: Prefix, tmp_path: Path) -> None:
    tmp_path.joinpath("large").write_bytes(os.urandom(LARGE))
    put = [place.put("small", b"x"), place.put_file("large", tmp_path / "large")]
    assert all(info.etag and '"' not in info.etag for info in put)
    found = {info.name: (info.size, info.etag) for info in place.list_objects()}
    assert found == {info.name: (info.size, info.etag) for info in put}


def test_ranges_are_as_pread_gives_them(place: Prefix, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    tmp_path.joinpath("large").write_bytes(data)
    etag = place.put_file("large", tmp_path / "large").etag
    ranges = [(5, 10), (3, 6), (LARGE - 3, LARGE + 5), (2**20, 2**20 + 100), (7, 7), (LARGE, LARGE + 1)]
    expected = [data[start:end] for start, end in ranges]
    assert [bytes(place.read_range("large", start, end, etag=etag)) for start, end in ranges] == expected
    assert [bytes(part) for part in place.read_ranges("large", ranges, etag=etag)] == expected
    assert [bytes(part) for part in place.read_ranges("large", ranges, gap=0)] == expected


def test_an_object_that_changed_is_not_read(place: Prefix) -> None:
    etag = place.put("changing", b"before").etag
    place.put("changing", b"after it")
    for read in (
        lambda: place.read("changing", limit=100, etag=etag),
        lambda: place.read_range("changing", 1, 2, etag=etag),
        lambda: place.read_ranges("changing", [(0, 1), (2, 3)], etag=etag),
    ):
        with pytest.raises(ChangedObjectError, match="it has changed"):
            read()


def test_what_is_not_there_is_no_file(place: Prefix) -> None:
    for ask in (
        lambda: place.head("nothing"),
        lambda: place.read("nothing", limit=1),
        lambda: place.read_range("nothing", 0, 1),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            ask()
        assert caught.value.filename == place.at("nothing")
    assert place.list_objects() == []
    place.put("there", b"")
    place.delete(["nothing", "there", "not this one either"])
    assert place.list_objects() == []
    place.delete([])


def test_an_object_larger_than_the_limit_is_not_read(place: Prefix) -> None:
    place.put("large", b"123456")
    with pytest.raises(OSError, match="it has 6 bytes; expected 5 at most"):
        place.read("large", limit=5)


def test_an_object_is_created_once(place: Prefix) -> None:
    assert place.refuses_second("probe")
    assert place.list_objects() == []
    first = place.create("plan", b"one")
    assert place.create("plan", b"one").etag == first.etag  # a lost answer looks like that
    for other in (b"two", b"three", b""):
        with pytest.raises(FileExistsError, match="other bytes already"):
            place.create("plan", other)
    assert place.read("plan", limit=3) == b"one"


def test_one_of_many_creates_an_object(place: Prefix) -> None:
    def create(number: int) -> bool:
        try:
            place.create("race", b"%d" % number)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as executor:
        won = list(executor.map(create, range(8)))
    assert sum(won) == 1
    assert place.read("race", limit=1) == b"%d" % won.index(True)


def test_a_store_without_conditions_is_asked_first(place: Prefix) -> None:
    trusting = Prefix(place.url, creates=False)
    assert trusting.create("plan", b"one").size == 3
    assert trusting.create("plan", b"one").size == 3
    with pytest.raises(FileExistsError):
        trusting.create("plan", b"two")


def test_any_name_is_kept(place: Prefix) -> None:
    names = ["with space", "ü/é%41#+&", "a=b;c,d'", "(x)[y]{z}~", "日本/0001.npy"]
    for name in names:
        place.put(name, name.encode())
    assert sorted(info.name for info in place.list_objects()) == sorted(names)
    assert [place.read(name, limit=99).decode() for name in names] == names


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RESET, CUT, LOST, BUSY, STALL])
def test_passing_faults_are_not_seen(
    faulty: FaultProxy, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == STALL:
        monkeypatch.setattr(objects, "READ_SECONDS", 0.5)
    place = Prefix(f"{faulty.server.url}/{faulty.server.new_prefix()}")
    data = os.urandom(LARGE)
    tmp_path.joinpath("large").write_bytes(data)

    def each_time(pattern: str, method: str = "") -> None:
        faulty.fault = once(fault, pattern, 2, method)

    each_time("plan")
    place.create("plan", b"mine")
    each_time("large")
    place.put_file("large", tmp_path / "large")
    each_time("large", "GET")
    assert place.read("large", limit=LARGE) == data
    each_time("large", "GET")
    assert [bytes(part) for part in place.read_ranges("large", [(5, 9), (2**22, 2**23)])] == [
        data[5:9],
        data[2**22 : 2**23],
    ]
    each_time("list-type")
    assert [info.name for info in place.list_objects()] == ["large", "plan"]
    each_time("delete")
    place.delete(["large"])
    each_time("")
    assert place.refuses_second("probe")
    assert [info.name for info in place.list_objects()] == ["plan"]


def test_a_conflict_is_asked_again(faulty: FaultProxy) -> None:
    place = Prefix(f"{faulty.server.url}/{faulty.server.new_prefix()}")
    faulty.fault = once(CONFLICT, "plan", 2)
    assert place.create("plan", b"mine").size == 4
    assert len(faulty.asked("plan")) > 2


def test_attempts_have_an_end(faulty: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.3)
    monkeypatch.setattr(objects, "_CLIENT_RETRIES", 1)
    place = Prefix(f"{faulty.server.url}/x")
    for fault, error in ((BUSY, "503"), (RESET, "connection")):
        faulty.fault = lambda _, fault=fault: fault
        with pytest.raises(OSError, match=error) as caught:
            place.read("a", limit=1)
        assert caught.value.filename == place.at("a")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_no_message_has_a_credential(s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0)
    monkeypatch.setattr(objects, "_CLIENT_RETRIES", 0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "VISIBLEKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "HIDDEN")
    with pytest.raises(PermissionError, match="the server") as caught:
        Prefix(f"{s3.url}/x").put("a", b"")
    signature = "sig=HIDDEN"
    forget_clouds(monkeypatch)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2021&{signature}")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="no connection") as also:
        Prefix("az://container/x").read("a", limit=1)
    for error in (caught.value, also.value):
        assert "HIDDEN" not in repr(error) + str(error)
        assert "VISIBLEKEY" not in repr(error) + str(error)
        assert error.__cause__ is None
        assert error.__context__ is None
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_missing_bucket_is_reported(s3: ObjectServer) -> None:
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        Prefix("s3://no-such-bucket/x").list_objects()


@pytest.mark.parametrize(
    ("scheme", "variable", "value", "expected"),
    [
        ("s3", "AWS_ENDPOINT_URL", "nonsense", "AWS_ENDPOINT_URL is no URL"),
        ("az", "AZURE_STORAGE_SAS_TOKEN", "x=y", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("gs", "GOOGLE_SERVICE_ACCOUNT_KEY", "{", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_a_wrong_configuration_is_reported(
    scheme: str, variable: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    forget_clouds(monkeypatch)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=expected):
        Prefix(f"{scheme}://bucket/x").list_objects()


def test_forks_ask_before_and_after_the_first_request_of_their_parent(s3: ObjectServer) -> None:
    place = Prefix(f"{s3.url}/{s3.new_prefix()}")
    program = f"""
import os, sys
from npy2tfrecord.storage.objects import Prefix

place = Prefix({place.url!r})

def child(number):
    if not (pid := os.fork()):
        place.put(str(number), b"")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

before = child(0)
place.put("1", b"")
sys.exit(10 * before + child(2))
"""
    # In a process of its own: this one has threads.
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
    assert [info.name for info in place.list_objects()] == ["0", "1", "2"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    with pytest.raises(UsageError, match=r"Python 3\.11"):
        Prefix("s3://bucket").list_objects()
    monkeypatch.setattr(sys, "version_info", (3, 11, 0, "final", 0))
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match=r"pip install 'npy2tfrecord\[cloud\]'"):
        Prefix("s3://bucket").list_objects()


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://a//b", "s3://a/../b", "s3://a/b/.", "s3://a/b//", "s3://a/\n"]
)
def test_what_is_no_place_in_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        Prefix(url)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        (b"gs://bucket", "gs://bucket"),
        (Path("az://container/x"), "az://container/x"),
        ("s3://bucket/a%20b", "s3://bucket/a%20b"),
    ],
)
def test_a_bucket_is_given_by_its_url(given: str | bytes | Path, expected: str) -> None:
    assert paths.is_bucket(given)
    assert paths.place(given, "OUT") == expected


@pytest.mark.parametrize("given", ["s3:/bucket/x", "/a/b", "file:///a", "gcs://a/b", "http://a/b", Path("a/s3:/b")])
def test_other_places_are_no_buckets(given: str | Path) -> None:
    assert not paths.is_bucket(given)
