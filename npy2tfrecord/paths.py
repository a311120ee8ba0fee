"""Paths as people give them: URLs and home directories."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes

from npy2tfrecord.errors import UsageError, display

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# `pathlib.Path("gs://bucket/x")` is `gs:/bucket/x`: these are no directories of this machine either.
_COLLAPSED_URL = re.compile(r"(s3a?|gs|gcs|az|abfss?|adl|wasbs?|hdfs|https?|ftps?|file):/(?!/)(.*)", re.DOTALL)

_BUCKETS = ("s3", "gs", "az")
_BUCKET = re.compile(rf"((?:{'|'.join(_BUCKETS)})://[^/]+)(?:/(.*))?", re.DOTALL)


def is_bucket(path: str | bytes | os.PathLike[str]) -> bool:
    """Whether `path` is the URL of a place in a bucket: `s3://BUCKET/PREFIX`, `gs://…` or `az://…`."""
    text = os.fsdecode(path)
    match = _URL.fullmatch(text) or (_COLLAPSED_URL.fullmatch(text) if isinstance(path, os.PathLike) else None)
    return match is not None and match[1] in _BUCKETS


def place(path: str | bytes | os.PathLike[str], what: str) -> str:
    """The path on this machine that `path` stands for, or the URL of a place in a bucket, without `/` at its end.

    For what can be in a bucket. Raises `UsageError` as `local_path` does.
    """
    if not is_bucket(path):
        return local_path(path, what)
    scheme, _, rest = os.fsdecode(path).partition(":")
    try:
        return bucket_url(f"{scheme}://{rest.removeprefix('/').removeprefix('/')}")
    except UsageError as error:
        raise UsageError(f"{what} {error}") from None


def bucket_url(url: str) -> str:
    """The URL of a place in a bucket, without `/` at its end. Nothing in it is decoded, as vendors' tools don't either.

    Raises `UsageError` for what no object's name may begin with.
    """
    match = _BUCKET.fullmatch(url)
    if match is None or display(url) != url:
        raise UsageError(f"{display(url)!r}: expected {', '.join(f'{s}://BUCKET/PREFIX' for s in _BUCKETS)}")
    path = (match[2] or "").removesuffix("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise UsageError(f"{display(url)!r}: expected no empty part, '.' or '..' between two '/'")
    return match[1] + f"/{path}" * bool(path)


def local_path(path: str | bytes | os.PathLike[str], what: str) -> str:
    """The path on this machine that `path` stands for: a `file://` URL is decoded, `~` is the home directory.

    Raises `UsageError`, which names `what` the path is for, where it is the URL of another place, or no path at all.
    """
    text = os.fsdecode(path)
    if "\0" in text:
        raise UsageError(f"{what} {display(text)!r}: no path has a null byte in it")
    if match := _URL.fullmatch(text):
        return _decoded(match, text, what, match[2])
    if isinstance(path, os.PathLike) and (match := _COLLAPSED_URL.fullmatch(text)):
        return _decoded(match, text, what, "/" + match[2])
    if text.startswith("~") and not os.path.lexists(text.partition("/")[0]):
        return os.path.expanduser(text)
    return text


def _decoded(match: re.Match[str], url: str, what: str, rest: str) -> str:
    host, slash, below = rest.partition("/")
    if match[1].lower() != "file" or host not in ("", "localhost"):
        place = f"{match[1]}://" if match[1].lower() != "file" else f"another machine ({host})"
        raise UsageError(
            f"{what} {display(url)!r}: {place} is not supported; expected a path on this machine or file:///PATH"
        )
    decoded = os.fsdecode(unquote_to_bytes((slash + below).encode("utf-8", "surrogateescape")))
    if not slash or "\0" in decoded:
        raise UsageError(f"{what} {display(url)!r}: expected file:///PATH")
    return decoded
