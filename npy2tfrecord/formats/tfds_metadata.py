"""`features.json` and `dataset_info.json`: what TFDS needs to load the directory as it is.

Source of the formats: tensorflow_datasets/core/proto/feature.proto and dataset_info.proto, as JSON.
"""

from __future__ import annotations

import json
from typing import Any

from npy2tfrecord.formats.example import KEY, LABEL
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest

_FEATURES = "tensorflow_datasets.core.features"


def _tensor(shape: tuple[int | None, ...], dtype: str, encoding: str) -> dict[str, Any]:
    dimensions = ["-1" if n is None else str(n) for n in shape]
    return {
        "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
        "tensor": {"shape": {"dimensions": dimensions}, "dtype": dtype, "encoding": encoding},
    }


def _feature(info: FeatureInfo) -> dict[str, dict[str, Any]]:
    shape, dtype, more = info.shape, info.dtype, {}
    unknown = sum(n is None for n in shape)
    if unknown > 1 or (unknown and 0 in shape):
        # TFDS restores one unknown axis from the number of bytes. Otherwise it gets the values flat, and their shape.
        shape, more = (None,), {f"{info.name}/shape": _tensor((info.rank,), "int64", "none")}
    if dtype == "uint32":
        # TFDS has nothing to decode it with, and int32 would be wrong without a sign of it. These are bytes that
        # `tf.bitcast(value, tf.uint32)` turns into the values. For float8 NumPy's `view` does.
        shape, dtype = (*shape, 4), "uint8"
    elif dtype.startswith("float8"):
        dtype = "uint8"
    return {info.name: _tensor(shape, dtype, "bytes"), **more}


def tfds_files(manifest: Manifest) -> dict[str, bytes]:
    """The content of each file by name; no files for compressed shards, which TFDS does not read."""
    if manifest.compression != "none":
        return {}
    features: dict[str, Any] = {}
    for info in manifest.features:
        features |= _feature(info)
    features[KEY] = {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}
    files = {}
    if manifest.labels is not None:
        if manifest.labels:
            features[LABEL] = {
                "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
                "classLabel": {"numClasses": str(len(manifest.labels))},
            }
            if all(_is_line(name) for name in manifest.labels):
                files[f"{LABEL}.labels.txt"] = "".join(f"{name}\n" for name in manifest.labels).encode()
        else:
            features[LABEL] = _tensor((), manifest.label_dtype, "none")
    files["features.json"] = _json(
        {"pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    )
    files["dataset_info.json"] = _json(
        {
            "name": "npy2tfrecord",
            "version": "1.0.0",
            "fileFormat": "tfrecord",
            "description": "Arrays converted by npy2tfrecord.",
            "splits": [
                {
                    "name": split,
                    "numBytes": str(sum(shard.bytes for shard in shards)),
                    "shardLengths": [str(shard.examples) for shard in shards],
                    "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                }
                for split, shards in manifest.splits.items()
            ],
        }
    )
    return files


def _is_line(name: str) -> bool:
    """Whether TFDS reads a class name from a line of its own as it is."""
    return name.isprintable() and name == name.strip() != ""


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"
