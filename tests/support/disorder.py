"""Directories that list their entries in another order every time they are asked."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest


def shuffle_directories(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Let `os.scandir` and `os.listdir` give what they find in an order of their own."""
    scandir, listdir, rng = os.scandir, os.listdir, random.Random(seed)

    class Shuffled:
        def __init__(self, path: Any = ".") -> None:
            with scandir(path) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name)
            rng.shuffle(self._entries)

        def __iter__(self) -> Any:
            return iter(self._entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    def shuffled(path: Any = ".") -> Any:
        names = sorted(listdir(path))
        rng.shuffle(names)
        return names

    monkeypatch.setattr(os, "scandir", Shuffled)
    monkeypatch.setattr(os, "listdir", shuffled)
