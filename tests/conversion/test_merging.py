"""`merge`: what it gives for one set and for several, what it refuses, and what a failure leaves behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, read_back, save
from faults import CALLS, Injector, assert_nothing_half_written, injected, short_writes, tree

import npy2tfrecord
from npy2tfrecord import convert, merge, syscalls, verify
from npy2tfrecord.errors import ConflictError, InputError, OutputError, UsageError
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.writing import shard_copier

USUAL: dict[str, Any] = {"jobs": 1, "fsync": False}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def arrays(names: list[str], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((int(rng.integers(1, 9)), 4)).astype("f4") for name in names}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory `all` and two of which it is made, each with its data set: `whole`, `a` and `b`."""
    root = tmp_path_factory.mktemp("halves")
    names = [f"c{i % 3}/{i:02d}" for i in range(24)]
    found = arrays(names)
    save(root / "all", found)
    save(root / "one", {name: found[name] for name in names[:10]})
    save(root / "two", {name: found[name] for name in names[10:]})
    for source, out in (("all", "whole"), ("one", "a"), ("two", "b")):
        convert(root / source, root / out, num_shards=3, labels="dirs", seed=5, **USUAL)
    return root


# --- what it gives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_two_halves_are_the_whole_whatever_their_order(names: str, halves: Path, tmp_path: Path) -> None:
    made = merge([halves / name for name in names], tmp_path / "out", **USUAL)
    assert tree(tmp_path / "out") == tree(halves / "whole")
    assert made == manifest_parsing.load(halves / "whole")


@pytest.mark.parametrize(
    "options",
    [
        {"num_shards": 5},
        {"shard_size": 500},
        {"shuffle": False},
        {"seed": 9},
        {"compression": "gzip"},
        {"compression": "zlib", "num_shards": 1, "shuffle": False},
        {"split": "train=0.6,val=0.4", "split_by": "[0-9]$"},
        {"split": {"x": 0.5, "y": 0.5}, "seed": 1},
    ],
    ids=str,
)
def test_one_set_in_other_shards_is_what_converting_would_give(
    options: dict[str, Any], halves: Path, tmp_path: Path
) -> None:
    usual = {"num_shards": 3} if "shard_size" not in options else {}
    convert(halves / "all", tmp_path / "expected", labels="dirs", **{"seed": 5, **usual, **options}, **USUAL)
    merge(halves / "whole", tmp_path / "out", **options, **USUAL)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    merge(
        tmp_path / "out",
        tmp_path / "back",
        split="train=1",
        shuffle=True,
        seed=5,
        num_shards=3,
        compression="none",
        **USUAL,
    )
    assert {k: v for k, v in tree(tmp_path / "back").items() if "tfrecord" in k} == {
        k: v for k, v in tree(halves / "whole").items() if "tfrecord" in k
    }


def test_examples_stay_in_their_splits(tmp_path: Path) -> None:
    for name, split in (("a", "train=0.5,val=0.5"), ("b", "test=0.5,val=0.5")):
        save(tmp_path / name, arrays([f"{name}{i}" for i in range(12)]))
        convert(tmp_path / name, tmp_path / f"set-{name}", split=split, **USUAL)
    sets = [tmp_path / "set-a", tmp_path / "set-b"]
    merged = merge(sets, tmp_path / "out", **USUAL)
    assert list(merged.splits) == ["test", "train", "val"]
    found = {key: example.split for key, example in read_back(tmp_path / "out").items()}
    assert found == {key: example.split for each in sets for key, example in read_back(each).items()}


def test_classes_are_united_by_name_and_their_sizes_follow(tmp_path: Path) -> None:
    """With 130 classes the labels from 128 on take a byte more, in records of 127 bytes and less two or three."""
    names = [f"{i:03d}/x{'y' * (i % 40)}" for i in range(130)]
    for name, some in (("all", names), ("a", names[::2]), ("b", names[1::2])):
        save(tmp_path / name, {key: np.arange(2, dtype="u1") for key in some})
        convert(tmp_path / name, tmp_path / f"set-{name}", labels="dirs", num_shards=4, **USUAL)
    merge([tmp_path / "set-b", tmp_path / "set-a"], tmp_path / "out", **USUAL)
    assert tree(tmp_path / "out") == tree(tmp_path / "set-all")


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_records_larger_than_the_buffer_pass_in_pieces(
    compression: str, halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_copier, "BUFFER_BYTES", 250)
    convert(halves / "all", tmp_path / "whole", labels="dirs", compression=compression, **USUAL)
    for source in ("one", "two"):
        convert(halves / source, tmp_path / source, labels="dirs", compression=compression, **USUAL)
    save(tmp_path / "more", {"b/1": np.arange(100)})
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "out", **USUAL)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_many_shards_are_open_one_after_the_other(
    halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_copier, "_MAX_OPEN", 2)
    merge([halves / "a", halves / "b"], tmp_path / "out", **USUAL)
    assert tree(tmp_path / "out") == tree(halves / "whole")


