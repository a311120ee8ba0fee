"""The command as a shell runs it: exit codes, what it prints where, and what it leaves."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import resource
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import same_bits, tree, values_of, write_npy
from converted import read_back

from npy2tfrecord.commands import main

COMMAND = [sys.executable, "-W", "error", "-m", "npy2tfrecord"]
NAMES = ("a", "b/c", "b/d", "e")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with a few arrays in `source`."""
    for i, name in enumerate(NAMES):
        write_npy(tmp_path / "source" / f"{name}.npy", values_of("float32", (i + 2, 3), i))
    return tmp_path


def run(here: Path, *words: str | bytes, code: int = 0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory; it must end with `code` and never show a traceback."""
    done = subprocess.run(
        [*COMMAND, *words], cwd=here, stderr=subprocess.PIPE, check=False, timeout=300,
        **{"text": True, "stdout": subprocess.PIPE, **kwargs},
    )  # fmt: skip
    assert done.returncode == code, done
    assert "Traceback" not in str(done.stderr)
    return done


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    assert line.startswith("npy2tfrecord: ")
    return line


# --- exit codes ---------------------------------------------------------------------------------


def test_done_is_0_and_so_is_nothing_left_to_do(here: Path) -> None:
    assert "4 examples in 1 shard" in run(here, "convert", "source", "out").stdout
    before = {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*")}
    again = run(here, "convert", "source", "out")
    assert again.stdout == "out: nothing left to do, 4 examples in 1 shard are there\n"
    assert before == {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "usage: npy2tfrecord COMMAND"),
        (("frob",), "no command 'frob'"),
        (("convert",), "usage: npy2tfrecord convert"),
        (("convert", "source"), "arguments are required: OUT"),
        (("convert", "source", "out", "--frob"), "unrecognized arguments: --frob"),
        (("convert", "source", "out", "--compress", "gzip"), "unrecognized arguments"),  # no abbreviations
        (("convert", "source", "out", "--jobs", "many"), "invalid int value"),
        (("convert", "source", "out", "--jobs", "0"), "jobs 0"),
        (("convert", "source", "out", "--num-shards", "0"), "num_shards 0"),
        (("convert", "source", "out", "--num-shards", "10000000"), "expected 1 to 9999999"),
        (("convert", "source", "out", "--shard-size", "big"), "size 'big'"),
        (("convert", "source", "out", "--split", "train=0.5"), "add up to 0.5"),
        (("convert", "source", "out", "--seed", "-1"), "seed -1"),
        (("convert", "gone", "out"), "source gone: No such file"),
        (("convert", "source/x.txt", "out"), "source/x.txt"),
        (("convert", "--include", "*.nothing", "source", "out"), "no .npy or .npz file found"),
        (("convert", "key=source", "out"), "feature name 'key' is taken"),
        (("scan", "gone"), "source gone"),
        (("info", "source"), "it is no data set"),
        (("verify", "gone"), "gone: no such directory"),
        (("export", "gone", "dir"), "gone: no such directory"),
        (("convert", "source", "out", "--backend", "nothing"), "backend 'nothing'"),
    ],
)
def test_usage_is_2_and_writes_nothing(here: Path, words: tuple[str, ...], message: str) -> None:
    done = run(here, *words, code=2)
    assert done.stdout == ""
    assert message in done.stderr
    assert [path.name for path in here.iterdir()] == ["source"]


def test_skipped_sources_are_3_and_bad_input_is_4(here: Path) -> None:
    (here / "source" / "bad.npy").write_bytes(b"nothing")
    assert only_line(run(here, "convert", "source", "out", code=4).stderr).startswith(
        "npy2tfrecord: source/bad.npy: text, which begins with 'nothing'; expected a .npy file"
    )
    assert not (here / "out").exists()
    assert "Skipped 1 source:\n  source/bad.npy: " in run(here, "scan", "--on-error=skip", "source", code=3).stdout
    done = run(here, "convert", "--on-error=skip", "source", "out", code=3)
    assert "Skipped 1 source:\n  source/bad.npy: text, which begins" in done.stdout
    run(here, "convert", "--on-error=skip", "source", "out", code=3)
    assert read_back(here / "out").keys() == set(NAMES)


def limit_files_to(size: int) -> Any:
    """Makes every write beyond `size` bytes of a file fail, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("words", [(), ("--compression", "gzip"), ("--no-fsync",)])
def test_output_that_cannot_be_written_is_5_and_the_next_run_goes_on(tmp_path: Path, words: tuple[str, ...]) -> None:
    for i in range(40):
        size = 100_000 if i == 20 else 500
        write_npy(tmp_path / "source" / f"{i:02}.npy", values_of("uint8", (size,), i))
    arguments = ("convert", "source", "out", "--no-shuffle", "--shard-size", "8kB", "--jobs", "1", *words)
    done = run(tmp_path, *arguments, code=5, preexec_fn=limit_files_to(50_000))
    assert "File too large" in only_line(done.stderr)
    assert "Run the same command again to resume." in done.stderr
    written = tree(tmp_path / "out")
    assert "manifest.json" not in written
    assert {name for name in written if name.startswith(".npy2tfrecord/")} <= {
        f".npy2tfrecord/{name}" for name in ("plan.json", "journal", "lock")
    }
    run(tmp_path, *arguments)
    run(tmp_path, *arguments[:2], "straight", *arguments[3:])
    finished = tree(tmp_path / "out")
    assert finished == tree(tmp_path / "straight")
    shards = {name for name in written if name.endswith((".tfrecord", ".idx", ".keys"))}
    assert any(name.endswith(".tfrecord") for name in shards)
    for name in shards:
        assert written[name] == finished[name]
    run(tmp_path, "verify", "out")


def test_a_result_that_cannot_be_printed_is_5_and_the_data_set_whole(here: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(here, "convert", "source", "out", code=5, stdout=full)
    assert only_line(done.stderr) == (
        "npy2tfrecord: all is done, but standard output took no result: No space left on device"
    )
    run(here, "verify", "out")


def test_directory_that_cannot_be_made_is_5(here: Path) -> None:
    done = run(here, "convert", "source", "/proc/nothing/can/be/made/here", code=5)
    assert "cannot make the directory" in only_line(done.stderr)


def test_other_files_other_options_and_other_runs_are_6(here: Path) -> None:
    assert "holds other files (a.npy, b, e.npy)" in run(here, "convert", "source", "source", code=6).stderr
    assert "is a file" in run(here, "convert", "source", "source/a.npy", code=6).stderr
    run(here, "convert", "source", "out")
    before = tree(here / "out")
    done = run(here, "convert", "--seed", "7", "source", "out", code=6)
    assert "seed is 0 there, 7 now" in only_line(done.stderr)
    write_npy(here / "source" / "new.npy", values_of("float32", (1, 3), 9))
    assert "4 source files then, 5 now" in run(here, "convert", "source", "out", code=6).stderr
    assert tree(here / "out") == before


def test_output_where_another_run_is_at_work_is_6(here: Path) -> None:
    (here / "out" / ".npy2tfrecord").mkdir(parents=True)
    with (here / "out" / ".npy2tfrecord" / "lock").open("w") as lock:
        lock.write("process 1 on \x1b[31mmoon\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(here, "convert", "source", "out", code=6)
        assert only_line(done.stderr) == ("npy2tfrecord: out: another run is at work here (process 1 on \\x1b[31mmoon)")
    run(here, "convert", "source", "out")


def test_damage_is_7_and_says_where(here: Path) -> None:
    run(here, "convert", "source", "out", "--no-shuffle")
    assert run(here, "verify", "out").stdout == "out: all 4 examples in 1 shard are whole\n"
    shard = here / "out" / "train-00000-of-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    done = run(here, "verify", "out", code=7)
    assert "train-00000-of-00001.tfrecord: record 3 at offset " in done.stderr
    (here / "out" / "manifest.json").write_bytes((here / "out" / "manifest.json").read_bytes()[:-2])
    for command in ("info", "verify"):
        assert "manifest.json" in only_line(run(here, command, "out", code=7).stderr)


# --- output and options -------------------------------------------------------------------------


def test_results_are_json_if_asked(here: Path) -> None:
    converted = json.loads(run(here, "convert", "--json", "source", "out").stdout)
    assert converted == json.loads(run(here, "convert", "--json", "source", "out").stdout)
    assert converted.pop("passed_over") == {}
    assert converted == json.loads((here / "out" / "manifest.json").read_bytes())
    assert converted == json.loads(run(here, "info", "out", "--json").stdout)
    assert json.loads(run(here, "verify", "--json", "out").stdout) == {"examples": 4, "shards": 1, "whole": True}
    scanned = json.loads(run(here, "scan", "--json", "source").stdout)
    assert scanned["files"] == scanned["features"]["array"].pop("sources") == 4
    assert scanned["features"] == converted["features"]
    assert json.loads(run(here, "export", "--json", "out", "back").stdout) == {"files": 4}
    for name in NAMES:
        assert (here / "back" / f"{name}.npy").read_bytes()[128:] == (here / "source" / f"{name}.npy").read_bytes()[
            128:
        ]


def test_info_shows_features_shapes_splits_and_shards(here: Path) -> None:
    run(here, "convert", "source", "out", "--num-shards", "2", "--labels", "dirs", "--include", "b")
    text = run(here, "info", "--shards", "out").stdout
    for part in (
        "2 examples in 2 shards",
        "array  float32  (3–4, 3)",
        "axis 0:",
        "█",
        "1 class",
        "0 b  2",
        "train",
    ):
        assert part in text
    assert "train-00001-of-00002.tfrecord  1 example" in text


def test_dry_run_reports_and_writes_nothing(here: Path) -> None:
    before = tree(here)
    done = run(here, "convert", "--dry-run", "source", "out", "--num-shards", "2")
    assert done.stdout.startswith("Would write to out: 4 examples in 2 shards")
    planned = json.loads(run(here, "convert", "--dry-run", "--json", "source", "out", "--num-shards", "2").stdout)
    assert tree(here) == before
    assert not (here / "out").exists()
    written = json.loads(run(here, "convert", "--json", "source", "out", "--num-shards", "2").stdout)
    assert "nothing left to do" in run(here, "convert", "--dry-run", "source", "out", "--num-shards", "2").stdout
    for manifest in (planned, written):
        del manifest["hash"]
        for shard in manifest["splits"]["train"]["shards"]:
            del shard["hash"]
            del shard["tail"]
    assert planned == written


def test_overwrite_replaces_all_of_an_earlier_data_set(here: Path) -> None:
    run(here, "convert", "source", "out", "--num-shards", "4", "--labels", "dirs", "--include", "b")
    run(here, "convert", "source", "out", "--num-shards", "3", "--overwrite")
    run(here, "convert", "source", "fresh", "--num-shards", "3")
    assert tree(here / "out") == tree(here / "fresh")


def test_overwrite_keeps_files_of_others(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").write_text("mine")
    run(here, "convert", "source", "out", code=6)
    run(here, "convert", "source", "out", "--overwrite")
    assert (here / "out" / "thesis.txt").read_text() == "mine"


def test_lost_shard_is_written_again(here: Path) -> None:
    run(here, "convert", "source", "out", "--num-shards", "3")
    before = tree(here / "out")
    (here / "out" / "train-00001-of-00003.tfrecord").unlink()
    (here / "out" / "index" / "train-00002-of-00003.idx").unlink()
    run(here, "convert", "source", "out", "--num-shards", "3")
    assert tree(here / "out") == before


def test_options_may_stand_anywhere(here: Path) -> None:
    run(here, "convert", "source", "one", "--num-shards", "2", "--seed=5")
    run(here, "convert", "--num-shards=2", "source", "--seed", "5", "two")
    run(here, "convert", "--seed", "5", "--num-shards", "2", "source", "--", "three")
    assert tree(here / "one") == tree(here / "two") == tree(here / "three")


@pytest.mark.parametrize("name", [b"-x.npy", b"--.npy", b"--seed=1.npy", b"a=b.npy", b"\xff\x1b[2J\n.npy", b" .npy"])
def test_source_may_have_any_name(here: Path, name: bytes) -> None:
    os.rename(here / "source" / "a.npy", os.fsencode(here) + b"/" + name)
    done = run(here, "convert", "--", name, b"-out\xfe", text=False)
    assert os.listdir(os.fsencode(here / os.fsdecode(b"-out\xfe"))).count(b"manifest.json") == 1
    assert b"\x1b" not in done.stdout
    assert read_back(here / os.fsdecode(b"-out\xfe")).keys() == {os.fsdecode(name[:-4])}


def test_words_after_two_dashes_are_arguments_also_behind_an_option_that_takes_many(here: Path) -> None:
    run(here, "convert", "source", "out")
    os.rename(here / "source", here / "-s")
    (here / "other").mkdir()
    run(here, "verify", "--source", "./-s", "--", "out")
    run(here, "verify", "--source", "./-s", "--json", "--", "out")
    run(here, "convert", "--include", "*.npy", "--jobs", "1", "--", "-s", "-out")
    run(here, "convert", "./-s/a.npy", "--rows", "--", "-s/e.npy", "two")  # arguments on both sides
    assert len(read_back(here / "two")) == 2 + 5
    run(here, "info", "--", "-out")
    run(here, "export", "--", "-out", "-back")
    assert (here / "-back" / "b" / "c.npy").is_file()
    done = run(here, "verify", "--source", "./-s", "out", code=2)
    assert "OUT is missing; it comes before --source, or after --" in done.stderr


def test_a_key_may_start_with_a_dash(here: Path) -> None:
    os.rename(here / "source" / "a.npy", here / "source" / "-a.npy")
    run(here, "convert", "source", "out")
    assert "-a: record" in run(here, "show", "out", "--", "-a").stdout


def test_options_after_two_dashes_are_arguments(here: Path) -> None:
    assert "source --seed: No such file" in run(here, "convert", "source", "--", "--seed", "out", code=2).stderr


def test_paths_may_be_absolute_relative_or_end_in_slashes(here: Path) -> None:
    (here / "below").mkdir()
    run(here, "convert", "source", "one")
    run(here, "convert", f"{here}/source///", f"{here}/two/")
    run(here / "below", "convert", "../source/.", "../three//")
    run(here / "source", "convert", ".", "../four/five/six")
    assert tree(here / "one") == tree(here / "two") == tree(here / "three") == tree(here / "four" / "five" / "six")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_terminal_of_any_encoding_shows_it(here: Path, encoding: str) -> None:
    write_npy(here / "source" / "日本.npy", values_of("float32", (9, 3), 0))
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    run(here, "convert", "source", "out", env=environment, text=False)
    text = run(here, "info", "out", env=environment, text=False).stdout.decode(encoding)
    assert f"array  float32  ({'2–9' if encoding == 'utf-8' else '2-9'}, 3)" in text
    assert ("█" if encoding == "utf-8" else "##") in text
    (here / "source" / "日本.npy").write_bytes(b"")
    done = run(here, "scan", "--on-error", "skip", "source", env=environment, text=False, code=3)
    shown = "日本" if encoding == "utf-8" else "\\u65e5\\u672c"
    assert f"source/{shown}.npy" in done.stdout.decode(encoding)
    for words in (("--help",), ("convert", "--help"), ("show", "out", "a")):
        run(here, *words, env=environment, text=False)


def test_reader_that_leaves_early_is_no_error(here: Path) -> None:
    run(here, "convert", "source", "out")
    process = subprocess.Popen(
        [*COMMAND, "info", "--json", "out"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


# --- progress -----------------------------------------------------------------------------------

# Before the fourth of its shards gets its name, it waits for something on standard input, or its end.
HELD = """
import os, sys
from npy2tfrecord import syscalls
from npy2tfrecord.commands import main, progress
progress._LINE_SECONDS = 0
plain, shards = syscalls.rename, []
def rename(old, new):
    if new.endswith(".tfrecord"):
        shards.append(new)
        if len(shards) == 4:
            os.read(0, 1)
    plain(old, new)
syscalls.rename = rename
sys.exit(main.main(sys.argv[1:]))
"""


def held(here: Path, *words: str, stderr: int, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A conversion of eight shards that waits for its standard input when three are written."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HELD, "convert", "source", "out", "--num-shards", "8", *words],
        cwd=here, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr,
    )  # fmt: skip


def read_all(handle: int) -> Iterator[str]:
    """What comes from a terminal until it is closed."""
    while select.select([handle], [], [], 120)[0]:
        try:
            data = os.read(handle, 4096)
        except OSError:  # the other end is closed
            return
        if not data:
            return
        yield data.decode("utf-8", "replace")
    raise AssertionError("nothing came for two minutes")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for i in range(8):
        write_npy(tmp_path / "source" / f"{i}.npy", values_of("float32", (50, 3), i))
    return tmp_path


@pytest.mark.parametrize("columns", [80, 0])  # 0: it does not know
def test_bar_moves_on_a_terminal(many: Path, columns: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    process = held(many, stdin=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    assert process.stdin is not None
    assert process.stdout is not None
    text = ""
    for piece in read_all(ours):
        text += piece
        if "3 of 8 shards" in text:  # it shows them before the rest is written
            process.stdin.close()
    os.close(ours)
    process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0
    shares = [int(share) for share in re.findall(r"(\d+)%\|", text)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 100
    assert any(0 < share < 100 for share in shares)
    assert "8 of 8 shards" in text


@pytest.mark.parametrize("words", [("--quiet",), ()])
def test_nothing_is_said_where_nobody_looks(many: Path, words: tuple[str, ...]) -> None:
    if words:  # quiet even on a terminal
        ours, theirs = pty.openpty()
        process = held(many, *words, stderr=theirs)
        os.close(theirs)
        assert "".join(read_all(ours)) == ""
        os.close(ours)
    else:
        process = held(many, stderr=subprocess.PIPE)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
    assert process.stdout is not None
    assert b"Wrote out" in process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0


def test_progress_is_json_lines_if_asked(many: Path) -> None:
    process = held(many, "--progress", "json", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["shards_done"] == 3:  # it says so before the rest is written
            process.stdin.close()
    process.stderr.close()
    assert b"Wrote out" in process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0
    assert lines[0]["bytes_done"] == lines[0]["shards_done"] == 0
    size = sum(path.stat().st_size for path in (many / "out").glob("*.tfrecord"))
    assert lines[-1]["bytes_done"] == lines[-1]["bytes_total"] == size
    assert lines[-1]["shards_done"] == lines[-1]["shards_total"] == 8
    for name in ("seconds", "bytes_done", "shards_done"):
        assert [line[name] for line in lines] == sorted(line[name] for line in lines)


# --- help and the lines to read it with ---------------------------------------------------------


@pytest.mark.parametrize("words", [(), *((name,) for name in main.COMMANDS)])
def test_help_needs_no_numpy(here: Path, words: tuple[str, ...]) -> None:
    code = f"""
import sys
from npy2tfrecord.commands.main import main
try:
    code = main({[*words, "--help"]})
except SystemExit as end:
    code = end.code
loaded = {{"numpy", "joblib", "tqdm", "crc32c", "tensorflow"}} & set(sys.modules)
sys.exit(code or (str(loaded) if loaded else 0))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exit codes:" in done.stdout


def test_version_is_printed(here: Path) -> None:
    assert re.fullmatch(r"npy2tfrecord \d+\.\d+\.\d+\S*\n", run(here, "--version").stdout)


def test_lines_of_python_that_the_summary_ends_with_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = 'o\'ut "x" é\\n'
    done = run(here, "convert", "source", name, "--split", "b=0.5,a-1=0.5")
    title, *lines = done.stdout.splitlines()[-4:]
    assert title == "Read it with"
    assert all(line.startswith("    ") for line in lines)
    script = "\n".join(line.removeprefix("    ") for line in lines)
    assert script.count("\n") == 2
    monkeypatch.chdir(here)
    with contextlib.redirect_stdout(io.StringIO()) as read:  # a process of its own would import TensorFlow once more
        exec(compile(script, "<the summary>", "exec"), {})
    shapes = [tuple(map(int, re.findall(r"\d+", line))) for line in read.getvalue().splitlines()]
    manifest = json.loads((here / name / "manifest.json").read_bytes())
    assert sum(shape[0] for shape in shapes) == manifest["splits"]["b"]["examples"]
    assert all(len(shape) == 3 and shape[2] == 3 for shape in shapes)


def test_values_are_what_was_there(here: Path) -> None:
    run(here, "convert", "source", "out")
    for key, example in read_back(here / "out").items():
        assert same_bits(example.arrays["array"], np.load(here / "source" / f"{key}.npy"))
