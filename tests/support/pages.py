"""Running the examples of a page in their order, and comparing what they print with what the page shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

import pytest
from converted import Command


def fenced(text: str) -> list[tuple[str, str]]:
    """The language and the text of each block of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run_blocks(
    blocks: Iterable[tuple[str, str]], command: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Run commands and Python in order. A block of text is what the Python before it prints."""
    said = None
    for language, text in blocks:
        if language == "console":
            for example in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                _check_command(command, example)
        elif language == "python":
            assert said is None, "what the Python before prints is missing"
            capsys.readouterr()
            exec(compile(text, name, "exec"), {})
            said = capsys.readouterr().out
        else:
            assert text == said
            said = None
    assert said is None


def _check_command(command: Command, example: str) -> None:
    """Run a command of one or several lines, and compare what it prints; `...` stands for any lines."""
    line, *expected = example.replace("\\\n", " ").splitlines()
    name, *words = shlex.split(line, comments=True)
    assert name == "npy2tfrecord"
    code, out, err = command(*words)
    pattern = "".join("(.*\n)*?" if text == "..." else re.escape(text + "\n") for text in expected)
    said = re.sub(r"\n\nRead it with\n(.*\n)+\Z", "\n", err + out)  # the same everywhere
    assert re.fullmatch(pattern, said), f"{line}\n{said}"
    assert code == (4 if expected[0].startswith("npy2tfrecord:") else 0)
