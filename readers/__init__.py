"""Reading what npy2tfrecord wrote, and `.npy` files as they are, into training code.

    import readers
    ds = readers.load_dataset("out", split="train", batch_size=64, shuffle=True)   # tf.data
    source = readers.ArraySource("out", split="train")                             # no TensorFlow

Everything is imported when it is first used: `ArraySource`, `load_manifest` and `preview` never import
TensorFlow, the others do when they are called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from readers.array_source import ArraySource
    from readers.dataset import load_dataset
    from readers.manifests import load_manifest
    from readers.mixing import mix
    from readers.notebook import preview
    from readers.npy_dataset import load_npy
    from readers.options import AUTOTUNE
    from readers.shards.damage import DamageWarning

_HOMES = {
    "AUTOTUNE": "readers.options",
    "ArraySource": "readers.array_source",
    "DamageWarning": "readers.shards.damage",
    "load_dataset": "readers.dataset",
    "load_manifest": "readers.manifests",
    "load_npy": "readers.npy_dataset",
    "mix": "readers.mixing",
    "preview": "readers.notebook",
}

__all__ = ["AUTOTUNE", "ArraySource", "DamageWarning", "load_dataset", "load_manifest", "load_npy", "mix", "preview"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
