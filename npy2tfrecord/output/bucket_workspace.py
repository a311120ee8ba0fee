"""A run's own objects below the output in a bucket: its plan, and the journal that lists what is done.

A bucket has no locks and no names to give a file later. An object is there when the last byte of it is, so a worker
puts a shard under its final name, index and keys first, and that is its commit. What keeps two runs from disturbing
each other is that an object can be created where there is none, by one of them:

- `plan.json` is created before anything else. Two runs of the same plan have the same bytes there, and each writes the
  same bytes everywhere: they waste each other's time and nothing else. A run of another plan is refused.
- The manifest is created last of all, after a list of the bucket has shown every shard as it was put.
- The journal is written in pieces, each an object that one run creates and no one changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from npy2tfrecord.errors import ConflictError, DamageError, Error, OutputError, UsageError, display
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.manifest import BESIDE, FILE_NAME, MAX_FILE_BYTES, Manifest, ShardInfo, beside
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Options
from npy2tfrecord.output import temporaries
from npy2tfrecord.output.journal import decode_entries, encode_entries, parse_plan
from npy2tfrecord.output.place import DIRECTORY, NEIGHBOURS, SHARD, Candidate, Jobs, Write
from npy2tfrecord.output.scratch import Scratch
from npy2tfrecord.output.uploader import is_upload, upload_by_own_scratch, write_and_upload
from npy2tfrecord.output.workspace import check_room
from npy2tfrecord.sources.scan_file import decode_scan, encode_scan
from npy2tfrecord.sources.scanner import Scan
from npy2tfrecord.storage.objects import ObjectInfo, Prefix
from npy2tfrecord.writing.shard_entry import ShardEntry, Upload

_PLAN, _SCAN = f"{DIRECTORY}/plan.json", f"{DIRECTORY}/scan"
_MOST_SCAN_BYTES = 2**34
_JOURNAL = re.compile(rf"{re.escape(DIRECTORY)}/journal-(?:(\d{{5}})-of-(\d{{5}})-)?[0-9a-f]{{16}}-\d{{6}}")
_COMMITS_A_PIECE, _SECONDS_A_PIECE = 64, 10.0  # of the journal; what is in none yet is lost when the run is killed
_READS_AT_ONCE = 8
_SHOWN = 3  # names of strangers, in a message


class BucketWorkspace:
    """The output `out`, the URL of a place in a bucket, taken by this run from `open` to `close`."""

    def __init__(self, out: str, options: Options, part: tuple[int, int] | None) -> None:
        self.out = out
        self._prefix = Prefix(out)
        self._single_writer = options.assume_single_writer
        self._is_local = pool.is_local(options.backend)
        self._part = "" if part is None else f"{part[0]:05d}-of-{part[1]:05d}-"
        self._run = secrets.token_hex(8)
        # Workers of a cluster may be in another directory.
        self._scratch_parent = None if options.scratch is None else os.path.abspath(options.scratch)
        self._scratch = Scratch(self._scratch_parent, self._run)
        self._begun: bytes | None = None  # the file of the plan that this run follows
        self._is_new = False  # nothing of an earlier run is kept
        self._replaced: bytes | None = None  # the manifest that was there when this run began
        self._pending: list[ShardEntry] = []  # committed, and in no piece of the journal yet
        self._pieces = 0
        self._written_at = time.monotonic()

    # --- taking and leaving it

    def open(self) -> None:
        """Make the scratch directory. Raises `UsageError` for a store that would let two runs create one object."""
        self._scratch.open()
        try:
            if self._single_writer:
                self._prefix = replace(self._prefix, creates=False)
            elif not self._prefix.refuses_second(f"{DIRECTORY}/probe-{self._run}"):
                raise UsageError(
                    f"{display(self.out)}: this store creates an object that is there already, so that two runs could"
                    " mix their shards. Where no other run writes there, use --assume-single-writer"
                )
        except BaseException:
            self._scratch.close()
            raise

    def close(self) -> None:
        """Write what the journal lacks, and remove the scratch directory."""
        try:
            self._write_journal()
        finally:
            self._scratch.close()

    def abandon(self) -> None:
        """Remove every trace of a run that can't succeed. Shards that an earlier run finished stay."""
        if self._part:  # others may need all but a scan that nothing follows
            if self.plan() is None:
                self.forget_scan()
        elif self._is_new:
            self._pending = []
            self.clear()
            self._remove_own()

    def _remove_own(self) -> None:
        """Remove the objects of all runs, which are of use no more: the plan last, so that none follows another."""
        names = [info.name for info in self._prefix.list_objects(DIRECTORY)]
        self._prefix.delete(name for name in names if name != _PLAN)
        self._prefix.delete(name for name in names if name == _PLAN)

    # --- what is there

    @property
    def is_finished(self) -> bool:
        """Whether there is a manifest, whole or not."""
        with self._asking("look for"):
            return self._has(FILE_NAME)

    @property
    def has_leftovers(self) -> bool:
        """Whether there is something of a run besides the data set."""
        with self._asking("look into"):
            return bool(self._prefix.list_objects(DIRECTORY))

    def _has(self, name: str) -> bool:
        try:
            self._prefix.head(name)
        except FileNotFoundError:
            return False
        return True

    def found_manifest(self) -> Manifest | None:
        """The manifest of a finished conversion, None when there is none."""
        where = self._prefix.at(FILE_NAME)
        with self._asking("read the manifest of"):
            try:
                data = self._prefix.read(FILE_NAME, limit=MAX_FILE_BYTES)
            except FileNotFoundError:
                return None
        try:
            found = manifest_parsing.decode(data)
        except (DamageError, UsageError) as error:
            raise ConflictError(f"{display(where)}: {error}. --overwrite replaces it") from None
        self._replaced = data
        return found

    def check_own(self) -> None:
        """Raise `ConflictError` when there are objects below the prefix, but no data set, finished or begun."""
        with self._asking("look into"):
            if self._has(FILE_NAME) or self._has(_PLAN):
                return
            names = self._prefix.first_names(_SHOWN + 1, outside=f"{DIRECTORY}/")
        if names:
            shown = ", ".join(map(display, names[:_SHOWN]))
            raise ConflictError(
                f"{display(self.out)} holds other objects ({shown}{', …' * (len(names) > _SHOWN)});"
                " expected a prefix that is not used"
            )

    @contextlib.contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """What the store refuses is an `OutputError`."""
        try:
            yield
        except Error:
            raise
        except OSError as error:
            raise OutputError.from_os(doing, self.out, error) from None

    def check_space(self, needed: int, at_once: int) -> None:
        """Raise `OutputError` when scratch has no room for the `at_once` bytes of unfinished shards."""
        if self._is_local:
            check_room(self._scratch.path, at_once)

    def plan(self) -> dict[str, Any] | None:
        """The plan of an unfinished run, None without one."""
        try:
            data = self._prefix.read(_PLAN, limit=MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        self._begun = data
        return parse_plan(data)

    def entries(self) -> dict[str, ShardEntry]:
        """The shards that are committed, by file. Where several runs wrote one, the entry that the bucket agrees to."""
        if self._begun is None and self.plan() is None:
            return {}
        there = self._listed()
        pieces = [info for info in there.values() if _JOURNAL.fullmatch(info.name)]
        entries: dict[str, ShardEntry] = {}
        with ThreadPoolExecutor(_READS_AT_ONCE) as executor:
            for data in executor.map(self._piece, pieces):
                for entry in decode_entries(data.splitlines(keepends=True), self._begun or b""):
                    if entry.file not in entries or _agrees(there, entry.uploads):
                        entries[entry.file] = entry
        return entries

    def _piece(self, info: ObjectInfo) -> bytes:
        with contextlib.suppress(FileNotFoundError):  # another run has finished, and removed it
            return self._prefix.read(info.name, limit=info.size)
        return b""

    def _listed(self) -> dict[str, ObjectInfo]:
        return {info.name: info for info in self._prefix.list_objects()}

    def part_counts(self) -> set[int]:
        """Into how many parts the plan was divided by those who have worked here."""
        found = (_JOURNAL.fullmatch(info.name) for info in self._prefix.list_objects(DIRECTORY))
        return {int(match[2]) for match in found if match and match[2]}

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The sizes of those objects of the data set that are there."""
        with self._asking("look into"):
            there = self._listed()
        return {name: there[name].size for name in names if name in there}

    def whole_shards(self, candidates: Iterable[Candidate], options: Options, jobs: Jobs) -> set[str]:
        """The shards that a list of the bucket shows as they were put: nothing of them is read."""
        wanted = list(candidates)
        there, whole = self._listed() if wanted else {}, set()
        for entry, keys_hash in wanted:
            if not entry.uploads:  # known from its manifest alone
                names = [entry.file, *(beside(entry.file, suffix) for suffix in BESIDE)]
                is_whole = all(name in there for name in names) and there[entry.file].size == entry.shard.bytes
            else:
                keys = next(upload for upload in entry.uploads if upload.name == beside(entry.file, ".keys"))
                is_whole = _agrees(there, entry.uploads) and keys_hash in (None, keys.hash)
            if is_whole:
                whole.add(entry.file)
        return whole

    def check_shared(self, backend: str) -> None:
        """Nothing has to be shared: each worker asks the bucket itself, and has scratch of its own."""

    # --- the scan that parts share

    def shared_scan(self, identity: str, options: Options, scan: Callable[[], Scan]) -> Scan:
        """The scan that another part has put here, or what `scan` returns, put here for the others.

        Parts that begin before the first one has ended its scan make their own.
        """
        with contextlib.suppress(FileNotFoundError, DamageError):
            there = decode_scan(self._prefix.read(_SCAN, limit=_MOST_SCAN_BYTES), identity, options)
            if there is not None:
                return there
        made = scan()
        self._prefix.put(_SCAN, encode_scan(made, identity))
        return made

    def forget_scan(self) -> None:
        """Remove the scan: the next part scans anew."""
        self._prefix.delete([_SCAN])

    # --- changing it

    def begin(self, plan: dict[str, Any]) -> None:
        """Record the plan of this run, before it writes anything."""
        self._is_new = not self.is_finished
        self._begun = json.dumps(plan, indent=1).encode() + b"\n"
        try:
            self._prefix.create(_PLAN, self._begun)
        except FileExistsError:
            self._is_new = False
            raise ConflictError(
                f"{display(self.out)}: another run has begun here just now, of other data or with other options"
            ) from None

    def clear(self) -> None:
        """Remove an earlier data set or unfinished run: the manifest first, then its shards, then the rest."""
        names: set[str] = set()
        with contextlib.suppress(ConflictError):
            earlier = self.found_manifest()
            names |= {shard.file for shard in earlier.shards} if earlier is not None else set()
        names |= set(self.entries())
        names |= {str(file) for file in (self.plan() or {}).get("files", ())}
        shards = [name for name in names if SHARD.fullmatch(name) and "/" not in name]
        there = self._listed()
        own = [name for name in there if name.startswith(f"{DIRECTORY}/") and name != _PLAN]
        self._prefix.delete([FILE_NAME])
        files = [*NEIGHBOURS, *shards, *(beside(name, suffix) for name in shards for suffix in BESIDE)]
        self._prefix.delete(name for name in files if name in there)
        self._prefix.delete(own)
        self._prefix.delete([_PLAN])
        self._begun = self._replaced = None

    def stem(self, file: str) -> str:
        """The path of a shard in scratch while a worker writes it."""
        return temporaries.stem(self._scratch.path, self._run, file)

    def writer(self, write: Callable[..., ShardEntry], options: Options, replaced: Mapping[str, ShardInfo]) -> Write:
        """What a worker calls to have a shard written to scratch and put into the bucket."""
        quick = partial(write, sync=False, read_back=False)  # scratch is not what lasts
        here = partial(write_and_upload, quick, self._prefix, options.read_back, replaced)
        return here if pool.is_local(options.backend) else partial(upload_by_own_scratch, here, self._scratch_parent)

    def under_way(self, files: Iterable[str]) -> list[str]:
        """Those of `files` that this run has begun to write and not put."""
        return temporaries.under_way(self._scratch.path, self._run, files)

    def written_bytes(self) -> int:
        """Bytes of this run's unfinished shards, as they grow."""
        return temporaries.written_bytes(self._scratch.path, self._run)

    def commit(self, entries: Iterable[ShardEntry]) -> None:
        """Note shards that were put. The journal gets a piece every 64 shards, or with the next one after 10 s."""
        self._pending += entries
        if len(self._pending) >= _COMMITS_A_PIECE or time.monotonic() - self._written_at > _SECONDS_A_PIECE:
            with self._asking("write the journal of"):
                self._write_journal()

    def _write_journal(self) -> None:
        self._written_at = time.monotonic()
        if self._pending:
            name = f"{DIRECTORY}/journal-{self._part}{self._run}-{self._pieces:06d}"
            self._prefix.create(name, encode_entries(self._pending, self._begun or b""))
            self._pieces, self._pending = self._pieces + 1, []

    def finish(self, files: Mapping[str, bytes], entries: Mapping[str, ShardEntry]) -> None:
        """Put the files that complete the data set, the manifest last, once all shards are seen; remove all else."""
        with self._asking("finish"):
            self._pending = self._pending if files else []
            self._write_journal()
            if files:
                self._check_all(entries)
                *others, (name, data) = files.items()
                self._prefix.delete(other for other in NEIGHBOURS if other not in files and self._has(other))
                for other, content in others:
                    self._prefix.put(other, content)
                try:
                    self._prefix.create(name, data)
                except FileExistsError:
                    if self._replaced is None or self._prefix.read(name, limit=MAX_FILE_BYTES) != self._replaced:
                        raise ConflictError(
                            f"{display(self.out)}: another run has written {name} meanwhile, of other data or with"
                            " other options"
                        ) from None
                    self._prefix.put(name, data)  # a repair, whose shards are of another compressor
            self._remove_own()

    def _check_all(self, entries: Mapping[str, ShardEntry]) -> None:
        """Raise `OutputError` unless all shards are in the bucket as they were put.

        What another run has put since, of the same plan, may have another ETag. Then its bytes are read.
        """
        there = self._listed()
        for entry in entries.values():
            if not entry.uploads:
                lost = [entry.file] * (entry.file not in there or there[entry.file].size != entry.shard.bytes)
            else:
                changed = (upload for upload in entry.uploads if not _is_there(there, upload))
                lost = [each.name for each in changed if not is_upload(self._prefix, each)]
            if lost:
                raise OutputError(
                    f"{display(self._prefix.at(lost[0]))} is not there as it was put: is another run at work here?"
                    " Run the same command again to resume."
                )


def _agrees(there: Mapping[str, ObjectInfo], uploads: Iterable[Upload]) -> bool:
    return all(_is_there(there, upload) for upload in uploads)


def _is_there(there: Mapping[str, ObjectInfo], upload: Upload) -> bool:
    info = there.get(upload.name)
    return info is not None and (info.size, info.etag) == (upload.size, upload.etag)
