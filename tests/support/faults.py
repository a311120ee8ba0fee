"""Putting a failure in front of the N-th system call of a conversion."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from npy2tfrecord import syscalls

CALLS = ("open", "close", "fstat", "readv", "preadv", "pread", "write", "fsync", "rename", "unlink", "mkdir", "rmdir")


class Injector:
    """Counts calls of one function of `system`, and lets those from `first` to `last` fail."""

    def __init__(self, first: int = 0, last: int = 0, error: int = errno.EIO) -> None:
        self.calls = 0
        self._first, self._last, self._error = first, last, error

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            if self._first <= self.calls <= self._last:
                if name == "close":
                    function(*arguments, **keywords)  # a descriptor is gone even when its close fails
                raise OSError(self._error, os.strerror(self._error))
            return function(*arguments, **keywords)

        return call


@contextlib.contextmanager
def injected(name: str, injector: Injector) -> Iterator[None]:
    original = getattr(syscalls, name)
    setattr(syscalls, name, injector.wrap(original, name))
    try:
        yield
    finally:
        setattr(syscalls, name, original)


@contextlib.contextmanager
def short_writes(largest: int) -> Iterator[None]:
    """Every write takes a few bytes only, as it may."""
    original = syscalls.write
    syscalls.write = lambda handle, data: original(handle, bytes(memoryview(data)[:largest]))
    try:
        yield
    finally:
        syscalls.write = original


def tree(directory: Path) -> dict[str, bytes]:
    """The content of every file below a directory, by its path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def assert_nothing_half_written(out: Path, whole: dict[str, bytes]) -> None:
    """Whatever is in sight is as it is in an unbroken run."""
    if not out.exists():
        return
    for name, content in tree(out).items():
        if not name.startswith(".npy2tfrecord/"):
            assert content == whole[name], f"{name} is not what an unbroken run writes"
