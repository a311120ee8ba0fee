"""Files that are no sources: hidden ones, other suffixes, what patterns leave out. They are counted, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError


def plant(root: Path, *names: str) -> Path:
    """Arrays, and empty files where a name has another suffix."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if name.lower().endswith(".npy"):
                np.save(file, np.arange(3))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two classes as people have them."""
    return plant(
        tmp_path / "data",
        *("cats/1.npy", "dogs/2.npy", "dogs/B.NPY", "dogs/notes.txt", "dogs/more.TXT", "README", "dogs/x.tar"),
        *(".ipynb_checkpoints/1-checkpoint.npy", "cats/._1.npy", "__MACOSX/cats/._1.npy", "cats/.DS_Store"),
        *("odd.a b", "cats/__MACOSX.npy"),
    )


COUNTS = {"hidden": 4, ".txt": 2, ".tar": 1, "with other suffixes": 1, "without suffix": 1}
TEXT = "Passed over: 4 hidden, 2 .txt, 1 .tar, 1 with other suffixes, 1 without suffix\n"


def test_what_is_passed_over_is_counted(folder: Path, tmp_path: Path, command: Command) -> None:
    assert TEXT in command.ok("scan", folder).out
    assert json.loads(command.ok("scan", folder, "--json").out)["passed_over"] == COUNTS
    assert npy2tfrecord.scan(folder).passed_over == COUNTS
    out = tmp_path / "out"
    assert TEXT in command.ok("convert", folder, out, "--labels", "dirs", "--dry-run").out
    assert TEXT in command.ok("convert", folder, out, "--labels", "dirs").out
    assert {key: each.label for key, each in read_back(out).items()} == {
        "cats/1": 0, "cats/__MACOSX": 0, "dogs/2": 1, "dogs/B": 1
    }  # fmt: skip
    again = command.ok("convert", folder, out, "--labels", "dirs").out
    assert "nothing left to do" in again
    assert TEXT in again
    assert json.loads(command.ok("convert", folder, out, "--labels", "dirs", "--json").out)["passed_over"] == COUNTS
    assert "passed_over" not in (out / "manifest.json").read_text()


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "data", {"a": np.arange(3)})
    assert "Passed over" not in command.ok("scan", tmp_path / "data").out


def test_what_patterns_leave_out_is_counted(folder: Path) -> None:
    assert npy2tfrecord.scan(folder, include="*1.npy").passed_over["left out by pattern"] == 3


@pytest.mark.parametrize(
    ("include", "keys"),
    [
        (".ipynb_checkpoints/", {".ipynb_checkpoints/1-checkpoint"}),
        (".ipynb_checkpoints/*.npy", {".ipynb_checkpoints/1-checkpoint"}),
        ("._*", {"cats/._1"}),
        ("cats/._1.npy", {"cats/._1"}),
        ("__MACOSX/**/._1.npy", {"__MACOSX/cats/._1"}),
        ("**/._1.npy", {"cats/._1"}),
        ("*1*", {"cats/1"}),
    ],
)
def test_hidden_files_are_taken_where_a_pattern_names_them(
    folder: Path, tmp_path: Path, include: str, keys: set[str]
) -> None:
    npy2tfrecord.convert(folder, tmp_path / "out", include=include)
    assert set(read_back(tmp_path / "out")) == keys


@pytest.mark.parametrize("source", [".ipynb_checkpoints", ".ipynb_checkpoints/1-checkpoint.npy", "cats/._1.npy"])
def test_hidden_sources_are_taken(folder: Path, tmp_path: Path, source: str) -> None:
    assert npy2tfrecord.convert(folder / source, tmp_path / "out").examples == 1


def test_listed_hidden_files_are_taken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("cats/._1.npy\n__MACOSX/cats/._1.npy\n")
    npy2tfrecord.convert(folder, tmp_path / "out", files_from=tmp_path / "list")
    assert set(read_back(tmp_path / "out")) == {"cats/._1", "__MACOSX/cats/._1"}


def test_suffixes_have_no_case(tmp_path: Path) -> None:
    plant(tmp_path / "data", "A.NPY", "b.npy", "C.Npy")
    np.savez(tmp_path / "more.npz", array=np.arange(3))
    (tmp_path / "more.npz").rename(tmp_path / "more.NPZ")
    npy2tfrecord.convert({"x": tmp_path / "data"}, tmp_path / "out")
    assert set(read_back(tmp_path / "out")) == {"A", "b", "C"}
    npy2tfrecord.convert(tmp_path / "more.NPZ", tmp_path / "out2")
    assert set(read_back(tmp_path / "out2")) == {"more"}
    npy2tfrecord.convert(tmp_path / "data" / "A.NPY", tmp_path / "out3")
    assert set(read_back(tmp_path / "out3")) == {"A"}


def test_suffixes_of_features_have_no_case_at_their_end(tmp_path: Path) -> None:
    plant(tmp_path / "data", "1.image.NPY", "1.mask.npy")
    npy2tfrecord.convert(tmp_path / "data", tmp_path / "out", group_by_suffix=True)
    assert set(read_back(tmp_path / "out")["1"].arrays) == {"image", "mask"}


def test_two_files_that_differ_in_the_suffixs_case_are_shown(tmp_path: Path) -> None:
    plant(tmp_path / "data", "d/a.npy", "d/a.NPY", "b.npy")
    with pytest.raises(InputError, match=r"d/a\.npy: key 'd/a' is also that of .*d/a\.NPY; .*another name"):
        npy2tfrecord.convert(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize("name", ["b.npy.gz", "b.NPY.GZ", "b.npz.zst", "b.npy.xz"])
def test_compressed_files_are_refused_by_name(tmp_path: Path, command: Command, name: str) -> None:
    folder = plant(tmp_path / "data", "a.npy", f"sub/{name}")
    result = command.refused(4, f"sub/{name}", "unpack it first", words=("convert", folder, tmp_path / "out"))
    assert "compressed" in result.err
    command.refused(2, "unpack it first", words=("convert", folder / "sub" / name, tmp_path / "out"))
    (tmp_path / "list").write_text(f"sub/{name}\n")
    command.refused(4, "unpack it first", words=("scan", folder, "--files-from", tmp_path / "list"))
    assert "Passed over: 1 ." in command.ok("scan", folder, "--include", "*.npy").out
    assert command("scan", folder, "--on-error", "skip").code == 3
    command.ok("convert", folder, tmp_path / "out", "--exclude", "*.*.*")


def test_nothing_but_hidden_files_is_said(tmp_path: Path) -> None:
    plant(tmp_path / "data", ".a.npy", "b.txt")
    with pytest.raises(UsageError, match=r"no \.npy or \.npz file .*\(passed over: 1 \.txt, 1 hidden\)"):
        npy2tfrecord.scan(tmp_path / "data")
