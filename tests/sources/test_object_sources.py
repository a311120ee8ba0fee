"""Sources in buckets: what they give is what the same files on a disk give, and what changes or breaks is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, save
from fault_proxy import BUSY, CUT, PASS, RESET, FaultProxy, Request, once, proxied
from faults import tree
from object_servers import ObjectServer

import npy2tfrecord
from npy2tfrecord.conversion import converter
from npy2tfrecord.errors import InputError, UnstableError, UsageError
from npy2tfrecord.storage.objects import Prefix

Sources = Mapping[str, str] | str


def plant(root: Path) -> None:
    """Files of every kind that a source may be."""
    rng = np.random.default_rng(0)
    for i in range(40):
        name = f"{'ab'[i % 2]}/{i:02}"
        save(root / "small", {name: rng.random((int(rng.integers(1, 30)), 8)).astype(np.float32)})
        save(root / "img", {name: rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)})
        save(root / "mask", {name: rng.integers(0, 2, (4, 5), dtype=np.uint8)})
    save(root / "small", {"a/deep/er/x": np.ones((3, 8), np.float32), "c d/é": np.zeros((1, 8), np.float32)})
    save(root / "small", {".hidden/x": np.ones(3), "a/deep/.x": np.ones(3)})
    (root / "small" / "a" / "notes.txt").write_text("no array")
    save(
        root / "odd",
        {
            "big-endian": rng.random((5, 6)).astype(">f8"),
            "fortran": np.asfortranarray(rng.random((7, 6))),
            "empty": np.zeros((0, 6)),
            "large": rng.random((200_000, 6)),  # 9.6 MB: in pieces
        },
    )
    save(root / "rows", {"x": rng.random((5000, 16)).astype(np.float32), "y": rng.random((300, 16)).astype(np.float32)})
    save(root, {"single/X": rng.random((50, 4)), "single/Y": np.arange(50)})
    (root / "npz").mkdir()
    for i in range(12):
        arrays: dict[str, Any] = {"image": rng.random((i + 1, 9)), "label": np.int64(i)}
        (np.savez_compressed if i % 2 else np.savez)(root / "npz" / f"{i:02}.npz", **arrays)
    members: dict[str, Any] = {f"m{i}": rng.random((i + 1, 2000)) for i in range(20)}
    np.savez(root / "members.npz", **members)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("local")
    plant(root)
    return root


CASES: dict[str, tuple[Callable[[str], Sources], dict[str, Any]]] = {
    "a directory": (lambda root: f"{root}/small", {"labels": "dirs", "split": "train=0.8,val=0.2", "stats": True}),
    "a pair": (lambda root: {"image": f"{root}/img", "mask": f"{root}/mask"}, {"shuffle": False}),
    "odd arrays": (lambda root: f"{root}/odd", {"rank": 2}),
    "odd arrays, cast": (lambda root: f"{root}/odd", {"dtype": "float32", "stats": True}),
    "rows": (lambda root: f"{root}/rows", {"rows": True, "num_shards": 3}),
    "rows of single files": (lambda root: {"x": f"{root}/single/X.npy", "y": f"{root}/single/Y.npy"}, {"rows": True}),
    "archives": (lambda root: f"{root}/npz", {}),
    "a member of each": (lambda root: f"image={root}/npz[image]", {}),
    "members": (lambda root: f"{root}/members.npz", {"members": True, "sort": "natural"}),
    "one member": (lambda root: f"x={root}/members.npz[m7]", {}),
    "a pattern": (lambda root: {"x": f"{root}/small:*1.npy"}, {}),
    "a choice": (lambda root: f"{root}/small", {"include": ["a/**", "c*"], "exclude": "*3.npy", "sort": "natural"}),
}


def convert_both(root: str, local: Path, tmp_path: Path, case: str, **more: Any) -> None:
    give, options = CASES[case]
    made = npy2tfrecord.convert(give(root), tmp_path / "bucket", **options, **more)
    assert made.examples
    npy2tfrecord.convert(give(str(local)), tmp_path / "local", **options)
    assert tree(tmp_path / "bucket") == tree(tmp_path / "local")


@pytest.mark.parametrize("case", CASES)
def test_a_conversion_gives_the_bytes_of_one_from_a_disk(
    case: str, s3: ObjectServer, local: Path, tmp_path: Path
) -> None:
    convert_both(s3.upload(local), local, tmp_path, case)


def test_every_kind_of_store_gives_the_same(object_server: ObjectServer, local: Path, tmp_path: Path) -> None:
    root = object_server.upload(local)
    for case in ("a directory", "archives", "rows"):
        convert_both(root, local, tmp_path / case, case)


def test_from_a_bucket_into_a_bucket(object_server: ObjectServer, local: Path, tmp_path: Path) -> None:
    root, out = object_server.upload(local), f"{object_server.url}/{object_server.new_prefix()}/out"
    npy2tfrecord.convert(f"{root}/small", out, labels="dirs", num_shards=3)
    npy2tfrecord.convert(local / "small", tmp_path / "out", labels="dirs", num_shards=3)
    place = Prefix(out)
    assert {info.name: place.read(info.name, limit=info.size) for info in place.list_objects()} == tree(
        tmp_path / "out"
    )
    assert npy2tfrecord.verify(out, source=f"{root}/small").examples


def test_worker_processes_read_a_bucket(
    command: Command, s3: ObjectServer, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "_SECONDS_FOR_PROCESSES", 0)
    root = s3.upload(local)
    for name in ("small", "odd"):
        options = ["--num-shards", 3, "--rank", 2]
        command.ok("convert", *options, "--jobs", 2, "--in-flight", 3, f"{root}/{name}", tmp_path / "bucket" / name)
        command.ok("convert", *options, local / name, tmp_path / "local" / name)
        assert tree(tmp_path / "bucket" / name) == tree(tmp_path / "local" / name)


def test_the_command_and_its_workers_read_a_bucket(s3: ObjectServer, tmp_path: Path) -> None:
    arrays = {f"{i:03}": np.full(2**17, i, np.float32) for i in range(100)}  # enough for workers, which are forks
    root = s3.upload(save(tmp_path / "source", arrays))
    for place, out in ((root, "bucket"), (str(tmp_path / "source"), "local")):
        words = [sys.executable, "-m", "npy2tfrecord", "convert", "--jobs", "3", "--num-shards", "6", place, out]
        subprocess.run(words, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert tree(tmp_path / "bucket") == tree(tmp_path / "local")


def test_parts_read_a_bucket(command: Command, s3: ObjectServer, local: Path, tmp_path: Path) -> None:
    root = s3.upload(local)
    for part in ("1/2", "2/2", None):
        words = ["--part", part] if part else []
        command.ok("convert", *words, "--num-shards", 4, f"{root}/small", tmp_path / "bucket")
    command.ok("convert", "--num-shards", 4, local / "small", tmp_path / "local")
    assert tree(tmp_path / "bucket") == tree(tmp_path / "local")


def test_scan_and_verify_take_a_bucket(command: Command, s3: ObjectServer, local: Path, tmp_path: Path) -> None:
    root = s3.upload(local)
    found = json.loads(command.ok("scan", "--json", f"{root}/small").out)
    there = json.loads(command.ok("scan", "--json", local / "small").out)
    assert found == there
    command.ok("convert", f"{root}/small", tmp_path / "out")
    command.ok("verify", tmp_path / "out", "--source", f"{root}/small")
    command.ok("verify", tmp_path / "out", "--source", local / "small")
    Prefix(f"{root}/small").put("a/00.npy", (local / "small" / "a" / "02.npy").read_bytes())
    command.refused(7, words=("verify", tmp_path / "out", "--source", f"{root}/small"))


def test_small_files_take_a_request_each(local: Path, tmp_path: Path, faulty: FaultProxy) -> None:
    root = faulty.server.upload(local)
    faulty.requests.clear()
    made = npy2tfrecord.convert(f"{root}/small", tmp_path / "out", num_shards=2)
    files = [request for request in faulty.requests if request.path.partition("?")[0].endswith(".npy")]
    assert len(files) == made.examples
    assert len(faulty.requests) - len(files) < 5


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [RESET, BUSY, CUT])
def test_a_fault_at_each_request_changes_nothing(fault: str, local: Path, tmp_path: Path, faulty: FaultProxy) -> None:
    root = faulty.server.upload(local)
    sources = {"x": f"{root}/odd", "y": f"{root}/odd"}
    npy2tfrecord.convert({"x": str(local / "odd"), "y": str(local / "odd")}, tmp_path / "local", rank=2)
    faulty.requests.clear()
    npy2tfrecord.convert(sources, tmp_path / "whole", rank=2)
    count = len(faulty.requests)
    assert count > 10
    for number in range(count):
        faulty.requests.clear()

        def decide(request: Request, number: int = number) -> str:
            return fault if request.number == number else PASS

        faulty.fault = decide
        npy2tfrecord.convert(sources, tmp_path / str(number), rank=2)
        assert tree(tmp_path / str(number)) == tree(tmp_path / "local")


@pytest.mark.parametrize("name", ["a/00.npy", "large.npy"])
def test_an_object_that_changes_meanwhile_is_reported(
    name: str, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    arrays = {"a/00": rng.random((4, 9000)), "large": rng.random((70, 9000))}  # neither is kept since the scan
    root = s3.upload(save(tmp_path / "local", arrays))
    place = Prefix(root)
    real = converter.plan

    def plan(*given: Any) -> Any:
        planned = real(*given)
        np.save(tmp_path / "other.npy", rng.random(arrays[name.removesuffix(".npy")].shape))
        place.put(name, (tmp_path / "other.npy").read_bytes())
        return planned

    monkeypatch.setattr(converter, "plan", plan)
    with pytest.raises(UnstableError, match=rf"{name}: the file has changed since it was scanned"):
        npy2tfrecord.convert(root, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tfrecord"))
    monkeypatch.undo()
    s3.use(monkeypatch)
    npy2tfrecord.convert(root, tmp_path / "out")  # the other one is there now, and stays


def test_an_object_that_goes_is_reported(s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = s3.upload(save(tmp_path / "local", {"x": np.zeros(20_000), "y": np.ones(20_000)}))
    real = converter.plan

    def plan(*given: Any) -> Any:
        planned = real(*given)
        Prefix(root).delete(["x.npy"])
        return planned

    monkeypatch.setattr(converter, "plan", plan)
    with pytest.raises(UnstableError, match=r"x\.npy: the file is gone"):
        npy2tfrecord.convert(root, tmp_path / "out")


def test_bad_objects_are_reported_like_bad_files(
    command: Command, s3: ObjectServer, local: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    save(bad, {"good": np.ones((2, 3))})
    whole = (bad / "good.npy").read_bytes()
    (bad / "cut.npy").write_bytes(whole[:-5])
    (bad / "empty.npy").write_bytes(b"")
    (bad / "long.npy").write_bytes(whole + b"more")
    (bad / "text.npy").write_text("no array at all")
    (bad / "archive.npz").write_bytes(b"PK\3\4 and no more")
    (bad / "packed.npy.gz").write_bytes(b"\x1f\x8b")
    root = s3.upload(bad)

    def problems(where: str) -> dict[str, str]:
        result = command("scan", "--json", "--on-error", "skip", where)
        assert result.code == 3
        said = json.loads(result.out)
        return {each["source"].removeprefix(where): each["reason"] for each in said["skipped"]}

    assert len(problems(root)) == 6
    assert problems(root) == problems(str(bad))
    command.refused(4, f"{root}/", "cut.npy", words=("convert", "--exclude", "*.gz", root, tmp_path / "out"))
    made = npy2tfrecord.convert(root, tmp_path / "out", on_error="skip")
    assert made.examples == 1
    assert len(made.skipped) == 6


def test_a_place_with_nothing_is_reported(command: Command, s3: ObjectServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for url, said in (
        (f"{s3.url}/nothing-here", "nothing is there"),
        (f"{s3.url}/no-such.npy", "nothing is there"),
        ("s3://no-such-bucket/x", "no such bucket"),
        (f"{s3.url}//x", "expected no empty part"),
    ):
        command.refused(2, said, words=("convert", url, out), out=out)


def test_a_feature_is_in_one_place(s3: ObjectServer, local: Path, tmp_path: Path) -> None:
    root = s3.upload(local)
    with pytest.raises(UsageError, match="one is in a bucket, the other on a disk"):
        npy2tfrecord.convert([f"{root}/small", str(local / "img")], tmp_path / "out")
    npy2tfrecord.convert({"image": f"{root}/img", "mask": str(local / "mask")}, tmp_path / "mixed")
    npy2tfrecord.convert({"image": str(local / "img"), "mask": str(local / "mask")}, tmp_path / "local")
    assert tree(tmp_path / "mixed") == tree(tmp_path / "local")


def test_a_run_that_was_killed_goes_on(s3: ObjectServer, local: Path, tmp_path: Path) -> None:
    with proxied(s3) as proxy:
        root = proxy.server.upload(local)
        words = [sys.executable, "-m", "npy2tfrecord", "convert", "--num-shards", "4", "--jobs", "1", "--rank", "2"]
        words += [f"{root}/odd", str(tmp_path / "out")]
        environment = {**os.environ, **proxy.server.environment}
        for number in range(1, 30):
            proxy.requests.clear()
            run = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

            def kill(request: Request, run: subprocess.Popen[bytes] = run, number: int = number) -> str:
                if request.number == number:
                    run.kill()
                return PASS

            proxy.fault = kill
            if run.wait(timeout=60) == 0:
                break
        assert number > 5
    npy2tfrecord.convert(local / "odd", tmp_path / "local", num_shards=4, rank=2)
    assert tree(tmp_path / "out") == tree(tmp_path / "local")


def test_what_is_denied_is_reported(faulty: FaultProxy, local: Path, tmp_path: Path) -> None:
    root = faulty.server.upload(save(tmp_path / "s", {"x": np.ones(3), "y": np.ones(3)}))
    faulty.fault = once("denied", "x.npy")
    with pytest.raises(InputError, match=r"x\.npy: cannot be read: the server denies it"):
        npy2tfrecord.convert(root, tmp_path / "out")


def test_load_npy_names_what_to_do() -> None:
    readers = pytest.importorskip("readers")
    with pytest.raises(UsageError, match="files in a bucket can't be read in place; convert them"):
        readers.load_npy("s3://bucket/data")


def test_a_page_shows_the_arrays_of_a_bucket(command: Command, s3: ObjectServer, local: Path, tmp_path: Path) -> None:
    root = s3.upload(local)
    command.ok("scan", "--html", tmp_path / "bucket.html", f"{root}/small")
    command.ok("scan", "--html", tmp_path / "local.html", local / "small")
    pages = [(tmp_path / f"{name}.html").read_text() for name in ("bucket", "local")]
    assert pages[0].replace(f"{root}/small", "SOURCE") == pages[1].replace(str(local / "small"), "SOURCE")


def test_a_dask_cluster_reads_a_bucket(command: Command, s3: ObjectServer, local: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    root, out = s3.upload(local), f"{s3.url}/{s3.new_prefix()}/out"
    words = ("--num-shards", 3, "--rank", 2)
    command.ok("convert", "--backend", "dask", "--jobs", 2, *words, f"{root}/odd", out)
    command.ok("convert", *words, local / "odd", tmp_path / "out")
    place = Prefix(out)
    found = {info.name: place.read(info.name, limit=info.size) for info in place.list_objects()}
    assert found == tree(tmp_path / "out")


def boto_client(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The vendor's own client: nothing of ours or obstore's decides how it writes a name."""
    from boto3.session import Session

    server.use(monkeypatch)
    return Session("test-key", "test-secret", region_name="us-east-1").client("s3", endpoint_url=server.endpoint)


