"""Files are found a directory at a time, and their headers are read while more are still being found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import write_npy

from npy2tfrecord.errors import UsageError
from npy2tfrecord.options import Options, parse_sources
from npy2tfrecord.planning.fingerprint import names_hash
from npy2tfrecord.sources import headers
from npy2tfrecord.sources.finder import collect, find
from npy2tfrecord.sources.headers import FileHeaders, Task
from npy2tfrecord.sources.scanner import scan_files

DIRECTORIES, FILES = 5, 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for d in range(DIRECTORIES):
        for i in range(FILES):
            write_npy(tmp_path / "s" / f"{d}" / f"{i}.npy", np.full(d + 1, i, "<f4"))
    return tmp_path / "s"


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The directories that were looked into so far."""
    real, seen = os.scandir, []

    def scandir(path: bytes) -> Any:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return seen


def test_each_directory_is_a_batch_that_is_there_before_the_next_is_searched(
    source: Path, searched: list[bytes]
) -> None:
    batches = find(parse_sources(source), Options())
    assert not searched
    sizes = []
    for count, batch in enumerate(batches, 1):
        assert len(searched) == count
        sizes.append(len(batch.names))
    assert sizes == [0] + [FILES] * DIRECTORIES


def test_a_source_that_does_not_exist_is_refused_before_the_first_batch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        find(parse_sources(tmp_path / "none"), Options())


def test_headers_are_read_before_the_last_directory_is_searched(
    source: Path, searched: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "_FILES_PER_TASK", FILES)
    reports: list[tuple[int, int]] = []
    found_at_task: list[int] = []

    def run(
        function: Callable[..., FileHeaders], tasks: Iterator[Task], tick: Callable[[], None]
    ) -> Iterator[FileHeaders]:
        for task in tasks:
            found_at_task.append(len(searched) - 1)
            yield function(*task)

    scan = scan_files(find(parse_sources(source), Options()), Options(), run, lambda *counts: reports.append(counts))
    assert found_at_task == list(range(1, DIRECTORIES + 1))
    assert reports == [(FILES * d, FILES * d) for d in range(1, DIRECTORIES + 1)]
    assert [len(table) for table in scan.tables] == [FILES * DIRECTORIES]


def test_results_may_come_in_any_order(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_FILES_PER_TASK", 3)

    def backwards(
        function: Callable[..., FileHeaders], tasks: Iterator[Task], tick: Callable[[], None]
    ) -> Iterator[FileHeaders]:
        yield from [function(*task) for task in tasks][::-1]

    sources = parse_sources(source)
    (expected,) = scan_files(find(sources, Options()), Options()).tables
    (table,) = scan_files(find(sources, Options()), Options(), backwards).tables
    assert table.headers == expected.headers
    assert table.header_ids.tolist() == expected.header_ids.tolist()
    assert table.stamps.tolist() == expected.stamps.tolist()
    assert table.keys() == expected.keys() == [b"%d/%d" % (d, i) for d in range(DIRECTORIES) for i in range(FILES)]


def test_batches_of_several_features_are_collected_by_name(source: Path) -> None:
    sources = parse_sources({"x": source / "1", "y": [source / "2", source / "3"], "z": source / "4" / "0.npy"})
    found = collect(find(sources, Options()))
    assert {name: (len(each), each.single_file) for name, each in found.items()} == {
        "x": (FILES, False),
        "y": (2 * FILES, False),
        "z": (1, True),
    }
    assert names_hash(found) == names_hash(collect(find(sources, Options()))) != names_hash({})


@pytest.mark.parametrize("names", [["4/0.npy", "4/1.npy"], ["4", "3/0.npy"], ["3/0.npy", "4"]])
def test_only_one_file_alone_is_a_single_file(source: Path, names: list[str]) -> None:
    (found,) = collect(find(parse_sources([source / name for name in names]), Options())).values()
    assert not found.single_file
