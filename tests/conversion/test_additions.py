"""`not_in`: what is new becomes a set beside the earlier ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save
from faults import tree

from npy2tfrecord import convert, verify
from npy2tfrecord.errors import ConflictError, DamageError, InputError, UsageError


def arrays(*numbers: int, rows: int = 3) -> dict[str, np.ndarray]:
    return {f"{i % 2}/{i}": np.full((rows + i % 3, 4), i, dtype="f4") for i in numbers}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_only_what_no_set_has_is_converted(tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(*range(4)))
    convert(root, tmp_path / "a", num_shards=2)
    save(root, arrays(4, 5))
    convert(root, tmp_path / "b", not_in=tmp_path / "a", compression="gzip")
    save(root, arrays(6))
    made = convert(root, tmp_path / "c", not_in=[tmp_path / "b", str(tmp_path / "a")])
    found = [set(read_back(tmp_path / name)) for name in "abc"]
    assert found == [{"0/0", "1/1", "0/2", "1/3"}, {"0/4", "1/5"}, {"0/6"}]
    assert made.sources["not_in"] == {"examples": 6, "gone": 0, "changed": 0}
    np.testing.assert_array_equal(read_back(tmp_path / "c")["0/6"].arrays["array"], arrays(6)["0/6"])


def test_the_same_command_again_does_nothing_and_resumes(tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(*range(4)))
    convert(root, tmp_path / "a")
    save(root, arrays(*range(4, 9)))
    convert(root, tmp_path / "b", not_in=tmp_path / "a")
    whole = tree(tmp_path / "b")
    convert(root, tmp_path / "b", not_in=tmp_path / "a")
    assert tree(tmp_path / "b") == whole
    next((tmp_path / "b").glob("*.tfrecord")).unlink()
    convert(root, tmp_path / "b", not_in=tmp_path / "a")
    assert tree(tmp_path / "b") == whole
    save(root, arrays(9))
    with pytest.raises(ConflictError, match="5 source files then, 6 now"):
        convert(root, tmp_path / "b", not_in=tmp_path / "a")


def test_what_is_written_does_not_depend_on_how_the_sets_hold_the_rest(tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(*range(6)))
    convert(root, tmp_path / "a", include="0/")
    convert(root, tmp_path / "b", include="1/")
    convert(root, tmp_path / "both", num_shards=3, seed=9)
    save(root, arrays(6, 7, 8))
    convert(root, tmp_path / "one", not_in=[tmp_path / "a", tmp_path / "b"])
    convert(root, tmp_path / "other", not_in=tmp_path / "both")
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_nothing_new_writes_nothing(command: Command, tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(0, 1))
    convert(root, tmp_path / "a")
    for extra in ((), ("--split", "train=0.5,val=0.5", "--split-by", "^.")):
        done = command.ok("convert", "--not-in", tmp_path / "a", root, tmp_path / "b", *extra)
        assert "nothing new" in done.out
        assert not (tmp_path / "b").exists()
    told = json.loads(command.ok("convert", "--json", "--not-in", tmp_path / "a", root, tmp_path / "b").out)
    assert (told["examples"], told["sources"]["not_in"]["examples"]) == (0, 2)
    assert convert(root, tmp_path / "b", not_in=tmp_path / "a").examples == 0
    assert not (tmp_path / "b").exists()


def test_sources_that_are_gone_or_have_another_size_are_counted(command: Command, tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(*range(5)))
    convert(root, tmp_path / "a", labels="dirs")
    save(root, arrays(5) | {"0/0": np.zeros((9, 4), "f4"), "0/2": np.ones((5, 4), "f4")})  # 0/2 keeps its shape
    (root / "1" / "3.npy").unlink()
    words = ("convert", root, tmp_path / "b", "--labels", "dirs", "--not-in", tmp_path / "a")
    said = command.ok(*words).out
    assert "Left out: 4 examples that the earlier sets hold; 1 source has another size now, 1 key has no source" in said
    expected = {"examples": 4, "gone": 1, "changed": 1}
    assert json.loads(command.ok(*words, "--json").out)["sources"]["not_in"] == expected
    other = convert(root, tmp_path / "c", not_in=tmp_path / "a", dtype="float64", labels="dirs")
    assert other.sources["not_in"] == expected | {"changed": 0}, "casts change sizes, not sources"


def test_rows_have_keys_of_their_own(tmp_path: Path) -> None:
    root = save(tmp_path / "root", {"x": np.arange(12.0).reshape(4, 3)})
    convert(root, tmp_path / "a", rows=True)
    save(root, {"x": np.arange(18.0).reshape(6, 3), "y": np.zeros((1, 3))})
    convert(root, tmp_path / "b", rows=True, not_in=tmp_path / "a")
    found = read_back(tmp_path / "b")
    assert set(found) == {"x#4", "x#5", "y#0"}
    np.testing.assert_array_equal(found["x#5"].arrays["array"], [15, 16, 17])


def test_joined_features_archives_and_labels(tmp_path: Path) -> None:
    for name in ("img", "msk"):
        save(tmp_path / name, arrays(0, 1))
    (tmp_path / "labels.csv").write_text("key,label\n0/0,cat\n1/1,dog\n0/2,bee\n")
    sources = {"image": tmp_path / "img", "mask": tmp_path / "msk"}
    convert(sources, tmp_path / "a", labels="dirs")
    for name in ("img", "msk"):
        save(tmp_path / name, arrays(2))
    made = convert(sources, tmp_path / "b", labels=tmp_path / "labels.csv", not_in=tmp_path / "a")
    assert made.labels == ("bee", "cat", "dog")
    assert list(read_back(tmp_path / "b")) == ["0/2"]
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "a.npz", x=np.zeros(3), y=np.ones(2))
    convert(tmp_path / "npz", tmp_path / "c")
    np.savez(tmp_path / "npz" / "b.npz", x=np.ones(3), y=np.ones(2))
    added = convert(tmp_path / "npz", tmp_path / "d", not_in=tmp_path / "c")
    assert (list(read_back(tmp_path / "d")), added.sources["files"]) == (["b"], 1)


def test_a_small_addition_may_lack_a_split(tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(*range(20)))
    split = "train=0.7,val=0.3"
    convert(root, tmp_path / "a", split=split)
    save(root, arrays(20, 21))
    convert(root, tmp_path / "whole", split=split)
    added = convert(root, tmp_path / "b", split=split, not_in=tmp_path / "a")
    whole = read_back(tmp_path / "whole")
    assert {key: example.split for key, example in read_back(tmp_path / "b").items()} == {
        key: whole[key].split for key in ("0/20", "1/21")
    }
    assert added.examples == 2
    with pytest.raises(UsageError, match="folds depend on all examples"):
        convert(root, tmp_path / "c", split="2-fold", not_in=tmp_path / "a")


def test_verify_compares_an_addition_with_its_sources(tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(0, 1))
    convert(root, tmp_path / "a")
    save(root, arrays(*range(2, 6)))
    convert(root, tmp_path / "b", not_in=tmp_path / "a", num_shards=2)
    whole = tree(tmp_path / "b")
    with pytest.raises(UsageError, match="name them with --not-in"):
        verify(tmp_path / "b", source=root)
    assert verify(tmp_path / "b", source=root, not_in=tmp_path / "a").examples == 4
    next((tmp_path / "b").glob("*.tfrecord")).unlink()
    verify(tmp_path / "b", source=root, not_in=[tmp_path / "a"], repair=True)
    assert tree(tmp_path / "b") == whole
    np.save(root / "0" / "2.npy", np.zeros((5, 4), "f4"))
    with pytest.raises(DamageError):
        verify(tmp_path / "b", source=root, not_in=tmp_path / "a")


def test_a_set_that_is_none_or_damaged_is_named(tmp_path: Path) -> None:
    root = save(tmp_path / "root", arrays(0, 1))
    with pytest.raises(UsageError, match="none: no such directory"):
        convert(root, tmp_path / "b", not_in=tmp_path / "none")
    convert(root, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "cut")
    keys = next((tmp_path / "cut" / "index").glob("*.keys"))
    keys.write_bytes(keys.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"cut: index/.*\.keys.*expected a whole data set"):
        convert(root, tmp_path / "b", not_in=tmp_path / "cut")
    assert not (tmp_path / "b").exists()
