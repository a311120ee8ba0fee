"""What a stranger sends: nothing is opened outside the data set, allocated from a claim, unpickled or run.

`tests/support/fuzzing.py` does the fuzzing, in a process of its own with little memory; `scripts/stress` does more.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import npy_header

from npy2tfrecord import convert, export, syscalls, verify
from npy2tfrecord.errors import DamageError, InputError, UsageError
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.manifest import FeatureInfo
from npy2tfrecord.formats.shard import array_of

SEED = int(os.environ.get("NPY2TFRECORD_STRESS_SEED", "") or random.SystemRandom().randrange(2**32))
HERE = Path(__file__).parents[1] / "support"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")


@pytest.mark.parametrize(("kind", "count"), [("shards", 400), ("manifests", 500), ("npy", 60_000), ("npz", 5_000)])
def test_nothing_but_our_error_comes_of_it(kind: str, count: int) -> None:
    words = [sys.executable, str(HERE / "fuzzing.py"), kind, str(count), str(SEED)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"seed {SEED}: {run.stderr[-3000:]}"
    told = json.loads(run.stdout)
    assert told["cases"] == count
    assert told["peak MiB"] < 250
    taken = sum(n for what, n in told["told"].items() if what.endswith("taken"))
    assert taken > count // 50, "so wild that nothing is tested"
    assert len(told["told"]) >= 2


CHILD = """
import sys
sys.path.insert(0, {here!r})
import fuzzing
from npy2tfrecord import convert, export, syscalls, verify
from npy2tfrecord.formats import manifest_parsing, manifest
import readers
fuzzing.limit_memory()
try:
    {code}
except Exception as error:
    print(type(error).__name__, error)
