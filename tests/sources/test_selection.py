"""Which files are sources: globs, lists of files, links, and names of any bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import npy2tfrecord
from npy2tfrecord.errors import UsageError
from npy2tfrecord.sources.patterns import Selection

TREE = ["a", "b.x", "cats/1", "cats/2", "cats/old/1", "dogs/1", "dogs/old/1", "dogs/old/deep/3", "old"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return save(tmp_path / "d", {key: np.float32(0) for key in TREE})


def chosen(tree: Path, out: Path, **options: object) -> set[str]:
    npy2tfrecord.convert(tree, out, **options)
    return set(read_back(out))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": "cats"}, {"cats/1", "cats/2", "cats/old/1"}),
        ({"include": "cats/"}, {"cats/1", "cats/2", "cats/old/1"}),
        ({"include": "cats/*.npy"}, {"cats/1", "cats/2"}),
        ({"include": "1.npy"}, {"cats/1", "cats/old/1", "dogs/1", "dogs/old/1"}),
        ({"include": "/old"}, set()),
        ({"include": "/old.npy"}, {"old"}),
        ({"include": "old"}, {"cats/old/1", "dogs/old/1", "dogs/old/deep/3"}),
        ({"include": "d*/**/3.npy"}, {"dogs/old/deep/3"}),
        ({"include": "**/old/*"}, {"cats/old/1", "dogs/old/1", "dogs/old/deep/3"}),
        ({"include": "[ab]*"}, {"a", "b.x"}),
        ({"include": "[!ab]*.npy", "exclude": "[cd]*/"}, {"old"}),
        ({"include": ["a.npy", "old.npy"]}, {"a", "old"}),
        ({"exclude": "old/"}, {"a", "b.x", "cats/1", "cats/2", "dogs/1", "old"}),
        ({"exclude": "old"}, {"a", "b.x", "cats/1", "cats/2", "dogs/1", "old"}),
        ({"exclude": "old*"}, {"a", "b.x", "cats/1", "cats/2", "dogs/1"}),
        ({"exclude": "dogs/old"}, {"a", "b.x", "cats/1", "cats/2", "cats/old/1", "dogs/1", "old"}),
        ({"exclude": ["*/", "a.npy"]}, {"b.x", "old"}),
        ({"exclude": "?.npy"}, {"b.x", "old"}),
        ({"include": "cats", "exclude": "2.npy"}, {"cats/1", "cats/old/1"}),
        ({"include": "dogs", "exclude": "old"}, {"dogs/1"}),
    ],
)
def test_globs(tree: Path, tmp_path: Path, options: dict[str, str], expected: set[str]) -> None:
    if not expected:
        with pytest.raises(UsageError, match="no \\.npy"):
            chosen(tree, tmp_path / "out", **options)
        return
    assert chosen(tree, tmp_path / "out", **options) == expected


def test_globs_on_the_command_line(tree: Path, tmp_path: Path, command: Command) -> None:
    words = ("--include", "cats", "--include", "dogs", "--exclude", "old/", "--exclude", "2.npy")
    command.ok("convert", tree, tmp_path / "out", *words)
    assert set(read_back(tmp_path / "out")) == {"cats/1", "dogs/1"}
    assert "2 arrays" in command.ok("scan", tree, *words).out


def test_excluded_directories_are_not_looked_into(tree: Path, tmp_path: Path) -> None:
    (tree / "dogs" / "broken").symlink_to("nowhere")
    assert chosen(tree, tmp_path / "out", exclude="dogs/") == {key for key in TREE if not key.startswith("dogs")}


@pytest.mark.parametrize("pattern", ["", "/", "//"])
def test_empty_globs_are_refused(tree: Path, tmp_path: Path, command: Command, pattern: str) -> None:
    words = ("convert", tree, tmp_path / "out", "--exclude", pattern)
    command.refused(2, "pattern", words=words, out=tmp_path / "out")


def test_nothing_chosen_is_said(tree: Path, tmp_path: Path, command: Command) -> None:
    words = ("convert", tree, tmp_path / "out", "--include", "*.txt")
    command.refused(2, "no .npy or .npz file found", words=words, out=tmp_path / "out")


# --- the same as git -------------------------------------------------------------------------------

NAMES = ["a", "b", "ab", "a.npy", "b.npy", "-a", "a b", "[a]", "a*", "é"]
PARTS = ["a", "b", "ab", "*", "?", "**", "*.npy", "[ab]", "[!a]", "[^a]*", "[a-z]", "a?"]
PARTS += ["\\a", "\\*", "*b", "é", "[a", "[]a]*", "**b"]
GLOBS = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "", "/", "**/"]),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "/**"]),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of all short paths, in a git repository."""
    root = tmp_path_factory.mktemp("git")
    try:
        subprocess.run(["git", "init", "-q", "."], check=True, cwd=root, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not installed")
    files = [f"{x}/{y}/{z}.npy" for x in NAMES[:4] for y in NAMES[:6] for z in NAMES]
    files += [f"{x}/{y}.npy" for x in NAMES[4:] for y in NAMES] + [f"{x}.npy" for x in NAMES]
    for file in files:
        if not (root / file).parent.is_dir():
            (root / file).parent.mkdir(parents=True)
        (root / file).touch()
    return root


def kept_by_git(root: Path, patterns: list[str]) -> set[str]:
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "exclude").write_text("".join(f"{p}\n" for p in patterns))
    command = ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, cwd=root, capture_output=True).stdout
    return set(os.fsdecode(listed).split("\0")) - {""}


