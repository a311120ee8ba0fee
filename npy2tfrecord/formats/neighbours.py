"""The files beside the manifest that follow from it: for TFDS, and for searches of data sets."""

from __future__ import annotations

from npy2tfrecord.formats import croissant, tfds_metadata
from npy2tfrecord.formats.manifest import Manifest


def neighbour_files(manifest: Manifest) -> dict[str, bytes]:
    """The content of each file by name."""
    return tfds_metadata.tfds_files(manifest) | {croissant.FILE_NAME: croissant.croissant_file(manifest)}
