"""`--labels`: classes from folders or from a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, read_back, save, shards_of

import npy2tfrecord
import readers
from npy2tfrecord.errors import ConflictError, DamageError, InputError, UsageError
from npy2tfrecord.formats import manifest, manifest_parsing

KEYS = ["cats/1", "cats/more/2", "dogs/1", "Birds/1", "dogs/3"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return save(tmp_path / "d", {key: np.float32(i) for i, key in enumerate(KEYS)})


def labels_of(out: Path) -> dict[str, int | float | None]:
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
    assert document["labels"] == {"dtype": "int64", "classes": ["Birds", "cats", "dogs"]}


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


def by_key(path: Path, labels: Sequence[object], column: str = "label") -> Path:
    rows = "".join(f"{key},{label}\n" for key, label in zip(KEYS, labels, strict=True))
    return table(path, f"key,{column}\n" + rows)


def test_integers_may_be_written_as_floats(tmp_path: Path) -> None:
    keys = [f"s{i:02}" for i in range(12)]
    source = save(tmp_path / "d", {key: np.float32(0) for key in keys})
    rows = "".join(f"{key},{float(i)}\n" for i, key in enumerate(keys))
    made = npy2tfrecord.convert(source, tmp_path / "out", labels=table(tmp_path / "l.csv", "key,label\n" + rows))
    assert (made.labels, made.label_dtype) == ((), "int64")
    assert labels_of(tmp_path / "out") == {key: i for i, key in enumerate(keys)}


def test_integers_in_all_their_spellings(folders: Path, tmp_path: Path) -> None:
    file = by_key(tmp_path / "l.csv", ["3", "3.0", "+3", "-1", "007."])
    npy2tfrecord.convert(folders, tmp_path / "out", labels=file)
    assert labels_of(tmp_path / "out") == dict(zip(KEYS, [3, 3, 3, -1, 7], strict=True))


def test_other_numbers_are_targets(folders: Path, tmp_path: Path, command: Command) -> None:
    file, out = by_key(tmp_path / "l.csv", ["1", "1.5", "1e-3", "-.25", "16777217"]), tmp_path / "out"
    made = npy2tfrecord.convert(folders, out, labels=file, split="train=0.5,val=0.5", compression="none")
    assert (made.labels, made.label_dtype, made.label_counts) == ((), "float32", {})
    assert manifest_parsing.load(out) == made
    assert json.loads((out / "manifest.json").read_text())["labels"] == {"dtype": "float32", "classes": []}
    expected = dict(zip(KEYS, np.float32([1, 1.5, 1e-3, -0.25, 16777216]).tolist(), strict=True))
    assert labels_of(out) == expected
    feature = json.loads((out / "features.json").read_text())["featuresDict"]["features"]["label"]
    assert feature["tensor"]["dtype"] == "float32"
    assert ["label", "float32", "numbers"] in [line.split() for line in command.ok("info", out).out.splitlines()]
    assert "label 0.001" in command.ok("show", out, "dogs/1").out
    command.ok("verify", out, "--source", folders, "--labels", file)
    source = readers.ArraySource(out, split="train")
    for i in range(len(source)):
        example = source[i]
        assert (type(example["label"]), example["label"]) == (float, expected[example["key"]])


def test_a_label_of_another_kind_than_the_manifest_says_is_damage(folders: Path, tmp_path: Path) -> None:
    made = npy2tfrecord.convert(folders, tmp_path / "out", labels=by_key(tmp_path / "l.csv", [1, 2, 3, 4, 0.5]))
    integers = replace(made, label_dtype="int64")
    (tmp_path / "out" / "manifest.json").write_bytes(integers.encode())
    with pytest.raises(DamageError, match="no int64 label"):
        npy2tfrecord.verify(tmp_path / "out")
    document = made.to_json() | {"labels": {"dtype": "float32", "classes": ["a"]}}
    with pytest.raises(DamageError, match=r"labels\.classes"):
        manifest_parsing.decode(json.dumps(document).encode())
    document["labels"] = {"dtype": "float64", "classes": []}
    with pytest.raises(DamageError, match=r"labels\.dtype"):
        manifest_parsing.decode(json.dumps(document).encode())


MIXED = {
    ("10", "9", "nan", "9", "10"): ("1 of 5 labels are no numbers: line 4 ('nan')",),
    ("1.5", "inf", "2", "x", "0"): ("2 of 5 labels are no numbers: line 3 ('inf'), line 5 ('x')",),
    ("10", "9", "1_0", "9", "10"): ("line 4 ('1_0')", "words alone"),
    ("10", "9", "٣", "9", "10"): ("line 4 ('٣')",),
    ("10", "9", "0x1", "9", "10"): ("line 4 ('0x1')",),
    ("cat", "7", "dog", "cat", "cat"): ("1 of 5 labels are numbers, the others words: line 3 ('7')",),
    ("nan", "nan", "NaN", "-inf", "nan"): ("no finite number: line 2 ('nan')",),
    ("0.5", "1e39", "0", "1", "2"): ("too large: line 3 ('1e39')", "float32"),
}


@pytest.mark.parametrize("labels", MIXED, ids=" ".join)
def test_numbers_and_words_do_not_mix(folders: Path, tmp_path: Path, command: Command, labels: tuple[str, ...]) -> None:
    file, out = by_key(tmp_path / "labels.csv", labels), tmp_path / "out"
    command.refused(4, "labels.csv", *MIXED[labels], words=("convert", folders, out, "--labels", file), out=out)


def test_numbers_with_a_comma_are_no_classes(folders: Path, tmp_path: Path, command: Command) -> None:
    file = table(tmp_path / "labels.csv", "key,label\n" + "".join(f'{key},"{i},5"\n' for i, key in enumerate(KEYS)))
    words = ("convert", folders, tmp_path / "out", "--labels", file)
    command.refused(4, "numbers with a comma: line 2 ('0,5')", "0.5, not 0,5", words=words, out=tmp_path / "out")


def test_keys_with_a_suffix_are_called_so(folders: Path, tmp_path: Path, command: Command) -> None:
    file = table(tmp_path / "labels.csv", "key,label\n" + "".join(f"{key}.npy,a\n" for key in KEYS))
    command.refused(4, "; keys have no suffix", words=("convert", folders, tmp_path / "out", "--labels", file))


def test_folders_that_are_numbers_are_labels(tmp_path: Path, command: Command) -> None:
    source = save(tmp_path / "d", {f"{i}/a": np.float32(i) for i in range(12)})
    made = npy2tfrecord.convert(source, tmp_path / "out", labels="dirs")
    assert made.labels == ()
    assert labels_of(tmp_path / "out") == {f"{i}/a": i for i in range(12)}
    save(source, {"other/a": np.float32(0)})
    words = ("convert", source, tmp_path / "new", "--labels", "dirs")
    command.refused(4, "1 of 13 labels are no numbers: folder other", words=words, out=tmp_path / "new")


def test_tables_in_other_encodings_are_refused_by_line(folders: Path, tmp_path: Path, command: Command) -> None:
    text = "key,label\n" + ROWS.replace("bird", "pájaro")
    for encoding in ("utf-8", "utf-8-sig"):
        file = table(tmp_path / "l.csv", text.encode(encoding))
        made = npy2tfrecord.convert(folders, tmp_path / encoding, labels=file)
        assert made.labels == ("cat", "dog", "pájaro")
    words = ("convert", folders, tmp_path / "out", "--labels", tmp_path / "l.csv")
    table(tmp_path / "l.csv", text.encode("latin-1"))
    command.refused(4, "l.csv: line 5 is not UTF-8", "UTF-8", words=words, out=tmp_path / "out")
    table(tmp_path / "l.csv", text.encode("utf-16"))
    command.refused(4, "l.csv: line 1 is not UTF-8", words=words, out=tmp_path / "out")


@pytest.mark.parametrize("rows", [False, True])
def test_a_key_matches_in_another_normal_form(tmp_path: Path, rows: bool) -> None:
    composed, decomposed = "caf\u00e9/1", "cafe\u0301/1"
    source = save(tmp_path / "d", {decomposed: np.zeros(2), "plain": np.zeros(2)})
    file = table(tmp_path / "l.csv", f"key,label\n{composed},5\nplain,6\n")
    npy2tfrecord.convert(source, tmp_path / "out", labels=file, rows=rows)
    ends = ("#0", "#1") if rows else ("",)
    expected = {f"{key}{end}": n for key, n in ((decomposed, 5), ("plain", 6)) for end in ends}
    assert labels_of(tmp_path / "out") == expected


def test_a_key_that_could_be_two_in_normal_form_is_not_guessed(tmp_path: Path, command: Command) -> None:
    other = "a\u0323\u0307"  # of three spellings
    source = save(tmp_path / "d", {other: np.zeros(2)})
    file = table(tmp_path / "l.csv", "key,label\na\u0307\u0323,5\n\u1ea1\u0307,6\n")
    words = ("convert", source, tmp_path / "out", "--labels", file)
    command.refused(4, "1 key and line 2, 3 are all", "normalized", words=words, out=tmp_path / "out")


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


def test_keys_with_any_characters(tmp_path: Path) -> None:
    names = [b"a,b", "ü".encode(), b'say "x"', b"new\nline", b"-dash", b" space "]
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
    "key,label\n" + "".join(f"{key},{2**63}\n" for key in KEYS): "too large: line 2 ('9223372036854775808')",
    "key,label\n" + "".join(f"{key},1{'0' * 5000}\n" for key in KEYS): "too large: line 2 ('1000",
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


# --- by a regular expression


def test_what_is_found_in_the_key_is_the_label(tmp_path: Path, command: Command) -> None:
    keys = ["site1/dog/a-10", "site1/cat/b-9", "site2/cat/c-9"]
    source = save(tmp_path / "d", {key: np.zeros(2) for key in keys})
    made = npy2tfrecord.convert(source, tmp_path / "second", label_by="^[^/]*/([^/]*)/")
    assert made.labels == ("cat", "dog")
    assert labels_of(tmp_path / "second") == dict(zip(keys, [1, 0, 0], strict=True))
    command.ok("convert", source, tmp_path / "number", "--label-by", "[0-9]+$")
    assert labels_of(tmp_path / "number") == dict(zip(keys, [10, 9, 9], strict=True))
    command.ok("verify", tmp_path / "number", "--source", source)
    npy2tfrecord.convert(source, tmp_path / "rows", label_by="[0-9]+$", rows=True)  # not the number of the row
    assert labels_of(tmp_path / "rows")["site2/cat/c-9#1"] == 9
    assert "nothing left to do" in command.ok("convert", source, tmp_path / "number", "--label-by", "[0-9]+$").out
    assert command("convert", source, tmp_path / "number", "--label-by", "[0-9]+").code == 6


def test_keys_without_a_label_are_named(tmp_path: Path, command: Command) -> None:
    source, out = save(tmp_path / "d", dict.fromkeys(("a-1", "b-2", "c", "d-x", "e-"), 1.0)), tmp_path / "out"
    words = ("convert", source, out)
    command.refused(2, "finds nothing in 3 keys, e.g. c, d-x, e-", words=(*words, r"--label-by=-(\d*)\Z"), out=out)
    command.refused(2, "finds nothing in 1 key, e.g. e-", words=(*words, r"--label-by=([^-]*)\Z"), out=out)
    command.refused(
        4, "2 of 5 labels are numbers", "the one in key a-1", words=(*words, "--label-by=[0-9c-e]"), out=out
    )
    command.refused(2, "no regular expression", words=(*words, "--label-by=("), out=out)
    command.refused(2, "both given", words=(*words, "--label-by=.", "--labels", "dirs"), out=out)


# --- an array of labels


def test_an_array_has_labels_by_row_for_every_file(tmp_path: Path, command: Command) -> None:
    source = save(tmp_path / "d", {"blur": np.zeros((3, 2)), "noise": np.zeros((3, 2))})
    np.save(tmp_path / "y.npy", np.array([5, 0, 7], dtype=">u2"))
    made = npy2tfrecord.convert(source, tmp_path / "out", rows=True, labels=tmp_path / "y.npy")
    assert (made.labels, made.label_dtype) == ((), "int64")
    expected = {f"{file}#{row}": label for file in ("blur", "noise") for row, label in enumerate((5, 0, 7))}
    assert labels_of(tmp_path / "out") == expected
    command.ok("verify", tmp_path / "out", "--source", source, "--labels", tmp_path / "y.npy")
    words = ("convert", "--rows", source, tmp_path / "out", "--labels", tmp_path / "y.npy")
    assert "nothing left to do" in command.ok(*words).out
    np.save(tmp_path / "y.npy", np.array([5, 0, 8], dtype=">u2"))
    assert command(*words).code == 6


@pytest.mark.parametrize(
    ("array", "classes", "labels"),
    [
        (np.array(["dog", "cat", "dog"]), ("cat", "dog"), [1, 0, 1]),
        (np.array(["hund", "katze", "hund"], dtype=">U9"), ("hund", "katze"), [0, 1, 0]),
        (np.array([b"dog", b"cat", "\u00fc".encode()]), ("cat", "dog", "\u00fc"), [1, 0, 2]),
        (np.array(["10", "9.0", "-1"]), (), [10, 9, -1]),
        (np.array(["10", "9.5", "-1"]), (), [10.0, 9.5, -1.0]),
        (np.array([True, False, True]), (), [1, 0, 1]),
        (np.array([[3], [4], [5]]), (), [3, 4, 5]),
        (np.array([1.0, 2.0, 3.0], dtype=np.float16), (), [1, 2, 3]),
        (np.array([1.0, 2.5, 1e30]), (), [1.0, 2.5, float(np.float32(1e30))]),
        (np.array([1, 2**40, -(2**63)]), (), [1, 2**40, -(2**63)]),
    ],
    ids=repr,
)
def test_arrays_of_labels(tmp_path: Path, array: np.ndarray, classes: tuple[str, ...], labels: list[float]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    np.save(tmp_path / "y.npy", array)
    made = npy2tfrecord.convert(tmp_path / "x.npy", tmp_path / "out", rows=True, labels=str(tmp_path / "y.npy"))
    assert made.labels == classes
    found = labels_of(tmp_path / "out")
    assert [found[f"x#{i}"] for i in range(3)] == labels
    assert {type(label) for label in found.values()} == {type(labels[0])}


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros(4), ("4 labels", "3, one for each row of", "x.npy")),
        (np.zeros((3, 2)), ("labels of shape (3, 2)",)),
        (np.float32(1), ("labels of shape ()",)),
        (np.zeros(3, complex), ("complex128",)),
        (np.array(["2020-01-01"] * 3, "M8[D]"), ("datetime64",)),
        (np.array([1, np.nan, np.inf]), ("row 1 (nan), row 2 (inf)", "finite")),
        (np.array([1.5, 1e300, 0]), ("row 1 (1e+300)", "float32")),
        (np.array([1, 2**63, 3], dtype=np.uint64), ("row 1 (9223372036854775808)",)),
        (np.array(["1", "2", "x"]), ("1 of 3 labels are no numbers: row 2 ('x')",)),
        (np.array(["a", "", "x"]), ("empty: row 1",)),
        (np.array([b"a", b"\xff", b"x"]), ("row 1", "UTF-8")),
        (np.array([1, None, "x"], dtype=object), ("y.npy", "object")),
    ],
    ids=repr,
)
def test_bad_arrays_of_labels(tmp_path: Path, command: Command, array: Any, parts: tuple[str, ...]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    np.save(tmp_path / "y.npy", array)
    words = ("convert", "--rows", tmp_path / "x.npy", tmp_path / "out", "--labels", tmp_path / "y.npy")
    command.refused(4, "y.npy", *parts, words=words, out=tmp_path / "out")


def test_an_array_of_labels_goes_with_rows_and_is_no_source(tmp_path: Path, command: Command) -> None:
    source, out = save(tmp_path / "d", {"x": np.zeros(3), "labels": np.zeros(3)}), tmp_path / "out"
    words = ("convert", source, out, "--labels", source / "labels.npy")
    command.refused(2, "goes with rows", "columns key and label", words=words, out=out)
    command.refused(2, "--exclude", words=(*words, "--rows"), out=out)
    command.ok(*words, "--rows", "--exclude", "labels.npy")
    words = ("convert", "--rows", source, tmp_path / "new", "--labels", tmp_path / "none.npy")
    command.refused(2, "none.npy", "No such file", words=words, out=tmp_path / "new")
    np.save(tmp_path / "all.npy", np.zeros(6))
    words = ("convert", "--rows", source, tmp_path / "new", "--labels", tmp_path / "all.npy")
    command.refused(4, "count from 0 in each", words=words, out=tmp_path / "new")
    whole = (source / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    words = ("convert", "--rows", source, tmp_path / "new", "--labels", tmp_path / "cut.npy")
    command.refused(4, "cut.npy", "truncated", words=words, out=tmp_path / "new")


def test_feature_called_label_is_in_the_way(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'label'"):
        npy2tfrecord.convert({"label": folders}, tmp_path / "out", labels="dirs")
