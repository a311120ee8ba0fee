"""`--split` and `--split-by`: what goes to training, and what does not."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, read_back, save, shards_of

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.planning.plan import Split

THIRDS = "train=0.8,val=0.1,test=0.1"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    return save(root, {f"p{i % 60:02d}/{i:04d}": np.float32(i) for i in range(600)})


def splits_of(out: Path) -> dict[str, str]:
    return {key: example.split for key, example in read_back(out).items()}


def test_fractions(many: Path, tmp_path: Path, command: Command) -> None:
    command.ok("convert", many, tmp_path / "out", "--split", THIRDS)
    found = splits_of(tmp_path / "out")
    assert len(found) == 600
    counts = {name: list(found.values()).count(name) for name in ("train", "val", "test")}
    assert sum(counts.values()) == 600
    for name, fraction in (("train", 0.8), ("val", 0.1), ("test", 0.1)):  # five standard deviations
        assert abs(counts[name] - 600 * fraction) < 5 * (600 * fraction * (1 - fraction)) ** 0.5
    made = npy2tfrecord.convert(many, tmp_path / "again", split={"train": 0.8, "val": 0.1, "test": 0.1})
    assert list(made.splits) == ["train", "val", "test"]
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "again")


def test_without_split_all_is_train(many: Path, tmp_path: Path) -> None:
    assert list(npy2tfrecord.convert(many, tmp_path / "out").splits) == ["train"]


def test_seed_changes_the_splits(many: Path, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        npy2tfrecord.convert(many, tmp_path / str(seed), split=THIRDS, seed=seed)
        found.append(splits_of(tmp_path / str(seed)))
    assert found[0] != found[1]


@pytest.mark.parametrize("options", [{}, {"split_by": r"p\d+"}, {"shuffle": False}, {"dtype": "float16"}])
def test_examples_stay_in_their_split_when_others_come_and_go(
    many: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    before = tmp_path / "before"
    npy2tfrecord.convert(many, before, split=THIRDS, **options)
    changed = save(tmp_path / "d", {f"p{i % 60:02d}/{i:04d}": np.float32(i) for i in range(300, 600)})
    save(changed, {f"p{i % 90:02d}/x{i:04d}": np.float32(i) for i in range(300)})
    npy2tfrecord.convert(changed, tmp_path / "after", split=THIRDS, **options)
    old, new = splits_of(before), splits_of(tmp_path / "after")
    common = old.keys() & new.keys()
    assert len(common) == 300
    assert {key: old[key] for key in common} == {key: new[key] for key in common}


def test_a_new_split_takes_from_the_others_only_what_it_needs(many: Path, tmp_path: Path) -> None:
    """Fractions are laid end to end: what a name keeps of its stretch stays with it."""
    npy2tfrecord.convert(many, tmp_path / "1", split="train=0.5,val=0.5")
    npy2tfrecord.convert(many, tmp_path / "2", split="train=0.5,val=0.25,test=0.25")
    one, two = splits_of(tmp_path / "1"), splits_of(tmp_path / "2")
    assert {key for key in one if one[key] == "train"} == {key for key in two if two[key] == "train"}


def test_rows_and_labels_are_split_by_their_keys(tmp_path: Path) -> None:
    save(tmp_path, {"X": np.arange(400)})
    npy2tfrecord.convert(tmp_path / "X.npy", tmp_path / "all", rows=True, split=THIRDS)
    save(tmp_path, {"X": np.arange(300)})
    npy2tfrecord.convert(tmp_path / "X.npy", tmp_path / "some", rows=True, split=THIRDS)
    old, new = splits_of(tmp_path / "all"), splits_of(tmp_path / "some")
    assert all(old[key] == split for key, split in new.items())


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train=0.9,val=0.2", "add up to 1.1, expected 1"),
        ("train=0.3,val=0.3,test=0.3", "add up to 0.9"),
        ("train=1,val=0", "above 0"),
        ("train=1.5,val=-0.5", "above 0 and at most 1"),
        ("train=0.5,train=0.5", "named twice"),
        ("train=x", "fractions like"),
        ("train", "fractions like"),
        ("folders", "fractions like"),
        ("=1", "split name ''"),
        ("../x=1", "split name '../x'"),
        ("train=nan", "fractions like"),
        ("train=1/0", "fractions like"),
        ("", "split name ''"),
    ],
)
def test_splits_that_make_no_sense(many: Path, tmp_path: Path, command: Command, split: str, message: str) -> None:
    out = tmp_path / "out"
    command.refused(2, message, words=("convert", many, out, "--split", split), out=out)
    with pytest.raises(UsageError):
        npy2tfrecord.convert(many, out, split=split)


@pytest.mark.parametrize(
    "split", ["a=1/3,b=1/3,c=1/3", {"a": 0.7, "b": 0.2, "c": 0.1}, "a=0.333333,b=0.333333,c=0.333334"]
)
def test_fractions_that_add_up_but_for_rounding(many: Path, tmp_path: Path, split: Any) -> None:
    assert list(npy2tfrecord.convert(many, tmp_path / "out", split=split).splits) == ["a", "b", "c"]


def test_empty_split_is_refused(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1": 1.0, "2": 2.0})
    words = ("convert", tmp_path / "d", tmp_path / "out", "--split", "train=0.98,val=0.02")
    command.refused(2, "split 'val' would be empty", "2 examples", words=words, out=tmp_path / "out")


def test_folders_as_splits(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"train/a/1": 1.0, "train/2": 2.0, "val/1": 3.0, "test-clean/1": 4.0})
    command.ok("convert", tmp_path / "d", tmp_path / "out", "--split", "dirs")
    assert splits_of(tmp_path / "out") == {
        "train/a/1": "train", "train/2": "train", "val/1": "val", "test-clean/1": "test-clean",
    }  # fmt: skip
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "again", split="dirs")
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "again")


def test_files_outside_the_folders_of_splits(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"train/1": 1.0, "2": 2.0})
    words = ("convert", tmp_path / "d", tmp_path / "out", "--split", "dirs")
    command.refused(4, "d/2.npy", "1 sources like this one", "first directory", words=words, out=tmp_path / "out")


@pytest.mark.parametrize("name", ["my data", "naïve", ".hidden", "a.b"])
def test_folders_that_cannot_be_splits(tmp_path: Path, command: Command, name: str) -> None:
    save(tmp_path / "d", {f"{name}/1": 1.0, "train/1": 1.0})
    words = ("convert", tmp_path / "d", tmp_path / "out", "--split", "dirs")
    command.refused(2, f"directory {name!r}", "--exclude", words=words, out=tmp_path / "out")
    command.ok(*words, "--exclude", f"/{name}/")


# --- groups --------------------------------------------------------------------------------------


def groups(found: dict[str, str], group_of: Any) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for key, split in found.items():
        splits[group_of(key)].add(split)
    return splits


@pytest.mark.parametrize("pattern", [r"^p\d+", r"(p\d+)/", r"^(p\d+)/|(q\d+)", r"(?:/|^)(?P<patient>p\d+)"])
def test_a_patient_is_in_one_split(many: Path, tmp_path: Path, command: Command, pattern: str) -> None:
    command.ok("convert", many, tmp_path / "out", "--split", "train=0.5,val=0.5", "--split-by", pattern)
    found = splits_of(tmp_path / "out")
    by_patient = groups(found, lambda key: key[:3])
    assert len(by_patient) == 60
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert 15 < sum(splits == {"train"} for splits in by_patient.values()) < 45
    npy2tfrecord.convert(many, tmp_path / "again", split="train=0.5,val=0.5", split_by=pattern)
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "again")


def test_all_rows_of_a_file_stay_together(tmp_path: Path) -> None:
    save(tmp_path / "d", {f"f{i}": np.arange(5) for i in range(40)})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", rows=True, split="a=0.5,b=0.5", split_by=r"^.*(?=#)")
    by_file = groups(splits_of(tmp_path / "out"), lambda key: key.partition("#")[0])
    assert len(by_file) == 40
    assert all(len(splits) == 1 for splits in by_file.values())


def test_groups_are_those_of_the_alternative_that_was_found(tmp_path: Path) -> None:
    save(tmp_path / "d", {f"{c}{i}": 1.0 for c in "pq" for i in range(40)})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", split="a=0.5,b=0.5", split_by=r"p(\d+)|q(\d+)")
    found = splits_of(tmp_path / "out")
    assert len({found[f"q{i}"] for i in range(40)}) == 2
    assert all(found[f"p{i}"] == found[f"q{i}"] for i in range(40))


def test_expressions_match_text_not_bytes(tmp_path: Path) -> None:
    save(tmp_path / "d", {f"{c}{i}": 1.0 for c in "äöüß" for i in range(10)})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", split="a=0.5,b=0.5", split_by=r"^[äöüß]", seed=3)
    by_letter = groups(splits_of(tmp_path / "out"), lambda key: key[0])
    assert sorted(map(len, by_letter.values())) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "train=1", "--split-by", "("], "no regular expression"),
        (["--split-by", "p"], "goes with fractions"),
        (["--split", "dirs", "--split-by", "p"], "goes with fractions"),
        (["--split", "train=1", "--split-by", "^q"], "finds nothing in 600 keys, e.g. p00/0000"),
        (["--split", "train=0.5,val=0.5", "--split-by", "^p"], "'^p' are too few"),
    ],
)
def test_groups_that_make_no_sense(
    many: Path, tmp_path: Path, command: Command, options: list[str], message: str
) -> None:
    command.refused(2, message, words=("convert", many, tmp_path / "out", *options), out=tmp_path / "out")


def test_errors_are_those_of_the_library(tmp_path: Path) -> None:
    save(tmp_path / "d", {"1": 1.0})
    with pytest.raises(InputError, match="in no directory"):
        npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", split="dirs")


def test_a_split_gives_the_file_and_the_examples_of_each_shard() -> None:
    split = Split("train", np.array([4, 0, 3, 1, 2]), np.array([0, 2, 5]))
    assert [(file, members.tolist()) for file, members in split.shards()] == [
        ("train-00000-of-00002.tfrecord", [4, 0]),
        ("train-00001-of-00002.tfrecord", [3, 1, 2]),
    ]
