"""Compiling delay.c, and the environment that puts it in front of a program's calls."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.machine import Failed

SOURCE = Path(__file__).with_name("delay.c")


def compile_into(directory: Path) -> Path:
    """The library, compiled with this machine's C compiler. Raises `Failed` when there is none."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Failed("no C compiler: install one, or set CC")
    library = directory / "delay.so"
    words = [compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{SOURCE.name} can't be compiled: {done.stderr}")
    return library


def environment(library: Path, root: Path, milliseconds: float) -> dict[str, str]:
    """What makes calls below `root` wait; nothing for no delay, so that nothing stands in front of them."""
    if not milliseconds:
        return {}
    return {
        "LD_PRELOAD": str(library),
        "DELAY_ROOT": str(root.resolve()),
        "DELAY_US": str(round(milliseconds * 1000)),
    }
