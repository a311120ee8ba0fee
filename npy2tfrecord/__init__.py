"""Convert directories of `.npy` files to sharded TFRecords. The counterpart for reading is `readers`.

import npy2tfrecord
manifest = npy2tfrecord.convert("spectrograms", "shards")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npy2tfrecord.checking.exporter import export
    from npy2tfrecord.checking.verifier import verify
    from npy2tfrecord.commands.progress import progress_bar
    from npy2tfrecord.conversion.converter import convert
    from npy2tfrecord.conversion.merger import merge
    from npy2tfrecord.conversion.progress import Progress
    from npy2tfrecord.conversion.surveyor import scan
    from npy2tfrecord.formats.manifest import Manifest

__version__ = "0.1.0"

_HOME = {
    "Manifest": "formats.manifest",
    "Progress": "conversion.progress",
    "convert": "conversion.converter",
    "export": "checking.exporter",
    "merge": "conversion.merger",
    "progress_bar": "commands.progress",
    "scan": "conversion.surveyor",
    "verify": "checking.verifier",
}

__all__ = ["Manifest", "Progress", "__version__", "convert", "export", "merge", "progress_bar", "scan", "verify"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `npy2tfrecord --help` needs neither NumPy nor anything else.
    if name in _HOME:
        return getattr(import_module(f"npy2tfrecord.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