@pytest.mark.parametrize("jobs", [2, 3])
def test_workers_give_the_same(jobs: int, halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npy2tfrecord.conversion.converter._SECONDS_FOR_PROCESSES", 0)
    merge([halves / "a", halves / "b"], tmp_path / "out", jobs=jobs, fsync=False)
    assert tree(tmp_path / "out") == tree(halves / "whole")


def test_a_merged_set_is_verified_repaired_and_resumed_against_the_sources(halves: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge([halves / "a", halves / "b"], out, **USUAL)
    assert verify(out, source=halves / "all").examples == 24
    next(out.glob("*.tfrecord")).unlink()
    verify(out, source=halves / "all", repair=True)
    assert tree(out) == tree(halves / "whole")
    next(out.glob("*.tfrecord")).unlink()
    merge([halves / "a", halves / "b"], out, **USUAL)
    convert(halves / "all", out, num_shards=3, labels="dirs", seed=5, **USUAL)
    assert tree(out) == tree(halves / "whole")


def test_what_one_part_lacks_and_another_has_is_not_skipped(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    table = tmp_path / "labels.csv"
    table.write_text("key,label\na,1\nb,2\nc,3\nd,4\nnone,5\n")
    for name, some in (("all", names), ("x", names[:1]), ("y", names[1:])):
        save(tmp_path / name, {key: np.arange(2) for key in some})
        convert(tmp_path / name, tmp_path / f"set-{name}", labels=table, missing="skip", **USUAL)
    merged = merge([tmp_path / "set-x", tmp_path / "set-y"], tmp_path / "out", **USUAL)
    assert [skipped.source for skipped in merged.skipped] == ["none"]
    assert tree(tmp_path / "out") == tree(tmp_path / "set-all")


def test_tfds_reads_a_merged_set_and_a_list_of_sets(halves: Path, tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    merge([halves / "a", halves / "b"], tmp_path / "out", **USUAL)
    expected = sorted(read_back(halves / "whole"))

    def keys(builder: Any) -> list[str]:
        return sorted(os.fsdecode(e["key"]) for e in builder.as_dataset(split="train").as_numpy_iterator())

    builder = tfds.builder_from_directory(str(tmp_path / "out"))
    assert builder.info.splits["train"].num_examples == 24
    assert keys(builder) == expected
    several = tfds.builder_from_directories([str(halves / "a"), str(halves / "b")])
    assert several.info.splits["train"].num_examples == 24
    assert keys(several) == expected


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(halves: Path, tmp_path: Path, command: Command) -> None:
    words = ("merge", "--no-fsync", "--quiet", halves / "b", halves / "a", tmp_path / "out")
    assert "24 examples in 3 shards" in command.ok(*words, "--dry-run").out
    assert not (tmp_path / "out").exists()
    assert command.ok(*words).out.startswith(f"Wrote {tmp_path / 'out'}: 24 examples in 3 shards")
    assert tree(tmp_path / "out") == tree(halves / "whole")
    assert "nothing left to do" in command.ok(*words).out
    other = command(*words, "--num-shards", "2")
    assert (other.code, "num_shards is 3 there, 2 now" in other.err) == (6, True)
    result = command.ok(*words, "--num-shards", "2", "--overwrite", "--read-back", "--json", "--progress", "json")
    assert json.loads(result.out)["options"]["num_shards"] == 2
    assert json.loads(result.err.splitlines()[-1])["shards_done"] == 2


# --- what it refuses --------------------------------------------------------------------------------------------------


def _other_dtype(root: Path) -> None:
    save(root / "s", {"x/1": np.arange(8, dtype="f8").reshape(2, 4)})
    convert(root / "s", root / "set", labels="dirs", **USUAL)


def _other_rank(root: Path) -> None:
    save(root / "s", {"x/1": np.arange(8, dtype="f4")})
    convert(root / "s", root / "set", labels="dirs", **USUAL)


def _other_features(root: Path) -> None:
    save(root / "s", {"x/1": np.arange(8, dtype="f4").reshape(2, 4)})
    convert({"image": root / "s"}, root / "set", labels="dirs", **USUAL)


def _no_labels(root: Path) -> None:
    save(root / "s", {"x/1": np.arange(8, dtype="f4").reshape(2, 4)})
    convert(root / "s", root / "set", **USUAL)


def _numbers(root: Path) -> None:
    save(root / "s", {"x/1": np.arange(8, dtype="f4").reshape(2, 4)})
    (root / "l.csv").write_text("key,label\nx/1,7\n")
    convert(root / "s", root / "set", labels=root / "l.csv", **USUAL)


def _rows(root: Path) -> None:
    save(root / "s", {"x/1": np.arange(8, dtype="f4").reshape(1, 2, 4)})
    convert(root / "s", root / "set", labels="dirs", rows=True, **USUAL)


def _same_key(root: Path) -> None:
    save(root / "s", {"c1/01": np.arange(8, dtype="f4").reshape(2, 4)})
    convert(root / "s", root / "set", labels="dirs", **USUAL)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (_other_dtype, ("array (float64, rank 2)", "array (float32, rank 2)")),
        (_other_rank, ("array (float32, rank 1)", "array (float32, rank 2)")),
        (_other_features, ("image (float32, rank 2)", "array (float32, rank 2)")),
        (_no_labels, ("the set has no labels", "whole has;")),
        (_numbers, ("labels are int64 numbers", "classes: c0, c1, c2")),
        (_rows, ("the set has rows", "whole has no")),
        (_same_key, ("key 'c1/01' is also in",)),
    ],
)
def test_sets_that_do_not_agree_are_refused(
    make: Callable[[Path], None], parts: tuple[str, ...], halves: Path, tmp_path: Path, command: Command
) -> None:
    make(tmp_path)
    out = tmp_path / "out"
    words = ("merge", halves / "whole", tmp_path / "set", out)
    command.refused(4, f"{tmp_path / 'set'}", str(halves / "whole"), *parts, words=words, out=out)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a", "a"), "is given twice"),
        (("a", "nowhere"), "no such directory"),
        (("a", "one"), "it is no data set"),
        (("a", "--split-by", "x"), "split_by goes with fractions"),
        (("a", "--split", "dirs"), "labels from the first folder"),
        (("a", "--num-shards", "0"), "num_shards 0"),
    ],
)
def test_requests_that_cannot_be_met(
    words: tuple[str, ...], told: str, halves: Path, tmp_path: Path, command: Command
) -> None:
    options = [word for i, word in enumerate(words) if word[0] == "-" or (words[i - 1][0] == "-" and i)]
    sets = [halves / word for word in words if word not in options]
    out = tmp_path / "out"
    command.refused(2, told, words=("merge", *options, *sets, out), out=out)


