"""`export`: the arrays come back as files, below the directory that was named and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, save, shards_of
from reading_data import write_dataset

import npy2tfrecord
from npy2tfrecord import syscalls
from npy2tfrecord.errors import ConflictError, DamageError, OutputError
from npy2tfrecord.formats.dtypes import SUPPORTED_NAMES

RNG = np.random.default_rng(8)


def tree_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", SUPPORTED_NAMES)
@pytest.mark.parametrize("rank", range(4))
def test_files_are_those_of_np_save(tmp_path: Path, name: str, rank: int) -> None:
    shapes = [tuple(RNG.integers(0, 5, rank).tolist()) for _ in range(4)] + [(1,) * rank]
    save(tmp_path / "d", {f"a/{i}": RNG.integers(0, 2, shape).astype(name) for i, shape in enumerate(shapes)})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out")
    assert npy2tfrecord.export(tmp_path / "out", tmp_path / "back") == 5
    assert tree_of(tmp_path / "back") == tree_of(tmp_path / "d")


def test_other_orders_come_back_in_c_order(tmp_path: Path) -> None:
    array = RNG.normal(size=(4, 5))
    save(tmp_path / "d", {"1": np.asfortranarray(array), "2": array.astype(">f8")})
    save(tmp_path / "plain", {"1": array, "2": array})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out")
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    assert tree_of(tmp_path / "back") == tree_of(tmp_path / "plain")


@pytest.mark.parametrize("compression", ["none", "gzip", "zlib"])
def test_command_line(tmp_path: Path, command: Command, compression: str) -> None:
    save(tmp_path / "d", {"a/1": np.ones(3), "2": np.ones(4)})
    command.ok("convert", tmp_path / "d", tmp_path / "out", "--compression", compression)
    result = command.ok("export", tmp_path / "out", tmp_path / "back")
    assert "Wrote 2 files" in result.out
    assert tree_of(tmp_path / "back") == tree_of(tmp_path / "d")
    assert '"files": 2' in command.ok("export", tmp_path / "out", tmp_path / "new", "--json").out


# --- there and back again --------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    keys = [f"{split}/{c}/{i}" for split in ("train", "val") for c in "ab" for i in range(6)]
    save(tmp_path / "x", {key: RNG.normal(size=(4, int(RNG.integers(1, 6)))).astype(np.float32) for key in keys})
    save(tmp_path / "y", {key: RNG.integers(0, 9, 4) for key in keys})
    save(tmp_path, {"X": RNG.normal(size=(30, 4)), "Y": RNG.integers(0, 9, 30)})
    for name, feature in (("x", "p"), ("y", "q")):
        save(tmp_path / "both", {f"{key}.{feature}": np.load(tmp_path / name / f"{key}.npy") for key in keys})
    np.savez(tmp_path / "b.npz", u=RNG.normal(size=(30, 3)), v=RNG.integers(0, 9, 30))
    rows = "".join(f"{key},{i % 3}\n" for i, key in enumerate(keys))
    (tmp_path / "labels.csv").write_text("key,label\n" + rows)
    return tmp_path


TRIPS: dict[str, tuple[list[str], list[str], dict[str, Any]]] = {
    "files": (["x"], [""], {}),
    "named": (["f=x"], ["f="], {}),
    "pairs": (["p=x", "q=y"], ["p=p", "q=q"], {}),
    "suffixes": (["both"], ["p=p", "q=q"], {"group_by_suffix": True}),
    "labels": (["x"], [""], {"labels": "dirs"}),
    "table": (["x"], [""], {"labels": "labels.csv"}),
    "splits": (["x"], [""], {"split": "train=0.5,val=0.5", "seed": 4}),
    "folders": (["p=x", "q=y"], ["p=p", "q=q"], {"split": "dirs", "labels": "dirs"}),
    "groups": (["x"], [""], {"split": "a=0.5,b=0.5", "split_by": r"\d+$"}),
    "rows": (["X.npy"], [""], {"rows": True, "num_shards": 3}),
    "rows of pairs": (["p=x", "q=y"], ["p=p", "q=q"], {"rows": True, "split": "dirs"}),
    "rows of files": (["p=X.npy", "q=Y.npy"], ["p=p", "q=q"], {"rows": True, "split": "a=0.5,b=0.5"}),
    "rows of an archive": (["b.npz"], ["u=u", "v=v"], {"rows": True}),
    "archive": (["b.npz"], ["u=u", "v=v"], {}),
    "in order": (["x"], [""], {"shuffle": False, "num_shards": 5}),
    "gzip": (["x"], [""], {"compression": "gzip"}),
}


@pytest.mark.parametrize("name", TRIPS)
def test_convert_export_convert_gives_the_same_bytes(
    data: Path, name: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    there, again, options = TRIPS[name]
    npy2tfrecord.convert(there, "out", **options)
    npy2tfrecord.export("out", "back")
    sources = []
    for source in again:
        feature, equals, folder = source.rpartition("=")
        sources.append(f"{feature}{equals}{Path('back', folder)}")
    npy2tfrecord.convert(sources, "again", **{**options, "group_by_suffix": False})
    assert shards_of(data / "out") == shards_of(data / "again")
    if name not in ("suffixes", "rows of files", "archive", "rows of an archive"):  # whose files are others now
        assert (data / "out" / "manifest.json").read_bytes() == (data / "again" / "manifest.json").read_bytes()
    npy2tfrecord.export("again", "back2")
    assert tree_of(data / "back") == tree_of(data / "back2")


def test_cast_values_come_back_as_they_were_cast(tmp_path: Path) -> None:
    save(tmp_path / "d", {"1": np.array([1.4, 2.6])})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", dtype="uint8")
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    assert np.load(tmp_path / "back" / "1.npy").tolist() == [1, 3]


def test_rows_come_back_as_the_array(data: Path) -> None:
    npy2tfrecord.convert(
        {"p": data / "X.npy", "q": data / "Y.npy"}, data / "out", rows=True, num_shards=4, split="a=0.4,b=0.6"
    )
    assert npy2tfrecord.export(data / "out", data / "back") == 2
    assert (data / "back" / "p" / "X.npy").read_bytes() == (data / "X.npy").read_bytes()
    assert (data / "back" / "q" / "X.npy").read_bytes() == (data / "Y.npy").read_bytes()


def test_arrays_whose_rows_were_left_out_cannot_come_back(data: Path, command: Command) -> None:
    (data / "some.csv").write_text("key,label\nX#3,1\nX#5,2\n")
    words = ("convert", data / "X.npy", data / "out", "--rows", "--labels", data / "some.csv", "--missing", "skip")
    assert command(*words).code == 3
    command.refused(2, "some were left out", words=("export", data / "out", data / "back"))
    assert not tree_of(data / "back")


# --- hostile data sets -----------------------------------------------------------------------------


def hostile(out: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> Path:
    """A data set, whole by its own account, whose keys are these."""
    monkeypatch.setattr("reading_data.key_of", lambda i: keys[i])
    return write_dataset(out, [np.float32([i]) for i in range(len(keys))], shards=1, **kwargs)


@pytest.mark.parametrize(
    "key",
    [
        "../x",
        "..",
        "a/../../x",
        "/tmp/npy2tfrecord-outside",
        "//x",
        "a//x",
        "./x",
        "a/./x",
        "a\0b",
        "a/\0/b",
        "/",
        "a/../x",
    ],
)
def test_keys_never_lead_outside(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    hostile(tmp_path / "out", [key], monkeypatch)
    (tmp_path / "in").mkdir()
    before = set(tmp_path.rglob("*"))
    result = command("export", tmp_path / "out", tmp_path / "in" / "back")
    if key == "..":  # a name like any other, once .npy stands behind it
        assert result.code == 0
        assert list(tree_of(tmp_path / "in")) == ["back/...npy"]
        return
    assert result.code == 7
    assert "is no path below a directory" in result.err
    assert {path for path in set(tmp_path.rglob("*")) - before if path.is_file()} == set()
    assert not Path("/tmp/npy2tfrecord-outside.npy").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_are_not_followed(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    hostile(tmp_path / "out", ["a/1", "2"], monkeypatch)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "2.npy").write_bytes(b"mine")
    back = tmp_path / "back"
    back.mkdir()
    (back / "a").symlink_to(outside)
    words = ["export", tmp_path / "out", back] + ["--overwrite"] * overwrite
    command.refused(6, "a/1.npy cannot be written", "a link (a)", words=tuple(words))
    (back / "a").unlink()
    (back / "2.npy").symlink_to(outside / "2.npy")
    result = command(*words)
    assert result.code == (0 if overwrite else 6), result
    assert tree_of(outside) == {"2.npy": b"mine"}
    assert not (back / "2.npy").is_symlink() or not overwrite


def test_other_names_of_a_file_are_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile(tmp_path / "out", ["1"], monkeypatch)
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "back").mkdir()
    os.link(tmp_path / "mine", tmp_path / "back" / "1.npy")
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back", overwrite=True)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert np.load(tmp_path / "back" / "1.npy").tolist() == [0]


def test_pipe_in_the_way_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile(tmp_path / "out", ["1"], monkeypatch)
    (tmp_path / "back").mkdir()
    os.mkfifo(tmp_path / "back" / "1.npy")
    with pytest.raises(ConflictError):
        npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back", overwrite=True)
    assert np.load(tmp_path / "back" / "1.npy").tolist() == [0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["X#0", "X#0"], "2 rows"),
        (["X#0", "X#2"], "the last one is number 2"),
        (["X#0", "X#0", "X#3", "X#3"], "is there twice"),
        (["X#1", "X#1"], "is there twice"),
        (["X"], "has no number of a row"),
        (["X#"], "has no number of a row"),
        (["X#-1"], "has no number of a row"),
        (["X#999999999999999999999999"], "has no number of a row"),
        (["X#999999999999999999"], "the last one is number"),
        (["../X#0"], "is no path below"),
    ],
)
def test_rows_that_make_no_array(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, keys: list[str], message: str
) -> None:
    hostile(tmp_path / "out", keys, monkeypatch, options={"rows": True})
    command.refused(7, message, words=("export", tmp_path / "out", tmp_path / "back"))
    assert not tree_of(tmp_path / "back")


def test_damaged_data_is_not_exported(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1": np.ones(30)})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out")
    shard = next((tmp_path / "out").glob("*.tfrecord"))
    data = bytearray(shard.read_bytes())
    data[-20] ^= 1
    shard.write_bytes(data)
    command.refused(7, shard.name, "CRC", words=("export", tmp_path / "out", tmp_path / "back"))
    assert not tree_of(tmp_path / "back")
    shard.unlink()
    with pytest.raises(DamageError, match="No such file"):
        npy2tfrecord.export(tmp_path / "out", tmp_path / "back")


# --- what is in the way ----------------------------------------------------------------------------


def test_files_are_not_replaced_unless_asked(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1": np.ones(3)})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out")
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "1.npy").write_bytes(b"mine")
    result = command.refused(6, "back/1.npy", "--overwrite", words=("export", tmp_path / "out", tmp_path / "back"))
    assert not result.out
    assert (tmp_path / "back" / "1.npy").read_bytes() == b"mine"
    command.ok("export", tmp_path / "out", tmp_path / "back", "--overwrite")
    assert tree_of(tmp_path / "back") == tree_of(tmp_path / "d")


def test_directory_that_is_a_file(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1": np.ones(3)})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out")
    command.refused(5, "d/1.npy", words=("export", tmp_path / "out", tmp_path / "d" / "1.npy"))
    command.refused(2, "no manifest.json", words=("export", tmp_path / "d", tmp_path / "back"))


@pytest.mark.parametrize("rows", [False, True])
def test_no_half_file_stays_when_the_disk_is_full(
    data: Path, command: Command, monkeypatch: pytest.MonkeyPatch, rows: bool
) -> None:
    npy2tfrecord.convert(data / "X.npy", data / "out", rows=rows)

    def full(handle: int, content: Any) -> None:
        os.write(handle, bytes(content)[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(syscalls, "write_all", full)
    command.refused(5, "No space left", words=("export", data / "out", data / "back"))
    assert not tree_of(data / "back")
    with pytest.raises(OutputError):
        npy2tfrecord.export(data / "out", data / "back")
