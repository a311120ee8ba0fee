"""Python's search for cyclic garbage, put off. No TensorFlow here."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def put_off(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """While `function` runs, nothing is searched for cycles.

    Ten thousand shards are objects enough to set off a search of all that TensorFlow has made,
    which takes half as long as everything else before the first batch, and finds nothing.
    """

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            if was_enabled:
                gc.enable()

    return run
