"""Verifying: every byte of a data set against its manifest, read from the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

from npy2tfrecord.checking.comparer import compare
from npy2tfrecord.conversion.converter import Conversion
from npy2tfrecord.conversion.recorded_options import options_of
from npy2tfrecord.conversion.surveyor import keep_small_files
from npy2tfrecord.errors import ConflictError, DamageError, UsageError, display
from npy2tfrecord.formats.example import parse_example
from npy2tfrecord.formats.manifest import INDEX_DIR, TAIL_BYTES, Manifest, ShardInfo, index_name, keys_name
from npy2tfrecord.formats.neighbours import neighbour_files
from npy2tfrecord.formats.shard import (
    Content,
    ContentHash,
    check_example,
    index_limit,
    key_of,
    keys_limit,
    parse_keys,
    records_in,
)
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Options, Sources, anchored, parse_place, parse_sources
from npy2tfrecord.options import Path as AnyPath
from npy2tfrecord.paths import is_bucket
from npy2tfrecord.storage import set_files
from npy2tfrecord.storage.set_files import SetFiles, sequential
from npy2tfrecord.writing.encoding import forget_buffers

_BYTES_FOR_PROCESSES = 48 * 10**6
_SHOWN = 20
_THREADS = 16  # that look at files, with `quick`
_DRAINED_BYTES = 2**20


def verify(
    out: str | os.PathLike[str],
    *,
    source: Sources | None = None,
    labels: str | os.PathLike[str] | None = None,
    split: str | os.PathLike[str] | None = None,
    not_in: AnyPath | Sequence[AnyPath] = (),
    repair: bool = False,
    quick: bool = False,
    jobs: int | None = None,
    backend: str = "loky",
    scheduler: str | None = None,
    in_flight: int | None = None,
    repaired: Callable[[str], None] | None = None,
) -> Manifest:
    """Check that a data set is whole: every shard, record and index is what the manifest says.

    With `source`, every record is also compared with what its source makes now; `labels` and `split` are the files of
    labels and of splits if the conversion had them, and `not_in` its earlier data sets. With `repair`, damaged shards
    are written again from the sources, to the bytes they had, and `repaired` is called with each damage that is no
    more. With `quick`, only the sizes of files and the last bytes of shards are compared, which reads next to nothing.
    `jobs`, `backend`, `scheduler` and `in_flight` are those of `convert`.

    Returns the manifest. Raises `DamageError` that lists what is damaged: shard, record, offset, key, and the source
    if it is known; `UsageError` when there is no data set.
    """
    path = parse_place(out, "data set")
    path = path if pool.is_local(backend) or is_bucket(path) else os.path.abspath(path)
    manifest = set_files.load_manifest(path)
    if repair and source is None:
        raise UsageError("repair needs the sources: --repair --source SOURCE...")
    if quick and source is not None:
        raise UsageError("--quick reads no records; leave it out to compare them with the sources")
    files = set_files.files_of(path, links=False)
    damage = _check_names(path, files, manifest)
    if quick:
        _raise_if(path, damage + _listed(_check_neighbours(files, manifest) | _check_quickly(files, manifest)))
        return manifest
    if pool.is_local(backend) and manifest.total_bytes < _BYTES_FOR_PROCESSES:
        jobs = 1
    running = Options(jobs=jobs, backend=backend, scheduler=scheduler, in_flight=in_flight)
    jobs = pool.effective_jobs(jobs)
    damaged = _check_neighbours(files, manifest)
    needed = () if source is None else anchored(parse_sources(source), backend)
    with pool.connected(
        backend, scheduler, jobs, [*([] if is_bucket(path) else [os.fsencode(path)]), *(each.path for each in needed)]
    ):
        damaged |= _check_shards(files, manifest, jobs, backend)
        if source is not None:
            options = options_of(manifest.options, {"labels": labels, "split": split}, running)
            options = replace(options, not_in=_earlier_sets(manifest, not_in))  # type: ignore[arg-type]
            if repair and damaged:
                manifest = Conversion(source, path, options).run(damaged=frozenset(damaged))
                if repaired is not None:
                    for finding in _listed(damaged):
                        repaired(finding)
                damaged = {}
            else:
                for file, found in _compare(path, manifest, source, options, jobs):
                    damaged.setdefault(file, []).extend(found)
    _raise_if(path, damage + _listed(damaged))
    return manifest


def _raise_if(path: str, damage: list[str]) -> None:
    """Raise `DamageError` that lists what is damaged, if anything is."""
    if damage:
        more = f"\n  … and {len(damage) - _SHOWN} more" if len(damage) > _SHOWN else ""
        raise DamageError(f"{display(path)} is damaged:\n  " + "\n  ".join(damage[:_SHOWN]) + more)


def _listed(damaged: dict[str, list[str]]) -> list[str]:
    return [finding for file in sorted(damaged) for finding in damaged[file]]


def _check_shards(files: SetFiles, manifest: Manifest, jobs: int, backend: str) -> dict[str, list[str]]:
    """What is wrong with the shards, by file."""
    tasks = ((files, manifest, shard) for shard in manifest.shards)
    jobs = min(jobs, max(1, len(manifest.shards)))
    return {file: found for file, found in pool.run(_check_shard, tasks, jobs=jobs, backend=backend) if found}


def _check_quickly(files: SetFiles, manifest: Manifest) -> dict[str, list[str]]:
    """What the sizes of the files and the last bytes of the shards show."""

    def check(shard: ShardInfo) -> list[str]:
        try:
            file = files.open(shard.file)
            if file.size != shard.bytes:
                return [f"{shard.file}: it has {file.size} bytes, the manifest says {shard.bytes}"]
            tail = memoryview(bytearray(min(file.size, TAIL_BYTES)))
            found = tail[: file.read_into(tail, file.size - len(tail))].hex() if tail else ""
            file.close()
            if found != shard.tail:
                return [f"{shard.file}: its last bytes are {found}, the manifest says {shard.tail}"]
        except OSError as error:
            return [f"{shard.file}: {error.strerror or error}"]
        for name in (index_name(shard.file), keys_name(shard.file)):
            try:
                files.open(name).close()
            except OSError as error:
                return [f"{name}: {error.strerror or error}"]
        return []

    with ThreadPoolExecutor(_THREADS) as executor:
        found = executor.map(check, manifest.shards)
        return {shard.file: problems for shard, problems in zip(manifest.shards, found, strict=True) if problems}


def _earlier_sets(manifest: Manifest, paths: AnyPath | Sequence[AnyPath]) -> AnyPath | Sequence[AnyPath]:
    """The data sets whose keys the conversion left out. Raises `UsageError` where they must be named, or must not."""
    if not paths and manifest.sources.get("not_in") is not None:
        raise UsageError("the data set holds what earlier ones lacked: name them with --not-in SET")
    return paths


def _compare(
    path: str, manifest: Manifest, source: Sources, options: Options, jobs: int
) -> Iterator[tuple[str, list[str]]]:
    """What differs between the shards and the sources, by shard."""
    with keep_small_files(options) or nullcontext() as kept:
        try:
            planned = Conversion(source, path, options).plan_like(manifest, kept)
        except ConflictError as error:
            raise DamageError(str(error)) from None
        try:
            yield from compare(planned, path, options, min(jobs, max(1, len(manifest.shards))))
        finally:
            forget_buffers()


def _check_names(path: str, files: SetFiles, manifest: Manifest) -> list[str]:
    """What is in the directory that is not of this data set: a reader that looks for names would take it in."""
    known = {shard.file for shard in manifest.shards}
    try:
        names = [name for name in files.names() if "/" not in name]
    except OSError as error:
        return [f"{display(path)}: its files can't be listed: {error.strerror or error}"]
    strangers = sorted(name for name in names if ".tfrecord" in name and name not in known)
    damage = [f"{display(name)}: not in the manifest" for name in strangers]
    if not is_bucket(path) and os.path.islink(os.path.join(path, INDEX_DIR)):
        damage.append(f"{INDEX_DIR}: a link, expected a directory")
    return damage


def _check_neighbours(files: SetFiles, manifest: Manifest) -> dict[str, list[str]]:
    """What is wrong with the files beside the manifest: they follow from it."""
    damaged = {}
    for name, expected in neighbour_files(manifest).items():
        try:
            if files.read(name, len(expected) + 1) != expected:
                damaged[name] = [f"{name}: is not what follows from the manifest"]
        except OSError as error:
            damaged[name] = [f"{name}: {error.strerror or error}"]
    return damaged


def _check_shard(files: SetFiles, manifest: Manifest, shard: ShardInfo) -> tuple[str, list[str]]:
    """What is wrong with one shard and its index: at most one finding, the first."""
    lines: list[bytes] = []
    keys: list[bytes] = []
    problem = ""
    try:
        file, seen = files.open(shard.file), ContentHash()
        file.forget()
        packed = sequential(file, seen.update)
        for record in records_in(packed, manifest.compression):
            lines.append(b"%d %d\n" % (record.offset, record.size))
            key = b""
            try:
                example = parse_example(record.data)
                key = key_of(example)
                keys.append(key)
                check_example(example, manifest)
            except DamageError as error:
                where = f"record {record.number} at offset {record.offset}"
                raise DamageError(f"{where}, key {display(key)!r}: {error}") from None
            if len(lines) > shard.examples:
                break
        while packed.read(_DRAINED_BYTES):
            pass
        problem = _content_problem(seen.content, shard)
        if len(lines) != shard.examples:
            count = len(lines) if len(lines) < shard.examples else "more"
            problem = f"there are {count} records, the manifest says {shard.examples}"
    except DamageError as error:
        return shard.file, [f"{shard.file}: {error}"]
    except OSError as error:
        return shard.file, [f"{shard.file}: {error.strerror or error}"]
    differs = _check_index(files, shard, lines)
    moved, other = _check_keys(files, manifest, shard, keys)
    if problem:
        where = "verify with --source to find the record"
        if moved is not None:
            where = f"record {moved}, key {display(keys[moved])!r}, is not the one that was written there"
        return shard.file, [f"{shard.file}: every record is whole, but {problem}; {differs or where}"]
    return shard.file, [differs or other] if differs or other else []


def _content_problem(found: Content, shard: ShardInfo) -> str:
    """Where a shard's bytes are not those that were written; nothing when they are."""
    if found.bytes != shard.bytes:
        return f"it has {found.bytes} bytes, the manifest says {shard.bytes}"
    if found.hash != shard.hash:
        return f"its content is not what was written (hash {found.hash}, not {shard.hash})"
    if found.tail != shard.tail:
        return f"its last bytes are {found.tail}, the manifest says {shard.tail}"
    return ""


