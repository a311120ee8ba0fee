"""Objects in a bucket: S3 and what speaks its language, Google Cloud Storage, Azure Blob Storage.

obstore makes the requests. It finds credentials, region and endpoint in the vendors' own environment variables; none of
them is ever in a message of ours. What a server refuses is an `OSError`, as a file system's would be, with the object's
URL as its file name.

A client belongs to the process that made it: obstore's threads don't survive a fork, and a forked child would wait for
them forever. A child that was forked after the first request loads obstore once more, as worker processes of a
DataLoader must.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from npy2tfrecord.errors import UsageError, display
from npy2tfrecord.paths import bucket_url
from npy2tfrecord.storage.errors import BeyondEndError, ChangedObjectError

Result = TypeVar("Result")

RETRY_SECONDS = 60.0  # after the first attempt; beyond, no other begins
_NEVER_ANSWERED_SECONDS = 5.0  # the same for a server that never was there: its address is wrong
READ_SECONDS = 60  # that a server may keep silent, before its answer and in it
_REQUEST_SECONDS = 900  # that a request may take as a whole
_CONNECT_SECONDS = 10
_CLIENT_RETRIES, _CLIENT_RETRY_SECONDS = 6, 30  # of obstore itself: parts of an upload, pages of a list
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
_PART_BYTES = 8 * 2**20  # of an upload; S3 takes 10,000 parts, so that a shard may have 80 GB
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 8
_RANGES_AT_ONCE = 8
_LIST_PAGE = 1000

_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true for a public one",
}
# Where a machine in a cloud asks for its own credentials: an error from there means that there are no others.
_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "/metadata/identity")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_TRANSIENT = frozenset((408, 409, 425, 429))  # and all from 500, but 501


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says about an object. `etag` is without quotes; None where the store has none."""

    name: str  # below the prefix that was asked
    size: int
    etag: str | None
    version: str | None = None


