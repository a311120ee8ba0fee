"""Named features: joined by key, by suffix, or file by file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, same, save

import npy2tfrecord
from npy2tfrecord.errors import InputError, UsageError

IMAGES = {f"{c}/{i}": np.full((2, i + 1, 3), i, np.uint8) for c in "ab" for i in range(3)}
MASKS = {key: image[..., 0] > 0 for key, image in IMAGES.items()}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    save(tmp_path / "img", IMAGES)
    save(tmp_path / "msk", MASKS)
    return tmp_path


def check_pairs(out: Path, keys: set[str] | None = None) -> None:
    found = read_back(out)
    assert set(found) == (set(IMAGES) if keys is None else keys)
    for key, example in found.items():
        assert list(example.arrays) == ["image", "mask"]
        assert same(example.arrays["image"], IMAGES[key])
        assert same(example.arrays["mask"], MASKS[key])


def test_named_directories_are_joined_by_key(pairs: Path, command: Command) -> None:
    command.ok("convert", f"image={pairs / 'img'}", f"mask={pairs / 'msk'}", pairs / "out")
    check_pairs(pairs / "out")
    npy2tfrecord.convert({"image": pairs / "img", "mask": pairs / "msk"}, pairs / "again")
    check_pairs(pairs / "again")
    made = npy2tfrecord.convert([f"image={pairs / 'img'}", f"mask={pairs / 'msk'}"], pairs / "third", num_shards=3)
    check_pairs(pairs / "third")
    assert [(f.name, f.dtype, f.shape) for f in made.features] == [
        ("image", "uint8", (2, None, 3)),
        ("mask", "bool", (2, None)),
    ]


def test_several_directories_make_one_feature(pairs: Path, command: Command) -> None:
    for part in "ab":
        save(pairs / "more" / part, {f"{part}{i}": np.float32(i) for i in range(2)})
    command.ok("convert", pairs / "more" / "a", pairs / "more" / "b", pairs / "out")
    assert set(read_back(pairs / "out")) == {"a0", "a1", "b0", "b1"}
    npy2tfrecord.convert({"x": [pairs / "more" / "a", pairs / "more" / "b"]}, pairs / "named")
    assert set(read_back(pairs / "named")) == {"a0", "a1", "b0", "b1"}


def test_key_that_comes_twice_is_refused(pairs: Path, command: Command) -> None:
    out = pairs / "out"
    words = ("convert", pairs / "img" / "a", pairs / "img" / "b", out)
    command.refused(4, "img/b/0.npy", "img/a/0.npy", "their parent", words=words, out=out)


def test_missing_partners_are_counted_and_listed(pairs: Path, command: Command) -> None:
    (pairs / "msk" / "a" / "1.npy").unlink()
    (pairs / "msk" / "b" / "2.npy").unlink()
    (pairs / "img" / "b" / "0.npy").unlink()
    named, out = (f"image={pairs / 'img'}", f"mask={pairs / 'msk'}"), pairs / "out"
    result = command.refused(
        4,
        "3 keys",
        "2 have no mask, e.g. a/1, b/2",
        "1 has no image, e.g. b/0",
        words=("convert", *named, out),
        out=out,
    )
    assert "--missing skip" in result.err
    with pytest.raises(InputError, match="3 keys"):
        npy2tfrecord.convert(named, out)
    assert not out.exists()


def test_missing_skip_drops_and_reports(pairs: Path, command: Command) -> None:
    (pairs / "msk" / "a" / "1.npy").unlink()
    (pairs / "img" / "b" / "0.npy").unlink()
    result = command("convert", f"image={pairs / 'img'}", f"mask={pairs / 'msk'}", pairs / "out", "--missing", "skip")
    assert result.code == 3
    assert "a/1: no mask for this key" in result.out
    check_pairs(pairs / "out", set(IMAGES) - {"a/1", "b/0"})
    made = npy2tfrecord.convert({"image": pairs / "img", "mask": pairs / "msk"}, pairs / "again", missing="skip")
    assert {(s.source, s.reason) for s in made.skipped} == {
        ("a/1", "no mask for this key"),
        ("b/0", "no image for this key"),
    }


def test_nothing_in_common_is_said(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "x", {"1": 1.0})
    save(tmp_path / "y", {"2": 1.0})
    words = ("convert", f"x={tmp_path / 'x'}", f"y={tmp_path / 'y'}", tmp_path / "out", "--missing", "skip")
    command.refused(2, "no example is left", words=words, out=tmp_path / "out")


@pytest.mark.parametrize("damaged", ["img", "msk"])
def test_bad_partner_is_skipped_with_its_example(pairs: Path, command: Command, damaged: str) -> None:
    file = pairs / damaged / "a" / "2.npy"
    file.write_bytes(file.read_bytes()[:-1])
    named = (f"image={pairs / 'img'}", f"mask={pairs / 'msk'}")
    command.refused(4, "a/2.npy", "truncated", words=("convert", *named, pairs / "out"), out=pairs / "out")
    result = command("convert", *named, pairs / "out", "--on-error", "skip")
    assert result.code == 3, result
    assert "truncated" in result.out
    check_pairs(pairs / "out", set(IMAGES) - {"a/2"})
    # A partner that is not there at all is another matter.
    (pairs / "msk" / "b" / "0.npy").unlink()
    words = ("convert", *named, pairs / "new", "--on-error", "skip")
    result = command.refused(4, "1 key is", "b/0", words=words, out=pairs / "new")
    assert "a/2" not in result.err


def test_single_files_are_joined_whatever_they_are_called(tmp_path: Path, command: Command) -> None:
    save(tmp_path, {"X": np.arange(6.0), "labels": np.int32(3)})
    command.ok("convert", f"x={tmp_path / 'X.npy'}", f"y={tmp_path / 'labels.npy'}", tmp_path / "out")
    found = read_back(tmp_path / "out")
    assert list(found) == ["X"]
    assert same(found["X"].arrays["x"], np.arange(6.0))
    assert same(found["X"].arrays["y"], np.int32(3))


def test_named_and_unnamed_sources_are_joined_too(pairs: Path, command: Command) -> None:
    command.ok("convert", pairs / "img", f"mask={pairs / 'msk'}", pairs / "out")
    assert {tuple(e.arrays) for e in read_back(pairs / "out").values()} == {("array", "mask")}


def test_group_by_suffix(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {f"{key}.image": image for key, image in IMAGES.items()})
    save(tmp_path / "d", {f"{key}.mask": mask for key, mask in MASKS.items()})
    command.ok("convert", tmp_path / "d", tmp_path / "out", "--group-by-suffix")
    check_pairs(tmp_path / "out")
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "again", group_by_suffix=True)
    check_pairs(tmp_path / "again")
    (tmp_path / "d" / "a" / "1.mask.npy").unlink()
    command.refused(
        4,
        "1 key is",
        "1 has no mask, e.g. a/1",
        words=("convert", tmp_path / "d", tmp_path / "third", "--group-by-suffix"),
        out=tmp_path / "third",
    )
    assert command("convert", tmp_path / "d", tmp_path / "third", "--group-by-suffix", "--missing", "skip").code == 3
    check_pairs(tmp_path / "third", set(IMAGES) - {"a/1"})


def test_group_by_suffix_takes_what_stands_behind_the_last_dot(tmp_path: Path) -> None:
    save(tmp_path / "d", {"v1.5.x": 1.0, "v1.5.y": 2.0})
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", group_by_suffix=True)
    assert list(read_back(tmp_path / "out")) == ["v1.5"]


def test_bad_files_of_a_group_are_skipped_together(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1.x": np.ones(3), "1.y": np.ones(3), "2.x": np.ones(3), "2.y": np.ones(3)})
    (tmp_path / "d" / "2.y.npy").write_bytes(b"no array")
    assert command("convert", tmp_path / "d", tmp_path / "out", "--group-by-suffix", "--on-error", "skip").code == 3
    assert list(read_back(tmp_path / "out")) == ["1"]


@pytest.mark.parametrize("name", ["plain", "1.", "1.key", "1.no way"])
def test_group_by_suffix_refuses_names_without_a_feature(tmp_path: Path, command: Command, name: str) -> None:
    save(tmp_path / "d", {f"{name}.npy": 1.0})
    words = ("convert", tmp_path / "d", tmp_path / "out", "--group-by-suffix")
    command.refused(4, f"{name}.npy", "KEY.FEATURE.npy", words=words, out=tmp_path / "out")


def test_group_by_suffix_names_the_features_itself(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1.x": 1.0})
    words = ("convert", f"x={tmp_path / 'd'}", tmp_path / "out", "--group-by-suffix")
    command.refused(2, "name no source", words=words, out=tmp_path / "out")


def test_features_differ_in_dtype_and_rank_but_one_feature_does_not(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {"1": np.ones(3, np.float32), "2": np.ones(3), "3": np.ones((3, 1), np.float32)})
    words = ("convert", tmp_path / "d", tmp_path / "out")
    command.refused(
        4,
        "float32, rank 1",
        "float64, rank 1",
        "float32, rank 2",
        "one dtype and rank",
        words=words,
        out=tmp_path / "out",
    )


@pytest.mark.parametrize("name", ["key", "a/b", "-x", "ä"])
def test_names_that_no_feature_can_have(tmp_path: Path, name: str) -> None:
    save(tmp_path / "d", {"1": 1.0})
    with pytest.raises(UsageError, match="feature name"):
        npy2tfrecord.convert({name: tmp_path / "d"}, tmp_path / "out")


def test_name_before_an_equals_sign_is_a_feature_unless_it_is_a_file(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a=b", {"1": 1.0})
    save(tmp_path / "b", {"2": 1.0})
    command.ok("convert", "a=b", "out")
    assert {key: list(e.arrays) for key, e in read_back(tmp_path / "out").items()} == {"1": ["array"]}
    command.ok("convert", "c=b", "new")
    assert {key: list(e.arrays) for key, e in read_back(tmp_path / "new").items()} == {"2": ["c"]}


def test_scan_shows_each_feature(pairs: Path, command: Command) -> None:
    result = command.ok("scan", f"image={pairs / 'img'}", f"mask={pairs / 'msk'}")
    assert re.search(r"^  image  uint8  .* 6 arrays ", result.out, re.MULTILINE)
    assert re.search(r"^  mask  .* 6 arrays ", result.out, re.MULTILINE)