def _check_index(files: SetFiles, shard: ShardInfo, lines: list[bytes]) -> str:
    """Where the index is not what the records make; nothing when it is."""
    index = index_name(shard.file)
    try:
        differs = _first_difference(files.read(index, index_limit(shard) + 1), lines)
    except OSError as error:
        differs = error.strerror or str(error)
    return f"{index}: {differs}" if differs else ""


def _check_keys(files: SetFiles, manifest: Manifest, shard: ShardInfo, found: list[bytes]) -> tuple[int | None, str]:
    """The first record with another key than was written there, or what is wrong with the file of keys."""
    name = keys_name(shard.file)
    try:
        data = files.read(name, keys_limit(shard, manifest.compression) + 1)
        known = parse_keys(data, shard, manifest.compression)
    except DamageError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{name}: {error.strerror or error}"
    for record, (there, key) in enumerate(zip(known, found, strict=False)):
        if there != key:
            line = f"line {record + 1} reads {display(there)!r}"
            return record, f"{name}: {line}, the record has the key {display(key)!r}"
    return None, ""


def _first_difference(data: bytes, lines: list[bytes]) -> str:
    """Where an index is not what the records make; nothing when it is."""
    if data == b"".join(lines):
        return ""
    position = 0
    for number, line in enumerate(lines):
        if data[position : position + len(line)] != line:
            found = data[position : position + 60].split(b"\n")[0]
            return f"line {number + 1}, of record {number}, reads {found!r}, the shard says {line[:-1]!r}"
        position += len(line)
    last = f"record {len(lines) - 1}" if lines else "none: the shard has no records"
    return f"{len(data) - position} bytes or more behind its last line, of {last}"
