"""Shards as they were written: what a worker reports, and the journal keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from npy2tfrecord.formats.manifest import ShardInfo, Skipped


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file of a shard as it was put into a bucket: what the store says about it, and the hash of its content."""

    name: str
    size: int
    etag: str | None
    version: str | None
    hash: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard as written: in temporary files that do not have their final names yet, or in a bucket under these."""

    shard: ShardInfo
    sources_hash: str  # of the stamps of its source files; empty where they are unknown
    compressor: str | None = None  # its name and version, where it compressed the shard
    left_out: tuple[tuple[int, Skipped], ...] = ()  # positions in the plan's shard
    moments: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # of each feature, if asked for
    uploads: tuple[Upload, ...] = ()  # index, keys and shard, where they are in a bucket

    @classmethod
    def of(cls, shard: ShardInfo) -> ShardEntry:
        """The entry of a shard that is known from its manifest alone."""
        return cls(shard=shard, sources_hash="")

    @property
    def file(self) -> str:
        return self.shard.file

    @property
    def examples(self) -> int:
        return self.shard.examples
