"""Writes what in the documentation follows from the code: docs/cli.md, the worked example in docs/format.md, the texts
of all messages in docs/errors.md, the terminal in docs/images.

    .venv/bin/python scripts/generate_docs.py

Tests compare all with what this would write, so that they stay true.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import error_messages
import numpy as np
import recording

import npy2tfrecord
from npy2tfrecord.commands import arguments
from npy2tfrecord.commands.main import COMMANDS

DOCS = Path(__file__).resolve().parent.parent / "docs"


# --- docs/cli.md --------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command and option, from the parsers that `--help` shows."""
    parts = [
        "# The command line",
        "<!-- Written by scripts/generate_docs.py from the command's own --help: change it there. -->",
        "`npy2tfrecord COMMAND --help` shows the same. [converting.md](converting.md) says when to use what."
        " `python -m npy2tfrecord` is the same command.",
        _table(("command", "what it does"), [(f"[`{n}`](#{n})", s) for n, s in COMMANDS.items()]),
        "`npy2tfrecord --version` prints the version. Behind `--`, a path may start with a dash.",
    ]
    for name in COMMANDS:
        parts += _command(name, arguments.make_parser(name))
    parts += [
        "## Exit codes",
        _table(("code", "when"), sorted(_exit_codes(), key=lambda row: int(row[0].partition(",")[0]))),
        "Errors are one message on standard error that says what, where, found and expected. Only code 1 shows a"
        " traceback.",
    ]
    return "\n\n".join(parts) + "\n"


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    groups = [(group.title, group._group_actions) for group in parser._action_groups]
    places = [action for _, actions in groups for action in actions if not action.option_strings]
    yield f"## {name}"
    yield " ".join(str(parser.description).split())
    yield f"```text\n{parser.usage}\n```"
    yield _table(("argument", "meaning"), [(f"`{_metavar(action)}`", str(action.help)) for action in places])
    for title, actions in sorted(groups, key=lambda group: group[0] == "options"):  # what is in no group comes last
        options = [action for action in actions if action.option_strings and action.dest != "help"]
        if options:
            yield _table(
                (str(title), "meaning"),
                [(f"`{_spelled(action)}`", str(action.help)) for action in options],
            )


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return "|".join(action.choices) if action.choices else str(action.metavar)


def _spelled(action: argparse.Action) -> str:
    return f"{', '.join(action.option_strings)} {_metavar(action)}{'...' * (action.nargs == '+')}".strip()


def _exit_codes() -> Iterator[tuple[str, str]]:
    for line in arguments.EXIT_CODES.splitlines()[1:]:
        yield from re.findall(r"(\d+(?:, \d+)*)  (\S+(?: \S+)*)", line)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


# --- the worked example of docs/format.md -------------------------------------------------------

ARRAY = np.array([[1, 2, 3], [4, 5, -1]], dtype="int16")
KEY = "cats/001"


