"""What is found below a directory, in which order, and that nothing there is dropped in silence."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import npy_header, values_of, write_npy
from converted import Command, read_back
from disorder import shuffle_directories
from hypothesis import given, settings
from hypothesis import strategies as st

import npy2tfrecord
from npy2tfrecord import syscalls
from npy2tfrecord.errors import InputError, UsageError
from npy2tfrecord.planning import feature_summary
from npy2tfrecord.planning.feature_summary import join_histograms, make_histogram

ARRAY = np.arange(6, dtype="<f4").reshape(2, 3)


def plant(root: Path, *names: str | bytes) -> Path:
    """A small file of each name below `root`."""
    for name in names:
        write_npy(root / os.fsdecode(name), ARRAY)
    return root


def keys_of(out: Path) -> list[str]:
    """The keys in the order of writing."""
    return list(read_back(out))


def problems_of(source: Path, **options: Any) -> dict[str, str]:
    """The problems that a scan with --on-error skip reports, by the path below the source."""
    report = npy2tfrecord.scan(source, on_error="skip", **options)
    return {os.fsdecode(p.where).removeprefix(f"{source}/"): p.problem for p in report.problems}


# --- finding ------------------------------------------------------------------------------------


def test_finds_every_array_however_deep(tmp_path: Path) -> None:
    names = [
        "a.npy",
        "b/c/d/e.npy",
        "/".join(["deep"] * 300) + "/x.npy",
        "x.npy/y.npy/z.npy",
    ]
    plant(tmp_path / "s", *names)
    for other in ("a.npy.txt", "c.npy~", "npy", "d.npx"):
        (tmp_path / "s" / other).write_bytes(b"no array")
    npy2tfrecord.convert(tmp_path / "s", tmp_path / "out", fsync=False)
    assert set(keys_of(tmp_path / "out")) == {name.removesuffix(".npy") for name in names}


def test_directory_named_like_an_array_is_searched(tmp_path: Path) -> None:
    plant(tmp_path / "s", "x.npy/1.npy", "y.npz/2.npy")
    (tmp_path / "s" / "empty.npy").mkdir()
    npy2tfrecord.convert(tmp_path / "s", tmp_path / "out", fsync=False, shuffle=False)
    assert keys_of(tmp_path / "out") == ["x.npy/1", "y.npz/2"]


@pytest.mark.parametrize("seed", range(5))
def test_order_is_that_of_the_names_not_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    names = ["b.npy", "a.npy", "B.npy", "a/2.npy", "a/10.npy", "a/1.npy", "a-b/1.npy", "Z/q.npy", "a/b/c.npy", "é.npy"]
    plant(tmp_path / "s", *names)
    shuffle_directories(monkeypatch, seed)
    npy2tfrecord.convert(tmp_path / "s", tmp_path / "out", fsync=False, shuffle=False)
    assert keys_of(tmp_path / "out") == ["B", "a", "b", "é", "Z/q", "a/1", "a/10", "a/2", "a/b/c", "a-b/1"]


ODD_NAMES = [
    *(
        b"\xff\xfe",
        b"new\nline",
        b"\x1b[31mred\x1b[0m",
        b"-rf",
        b"--",
        b" space ",
        b"tab\t",
        b"'\"`$(x)",
        b"a=b",
        b"#7",
    ),
    *(b"x" * 251, "日本語".encode(), b"\xc3", b"%s %d", b"*?[a]", b"a\\b", b"a...", b"\x01\x7f\x80", "\u2028".encode()),
]


def test_any_name_of_a_file_comes_back_as_the_key(tmp_path: Path, command: Command) -> None:
    names = [*(name + b".npy" for name in ODD_NAMES), *(b"\xff\n/" + name + b".npy" for name in ODD_NAMES)]
    plant(tmp_path / "s", *names)
    result = command.ok("convert", tmp_path / "s", tmp_path / "out")
    assert {os.fsencode(key) + b".npy" for key in keys_of(tmp_path / "out")} == {*names}
    assert all(line.isprintable() for line in result.out.splitlines())


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_can_be_shown_in_an_error(tmp_path: Path, command: Command, name: bytes) -> None:
    path = tmp_path / "s" / os.fsdecode(name + b".npy")
    write_npy(path, ARRAY).write_bytes(b"no array")
    result = command("convert", tmp_path / "s", tmp_path / "out")
    assert result.code == 4
    (line,) = result.err.splitlines()
    assert line.isprintable()
    assert "text, which begins with 'no array'" in line
    result = command("scan", "--json", "--on-error", "skip", plant(tmp_path / "s", "good.npy"))
    assert result.code == 3
    assert len(json.loads(result.out)["skipped"]) == 1


# --- what is no array ---------------------------------------------------------------------------


def test_unreadable_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "s", "a.npy", "locked/b.npy")
    real = os.scandir

    def scandir(path: bytes) -> Any:
        if path.rstrip(b"/").endswith(b"locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="locked/: cannot look into the directory: Permission denied"):
        npy2tfrecord.convert(tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(problems_of(tmp_path / "s")) == ["locked/"]


def test_directory_that_fails_halfway_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "s", "a.npy", "bad/b.npy", "bad/c.npy")
    real = os.scandir

    class Failing:
        def __init__(self, path: bytes) -> None:
            self._entries = real(path)
            self._fails = path.rstrip(b"/").endswith(b"bad")

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self._entries.close()

        def __iter__(self) -> Any:
            for number, entry in enumerate(self._entries):
                if self._fails and number == 1:
                    raise OSError(5, "Input/output error")
                yield entry

    monkeypatch.setattr(os, "scandir", Failing)
    assert "Input/output error" in problems_of(tmp_path / "s")["bad/"]


def test_directory_whose_handle_is_stale_is_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "s", "a.npy", "moved/b.npy", "moved/c.npy")
    real, stale = os.scandir, [1, 0]  # how many entries are read before the error, each time

    class Stale:
        def __init__(self, path: bytes) -> None:
            self._entries = real(path)
            self._fails = path.rstrip(b"/").endswith(b"moved")

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            self._entries.close()

        def __iter__(self) -> Any:
            count = stale.pop() if self._fails and stale else -1
            for number, entry in enumerate(self._entries):
                if number == count:
                    raise OSError(errno.ESTALE, "Stale file handle")
                yield entry

    monkeypatch.setattr(os, "scandir", Stale)
    assert npy2tfrecord.convert(tmp_path / "s", tmp_path / "out").examples == 3
    assert not stale


def test_path_too_long_to_open_is_told(tmp_path: Path) -> None:
    plant(tmp_path / "s", "a.npy")
    here = os.getcwd()
    os.chdir(tmp_path / "s")
    try:
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        Path("x.npy").write_bytes(b"")
    finally:
        os.chdir(here)
    with pytest.raises(InputError, match="File name too long"):
        npy2tfrecord.convert(tmp_path / "s", tmp_path / "out")


def test_unreadable_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path / "s", "a.npy", "b.npy")
    real = syscalls.open

    def opening(path: bytes, *rest: Any) -> int:
        if path.endswith(b"/b.npy"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest)

    monkeypatch.setattr(syscalls, "open", opening)
    with pytest.raises(InputError, match=r"/b\.npy: cannot be read: Permission denied"):
        npy2tfrecord.convert(tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pipes_sockets_and_devices_are_told_and_never_waited_for(tmp_path: Path, suffix: str) -> None:
    plant(tmp_path / "s", "a.npy")
    os.mkfifo(tmp_path / "s" / f"pipe.{suffix}")
    (tmp_path / "s" / f"device.{suffix}").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path / "s")  # a socket's path is at most 108 bytes long
        server.bind(f"socket.{suffix}")
        os.chdir(here)
        assert problems_of(tmp_path / "s") == {
            f"pipe.{suffix}": "a named pipe; expected a regular file",
            f"socket.{suffix}": "a socket; expected a regular file",
            f"device.{suffix}": "a device; expected a regular file"
            if suffix == "npy"
            else "the file is empty; expected an .npz file: download or copy it again, or leave it out with --exclude",
        }


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    source = plant(tmp_path / "s", "a.npy")
    (source / "dangling.npy").symlink_to("gone.npy")
    (source / "dangling").symlink_to("gone")
    (source / "round.npy").symlink_to("round.npy")
    problems = problems_of(source)
    assert problems.keys() == {"dangling.npy", "dangling", "round.npy"}
    assert "No such file" in problems["dangling.npy"]
    assert "Too many levels of symbolic links" in problems["round.npy"]
    assert problems_of(source, exclude=["dangling*", "round*"]) == {}


def test_links_to_files_are_arrays(tmp_path: Path) -> None:
    source = plant(tmp_path / "s", "a.npy")
    plant(tmp_path / "elsewhere", "b.npy")
    (source / "link.npy").symlink_to(tmp_path / "elsewhere" / "b.npy")
    (source / "readme").symlink_to(tmp_path / "elsewhere" / "b.npy")
    npy2tfrecord.convert(source, tmp_path / "out", fsync=False, shuffle=False)
    assert keys_of(tmp_path / "out") == ["a", "link"]


def test_links_to_directories_are_told_or_followed(tmp_path: Path) -> None:
    source = plant(tmp_path / "s", "a.npy")
    plant(tmp_path / "elsewhere", "b.npy", "c/d.npy")
    (source / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"/link: a link to a directory; expected --follow-symlinks"):
        npy2tfrecord.convert(source, tmp_path / "out")
    npy2tfrecord.convert(source, tmp_path / "out", fsync=False, shuffle=False, follow_symlinks=True)
    assert keys_of(tmp_path / "out") == ["a", "link/b", "link/c/d"]


def test_links_that_loop_are_told_and_not_followed_for_ever(tmp_path: Path) -> None:
    source = plant(tmp_path / "s", "a.npy", "d/e/f.npy")
    (source / "d" / "e" / "up").symlink_to(source)
    (source / "d" / "self").symlink_to(".")
    report = npy2tfrecord.scan(source, on_error="skip", follow_symlinks=True)
    assert report.counts == (2,)
    reported = {os.fsdecode(p.where).removeprefix(f"{source}/"): p.found for p in report.problems}
    assert reported == dict.fromkeys(("d/e/up/", "d/self/"), "a link to a directory that it is in itself")
    with pytest.raises(InputError, match="1 more source has problems"):
        npy2tfrecord.convert(source, tmp_path / "out", follow_symlinks=True)


def test_two_links_to_one_directory_are_no_loop(tmp_path: Path) -> None:
    source = plant(tmp_path / "s", "d/a.npy")
    (source / "e").symlink_to("d")
    (source / "f").symlink_to("d")
    assert npy2tfrecord.scan(source, follow_symlinks=True).counts == (3,)


def vanishing(monkeypatch: pytest.MonkeyPatch, victim: Path, change: Any, calls: int) -> None:
    """Do `change` to a file right before it is opened for the `calls`-th time."""
    real, opened = syscalls.open, Counter[str]()

    def opening(path: Any, *rest: Any) -> int:
        name = os.fsdecode(path)
        opened[name] += 1
        if name == str(victim) and opened[name] == calls:
            change()
        return real(path, *rest)

    monkeypatch.setattr(syscalls, "open", opening)


def test_file_that_vanishes_before_the_scan_reads_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plant(tmp_path / "s", "a.npy", "b.npy")
    vanishing(monkeypatch, source / "b.npy", (source / "b.npy").unlink, 1)
    with pytest.raises(InputError, match=r"/b\.npy: the file is gone"):
        npy2tfrecord.convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kind", ["gone", "other values", "truncated", "longer", "other header", "replaced by a pipe"])
def test_file_that_changes_after_the_scan_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, jobs: int
) -> None:
    source = plant(tmp_path / "s", *(f"{i}.npy" for i in range(10)))
    victim = source / "7.npy"

    def change() -> None:
        data = victim.read_bytes()
        victim.unlink()
        if kind == "replaced by a pipe":
            os.mkfifo(victim)
        elif kind != "gone":
            new = {
                "other values": data[:-1] + b"?",
                "truncated": data[:-1],
                "longer": data + b"?",
                "other header": data.replace(b"(2, 3)", b"(3, 2)"),
            }
            victim.write_bytes(new[kind])

    vanishing(monkeypatch, victim, change, 2)
    with pytest.raises(InputError, match=r"/7\.npy: ") as caught:
        npy2tfrecord.convert(source, tmp_path / "out", num_shards=3, fsync=False, jobs=jobs)
    assert caught.value.expected
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not [p for p in (tmp_path / "out").glob(".npy2tfrecord/*") if p.suffix in (".shard", ".idx", ".keys")]


def test_file_that_changes_after_the_scan_is_left_out_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plant(tmp_path / "s", *(f"{i}.npy" for i in range(10)))
    vanishing(monkeypatch, source / "7.npy", (source / "7.npy").unlink, 2)
    manifest = npy2tfrecord.convert(source, tmp_path / "out", num_shards=3, fsync=False, on_error="skip", jobs=1)
    assert [(Path(s.source).name, "gone" in s.reason) for s in manifest.skipped] == [("7.npy", True)]
    assert manifest.examples == 9
    assert sorted(keys_of(tmp_path / "out")) == [str(i) for i in range(10) if i != 7]


def test_what_is_skipped_is_listed_and_ends_in_3(tmp_path: Path, command: Command) -> None:
    source = plant(tmp_path / "s", "a.npy", "b.npy", "c.npy")
    (source / "b.npy").write_bytes(b"")
    (source / "d.npy").symlink_to("gone")
    result = command("convert", "--on-error", "skip", source, tmp_path / "out")
    assert result.code == 3
    assert "Skipped 2 sources:" in result.out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {entry["source"]: bool(entry["reason"]) for entry in manifest["skipped"]} == {
        str(source / "b.npy"): True,
        str(source / "d.npy"): True,
    }
    assert manifest["examples"] == 2
    again = command("convert", "--on-error", "skip", source, tmp_path / "out")
    assert (again.code, "nothing left to do" in again.out) == (3, True)


def test_nothing_usable_is_an_error_even_if_skipping(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(UsageError, match=r"no \.npy or \.npz file found"):
        npy2tfrecord.convert(tmp_path / "s", tmp_path / "out")
    (tmp_path / "s" / "a.npy").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no usable source: 1 have problems, the first: .*the file is empty"):
        npy2tfrecord.convert(tmp_path / "s", tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out").exists()


# --- what the arrays are ------------------------------------------------------------------------


def test_arrays_that_do_not_agree_are_listed_in_groups(tmp_path: Path, command: Command) -> None:
    source = tmp_path / "s"
    for kind, count, dtype, shape in (("a", 5, "<f4", (2, 3)), ("b", 3, "<f4", (6,)), ("c", 2, ">i8", (2, 3))):
        for i in range(count):
            write_npy(source / kind / f"{i}.npy", np.zeros(shape, np.dtype(dtype).newbyteorder("<")))
    result = command("convert", source, tmp_path / "out")
    assert result.code == 4
    assert not (tmp_path / "out").exists()
    lines = [line.strip() for line in result.err.splitlines()]
    assert lines[0].endswith("do not agree in dtype and rank:")
    assert lines[1:4] == [
        f"5 of float32, rank 2, e.g. {source}/a/0.npy",
        f"3 of float32, rank 1, e.g. {source}/b/0.npy",
        f"2 of int64, rank 2, e.g. {source}/c/0.npy; expected one dtype and rank a feature: give each kind a"
        " name of its own, NAME=PATH or NAME=DIR:GLOB; or cast them to one, as with --dtype float64 and add trailing"
        " axes of 1 with --rank 2; or choose with --include and --exclude",
    ]
    command.ok("convert", "--include", "a/", source, tmp_path / "out")


def test_byte_and_memory_order_are_no_disagreement(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), ">f4"))
    np.save(tmp_path / "b.npy", np.asfortranarray(np.zeros((4, 5), "<f4")))
    (info,) = npy2tfrecord.scan([tmp_path / "a.npy", tmp_path / "b.npy"]).features
    assert (info.dtype, info.shape, info.min_shape, info.max_shape) == ("float32", (None, None), (2, 3), (4, 5))


@pytest.mark.parametrize("seed", range(4))
def test_sizes_and_histograms_are_those_of_the_arrays(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(int(rng.integers(0, 30)), 4, int(rng.choice([1, 5, 6]))) for _ in range(200)]
    for i, shape in enumerate(shapes):
        write_npy(tmp_path / "s" / str(i % 7) / f"{i}.npy", np.zeros(shape, "<i2"))
    (info,) = npy2tfrecord.scan(tmp_path / "s").features
    assert info == npy2tfrecord.convert(tmp_path / "s", tmp_path / "out", fsync=False).features[0]
    assert info.dtype == "int16"
    assert info.min_shape == tuple(map(min, zip(*shapes, strict=True)))
    assert info.max_shape == tuple(map(max, zip(*shapes, strict=True)))
    assert info.shape == (None, 4, None)
    assert info.bytes == sum(2 * a * b * c for a, b, c in shapes)
    for axis, histogram in enumerate(info.histograms):
        sizes = Counter(shape[axis] for shape in shapes)
        if axis == 1:
            assert histogram is None
        else:
            assert histogram is not None
            assert dict(zip(histogram.sizes, histogram.counts, strict=True)) == sizes
            assert list(histogram.sizes) == sorted(sizes)


def test_histogram_of_many_sizes_has_bins_of_about_the_same_width_in_relation() -> None:
    rng = np.random.default_rng(0)
    sizes, counts = np.unique(rng.zipf(1.5, 100_000) % 10_000, return_counts=True)
    assert len(sizes) > 1000
    histogram = make_histogram(sizes, counts)
    assert len(histogram.sizes) == len(histogram.counts) <= 256
    assert histogram.bits == 5
    assert list(histogram.sizes) == sorted(set(histogram.sizes))
    assert histogram.sizes[-1] == sizes[-1]
    lower = -1
    for size, count in zip(histogram.sizes, histogram.counts, strict=True):
        there = (sizes > lower) & (sizes <= size)
        assert count == counts[there].sum()
        assert sizes[there][0] >= size * (1 - 1 / 2**4)
        lower = size


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 3000), min_size=1, max_size=1500, unique=True),
    cut=st.integers(0, 1500),
    most=st.integers(2, 256),
)
def test_histogram_of_a_whole_follows_from_those_of_its_parts(sizes: list[int], cut: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_summary, "MAX_HISTOGRAM_BINS", max(most, 64))  # one bit makes up to 64 bins
        whole = make_histogram(np.array(sorted(sizes)), np.ones(len(sizes), dtype=np.int64))
        parts = [part for part in (sizes[:cut], sizes[cut:]) if part]
        made = [make_histogram(np.array(sorted(part)), np.ones(len(part), dtype=np.int64)) for part in parts]
        assert join_histograms(made) == whole


def test_scan_reads_nothing_but_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "s"
    source.mkdir()
    for i in range(20):
        header = npy_header("<f8", (i + 10**9,))
        with (source / f"{i}.npy").open("wb") as file:
            file.write(header)
            file.truncate(len(header) + 8 * (i + 10**9))  # sparse: 160 GB in all
    write_npy(source / "wide.npy", values_of("float64", (1000,), 0)).write_bytes(
        npy_header("<f8", (1000,), version=2)[:-1].ljust(4999).replace(b"\x74\0\0\0", (4988).to_bytes(4, "little"))
        + b"\n"
        + bytes(8000)
    )
    real, read = syscalls.pread, Counter[int]()

    def pread(handle: int, size: int, offset: int) -> bytes:
        read["bytes"] += size
        assert stat.S_ISREG(os.fstat(handle).st_mode)
        return real(handle, size, offset)

    def refuse(*arguments: object) -> int:
        raise AssertionError("a scan needs no more than pread")

    monkeypatch.setattr(syscalls, "pread", pread)
    monkeypatch.setattr(syscalls, "preadv", refuse)
    report = npy2tfrecord.scan(source)
    assert report.counts == (21,)
    assert report.features[0].max_shape == (10**9 + 19,)
    assert read["bytes"] <= 20 * 128 + 5000
