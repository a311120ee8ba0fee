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
from pages import fenced, run_blocks

import npy2tfrecord
import readers
from npy2tfrecord.commands import arguments, main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

sys.path.insert(0, str(ROOT / "scripts"))
import error_messages  # noqa: E402
import generate_docs  # noqa: E402
import recording  # noqa: E402

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


def test_table_of_speed_has_the_figures_of_the_page_about_performance() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == generate_docs.readme_page(text), "run scripts/generate_docs.py"
    assert len(re.findall(r"^\| (?:write [\d,]+|read) arrays .*\d", text, re.MULTILINE)) == 5


def test_recording_is_what_the_commands_print() -> None:
    stored = (ROOT / "docs" / "images" / "terminal.svg").read_text(encoding="utf-8")
    assert stored == recording.recording(), "run scripts/generate_docs.py"


def test_scripts_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"`(scripts/\w+|benchmarks/run)\b", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert os.access(ROOT / name, os.X_OK), name


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
@pytest.mark.filterwarnings("default")  # other packages' deprecations are not these pages'
def test_first_pages_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    found = fenced((ROOT / name).read_text(encoding="utf-8"))
    languages = [language for language, _ in found]
    assert languages.count("console") >= 2
    assert languages.count("text") >= 1
    run_blocks([block for block in found if block[0] != "sh"], command, capsys, name)


@pytest.mark.filterwarnings("default")
def test_page_about_growing_sets_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "arrays", {f"{i}": np.arange(4.0) for i in range(4)})
    consoles, (python,), (shell,) = (
        [block for block in fenced((ROOT / "docs" / "growing.md").read_text(encoding="utf-8")) if block[0] == language]
        for language in ("console", "python", "sh")
    )
    run_blocks(consoles, command, capsys, "growing.md")
    save(tmp_path / "arrays", {"new": np.arange(4.0)})
    command.ok("convert", "--not-in", "shards", "arrays", "shards-new")
    exec(compile(python[1], "growing.md", "exec"), {})
    for line in shell[1].splitlines():
        command.ok(*line.split()[1:])


# --- the site -----------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation_and_in_the_list_for_machines() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert re.search(rf" {re.escape(name)}$", site, re.MULTILINE), name
        assert f"]({name})" in listed, name
    assert listed == generate_docs.llms_text(), "run scripts/generate_docs.py"


def test_every_public_name_is_in_the_python_reference() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    named = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    public = {*npy2tfrecord.__all__, *readers.__all__} - {"__version__"}
    assert public <= named | set(re.findall(r"`readers\.(\w+)`", page))
    for package in (npy2tfrecord, readers):
        for name in set(package.__all__) - {"AUTOTUNE", "__version__"}:
            assert getattr(package, name).__doc__, name


def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "python.html").read_text(encoding="utf-8")
    for name in ("convert", "load_dataset", "ArraySource", "index_of", "InputError"):
        assert re.search(rf'<h\d[^>]*id="[\w.]*\b{name}"', reference), name
    assert (tmp_path / "site" / "llms.txt").exists()
    assert (tmp_path / "site" / "search" / "search_index.js").exists(), "no search where there is no server"
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:link|script|img)\b[^>]+(?:href|src)="https?://[^"]+', text), page


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
