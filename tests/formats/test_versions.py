"""How versions meet: what a newer version of this package wrote is read as far as it is known, and never damaged."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import Command, save
from faults import tree

from npy2tfrecord import convert, verify
from npy2tfrecord.conversion import converter
from npy2tfrecord.errors import (
    ConflictError,
    DamageError,
    FormatVersionError,
    NewerFormatWarning,
    OutputError,
)
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.output.workspace import Workspace


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(tmp_path / "d", {f"{i}": np.arange(3 + i, dtype="f4") for i in range(8)})


@pytest.fixture
def out(source: Path, tmp_path: Path) -> Path:
    convert(source, tmp_path / "out", num_shards=3, jobs=1)
    return tmp_path / "out"


def change(out: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the manifest as a version of this package would that has the change; its hash is right."""
    document = json.loads((out / "manifest.json").read_text())
    del document["hash"]
    edit(document)
    text = json.dumps(document, indent=1).encode() + b"\n"
    document["hash"] = Hash(text).hexdigest()
    (out / "manifest.json").write_bytes(json.dumps(document, indent=1).encode() + b"\n")


def newer_minor(document: dict[str, Any]) -> None:
    document["format_version"] = "1.7"
    document["codec"] = {"name": "x"}
    document["features"]["array"]["unit"] = "mm"
    document["splits"]["train"]["shards"][1]["first_key"] = "3"


def test_unknown_members_of_a_newer_minor_version_are_ignored_with_a_warning(out: Path, source: Path) -> None:
    before = manifest_parsing.load(out)
    change(out, newer_minor)
    with pytest.warns(NewerFormatWarning, match=r"1\.7, .* knows 1\.0; .*: features\.array\.unit, ") as caught:
        loaded = manifest_parsing.load(out)
    assert len(caught) == 1
    assert "splits.train.shards[1].first_key" in str(caught[0].message)
    assert "codec" in str(caught[0].message)
    assert (loaded.features, loaded.splits) == (before.features, before.splits)
    with pytest.warns(NewerFormatWarning):
        verify(out)
    with pytest.warns(NewerFormatWarning):
        verify(out, source=source)


def test_a_newer_minor_version_is_found_complete_and_not_rewritten(out: Path, source: Path) -> None:
    change(out, newer_minor)
    before = tree(out)
    with pytest.warns(NewerFormatWarning):
        convert(source, out, num_shards=3, jobs=1)
    assert tree(out) == before
    next(out.glob("*.tfrecord")).unlink()
    with pytest.warns(NewerFormatWarning), pytest.raises(ConflictError, match=r"format version 1\.7"):
        convert(source, out, num_shards=3, jobs=1)
    assert (out / "manifest.json").read_bytes() == before["manifest.json"]


def test_the_commands_read_a_newer_minor_version(out: Path, command: Command) -> None:
    change(out, newer_minor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NewerFormatWarning)
        for words in (("info", out), ("verify", out), ("show", out, "3"), ("export", out, out.parent / "back")):
            assert command(*words).code == 0, words


def test_a_newer_minor_version_must_still_agree_with_itself(out: Path) -> None:
    def lie(document: dict[str, Any]) -> None:
        newer_minor(document)
        document["examples"] += 1

    change(out, lie)
    with pytest.raises(DamageError, match="examples: found 9, expected 8"):
        manifest_parsing.load(out)


@pytest.mark.parametrize("version", ["2.0", "10.3"])
def test_a_newer_major_version_is_an_error_of_its_own(version: str, out: Path, command: Command) -> None:
    def edit(document: dict[str, Any]) -> None:
        document.clear()
        document.update({"format": "npy2tfrecord", "format_version": version, "all": "else differs"})

    change(out, edit)
    with pytest.raises(FormatVersionError, match=f"format version {version}, expected 1.x, .* newer one"):
        manifest_parsing.load(out)
    command.refused(2, f"format version {version}", words=("verify", out), out=out)


@pytest.mark.parametrize("version", [1, 1.0, "1", "1.0.0", "1.x", "", "-1.0", None, "1.0\n", "9" * 40 + ".0"])
def test_what_is_no_version_is_refused(version: object, out: Path) -> None:
    change(out, lambda document: document.update(format_version=version))
    with pytest.raises(DamageError, match="format_version"):
        manifest_parsing.load(out)


def test_an_unknown_member_of_this_version_is_refused(out: Path) -> None:
    change(out, lambda document: document.update(more=1))
    with pytest.raises(DamageError, match=r"more: no member of format version 1\.0"):
        manifest_parsing.load(out)


# --- options ------------------------------------------------------------------------------------


def test_an_option_that_was_added_later_had_its_default(out: Path, source: Path, command: Command) -> None:
    def forget(document: dict[str, Any]) -> None:
        for name in ("stats", "missing", "split_by", "void_dtype", "group_by_suffix", "follow_symlinks"):
            del document["options"][name]

    change(out, forget)
    assert "nothing left to do" in command.ok("convert", "--num-shards", 3, source, out).out
    assert command("verify", out, "--source", source).code == 0
    assert command("convert", "--num-shards", 3, "--stats", source, out).code == 6
    (out / "train-00001-of-00003.tfrecord").unlink()
    command.ok("convert", "--num-shards", 3, source, out)
    assert command("verify", out).code == 0


def test_an_unknown_option_matters_only_where_the_sources_are_needed(out: Path, source: Path, command: Command) -> None:
    change(out, lambda document: document["options"].update(turned_upside_down=True))
    for words in (("info", out), ("verify", out), ("show", out, "3"), ("export", out, out.parent / "back")):
        assert command(*words).code == 0, words
    command.refused(
        2, "turned_upside_down", "older than the data set", words=("verify", out, "--source", source), out=out
    )
    command.refused(
        6, "turned_upside_down", "newer version", words=("convert", "--num-shards", 3, source, out), out=out
    )


