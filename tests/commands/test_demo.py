"""`npy2tfrecord demo`: its sets are the same every time, and what it prints runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from arrays import tree
from converted import Command, read_back

from npy2tfrecord.commands import demo


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the demo's sets, converted by the commands that it prints."""
    here = tmp_path_factory.mktemp("it's here")
    words = [sys.executable, "-W", "error", "-m", "npy2tfrecord"]
    said = subprocess.run([*words, "demo", "my demo"], cwd=here, check=True, capture_output=True, text=True).stdout
    (here / "said").write_text(said)
    commands = [line for line in said.splitlines() if line.startswith("    npy2tfrecord convert ")]
    assert len(commands) == len(demo.SETS)
    script = f'npy2tfrecord() {{ "{sys.executable}" -W error -m npy2tfrecord "$@" -q -j 1; }}\n' + "\n".join(commands)
    subprocess.run(["sh", "-e", "-c", script], cwd=here, check=True, stdout=subprocess.DEVNULL)
    return here


def test_sets_are_small_and_the_same_every_time(here: Path, tmp_path: Path, command: Command) -> None:
    command.ok("demo", tmp_path / "again")
    made = tree(tmp_path / "again")
    first = {name: content for name, content in tree(here / "my demo").items() if "-tfrecords" not in name}
    assert made == first
    assert sum(map(len, made.values())) < 6_000_000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").rglob("*")}
    command.ok("demo", tmp_path / "again")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "again").rglob("*")}


def test_sets_are_what_the_demo_says(here: Path) -> None:
    top = here / "my demo"
    flowers = [np.load(path) for path in top.glob("flowers/*/*.npy")]
    assert {(each.dtype.name, each.shape) for each in flowers} == {("uint8", (48, 48, 3))}
    speech = [np.load(path) for path in top.glob("speech/*/*.npy")]
    assert {(each.dtype.name, each.shape[1]) for each in speech} == {("float32", 80)}
    assert len({len(each) for each in speech}) > 20
    masks = [np.load(path) for path in sorted(top.glob("scans/mask/*.npy"))]
    images = [np.load(path) for path in sorted(top.glob("scans/image/*.npy"))]
    assert [each.shape for each in images] == [each.shape for each in masks]
    assert len({len(each) for each in images}) > 5
    assert sum(each.any() for each in masks) == len(masks), "a scan without a lesion"
    assert {each.dtype.name for each in images} == {"int16"}


def test_commands_that_it_prints_convert_every_file(here: Path) -> None:
    examples = {each.name: read_back(here / "my demo" / f"{each.name}-tfrecords") for each in demo.SETS}
    assert {name: len(found) for name, found in examples.items()} == {"flowers": 240, "scans": 12, "speech": 48}
    assert examples["flowers"]["poppy/007"].label == 1
    assert examples["speech"]["anna/yes-0"].label == 1
    speakers = [{key.split("/")[0] for key, each in examples["speech"].items() if each.split == split}
                for split in ("train", "val")]  # fmt: skip
    assert all(speakers)
    assert not speakers[0] & speakers[1]


def test_lines_that_it_prints_read_every_set(here: Path) -> None:
    _, _, reading = (here / "said").read_text().partition("\nRead them with\n")
    lines = [line.removeprefix("    ") for line in reading.splitlines()]
    assert len(lines) == 1 + len(demo.SETS)
    code = "\n".join(
        [*lines, "for batch in (*flowers.take(1), *scans.take(1)): print(*[each.shape for each in batch])"]
    )
    code += "\nfor batch in speech.take(1): print(batch['array'].shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=here, check=True, capture_output=True, text=True)
    shapes = done.stdout.splitlines()
    assert shapes[0] == "(32, 48, 48, 3) (32,)"
    assert shapes[1].startswith("(2, ")
    assert shapes[2].endswith(", 80)")


def test_result_as_json(tmp_path: Path, command: Command) -> None:
    sets = json.loads(command.ok("demo", "--json", tmp_path).out)["sets"]
    for each in sets:
        files = list(Path(each["path"]).rglob("*.npy"))
        assert (each["files"], each["bytes"]) == (len(files), sum(path.stat().st_size for path in files))


def test_files_of_others_are_never_replaced(tmp_path: Path, command: Command) -> None:
    other = tmp_path / "flowers" / "daisy" / "003.npy"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    command.refused(6, "003.npy is there already", "choose another DIR", words=("demo", tmp_path))
    assert tree(tmp_path) == {"flowers/daisy/003.npy": b"mine"}
    command.refused(5, "daisy/003.npy", words=("demo", other))


def test_files_that_are_missing_are_made(tmp_path: Path, command: Command) -> None:
    command.ok("demo", tmp_path)
    made = tree(tmp_path)
    (tmp_path / "speech" / "ben" / "no-1.npy").unlink()
    (tmp_path / "speech" / "ben" / "no-1.npy.partial").write_bytes(b"x")
    command.ok("demo", tmp_path)
    assert tree(tmp_path) == made
