"""What distinguishes the sources of a conversion from others, so that a run resumes only with the same.

Everything is a sum over files or examples. So the fingerprint of a whole is the sum of those of its parts, and doesn't
depend on the order in which they are found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from npy2tfrecord.planning.order import hash_keys
from npy2tfrecord.planning.plan import Plan
from npy2tfrecord.sources.finder import FoundByFeature


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The number of source files, a hash of their names, the number of examples, and a hash of headers and labels.

    `examples` and `data` are None before the headers are read.
    """

    files: int
    names: str
    examples: int | None = None
    data: str | None = None

    @classmethod
    def of_files(cls, found: FoundByFeature) -> Fingerprint:
        """What is known before any file is opened."""
        return cls(files=sum(map(len, found.values())), names=names_hash(found))

    def with_plan(self, planned: Plan) -> Fingerprint:
        """The same files with what their headers and labels say."""
        return replace(self, examples=len(planned.examples), data=_data_hash(planned))

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as `manifest.json` holds it."""
        return {"files": self.files, "names": self.names, "examples": self.examples, "data": self.data}

    def difference(self, recorded: Mapping[str, Any]) -> str | None:
        """How the sources have changed since `to_json` was recorded; None when they are the same."""
        if recorded.get("files") != self.files:
            return f"{recorded.get('files')} source files then, {self.files} now"
        if recorded.get("names") != self.names:
            return "the names of the source files have changed"
        if self.data is not None and recorded.get("data") != self.data:
            return "the dtypes, shapes, labels or splits of the sources have changed"
        return None


def _data_hash(planned: Plan) -> str:
    """A sum over the examples of a hash of the key and of what the headers and the label say."""
    examples = planned.examples
    hashes = examples.key_hashes()
    for table, sources in zip(examples.tables, examples.sources, strict=True):
        headers = [f"{table.feature} {h.dtype.str} {h.fortran_order} {h.shape}".encode() for h in table.headers]
        hashes = _mix(hashes ^ hash_keys(headers)[table.header_ids[sources]])
    if examples.labels is not None:
        if examples.classes:  # by name: their numbers depend on what other classes there are
            names = hash_keys(name.encode("utf-8", "surrogateescape") for name in examples.classes)
            hashes = _mix(hashes ^ names[examples.labels])
        else:
            bits = examples.labels.astype(np.float64) if examples.labels.dtype.kind == "f" else examples.labels
            hashes = _mix(hashes ^ bits.astype(bits.dtype.newbyteorder("<")).view("<u8"))
    if examples.splits is not None:
        names = hash_keys(name.encode() for name in examples.split_names)
        hashes = _mix(hashes ^ names[examples.splits])
    return add_hashes([hashes])


def names_hash(found: FoundByFeature) -> str:
    """A sum over all files that were found of a hash of the name below the root."""
    parts = []
    for feature, each in found.items():
        for files in (each.npy, each.npz):
            seeds = hash_keys(b"%s=%s" % ((feature or "").encode(), key) for key in files.dir_keys)
            names = iter(files.names)
            for seed, length in zip(seeds.tolist(), files.dir_lengths, strict=True):
                parts.append(hash_keys(islice(names, length), seed))
        chosen = [each.npz.names[file] + b" " + os.fsencode(member) for file, member in each.members.items()]
        parts.append(hash_keys(chosen))
    return add_hashes(parts)


def add_hashes(parts: Iterable[np.ndarray]) -> str:
    """The sum of hashes modulo 2**64, in hexadecimal: it doesn't depend on their order, nor on who added them up."""
    total = sum(int(part.sum(dtype=np.uint64)) for part in parts)
    return f"{total % 2**64:016x}"


def _mix(values: np.ndarray) -> np.ndarray:
    """Well-mixed bits, by the finalizer of SplitMix64 (Steele, Lea and Flood, 2014): uint64."""
    with np.errstate(over="ignore"):
        z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))
