"""What the tests of the converter share: running the command line, and reading shards back without TensorFlow."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from npy2tfrecord.commands import main
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.shard import array_of, check_example, key_of, read_records


class Example(NamedTuple):
    """One record as read back."""

    arrays: dict[str, np.ndarray]
    label: int | float | None
    split: str
    shard: str


def read_back(out: Path) -> dict[str, Example]:
    """Every example by its key, in the order of the shards; each compared with what the manifest says of it."""
    made = manifest_parsing.load(out)
    examples: dict[str, Example] = {}
    for split, shards in made.splits.items():
        for shard in shards:
            count = 0
            for record in read_records(os.fsencode(out / shard.file), made.compression):
                example = parse_example(record.data)
                check_example(example, made)
                key = os.fsdecode(key_of(example))
                assert key not in examples, f"{key} is there twice"
                label = example.get("label")
                number = label[0] if isinstance(label, (list, tuple)) else None
                arrays = {info.name: array_of(example, info).copy() for info in made.features}
                examples[key] = Example(arrays, number, split, shard.file)
                count += 1
            assert count == shard.examples
    assert len(examples) == made.examples
    for split, counted in made.label_counts.items():
        labels = Counter(example.label for example in examples.values() if example.split == split)
        assert dict(zip(counted.values, counted.counts, strict=True)) == labels
    return examples


def shards_of(out: Path) -> dict[str, bytes]:
    """The content of every shard and index."""
    files = sorted([*out.glob("*.tfrecord"), *out.glob("index/*")])
    assert files
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def save(root: Path, arrays: Mapping[str, Any]) -> Path:
    """Save arrays below `root`; their names are keys, or file names that end in .npy."""
    for name, array in arrays.items():
        path = root / (name if name.endswith(".npy") else f"{name}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return root


def same(a: Any, b: Any) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype.newbyteorder("=") == b.dtype.newbyteorder("=") and a.shape == b.shape and a.tobytes() == b.tobytes()


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


class Command:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Result:
        self._capsys.readouterr()
        try:
            code = main.main([os.fspath(w) if isinstance(w, os.PathLike) else str(w) for w in words])
        except SystemExit as end:  # argparse
            code = int(str(end.code))
        said = self._capsys.readouterr()
        return Result(code, said.out, said.err)

    def ok(self, *words: object) -> Result:
        """A command that must succeed."""
        result = self(*words)
        assert result.code == 0, result
        return result

    def refused(self, code: int, *parts: str, words: tuple[object, ...], out: Path | None = None) -> Result:
        """A command that must fail with `code`, say all of `parts`, and leave no output."""
        existed = out is not None and out.exists()
        result = self(*words)
        assert result.code == code, result
        assert "Traceback" not in result.err
        for part in parts:
            assert part in result.err, (part, result.err)
        if out is not None:
            assert out.exists() == existed, sorted(out.rglob("*"))
        return result