def kept_by_us(root: Path, patterns: list[str]) -> set[str]:
    selection = Selection.of((), patterns)
    kept = set()
    for directory, folders, files in os.walk(os.fsencode(root)):
        below = os.path.relpath(directory, os.fsencode(root))
        prefix = b"" if below == b"." else below + b"/"
        folders[:] = [f for f in folders if f != b".git" and selection.wants_directory(prefix + f)]
        kept |= {os.fsdecode(prefix + f) for f in files if selection.wants_file(prefix + f)}
    return kept


@settings(max_examples=150)
@example(patterns=["**b/**"])
@example(patterns=["?**/b.npy", "/a/**/b"])
@given(patterns=st.lists(GLOBS, min_size=1, max_size=2))
def test_globs_choose_what_git_chooses(repository: Path, patterns: list[str]) -> None:
    assume(not any("[a/" in p or p.endswith("[a") for p in patterns))  # git: an open bracket matches nothing
    assert kept_by_us(repository, patterns) == kept_by_git(repository, patterns)


# --- lists of files --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
@pytest.mark.parametrize("last", [True, False])
def test_files_from(tree: Path, tmp_path: Path, command: Command, end: bytes, last: bool) -> None:
    wanted = [b"dogs/1.npy", b"./a.npy", b"cats//old/./1.npy", b"a.npy", b""]
    file = tmp_path / "list"
    file.write_bytes(end.join(wanted) + end * last)
    command.ok("convert", tree, tmp_path / "out", "--files-from", file)
    assert set(read_back(tmp_path / "out")) == {"a", "cats/old/1", "dogs/1"}
    assert chosen(tree, tmp_path / "again", files_from=file) == {"a", "cats/old/1", "dogs/1"}


def test_files_from_the_order_does_not_matter(tree: Path, tmp_path: Path) -> None:
    made = []
    for name, listed in (("1", sorted(TREE)), ("2", sorted(TREE, reverse=True))):
        (tmp_path / "list").write_text("".join(f"{key}.npy\n" for key in listed))
        npy2tfrecord.convert(tree, tmp_path / name, files_from=tmp_path / "list")
        made.append((tmp_path / name / "manifest.json").read_bytes())
    npy2tfrecord.convert(tree, tmp_path / "all")
    assert made[0] == made[1]
    assert set(read_back(tmp_path / "1")) == set(read_back(tmp_path / "all"))


def test_files_from_standard_input(tree: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "npy2tfrecord", "convert", "--files-from", "-", str(tree), str(tmp_path / "out")]
    subprocess.run(command, input=b"a.npy\0dogs/1.npy\0", check=True, capture_output=True)
    assert set(read_back(tmp_path / "out")) == {"a", "dogs/1"}


