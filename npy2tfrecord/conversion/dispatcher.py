"""Having all shards written, by workers that may die."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import Any

from npy2tfrecord import syscalls
from npy2tfrecord.conversion.workspace import OWN_MARK, Workspace
from npy2tfrecord.errors import OutputError, WorkerError, display
from npy2tfrecord.formats.manifest import BESIDE
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Options
from npy2tfrecord.planning.planner import Plan, ShardSpec
from npy2tfrecord.writing.shard_writer import ShardEntry, encode_shard, write_shard

_CHANCES = 2  # for a shard that is written with no other at the same time
_VAIN = 4  # attempts in a row of which nothing comes


def write_all(
    plan: Plan,
    missing: set[str],
    workspace: Workspace,
    options: Options,
    jobs: int,
    check: Callable[[ShardEntry], None],
    done: Callable[[ShardEntry], None],
    tick: Callable[[], None],
) -> None:
    """Write the shards in `missing`; call `check` with each entry, commit it, and call `done`.

    When a worker dies, the shards that were under way are written again, one at a time, so that the one at fault
    shows. Raises `WorkerError` naming the source that kills its worker every time, when all else is done.
    """
    skip = options.on_error == "skip"
    write = partial(
        write_shard if pool.is_local(options.backend) else _write_alone,
        compression=options.compression,
        skip=skip,
        sync=options.fsync,
        read_back=options.read_back,
    )
    missing = set(missing)

    def attempt(files: set[str], *, apart: bool) -> bool:
        """Whether all of them could be written; those that were are no longer missing."""
        tasks = ((spec, workspace.stem(spec.file)) for spec in plan.shards(files))
        many = 1 if apart else jobs
        results = pool.run_once(write, tasks, jobs=many, backend=options.backend, tick=tick, apart=apart)
        try:
            for entry in results:
                check(entry)
                workspace.commit([entry])
                missing.discard(entry.file)
                done(entry)
        except WorkerError:
            return False
        return True

    fatal: list[str] = []
    in_vain, left = 0, len(missing)
    while not attempt(missing - set(fatal), apart=False):
        under_way = sorted(workspace.under_way(missing - set(fatal)))
        in_vain = 0 if under_way or len(missing) < left else in_vain + 1
        if in_vain == _VAIN:
            raise WorkerError("worker processes end before they have begun a shard (out of memory?); try --jobs 1")
        left = len(missing)
        for file in under_way:
            if not any(attempt({file}, apart=True) for _ in range(_CHANCES)):
                fatal.append(file)
    if fatal:
        source = _source_at_fault(next(plan.shards({fatal[0]})), options, skip)
        raise WorkerError(
            f"writing {', '.join(fatal)} killed its worker every time (out of memory?), at the source"
            f" {display(source)}. All other shards are done: run the same command again to go on"
        )


def _write_alone(spec: ShardSpec, stem: str, **settings: Any) -> ShardEntry:
    """Write a shard on a cluster, which may give it to a second worker while a first, thought dead, still writes it."""
    own = f"{stem}{OWN_MARK}{token_hex(4)}"
    entry = write_shard(spec, own, **settings)
    try:
        for suffix in (*BESIDE, ".shard"):
            syscalls.rename(own + suffix, stem + suffix)
    except OSError as error:
        raise OutputError.from_os("finish", stem, error) from error
    return entry


def _source_at_fault(spec: ShardSpec, options: Options, skip: bool) -> bytes:
    """Which source of a shard kills its worker: half of the records are tried, and half of the half, and so on."""
    while len(spec) > 1:
        half = spec.part(0, len(spec) // 2)
        try:
            list(pool.run_once(_try, [(half, skip)], jobs=1, backend=options.backend, apart=True))
            spec = spec.part(len(spec) // 2, len(spec))
        except WorkerError:
            spec = half
    return spec.columns[0].paths[int(spec.columns[0].sources[0])]


class _Nowhere:
    def write(self, data: memoryview) -> None:
        """Encoded to see whether it can be."""


def _try(spec: ShardSpec, skip: bool) -> None:
    encode_shard(spec, _Nowhere(), {}, skip)
