"""Having all shards written, by workers that may die."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from npy2tfrecord.errors import WorkerError
from npy2tfrecord.formats.manifest import ShardInfo
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Options
from npy2tfrecord.output.place import OutputPlace, check_rewritten
from npy2tfrecord.planning.plan import Plan, ShardSpec
from npy2tfrecord.writing.encoding import forget_buffers
from npy2tfrecord.writing.shard_entry import ShardEntry
from npy2tfrecord.writing.shard_writer import write_shard

if TYPE_CHECKING:
    from npy2tfrecord.planning.records import CopySpec, MergePlan


def write_all(
    plan: Plan | MergePlan,
    missing: set[str],
    workspace: OutputPlace,
    options: Options,
    jobs: int,
    replaced: Mapping[str, ShardInfo],
    done: Callable[[ShardEntry], None],
    tick: Callable[[], None],
) -> None:
    """Write the shards in `missing`; compare each with the one that it replaces, commit it, and call `done`.

    The shards that a dying worker leaves unfinished are written again after all others. Raises `WorkerError`, which
    names those that were under way, when workers keep dying.
    """
    here = partial(
        write_shard if pool.is_local(options.backend) else _write_and_forget,
        compression=options.compression,
        skip=options.on_error == "skip",
        sync=options.fsync,
        read_back=options.read_back,
        in_flight=options.in_flight,
    )
    write = workspace.writer(here, options, replaced)
    remaining = set(missing)
    tasks = ((spec, workspace.stem(spec.file)) for spec in plan.shards(missing))
    try:
        # Closed at once after an error: its workers must not write into a workspace that is given back.
        with closing(pool.run(write, tasks, jobs=jobs, backend=options.backend, tick=tick)) as entries:
            for entry in entries:
                if entry.file in replaced:
                    check_rewritten(workspace.out, entry.shard, replaced[entry.file])
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


def _write_and_forget(spec: ShardSpec | CopySpec, stem: str, **settings: Any) -> ShardEntry:
    """Write a shard on a cluster, whose processes aren't ours."""
    try:
        return write_shard(spec, stem, **settings)
    finally:
        forget_buffers()
