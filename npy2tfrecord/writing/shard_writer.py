"""Writing one shard: its bytes, its index and its keys, as files of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npy2tfrecord import syscalls
from npy2tfrecord.errors import InputError, OutputError, display
from npy2tfrecord.formats.manifest import ShardInfo, Skipped
from npy2tfrecord.formats.shard import content_of, encode_index, encode_keys
from npy2tfrecord.planning.plan import ShardSpec
from npy2tfrecord.writing.shard_encoder import encode_shard
from npy2tfrecord.writing.shard_entry import ShardEntry
from npy2tfrecord.writing.sink import Compressor
from npy2tfrecord.writing.write_back import WriteBack

if TYPE_CHECKING:
    from npy2tfrecord.planning.records import CopySpec


def write_shard(
    spec: ShardSpec | CopySpec,
    stem: str,
    *,
    compression: str,
    skip: bool,
    sync: bool,
    read_back: bool,
    in_flight: int | None = None,
) -> ShardEntry:
    """Write a shard to `stem` + ".shard", its index and its keys beside it; with `read_back`, compare with the disk.

    With `skip`, an example whose source can't be read is left out, even if none is left; otherwise it is an
    `InputError`. With `read_back`, the shard is read from the disk and compared. Raises `OutputError` when the files
    can't be written; they stay as they are then.
    """
    path = stem + ".shard"
    bad: dict[int, InputError] = {}
    try:
        handle = syscalls.open(path, syscalls.WRITE_FLAGS, 0o666)
        write_back = WriteBack(handle)
        try:
            while True:
                sink = Compressor(handle, compression, write_back.written if sync else None)
                if isinstance(spec, ShardSpec):
                    moments = encode_shard(spec, sink, bad, skip, in_flight)
                else:
                    from npy2tfrecord.writing.shard_copier import copy_shard  # a conversion starts without it

                    copy_shard(spec, sink, in_flight)
                    moments = {}
                if moments is not None:
                    break
                syscalls.truncate(handle)
            sink.finish()
            content, size = sink.content, syscalls.fstat(handle).st_size
            if size != content.bytes:
                raise OutputError(f"{display(path)} has {size} bytes after {content.bytes} were written")
            if sync:
                write_back.end()
        finally:
            write_back.stop()
            syscalls.close(handle)
        sizes = np.delete(spec.record_sizes, sorted(bad))
        keys = [key for i, key in enumerate(spec.record_keys) if i not in bad] if bad else spec.record_keys
        syscalls.write_file(stem + ".idx", encode_index(sizes), sync=sync)
        syscalls.write_file(stem + ".keys", encode_keys(keys), sync=sync)
        if read_back:
            with syscalls.opened(path) as handle:
                found = content_of(handle, from_disk=True)
            if found != content:
                raise OutputError(
                    f"{display(path)} was written with the hash {content.hash}, the disk gives {found.hash}"
                )
    except (InputError, OutputError):
        raise
    except OSError as error:
        raise OutputError.from_os("write", path, error) from error
    return ShardEntry(
        shard=ShardInfo(
            file=spec.file,
            examples=len(sizes),
            bytes=content.bytes,
            hash=content.hash,
            tail=content.tail,
            unpacked=sink.unpacked,
        ),
        sources_hash=spec.sources_hash,
        compressor=sink.name,
        left_out=tuple((i, Skipped(display(bad[i].where), bad[i].problem)) for i in sorted(bad)),
        moments={name: one.state() for name, one in moments.items()},
    )
