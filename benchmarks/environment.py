"""The two Pythons, the one with npy2tfrecord and one of their own for the peers; and where data goes."""

from __future__ import annotations

import compileall
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import ROOT, file_system

REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"
OURS = Path(sys.executable).parent / "npy2tfrecord"


def cache_directory() -> Path:
    """Where the peers' environment is, and what is measured on a disk."""
    parent = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("NPY2TFRECORD_BENCHMARKS") or Path(parent) / "npy2tfrecord-benchmarks")


def memory_directory() -> Path:
    """Where the data sets are: in memory where there is such a place, so that no disk has a part in the figures."""
    memory = Path("/dev/shm")
    return memory if file_system(memory) == "tmpfs" and os.access(memory, os.W_OK) else cache_directory()


def compile_ours() -> None:
    """Compile our own modules as an installation does: where Python may not write, every start would do it anew."""
    for package in ("npy2tfrecord", "readers"):
        compileall.compile_dir(ROOT / package, quiet=1)


def peers_python() -> Path:
    """The Python that has the peers; installs them the first time."""
    directory = cache_directory() / "peers"
    python, stamp = directory / "bin" / "python", directory / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"Installing the peers into {directory} (the first time takes minutes)", file=sys.stderr, flush=True)
        # --upgrade-deps: the pip that comes with an older Python can't install some of the peers.
        subprocess.run([sys.executable, "-m", "venv", "--upgrade-deps", directory], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return python


def peers_versions(python: Path) -> dict[str, str]:
    """What is installed of the peers."""
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    wanted = {_plain(line.partition("==")[0]) for line in REQUIREMENTS.read_text().splitlines() if "==" in line}
    pairs = (line.split("==") for line in listed.splitlines() if "==" in line)
    return {_plain(name): version for name, version in pairs if _plain(name) in wanted}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
