"""Progress reports the bytes of this run, also after a resume."""

from __future__ import annotations

import io
import json
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from converted import save

import npy2tfrecord
from npy2tfrecord.commands import progress
from npy2tfrecord.conversion.progress import Progress


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_lines_count_the_rate_of_new_bytes_only(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown_progress("json", quiet=False) as show:
        assert show is not None
        clock.now += 20  # of scanning
        for done, shards in ((600, 6), (700, 7), (900, 9), (1000, 10)):
            show(Progress(bytes_done=done, bytes_total=1000, shards_done=shards, shards_total=10))
            clock.now += 2
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["bytes_per_second"] for line in lines] == [0, 50, 75, round(400 / 6)]
    assert [line["seconds_left"] for line in lines] == [None, 6.0, 1.3, 0.0]
    assert [line["shards_done"] for line in lines] == [6, 7, 9, 10]
    assert [line["seconds"] for line in lines] == [20.0, 22.0, 24.0, 26.0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


def test_bar_starts_at_what_is_done_and_its_rate_counts_the_rest(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.shown_progress("auto", quiet=False) as show:
        assert show is not None
        show(Progress(bytes_done=900_000, bytes_total=1_000_000, shards_done=9, shards_total=10))
        assert "writing 900.0 kB of 1.0 MB, 9 of 10 shards" in terminal.getvalue()
        clock.now += 10
        show(Progress(bytes_done=950_000, bytes_total=1_000_000, shards_done=9, shards_total=10))
        assert "95%" in terminal.getvalue()
        assert "writing 950.0 kB of 1.0 MB, 5.0 kB/s, 10 s left, 9 of 10 shards" in terminal.getvalue()
        clock.now += 10
        show(Progress(bytes_done=1_000_000, bytes_total=1_000_000, shards_done=9, shards_total=10))
        assert "waiting for the disk: 1.0 MB written, 9 of 10 shards" in terminal.getvalue()
        clock.now += 60
        show(Progress(bytes_done=1_000_000, bytes_total=1_000_000, shards_done=10, shards_total=10))
    assert "wrote 100.0 kB in 1:20, 1.2 kB/s, 10 of 10 shards" in terminal.getvalue()


def test_files_are_counted_before_bytes_are_known(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown_progress("json", quiet=False) as show:
        assert show is not None
        for scanned in (0, 100, 200):
            show(
                Progress(
                    bytes_done=0, bytes_total=0, shards_done=0, shards_total=0, files_found=300, files_scanned=scanned
                )
            )
            show(
                Progress(
                    bytes_done=0, bytes_total=0, shards_done=0, shards_total=0, files_found=300, files_scanned=scanned
                )
            )  # more often than once a second
            clock.now += 2
        show(
            Progress(bytes_done=0, bytes_total=1000, shards_done=0, shards_total=10, files_found=300, files_scanned=300)
        )
        clock.now += 2
        show(
            Progress(
                bytes_done=500, bytes_total=1000, shards_done=5, shards_total=10, files_found=300, files_scanned=300
            )
        )
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["files_scanned"] for line in lines] == [0, 100, 200, 300, 300]
    assert [line["bytes_total"] for line in lines] == [0, 0, 0, 1000, 1000]
    assert [line["seconds_left"] for line in lines] == [None, None, None, None, 2.0]


def test_a_terminal_shows_a_count_of_files_and_then_the_bar(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    threads = threading.active_count()
    with progress.shown_progress("auto", quiet=False) as show:
        assert show is not None
        show(Progress(bytes_done=0, bytes_total=0, shards_done=0, shards_total=0, files_found=5000, files_scanned=0))
        assert "finding files: 5,000" in terminal.getvalue()
        clock.now += 2
        show(Progress(bytes_done=0, bytes_total=0, shards_done=0, shards_total=0, files_found=9000, files_scanned=7000))
        assert "reading headers: 7,000 of 9,000 files, 3,500/s" in terminal.getvalue()
        show(
            Progress(
                bytes_done=250, bytes_total=1000, shards_done=1, shards_total=4, files_found=9000, files_scanned=9000
            )
        )
        assert threading.active_count() == threads  # with one more, workers could not be forks
    assert "25%" in terminal.getvalue()


def test_bar_for_callers_is_the_one_that_tqdm_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Widget:
        """As tqdm's in a notebook, which it gives where there is one."""

        made: ClassVar[list[Widget]] = []

        def __init__(self, **settings: Any) -> None:
            self.total, self.n, self.is_closed = settings.get("total"), 0, False
            assert settings["ncols"] is None, "a notebook knows its width"
            Widget.made.append(self)

        def set_description_str(self, text: str, refresh: bool) -> None: ...

        def refresh(self) -> None: ...

        def close(self) -> None:
            self.is_closed = True

    monkeypatch.setattr("tqdm.auto.tqdm", Widget)
    save(tmp_path / "in", {f"{i}": np.zeros(100) for i in range(20)})
    with npy2tfrecord.progress_bar() as show:
        made = npy2tfrecord.convert(tmp_path / "in", tmp_path / "out", progress=show)
    assert Widget.made[-1].total == Widget.made[-1].n == made.total_bytes
    assert all(widget.is_closed for widget in Widget.made)