def example_files() -> dict[str, bytes]:
    """Every file of the data set that the page shows: one array, converted with `--labels dirs`."""
    with tempfile.TemporaryDirectory() as here:
        source, out = Path(here, "arrays"), Path(here, "out")
        (source / KEY).parent.mkdir(parents=True)
        np.save(source / f"{KEY}.npy", ARRAY)
        npy2tfrecord.convert(source, out, labels="dirs", jobs=1, fsync=False)
        return {os.fspath(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def example_blocks() -> dict[str, str]:
    """The page's generated blocks by name."""
    files = example_files()
    shard = "train-00000-of-00001"
    return {
        "record": "\n".join(_record_lines(files[f"{shard}.tfrecord"])),
        "index": files[f"index/{shard}.idx"].decode(),
        "keys": files[f"index/{shard}.keys"].decode(),
        "manifest": files["manifest.json"].decode(),
        "features": files["features.json"].decode(),
        "dataset_info": files["dataset_info.json"].decode(),
    }


def _line(offset: int, data: bytes, depth: int, meaning: str) -> Iterator[str]:
    """A line of the dump for every 16 bytes; the first says what they are."""
    for i in range(0, max(len(data), 1), 16):
        piece = data[i : i + 16].hex(" ")
        yield f"{offset + i:04x}  {piece:<47}  {'  ' * depth}{meaning if not i else ''}".rstrip()


def _record_lines(record: bytes) -> Iterator[str]:
    """The bytes of a record, taken apart by the rules of the page and not by the package's own code."""
    (length,) = struct.unpack_from("<Q", record)
    yield from _line(0, record[:8], 0, f"length of the data: {length}")
    yield from _line(8, record[8:12], 0, "masked CRC-32C of these 8 bytes")
    end = 12 + length
    start = yield from _head(record, 12, 0, "Example.features")
    while start < end:
        start = yield from _entry(record, start)
    yield from _line(end, record[end:], 0, f"masked CRC-32C of the {length} bytes of data")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _head(data: bytes, start: int, depth: int, what: str) -> Generator[str, None, int]:
    """The tag and size of a field; returns where its content starts."""
    size, content = _varint(data, start + 1)
    yield from _line(start, data[start:content], depth, f"{what}, {size} byte{'s' * (size != 1)}")
    return content


def _entry(data: bytes, start: int) -> Generator[str, None, int]:
    """A feature; returns where it ends."""
    size, content = _varint(data, start + 1)
    end = content + size
    name_size, name_start = _varint(data, content + 1)
    name = data[name_start : name_start + name_size]
    position = yield from _head(data, start, 1, "Features.feature, an entry")
    yield from _line(position, data[position : name_start + name_size], 2, f'key: "{name.decode()}"')
    position = yield from _head(data, name_start + name_size, 2, "value, a Feature")
    is_bytes = data[position] == 0x0A
    position = yield from _head(data, position, 3, "bytes_list" if is_bytes else "int64_list")
    position = yield from _head(data, position, 4, "value" if is_bytes else "value, packed")
    if is_bytes:
        value = data[position:end]
        shown = f'"{value.decode()}"' if name != b"array" else "the array: 1, 2, 3, 4, 5, -1"
    else:
        values = []
        at = position
        while at < end:
            value_, at = _varint(data, at)
            values.append(value_)
        shown = ", ".join(map(str, values))
    yield from _line(position, data[position:end], 5, shown)
    return end


_BLOCK = re.compile(r"(?P<start><!-- generated: (?P<name>\w+) -->\n```\w+\n)(?P<text>.*?)(?P<end>```\n)", re.DOTALL)


def format_page(page: str) -> str:
    """The page with its generated blocks as they should be."""
    blocks = example_blocks()
    found = {match["name"] for match in _BLOCK.finditer(page)}
    if found != blocks.keys():
        raise SystemExit(f"docs/format.md has the blocks {sorted(found)}, expected {sorted(blocks)}")
    return _BLOCK.sub(lambda m: m["start"] + blocks[m["name"]].rstrip("\n") + "\n" + m["end"], page)


# --- docs/errors.md -----------------------------------------------------------------------------

_MESSAGES = re.compile(
    r"(?P<start><!-- messages: (?P<what>[^\n]+) -->\n```text\n)(?P<text>.*?)(?P<end>```\n)", re.DOTALL
)


def errors_page(page: str) -> str:
    """The page with the messages of the code in its blocks: of the class and modules that the comment above names."""
    lacking = {(message.kind, message.module): message for message in error_messages.messages()}
    texts: dict[tuple[str, str], list[str]] = {}
    for message in error_messages.messages():
        texts.setdefault((message.kind, message.module), []).append(message.text)

    def block(match: re.Match[str]) -> str:
        kind, *modules = match["what"].split()
        for module in modules:
            if lacking.pop((kind, module), None) is None:
                raise SystemExit(f"docs/errors.md: no {kind} in {module}, or it is there twice")
        found = sorted({text for module in modules for text in texts[kind, module]}, key=str.lower)
        return match["start"] + "".join(f"{text}\n" for text in found) + match["end"]

    page = _MESSAGES.sub(block, page)
    if lacking:
        kind, module = next(iter(lacking))
        raise SystemExit(
            f"docs/errors.md lacks {kind} of {module} ({lacking[kind, module].text!r}): name the module in the comment"
            " above the block where it belongs, or begin a section"
        )
    return page


# --- the table of speed in README.md ------------------------------------------------------------

_SPEED = re.compile(r"(?<=<!-- generated: speed -->\n).*(?=<!-- end -->)", re.DOTALL)
_TOOLS = ("npy2tfrecord", "by hand", "MDSWriter", "tensorflow-datasets")
_WRITING = (
    *("npy2tfrecord", "by hand: joblib + TFRecordWriter, 4 jobs"),
    *("MDSWriter, 4 processes and merge_index", "tensorflow-datasets"),
)
_READING = ("load_dataset", "bare TFRecordDataset", "mosaicml", "tfds")
_SHOWN = {
    "1,000,000 × 4 KB": ("write 1,000,000 arrays of 4 KB", _WRITING, ""),
    "4,000 × 1 MB": ("write 4,000 arrays of 1 MB", _WRITING, ""),
    "20,000 × (20–400, 80)": ("write 20,000 arrays of (20–400, 80)", _WRITING, ""),
    "small, batch 256": ("read arrays of 4 KB, batches of 256", _READING, "/s"),
    "var, padded, batch 64": ("read arrays of (20–400, 80), padded", _READING, "/s"),
}


def readme_page(page: str) -> str:
    """The README with the table of speed, whose figures are those of docs/performance.md."""
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    head = r"^\| (.+) \([\d,]+ (?:MB|arrays)\) \| (?:time|examples/s) \|.*\n\| ---.*\n"
    tables = re.findall(head + r"((?:\|.*\n)+)", text, re.MULTILINE)
    measured = {title: dict(re.findall(r"^\| (.+?) \| (.+?) \|", rows, re.MULTILINE)) for title, rows in tables}
    lines = [("", *_TOOLS), ("---", *["---:"] * len(_TOOLS))]
    lines += [
        (what, *(measured[title][tool] + unit for tool in tools)) for title, (what, tools, unit) in _SHOWN.items()
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return _SPEED.sub(lambda _: table + "\n", page)


# --- docs/llms.txt ------------------------------------------------------------------------------


def llms_text() -> str:
    """The list of the pages, in the order of the site, with their first sentence: see llmstxt.org."""
    nav = re.findall(
        r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8").split("\n\n")
    lines = ["# npy2tfrecord", "", "> " + " ".join(readme[1].split()), "", "## Pages", ""]
    for name in nav:
        page = (DOCS / name).read_text(encoding="utf-8")
        title = page.partition("\n")[0].removeprefix("# ")
        paragraphs = (" ".join(text.split()) for text in page.split("\n\n")[1:] if not text.startswith(("<!--", "```")))
        first = re.match(r".*?[.:](?= |$)", next(paragraphs)) if name != "index.md" else None
        lines.append(f"- [{title}]({name})" + (f": {_unlinked(first[0])}" if first else ""))
    return "\n".join(lines) + "\n"


def _unlinked(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).rstrip(":.")


def main() -> None:
    """Rewrites the pages."""
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
    page = DOCS / "format.md"
    page.write_text(format_page(page.read_text(encoding="utf-8")), encoding="utf-8")
    readme = DOCS.parent / "README.md"
    readme.write_text(readme_page(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "llms.txt").write_text(llms_text(), encoding="utf-8")
    (DOCS / "images" / "terminal.svg").write_text(recording.recording(), encoding="utf-8")
    page = DOCS / "errors.md"
    page.write_text(errors_page(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
