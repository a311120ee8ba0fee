"""Showing how far a conversion is: a bar on a terminal, or lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npy2tfrecord.converter import Progress, ProgressFunction

_LINE_SECONDS = 1.0
_USUAL_COLUMNS = 80


@contextlib.contextmanager
def shown_progress(form: str, *, quiet: bool) -> Iterator[ProgressFunction | None]:
    """A function that shows progress on standard error; None when nothing is to be shown."""
    if form == "json":
        yield _JsonLines().show
    elif quiet or not sys.stderr.isatty():
        yield None
    else:
        bar = _Bar()
        try:
            yield bar.show
        finally:
            bar.close()


class _JsonLines:
    def __init__(self) -> None:
        self._last = 0.0
        self._started = time.monotonic()
        self._first: tuple[float, int] | None = None  # when bytes began to be written, and how many were there

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_SECONDS and progress.bytes_done < progress.bytes_total:
            return
        self._last = now
        begun, there = self._first = self._first or (now, progress.bytes_done)
        rate = (progress.bytes_done - there) / (now - begun) if now > begun else 0.0
        left = progress.bytes_total - progress.bytes_done
        line = {
            "seconds": round(now - self._started, 1),
            "bytes_done": progress.bytes_done,
            "bytes_total": progress.bytes_total,
            "bytes_per_second": round(rate),
            "seconds_left": 0.0 if not left else round(left / rate, 1) if rate else None,
            "shards_done": progress.shards_done,
            "shards_total": progress.shards_total,
        }
        try:
            sys.stderr.write(json.dumps(line) + "\n")
            sys.stderr.flush()
        except OSError:  # whoever read it has gone; the conversion goes on, as it does when a terminal goes
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _Bar:
    def __init__(self) -> None:
        self._bar: object = None

    def show(self, progress: Progress) -> None:
        from tqdm.auto import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=progress.bytes_total,
                initial=progress.bytes_done,
                unit="B",
                unit_scale=True,
                file=sys.stderr,
                ncols=_width(),
            )
        bar = self._bar
        bar.n = progress.bytes_done  # type: ignore[attr-defined]
        bar.set_postfix_str(  # type: ignore[attr-defined]
            f"{progress.shards_done}/{progress.shards_total} shards", refresh=False
        )
        bar.refresh()  # type: ignore[attr-defined]

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()  # type: ignore[attr-defined]


def _width() -> int | None:
    """The columns of a bar where the terminal does not know its own, on which tqdm would show none; else None."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else _USUAL_COLUMNS
    except (OSError, ValueError):
        return None
