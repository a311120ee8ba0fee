"""Seeing what is inside: one example, and pictures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from converted import Command, save

from npy2tfrecord.checking import viewer
from npy2tfrecord.commands import plots
from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats import manifest_parsing


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("showing")
    rng = np.random.default_rng(0)
    kinds = ("cats", "dogs")
    source = save(
        here / "in", {f"{kind}/{i}": rng.normal(size=(5 + i, 4)).astype("f4") for kind in kinds for i in range(9)}
    )
    words = ["--labels", "dirs", "--split", "train=0.7,val=0.3", "--stats", "--num-shards", "2", "-q"]
    subprocess.run([sys.executable, "-m", "npy2tfrecord", "convert", *words, source, here / "out"], check=True)
    return here / "out"


def test_show_gives_every_example(out: Path, command: Command) -> None:
    for kind, label in (("cats", 0), ("dogs", 1)):
        for i in range(9):
            seen = viewer.view(out, f"{kind}/{i}")
            assert np.array_equal(seen.arrays["array"], np.load(out.parent / "in" / kind / f"{i}.npy"))
            assert seen.label == f"{label} ({kind})"
    said = command.ok("show", out, "dogs/3").out
    assert "label 1 (dogs)" in said
    assert "float32" in said
    assert "(8, 4)" in said
    assert max(map(len, said.splitlines())) <= 80
    told = json.loads(command.ok("show", "--json", out, "dogs/3").out)
    array = np.load(out.parent / "in" / "dogs" / "3.npy")
    assert told["features"]["array"]["shape"] == [8, 4]
    assert told["features"]["array"]["min"] == float(array.min())


def test_show_reads_compressed_shards_and_strange_arrays(tmp_path: Path, command: Command) -> None:
    for name, made in {
        "scalar": {"a": np.array(3, dtype="i8")},
        "complex": {"a": np.ones((2, 2), dtype="c8")},
        "empty": {"a": np.zeros((0, 3), dtype="f4"), "b": np.full((2, 3), np.nan, dtype="f4")},
        "many": {"a": np.zeros((2, 3, 4, 5), dtype=bool)},
    }.items():
        source = save(tmp_path / name, made)
        command.ok("convert", "-q", "--compression", "gzip", source, tmp_path / f"{name}.out")
        assert made["a"].dtype.name in command.ok("show", tmp_path / f"{name}.out", "a").out


def test_show_says_what_is_not_there_or_damaged(out: Path, tmp_path: Path, command: Command) -> None:
    command.refused(2, "no example with the key 'cats/99'", words=("show", out, "cats/99"))
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for shard in copy.glob("*.tfrecord"):
        data = bytearray(shard.read_bytes())
        data[-10] ^= 1
        shard.write_bytes(data)
    key = {viewer.view(out, f"cats/{i}").record: f"cats/{i}" for i in range(9)}
    codes = [command("show", copy, name).code for name in key.values()]
    assert set(codes) <= {0, 7}
    for index in copy.glob("index/*.idx"):
        index.write_bytes(b"0 999999\n")
    holding = viewer.view(out, "cats/1").shard
    (lines,) = (shard.examples for shard in manifest_parsing.load(out).shards if shard.file == holding)
    command.refused(7, f".idx: not {lines} lines of an offset and a size", words=("show", copy, "cats/1"))
    for index in copy.glob("index/*.keys"):
        index.write_bytes(b"one\n")
    command.refused(7, ".keys: 1 keys, expected", words=("show", copy, "cats/1"))


def test_pictures(out: Path, tmp_path: Path, command: Command) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.svg"):
        command.ok("info", out, "--plot", tmp_path / name)
        assert (tmp_path / name).stat().st_size > 10_000
    command.ok("info", out, "--plot", tmp_path / "c.svg")
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "c.svg").read_bytes()
    drawn = (tmp_path / "b.svg").read_text()
    for text in ("array: axis 0", "cats", "dogs", "train: ", "val: ", "array: values"):
        assert f"<!-- {text}" in drawn
    command.ok("scan", out.parent / "in", "--plot", tmp_path / "d.png")
    command.ok("show", out, "cats/1", "--plot", tmp_path / "e.png")
    for name in ("d.png", "e.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    command.refused(2, "expected a file that ends in .png", words=("info", out, "--plot", tmp_path / "x.bmp"))
    command.refused(5, "cannot write", words=("info", out, "--plot", tmp_path / "none" / "x.png"))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3), (0, 3), (5, 6, 3), (12, 4, 5), (2, 2, 3, 4)])
def test_arrays_of_any_rank_can_be_drawn(shape: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    seen = viewer.View(b"key $x_1$", "shard", 0, None, {"a_b": np.full(shape, np.nan, dtype="f4")})
    plots.plot_example(seen, str(tmp_path / "x.png"))


def test_many_classes_and_integers_are_drawn(tmp_path: Path, command: Command) -> None:
    pytest.importorskip("matplotlib")
    source = save(tmp_path / "in", {f"{i:02}": np.zeros(2) for i in range(60)})
    for count in (3, 40):
        lines = "".join(f"{i:02},{i % count - 1}\n" for i in range(60))
        (tmp_path / "labels.csv").write_text(f"key,label\n{lines}")
        out = tmp_path / f"out{count}"
        command.ok("convert", "--labels", tmp_path / "labels.csv", "--split", "a=0.5,b=0.5", source, out)
        command.ok("info", out, "--plot", tmp_path / "x.svg")
        assert ("<!-- -1" if count == 3 else "<!-- 40 classes") in (tmp_path / "x.svg").read_text()


def test_a_picture_without_matplotlib_is_told(out: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command.refused(2, "needs the package matplotlib", words=("info", out, "--plot", "x.png"))


def test_a_key_is_never_taken_for_a_part_of_another(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "in", {"a": np.zeros(3), "aa": np.ones(3), "array": np.full(3, 2.0)})
    command.ok("convert", "-q", tmp_path / "in", tmp_path / "out")
    for key, value in (("a", 0), ("aa", 1), ("array", 2)):
        assert viewer.view(tmp_path / "out", key).arrays["array"][0] == value
    with pytest.raises(UsageError, match="no example"):
        viewer.view(tmp_path / "out", "arr")
