"""What a run needs from the place that it writes to: a directory (`workspace`) or a bucket (`bucket_workspace`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from npy2tfrecord.errors import ConflictError, display
from npy2tfrecord.formats.manifest import Manifest, ShardInfo
from npy2tfrecord.options import Options
from npy2tfrecord.planning.plan import ShardSpec
from npy2tfrecord.writing.shard_entry import ShardEntry

if TYPE_CHECKING:
    from npy2tfrecord.planning.records import CopySpec

DIRECTORY = ".npy2tfrecord"  # of a run's own files, in the output
NEIGHBOURS = ("features.json", "dataset_info.json", "label.labels.txt", "croissant.json")
SHARD = re.compile(r".+-\d{5,7}-of-\d{5,7}\.tfrecord")

Candidate = tuple[ShardEntry, "str | None"]  # a shard that may be whole, with the hash of its keys where it is known
Jobs = Callable[[int, int], int]  # the number of workers for so many bytes in so many tasks
Write = Callable[["ShardSpec | CopySpec", str], ShardEntry]  # writes a shard to files that begin with a stem


class OutputPlace(Protocol):
    """The place `out`, taken by this run from `open` to `close`.

    What a run finished stays for the next one: its plan, its shards, and the journal that lists them.
    """

    out: str

    # --- taking and leaving it

    def open(self) -> None:
        """Take it. Raises `ConflictError` when another run has it, where that can be known."""

    def close(self) -> None:
        """Leave it. Unfinished files of this run are removed."""

    def abandon(self) -> None:
        """Remove every trace of a run that can't succeed. Shards that an earlier run finished stay."""

    # --- what is there

    @property
    def is_finished(self) -> bool:
        """Whether there is a manifest, whole or not."""

    @property
    def has_leftovers(self) -> bool:
        """Whether there is something of a run besides the data set."""

    def found_manifest(self) -> Manifest | None:
        """The manifest of a finished conversion, None when there is none."""

    def check_own(self) -> None:
        """Raise `ConflictError` when the place holds files, but no data set, finished or begun."""

    def plan(self) -> dict[str, Any] | None:
        """The plan of an unfinished run, None without one."""

    def entries(self) -> dict[str, ShardEntry]:
        """The shards that are committed, by file."""

    def part_counts(self) -> set[int]:
        """Into how many parts the plan was divided by those who have worked here."""

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The sizes of those files of the data set that are there."""

    def whole_shards(self, candidates: Iterable[Candidate], options: Options, jobs: Jobs) -> set[str]:
        """The shards that are as their entries say."""

    def check_space(self, needed: int, at_once: int) -> None:
        """Raise `OutputError` when there is no room for `needed` bytes, of which `at_once` are unfinished at a time."""

    def check_shared(self, backend: str) -> None:
        """Raise `UsageError` when a worker of a cluster can't write here."""

    # --- changing it

    def forget_scan(self) -> None:
        """Remove the scan that parts share: the next part scans anew."""

    def begin(self, plan: dict[str, Any]) -> None:
        """Record the plan of this run, before it writes anything."""

    def clear(self) -> None:
        """Remove an earlier data set or unfinished run: the manifest first, then its shards, then the rest."""

    def stem(self, file: str) -> str:
        """The path of a shard while a worker writes it, without its suffix, on a disk."""

    def writer(self, write: Callable[..., ShardEntry], options: Options, replaced: Mapping[str, ShardInfo]) -> Write:
        """What a worker calls to have a shard written, given what writes it on this machine.

        `replaced` are the shards that are to be written again with the same records.
        """

    def under_way(self, files: Iterable[str]) -> list[str]:
        """Those of `files` that this run has begun to write and not committed."""

    def written_bytes(self) -> int:
        """Bytes of this run's unfinished shards, as they grow."""

    def commit(self, entries: Iterable[ShardEntry]) -> None:
        """Note finished shards in the journal, once they have their names."""

    def finish(self, files: Mapping[str, bytes], entries: Mapping[str, ShardEntry]) -> None:
        """Write the files that complete the data set of all `entries`, the last one last, and remove all else.

        Without files only the rest of an earlier run is removed.
        """


def check_rewritten(out: str, shard: ShardInfo, was: ShardInfo) -> None:
    """Raise `ConflictError` unless a shard that was written again holds the records that it held.

    Another compressor makes other bytes of the same records.
    """
    if shard.hash != was.hash and (was.unpacked is None or shard.unpacked != was.unpacked):
        raise ConflictError(
            f"{display(out)}: {shard.file} is lost or damaged, and what its sources make now is not what was there:"
            " they have changed since the conversion. --overwrite converts all anew"
        )
