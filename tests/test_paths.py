"""URLs and home directories, wherever a path is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from converted import Command, read_back, save

import npy2tfrecord
import readers
from npy2tfrecord.errors import UsageError
from npy2tfrecord.options import Source, parse_sources
from npy2tfrecord.paths import local_path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of its own to be in, with two arrays below `data`."""
    directory = tmp_path / "here"
    save(directory / "data", {name: np.arange(3) for name in "ab"})
    monkeypatch.chdir(directory)
    return directory


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "data", "hdfs://name/x"),
        ("convert", "hdfs://name/x", "out"),
        ("convert", "x=hdfs://name/x", "out"),
        ("convert", "data", "out", "--files-from", "az://c/list"),
        ("convert", "data", "out", "--labels", "https://example.org/labels.csv"),
        ("scan", "hdfs://name/x"),
        ("info", "hdfs://name/x"),
        ("show", "hdfs://name/x", "a"),
        ("verify", "hdfs://name/x"),
        ("export", "hdfs://name/x", "out"),
        ("scan", "data", "--plot", "gs://bucket/x.png"),
    ],
)
def test_urls_of_other_places_are_refused(here: Path, command: Command, words: tuple[str, ...]) -> None:
    command.refused(2, ":// is not supported; expected a path on this machine or file:///PATH", words=words)
    assert sorted(path.name for path in here.iterdir()) == ["data"]


def test_no_url_becomes_a_folder_of_exports(here: Path, command: Command) -> None:
    command.ok("convert", "data", "out")
    command.refused(2, "gs:// is not supported", words=("export", "out", "gs://bucket/x"))
    command.refused(2, "hdfs:// is not supported", words=("verify", "out", "--source", "hdfs://name/x"))
    assert sorted(path.name for path in here.iterdir()) == ["data", "out"]


@pytest.mark.parametrize(
    "function",
    [
        lambda: npy2tfrecord.convert("data", "hdfs://name/x"),
        lambda: npy2tfrecord.convert("data", Path("hdfs://name/x")),  # which is hdfs:/name/x
        lambda: npy2tfrecord.convert({"x": "hdfs://name/x"}, "out"),
        lambda: npy2tfrecord.scan(b"hdfs://name/x"),
        lambda: readers.load_manifest("hdfs://name/x"),
        lambda: readers.ArraySource(Path("hdfs://name/x")),
        lambda: readers.load_dataset("hdfs://name/x"),
        lambda: readers.load_dataset("out", cache="gs://bucket/cache"),
        lambda: readers.load_npy("hdfs://name/x"),
    ],
)
def test_functions_refuse_them_too(here: Path, function: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="is not supported; expected a path on this machine"):
        function()
    assert sorted(path.name for path in here.iterdir()) == ["data"]


def test_file_urls_are_paths(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "my data%1", {"ü": np.arange(3)})
    url = (tmp_path / "my data%1").as_uri()
    assert "my%20data%251" in url
    out = (tmp_path / "the out").as_uri()
    command.ok("convert", f"x={url}", out)
    assert set(read_back(tmp_path / "the out")) == {"ü"}
    assert "1 example" in command.ok("info", out).out
    command.ok("verify", out, "--source", "x=" + url.replace("file://", "FILE://localhost"))
    assert len(readers.ArraySource(out)) == 1


@pytest.mark.parametrize("url", ["file://server/x", "file://", "file:///a%00b"])
def test_file_urls_of_nothing_here_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="file:///PATH"):
        local_path(url, "source")


def test_the_home_directory_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert parse_sources("x=~/data") == (Source("x", bytes(here / "data")),)
    npy2tfrecord.convert(["x=~/data"], "~/out")
    assert set(read_back(here / "out")) == {"a", "b"}
    (here / "~").mkdir()
    assert local_path("~/data", "source") == "~/data"  # what is there wins


@pytest.mark.parametrize("path", ["a:b", "a:/b", "a/b://c", "1://x", ":a", "~nobody-here/x", "x=y"])
def test_other_paths_stay_what_they_are(path: str) -> None:
    assert local_path(path, "source") == path