def test_files_from_goes_with_globs(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("".join(f"{key}.npy\n" for key in TREE))
    expected = {"a", "b.x", "cats/1", "cats/2", "dogs/1"}
    assert chosen(tree, tmp_path / "1", files_from=tmp_path / "list", exclude=["old", "old.npy"]) == expected
    assert chosen(tree, tmp_path / "2", files_from=tmp_path / "list", exclude=["old/", "old.npy"]) == expected


def test_files_from_is_below_every_source(tmp_path: Path) -> None:
    for name in "xy":
        save(tmp_path / name, {"1": 1.0, "2": 2.0})
    (tmp_path / "list").write_text("2.npy\n")
    npy2tfrecord.convert({"x": tmp_path / "x", "y": tmp_path / "y"}, tmp_path / "out", files_from=tmp_path / "list")
    assert {key: list(e.arrays) for key, e in read_back(tmp_path / "out").items()} == {"2": ["x", "y"]}


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"none.npy\n", 4, "none.npy: the file is gone"),
        (b"cats\n", 4, "expected a .npy or .npz file"),
        (b"../d/a.npy\n", 2, "entry 1: '../d/a.npy': expected a path below the source"),
        (b"a.npy\n/etc/passwd.npy\n", 2, "entry 2"),
        (b"", 2, "no .npy or .npz file found"),
    ],
)
def test_bad_lists_are_refused(
    tree: Path, tmp_path: Path, command: Command, content: bytes, code: int, message: str
) -> None:
    (tmp_path / "list").write_bytes(content)
    words = ("convert", tree, tmp_path / "out", "--files-from", tmp_path / "list")
    command.refused(code, message, words=words, out=tmp_path / "out")


def test_list_that_is_not_there(tree: Path, tmp_path: Path, command: Command) -> None:
    words = ("convert", tree, tmp_path / "out", "--files-from", tmp_path / "none")
    command.refused(2, "none: No such file", words=words, out=tmp_path / "out")


# --- links -----------------------------------------------------------------------------------------


def test_links_to_files_are_files(tree: Path, tmp_path: Path) -> None:
    (tree / "link.npy").symlink_to("cats/1.npy")
    assert "link" in chosen(tree, tmp_path / "out")


def test_links_to_directories_are_followed_only_if_asked(tree: Path, tmp_path: Path, command: Command) -> None:
    save(tmp_path / "elsewhere", {"x": np.float32(1)})
    (tree / "more").symlink_to(tmp_path / "elsewhere")
    out = tmp_path / "out"
    command.refused(4, "d/more: a link to a directory", "--follow-symlinks", words=("convert", tree, out), out=out)
    command.ok("convert", tree, out, "--follow-symlinks")
    assert set(read_back(out)) == {*TREE, "more/x"}
    assert chosen(tree, tmp_path / "again", exclude="more") == set(TREE)
    assert command("convert", tree, tmp_path / "third", "--on-error", "skip").code == 3


@pytest.mark.parametrize("target", [".", "..", "../cats", "../../d"])
def test_loops_end(tree: Path, tmp_path: Path, command: Command, target: str) -> None:
    (tree / "cats" / "loop").symlink_to(target)
    words = ("convert", tree, tmp_path / "out", "--follow-symlinks")
    command.refused(4, "loop", "a link to a directory that it is in itself", words=words, out=tmp_path / "out")
    assert command(*words, "--on-error", "skip").code == 3
    assert set(read_back(tmp_path / "out")) == set(TREE)
    command.ok(*words[:2], tmp_path / "third", "--follow-symlinks", "--exclude", "loop")
    assert set(read_back(tmp_path / "third")) == set(TREE)


def test_two_links_to_one_directory_are_no_loop(tree: Path, tmp_path: Path) -> None:
    (tree / "c1").symlink_to("cats/old")
    (tree / "c2").symlink_to("cats/old")
    assert chosen(tree, tmp_path / "out", follow_symlinks=True) == {*TREE, "c1/1", "c2/1"}


