"""`--labels`: classes from folders or from a table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save, shards_of

import npy2tfrecord
from npy2tfrecord.errors import ConflictError, DamageError, InputError, UsageError
from npy2tfrecord.formats import manifest, manifest_parsing

KEYS = ["cats/1", "cats/more/2", "dogs/1", "Birds/1", "dogs/3"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return save(tmp_path / "d", {key: np.float32(i) for i, key in enumerate(KEYS)})


def labels_of(out: Path) -> dict[str, int | None]:
    return {key: example.label for key, example in read_back(out).items()}


def table(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_classes_are_the_first_folders_in_sorted_order(folders: Path, tmp_path: Path, command: Command) -> None:
    command.ok("convert", folders, tmp_path / "out", "--labels", "dirs")
    expected = {"Birds/1": 0, "cats/1": 1, "cats/more/2": 1, "dogs/1": 2, "dogs/3": 2}
    assert labels_of(tmp_path / "out") == expected
    made = npy2tfrecord.convert(folders, tmp_path / "again", labels="dirs")
    assert made.labels == ("Birds", "cats", "dogs")
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "again")
    document = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert document["labels"] == {"classes": ["Birds", "cats", "dogs"]}


def test_examples_of_each_class_are_counted_by_split(tmp_path: Path, command: Command) -> None:
    keys = {f"{kind}/{i:03}": np.float32(i) for kind, n in (("a", 40), ("b", 30), ("c", 1)) for i in range(n)}
    source, out = save(tmp_path / "d", keys), tmp_path / "out"
    (source / "b" / "000.npy").write_bytes(b"no array")
    words = ("--labels", "dirs", "--split", "train=0.8,val=0.2", "--on-error", "skip", "--json")
    planned = command("convert", source, out, *words, "--dry-run")
    assert planned.code == 3
    assert command("convert", source, out, *words).code == 3
    read_back(out)  # compares every count
    document = json.loads((out / "manifest.json").read_text())
    totals = [0, 0, 0]
    for name, split in document["splits"].items():
        assert json.loads(planned.out)["splits"][name]["labels"] == split["labels"]
        for value, count in zip(split["labels"]["values"], split["labels"]["counts"], strict=True):
            totals[value] += count
    assert totals == [40, 29, 1]
    shown = command("info", out).out
    (line,) = [line.split() for line in shown.splitlines() if line.split()[:2] == ["1", "b"]]
    assert sum(map(int, line[2:])) == 29


def test_plain_integers_are_counted_unless_there_are_too_many(tmp_path: Path) -> None:
    source = save(tmp_path / "d", {f"{i:04}": np.float32(i) for i in range(1001)})
    few = table(tmp_path / "few.csv", "key,label\n" + "".join(f"{i:04},{-i % 3}\n" for i in range(1001)))
    made = npy2tfrecord.convert(source, tmp_path / "few", labels=few)
    assert made.labels == ()
    assert made.label_counts["train"] == manifest.LabelCounts((0, 1, 2), (334, 333, 334))
    many = table(tmp_path / "many.csv", "key,label\n" + "".join(f"{i:04},{i - 500}\n" for i in range(1001)))
    made = npy2tfrecord.convert(source, tmp_path / "many", labels=many)
    assert not made.label_counts
    assert manifest_parsing.load(tmp_path / "many") == made


def test_a_manifest_without_counts_is_read_and_one_with_wrong_counts_is_not(folders: Path, tmp_path: Path) -> None:
    made = npy2tfrecord.convert(folders, tmp_path / "out", labels="dirs")
    older = replace(made, label_counts={})
    assert manifest_parsing.decode(older.encode()) == older
    (tmp_path / "out" / "manifest.json").write_bytes(older.encode())
    assert npy2tfrecord.convert(folders, tmp_path / "out", labels="dirs") == older
    for values, counts in (((0, 1), (2, 2)), ((1, 0), (2, 3)), ((0, 1, 2), (2, 3)), ((0, 0), (2, 3))):
        wrong = replace(made, label_counts={"train": manifest.LabelCounts(values, counts)})
        with pytest.raises(DamageError, match=r"splits\.train\.labels"):
            manifest_parsing.decode(wrong.encode())


def test_class_names_go_to_tfds(folders: Path, tmp_path: Path) -> None:
    npy2tfrecord.convert(folders, tmp_path / "out", labels="dirs")
    features = json.loads((tmp_path / "out" / "features.json").read_text())
    label = features["featuresDict"]["features"]["label"]
    assert label["pythonClassName"].endswith(".ClassLabel")
    assert label["classLabel"] == {"numClasses": "3"}
    assert (tmp_path / "out" / "label.labels.txt").read_text() == "Birds\ncats\ndogs\n"


def test_without_labels_there_are_none(folders: Path, tmp_path: Path) -> None:
    assert npy2tfrecord.convert(folders, tmp_path / "out").labels is None
    assert set(labels_of(tmp_path / "out").values()) == {None}
    assert not (tmp_path / "out" / "label.labels.txt").exists()


def test_files_in_no_folder_have_no_class(folders: Path, tmp_path: Path, command: Command) -> None:
    save(folders, {"stray": np.float32(1), "other": np.float32(1)})
    words = ("convert", folders, tmp_path / "out", "--labels", "dirs")
    command.refused(4, "2 sources like this one", "first directory", words=words, out=tmp_path / "out")


def test_with_split_dirs_the_class_is_the_second_folder(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "d", {f"{s}/{c}/1": 1.0 for s in ("train", "val") for c in "xy"})
    command.ok("convert", tmp_path / "d", tmp_path / "out", "--labels", "dirs", "--split", "dirs")
    assert labels_of(tmp_path / "out") == {"train/x/1": 0, "train/y/1": 1, "val/x/1": 0, "val/y/1": 1}
    save(tmp_path / "d", {"train/stray": 1.0})
    words = ("convert", tmp_path / "d", tmp_path / "new", "--labels", "dirs", "--split", "dirs")
    command.refused(4, "train/stray.npy", "second directory", words=words, out=tmp_path / "new")


def test_classes_that_are_not_utf8(tmp_path: Path) -> None:
    for name in (b"\xff", b"a b", "ü".encode()):
        directory = tmp_path / "d" / name.decode("utf-8", "surrogateescape")
        directory.mkdir(parents=True)
        np.save(directory / "1.npy", 1.0)
    made = npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", labels="dirs")
    assert made.labels == ("a b", "ü", "\udcff")
    assert manifest_parsing.load(tmp_path / "out") == made


ROWS = "".join(f"{key},{label}\n" for key, label in zip(KEYS, ["cat", "cat", "dog", "bird", "dog"], strict=True))


def test_strings_become_classes_in_sorted_order(folders: Path, tmp_path: Path, command: Command) -> None:
    file = table(tmp_path / "labels.csv", "key,label\n" + ROWS)
    command.ok("convert", folders, tmp_path / "out", "--labels", file)
    assert labels_of(tmp_path / "out") == {"Birds/1": 0, "cats/1": 1, "cats/more/2": 1, "dogs/1": 2, "dogs/3": 2}
    made = npy2tfrecord.convert(folders, tmp_path / "again", labels=file)
    assert made.labels == ("bird", "cat", "dog")
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "again")


@pytest.mark.parametrize("numbers", [[3, 0, -7, 2**63 - 1, -(2**63)], [0, 0, 0, 0, 0]])
def test_integers_stay(folders: Path, tmp_path: Path, numbers: list[int]) -> None:
    rows = "".join(f"{key},{n}\n" for key, n in zip(KEYS, numbers, strict=True))
    made = npy2tfrecord.convert(folders, tmp_path / "out", labels=table(tmp_path / "l.csv", "key,label\n" + rows))
    assert made.labels == ()
    assert labels_of(tmp_path / "out") == dict(zip(KEYS, numbers, strict=True))


@pytest.mark.parametrize("odd", ["1.0", "1_0", "٣", "0x1", "one"])
def test_one_label_that_is_no_integer_makes_all_of_them_classes(folders: Path, tmp_path: Path, odd: str) -> None:
    rows = "".join(f"{key},{n}\n" for key, n in zip(KEYS, ["10", "9", odd, "9", "10"], strict=True))
    made = npy2tfrecord.convert(folders, tmp_path / "out", labels=table(tmp_path / "l.csv", "key,label\n" + rows))
    assert made.labels == tuple(sorted(["10", "9", odd]))


@pytest.mark.parametrize(
    "text",
    [
        "﻿key,label\n" + ROWS,
        " key , label \r\n" + ROWS.replace("\n", "\r\n"),
        '"key","label"\n' + "".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"\n' for line in ROWS.split()),
        "key,label\n\n" + ROWS.replace(",", ", ") + "\n\n",
        "key,label\n" + ROWS.removesuffix("\n"),
    ],
    ids=["byte order mark", "CRLF", "quotes", "blanks", "no last newline"],
)
def test_tables_as_other_programs_write_them(folders: Path, tmp_path: Path, text: str) -> None:
    made = npy2tfrecord.convert(folders, tmp_path / "out", labels=table(tmp_path / "l.csv", text))
    assert made.labels == ("bird", "cat", "dog")


def test_keys_of_any_bytes(tmp_path: Path) -> None:
    names = [b"\xff", b"a,b", b'say "x"', b"new\nline", b"-dash", b" space "]
    (tmp_path / "d").mkdir()
    for name in names:
        np.save((tmp_path / "d").joinpath(name.decode("utf-8", "surrogateescape") + ".npy"), 1.0)
    rows = b"".join(b'"%s",%d\n' % (name.replace(b'"', b'""'), i) for i, name in enumerate(names))
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", labels=table(tmp_path / "l.csv", b"key,label\n" + rows))
    found = labels_of(tmp_path / "out")
    assert {key.encode("utf-8", "surrogateescape"): n for key, n in found.items()} == {
        name: i for i, name in enumerate(names)
    }


BAD = {
    "": "line 1 reads ''",
    "name,class\n": "line 1 reads 'name,class'",
    "key,label,more\n": "line 1 reads",
    "key,label\n" + ROWS + "cats/1,cat\n": "key 'cats/1' is on lines 2 and 7",
    "key,label\n" + ROWS.replace("dogs/1,dog\n", ""): "no label for 1 key, e.g. dogs/1",
    "key,label\n" + ROWS + "cows/1,cow\n": "1 key that no source has, on line 7 (cows/1)",
    "key,label\n" + ROWS.replace("dogs/1,dog", "dogs/1"): "line 4 has 1 values",
    "key,label\n" + ROWS.replace("dogs/1,dog", "dogs/1,dog,1"): "line 4 has 3 values",
    "key,label\n" + ROWS.replace("dogs/1,dog", "dogs/1, "): "line 4 has no label",
    "key,label\n" + '"cats/1': "no proper CSV",
    "key,label\n" + "".join(f"{key},{2**63}\n" for key in KEYS): "line 2 has the label 9223372036854775808",
    "key,label\n" + "".join(f"{key},1{'0' * 5000}\n" for key in KEYS): "line 2 has the label 1000",
}


@pytest.mark.parametrize("text", BAD, ids=BAD.values())
def test_bad_tables_are_refused(folders: Path, tmp_path: Path, command: Command, text: str) -> None:
    file, out = table(tmp_path / "labels.csv", text), tmp_path / "out"
    command.refused(4, "labels.csv", BAD[text], words=("convert", folders, out, "--labels", file), out=out)
    with pytest.raises(InputError):
        npy2tfrecord.convert(folders, out, labels=str(file))


def test_table_that_is_not_there(folders: Path, tmp_path: Path, command: Command) -> None:
    words = ("convert", folders, tmp_path / "out", "--labels", tmp_path / "none.csv")
    command.refused(2, "none.csv", "No such file", words=words, out=tmp_path / "out")


def test_missing_skip_drops_what_has_no_label(folders: Path, tmp_path: Path, command: Command) -> None:
    file = table(tmp_path / "l.csv", "key,label\ncats/1,x\ncows/1,cow\n")
    result = command("convert", folders, tmp_path / "out", "--labels", file, "--missing", "skip")
    assert result.code == 3
    assert "no source has this key" in result.out
    assert labels_of(tmp_path / "out") == {"cats/1": 1}


def test_rows_have_labels_by_row_or_by_file(tmp_path: Path) -> None:
    save(tmp_path / "d", {"a": np.arange(3), "b": np.arange(2)})
    by_row = "".join(f"a#{i},{i}\n" for i in range(3)) + "b#0,7\nb#1,8\n"
    first = table(tmp_path / "1.csv", "key,label\n" + by_row)
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "1", rows=True, labels=first)
    assert labels_of(tmp_path / "1") == {"a#0": 0, "a#1": 1, "a#2": 2, "b#0": 7, "b#1": 8}
    file = table(tmp_path / "2.csv", "key,label\na,x\nb,y\n")
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "2", rows=True, labels=file)
    assert labels_of(tmp_path / "2") == {"a#0": 0, "a#1": 0, "a#2": 0, "b#0": 1, "b#1": 1}


def test_row_far_down_is_still_a_row(tmp_path: Path) -> None:
    save(tmp_path, {"a": np.arange(3000)})
    file = table(tmp_path / "l.csv", "key,label\na#2999,5\n")
    npy2tfrecord.convert(tmp_path / "a.npy", tmp_path / "out", rows=True, labels=file, missing="skip")
    assert labels_of(tmp_path / "out") == {"a#2999": 5}


def test_table_that_changed_is_other_data(folders: Path, tmp_path: Path, command: Command) -> None:
    file, out = table(tmp_path / "l.csv", "key,label\n" + ROWS), tmp_path / "out"
    command.ok("convert", folders, out, "--labels", file)
    assert "nothing left to do" in command.ok("convert", folders, out, "--labels", file).out
    table(file, "key,label\n" + ROWS.replace("dog\n", "wolf\n"))
    assert command("convert", folders, out, "--labels", file).code == 6
    with pytest.raises(ConflictError, match="labels"):
        npy2tfrecord.convert(folders, out, labels=file)
    command.ok("convert", folders, out, "--labels", file, "--overwrite")
    assert manifest_parsing.load(out).labels == ("bird", "cat", "wolf")


def test_feature_called_label_is_in_the_way(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'label'"):
        npy2tfrecord.convert({"label": folders}, tmp_path / "out", labels="dirs")
