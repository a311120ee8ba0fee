"""`croissant.json`: the data set in the vocabulary that data set searches and hubs read.

Source of the format: the Croissant specification 1.0 (http://mlcommons.org/croissant/1.0), JSON-LD on schema.org. It
has no words for the records of a TFRecord file. So the files of each split are a file set, and splits, features and
classes are record sets whose data stands in the file itself. A file set needs no checksum; the manifest has those.
"""

from __future__ import annotations

import json
from typing import Any

from npy2tfrecord.errors import display
from npy2tfrecord.formats.example import LABEL
from npy2tfrecord.formats.manifest import Manifest

FILE_NAME = "croissant.json"
_SHARD_DIGITS = 5  # of a shard's number in its file's name, at least

_Row = dict[str, str | int]

# The context that the specification asks for, word for word.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant_file(manifest: Manifest) -> bytes:
    """The content of `croissant.json`."""
    splits: list[_Row] = [
        {"name": split, "examples": sum(shard.examples for shard in shards)}
        for split, shards in manifest.splits.items()
    ]
    features: list[_Row] = [
        {"name": info.name, "dtype": info.dtype, "shape": ",".join("-1" if n is None else str(n) for n in info.shape)}
        for info in manifest.features
    ]
    classes: list[_Row] = [{"value": i, "name": display(name)} for i, name in enumerate(manifest.labels or ())]
    record_sets = [
        _record_set("splits", splits, key="name", kind="cr:Split"),
        _record_set("features", features, key="name"),
        *([_record_set(f"{LABEL}s", classes, key="value", kind="sc:Enumeration")] if classes else []),
    ]
    packed = "" if manifest.compression == "none" else f"{manifest.compression}-compressed "
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "npy2tfrecord",
        "description": (
            f"{manifest.examples} arrays or tuples of arrays as tf.train.Example records in {packed}TFRecord files,"
            " converted by npy2tfrecord. manifest.json describes every feature and file."
        ),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "version": "1.0.0",
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": f"{split}-shards",
                "name": f"{split}-shards",
                "description": f"The TFRecord files of the split {split}.",
                "encodingFormat": "application/octet-stream",
                "includes": _patterns(split, len(shards)),
            }
            for split, shards in manifest.splits.items()
        ],
        "recordSet": record_sets,
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def _patterns(split: str, count: int) -> list[str]:
    """Globs that the shards of a split match and no other file: numbers have five digits, or more where necessary."""
    digits = range(_SHARD_DIGITS, max(_SHARD_DIGITS, len(str(count - 1))) + 1)
    return [f"{split}-{'[0-9]' * n}-of-{count:05d}.tfrecord" for n in digits]


def _record_set(name: str, rows: list[_Row], *, key: str, kind: str | None = None) -> dict[str, Any]:
    """A record set whose records stand in it; there is at least one."""
    data = [{f"{name}/{column}": value for column, value in row.items()} for row in rows]
    types = {column: "sc:Integer" if isinstance(value, int) else "sc:Text" for column, value in data[0].items()}
    fields = [
        {"@type": "cr:Field", "@id": column, "name": column.rpartition("/")[2], "dataType": type_}
        for column, type_ in types.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        **({"dataType": kind} if kind is not None else {}),
        "key": {"@id": f"{name}/{key}"},
        "field": fields,
        "data": data,
    }