@pytest.mark.parametrize("name", ["gone.npy", "gone"])
def test_broken_links_are_no_secret(tree: Path, tmp_path: Path, command: Command, name: str) -> None:
    (tree / name).symlink_to("nowhere")
    out = tmp_path / "out"
    command.refused(4, f"d/{name}: a broken link", words=("convert", tree, out), out=out)
    command.ok("convert", tree, out, "--exclude", name)


# --- names -----------------------------------------------------------------------------------------

STRANGE = [b"\xff\xfe", b"new\nline", b"-dash", b"--rows", b" space ", b"#1", b"a=b", b"tab\t", b"'q\"", b"*"]
STRANGE += [b"\xc3\xa9"]


def write(path: bytes, number: int) -> None:
    with open(path, "wb") as file:
        np.save(file, np.int64(number))


def content(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_names_of_any_bytes(tmp_path: Path, command: Command) -> None:
    root = os.fsencode(tmp_path / "d")
    for folder in (b"", b"/sub\xff\n-"):
        os.makedirs(root + folder, exist_ok=True)
        for i, name in enumerate(STRANGE):
            write(root + folder + b"/" + name + b".npy", i)
    command.ok("convert", tmp_path / "d", tmp_path / "out")
    found = {os.fsencode(key): int(e.arrays["array"]) for key, e in read_back(tmp_path / "out").items()}
    assert found == {folder + name: i for folder in (b"", b"sub\xff\n-/") for i, name in enumerate(STRANGE)}
    npy2tfrecord.export(tmp_path / "out", tmp_path / "back")
    for folder in (b"/", b"/sub\xff\n-/"):
        for name in STRANGE:
            file = folder + name + b".npy"
            assert content(os.fsencode(tmp_path / "back") + file) == content(root + file)
    listed = b"\0".join(name + b".npy" for name in STRANGE[:4])
    (tmp_path / "list").write_bytes(listed)
    command.ok("convert", tmp_path / "d", tmp_path / "some", "--files-from", tmp_path / "list")
    assert {os.fsencode(key) for key in read_back(tmp_path / "some")} == set(STRANGE[:4])


def test_globs_match_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "d")
    os.makedirs(root)
    for name in (b"\xff1", b"\xff2", b"a"):
        write(root + b"/" + name + b".npy", 1)
    for glob in ("\udcff*", "?[12].npy", "[!a]*"):
        found = chosen(tmp_path / "d", tmp_path / f"out{len(glob)}", include=glob)
        assert found == {"\udcff1", "\udcff2"}


def test_sources_and_outputs_that_start_with_a_dash(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("-d"), {"-1": 1.0})
    command.ok("convert", "--", "-d", "-out")
    command.ok("convert", "--num-shards", "1", "--", "./-d", "-again")
    command.ok("convert", "./-d", "./-third", "--no-shuffle")
    for out in ("-out", "-again", "-third"):
        assert list(read_back(Path(out))) == ["-1"]


def test_options_may_stand_anywhere(tree: Path, tmp_path: Path, command: Command) -> None:
    command.ok("convert", tree, "--include", "cats", tmp_path / "out", "--num-shards", "2")
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) == 2


def test_messages_show_strange_names_escaped(tmp_path: Path, command: Command) -> None:
    root = os.fsencode(tmp_path / "d")
    os.makedirs(root)
    with open(root + b"/\xff\x1b[31m\n.npy", "wb") as file:
        file.write(b"no array")
    words = ("convert", tmp_path / "d", tmp_path / "out")
    result = command.refused(4, "\\xff\\x1b[31m\\x0a.npy", words=words, out=tmp_path / "out")
    assert "\x1b" not in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "No such file"),
        (lambda p: p.write_text("x"), "expected a directory, a .npy or a .npz file"),
    ],
)
def test_sources_that_are_none(tmp_path: Path, command: Command, make: object, message: str) -> None:
    make(tmp_path / "file.txt")  # type: ignore[operator]
    words = ("convert", tmp_path / "file.txt", tmp_path / "out")
    command.refused(2, "file.txt", message, words=words, out=tmp_path / "out")
