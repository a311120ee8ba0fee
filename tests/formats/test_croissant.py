"""`croissant.json`: valid for the reference implementation, and true."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, save

from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.croissant import croissant_file
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest, ShardInfo, shard_name

# Prints the records of every record set, once the file is found valid.
READER = """
import json, logging, sys, mlcroissant
logging.disable()
for path in sys.argv[1:]:
    dataset = mlcroissant.Dataset(path)
    assert not dataset.metadata.ctx.issues.errors, dataset.metadata.ctx.issues.report()
    print(json.dumps({found.id: list(dataset.records(found.id)) for found in dataset.metadata.record_sets}))
"""


def written(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "croissant.json").read_bytes())
    return document


@pytest.mark.skipif(importlib.util.find_spec("mlcroissant") is None, reason="needs mlcroissant")
def test_file_is_valid_and_says_what_there_is(tmp_path: Path, command: Command) -> None:
    names = ('<script>"', "b\\\n\u2028ü", "\udcff")
    files = {f"{name}/{i}": np.zeros((2 + i, 80), "f4") for name in names for i in range(9)}
    save(tmp_path / "img", files)
    save(tmp_path / "msk", files)
    sources = [f"image={tmp_path}/img", f"mask={tmp_path}/msk"]
    words = ("--labels", "dirs", "--split", "train=0.6,val=0.4", "--num-shards", "3", "-q")
    command.ok("convert", *sources, tmp_path / "many", *words)
    command.ok("convert", tmp_path / "img", tmp_path / "packed", "--compression", "gzip", "-q")
    paths = [str(tmp_path / name / "croissant.json") for name in ("many", "packed")]
    done = subprocess.run([sys.executable, "-c", READER, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    many, packed = map(json.loads, done.stdout.splitlines())
    made = manifest_parsing.load(tmp_path / "many")
    assert {row["splits/name"]: row["splits/examples"] for row in many["splits"]} == {
        split: sum(shard.examples for shard in shards) for split, shards in made.splits.items()
    }
    assert many["features"] == [
        {"features/name": name, "features/dtype": "float32", "features/shape": "-1,80"} for name in ("image", "mask")
    ]
    assert [row["labels/value"] for row in many["labels"]] == [0, 1, 2]
    assert {row["labels/name"] for row in many["labels"]} == {'<script>"', "b\\\\x0a\\u2028ü", "\\xff"}
    assert packed.keys() == {"splits", "features"}
    assert "gzip-compressed" in written(tmp_path / "packed")["description"]


def test_patterns_match_the_shards_of_their_split_alone() -> None:
    counts = {"a": 1, "a-0": 2, "b": 100_001}
    splits = {
        split: tuple(
            ShardInfo(file=shard_name(split, i, count), examples=1, bytes=1, hash="0" * 32, tail="")
            for i in range(count)
        )
        for split, count in counts.items()
    }
    feature = FeatureInfo(name="array", dtype="float32", shape=(), min_shape=(), max_shape=(), histograms=(), bytes=4)
    document = json.loads(croissant_file(Manifest(features=(feature,), splits=splits)))
    names = [shard.file for shards in splits.values() for shard in shards]
    for files in document["distribution"]:
        split = files["@id"].removesuffix("-shards")
        matched = {name for pattern in files["includes"] for name in fnmatch.filter(names, pattern)}
        assert matched == {shard.file for shard in splits[split]}


def test_file_is_checked_repaired_and_replaced(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "in", {f"{kind}/{i}": np.zeros(3, "f4") for kind in "ab" for i in range(4)})
    out = tmp_path / "out"
    command.ok("convert", tmp_path / "in", out, "--labels", "dirs", "-q")
    whole = (out / "croissant.json").read_bytes()
    assert [row["name"] for row in written(out)["recordSet"]] == ["splits", "features", "labels"]
    (out / "croissant.json").write_bytes(whole.replace(b"sc:Dataset", b"sc:dataset"))
    command.refused(7, "croissant.json: is not what follows from the manifest", words=("verify", out))
    command.ok("verify", out, "--repair", "--source", tmp_path / "in")
    assert (out / "croissant.json").read_bytes() == whole
    command.ok("convert", tmp_path / "in", out, "--overwrite", "-q")
    assert [row["name"] for row in written(out)["recordSet"]] == ["splits", "features"]
