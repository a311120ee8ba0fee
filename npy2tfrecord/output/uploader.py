"""Writing a shard to a local disk and putting it into a bucket, as a worker does it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from npy2tfrecord import syscalls
from npy2tfrecord.errors import OutputError
from npy2tfrecord.formats.manifest import BESIDE, Hash, ShardInfo, beside
from npy2tfrecord.formats.shard import content_of
from npy2tfrecord.output.place import Write, check_rewritten
from npy2tfrecord.output.scratch import Scratch
from npy2tfrecord.planning.plan import ShardSpec
from npy2tfrecord.storage.objects import Prefix
from npy2tfrecord.writing.shard_entry import ShardEntry, Upload

if TYPE_CHECKING:
    from npy2tfrecord.planning.records import CopySpec

_READ_BYTES = 16 * 2**20  # at a time, of what is read back


def write_and_upload(
    write: Write, out: Prefix, read_back: bool, replaced: Mapping[str, ShardInfo], spec: ShardSpec | CopySpec, stem: str
) -> ShardEntry:
    """Have a shard written to `stem` and put its index, its keys and at last the shard into the bucket.

    The shard has its name when all of its bytes are there, so that nothing of half of it is ever visible. The local
    files are removed. With `read_back`, what the bucket gives is read and compared. Raises `OutputError`, and
    `ConflictError` where it holds other records than the one that it is to replace.
    """
    try:
        entry = write(spec, stem)
        if entry.file in replaced:
            check_rewritten(out.url, entry.shard, replaced[entry.file])
        uploads = [_upload(stem + suffix, out, beside(entry.file, suffix), None) for suffix in BESIDE]
        uploads.append(_upload(f"{stem}.shard", out, entry.file, entry.shard.hash))
        if read_back:
            for upload in uploads:
                check_content(out, upload)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError.from_os("put a shard at", error.filename or out.url, error) from None
    finally:
        for suffix in (*BESIDE, ".shard"):
            with contextlib.suppress(OSError):
                syscalls.unlink(stem + suffix)
    return replace(entry, uploads=tuple(uploads))


def upload_by_own_scratch(
    upload: Callable[[ShardSpec | CopySpec, str], ShardEntry],
    scratch: str | None,
    spec: ShardSpec | CopySpec,
    stem: str,
) -> ShardEntry:
    """Have a shard written and put by a worker of a cluster, whose disk is not that of the run itself."""
    with closing(Scratch(scratch, secrets.token_hex(8))) as own:
        own.open()
        return upload(spec, os.path.join(own.path, os.path.basename(stem)))


def _upload(path: str, out: Prefix, name: str, known: str | None) -> Upload:
    """Put a file, whose hash may be known."""
    if known is None:
        with syscalls.opened(path) as handle:
            known = content_of(handle).hash
    info = out.put_file(name, path)
    return Upload(name=name, size=info.size, etag=info.etag, version=info.version, hash=known)


def check_content(out: Prefix, upload: Upload) -> None:
    """Read an object that was put. Raises `OutputError` unless it has the bytes that it had here."""
    digest, size = Hash(), 0
    while data := out.read_range(upload.name, size, size + _READ_BYTES):
        digest.update(data)
        size += len(data)
    if (size, digest.hexdigest()) != (upload.size, upload.hash):
        raise OutputError(f"{out.at(upload.name)} was put with the hash {upload.hash}, the bucket gives another")


def is_upload(out: Prefix, upload: Upload) -> bool:
    """Whether an object has the bytes that were put, as read."""
    try:
        check_content(out, upload)
    except OutputError:
        return False
    return True
