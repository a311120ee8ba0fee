"""Having all shards written, by workers that may die."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from npy2tfrecord import syscalls
from npy2tfrecord.conversion.workspace import OWN_MARK, Workspace
from npy2tfrecord.errors import OutputError, WorkerError
from npy2tfrecord.formats.manifest import BESIDE
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Options
from npy2tfrecord.planning.plan import Plan, ShardSpec
from npy2tfrecord.planning.records import CopySpec, MergePlan
from npy2tfrecord.writing.shard_writer import ShardEntry, forget_buffers, write_shard


def write_all(
    plan: Plan | MergePlan,
    missing: set[str],
    workspace: Workspace,
    options: Options,
    jobs: int,
    check: Callable[[ShardEntry], None],
    done: Callable[[ShardEntry], None],
    tick: Callable[[], None],
) -> None:
    """Write the shards in `missing`; call `check` with each entry, commit it, and call `done`.

    The shards that a dying worker leaves unfinished are written again after all others. Raises `WorkerError`, which
    names those that were under way, when workers keep dying.
    """
    write = partial(
        write_shard if pool.is_local(options.backend) else _write_alone,
        compression=options.compression,
        skip=options.on_error == "skip",
        sync=options.fsync,
        read_back=options.read_back,
        in_flight=options.in_flight,
    )
    remaining = set(missing)
    tasks = ((spec, workspace.stem(spec.file)) for spec in plan.shards(missing))
    try:
        # Closed at once after an error: its workers must not write into a workspace that is given back.
        with closing(pool.run(write, tasks, jobs=jobs, backend=options.backend, tick=tick)) as entries:
            for entry in entries:
                check(entry)
                workspace.commit([entry])
                remaining.discard(entry.file)
                done(entry)
    except WorkerError as error:
        under_way = sorted(workspace.under_way(remaining))
        where = f"while these shards were written: {', '.join(under_way)}" if under_way else "before they began a shard"
        raise WorkerError(
            f"{error}, {where} (out of memory? try --jobs 1). {len(missing) - len(remaining)} other shards were"
            " written: run the same command again to resume"
        ) from None
    finally:
        forget_buffers()


def _write_alone(spec: ShardSpec | CopySpec, stem: str, **settings: Any) -> ShardEntry:
    """Write a shard on a cluster, which may give it to a second worker while a first, thought dead, still writes it."""
    own = f"{stem}{OWN_MARK}{os.urandom(4).hex()}"
    try:
        entry = write_shard(spec, own, **settings)
    finally:
        forget_buffers()  # the process isn't ours
    try:
        for suffix in (*BESIDE, ".shard"):
            syscalls.rename(own + suffix, stem + suffix)
    except OSError as error:
        raise OutputError.from_os("finish", stem, error) from error
    return entry
