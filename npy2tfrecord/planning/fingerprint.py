"""What distinguishes the sources of a conversion from others, so that a run resumes only with the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.planning.plan import Plan
from npy2tfrecord.sources.finder import FoundByFeature, names_hash


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
    """A hash of what the headers and labels say: with the names, all that the plan depends on."""
    seen = Hash()
    examples = planned.examples
    for table, sources in zip(examples.tables, examples.sources, strict=True):
        seen.update(f"{table.feature}\0{len(table.headers)}\0".encode())
        for header in table.headers:
            seen.update(f"{header.dtype.str} {header.fortran_order} {header.shape}\0".encode())
        seen.update(table.header_ids.astype("<i4").tobytes())
        seen.update(sources.astype("<i8").tobytes() if not _is_range(sources) else b"all")
    if examples.known is not None and examples.rows is not None:
        seen.update(examples.rows.astype("<i8").tobytes())
    if examples.labels is not None:
        seen.update(
            examples.labels.astype(examples.labels.dtype.newbyteorder("<")).tobytes()
            + "\0".join(examples.classes or ()).encode("utf-8", "surrogateescape")
        )
    if examples.splits is not None:
        seen.update("\0".join(examples.split_names).encode() + examples.splits.astype("<i8").tobytes())
    return str(seen.hexdigest())


def _is_range(sources: np.ndarray) -> bool:
    return len(sources) == 0 or (
        sources[0] == 0 and sources[-1] == len(sources) - 1 and bool((np.diff(sources) == 1).all())
    )