# --- an unfinished run --------------------------------------------------------------------------


@pytest.fixture
def begun(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output with some shards finished and no manifest."""
    out = tmp_path / "begun"
    commit, count = Workspace.commit, 0

    def fail_at_last(self: Workspace, entries: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OutputError("no room")
        commit(self, entries)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "commit", fail_at_last)
        with pytest.raises(OutputError):
            convert(source, out, num_shards=3, jobs=1)
    assert len(list(out.glob("*.tfrecord"))) == 2
    return out


def test_a_run_begun_by_another_version_is_not_resumed(
    begun: Path, out: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(converter, "__version__", "99.1")
        with pytest.raises(ConflictError, match=r"unfinished conversion by version .* this is 99\.1"):
            convert(source, begun, num_shards=3, jobs=1)
    plan = json.loads((begun / ".npy2tfrecord/plan.json").read_text())
    del plan["package"]
    (begun / ".npy2tfrecord/plan.json").write_text(json.dumps(plan))
    with pytest.raises(ConflictError, match="by version None"):
        convert(source, begun, num_shards=3, jobs=1)
    convert(source, begun, num_shards=3, jobs=1, overwrite=True)
    assert tree(begun) == tree(out)


def test_a_line_of_the_journal_with_unknown_fields_is_ignored(begun: Path, out: Path, source: Path) -> None:
    journal = begun / ".npy2tfrecord/journal"
    lines = []
    for line in journal.read_bytes().splitlines():
        entry = json.loads(line.partition(b" ")[2])
        entry["shard"] |= {"zones": 3} if not lines else {}
        entry |= {"later": True} if lines else {}
        text = json.dumps(entry).encode()
        lines.append(Hash(text).hexdigest().encode() + b" " + text + b"\n")
    assert len(lines) == 2
    journal.write_bytes(b"".join(lines))
    before = {path.name: path.stat().st_ino for path in begun.glob("*.tfrecord")}
    convert(source, begun, num_shards=3, jobs=1)
    assert tree(begun) == tree(out)
    assert all((begun / name).stat().st_ino != number for name, number in before.items())


# --- another compressor -------------------------------------------------------------------------


def without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("isal", "isal.isal_zlib"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    return save(tmp_path / "noisy", {f"{i}": rng.integers(0, 9, 5000) for i in range(6)})


@pytest.mark.parametrize("compression", ["gzip", "zlib"])
def test_shards_of_another_compressor_are_repaired(
    compression: str, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    pytest.importorskip("isal")
    options = {"num_shards": 3, "jobs": 1, "compression": compression}
    first = convert(noisy, tmp_path / "first", **options)  # type: ignore[arg-type]
    assert [name.partition(" ")[0] for name in first.sources["compressors"]] == ["isal"]
    for damage in (Path.unlink, lambda path: os.truncate(path, 100), lambda path: path.write_bytes(b"x" * 5000)):
        out = Path(shutil.copytree(tmp_path / "first", tmp_path / f"copy{damage}"))
        damage(out / first.shards[1].file)
        with monkeypatch.context() as patched:
            without_isal(patched)
            if damage is Path.unlink:
                convert(noisy, out, **options)  # type: ignore[arg-type]
            else:
                assert verify(out, source=noisy, repair=True).examples == 6
            assert verify(out, source=noisy).examples == 6
        made = manifest_parsing.load(out)
        assert made.shards[1].hash != first.shards[1].hash
        assert made.shards[1].unpacked == first.shards[1].unpacked
        assert (made.shards[0], made.shards[2]) == (first.shards[0], first.shards[2])
        assert [name.partition(" ")[0] for name in made.sources["compressors"]] == ["isal", "zlib"]


def test_changed_sources_are_still_found_with_another_compressor(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    made = convert(noisy, out, num_shards=1, jobs=1, compression="gzip")
    (out / made.shards[0].file).unlink()
    array = np.load(noisy / "3.npy")
    np.save(noisy / "3.npy", array + 1)
    without_isal(monkeypatch)
    with pytest.raises(ConflictError, match="changed since the conversion"):
        convert(noisy, out, num_shards=1, jobs=1, compression="gzip")


def test_a_run_is_resumed_with_another_compressor(noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, commit = tmp_path / "out", Workspace.commit

    def fail_later(self: Workspace, entries: Any) -> None:
        commit(self, entries)
        raise OutputError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "commit", fail_later)
        with pytest.raises(OutputError):
            convert(noisy, out, num_shards=3, jobs=1, compression="gzip")
    without_isal(monkeypatch)
    made = convert(noisy, out, num_shards=3, jobs=1, compression="gzip")
    assert [name.partition(" ")[0] for name in made.sources["compressors"]] == ["isal", "zlib"]
    assert verify(out, source=noisy).examples == 6


@pytest.mark.parametrize("compressors", [None, 7, "isal", {"x": [1]}, [1, {}, ["a"]]], ids=str)
def test_a_list_of_compressors_that_is_none_is_passed_over(compressors: object, noisy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = convert(noisy, out, num_shards=2, jobs=1, compression="gzip")
    change(out, lambda document: document["sources"].update(compressors=compressors))
    (out / made.shards[0].file).unlink()
    again = convert(noisy, out, num_shards=2, jobs=1, compression="gzip")
    assert again.sources["compressors"] == made.sources["compressors"]
    assert verify(out, source=noisy).examples == 6
