"""The progress of a conversion: a bar on a terminal, or lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from npy2tfrecord.commands import colors
from npy2tfrecord.commands.text import count_text, size_text

if TYPE_CHECKING:
    from npy2tfrecord.conversion.progress import Progress, ProgressFunction

_LINE_SECONDS = 1.0
_REFRESH_SECONDS = 0.2
_USUAL_COLUMNS, _USUAL_LINES = 80, 24


@contextlib.contextmanager
def shown_progress(form: str, *, quiet: bool, color: str = "auto") -> Iterator[ProgressFunction | None]:
    """A function that shows progress on standard error, or None where nobody sees it."""
    if form == "json":
        yield _JsonLines().show
    elif quiet or not sys.stderr.isatty():
        yield None
    else:
        with _closing(_Bar(color=colors.are_wanted(color, sys.stderr))) as show:
            yield show


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressFunction]:
    """A function that shows progress as a bar until the block ends: a widget in a notebook, else on standard error.

    with npy2tfrecord.progress_bar() as progress:
        npy2tfrecord.convert("spectrograms", "shards", progress=progress)
    """
    with _closing(_Bar(color=False)) as show:
        yield show


@contextlib.contextmanager
def _closing(bar: _Bar) -> Iterator[ProgressFunction]:
    try:
        yield bar.show
    finally:
        bar.close()


class _JsonLines:
    def __init__(self) -> None:
        self._last = 0.0
        self._started = time.monotonic()
        self._first: tuple[float, int] | None = None  # when writing started, and the bytes done by then

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        is_scanning = not progress.bytes_total
        if now - self._last < _LINE_SECONDS and (is_scanning or progress.bytes_done < progress.bytes_total):
            return
        self._last = now
        begun, there = self._first or (now, progress.bytes_done)
        if not is_scanning:
            self._first = begun, there
        rate = (progress.bytes_done - there) / (now - begun) if now > begun else 0.0
        left = progress.bytes_total - progress.bytes_done
        line = {
            "seconds": round(now - self._started, 1),
            "bytes_done": progress.bytes_done,
            "bytes_total": progress.bytes_total,
            "bytes_per_second": round(rate),
            "seconds_left": round(left / rate, 1) if rate and left else None if left or is_scanning else 0.0,
            "shards_done": progress.shards_done,
            "shards_total": progress.shards_total,
            "files_found": progress.files_found,
            "files_scanned": progress.files_scanned,
        }
        try:
            sys.stderr.write(json.dumps(line) + "\n")
            sys.stderr.flush()
        except OSError:  # the reader has left; the conversion continues, as it does when a terminal is closed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _Bar:
    """What a run waits for: a count of files while they are found and read, then a bar of bytes."""

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._bar: Any = None
        self._is_of_files = False
        self._last = 0.0
        self._begun = 0.0  # when this bar was
        self._there = 0  # bytes done by then

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        is_of_files = not progress.bytes_total
        if is_of_files and now - self._last < _REFRESH_SECONDS:  # scanning reports far more often than anyone can read
            return
        self._last = now
        if self._bar is None or self._is_of_files != is_of_files:
            self.close()
            self._begun, self._there = now, progress.bytes_done
            self._bar, self._is_of_files = _tqdm(progress, is_of_files, self._color), is_of_files
        seconds = now - self._begun
        text = _files_text(progress, seconds) if is_of_files else _bytes_text(progress, seconds, self._there)
        self._bar.n = progress.files_scanned if is_of_files else progress.bytes_done
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _files_text(progress: Progress, seconds: float) -> str:
    """`reading headers: 7,000 of 9,000 files, 3,500/s`."""
    if not progress.files_scanned:
        return f"finding files: {progress.files_found:,}"
    rate = f", {progress.files_scanned / seconds:,.0f}/s" if seconds else ""
    return f"reading headers: {progress.files_scanned:,} of {progress.files_found:,} files{rate}"


def _bytes_text(progress: Progress, seconds: float, there: int) -> str:
    """`writing 1.2 GB of 2.7 GB, 350.0 MB/s, 4.3 s left, 12 of 20 shards`."""
    done, total = progress.bytes_done, progress.bytes_total
    shards = f"{progress.shards_done:,} of {count_text(progress.shards_total, 'shard')}"
    rate = (done - there) / seconds if seconds > 0 else 0.0
    speed = f", {size_text(rate)}/s" if rate else ""
    if done < total:
        left = f", {_clock((total - done) / rate)} left" if rate else ""
        return f"writing {size_text(done)} of {size_text(total)}{speed}{left}, {shards}"
    if progress.shards_done < progress.shards_total:
        return f"waiting for the disk: {size_text(total)} written, {shards}"
    return f"wrote {size_text(total - there)} in {_clock(seconds)}{speed}, {shards}"


def _clock(seconds: float) -> str:
    """`0.4 s`, `12 s`, `12:30`, `3:05:00`."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _tqdm(progress: Progress, is_of_files: bool, color: bool) -> Any:
    from tqdm.auto import tqdm

    # No monitor thread: with a second thread, workers could not be forked.
    make = type("Bar", (tqdm,), {"monitor_interval": 0})
    columns, lines = _shape()
    usual: dict[str, Any] = {"file": sys.stderr, "ncols": columns, "nrows": lines}
    if is_of_files:  # their total is not known yet
        return make(bar_format="{desc}", leave=False, **usual)
    shown = "{percentage:3.0f}%|{bar}| {desc}"
    colour = "cyan" if color else None
    return make(total=progress.bytes_total, initial=progress.bytes_done, bar_format=shown, colour=colour, **usual)


def _shape() -> tuple[int | None, int | None]:
    """80 columns and 24 lines where the terminal reports 0: tqdm shows no bar then. Else None, and it decides."""
    try:
        shape = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        return None, None
    return None if shape.columns else _USUAL_COLUMNS, None if shape.lines else _USUAL_LINES
