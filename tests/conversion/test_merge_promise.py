"""Merging what was converted from parts of a directory gives the bytes of converting the directory.

`NPY2TFRECORD_CASES=500` in the environment runs more cases than the suite does.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arrays import tree
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from npy2tfrecord import convert, merge, verify
from npy2tfrecord.errors import Error, UsageError

CASES = int(os.environ.get("NPY2TFRECORD_CASES", "25"))
LAYOUTS = ("plain", "suffix", "named", "npz", "rows", "npz rows")
FOLDERS = ("", "cats/", "dogs/", "dogs/old/", "dogs-2/", "\xe9t\xe9/", "a\\b/")
WORDS = ("x", "y", "z", "longer word", "\xfc")


@dataclass(frozen=True)
class Case:
    """A directory, its division, and how it is converted."""

    seed: int
    layout: str
    keys: list[str]
    parts: list[int]  # of each key
    order: list[int]  # of the parts, as arguments
    options: dict[str, Any]  # of the conversion of the whole
    late: bool  # the options of splits and shards are given to the merge only
    labels: str  # "", "dirs", "words", "numbers" or "floats"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    layout = draw(st.sampled_from(LAYOUTS))
    labels = draw(st.sampled_from(["", "", "dirs", "words", "numbers", "floats"]))
    names = [f"{folder}{name}" for folder in FOLDERS for name in ("1", "2", "10", "1-b", "1#0")]
    if labels == "dirs":
        names = [name for name in names if "/" in name]
    keys = draw(st.lists(st.sampled_from(names), min_size=1, max_size=25, unique=True))
    count = draw(st.integers(1, 4))
    parts = draw(st.lists(st.integers(0, count - 1), min_size=len(keys), max_size=len(keys)))
    used = sorted(set(parts))
    options: dict[str, Any] = {
        "shuffle": draw(st.booleans()),
        "seed": draw(st.sampled_from([0, 1, 2**64 - 1])),
        "compression": draw(st.sampled_from(["none", "none", "gzip", "zlib"])),
        "stats": draw(st.booleans()),
        "sort": draw(st.sampled_from(["bytes", "natural"])),
    }
    if draw(st.booleans()):
        options["num_shards"] = draw(st.integers(1, 6))
    else:
        options["shard_size"] = draw(st.sampled_from([300, 1000, 128 * 10**6]))
    if draw(st.booleans()):
        options["dtype"] = draw(st.sampled_from(["float16", "float64", "int8"]))
    split = draw(st.sampled_from(["", "", "fractions", "groups", "dirs"]))
    if split == "dirs" and labels != "dirs":
        assume(all("/" in key and key[0] in "cd" for key in keys))
        options["split"] = "dirs"
    elif split in ("fractions", "groups"):
        options["split"] = draw(st.sampled_from(["train=0.5,val=0.5", "z=0.6,a=0.4"]))
        if split == "groups":
            options["split_by"] = "([^/]*)$"
    return Case(
        seed=draw(st.integers(0, 2**32)),
        layout=layout,
        keys=keys,
        parts=parts,
        order=draw(st.permutations(used)),
        options=options,
        late=draw(st.booleans()),
        labels=labels,
    )


def _write(root: Path, key: str, layout: str, rng: np.random.Generator) -> list[Path]:
    """The files of one key."""

    def array() -> np.ndarray:
        shape = (int(rng.integers(0, 5)), int(rng.choice([3, 3, 3, 2])))
        values = rng.integers(-100, 100, shape).astype(np.float32) / 3
        values[rng.random(shape) < 0.02] = 0.0
        return values

    def save(name: str, **arrays: np.ndarray) -> Path:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            np.savez(path, **arrays)
        else:
            np.save(path, arrays["array"])
        return path

    first, second = array(), array()
    if layout in ("npz rows", "rows"):
        second = first[:, :1] * 2
    if layout.startswith("npz"):
        pairs = [("b", first), ("a", second)]
        rng.shuffle(pairs)
        return [save(f"{key}.npz", **dict(pairs))]
    if layout == "suffix":
        return [save(f"{key}.image.npy", array=first), save(f"{key}.mask.npy", array=second)]
    if layout == "named":
        return [save(f"img/{key}.npy", array=first), save(f"msk/{key}.npy", array=second)]
    return [save(f"{key}.npy", array=first)]


def _sources(root: Path, layout: str) -> Any:
    return {"image": root / "img", "mask": root / "msk"} if layout == "named" else root


def check(case: Case, root: Path) -> None:
    rng = np.random.default_rng(case.seed)
    whole = root / "whole"
    tables: dict[Path, list[str]] = {whole: []}
    for key, part in zip(case.keys, case.parts, strict=True):
        directory = root / f"part{part}"
        number = f"{rng.integers(-3, 300)}{'.5' * (case.labels == 'floats')}"
        label = str(rng.choice(WORDS)) if case.labels == "words" else number
        for table in (whole, directory):
            tables.setdefault(table, []).append(f"{key},{label}\n")
        for path in _write(whole, key, case.layout, rng):
            link = directory / path.relative_to(whole)
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
    for table, lines in tables.items():
        table.with_suffix(".csv").write_text("key,label\n" + "".join(lines), encoding="utf-8")
    usual: dict[str, Any] = {"fsync": False, "jobs": 1}
    layout: dict[str, Any] = {"rows": case.layout.endswith("rows"), "group_by_suffix": case.layout == "suffix"}

    def run(directory: Path, **options: Any) -> None:
        labels = {"": None, "dirs": "dirs"}.get(case.labels, str(directory.with_suffix(".csv")))
        out = directory.with_name(f"{directory.name}-set")
        convert(_sources(directory, case.layout), out, labels=labels, **layout, **options, **usual)

    try:
        run(whole, **case.options)
    except Error:
        assume(False)
    at_the_end = {} if not case.late else dict(case.options)
    early = dict(case.options) if not case.late else {}
    for name in ("stats", "dtype", "sort"):
        if name in at_the_end:
            early[name] = at_the_end.pop(name)
    for part in case.order:
        try:
            run(root / f"part{part}", **early)
        except UsageError as error:
            # A part that has no row, or too few examples for a fraction, is no set.
            assume("would be empty" not in str(error) and "no example" not in str(error))
            raise
    sets = [root / f"part{part}-set" for part in case.order]
    merge(sets, root / "merged", **at_the_end, **usual)
    expected, found = tree(root / "whole-set"), tree(root / "merged")
    differ = [name for name in sorted(expected | found) if expected.get(name) != found.get(name)]
    assert not differ, (differ, _describe(expected, found))
    labels = {"": None, "dirs": None}.get(case.labels, str(whole.with_suffix(".csv")))
    verify(root / "merged", source=_sources(whole, case.layout), labels=labels, jobs=1)


def _describe(expected: dict[str, bytes], found: dict[str, bytes]) -> list[tuple[bytes, bytes]]:
    lines = zip(expected["manifest.json"].split(b"\n"), found["manifest.json"].split(b"\n"), strict=False)
    return [(a, b) for a, b in lines if a != b][:6]


@settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
@given(case=cases())
def test_merging_parts_gives_the_bytes_of_converting_the_whole(case: Case) -> None:
    with tempfile.TemporaryDirectory() as root:
        check(case, Path(root))
