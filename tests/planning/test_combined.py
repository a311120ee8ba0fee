"""All ways to say what an example is, together: pairs × rows × archives × labels × splits × casts × choosing.

A small model in NumPy says what must come out; the shards are read back and compared with it, from the command line
and from Python. The bytes must be the same for both, and come back from `export`.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, read_back, same, save, shards_of
from hypothesis import given, settings
from hypothesis import strategies as st

import npy2tfrecord

FOLDERS = ("ants", "bees", "cows")


@dataclass(frozen=True)
class Case:
    """A data set and the options it is converted with."""

    features: dict[str, str]  # name: dtype
    files: dict[str, tuple[int, ...]]  # key: axes that vary
    storage: str  # one directory a feature, one for all, or archives
    rows: bool
    labels: str | None
    split: str | None
    split_by: str | None
    casts: dict[str, str]
    exclude: str | None
    shuffle: bool
    seed: int
    num_shards: int | None
    compression: str

    def array(self, name: str, key: str) -> np.ndarray:
        """Values that all of the dtypes here can hold."""
        rng = np.random.default_rng([sum(map(ord, key)), sum(map(ord, name))])
        shape = self.files[key] if name == "x" else (*self.files[key][:1], 2)
        return rng.integers(0, 100, shape).astype(self.features[name])

    def cast_array(self, name: str, key: str) -> np.ndarray:
        return self.array(name, key).astype(self.casts.get(name, self.features[name]))

    def expected(self) -> dict[str, dict[str, np.ndarray]]:
        """Every example by its key."""
        examples: dict[str, dict[str, np.ndarray]] = {}
        for key in self.files:
            if self.exclude and key.startswith(self.exclude.strip("/")):
                continue
            arrays = {
                name: self.array(name, key).astype(self.casts.get(name, dtype)) for name, dtype in self.features.items()
            }
            if self.rows:
                for i in range(self.files[key][0]):
                    examples[f"{key}#{i}"] = {name: array[i] for name, array in arrays.items()}
            else:
                examples[key] = arrays
        return examples

    def class_of(self, key: str) -> int:
        folders = sorted({k.split("/")[0] for k in self.expected()})
        return folders.index(key.split("/")[0])

    def table(self) -> str:
        return "key,label\n" + "".join(f"{key},{len(key) * 7 - 30}\n" for key in self.expected())

    def store(self, root: Path) -> list[str]:
        """Write the files; returns the sources."""
        if self.storage == "archives":
            for key in self.files:
                (root / "d" / key).parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(
                    root / "d" / f"{key}.npz", **{name: self.array(name, key) for name in self.features}
                )
            return [str(root / "d")]
        if self.storage == "suffixes":
            save(
                root / "d", {f"{key}.{name}.npy": self.array(name, key) for key in self.files for name in self.features}
            )
            return [str(root / "d")]
        for name in self.features:
            save(root / name, {key: self.array(name, key) for key in self.files})
        return [f"{name}={root / name}" for name in self.features]

    def options(self, root: Path) -> dict[str, Any]:
        options: dict[str, Any] = {"rows": self.rows, "shuffle": self.shuffle, "seed": self.seed, "fsync": False}
        options |= {"compression": self.compression, "dtype": dict(self.casts), "num_shards": self.num_shards}
        options |= {"split": self.split, "split_by": self.split_by, "labels": self.labels}
        options["exclude"] = self.exclude or ()
        options["group_by_suffix"] = self.storage == "suffixes"
        if self.labels == "table":
            (root / "labels.csv").write_text(self.table())
            options["labels"] = root / "labels.csv"
        return options

    def words(self, options: dict[str, Any]) -> list[str]:
        """The same options for the command line."""
        words = ["--seed", str(self.seed), "--compression", self.compression, "--no-fsync", "--quiet"]
        words += [f"--dtype={name}:{dtype}" for name, dtype in self.casts.items()]
        words += ["--no-shuffle"] * (not self.shuffle)
        for name in ("rows", "group_by_suffix"):
            words += [f"--{name.replace('_', '-')}"] * options[name]
        for name in ("num_shards", "split", "split_by", "labels", "exclude"):
            if options[name]:
                words.append(f"--{name.replace('_', '-')}={options[name]}")
        return words


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dtypes = st.sampled_from(["uint8", "int32", "float32", "float64", "float16", "uint64"])
    features = {name: draw(dtypes) for name in draw(st.sampled_from([("x",), ("x", "y"), ("x", "y", "z")]))}
    rows = draw(st.booleans())
    files = {
        f"{folder}/{name}": (draw(st.integers(0 if rows else 1, 5)), draw(st.integers(1, 3)))
        for folder in FOLDERS
        for name in draw(st.sets(st.sampled_from(["1", "2", "sub/3", "p4"]), min_size=2))
    }
    files["ants/1"] = (3, 3)
    splits = ["train=0.6,val=0.4"] if rows or len(files) > 9 else []
    split = draw(st.sampled_from([None, "dirs", *splits]))
    labels = draw(st.sampled_from([None, "table"] if split == "dirs" else [None, "dirs", "table"]))
    casts = draw(st.dictionaries(st.sampled_from(list(features)), dtypes))
    return Case(
        features=features,
        files=files,
        storage=draw(st.sampled_from(["directories", "suffixes", "archives"])),
        rows=rows,
        labels=labels,
        split=split,
        split_by=draw(st.sampled_from([None, r"[^#]*$", r"\w+$"])) if split and "=" in split else None,
        casts=casts,
        exclude=draw(st.sampled_from([None, None, "/cows/", "bees"])),
        shuffle=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
        num_shards=draw(st.sampled_from([None, 1, 3, 100])),
        compression=draw(st.sampled_from(["none", "none", "gzip", "zlib"])),
    )


def walk_order(key: str) -> tuple[list[str], str, int]:
    """A directory's files before those of its subdirectories, and rows by number."""
    file, _, row = key.partition("#")
    *folders, name = file.split("/")
    return folders, name, int(row or 0)


