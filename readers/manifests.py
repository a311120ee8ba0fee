"""`load_manifest`: what is in a data set. No TensorFlow here."""

from __future__ import annotations

import os

from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.manifest import Manifest

PathLike = str | os.PathLike[str]


def load_manifest(path: PathLike) -> Manifest:
    """What is in a data set: features, splits, shards, class names.

    `load_manifest(path).labels` are the class names, `.feature("array").shape` is a feature's shape.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"path={path!r}: expected the directory that npy2tfrecord wrote")
    return manifest_parsing.load(path)
