"""Sources that turn out unreadable only while they are written, and were all that a shard would have had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save
from faults import tree

from npy2tfrecord.conversion import converter
from npy2tfrecord.formats import manifest, manifest_parsing

BAD = ("b", "d", "e")  # do not fit into float16
WORDS = ("--dtype", "float16", "--on-error", "skip", "--num-shards", "9")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(
        tmp_path / "d", {name: np.full(5 + i, 1e9 if name in BAD else float(i)) for i, name in enumerate("abcdefghi")}
    )


@pytest.mark.parametrize("jobs", [1, 3])
def test_they_are_written_with_no_examples(
    jobs: int, source: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "_SECONDS_FOR_PROCESSES", 0)
    out = tmp_path / "out"
    words = ("convert", source, out, *WORDS, "--jobs", jobs)
    result = command(*words)
    assert result.code == 3
    assert all(f"{name}.npy: 1" not in result.out and f"{name}.npy: " in result.out for name in BAD)
    made = manifest_parsing.load(out)
    assert sorted(shard.examples for shard in made.shards) == [0] * 3 + [1] * 6
    for shard in made.shards:
        if not shard.examples:
            assert (shard.bytes, shard.tail) == (0, "")
            assert (out / shard.file).read_bytes() == (out / manifest.index_name(shard.file)).read_bytes() == b""
            assert (out / manifest.keys_name(shard.file)).read_bytes() == b""
    assert {Path(skipped.source).name for skipped in made.skipped} == {f"{name}.npy" for name in BAD}
    assert not (out / ".npy2tfrecord").exists()
    assert sorted(read_back(out)) == sorted(set("abcdefghi") - set(BAD))

    assert command("verify", out, "--source", source).code == 0
    again = command(*words)
    assert (again.code, "nothing left to do" in again.out) == (3, True)
    whole = tree(out)
    for shard in (next(s for s in made.shards if s.examples), next(s for s in made.shards if not s.examples)):
        (out / shard.file).unlink()
        assert command(*words).code == 3
        assert tree(out) == whole
        (out / shard.file).write_bytes(bytes(shard.bytes or 5))
        assert command("verify", out).code == 7
        assert command("verify", out, "--source", source, "--repair").code == 0
        assert tree(out) == whole


@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
def test_tensorflow_reads_such_a_set(compression: str, source: Path, tmp_path: Path, command: Command) -> None:
    import tensorflow as tf

    out = tmp_path / "out"
    assert command("convert", source, out, *WORDS, "--compression", compression, "--stats").code == 3
    assert command("verify", out, "--source", source).code == 0
    kind = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}[compression]
    made = manifest_parsing.load(out)
    for shard in made.shards:
        records = list(tf.data.TFRecordDataset(str(out / shard.file), kind).as_numpy_iterator())
        assert len(records) == shard.examples
    files = [str(out / shard.file) for shard in made.shards]
    assert len(list(tf.data.TFRecordDataset(files, kind, num_parallel_reads=4))) == 6
    stats = made.features[0].stats
    assert stats is not None
    assert (stats["min"], stats["max"]) == ([0.0], [8.0])


def test_tfds_reads_such_a_set(source: Path, tmp_path: Path, command: Command) -> None:
    import tensorflow_datasets as tfds

    out = tmp_path / "out"
    assert command("convert", source, out, *WORDS).code == 3
    builder = tfds.builder_from_directory(str(out))
    expected = sorted(set("abcdefghi") - set(BAD))
    assert builder.info.splits["train"].num_examples == len(expected)
    for keywords in ({}, {"shuffle_files": True}):
        read = builder.as_dataset(split="train", **keywords).as_numpy_iterator()
        assert sorted(example["key"].decode() for example in read) == expected
    parts = [builder.as_dataset(split=part) for part in tfds.even_splits("train", 3)]
    assert sorted(example["key"].numpy().decode() for part in parts for example in part) == expected


def test_a_split_may_be_left_with_nothing(tmp_path: Path, command: Command) -> None:
    import tensorflow_datasets as tfds

    for name, value in (("train/a", 1.0), ("train/b", 2.0), ("val/c", 1e9), ("val/d", 1e9)):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "d" / name, np.full(3, value))
    out = tmp_path / "out"
    words = ("convert", tmp_path / "d", out, *WORDS, "--split", "dirs", "--labels", tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("key,label\ntrain/a,x\ntrain/b,y\nval/c,x\nval/d,y\n")
    assert command(*words).code == 3
    made = manifest_parsing.load(out)
    assert {split: sum(s.examples for s in shards) for split, shards in made.splits.items()} == {"train": 2, "val": 0}
    assert command("verify", out).code == 0
    assert command("info", out).code == 0
    builder = tfds.builder_from_directory(str(out))
    assert len(list(builder.as_dataset(split="train"))) == 2


def test_rows_too(tmp_path: Path, command: Command) -> None:
    array = np.ones((6, 4))
    array[[1, 5]] = 1e9
    save(tmp_path, {"X": array})
    out = tmp_path / "out"
    assert command("convert", "--rows", tmp_path / "X.npy", out, *WORDS).code == 3
    assert set(read_back(out)) == {"X#0", "X#2", "X#3", "X#4"}
    assert sorted(shard.examples for shard in manifest_parsing.load(out).shards) == [0, 0, 1, 1, 1, 1]
    assert command("verify", out, "--source", tmp_path / "X.npy").code == 0


def test_when_nothing_at_all_is_left_that_is_an_error(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {name: np.full(3, 1e9) for name in "abc"})
    words = ("convert", tmp_path / "d", tmp_path / "out", *WORDS)
    command.refused(4, ".npy: 3 values", "none of the 3 examples", words=words, out=tmp_path / "out")


# Ends, as if killed, at the n-th of the calls that change something, and runs again; for every n. One process for all.
KILLS = """
import itertools, os, shutil, sys
import npy2tfrecord
from npy2tfrecord import syscalls
source, out, words = sys.argv[1], sys.argv[2], dict(dtype="float16", on_error="skip", num_shards=9, jobs=1, fsync=False)
left = 10**9
npy2tfrecord.convert(source, out + "-first", **words)  # so that no child has to import anything
def counted(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        left or os._exit(9)
        return function(*arguments, **keywords)
    return call
for name in ("write", "rename", "unlink", "rmdir", "mkdir"):
    setattr(syscalls, name, counted(getattr(syscalls, name)))
def tree():
    return {os.path.join(d, f): open(os.path.join(d, f), "rb").read() for d, _, fs in os.walk(out) for f in fs}
def run(kill):
    global left
    child = os.fork()
    if not child:
        left, code = kill, 1
        try:
            npy2tfrecord.convert(source, out, **words)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert run(10**9) == 0
whole = tree()
for kill in itertools.count(1):
    shutil.rmtree(out)
    code = run(kill)
    assert code in (0, 9), code
    if not code:
        break
    if kill % 3 == 0:
        assert run(kill // 3) in (0, 9)
    assert run(10**9) == 0, kill
    assert tree() == whole, kill
print(kill)
"""


def test_killed_at_any_call_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    source = save(tmp_path / "d", {name: np.full(5, 1e9 if name in "bd" else 1.0) for name in "abcd"})
    ended = subprocess.run(
        [sys.executable, "-c", KILLS, str(source), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 35


def test_overwriting_gives_the_same(source: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    words = ("convert", source, out, *WORDS, "--jobs", "1")
    assert command(*words).code == 3
    before = tree(out)
    assert command(*words, "--overwrite").code == 3
    assert tree(out) == before