@dataclass(frozen=True)
class Prefix:
    """A place in a bucket, as a directory is one on a disk: `url` is `s3://bucket` or `s3://bucket/a/b`.

    It holds no connection and may be sent to any process. Names are relative to it, with `/` between their parts.
    `creates` is whether the store refuses to create an object that is there.
    """

    url: str
    creates: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", bucket_url(self.url))

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def bucket(self) -> str:
        return self.url.partition("://")[2].partition("/")[0]

    @property
    def path(self) -> str:
        """The prefix in the bucket, without `/` at its ends."""
        return self.url.partition("://")[2].partition("/")[2]

    def at(self, name: str) -> str:
        """The URL of an object below."""
        return f"{self.url}/{name}"

    def below(self, name: str) -> Prefix:
        """The prefix of this name below."""
        return Prefix(self.at(name), self.creates)

    def _key(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    # --- looking

    def list_objects(self, below: str = "") -> list[ObjectInfo]:
        """All objects below, and below their "directories", by name; with `below`, those below that name alone."""
        return self._retried(self.url, partial(self._list, below))

    def _list(self, below: str) -> list[ObjectInfo]:
        obstore = _obstore()
        start = len(self.path) + 1 if self.path else 0
        where = self._key(below).strip("/") if below else self.path
        found: list[ObjectInfo] = []
        for page in obstore.list(_store(self), where or None, chunk_size=_LIST_PAGE):
            found += [_info(meta, meta["path"][start:]) for meta in page]
        return sorted(found, key=lambda info: info.name)

    def tree(self) -> dict[str, list[str]]:
        """The names of all objects below, by their "directory": `""`, or what ends with a slash. In no order."""
        obstore = _obstore()
        start = len(self.path) + 1 if self.path else 0

        def list_all() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            for page in obstore.list(_store(self), self.path or None, chunk_size=_LIST_PAGE):
                for meta in page:
                    directory, slash, name = meta["path"][start:].rpartition("/")
                    found.setdefault(directory + slash, []).append(name)
            return found

        return self._retried(self.url, list_all)

    def directories(self) -> list[str]:
        """The names right below that have objects below them, sorted."""
        obstore = _obstore()

        def list_directories() -> list[str]:
            found = obstore.list_with_delimiter(_store(self), self.path or None)
            return sorted(each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"])

        return self._retried(self.url, list_directories)

    def first_names(self, number: int, *, outside: str | None = None) -> list[str]:
        """The names of up to `number` objects that don't begin with `outside`, without listing all that there are."""
        obstore = _obstore()
        start = len(self.path) + 1 if self.path else 0

        def list_some() -> list[str]:
            found: list[str] = []
            for page in obstore.list(_store(self), self.path or None, chunk_size=_LIST_PAGE):
                names = (meta["path"][start:] for meta in page)
                found += [name for name in names if outside is None or not name.startswith(outside)]
                if len(found) >= number:
                    break
            return found[:number]

        return self._retried(self.url, list_some)

    def head(self, name: str) -> ObjectInfo:
        """What the store says about one object. Raises `FileNotFoundError` where there is none."""
        obstore = _obstore()
        return _info(self._retried(self.at(name), lambda: obstore.head(_store(self), self._key(name))), name)

    # --- reading

    def read(self, name: str, *, limit: int, etag: str | None = None) -> bytes:
        """The object as a whole. Raises `OSError` (EFBIG), having read nothing, where it has more than `limit` bytes.

        With an `etag`, raises `ChangedObjectError` where the object has another one.
        """
        return self.read_found(name, limit=limit, etag=etag)[0]

    def read_found(self, name: str, *, limit: int, etag: str | None = None) -> tuple[bytes, ObjectInfo]:
        """The same, with what the store says about the object, in one request."""
        obstore = _obstore()

        def read() -> tuple[bytes, ObjectInfo]:
            result = obstore.get(_store(self), self._key(name), options=_matching(etag))
            info = _info(result.meta, name)
            if info.size > limit:
                raise OSError(errno.EFBIG, f"it has {info.size} bytes; expected {limit} at most", self.at(name))
            data = bytes(result.bytes())
            if len(data) != info.size:
                raise _IncompleteError(errno.EIO, f"{len(data)} of {info.size} bytes arrived", self.at(name))
            return data, info

        return self._retried(self.at(name), read)

    def read_range(self, name: str, start: int, end: int, *, etag: str | None = None) -> memoryview:
        """The bytes from `start` up to `end`, as `pread` gives them: fewer where the object ends before, maybe none.

        With an `etag`, raises `ChangedObjectError` where the object has another one.
        """
        if end <= start:
            return memoryview(b"")
        try:
            return self.read_range_found(name, start, end, etag=etag)[0]
        except BeyondEndError:
            return memoryview(b"")

    def read_range_found(
        self, name: str, start: int, end: int, *, etag: str | None = None
    ) -> tuple[memoryview, ObjectInfo]:
        """The same, with what the store says about the object. The range has a byte at least.

        Raises `BeyondEndError` where the object ends before `start`.
        """
        obstore = _obstore()
        options: Any = {**_matching(etag), "range": (start, end)}

        def read() -> tuple[memoryview, ObjectInfo]:
            result = obstore.get(_store(self), self._key(name), options=options)
            info = _info(result.meta, name)
            data = memoryview(result.bytes())
            expected = min(end, info.size) - start
            if len(data) != expected:
                raise _IncompleteError(errno.EIO, f"{len(data)} of {expected} bytes arrived", self.at(name))
            return data, info

        return self._retried(self.at(name), read)

    def read_ranges(
        self, name: str, ranges: Sequence[tuple[int, int]], *, etag: str | None = None, gap: int = 256 * 2**10
    ) -> list[memoryview]:
        """The bytes of each range, as `read_range` gives them, in the order of `ranges`.

        Those that overlap, or have no more than `gap` bytes between them, are read in one request; several requests
        are under way at once.
        """
        together: list[list[int]] = []  # numbers of ranges, by request
        spans: list[tuple[int, int]] = []
        for number in sorted(range(len(ranges)), key=lambda number: ranges[number]):
            start, end = ranges[number]
            if spans and start - spans[-1][1] <= gap:
                together[-1].append(number)
                spans[-1] = spans[-1][0], max(spans[-1][1], end)
            else:
                together.append([number])
                spans.append((start, end))
        read = partial(self._read_span, name, etag)
        if len(spans) < 2:
            read_spans = [read(span) for span in spans]
        else:
            with ThreadPoolExecutor(min(_RANGES_AT_ONCE, len(spans))) as executor:
                read_spans = list(executor.map(read, spans))
        found = [memoryview(b"")] * len(ranges)
        for numbers, (first, _), data in zip(together, spans, read_spans, strict=True):
            for number in numbers:
                start, end = ranges[number]
                found[number] = data[start - first : max(start, end) - first]
        return found

    def _read_span(self, name: str, etag: str | None, span: tuple[int, int]) -> memoryview:
        return self.read_range(name, *span, etag=etag)

    # --- writing

    def create(self, name: str, data: bytes) -> ObjectInfo:
        """Put an object where there is none. Raises `FileExistsError` where one with other bytes is.

        One with these bytes is success: it may be our own, whose answer was lost.
        """
        obstore = _obstore()
        from obstore.exceptions import AlreadyExistsError

        url = self.at(name)

        def create() -> ObjectInfo:
            if not self.creates and not self._is_there(name):
                return self.put(name, data)
            try:
                if not self.creates:
                    raise AlreadyExistsError
                result = obstore.put(_store(self), self._key(name), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                pass
            else:
                return _put_info(result, name, len(data))
            try:
                there, info = self.read_found(name, limit=len(data))
            except FileNotFoundError:  # it is gone again, or another one who began to write it has not ended
                raise _IncompleteError(errno.EBUSY, "another one is writing it", url) from None
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                there = None
            if there != data:
                raise FileExistsError(errno.EEXIST, "there is one with other bytes already", url)
            return info

        return self._retried(url, create)

    def _is_there(self, name: str) -> bool:
        try:
            self.head(name)
        except FileNotFoundError:
            return False
        return True

    def refuses_second(self, name: str) -> bool:
        """Whether the store refuses to create an object that is there. `name` is free before and after."""
        obstore = _obstore()
        from obstore.exceptions import AlreadyExistsError

        def probe() -> bool:
            put = partial(obstore.put, _store(self), self._key(name), mode="create", use_multipart=False)
            for content in (b"1", b"2"):
                try:
                    put(content)
                except AlreadyExistsError:  # of the first one too: an attempt before this one made it
                    return True
            return False

        try:
            return self._retried(self.at(name), probe)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            return False
        finally:
            self.delete([name])

    def put(self, name: str, data: bytes) -> ObjectInfo:
        """Put an object, in the place of one that may be there."""
        obstore = _obstore()

        def put() -> ObjectInfo:
            return _put_info(obstore.put(_store(self), self._key(name), data, use_multipart=False), name, len(data))

        return self._retried(self.at(name), put)

    def put_file(self, name: str, path: str | os.PathLike[str]) -> ObjectInfo:
        """Put the bytes of a local file, a large one in parts side by side. Nothing is visible before all of them are.

        A file of this size is always cut into the same parts: a store that makes ETags of parts gives the same one.
        """
        obstore = _obstore()
        size = os.stat(path).st_size
        part = _PART_BYTES * max(1, -(-size // (_PART_BYTES * _MOST_PARTS)))

        def put() -> ObjectInfo:
            result = obstore.put(
                _store(self),
                self._key(name),
                Path(path),
                use_multipart=size > 2 * part,
                chunk_size=part,
                max_concurrency=_PARTS_AT_ONCE,
            )
            return _put_info(result, name, size)

        return self._retried(self.at(name), put)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects. One that isn't there is no error."""
        obstore = _obstore()
        wanted = list(names)
        if not wanted:
            return
        try:
            self._retried(self.url, lambda: obstore.delete(_store(self), [self._key(name) for name in wanted]))
        except FileNotFoundError:  # of one of them: not all stores say nothing
            for name in wanted:
                try:
                    self._retried(self.at(name), partial(obstore.delete, _store(self), self._key(name)))
                except FileNotFoundError:
                    continue

    def _retried(self, url: str, attempt: Callable[[], Result]) -> Result:
        """What `attempt` returns, made again after a pause as long as its errors are those that pass by themselves."""
        started, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
        place = self.scheme, self.bucket
        while True:
            try:
                result = _interruptibly(attempt)
                _answered.add(place)
                return result
            except UsageError:
                raise
            except Exception as error:
                meaning, is_transient = _meaning(error, url, self.scheme)
            is_lost = isinstance(meaning, ConnectionError) and place not in _answered
            deadline = started + (_NEVER_ANSWERED_SECONDS if is_lost else RETRY_SECONDS)
            if not is_transient or time.monotonic() + pause > deadline:
                raise meaning
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _interruptibly(function: Callable[[], Result]) -> Result:
    """What `function` returns, while this thread can hear signals.

    Python runs handlers of signals in the main thread, between two steps of the interpreter. In obstore there are none
    until a request has ended, which may take a minute.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # also a panic of Rust's
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)  # an interrupted one doesn't keep the process
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()


class _IncompleteError(OSError):
    """An answer that another attempt may better."""


def _info(meta: Any, name: str) -> ObjectInfo:
    return ObjectInfo(name, meta["size"], _bare(meta["e_tag"]), meta["version"])


def _put_info(result: Any, name: str, size: int) -> ObjectInfo:
    return ObjectInfo(name, size, _bare(result["e_tag"]), result["version"])


def _bare(etag: str | None) -> str | None:
    """An ETag without its quotes: not every list of a store has them."""
    return etag[1:-1] if etag is not None and len(etag) > 1 and etag[0] == etag[-1] == '"' else etag


def _matching(etag: str | None) -> Any:
    if etag is None:
        return {}
    return {"if_match": etag if etag.startswith("W/") else f'"{etag}"'}


# --- errors ------------------------------------------------------------------------------------------------


def _meaning(error: Exception, url: str, scheme: str) -> tuple[OSError, bool]:
    """What an error of obstore means, and whether another attempt may succeed.

    Nothing of its text is passed on, for it has whole URLs, of which Azure's may hold a signature.
    """
    from obstore import exceptions

    if isinstance(error, _IncompleteError):
        return OSError(error.errno, error.strerror, url), True
    if isinstance(error, OSError) and error.filename is not None:  # one of ours, or of the local file
        return error, False
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", url), False
    text = str(error)
    found = _STATUS.search(text)
    status = int(found[1]) if found else 0
    code = f" ({code[1]})" if (code := _CODE.search(text)) else ""
    if any(service in text for service in _METADATA_SERVICES):
        return PermissionError(errno.EACCES, f"no credentials are set; set {_CREDENTIALS[scheme]}", url), False
    if isinstance(error, exceptions.PreconditionError) or status == 412:
        return ChangedObjectError(errno.ESTALE, "it has changed: its ETag is another", url), False
    if isinstance(error, exceptions.PermissionDeniedError) or status == 403:
        return PermissionError(errno.EACCES, f"the server denies it{code}", url), False
    if isinstance(error, exceptions.UnauthenticatedError) or status == 401:
        return PermissionError(errno.EACCES, f"the server does not accept the credentials{code}", url), False
    if status == 416 or "StartTooLarge" in text:
        return BeyondEndError(errno.EINVAL, "the range begins behind its end", url), False
    if isinstance(error, exceptions.NotSupportedError) or status == 501:
        return OSError(errno.ENOTSUP, f"the store cannot do it{code}", url), False
    if status == 404:
        return FileNotFoundError(errno.ENOENT, f"no such bucket or object{code}", url), False
    if status in (301, 307, 308):
        return OSError(errno.EREMOTE, "the bucket is in another region; set AWS_REGION", url), False
    if status:
        return OSError(errno.EIO, f"the server answers {status}{code}", url), status in _TRANSIENT or status >= 500
    if isinstance(error, (ValueError, exceptions.InvalidPathError)):
        problem = "its name, or that of an object below, has an empty part, '.' or '..' between two '/'"
        return OSError(errno.EINVAL, problem, url), False
    if "builder error" in text:
        return OSError(errno.EINVAL, "the endpoint is no https:// or http:// URL", url), False
    if "TimedOut" in text or "timed out" in text:
        return TimeoutError(errno.ETIMEDOUT, "the server does not answer", url), True
    if "kind: Connect" in text:
        return ConnectionError(errno.ECONNREFUSED, "no connection to the server", url), True
    if isinstance(error, (exceptions.GenericError, OSError)):
        return ConnectionError(errno.ECONNRESET, "the connection broke, or the answer was none", url), True
    return OSError(errno.EIO, f"obstore fails ({type(error).__name__})", url), False


# --- clients -----------------------------------------------------------------------------------------------

_VARIABLES = {"s3": b"AWS_", "gs": b"GOOGLE_", "az": b"AZURE_"}
_clients: dict[tuple[str, str, tuple[tuple[bytes, bytes], ...]], Any] = {}
_clients_of = 0  # the process that made them
_answered: set[tuple[str, str]] = set()  # the buckets that this process has had an answer about
_loading = threading.Lock()


def _obstore() -> Any:
    """The package, ready for requests in this process. Raises `UsageError` where that can't be."""
    if sys.version_info < (3, 11):
        raise UsageError("buckets need Python 3.11 or newer; copy the files to a disk, or mount the bucket")
    if _clients_of not in (0, os.getpid()):
        _load_again()
    try:
        import obstore
    except ImportError:
        raise UsageError("buckets need the package obstore: pip install 'npy2tfrecord[cloud]'") from None
    return obstore


def _load_again() -> None:
    """Load a second obstore, in a process that was forked from one that has used it.

    The first one keeps its threads in static memory of its library: it takes those of the parent for its own, which
    aren't here. A library from another file has static memory of its own. Loading it takes less than 0.1 s.
    """
    global _clients_of
    with _loading:
        if _clients_of in (0, os.getpid()):
            return
        first = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "obstore"}
        package = os.path.dirname(str(first["obstore"].__file__))
        try:
            with tempfile.TemporaryDirectory(prefix="npy2tfrecord-") as directory:
                shutil.copytree(package, os.path.join(directory, "obstore"))
                for name in first:
                    del sys.modules[name]
                sys.path.insert(0, directory)
                try:
                    for name in ("obstore", "obstore.exceptions", "obstore.store"):
                        importlib.import_module(name)
                finally:
                    sys.path.remove(directory)
        except (OSError, ImportError) as error:  # no room, or nothing may be executed there
            sys.modules.update(first)
            raise UsageError(
                "this process was forked from one that has used buckets already, which obstore does not survive, and a"
                f" second copy can't be loaded from {display(tempfile.gettempdir())} ({error}); start processes with"
                " 'spawn' or 'forkserver' (multiprocessing_context of torch's DataLoader)"
            ) from error
        _clients.clear()
        _clients_of = os.getpid()


def _store(prefix: Prefix) -> Any:
    """obstore's client of a bucket, made once in a process, and again when the environment says something else."""
    global _clients_of
    scheme, bucket = prefix.scheme, prefix.bucket
    start, environment = _VARIABLES[scheme], os.environb  # as bytes: decoding them took 80 us a request
    key = scheme, bucket, tuple([(name, environment[name]) for name in environment if name.startswith(start)])
    if (client := _clients.get(key)) is None:
        _clients_of = os.getpid()
        client = _clients[key] = _make_store(scheme, bucket)
    return client


def _make_store(scheme: str, bucket: str) -> Any:
    from datetime import timedelta

    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    kinds: dict[str, Callable[..., Any]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=READ_SECONDS),
        "timeout": timedelta(seconds=_REQUEST_SECONDS),
    }
    if _is_http(scheme):
        options["allow_http"] = True
    config: dict[str, str] = {}
    if scheme == "az":  # Azure's own tools have these names for them
        for name, ours in (("AZURE_STORAGE_ACCOUNT", "account_name"), ("AZURE_STORAGE_KEY", "account_key")):
            if (value := os.environ.get(name)) and f"AZURE_STORAGE_{ours.upper()}" not in os.environ:
                config[ours] = value
    retries = {
        "max_retries": _CLIENT_RETRIES,
        "retry_timeout": timedelta(seconds=_CLIENT_RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(seconds=_FIRST_PAUSE_SECONDS),
            "max_backoff": timedelta(seconds=_LONGEST_PAUSE_SECONDS),
        },
    }
    try:
        return kinds[scheme](bucket, config=config, client_options=options, retry_config=retries)
    except (BaseError, ValueError) as error:
        known = "account" if "ccount" in str(error) else "configuration"
        raise UsageError(
            f"{scheme}://{display(bucket)}: the {known} in the environment is missing or not valid;"
            f" set {_CREDENTIALS[scheme]}"
        ) from None


def _is_http(scheme: str) -> bool:
    """Whether the user asks for a server without TLS. Raises `UsageError` for an endpoint that is no URL."""
    asked = {name: os.environ[name] for name in _ENDPOINTS[scheme] if os.environ.get(name)}
    for name, url in asked.items():  # obstore panics
        if not re.match(r"https?://[^/]", url, re.IGNORECASE):
            raise UsageError(f"{name} is no URL; expected https://HOST, or http://HOST for a server without TLS")
    if scheme == "gs":  # a key of an emulator has its address
        with contextlib.suppress(ValueError, AttributeError):
            found = json.loads(os.environ.get("GOOGLE_SERVICE_ACCOUNT_KEY", "")).get("gcs_base_url")
            asked["gcs_base_url"] = str(found)
    if any(url.lower().startswith("http://") for url in asked.values()):
        return True
    return scheme == "az" and os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true")
