"""Sources that are part of a file or of a folder: `FILE.npz[MEMBER]`, `DIR:GLOB`, and `SPLIT:NAME=PATH`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, same, save

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.options import Source, parse_sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mnist(here: Path) -> dict[str, np.ndarray]:
    """An archive as Keras ships it: images and labels of two splits."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 255, (20, 4, 4)).astype("u1"),
        "y_train": rng.integers(0, 10, 20),
        "x_test": rng.integers(0, 255, (5, 4, 4)).astype("u1"),
        "y_test": rng.integers(0, 10, 5),
    }
    np.savez_compressed("mnist.npz", **arrays)
    return arrays


def test_members_by_name(mnist: dict[str, np.ndarray], command: Command) -> None:
    command.ok("convert", "x=mnist.npz[x_train]", "y=mnist.npz[y_train]", "out", "--rows")
    found = read_back(Path("out"))
    assert len(found) == 20
    for row, (x, y) in enumerate(zip(mnist["x_train"], mnist["y_train"], strict=True)):
        assert same(found[f"mnist#{row}"].arrays["x"], x)
        assert same(found[f"mnist#{row}"].arrays["y"], y)
    command.ok("verify", "out", "--source", "x=mnist.npz[x_train]", "y=mnist.npz[y_train]")
    command.refused(
        6, "names of the source files", words=("convert", "x=mnist.npz[x_test]", "y=mnist.npz[y_test]", "out", "--rows")
    )


def test_several_splits_of_one_archive(mnist: dict[str, np.ndarray], command: Command) -> None:
    # The order doesn't matter: features meet in their split.
    sources = [f"{s}:{f}=mnist.npz[{f}_{s}]" for f, s in (("x", "train"), ("x", "test"), ("y", "test"), ("y", "train"))]
    command.ok("convert", *sources, "out", "--rows")
    assert "nothing left" in command.ok("convert", *sources, "out", "--rows").out
    found = read_back(Path("out"))
    assert len(found) == 25
    for split in ("train", "test"):
        for row, (x, y) in enumerate(zip(mnist[f"x_{split}"], mnist[f"y_{split}"], strict=True)):
            example = found[f"{split}/mnist#{row}"]
            assert example.split == split
            assert same(example.arrays["x"], x)
            assert same(example.arrays["y"], y)
    command.ok("verify", "out", "--source", *sources)


def test_splits_of_files_and_folders(here: Path) -> None:
    save(here, {name: np.full((3, 2), i) for i, name in enumerate(("X_train", "y_train", "X_test", "y_test"))})
    sources = {f"{s}:{f.lower()}": here / f"{f}_{s}.npy" for s in ("train", "test") for f in ("X", "y")}
    npy2tfrecord.convert(sources, "out", rows=True)
    found = read_back(here / "out")
    assert {key: each.split for key, each in found.items()} == {
        **{f"train/X_train#{i}": "train" for i in range(3)},
        **{f"test/X_test#{i}": "test" for i in range(3)},
    }
    assert (found["test/X_test#1"].arrays["y"] == 3).all()
    for name in ("one/a", "one/b", "two/a"):
        save(here, {name: np.arange(2)})
    npy2tfrecord.convert(["train:x=one", "val:x=two"], "out2")
    assert {(key, each.split) for key, each in read_back(here / "out2").items()} == {
        ("train/a", "train"), ("train/b", "train"), ("val/a", "val")
    }  # fmt: skip


def test_splits_of_sources_are_all_there_are(here: Path) -> None:
    save(here, {"a/1": np.arange(2), "b/1": np.arange(2)})
    with pytest.raises(UsageError, match="expected all or none"):
        npy2tfrecord.convert(["train:x=a", "x=b"], "out")
    with pytest.raises(UsageError, match="the sources name their splits"):
        npy2tfrecord.convert(["train:x=a", "val:x=b"], "out", split="train=0.5,val=0.5")


def test_members_have_any_name(here: Path) -> None:
    data = io.BytesIO()
    np.save(data, np.arange(3))
    with zipfile.ZipFile("run.npz", "w") as archive:
        for name in ("obs/image.npy", "plain", "a b.npy", "x]y.npy", "words.npy"):
            archive.writestr(name, b"no array" if name == "words.npy" else data.getvalue())
    sources = ["i=run.npz[obs/image]", "p=run.npz[plain]", "b=run.npz[a b.npy]", "c=run.npz[x]y]", "run.npz[plain]"]
    npy2tfrecord.convert(sources, "out")
    (example,) = read_back(here / "out").values()
    assert set(example.arrays) == {"i", "p", "b", "c", "plain"}
    assert all(same(array, np.arange(3)) for array in example.arrays.values())
    with pytest.raises(InputError, match=r"members obs/image, plain, a b.*; expected one named 'image'"):
        npy2tfrecord.scan("x=run.npz[image]")
    with pytest.raises(InputError, match="words"):
        npy2tfrecord.scan("x=run.npz[words]")
    with pytest.raises(UsageError, match="give it one, NAME=PATH"):
        npy2tfrecord.scan("run.npz[obs/image]")
    with pytest.raises(UsageError, match=r"none\.npz: No such file"):
        npy2tfrecord.scan("x=none.npz[a]")


