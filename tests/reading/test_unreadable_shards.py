"""A shard that can't be opened or read ends every pipeline in an error that names it, and never in silence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import write_dataset

import readers
from readers.manifests import PlacedShard

tf = pytest.importorskip("tensorflow")

LIMIT_SECONDS = 20  # for what takes milliseconds: a machine may be busy, but nothing waits without end
SUPPORT = Path(__file__).parent.parent / "support"
PIPELINES: dict[str, dict[str, Any]] = {
    "batches": {"batch_size": 8},
    "batches of one": {"batch_size": 1},
    "batches, the last one dropped": {"batch_size": 8, "drop_remainder": True},
    "in no order": {"batch_size": 8, "deterministic": False},
    "shuffled": {"batch_size": 8, "shuffle": True, "seed": 1},
    "buckets": {"batch_size": 4, "buckets": 2},
    "buckets, shuffled": {"batch_size": 4, "buckets": 2, "shuffle": 10},
    "ragged": {"batch_size": 8, "ragged": True},
    "single": {},
    "single, shuffled": {"shuffle": 10, "seed": 1},
    "a function": {"batch_size": 8, "map_fn": lambda element: element},
    "kept in memory": {"batch_size": 8, "cache": True},
    "a slice": {"batch_size": 8, "split": "train[5%:95%]"},
    "a worker's share": {"batch_size": 8, "worker": (0, 1)},
}


def read_within_limit(dataset: Any) -> BaseException | int:
    """The number of elements, or the error that reading ends with."""
    found: list[BaseException | int] = []

    def read() -> None:
        try:
            found.append(sum(1 for _ in dataset))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS)
    assert found, f"no end and no error after {LIMIT_SECONDS} seconds"
    return found[0]


def remove(shard: Path) -> None:
    shard.unlink()


def put_a_directory(shard: Path) -> None:
    shard.unlink()
    shard.mkdir()


def cut_inside_a_record(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size - 3)


def cut_to_half(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def cut_inside_the_first_head(shard: Path) -> None:
    os.truncate(shard, 5)


def empty(shard: Path) -> None:
    os.truncate(shard, 0)


def overwrite_the_first_head(shard: Path) -> None:
    shard.write_bytes(b"\xff" * 12 + shard.read_bytes()[12:])


def cut_behind_a_record(shard: Path) -> None:
    offset, _ = (shard.parent / "index" / f"{shard.stem}.idx").read_text().splitlines()[-1].split()
    os.truncate(shard, int(offset))


FAULTS: list[Callable[[Path], None]] = [
    remove,
    put_a_directory,
    cut_inside_a_record,
    cut_to_half,
    cut_inside_the_first_head,
    empty,
    overwrite_the_first_head,
]


def arrays(count: int = 120) -> list[np.ndarray]:
    return [np.full((3 + i % 2, 2), i, "f4") for i in range(count)]


@pytest.mark.parametrize(
    ("name", "shards"), [*((name, 3) for name in PIPELINES), ("batches", 40), ("shuffled", 40), ("single", 40)]
)
def test_every_fault_ends_every_pipeline(name: str, shards: int, tmp_path: Path) -> None:
    whole = write_dataset(tmp_path / "whole", arrays(), shards=shards)
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    shard = broken / f"train-{shards // 2:05d}-of-{shards:05d}.tfrecord"
    dataset = readers.load_dataset(broken, **PIPELINES[name])
    for fault in [*FAULTS, cut_behind_a_record]:
        if PIPELINES[name].get("cache"):  # an epoch that a fault ended leaves a part of a cache behind
            dataset = readers.load_dataset(broken, **PIPELINES[name])
        fault(shard)
        error = read_within_limit(dataset)
        assert isinstance(error, tf.errors.OpError), (fault, error)
        assert shard.name in error.message, (fault, error)
        if fault is remove:
            assert isinstance(error, tf.errors.NotFoundError)
        if shard.is_dir():
            shard.rmdir()
        shutil.copy(whole / shard.name, shard)
    if PIPELINES[name].get("cache"):
        dataset = readers.load_dataset(broken, **PIPELINES[name])
    assert isinstance(read_within_limit(dataset), int)


@pytest.mark.parametrize(("name", "compression"), [("batches", "gzip"), ("shuffled", "zlib"), ("single", "gzip")])
def test_faults_of_compressed_shards_too(name: str, compression: str, tmp_path: Path) -> None:
    whole = write_dataset(tmp_path / "whole", arrays(), shards=20, compression=compression)
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    shard = broken / "train-00010-of-00020.tfrecord"
    dataset = readers.load_dataset(broken, **PIPELINES[name])
    for fault in FAULTS:
        if fault is cut_inside_a_record:
            continue  # of a packed file that is its checksum at most, which TensorFlow does not read
        fault(shard)
        error = read_within_limit(dataset)
        assert isinstance(error, tf.errors.OpError), (fault, error)
        assert shard.name in error.message, (fault, error)
        if shard.is_dir():
            shard.rmdir()
        shutil.copy(whole / shard.name, shard)
    assert isinstance(read_within_limit(dataset), int)


@pytest.mark.parametrize("name", ["batches", "shuffled", "single"])
def test_records_that_are_read_by_their_offsets_end_too(name: str, tmp_path: Path) -> None:
    path = write_dataset(tmp_path, arrays(), shards=3)
    shard = path / "train-00001-of-00003.tfrecord"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    with pytest.warns(readers.DamageWarning):
        dataset = readers.load_dataset(path, on_corrupt="skip", **PIPELINES[name])
    assert isinstance(read_within_limit(dataset), int)
    for fault in (cut_to_half, remove):
        fault(shard)
        error = read_within_limit(dataset)
        assert isinstance(error, tf.errors.OpError), (fault, error)
        assert shard.name in error.message, (fault, error)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_file_system_that_tensorflow_does_not_know(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from readers.pipeline import shard_records

    class Elsewhere(shard_records.ShardRecords):
        def __init__(self, shards: Sequence[PlacedShard], *rest: Any) -> None:
            super().__init__([replace(shard, directory="unknown://bucket") for shard in shards], *rest)

    path = write_dataset(tmp_path, arrays())
    monkeypatch.setattr(shard_records, "ShardRecords", Elsewhere)
    error = read_within_limit(readers.load_dataset(path, **PIPELINES[name]))
    assert isinstance(error, tf.errors.UnimplementedError), error
    assert "unknown://bucket/train-0000" in error.message


# --- every status code ----------------------------------------------------------------------------

ERRORS = {
    "NotFoundError": errno.ENOENT,
    "PermissionDeniedError": errno.EACCES,
    "UnavailableError": errno.ENETDOWN,
    "AbortedError": errno.EDEADLK,
    "CancelledError": errno.ECANCELED,
    "OutOfRangeError": errno.ERANGE,
    "UnimplementedError": errno.ENOSYS,
    "ResourceExhaustedError": errno.EMFILE,
    "UnknownError": errno.EIO,
    "DeadlineExceededError": errno.ETIMEDOUT,
    "FailedPreconditionError": errno.ENOTDIR,
    "InvalidArgumentError": errno.EINVAL,
}


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux, to make the system's own calls fail")
    library = tmp_path_factory.mktemp("preloaded") / "failing_files.so"
    source = SUPPORT / "failing_files.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


PROGRAM = """
import ctypes, json, sys
sys.path[:0] = sys.argv[2:4]
from test_unreadable_shards import ERRORS, PIPELINES, read_within_limit
import readers
from readers.manifests import PlacedShard
path = sys.argv[1]
fail = ctypes.CDLL(None).fail_files
for name in json.loads(sys.argv[4]):
    dataset = readers.load_dataset(path, **PIPELINES[name])
    for code, number in ERRORS.items():
        for call, first in (("open", 0), ("open", 1), ("read", 0), ("read", 1)):
            fail(b"train-00001", number if call == "open" else 0, number if call == "read" else 0, first)
            found = read_within_limit(dataset)
            fail(b"", 0, 0, 0)
            message = found if isinstance(found, int) else getattr(found, "message", str(found))
            print(json.dumps([name, code, call, first, type(found).__name__, message]), flush=True)
"""


def test_every_status_code_ends_every_pipeline(preloaded: Path, tmp_path: Path) -> None:
    path = write_dataset(tmp_path, arrays(), shards=3)
    names = ["batches", "shuffled", "single"]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, Path(__file__).parent, SUPPORT, json.dumps(names)],
        env=os.environ | {"LD_PRELOAD": str(preloaded), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(names) * len(ERRORS) * 4
    for name, code, call, first, found, message in lines:
        where = name, code, call, first, found, message
        if isinstance(message, int):  # the second call was never made
            assert first, where
            continue
        assert "train-00001-of-00003.tfrecord" in message, where
        if call == "open" and first == 0:  # TensorFlow lets no iterator raise an OutOfRangeError
            assert found == {"OutOfRangeError": "InternalError"}.get(code, code), where
