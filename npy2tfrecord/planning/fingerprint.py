"""What tells the sources of a conversion from others, so that it is only gone on with from the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.planning.plan import Plan
from npy2tfrecord.sources.finder import FoundByFeature, names_hash


def identity_of(found: FoundByFeature) -> dict[str, Any]:
    """What tells these files from others before any is opened."""
    return {"files": sum(map(len, found.values())), "names": names_hash(found)}


def data_hash(planned: Plan) -> str:
    """A hash of what the headers and labels say: with the names, all that the plan depends on."""
    seen = Hash()
    examples = planned.examples
    for table, sources in zip(examples.tables, examples.sources, strict=True):
        seen.update(f"{table.feature}\0{len(table.headers)}\0".encode())
        for header in table.headers:
            seen.update(f"{header.dtype.str} {header.fortran_order} {header.shape}\0".encode())
        seen.update(table.header_ids.astype("<i4").tobytes())
        seen.update(sources.astype("<i8").tobytes() if not _is_range(sources) else b"all")
    if examples.labels is not None:
        seen.update(
            examples.labels.astype("<i8").tobytes()
            + "\0".join(examples.classes or ()).encode("utf-8", "surrogateescape")
        )
    return str(seen.hexdigest())


def _is_range(sources: np.ndarray) -> bool:
    return len(sources) == 0 or (
        sources[0] == 0 and sources[-1] == len(sources) - 1 and bool((np.diff(sources) == 1).all())
    )