def test_members_without_suffix_are_read_as_numpy_reads_them(here: Path, command: Command) -> None:
    data = io.BytesIO()
    np.save(data, np.arange(3))
    for name, members in (("plain", ("x", "y")), ("both", ("x", "x.npy"))):
        with zipfile.ZipFile(f"{name}.npz", "w") as archive:
            for member in members:
                archive.writestr(member, data.getvalue())
    command.ok("convert", "plain.npz", "out")
    assert set(read_back(here / "out")["plain"].arrays) == {"x", "y"} == set(np.load("plain.npz"))
    command.ok("convert", "y=plain.npz", "out2")
    command.refused(4, "2 members named 'x'", words=("convert", "both.npz", "out3"))
    assert npy2tfrecord.scan("x=both.npz[x.npy]").counts == (1,)


def test_one_member_of_every_archive_in_a_folder(here: Path, command: Command) -> None:
    (here / "runs" / "a").mkdir(parents=True)
    for i in range(3):
        arrays = {"obs/image": np.full((4, 2), i), "action": np.full(4, -i), "words": np.array(["no number"])}
        np.savez(here / "runs" / ("a" if i else "") / f"{i}.npz", **arrays)
    save(here / "runs", {"other": np.zeros(2)})
    sources = ("image=runs[obs/image]", "runs[action]")
    assert "Passed over: 1 .npy" in command.ok("convert", *sources, "out").out
    found = read_back(here / "out")
    assert found.keys() == {"0", "a/1", "a/2"}
    assert same(found["a/2"].arrays["image"], np.full((4, 2), 2))
    assert same(found["a/2"].arrays["action"], np.full(4, -2))
    command.ok("verify", "out", "--source", *sources)
    command.ok("convert", "--rows", "train:x=runs/a[obs/image]", "val:x=runs:/*.npz[obs/image]", "out2")
    assert {key: each.split for key, each in read_back(here / "out2").items()} == {
        **{f"train/{i}#{row}": "train" for i in (1, 2) for row in range(4)},
        **{f"val/0#{row}": "val" for row in range(4)},
    }
    assert parse_sources("x=runs[obs[0]]") == (Source("x", b"runs", member="obs[0]"),)
    with pytest.raises(InputError, match="members obs/image, action, words; expected one named 'none'"):
        npy2tfrecord.scan("runs[none]")


def test_globs_of_one_folder(here: Path, command: Command) -> None:
    save(here / "data", {f"{i}_{kind}": np.full(i + 1, 2.0) for i in range(3) for kind in ("clean", "noisy", "extra")})
    (here / "data" / "notes.txt").touch()
    said = command.ok("scan", "clean=data:*_clean.npy", "noisy=data:*_noisy.npy").out
    assert "clean  float64  (1–3,)  3 arrays" in said
    assert "noisy  float64  (1–3,)  3 arrays" in said
    assert "Passed over: 1 .txt\n" in said
    counts = npy2tfrecord.scan(["x=data:*_clean.npy", "x=data:0_noisy.npy"], exclude="1_*").counts
    assert counts == (3,)
    assert npy2tfrecord.scan("x=data:*_clean.npy", include="0_*").counts == (1,)
    assert npy2tfrecord.scan("data:*_clean.npy").features[0].name == "array"


def test_a_source_of_several_in_which_nothing_is_found_is_an_error(here: Path, command: Command) -> None:
    save(here, {f"{folder}/{i}": np.arange(2) for folder in ("img", "msk") for i in range(3)})
    (here / "empty").mkdir()
    for sources, named in (
        (("image=img", "mask=empty"), "empty"),
        (("image=img", "mask=msk:*_mask.npy"), "msk:*_mask.npy"),
        (("train:x=img:0*", "val:x=img:4*"), "img:4*"),
        (("img", "empty"), "empty"),
    ):
        said = f"source {named}: no .npy or .npz file found in it"
        command.refused(2, said, words=("convert", *sources, "out"), out=here / "out")
        command.refused(2, said, words=("scan", *sources, "--on-error", "skip"))
    save(here, {"more/9": np.arange(2)})
    command.ok("convert", "img", "more", "out", "--include", "0.npy")  # as a pattern for all of them is meant
    assert read_back(here / "out").keys() == {"0"}


def test_what_exists_by_the_whole_name_is_a_path(here: Path) -> None:
    save(here, {"a:*.npy/1": np.arange(2), "a/1": np.arange(2), "a/2": np.arange(2)})
    np.savez("m.npz", x=np.arange(2), y=np.arange(2))
    np.savez("m.npz[x].npz", x=np.arange(2))
    assert parse_sources("x=a:*.npy") == (Source("x", b"a:*.npy"),)
    assert parse_sources(Path("a:b")) == (Source(None, b"a:b"),)
    assert parse_sources("x=m.npz[x].npz") == (Source("x", b"m.npz[x].npz"),)
    assert parse_sources({"train:x": "a:1*"}) == (Source("x", b"a", glob="1*", split="train"),)
    save(here, {"b:c/1": np.arange(2)})
    assert parse_sources("x=b:c:*.npy") == (Source("x", b"b:c", glob="*.npy"),)
    with pytest.raises(UsageError, match="none:x: No such file"):
        npy2tfrecord.scan("x=none:x")


def test_globs_of_one_folder_meet_by_a_regular_expression(here: Path) -> None:
    save(here / "data", {f"{i}_{kind}": np.full(2, i) for i in range(3) for kind in ("clean", "label")})
    npy2tfrecord.convert(["clean=data:*_clean.npy", "label2=data:*_label.npy"], "out", key_by=r"^(\d+)_")
    found = read_back(here / "out")
    assert {key: set(each.arrays) for key, each in found.items()} == {key: {"clean", "label2"} for key in "012"}