def test_odd_names_are_taken_as_they_are(moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto_client(moto, monkeypatch)
    names = [
        "50%",
        "%20",
        "a b",
        "a+b",
        "x#1",
        "what?",
        "a*",
        "[1]",
        "{2}",
        "a|b",
        "c\\d",
        "é",
        "~t",
        "a&b=c",
        "e:1",
        "'q'",
    ]
    names += [f"of {name}/x" for name in names]
    local = save(tmp_path / "local", {name: np.full(9_000, i) for i, name in enumerate(names)})  # more than is kept
    prefix = moto.new_prefix()
    for name in names:
        client.put_object(Bucket=moto.bucket, Key=f"{prefix}/{name}.npy", Body=(local / f"{name}.npy").read_bytes())
    made = npy2tfrecord.convert(f"{moto.url}/{prefix}", tmp_path / "bucket")
    assert made.examples == len(names)
    npy2tfrecord.convert(local, tmp_path / "out")
    assert tree(tmp_path / "bucket") == tree(tmp_path / "out")
    assert npy2tfrecord.convert(f"{moto.url}/{prefix}/of %20/x.npy", tmp_path / "one").examples == 1


def test_a_name_that_no_path_has_is_reported(
    moto: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto_client(moto, monkeypatch)
    data = save(tmp_path / "s", {"x": np.ones(3)}).joinpath("x.npy").read_bytes()
    prefix = moto.new_prefix()
    for name in ("fine", "a//b"):
        client.put_object(Bucket=moto.bucket, Key=f"{prefix}/{name}.npy", Body=data)
    with pytest.raises(UsageError, match="its name, or that of an object below, has an empty part"):
        npy2tfrecord.scan(f"{moto.url}/{prefix}")
