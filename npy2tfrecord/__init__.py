"""Convert directories of `.npy` files to sharded TFRecords. The counterpart for reading is `readers`.

import npy2tfrecord
manifest = npy2tfrecord.convert("spectrograms", "shards")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npy2tfrecord.converter import Progress, convert
    from npy2tfrecord.exporter import export
    from npy2tfrecord.manifest import Manifest
    from npy2tfrecord.progress import progress_bar
    from npy2tfrecord.scanner import scan
    from npy2tfrecord.verifier import verify

__version__ = "0.1.0"

_HOME = {
    "Manifest": "manifest",
    "Progress": "converter",
    "convert": "converter",
    "export": "exporter",
    "progress_bar": "progress",
    "scan": "scanner",
    "verify": "verifier",
}

__all__ = ["Manifest", "Progress", "__version__", "convert", "export", "progress_bar", "scan", "verify"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `npy2tfrecord --help` needs neither NumPy nor anything else.
    if name in _HOME:
        return getattr(import_module(f"npy2tfrecord.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
