"""What to remove when this process must end at once, without running the rest of its code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

_functions: list[Callable[[], None]] = []


@contextlib.contextmanager
def at_sudden_end(function: Callable[[], None]) -> Iterator[None]:
    """Until the block ends, `run` calls `function`, which removes something unfinished."""
    _functions.append(function)
    try:
        yield
    finally:
        _functions.remove(function)


def run() -> None:
    """Remove all that is unfinished, the last begun first. An error in one function does not keep back the others."""
    for function in _functions[::-1]:  # a copy: threads may still begin and end things
        with contextlib.suppress(Exception):
            function()
