"""`--split` and `--split-by`: what goes to training, and what does not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, read_back, save, shards_of

import npy2tfrecord
import readers
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.formats import manifest_parsing
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


@pytest.mark.parametrize("name", ["my data", "naïve", "a.b"])
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
        (["--split-by", "p"], "goes with fractions or folds"),
        (["--split", "dirs", "--split-by", "p"], "goes with fractions or folds"),
        (["--split", "train=1", "--split-by", "^q"], "finds nothing in 600 keys, e.g. p00/0000"),
        (["--split", "train=0.5,val=0.5", "--split-by", "^p"], "'^p' are too few"),
    ],
)
def test_groups_that_make_no_sense(
    many: Path, tmp_path: Path, command: Command, options: list[str], message: str
) -> None:
    command.refused(2, message, words=("convert", many, tmp_path / "out", *options), out=tmp_path / "out")


def sizes_of(out: Path) -> dict[str, int]:
    return dict(Counter(splits_of(out).values()))


@pytest.mark.parametrize("folds", [2, 5, 7, 600])
def test_folds_are_as_even_as_can_be(many: Path, tmp_path: Path, folds: int) -> None:
    made = npy2tfrecord.convert(many, tmp_path / "out", split=f"{folds}-fold", num_shards=1, fsync=False, dry_run=True)
    assert list(made.splits) == [f"fold{i}" for i in range(folds)]
    sizes = [sum(shard.examples for shard in shards) for shards in made.splits.values()]
    assert sum(sizes) == 600
    assert max(sizes) - min(sizes) <= 1


def test_folds_are_drawn_by_the_seed(many: Path, tmp_path: Path, command: Command) -> None:
    command.ok("convert", many, tmp_path / "a", "--split", "5-fold")
    npy2tfrecord.convert(many, tmp_path / "b", split="5-fold", jobs=2)
    npy2tfrecord.convert(many, tmp_path / "c", split="5-fold", seed=1)
    assert shards_of(tmp_path / "a") == shards_of(tmp_path / "b")
    first, other = splits_of(tmp_path / "a"), splits_of(tmp_path / "c")
    moved = sum(first[key] != other[key] for key in first)
    assert 400 < moved < 560  # four of five, on average
    command.ok("verify", tmp_path / "a", "--source", many)
    assert len(readers.ArraySource(tmp_path / "a", split="fold3")) == 120


def test_folds_of_patients(tmp_path: Path) -> None:
    scans = {f"patient{p:02}/scan{i}": np.float32(i) for p in range(12) for i in range(5)}
    source = save(tmp_path / "d", scans)
    npy2tfrecord.convert(source, tmp_path / "out", split="4-fold", split_by="^[^/]+")
    patients: dict[str, set[str]] = defaultdict(set)
    for key, split in splits_of(tmp_path / "out").items():
        patients[split].add(key.split("/")[0])
    assert sorted(len(group) for group in patients.values()) == [3, 3, 3, 3]
    assert sizes_of(tmp_path / "out") == {f"fold{i}": 15 for i in range(4)}


@pytest.mark.parametrize(
    ("groups", "folds", "sizes"),
    [
        ([9, 5, 5, 4], 2, [10, 13]),
        ([16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5], 4, [30, 31, 32, 33]),
        ([100, *[1] * 11], 4, [3, 4, 4, 100]),
        ([1] * 3, 3, [1, 1, 1]),
    ],
)
def test_folds_of_groups_of_several_sizes(tmp_path: Path, groups: list[int], folds: int, sizes: list[int]) -> None:
    source = save(tmp_path / "d", {f"g{g}-{i}": np.float32(0) for g, size in enumerate(groups) for i in range(size)})
    npy2tfrecord.convert(source, tmp_path / "out", split=f"{folds}-fold", split_by="g[0-9]+", fsync=False)
    assert sorted(sizes_of(tmp_path / "out").values()) == sizes
    assert len({(key.split("-")[0], split) for key, split in splits_of(tmp_path / "out").items()}) == len(groups)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "601-fold"], "600 examples are too few for 601 folds"),
        (["--split", "61-fold", "--split-by", "p[0-9]+"], "60 groups by 'p[0-9]+' are too few for 61 folds"),
        (["--split", "1-fold"], "number of folds 1: expected 2 to 1000"),
        (["--split", "0-fold"], "number of folds 0"),
        (["--split", "five-fold"], "folds like '5-fold'"),
        (["--split", "5-fold", "--split-by", "q"], "finds nothing in 600 keys"),
    ],
)
def test_folds_that_make_no_sense(many: Path, tmp_path: Path, command: Command, words: list[str], message: str) -> None:
    command.refused(2, message, words=("convert", many, tmp_path / "out", *words), out=tmp_path / "out")


def split_table(path: Path, splits: Mapping[str, str]) -> Path:
    path.write_text("key,split\n" + "".join(f"{key},{split}\n" for key, split in splits.items()))
    return path


def test_splits_from_a_table(tmp_path: Path, command: Command) -> None:
    keys = [f"{i:02}" for i in range(12)]
    source, out = save(tmp_path / "d", dict.fromkeys(keys, 1.0)), tmp_path / "out"
    splits = {key: ("train", "val", "test-1")[i % 3] for i, key in enumerate(reversed(keys))}
    file = split_table(tmp_path / "splits.csv", splits)
    command.ok("convert", source, out, "--split", file)
    assert splits_of(out) == splits
    assert list(manifest_parsing.load(out).splits) == ["test-1", "train", "val"]
    assert "nothing left to do" in command.ok("convert", source, out, "--split", file).out
    command.ok("verify", out, "--source", source, "--split", file)
    command.refused(2, "--split FILE", words=("verify", out, "--source", source))
    shard = out / "val-00000-of-00001.tfrecord"
    whole = shard.read_bytes()
    shard.unlink()
    command.ok("convert", source, out, "--split", file)
    assert shard.read_bytes() == whole
    split_table(file, splits | {"03": "val"})
    assert command("convert", source, out, "--split", file).code == 6
    assert command("verify", out, "--source", source, "--split", file).code == 7
    npy2tfrecord.convert(source, tmp_path / "path", split=Path(file), fsync=False)
    assert splits_of(tmp_path / "path") == splits | {"03": "val"}


def test_a_table_of_splits_that_does_not_fit(tmp_path: Path, command: Command) -> None:
    source, out = save(tmp_path / "d", dict.fromkeys(["a", "b", "c"], 1.0)), tmp_path / "out"
    file = split_table(tmp_path / "s.csv", {"a": "train", "b": "val", "x": "test"})
    words = ("convert", source, out, "--split", file)
    command.refused(4, "s.csv", "no split for 1 key, e.g. c", "on line 4 (x)", words=words, out=out)
    assert command(*words, "--missing", "skip").code == 3
    assert splits_of(out) == {"a": "train", "b": "val"}
    words = ("convert", source, tmp_path / "new", "--split", file)
    split_table(file, {"a": "train", "b": "my split", "c": "val"})
    command.refused(4, "line 3 has the split 'my split'", words=words, out=tmp_path / "new")
    file.write_text("key,label\na,train\n")
    command.refused(4, "line 1 reads 'key,label'; expected key,split", words=words, out=tmp_path / "new")
    words = ("convert", source, tmp_path / "new", "--split", tmp_path / "none.csv")
    command.refused(2, "none.csv", "No such file", words=words, out=tmp_path / "new")


def test_rows_are_split_by_the_table_of_their_files(tmp_path: Path) -> None:
    source = save(tmp_path / "d", {"a": np.zeros(2), "b": np.zeros(3)})
    file = split_table(tmp_path / "s.csv", {"a": "train", "b": "val"})
    npy2tfrecord.convert(source, tmp_path / "out", rows=True, split=str(file))
    assert sizes_of(tmp_path / "out") == {"train": 2, "val": 3}


def test_the_table_is_no_url(many: Path, tmp_path: Path, command: Command) -> None:
    words = ("convert", many, tmp_path / "out", "--split", "gs://bucket/splits.csv")
    command.refused(2, "split 'gs://bucket/splits.csv': gs:// is not supported", words=words)


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
