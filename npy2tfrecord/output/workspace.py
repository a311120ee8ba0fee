"""A run's own directory inside the output: its lock, its plan, what is done, and unfinished shards.

Workers write temporary files here and nothing else. Only the process that runs the conversion gives
them their final names, so when it is gone nothing more can appear. A shard is committed in the
order write, fsync, close, rename, fsync of the directories, entry in the journal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from npy2tfrecord import cleanup, syscalls
from npy2tfrecord.errors import ConflictError, DamageError, OutputError, UsageError, display
from npy2tfrecord.formats import manifest as manifests
from npy2tfrecord.formats import manifest_parsing
from npy2tfrecord.formats.manifest import BESIDE, Manifest, ShardInfo, beside
from npy2tfrecord.formats.shard import is_whole
from npy2tfrecord.jobs import pool
from npy2tfrecord.options import Options
from npy2tfrecord.output import temporaries
from npy2tfrecord.output.journal import decode_entries, encode_entries, parse_plan
from npy2tfrecord.output.place import DIRECTORY, NEIGHBOURS, SHARD, Candidate, Jobs, Write
from npy2tfrecord.planning.plan import ShardSpec
from npy2tfrecord.writing.shard_entry import ShardEntry

if TYPE_CHECKING:
    from npy2tfrecord.planning.records import CopySpec

_PLAN, _JOURNAL, _LOCK, _SCAN, _SCANNING = "plan.json", "journal", "lock", "scan", "scanning"
_LOCK_ATTEMPTS = 20
_LOCK_SECONDS = 2.0  # workers of a run that was killed have its lock until they notice, within half a second
_TEMPORARY = re.compile(r"(\d{5}-of-\d{5}-)?[0-9a-f]{16}-.+\.(shard|idx|keys|file)")
_OF_PART = re.compile(rf"({_JOURNAL}|{_LOCK})-(\d{{5}})-of-(\d{{5}})")
_SHOWN = 3  # names of strangers, in a message


class Workspace:
    """The output directory `out`, taken by this run from `open` to `close`.

    A run of a `part` of the plan takes it together with those of other parts: it has a lock, a journal and temporary
    names of its own. A run of the whole plan takes it alone.
    """

    def __init__(self, out: str, *, sync: bool, part: tuple[int, int] | None = None) -> None:
        self.out = out
        self.path = os.path.join(out, DIRECTORY)
        self._sync = sync
        self._part = "" if part is None else f"{part[0]:05d}-of-{part[1]:05d}"
        self._run = (f"{self._part}-" if self._part else "") + os.urandom(8).hex()
        self._lock = self._part_lock = -1
        self._begun: bytes | None = None  # the file of the plan that this run follows
        self._at_sudden_end = contextlib.ExitStack()
        self._made: list[str] = []  # directories that were not there
        self._is_new = False  # nothing of an earlier run is kept

    # --- taking and leaving it

    def open(self) -> None:
        """Make the directories and take the lock. Raises `ConflictError` when another run has it."""
        try:
            above = os.path.abspath(self.out)
            while not os.path.lexists(above := os.path.dirname(above)) and above != os.sep:
                self._made.insert(0, above)
            index = os.path.join(self.out, manifests.INDEX_DIR)
            wanted = [
                *self._made,
                self.out,
                self.path,
                index,
            ]  # ours before the index: it marks the directory as this program's
            self._made += [path for path in (self.out, index) if not os.path.lexists(path)]
            for attempt in range(_LOCK_ATTEMPTS):
                for path in wanted:
                    syscalls.make_directory(path)
                try:
                    self._lock = syscalls.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:  # another run ended well just now, and took its directory with it
                    if attempt == _LOCK_ATTEMPTS - 1:
                        raise
                    continue
                self._lock = self._wait_for_lock(self._lock, shared=bool(self._part))
                if self._is_the_lock():
                    break
                syscalls.close(self._lock)
                self._lock = -1
        except ConflictError:
            raise
        except OSError as error:
            raise OutputError.from_os("make the directory", self.out, error) from error
        if self._lock < 0:
            raise ConflictError(f"{display(self.out)}: other runs come and go here")
        if self._part:
            self._take_part_lock()
        self._at_sudden_end.enter_context(cleanup.at_sudden_end(partial(self._remove_temporaries, of_all_runs=False)))
        with contextlib.suppress(OSError):  # for the message above only
            for handle in (self._lock, self._part_lock)[: 2 if self._part else 1]:
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        try:
            self._remove_temporaries(of_all_runs=True)
        except OSError:
            self.close()
            raise

    @property
    def _lock_path(self) -> str:
        return os.path.join(self.path, _LOCK)

    def _take_part_lock(self) -> None:
        path = os.path.join(self.path, f"{_LOCK}-{self._part}")
        try:
            handle = syscalls.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._part_lock = self._wait_for_lock(handle, shared=False)
        except BaseException as error:
            syscalls.close(self._lock)
            self._lock = -1
            if isinstance(error, OSError) and not isinstance(error, ConflictError):
                raise OutputError.from_os("make the lock", path, error) from error
            raise

    def _wait_for_lock(self, handle: int, *, shared: bool) -> int:
        """The handle, once it has its lock. Raises `ConflictError` when another run keeps it."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _take_lock(handle, shared=shared):
            if time.monotonic() > deadline:
                owner = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
                syscalls.close(handle)
                self._lock = self._lock if handle != self._lock else -1
                raise ConflictError(f"{display(self.out)}: another run is at work here ({display(owner) or 'unknown'})")
            time.sleep(0.1)
        return handle

    def _is_the_lock(self) -> bool:
        """Whether what was locked is still the lock: a run that ends well removes it."""
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self._lock_path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Release the lock. Unfinished files of this run are removed, finished shards stay for the next run."""
        if self._lock < 0:
            return
        self._at_sudden_end.close()
        handles = [handle for handle in (self._part_lock, self._lock) if handle >= 0]
        self._lock = self._part_lock = -1
        with contextlib.ExitStack() as stack:  # all of them, even if one fails
            for handle in handles:
                stack.callback(syscalls.close, handle)
            self._remove_temporaries(of_all_runs=False)

    def abandon(self) -> None:
        """Remove every trace of a run that can't succeed. Shards that an earlier run finished stay.

        A part leaves what other parts may need: it removes something only where it is alone and nothing is begun.
        """
        if self._lock < 0:
            return
        if self._part:
            if self.plan() is not None or not _take_lock(self._lock, shared=False):
                return
        elif not self._is_new:
            return
        else:
            self.clear()
        self._remove_all()
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                syscalls.rmdir(path)

    def _remove_all(self) -> None:
        self._remove_temporaries(of_all_runs=True)
        for name in (*self._journals(), _SCAN, _SCANNING, _PLAN, *self._of_parts(_LOCK), _LOCK):
            _unlink(os.path.join(self.path, name))
        with contextlib.suppress(OSError):
            syscalls.rmdir(self.path)

    def _remove_temporaries(self, *, of_all_runs: bool) -> None:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.path):
                whose = self._run if not of_all_runs else f"{self._part}-" if self._part else ""
                if _TEMPORARY.fullmatch(name) and name.startswith(whose):
                    _unlink(os.path.join(self.path, name))

    # --- what is there

    @property
    def is_finished(self) -> bool:
        """Whether there is a manifest, whole or not."""
        return os.path.lexists(os.path.join(self.out, manifests.FILE_NAME))

    def found_manifest(self) -> Manifest | None:
        """The manifest of a finished conversion, None when there is none."""
        if not self.is_finished:
            return None
        try:
            return manifest_parsing.load(self.out)
        except (DamageError, UsageError) as error:
            raise ConflictError(f"{error}. --overwrite replaces it") from None

    def check_own(self) -> None:
        """Raise `ConflictError` when the output directory holds files, but no data set, finished or begun."""
        try:
            names = os.listdir(self.out)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise ConflictError(f"{display(self.out)} is a file; expected a directory, or a name not used") from None
        except OSError as error:
            raise OutputError.from_os("look into", self.out, error) from error
        if names and DIRECTORY not in names and manifests.FILE_NAME not in names:
            shown = ", ".join(map(display, sorted(names)[:_SHOWN]))
            raise ConflictError(
                f"{display(self.out)} holds other files ({shown}{', …' * (len(names) > _SHOWN)});"
                " expected an empty or new directory"
            )

    def check_space(self, needed: int, at_once: int) -> None:
        """Raise `OutputError` when the disk has no room for `needed` bytes, which stay here, all of them."""
        check_room(self.out, needed)

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The sizes of those files of the data set that are there."""
        sizes = {}
        for name in names:
            with contextlib.suppress(OSError):
                sizes[name] = os.stat(os.path.join(self.out, name)).st_size
        return sizes

    def whole_shards(self, candidates: Iterable[Candidate], options: Options, jobs: Jobs) -> set[str]:
        """The shards that are there, with their size, content, index and keys: each is read."""
        tasks = [(self.out, entry.shard, options.compression, keys_hash) for entry, keys_hash in candidates]
        size = sum(shard.bytes for _, shard, _, _ in tasks)
        found = pool.run(is_whole, tasks, jobs=jobs(size, len(tasks)), backend=options.backend)
        return {file for file, whole in found if whole}

    @property
    def has_leftovers(self) -> bool:
        """Whether there is something besides the data set."""
        return os.path.isdir(self.path)

    def writer(self, write: Callable[..., ShardEntry], options: Options, replaced: Mapping[str, ShardInfo]) -> Write:
        """What a worker calls to have a shard written, given what writes it on this machine."""
        return write if pool.is_local(options.backend) else partial(_write_alone, write)

    def plan(self) -> dict[str, Any] | None:
        """The plan of an unfinished run, None without one."""
        try:
            with open(os.path.join(self.path, _PLAN), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        self._begun = data
        return parse_plan(data)

    def entries(self) -> dict[str, ShardEntry]:
        """The shards that are committed, by file."""
        entries: dict[str, ShardEntry] = {}
        if self._begun is None and self.plan() is None:
            return entries
        for name in self._journals():
            with contextlib.suppress(FileNotFoundError), open(os.path.join(self.path, name), "rb") as file:
                entries |= {entry.file: entry for entry in decode_entries(file, self._begun or b"")}
        return entries

    def _journals(self) -> list[str]:
        """The names of all journals that there may be."""
        return [_JOURNAL, *self._of_parts(_JOURNAL)]

    def _of_parts(self, kind: str) -> list[str]:
        with contextlib.suppress(OSError):
            found = filter(None, map(_OF_PART.fullmatch, sorted(os.listdir(self.path))))
            return [match[0] for match in found if match[1] == kind]
        return []

    def part_counts(self) -> set[int]:
        """Into how many parts the plan was divided by those who have worked here."""
        matches = map(_OF_PART.fullmatch, self._of_parts(_JOURNAL) + self._of_parts(_LOCK))
        return {int(match[3]) for match in matches if match}

    # --- the scan that parts share

    @property
    def scan_path(self) -> str:
        return os.path.join(self.path, _SCAN)

    @property
    def scanning_path(self) -> str:
        """The file that the part has which is scanning."""
        return os.path.join(self.path, _SCANNING)

    def write_scan(self, data: bytes) -> None:
        """Give the other parts the scan."""
        self._replace(os.path.join(DIRECTORY, _SCAN), data)

    def forget_scan(self) -> None:
        """Remove the scan: the next part scans anew."""
        _unlink(self.scan_path)

    # --- changing it

    def begin(self, plan: dict[str, Any]) -> None:
        """Record the plan of this run, before it writes anything."""
        for name in [f"{_JOURNAL}-{self._part}"] if self._part else self._journals():
            _unlink(os.path.join(self.path, name))
        self._is_new = not os.path.lexists(os.path.join(self.out, manifests.FILE_NAME))
        self._begun = json.dumps(plan, indent=1).encode() + b"\n"
        self._replace(os.path.join(DIRECTORY, _PLAN), self._begun)
        self._sync_directories(self.path)

    def clear(self) -> None:
        """Remove an earlier data set or unfinished run: the manifest first, then its shards, then the rest."""
        names: set[str] = set()
        with contextlib.suppress(DamageError, UsageError):
            names |= {shard.file for shard in manifest_parsing.load(self.out).shards}
        names |= set(self.entries())
        names |= {str(file) for file in (self.plan() or {}).get("files", ())}
        _unlink(os.path.join(self.out, manifests.FILE_NAME))
        self._sync_directories(self.out)
        for name in NEIGHBOURS:
            _unlink(os.path.join(self.out, name))
        for name in names:
            if SHARD.fullmatch(name) and os.sep not in name:
                _unlink(os.path.join(self.out, name))
                for suffix in BESIDE:
                    _unlink(os.path.join(self.out, beside(name, suffix)))
        for name in (*self._journals(), _SCAN, _PLAN):
            _unlink(os.path.join(self.path, name))
        self._sync_directories(self.out, self.path)
        self._begun = None

    def stem(self, file: str) -> str:
        """The path of a shard while a worker writes it: a name that no other run uses and no reader looks at."""
        return temporaries.stem(self.path, self._run, file)

    def check_shared(self, backend: str) -> None:
        """Raise `UsageError` when a worker of a cluster does not see this directory."""
        if backend == "dask":
            from npy2tfrecord.jobs import dask_cluster

            dask_cluster.check_output(os.path.abspath(self.path), self._run)

    def under_way(self, files: Iterable[str]) -> list[str]:
        """Those of `files` that this run has begun to write and not committed."""
        return temporaries.under_way(self.path, self._run, files)

    def written_bytes(self) -> int:
        """Bytes of this run's unfinished shards, as they grow."""
        return temporaries.written_bytes(self.path, self._run)

    def commit(self, entries: Iterable[ShardEntry]) -> None:
        """Give finished shards their names and note them in the journal."""
        finished = list(entries)
        try:
            for entry in finished:
                for suffix in BESIDE:
                    syscalls.rename(self.stem(entry.file) + suffix, os.path.join(self.out, beside(entry.file, suffix)))
                syscalls.rename(self.stem(entry.file) + ".shard", os.path.join(self.out, entry.file))
            self._sync_directories(self.out, os.path.join(self.out, manifests.INDEX_DIR))
            journal = f"{_JOURNAL}-{self._part}" if self._part else _JOURNAL
            handle = syscalls.open(os.path.join(self.path, journal), syscalls.APPEND_FLAGS, 0o666)
            try:
                syscalls.write_all(handle, encode_entries(finished, self._begun or b""))
                if self._sync:
                    syscalls.fsync(handle)
            finally:
                syscalls.close(handle)
        except OSError as error:
            raise OutputError.from_os("finish a shard in", self.out, error) from error

    def finish(self, files: Mapping[str, bytes], entries: Mapping[str, ShardEntry]) -> None:
        """Write the files that complete the data set, the last one last of all, and remove this directory."""
        try:
            if files:
                *others, (name, data) = files.items()
                for other in NEIGHBOURS:
                    if other not in files:
                        _unlink(os.path.join(self.out, other))
                for other, content in others:
                    self._replace(other, content)
                self._sync_directories(self.out)
                self._replace(name, data)
                self._sync_directories(self.out)
            self._remove_all()
        except OSError as error:
            raise OutputError.from_os("finish", self.out, error) from error

    def _replace(self, name: str, data: bytes) -> None:
        temporary = os.path.join(self.path, f"{self._run}-{os.path.basename(name)}.file")
        try:
            syscalls.write_file(temporary, data, sync=self._sync)
            syscalls.rename(temporary, os.path.join(self.out, name))
        except OSError as error:
            raise OutputError.from_os("write", os.path.join(self.out, name), error) from error

    def _sync_directories(self, *paths: str) -> None:
        if self._sync:
            for path in paths:
                syscalls.sync_directory(path)


def check_room(directory: str, needed: int) -> None:
    """Raise `OutputError` when the disk of a directory has no room for `needed` bytes.

    Some file systems (FUSE mounts, tmpfs without a limit) report 0 blocks, or 0 free ones, and have room.
    """
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if status.f_blocks and status.f_bfree and needed > free:
        raise OutputError(
            f"{display(directory)}: {needed} bytes are to be written, {free} are free on the disk."
            " Make room and run the same command again."
        )


def _write_alone(write: Write, spec: ShardSpec | CopySpec, stem: str) -> ShardEntry:
    """Write a shard on a cluster, which may give it to a second worker while a first, thought dead, still writes it."""
    own = f"{stem}{temporaries.OWN_MARK}{os.urandom(4).hex()}"
    entry = write(spec, own)
    try:
        for suffix in (*BESIDE, ".shard"):
            syscalls.rename(own + suffix, stem + suffix)
    except OSError as error:
        raise OutputError.from_os("finish", stem, error) from error
    return entry


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        syscalls.unlink(path)


def _take_lock(handle: int, *, shared: bool) -> bool:
    """Whether this process got the lock, alone or with others.

    Without locks, a file system gives it to everyone: nothing depends on it.
    """
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
