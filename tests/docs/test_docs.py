"""The documentation is true: its commands and snippets run, its bytes are the code's, its links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash
from converted import Command, save
from crc32c import crc32c

from npy2tfrecord.commands import arguments, main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

sys.path.insert(0, str(ROOT / "scripts"))
import error_messages  # noqa: E402
import generate_docs  # noqa: E402


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of that language, without the indent of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


# --- docs/cli.md --------------------------------------------------------------------------------


def test_command_reference_is_what_help_says() -> None:
    stale = "run scripts/generate_docs.py"
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == generate_docs.cli_page(), stale


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_and_option_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    parser = arguments.make_parser(name)
    assert f"npy2tfrecord {name} " in section
    for action in parser._actions:
        assert action.help, action
        for option in action.option_strings:
            if action.dest != "help":
                assert re.search(rf"[`, ]{re.escape(option)}[`, ]", section), option


# --- docs/format.md -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> dict[str, bytes]:
    """The files of the data set that the page takes apart."""
    return generate_docs.example_files()


def test_format_page_shows_what_is_written() -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    assert page == generate_docs.format_page(page), "run scripts/generate_docs.py"


def shown(name: str) -> str:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    return page.partition(f"<!-- generated: {name} -->\n")[2].partition("\n")[2].partition("```")[0]


def test_dump_is_the_shard_byte_for_byte(example: dict[str, bytes]) -> None:
    data = b""
    for line in shown("record").splitlines():
        assert int(line[:4], 16) == len(data)
        data += bytes.fromhex(line[6:53])
    assert data == example["train-00000-of-00001.tfrecord"]


def test_record_follows_the_rules_of_the_page(example: dict[str, bytes]) -> None:
    data = example["train-00000-of-00001.tfrecord"]

    def masked(piece: bytes) -> int:
        crc = crc32c(piece)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32

    length, length_crc = struct.unpack("<QI", data[:12])
    assert length == len(data) - 16
    assert length_crc == masked(data[:8])
    assert struct.unpack("<I", data[-4:]) == (masked(data[12:-4]),)
    assert data.endswith(generate_docs.ARRAY.astype("<i2").tobytes("C") + data[-4:])
    assert example["index/train-00000-of-00001.idx"] == b"0 %d\n" % len(data)
    assert example["index/train-00000-of-00001.keys"] == generate_docs.KEY.encode() + b"\n"
    (shard,) = json.loads(example["manifest.json"])["splits"]["train"]["shards"]
    assert shard["tail"] == data[-8:].hex()


def test_manifest_hash_follows_the_rules_of_the_page(example: dict[str, bytes]) -> None:
    document = json.loads(example["manifest.json"])
    assert example["manifest.json"] == json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"
    *_, last = document
    assert last == "hash"
    claimed = document.pop("hash")
    assert claimed == xxhash.xxh3_128(json.dumps(document, indent=1).encode() + b"\n").hexdigest()
    (shard,) = document["splits"]["train"]["shards"]
    assert shard["hash"] == xxhash.xxh3_128(example[shard["file"]]).hexdigest()


def test_format_page_describes_every_file_and_member(example: dict[str, bytes]) -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    for file in example:
        name = re.sub(r"^(index/)?train.*(\..*)$", r"\2", file)
        assert name in page, file

    def names(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield name
                yield from names(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from names(inner)

    document = json.loads(example["manifest.json"])
    document["options"], document["splits"] = {}, document["splits"]["train"]
    document["features"] = document["features"]["array"]
    for name in names(document):
        assert f"`{name}`" in page or f'"{name}"' in page.replace(shown("manifest"), ""), name


# --- docs/errors.md -----------------------------------------------------------------------------


def test_errors_page_has_every_message() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert page == generate_docs.errors_page(page), "run scripts/generate_docs.py"


def test_errors_page_refuses_a_message_that_no_section_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    messages = error_messages.messages()
    new = error_messages.Message("npy2tfrecord/new.py", "InputError", "a new problem")
    monkeypatch.setattr(error_messages, "messages", lambda: [*messages, new])
    with pytest.raises(SystemExit, match="a new problem"):
        generate_docs.errors_page(page)


def shown_by(page: str) -> list[re.Pattern[str]]:
    """What matches the messages on the page: anything may stand for a placeholder."""
    lines = "".join(re.findall(r"-->\n```text\n(.*?)```", page, re.DOTALL)).splitlines()
    return [
        re.compile(re.sub(r"\b[A-Z][A-Z-]+\b|…", lambda _: ".*", re.escape(line).replace(r"\-", "-"))) for line in lines
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "gone"),
        ("scan", "arrays"),
        ("scan", "mixed"),
        ("convert", "mixed", "out", "--shard-size", "7"),
        ("convert", "good", "mixed"),
        ("convert", "good", "out", "--split", "a=0.5"),
        ("convert", "good", "out", "--labels", "dirs"),
        ("info", "good"),
        ("export", "gone", "back"),
    ],
    ids=" ".join,
)
def test_errors_page_has_what_commands_say(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    save(tmp_path / "good", {"a": np.ones(3)})
    save(tmp_path / "mixed", {"a": np.ones(3), "b": np.ones(3, "f4")})
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "page.npy").write_text("<!DOCTYPE html><html>")
    monkeypatch.chdir(tmp_path)
    said = " ".join(command(*words).err.split())
    assert said.startswith("npy2tfrecord: ")
    patterns = shown_by((ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))
    best = max((pattern for pattern in patterns if pattern.search(said)), key=lambda p: len(p.pattern), default=None)
    assert best is not None, said
    assert len(re.sub(r"\.\*|\W", "", best.pattern)) > 5, best


# --- README.md ----------------------------------------------------------------------------------


def test_readme_is_three_screens_at_most() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120


def test_set_up_commands_of_the_readme_are_there() -> None:
    (set_up,) = blocks(ROOT / "README.md", "console")
    for line in set_up.splitlines():
        command = line.removeprefix("$ ").split()[0]
        assert os.access(ROOT / command, os.X_OK), command


@pytest.fixture(scope="module")
def spectrograms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the README converts."""
    here = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (here / "spectrograms" / kind).mkdir(parents=True)
        for number in range(50):
            frames = rng.integers(2, 20)
            np.save(here / "spectrograms" / kind / f"{number:03}.npy", rng.normal(size=(frames, 80)).astype("float32"))
    return here


def run(here: Path, *words: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=here, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    return done.stdout


def test_readme_runs(spectrograms: Path) -> None:
    shell = blocks(ROOT / "README.md", "sh")
    assert shell
    said = "".join(run(spectrograms, "bash", "-euo", "pipefail", "-c", code) for code in shell)
    assert "100 examples" in said
    assert "(2–19, 80)" in said

    python = blocks(ROOT / "README.md", "python")
    assert len(python) >= 4
    said = run(spectrograms, sys.executable, "-c", "\n".join(python))
    assert said.startswith("100 (None, 80) ('cats', 'dogs')\n")
    assert re.search(r"^\(\d+, \d+, 80\) \(\d+,\)$", said, re.MULTILINE)
    assert "float32" in said


# --- all pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{page.name} links to {target}"
