"""Archives: members as examples, members by name, and shapes that nobody wants."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, same, save

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError


def utterances(path: Path, count: int = 100) -> dict[str, np.ndarray]:
    """An archive of arrays of several lengths, as `np.savez(path, **arrays)` makes it."""
    rng = np.random.default_rng(0)
    arrays = {f"u{i:04d}": rng.normal(size=(int(rng.integers(1, 9)), 4)).astype("f4") for i in range(count)}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def test_members_are_examples(tmp_path: Path, command: Command) -> None:
    arrays = utterances(tmp_path / "utterances.npz")
    words = (tmp_path / "utterances.npz", tmp_path / "out", "--members", "--no-shuffle", "--num-shards", "3")
    command.ok("convert", *words)
    assert "nothing left" in command.ok("convert", *words).out
    found = read_back(tmp_path / "out")
    assert list(found) == [f"utterances/{name}" for name in arrays]
    assert all(same(found[f"utterances/{name}"].arrays["array"], array) for name, array in arrays.items())
    command.ok("verify", tmp_path / "out", "--source", tmp_path / "utterances.npz")
    command.ok("export", tmp_path / "out", tmp_path / "back")
    assert same(np.load(tmp_path / "back" / "utterances" / "u0007.npy"), arrays["u0007"])


def test_members_of_a_folder_of_archives(tmp_path: Path) -> None:
    for split in ("train", "val"):
        utterances(tmp_path / "data" / split / "a.npz", 3)
    save(tmp_path / "data", {"train/b": np.zeros((1, 4), "f4")})
    utterances(tmp_path / "ids.npz", 3)
    archives = {"mel": tmp_path / "data" / "train" / "a.npz", "ids": tmp_path / "ids.npz"}
    npy2tfrecord.convert(archives, tmp_path / "joined", members=True)
    assert set(read_back(tmp_path / "joined")) == {f"a/u000{i}" for i in range(3)}
    (tmp_path / "data" / "train" / "b.npy").unlink()
    npy2tfrecord.convert({"mel": tmp_path / "data"}, tmp_path / "out", members=True, split="dirs")
    assert {(key, each.split) for key, each in read_back(tmp_path / "out").items()} == {
        (f"{split}/a/u000{i}", split) for split in ("train", "val") for i in range(3)
    }


def test_rows_of_members(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(2), y=np.arange(3))
    npy2tfrecord.convert(tmp_path / "a.npz", tmp_path / "out", members=True, rows=True)
    assert set(read_back(tmp_path / "out")) == {"a/x#0", "a/x#1", "a/y#0", "a/y#1", "a/y#2"}


def test_members_may_have_any_name(tmp_path: Path) -> None:
    names = ["a b", "ü", "key", "x/y", "1.3.6.1"]
    np.savez(tmp_path / "a.npz", **{name: np.arange(2) for name in names})
    npy2tfrecord.convert(tmp_path / "a.npz", tmp_path / "out", members=True)
    assert set(read_back(tmp_path / "out")) == {f"a/{name}" for name in names}


def test_a_bad_member_is_skipped_alone(tmp_path: Path, command: Command) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(2), y=np.array(["no number"]), z=np.arange(2))
    command.refused(4, "a.npz[y", words=("convert", tmp_path / "a.npz", tmp_path / "out", "--members"))
    assert command("convert", tmp_path / "a.npz", tmp_path / "out", "--members", "--on-error", "skip").code == 3
    assert set(read_back(tmp_path / "out")) == {"a/x", "a/z"}


def test_two_members_with_one_key_are_shown(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    np.savez(tmp_path / "data" / "a.npz", **{"b/x": np.arange(2)})
    np.savez(tmp_path / "data" / "a" / "b.npz", x=np.arange(2))
    with pytest.raises(InputError, match="key 'a/b/x' is also that of"):
        npy2tfrecord.convert(tmp_path / "data", tmp_path / "out", members=True)


def test_many_members_are_no_features(tmp_path: Path, command: Command) -> None:
    utterances(tmp_path / "u.npz", 65)
    words = ("convert", tmp_path / "u.npz", tmp_path / "out")
    command.refused(2, "more than 64 members", "--members", "NAME=FILE.npz[MEMBER]", words=words)
    utterances(tmp_path / "v.npz", 64)
    assert len(npy2tfrecord.scan(tmp_path / "v.npz").features) == 64


def test_archives_whose_members_never_meet_are_refused(tmp_path: Path, command: Command) -> None:
    (tmp_path / "data").mkdir()
    for name in "abc":
        np.savez(tmp_path / "data" / f"{name}.npz", **{name: np.arange(2)})
    words = ("convert", tmp_path / "data", tmp_path / "out")
    command.refused(2, "3 features, each of one key only", "--members", words=words)
    command.ok(*words, "--members")
    assert set(read_back(tmp_path / "out")) == {"a/a", "b/b", "c/c"}


@pytest.mark.parametrize(("count", "found"), [(3, "3 features, each of one key only"), (100, "more than 64")])
def test_suffixes_that_are_no_features_are_refused(tmp_path: Path, command: Command, count: int, found: str) -> None:
    save(tmp_path / "data", {f"1.3.6.1.4.{i}.{i}_clean": np.arange(2) for i in range(count)})
    words = ("convert", tmp_path / "data", tmp_path / "out", "--group-by-suffix")
    command.refused(2, found, "leave out --group-by-suffix", "clean=DIR:*_clean.npy", words=words)


def test_numbers_between_dots_are_no_features_of_one_example(tmp_path: Path, command: Command) -> None:
    kinds = ("clean", "nodule")
    save(tmp_path / "data", {f"1.3.6.1.4.1.{i}_{kind}": np.arange(2) for i in range(3) for kind in kinds})
    words = ("convert", tmp_path / "data", tmp_path / "out")
    said = ("6 features, each of one key only", "1.3.6.1.4.1.0_clean.npy", "clean=DIR:*_clean.npy")
    command.refused(2, *said, words=(*words, "--group-by-suffix"), out=tmp_path / "out")
    sources = [f"{kind}={tmp_path / 'data'}:*_{kind}.npy" for kind in kinds]
    command.ok("convert", *sources, tmp_path / "out", "--key-by", "^(.*)_")
    assert set(read_back(tmp_path / "out")) == {f"1.3.6.1.4.1.{i}" for i in range(3)}


def test_scan_shows_what_an_example_would_be(tmp_path: Path, command: Command) -> None:
    arrays = utterances(tmp_path / "u.npz", 5)
    shape = arrays["u0000"].shape
    text = command.ok("scan", tmp_path / "u.npz", "--members").out
    assert f"  5 examples, the first u/u0000: array ({shape[0]}, 4)\n" in text
    text = command.ok("scan", tmp_path / "u.npz").out
    assert f"  1 example, the first u: u0000 ({shape[0]}, 4), u0001 (" in text
    save(tmp_path, {"x/a": np.zeros((3, 2)), "x/b": np.zeros((4, 2)), "y/b": np.zeros(4)})
    words = ("scan", f"x={tmp_path / 'x'}", f"y={tmp_path / 'y'}")
    assert "  1 example, the first b: x (4, 2), y (4,)\n" in command.ok(*words).out
    assert "  4 examples, the first b#0: x (2,), y ()\n" in command.ok(*words, "--rows").out
    told = json.loads(command.ok(*words, "--json").out)
    assert told["examples"] == 1
    assert told["example"] == {"key": "b", "shapes": {"x": [4, 2], "y": [4]}}
    (tmp_path / "y" / "b.npy").rename(tmp_path / "y" / "c.npy")
    assert "  none: no example is left to write" in command.ok(*words).out


def test_three_thousand_members_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utterances(tmp_path / "u.npz", 3000)
    opened = []
    whole = zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda self, *a, **k: opened.append(whole(self, *a, **k)))
    report = npy2tfrecord.scan(tmp_path / "u.npz", members=True)
    assert report.counts == (3000,)
    assert len(opened) == 1
    with pytest.raises(UsageError, match="more than 64"):
        npy2tfrecord.scan(tmp_path / "u.npz")