def test_a_set_is_not_merged_into_itself(halves: Path, tmp_path: Path) -> None:
    shutil.copytree(halves / "a", tmp_path / "a")
    os.symlink(tmp_path / "a", tmp_path / "link")
    for out in ("a", "link"):
        with pytest.raises(UsageError, match="is one of the sets"):
            merge([halves / "b", tmp_path / "a"], tmp_path / out, overwrite=True, **USUAL)
    assert tree(tmp_path / "a") == tree(halves / "a")


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("buffer", [200, 4 * 2**20])
def test_damage_ends_it_and_is_named(
    compression: str, buffer: int, halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_copier, "BUFFER_BYTES", buffer)
    convert(halves / "one", tmp_path / "a", labels="dirs", compression=compression, **USUAL)
    shard = next((tmp_path / "a").glob("*.tfrecord"))
    whole = shard.read_bytes()
    for place in range(40 if compression == "gzip" else 0, len(whole), 41):
        shard.write_bytes(whole)
        _flip(shard, place)
        with pytest.raises(InputError, match=r"train-00000-of-00001\.tfrecord: .*npy2tfrecord verify"):
            merge([tmp_path / "a", halves / "b"], tmp_path / "out", **USUAL)
        assert not (tmp_path / "out").exists()
    shard.write_bytes(whole[:-5])
    with pytest.raises(InputError, match="bytes"):
        merge([tmp_path / "a", halves / "b"], tmp_path / "out", **USUAL)


def test_exchanged_records_are_found_by_their_keys(tmp_path: Path) -> None:
    save(tmp_path / "s", {"a": np.arange(3), "b": np.arange(3) + 1})
    convert(tmp_path / "s", tmp_path / "set", **USUAL)
    shard = tmp_path / "set" / "train-00000-of-00001.tfrecord"
    data = shard.read_bytes()
    half = len(data) // 2
    shard.write_bytes(data[half:] + data[:half])
    with pytest.raises(InputError, match="another record than the files beside the shard say"):
        merge(tmp_path / "set", tmp_path / "out", num_shards=2, **USUAL)


