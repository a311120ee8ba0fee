"""litdata's optimize, with its own workers and chunks of the size its guide uses."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np
from contestant import arguments, key_of, paths_of
from litdata import optimize

CHUNK_BYTES = 64 * 10**6


def load(path: str, source: str) -> dict[str, Any]:
    return {"key": key_of(path, source), "array": np.load(path)}


def main() -> None:
    given = arguments()
    paths = paths_of(given.source)[: given.limit]
    optimize(
        fn=partial(load, source=given.source),
        inputs=paths,
        output_dir=os.path.abspath(given.out),
        num_workers=given.jobs,
        chunk_bytes=max(CHUNK_BYTES, 2 * os.path.getsize(paths[0])),
        verbose=False,
    )


if __name__ == "__main__":
    main()
