"""What the commands show on a terminal, on one that can do little, and in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from converted import Command, save

CODE = "\x1b["


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with spectrograms of two classes."""
    rng = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        lengths = rng.integers(20, 60, 20).tolist()
        save(tmp_path / "spectrograms", {f"{kind}/{i:03}": np.zeros((n, 8), "f4") for i, n in enumerate(lengths)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def on_terminal(*words: str, columns: int = 80, **env: str) -> str:
    """All that a command writes to a terminal, standard output and standard error alike."""
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", columns and 24, columns, 0, 0))
    usual = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "npy2tfrecord", *words],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**usual, "TERM": "xterm-256color", **env},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            said += (piece := os.read(terminal, 1 << 16))
        except OSError:  # its other end is closed
            break
        if not piece:
            break
    process.wait()
    os.close(terminal)
    return said.decode().replace("\r\n", "\n")


def test_colors_are_for_terminals_that_have_them(here: Path) -> None:
    words = ("convert", "--no-fsync", "spectrograms", "out")
    assert f"{CODE}1mSplits{CODE}0m" in on_terminal(*words)
    assert CODE not in on_terminal("info", "out", NO_COLOR="1")
    assert CODE not in on_terminal("info", "out", TERM="dumb")
    assert CODE not in on_terminal("info", "out", "--color", "never")
    assert CODE in on_terminal("info", "out", "--color", "always", NO_COLOR="1")
    assert f"{CODE}1;31mnpy2tfrecord:{CODE}0m gone" in on_terminal("info", "gone")


@pytest.mark.parametrize("columns", [80, 120, 0])  # some terminals do not know their size
def test_a_terminal_shows_what_a_pipe_gets_and_the_bar(here: Path, command: Command, columns: int) -> None:
    shown = on_terminal("convert", "--no-fsync", "spectrograms", "out", columns=columns)
    piped = command.ok("convert", "--no-fsync", "spectrograms", "other").out.replace("other", "out")
    assert CODE not in piped
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain.endswith(piped)
    bars = plain.removesuffix(piped).strip("\n").split("\r")
    assert any(re.fullmatch(r"100%\|.*\| wrote \S+ kB in \S+ s, \S+ .B/s, 1 of 1 shard", bar) for bar in bars)
    assert max(map(len, bars)) in {(columns or 80) - 1, columns or 80}
    assert max(map(len, piped.splitlines())) <= 80


def test_json_and_errors_in_a_pipe_have_no_colors(here: Path, command: Command) -> None:
    assert CODE not in command("scan", "gone").err
    assert json.loads(command.ok("scan", "spectrograms", "--json").out)["files"] == 40
    assert CODE in command.ok("scan", "spectrograms", "--color", "always").out


def test_scan_is_a_profile_that_fits_a_screen(here: Path, command: Command) -> None:
    save(here / "spectrograms", {"cats/.hidden": np.ones(3)})
    said = command.ok("scan", "spectrograms").out
    assert said.startswith("40 files, ")
    assert re.search(r"^    axis 0  \d\d–\d\d  median \d\d  [▁▂▃▄▅▆▇█ ]+$", said, re.MULTILINE)
    assert "2 folders that may be classes: cats, dogs\n" in said
    assert "\nPassed over: 1 hidden\n" in said
    assert said.endswith("Convert it with\n  npy2tfrecord convert --labels dirs spectrograms OUT\n")
    assert len(said.splitlines()) <= 24
    assert max(map(len, said.splitlines())) <= 80


def test_scan_gives_the_size_and_the_command_of_the_conversion(here: Path, command: Command) -> None:
    save(here / "msk", {f"cats/{i:03}": np.zeros(4, "u1") for i in range(3)})
    (here / "spectrograms" / "dogs" / "000.npy").write_bytes(b"nothing")
    code, said, _ = command("scan", "--on-error", "skip", "--dtype", "a:float16", "a=spectrograms", "b=msk")
    assert code == 3
    assert "36 sources have a key that another feature lacks" in said
    line = said.splitlines()[-1]
    assert line == "  npy2tfrecord convert --on-error skip --dtype a:float16 --missing skip a=spectrograms b=msk OUT"
    size = re.search(r"^Result\n  (.*) in 1 shard$", said, re.MULTILINE)
    code, said, _ = command(*shlex.split(line)[1:])
    assert (code, size is not None) == (3, True)
    assert said.startswith(f"Wrote OUT: 3 examples in 1 shard, {size[1] if size else ''}\n")


def test_scan_says_what_does_not_fit(tmp_path: Path, command: Command) -> None:
    with open(tmp_path / "huge.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (1 << 31,)})
        file.truncate(file.tell() + (1 << 31))
    said = command.ok("scan", tmp_path).out
    assert "\nResult\n  does not fit: " in said
    assert "cut the array, or convert its rows with --rows" in said
    assert "Convert it with" not in said