@pytest.mark.parametrize("suffix", [".idx", ".keys"])
def test_files_beside_the_shards_are_needed(suffix: str, halves: Path, tmp_path: Path) -> None:
    shutil.copytree(halves / "a", tmp_path / "a")
    next((tmp_path / "a" / "index").glob(f"*{suffix}")).unlink()
    with pytest.raises(InputError, match=f"{suffix}: No such file"):
        merge(tmp_path / "a", tmp_path / "out", num_shards=2, **USUAL)


# --- what a failure leaves behind -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(halves: Path) -> Path:
    """A compressed half: it is unpacked into the directory of the run first."""
    convert(halves / "one", halves / "packed", num_shards=3, labels="dirs", seed=5, compression="zlib", **USUAL)
    return halves


def _merge(halves: Path, out: Path) -> None:
    merge([halves / "packed", halves / "b"], out, compression="none", jobs=1)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", CALLS)
def test_every_failing_call_is_reported_and_the_next_run_ends_well(
    name: str, lasting: bool, packed: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tree(packed / "whole")
    counter = Injector()
    with injected(name, counter):
        _merge(packed, out)
    assert tree(out) == whole
    shutil.rmtree(out)
    step = max(1, counter.calls // 12)  # of each kind a dozen; scripts/stress makes all fail
    for number in range(1, counter.calls + 1, step):
        error = errno.ENOSPC if name in ("write", "fsync", "close", "mkdir") else errno.EIO
        with injected(name, Injector(number, 10**9 if lasting else number, error)):
            try:
                _merge(packed, out)
            except (OutputError, InputError):
                pass
            else:
                assert tree(out) == whole or name in ("unlink", "rmdir")
        assert_nothing_half_written(out, whole)
        _merge(packed, out)
        assert tree(out) == whole, f"{name} {number}"
        shutil.rmtree(out)


def test_a_write_may_take_less_than_it_was_given(packed: Path, tmp_path: Path) -> None:
    with short_writes(7):
        _merge(packed, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(packed / "whole")


CHANGING = ("open", "write", "fsync", "close", "rename", "unlink", "mkdir", "rmdir")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_every_call_that_changes_something(packed: Path, tmp_path: Path) -> None:
    whole = tree(packed / "whole")
    out = tmp_path / "out"
    number = killed = 0
    while True:
        number += 1
        child = os.fork()
        if not child:
            code = 1
            try:
                _kill_at(number)
                _merge(packed, out)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert_nothing_half_written(out, whole)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), status
        killed += 1
        _merge(packed, out)
        assert tree(out) == whole, number
        shutil.rmtree(out)
    assert killed > 60


def _kill_at(number: int) -> None:
    calls = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return call

    for name in CHANGING:
        setattr(syscalls, name, wrap(getattr(syscalls, name)))


def test_of_two_merges_into_one_directory_one_is_refused_or_both_are_right(packed: Path, tmp_path: Path) -> None:
    whole = tree(packed / "whole")
    for i in range(4):
        out = tmp_path / f"out{i}"
        words = [
            "merge",
            "--jobs",
            "1",
            "--quiet",
            "--compression",
            "none",
            *map(str, (packed / "packed", packed / "b", out)),
        ]
        runs = [
            subprocess.Popen(
                [sys.executable, "-m", "npy2tfrecord", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            for _ in range(2)
        ]
        said = [run.communicate(timeout=60)[1] for run in runs]
        codes = [run.returncode for run in runs]
        assert 0 in codes, said
        assert {*codes} <= {0, 6}, said
        assert tree(out) == whole


def test_other_sets_in_the_same_directory_are_a_conflict(halves: Path, tmp_path: Path) -> None:
    merge(halves / "a", tmp_path / "out", **USUAL)
    with pytest.raises(ConflictError, match="10 source files then, 14 now"):
        merge(halves / "b", tmp_path / "out", **USUAL)
    merge(halves / "b", tmp_path / "out", overwrite=True, **USUAL)
    assert npy2tfrecord.verify(tmp_path / "out").examples == 14


def test_additions_are_merged_to_what_one_conversion_gives(tmp_path: Path) -> None:
    sets: list[Path] = []
    for night in range(4):
        save(tmp_path / "all", arrays([f"c{i % 3}/{night}-{i}" for i in range(12)], seed=night))
        sets.append(tmp_path / f"set{night}")
        convert(tmp_path / "all", sets[-1], labels="dirs", stats=True, not_in=sets[:-1], **USUAL)
    convert(tmp_path / "all", tmp_path / "whole", labels="dirs", stats=True, **USUAL)
    merge(sets[::-1], tmp_path / "out", **USUAL)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