print(fuzzing.peak())
"""


def in_little_memory(code: str) -> tuple[str, int]:
    """What a statement says, and the most memory the process had, in MiB."""
    words = [sys.executable, "-c", CHILD.format(here=str(HERE), code=code)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    said, _, peak = run.stdout.rstrip().rpartition("\n")
    return said, int(peak)


def small(tmp_path: Path, **options: Any) -> Path:
    (tmp_path / "source").mkdir()
    for i in range(3):
        np.save(tmp_path / "source" / f"{i}.npy", np.full((2, 3), i, "f4"))
    convert(tmp_path / "source", tmp_path / "out", jobs=1, fsync=False, **options)
    return tmp_path / "out"


def test_a_manifest_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    out = small(tmp_path)
    with (out / "manifest.json").open("r+b") as file:
        file.truncate(2**30)
    said, peak = in_little_memory(f"manifest_parsing.load({str(out)!r})")
    assert said.startswith("DamageError")
    assert "larger than" in said
    assert peak < 120


@pytest.mark.parametrize("name", ["manifest.json", "shard"])
def test_a_pipe_does_not_hang(tmp_path: Path, name: str) -> None:
    out = small(tmp_path)
    path = out / (name if name != "shard" else manifest_parsing.load(out).shards[0].file)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamageError, match=r"regular file|bytes"):
        verify(out)


@pytest.mark.parametrize("data", [b"[" * 10**6, b'{"a":' * 10**5, b"\0" * 99, b"", b"[]", b"null", b"1" * 10**5])
def test_a_manifest_that_is_none(tmp_path: Path, data: bytes) -> None:
    out = small(tmp_path)
    (out / "manifest.json").write_bytes(data)
    with pytest.raises(DamageError):
        manifest_parsing.load(out)


@pytest.mark.parametrize("name", ["../x.tfrecord", "/etc/passwd", "train-00000-of-00001.tfrecord\0", "", ".", "a/b"])
def test_names_that_lead_elsewhere_are_not_taken(tmp_path: Path, name: str) -> None:
    out = small(tmp_path)
    document = json.loads((out / "manifest.json").read_bytes())
    document["splits"]["train"]["shards"][0]["file"] = name
    (out / "manifest.json").write_text(json.dumps(document, indent=1) + "\n")
    with pytest.raises(DamageError, match=r"splits\.train\.shards\[0\]\.file"):
        manifest_parsing.load(out)


@pytest.mark.parametrize("option", ["files_from", "labels", "scheduler", "backend"])
def test_a_manifest_names_no_file_to_be_read_and_no_machine_to_be_asked(tmp_path: Path, option: str) -> None:
    out = small(tmp_path)
    made = manifest_parsing.load(out)
    made.options[option] = "/etc/passwd"  # type: ignore[index]
    (out / "manifest.json").write_bytes(made.encode())
    with pytest.raises((DamageError, UsageError), match="options"):
        verify(out, source=tmp_path / "source")


def test_an_array_of_nothing_that_is_too_large(tmp_path: Path) -> None:
    info = FeatureInfo(
        name="array",
        dtype="float32",
        shape=(None, None),
        min_shape=(0, 0),
        max_shape=(2**63 - 1,) * 2,
        histograms=(None, None),
        bytes=0,
    )
    example = {"array": memoryview(b""), "array/dtype": memoryview(b"float32"), "array/shape": [0, 2**62]}
    with pytest.raises(DamageError, match="too big"):
        array_of(example, info)


def test_nothing_is_exported_through_a_link(tmp_path: Path) -> None:
    out = small(tmp_path)
    file = out / manifest_parsing.load(out).shards[0].file
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    for use in (lambda: verify(out), lambda: export(out, tmp_path / "back")):
        with pytest.raises(DamageError, match=file.name):
            use()
    assert not list((tmp_path / "back").rglob("*.npy"))


class Canary:
    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    np.save(source / "a.npy", np.array([Canary()], dtype=object), allow_pickle=True)
    (source / "b.npy").write_bytes(pickle.dumps(Canary()))
    (source / "c.npy").write_bytes(npy_header("<f4", (3,))[:-1] + pickle.dumps(Canary()))
    np.savez(source / "d.npz", x=np.array([Canary()], dtype=object))
    (source / "e.npz").write_bytes(pickle.dumps(Canary()))
    code = f"""
    seen = []
    sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith("pickle.") else None)
    for path in {[str(path) for path in sorted(source.iterdir())]!r}:
        try:
            convert(path, {str(tmp_path / "out")!r}, jobs=1)
        except ValueError as error:
            print(type(error).__name__)
    print(seen)
"""
    said, _ = in_little_memory(code.strip())
    assert said.split("\n") == ["InputError"] * 5 + ["[]"]
    assert not (tmp_path / "unpickled").exists()


BOMBS = {
    "a header of 300 MiB": (b"\x93NUMPY\2\0" + (300 * 2**20).to_bytes(4, "little"), 300 * 2**20 + 100),
    "a shape of an exabyte": (npy_header("<f4", (10**9, 10**8)), 2**20),
    "a shape of nothing, items of a gigabyte": (npy_header("|V1000000000", (0,)), 2**20),
    "2 GiB of holes": (npy_header("<f4", (2**29,)), 2**31 + 128),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_nothing_is_allocated_from_a_claim(tmp_path: Path, kind: str) -> None:
    start, size = BOMBS[kind]
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(start)
        file.truncate(size)
    said, peak = in_little_memory(f"convert({str(tmp_path / 'x.npy')!r}, {str(tmp_path / 'out')!r}, jobs=1)")
    assert said.startswith((InputError.__name__, UsageError.__name__)), said
    assert peak < 120


def test_a_manifest_that_the_disk_does_not_give_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    np.save(tmp_path / "source" / "1.npy", np.zeros(3))
    convert(tmp_path / "source", tmp_path / "out")

    def failing(handle: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(syscalls, "pread", failing)
    with pytest.raises(DamageError, match=r"manifest\.json: Input/output error"):
        manifest_parsing.load(tmp_path / "out")
