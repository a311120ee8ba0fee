"""`--key-by`: the key is what a regular expression finds in the path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, read_back, save, shards_of

import npy2tfrecord
import readers
from npy2tfrecord.errors import UsageError


def pairs(out: Path) -> dict[str, dict[str, Any]]:
    """The value of every feature by key; the arrays hold one number each."""
    return {key: {n: a.item() for n, a in example.arrays.items()} for key, example in read_back(out).items()}


LAYOUTS: dict[str, tuple[dict[str, tuple[str, ...]], str | list[str], list[str]]] = {
    "numbered pairs": (
        {"image": ("image_0", "image_1", "image_10"), "mask": ("mask_0", "mask_1", "mask_10")},
        r"\d+$",
        ["0", "1", "10"],
    ),
    "the middle of a name dropped": (
        {"mel": ("LJ-mel-7", "VC-mel-7"), "ids": ("LJ-ids-7", "VC-ids-7")},
        r"^(\w+)-\w+-(\d+)$",
        ["LJ/7", "VC/7"],
    ),
    "embeddings": ({"image": ("img_emb_0",), "text": ("text_emb_0",)}, "emb_(.*)", ["0"]),
    "a pattern each": (
        {"clean": ("a/7", "b/7"), "noisy": ("7_noisy_a", "7_noisy_b")},
        [r"clean:^(\w)/(\d+)", r"noisy:^(?=\d+_noisy_(\w))(\d+)"],
        ["a/7", "b/7"],
    ),
    "one pattern for one feature": ({"x": ("1", "2"), "y": ("1_y", "2_y")}, r"y:^\d", ["1", "2"]),
    "alternatives": ({"x": ("p1", "q2"), "y": ("1", "2")}, r"^p(\d)|^q(\d)|^\d$", ["1", "2"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sources_are_joined_by_what_is_found(tmp_path: Path, command: Command, layout: str) -> None:
    files, patterns, keys = LAYOUTS[layout]
    for f, (feature, names) in enumerate(files.items()):
        save(tmp_path / feature, {name: np.int64(10 * i + f) for i, name in enumerate(names)})
    sources = [f"{feature}={tmp_path / feature}" for feature in files]
    words = [f"--key-by={pattern}" for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    out = tmp_path / "out"
    command.ok("convert", *sources, out, *words, "--stats")
    expected = {key: {name: 10 * i + f for f, name in enumerate(files)} for i, key in enumerate(keys)}
    assert pairs(out) == expected
    command.ok("verify", out, "--source", *sources)
    assert "nothing left to do" in command.ok("convert", *sources, out, *words, "--stats").out
    mapping = {name: tmp_path / name for name in files}
    npy2tfrecord.convert(mapping, tmp_path / "again", key_by=patterns, stats=True, jobs=2)
    assert shards_of(tmp_path / "again") == shards_of(out)
    assert {example["key"] for example in readers.ArraySource(out)} == set(keys)


def test_two_sources_may_be_one_folder(tmp_path: Path, command: Command) -> None:
    arrays = {f"{i}_{kind}": np.int64(i + n) for n, kind in ((0, "clean"), (5, "label")) for i in (7, 8)}
    data = save(tmp_path / "data", arrays)
    sources = [f"clean={data}:*_clean.npy", f"target={data}:*_label.npy"]
    command.ok("convert", *sources, tmp_path / "out", r"--key-by=^\d+")
    assert pairs(tmp_path / "out") == {"7": {"clean": 7, "target": 12}, "8": {"clean": 8, "target": 13}}
    command.ok("verify", tmp_path / "out", "--source", *sources)


def test_members_may_have_these_keys(tmp_path: Path, command: Command) -> None:
    np.savez(tmp_path / "mel.npz", **{f"mel-{i}": np.int64(i) for i in range(3)})
    np.savez(tmp_path / "ids.npz", **{f"ids-{i}": np.int64(10 * i) for i in range(3)})
    sources = [f"{name}={tmp_path / name}.npz" for name in ("mel", "ids")]
    command.ok("convert", "--members", *sources, tmp_path / "out", r"--key-by=\d+$")
    assert pairs(tmp_path / "out") == {str(i): {"mel": i, "ids": 10 * i} for i in range(3)}


def test_splits_labels_and_tables_go_by_these_keys(tmp_path: Path) -> None:
    source = save(tmp_path / "d", {f"run{i % 2}/scan_{i:03}_cat{i % 3}": np.zeros(2) for i in range(30)})
    table = tmp_path / "splits.csv"
    keys = [f"{i:03}/cat{i % 3}" for i in range(30)]
    table.write_text("key,split\n" + "".join(f"{key},{'ab'[i % 2]}\n" for i, key in enumerate(keys)))
    options: dict[str, Any] = {"key_by": r"(\d{3})_(\w+)$", "label_by": "[a-z]+(.)$", "split": table}
    npy2tfrecord.convert(source, tmp_path / "out", **options)
    found = read_back(tmp_path / "out")
    assert {key: (e.label, e.split) for key, e in found.items()} == {
        key: (i % 3, "ab"[i % 2]) for i, key in enumerate(keys)
    }
    npy2tfrecord.convert(source, tmp_path / "rows", key_by=r"\d{3}", rows=True)
    assert read_back(tmp_path / "rows").keys() == {f"{i:03}#{row}" for i in range(30) for row in range(2)}


def test_the_split_of_a_source_stays_in_front(tmp_path: Path, command: Command) -> None:
    files = {(s, f, i): f"{s}/{f}_emb/{f}_emb_{i}" for s in ("train", "val") for f in ("img", "text") for i in range(2)}
    save(tmp_path, {name: np.array([len(s), len(f), i]) for (s, f, i), name in files.items()})
    sources = [f"{s}:{f}={tmp_path / s / f'{f}_emb'}" for s in ("train", "val") for f in ("img", "text")]
    command.ok("convert", *sources, tmp_path / "out", "--key-by", r"^\w+_(\d+)$")
    found = read_back(tmp_path / "out")
    assert {key: example.split for key, example in found.items()} == {
        f"{s}/{i}": s for s in ("train", "val") for i in range(2)
    }
    assert found["val/1"].arrays["text"].tolist() == [3, 4, 1]
    command.ok("verify", tmp_path / "out", "--source", *sources)


def test_names_with_nothing_in_common_need_a_pattern(tmp_path: Path, command: Command) -> None:
    save(tmp_path, {"x/x_1": 1.0, "y/y_1": 1.0})
    words = ("convert", f"x={tmp_path / 'x'}", f"y={tmp_path / 'y'}", tmp_path / "out")
    command.refused(4, "2 keys are not in every feature", "--key-by REGEX says what", words=words)


def test_two_files_with_one_key_are_shown(tmp_path: Path, command: Command) -> None:
    source, out = save(tmp_path / "d", {"a/mel-1": 1.0, "b/mel-1": 1.0}), tmp_path / "out"
    words = ("convert", source, out, r"--key-by=\d+")
    command.refused(4, "b/mel-1.npy", "a/mel-1.npy", "key '1'", "several groups", words=words, out=out)


def test_files_without_a_key_are_shown(tmp_path: Path, command: Command) -> None:
    source, out = save(tmp_path / "d", {"a1": 1.0, "b": 1.0, "c": 1.0}), tmp_path / "out"
    words = ("convert", source, out, r"--key-by=\d+")
    command.refused(2, "finds nothing in the path of 2 files, e.g. ", "/b.npy", "/c.npy", words=words, out=out)
    command.refused(2, "no such feature; there are array", words=(*words, "--key-by=x:b"), out=out)
    command.refused(2, "given twice", words=(*words, "--key-by=b"), out=out)
    command.refused(2, "no regular expression", words=("convert", source, out, "--key-by=("), out=out)


def test_bad_files_go_by_these_keys_too(tmp_path: Path, command: Command) -> None:
    image, mask = (
        save(tmp_path / name, {f"{name}_{i}": np.float32(i) for i in range(3)}) for name in ("image", "mask")
    )
    (mask / "mask_1.npy").write_bytes(b"no array")
    words = (f"image={image}", f"mask={mask}", tmp_path / "out", r"--key-by=\d+", "--on-error", "skip")
    result = command("convert", *words)
    assert result.code == 3, result
    assert "no usable mask for this key" in result.out
    assert pairs(tmp_path / "out").keys() == {"0", "2"}


@pytest.mark.parametrize("value", [{"x": 5}, {5: "x"}, ["x:a", 5], {None: "("}])
def test_what_is_no_pattern_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UsageError, match="key_by"):
        npy2tfrecord.convert(tmp_path, tmp_path / "out", key_by=value)