@settings(max_examples=60)
@given(case=cases())
def test_any_combination_of_options(tmp_path: Path, command: Command, case: Case) -> None:
    root = tmp_path / "case"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    sources, options, expected = case.store(root), case.options(root), case.expected()
    try:
        made = npy2tfrecord.convert(sources, root / "out", **options)
    except npy2tfrecord.errors.UsageError as error:
        if "would be empty" not in str(error):  # chance decides; nothing is wrong
            raise
        return
    found = read_back(root / "out")
    assert found.keys() == expected.keys()
    for key, example in found.items():
        assert example.arrays.keys() == expected[key].keys()
        for name, array in expected[key].items():
            assert same(example.arrays[name], array), (key, name)
        if case.labels is None:
            assert example.label is None
        else:
            assert example.label == (case.class_of(key) if case.labels == "dirs" else len(key) * 7 - 30)
        if case.split == "dirs":
            assert example.split == key.split("/")[0]
        elif case.split is None:
            assert example.split == "train"
    for split in made.splits:
        keys = [key for key, example in found.items() if example.split == split]
        assert made.splits[split]
        assert len(made.splits[split]) == min(case.num_shards or 1, len(keys))
        if not case.shuffle:
            assert keys == sorted(keys, key=walk_order)
    for info in made.features:
        shapes = {array[info.name].shape for array in expected.values()}
        assert info.shape == tuple(n.pop() if len(n) == 1 else None for n in map(set, zip(*shapes, strict=True)))
    # the same from the command line, however it is run, and back again
    command.ok("convert", *case.words(options), *sources, root / "cli")
    assert shards_of(root / "out") == shards_of(root / "cli")
    assert (root / "out" / "manifest.json").read_bytes() == (root / "cli" / "manifest.json").read_bytes()
    command.ok("verify", root / "cli")
    if case.rows and min(shape[0] for shape in case.files.values()) == 0:
        return  # arrays without rows are in no record
    command.ok("export", root / "out", root / "back")
    names = list(case.features)
    for key in case.files:
        if any(k.partition("#")[0] == key for k in expected):
            for name in names:
                file = root / "back" / (name if len(names) > 1 else "") / f"{key}.npy"
                assert same(np.load(file), case.cast_array(name, key))


def test_everything_at_once_with_workers(tmp_path: Path) -> None:
    """As the property above, with enough records that processes share the work."""
    rng = np.random.default_rng(0)
    arrays = {f"{folder}/{i}": rng.integers(0, 200, (600, 8)) for folder in FOLDERS for i in range(7)}
    save(tmp_path / "x", arrays)
    save(tmp_path / "y", {key: array[:, 0] / 2 for key, array in arrays.items()})
    options: dict[str, Any] = {"rows": True, "labels": "dirs", "split": "train=0.7,val=0.3", "split_by": "^[^#]+"}
    options |= {"dtype": {"x": "uint8", "y": "bfloat16"}, "num_shards": 4, "exclude": "cows/6.npy"}
    sources = {"x": tmp_path / "x", "y": tmp_path / "y"}
    for jobs in (1, 2):
        npy2tfrecord.convert(sources, tmp_path / f"out{jobs}", jobs=jobs, **options)
    assert shards_of(tmp_path / "out1") == shards_of(tmp_path / "out2")
    found = read_back(tmp_path / "out2")
    assert len(found) == 20 * 600
    bfloat16 = npy2tfrecord.formats.dtypes.dtype_from_name("bfloat16")
    split_of: dict[str, str] = {}
    for key, example in found.items():
        file, _, row = key.partition("#")
        assert same(example.arrays["x"], arrays[file][int(row)].astype(np.uint8))
        assert same(example.arrays["y"], (arrays[file][int(row), 0] / 2).astype(bfloat16))
        assert example.label == FOLDERS.index(file.split("/")[0])
        assert split_of.setdefault(file, example.split) == example.split


@pytest.mark.parametrize("option", ["rows", "group_by_suffix", "missing", "labels", "dtype", "void_dtype", "split"])
def test_options_shape_the_data_set(tmp_path: Path, option: str) -> None:
    """What changes the bytes is in the manifest, so that another run with it is no mere repetition."""
    save(tmp_path / "d", {"a/1.x": np.ones((2, 2)), "b/1.x": np.ones((2, 2))})
    values = {
        "rows": True, "group_by_suffix": True, "missing": "skip", "labels": "dirs", "dtype": "float32",
        "void_dtype": "bfloat16", "split": "dirs",
    }  # fmt: skip
    npy2tfrecord.convert(tmp_path / "d", tmp_path / "out")
    with pytest.raises(npy2tfrecord.errors.ConflictError, match=option):
        npy2tfrecord.convert(tmp_path / "d", tmp_path / "out", **{option: values[option]})
