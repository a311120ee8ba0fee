"""The progress of a conversion: a bar on a terminal, or lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npy2tfrecord.conversion.converter import Progress, ProgressFunction

_LINE_SECONDS = 1.0
_REFRESH_SECONDS = 0.2
_USUAL_COLUMNS = 80


@contextlib.contextmanager
def shown_progress(form: str, *, quiet: bool) -> Iterator[ProgressFunction | None]:
    """A function that shows progress on standard error, or None where nobody sees it."""
    if form == "json":
        yield _JsonLines().show
    elif quiet or not sys.stderr.isatty():
        yield None
    else:
        with progress_bar() as show:
            yield show


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressFunction]:
    """A function that shows progress as a bar until the block ends: a widget in a notebook, else on standard error.

    with npy2tfrecord.progress_bar() as progress:
        npy2tfrecord.convert("spectrograms", "shards", progress=progress)
    """
    bar = _Bar()
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
    """A count of files during the scan, then a bar of bytes."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._is_of_files = False
        self._last = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        is_of_files = not progress.bytes_total
        if is_of_files and now - self._last < _REFRESH_SECONDS:  # scanning reports far more often than anyone can read
            return
        self._last = now
        if self._bar is None or self._is_of_files != is_of_files:
            self.close()
            self._bar, self._is_of_files = _tqdm(progress, is_of_files), is_of_files
        bar = self._bar
        if is_of_files:
            bar.n = progress.files_scanned
            bar.set_postfix_str(f"{progress.files_found} found", refresh=False)
        else:
            bar.n = progress.bytes_done
            bar.set_postfix_str(f"{progress.shards_done}/{progress.shards_total} shards", refresh=False)
        bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _tqdm(progress: Progress, is_of_files: bool) -> Any:
    from tqdm.auto import tqdm

    # No monitor thread: with a second thread, workers could not be forked.
    make = type("Bar", (tqdm,), {"monitor_interval": 0})
    usual: dict[str, Any] = {"unit_scale": True, "file": sys.stderr, "ncols": _width()}
    if is_of_files:  # their total is not known yet
        return make(desc="scanning", unit=" files", leave=False, **usual)
    return make(total=progress.bytes_total, initial=progress.bytes_done, unit="B", **usual)


def _width() -> int | None:
    """80 columns where the terminal reports 0, since tqdm shows no bar then; else None, and tqdm decides."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else _USUAL_COLUMNS
    except (OSError, ValueError):
        return None
