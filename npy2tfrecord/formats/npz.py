"""Members of `.npz` archives: where their bytes are, and reading them as a stream.

The archive's directory is read by `zipfile`; nothing it claims is believed. A member must unpack to
exactly the size and CRC-32 that the directory gives, and that size must be what its header says.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from operator import itemgetter
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from npy2tfrecord.errors import InputError, display
from npy2tfrecord.formats.file_types import NPY_MAGIC, not_of_type
from npy2tfrecord.formats.npy import FIRST_READ_BYTES, Header, check_size, cut_in_header, header_size, parse_header

if TYPE_CHECKING:
    import zipfile

_CHUNK_BYTES = 1 << 18
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1 | 0x40
_PATCHED = 0x20
_UTF_8 = 0x800
_FAR = 2**62  # no file is larger
_SHOWN = 10  # members, in a message
_WHOLE = "a whole .npz file: download or copy it again"


class File(Protocol):
    """An open file that is read at any place."""

    @property
    def size(self) -> int: ...

    def read(self, size: int, offset: int) -> bytes: ...

    def read_into(self, view: memoryview, offset: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive: `compressed` bytes at `offset` of the file, `size` when unpacked."""

    name: str
    offset: int
    compressed: int
    size: int
    crc: int
    deflated: bool


class MemberStream:
    """The unpacked bytes of a member, read forward; going back starts again."""

    def __init__(self, file: File, member: Member, where: bytes | str) -> None:
        self._file, self._member, self._where = file, member, where
        self._restart()

    def _restart(self) -> None:
        self._inflate = zlib.decompressobj(-15) if self._member.deflated else None
        self._taken = 0  # of the compressed bytes
        self._position = 0  # in the unpacked bytes
        self._crc = 0
        self._pending = b""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` from `offset` of the unpacked bytes; returns the bytes that were there."""
        member = self._member
        if self._inflate is None:
            view = view[: max(0, member.size - offset)]
            count = self._file.read_into(view, member.offset + offset)
            if offset == self._position:  # all read in order so far: the CRC is known at the end
                self._crc = zlib.crc32(view[:count], self._crc)
                self._position += count
                if self._position == member.size:
                    self._check_crc()
            return count
        if offset < self._position:
            self._restart()
        while self._position < offset:
            if not self._next(min(_CHUNK_BYTES, offset - self._position)):
                return 0
        done = 0
        while done < len(view):
            data = self._next(min(_CHUNK_BYTES, len(view) - done))
            if not data:
                break
            view[done : done + len(data)] = data
            done += len(data)
        return done

    def _next(self, limit: int) -> bytes:
        """Up to `limit` more unpacked bytes; checks size and CRC when the end is reached."""
        member, inflate = self._member, self._inflate
        assert inflate is not None
        try:
            # Values may be left inside `inflate` after it has taken all bytes: ask it before reading more.
            while not (data := inflate.decompress(self._pending, limit)) and not inflate.eof:
                self._pending = inflate.unconsumed_tail or self._read_compressed("the compressed data ends too early")
            self._pending = inflate.unconsumed_tail
        except zlib.error as error:
            raise InputError(self._where, f"damaged compressed data ({error})", _WHOLE) from None
        self._crc = zlib.crc32(data, self._crc)
        self._position += len(data)
        if self._position > member.size:
            raise InputError(self._where, "unpacks to more than the archive says", f"{member.size} bytes")
        if self._position == member.size and data:
            self._check_end()
        return data

    def _check_end(self) -> None:
        inflate, member = self._inflate, self._member
        assert inflate is not None
        try:
            while not inflate.decompress(self._pending, 1):
                if inflate.eof:
                    return self._check_crc()
                self._pending = inflate.unconsumed_tail or self._read_compressed("the compressed data does not end")
        except zlib.error as error:
            raise InputError(self._where, f"damaged compressed data ({error})", _WHOLE) from None
        raise InputError(self._where, "unpacks to more than the archive says", f"{member.size} bytes")

    def _read_compressed(self, problem: str) -> bytes:
        """More of the compressed bytes. Raises `InputError` with the problem where there are none left."""
        ask = min(_CHUNK_BYTES, self._member.compressed - self._taken)
        data = self._file.read(ask, self._member.offset + self._taken) if ask else b""
        self._taken += len(data)
        if not data:
            raise InputError(self._where, problem, f"{self._member.size} bytes")
        return data

    def _check_crc(self) -> None:
        if self._crc != self._member.crc:
            raise InputError(
                self._where, f"CRC-32 {self._crc:08x}, not {self._member.crc:08x}: the archive is damaged", _WHOLE
            )


Run = Callable[[Callable[[Iterator[int]], None], Sequence[int]], None]
"""Calls a function so that it gets all of the numbers, perhaps in several threads."""


def in_order(work: Callable[[Iterator[int]], None], numbers: Sequence[int]) -> None:
    """Do `work` for numbers, one after the other."""
    work(iter(numbers))


class _Seekable(RawIOBase):
    """A file as `zipfile` reads it."""

    def __init__(self, file: File) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        if position < 0:
            raise OSError(errno.EINVAL, "there is nothing before the start")  # as a file does: zipfile looks for it
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        count = self._file.read_into(memoryview(buffer).cast("B"), self._position)
        self._position += count
        return count


def _buffered(file: File) -> BinaryIO:
    return cast(BinaryIO, BufferedReader(_Seekable(file)))


def list_members(
    file: File,
    path: bytes,
    name: str | None,
    most: int | None = None,
    bad: list[InputError] | None = None,
    member: str | None = None,
    run: Run = in_order,
) -> list[tuple[str, Member, Header]]:
    """The features an archive gives, each with its member and header. `path` is for messages.

    These are all its members, or for `name` the one so called, or the only one there is. With `member` it is that
    member, whatever its name. What nobody asked for may be no array. Of more than `most` members, one more than that is
    read. `run` may read several at the same time. Raises `InputError`, `OSError`; the errors of single members go to
    `bad` instead if that is given.
    """
    import zipfile  # here and below: a conversion of .npy files starts without it

    start = file.read(FIRST_READ_BYTES, 0)
    if not start.startswith((b"PK\3\4", b"PK\5\6")):  # with anything before, NumPy takes it for a pickle
        raise not_of_type("an .npz file", start, path)
    try:
        with zipfile.ZipFile(_buffered(file)) as archive:
            infos, directory = archive.infolist(), archive.start_dir
    except zipfile.BadZipFile as error:
        has_end = zipfile.is_zipfile(_buffered(file))
        what = f"a damaged archive ({error})" if has_end else f"{file.size} bytes, without an archive's end"
        raise InputError(path, what, _WHOLE) from None
    except (NotImplementedError, struct.error, ValueError, EOFError, UnicodeError) as error:
        raise InputError(path, f"a damaged archive ({error})", _WHOLE) from None
    ends = _ends(infos, directory)
    infos = [info for info in infos if not info.filename.endswith("/")]
    if not infos:
        raise InputError(path, "an archive with nothing in it", "at least one array")
    # NumPy takes members with and without the suffix .npy.
    names = (info.filename if member else info.filename.removesuffix(".npy") for info in infos)
    for called, count in Counter(names).items():
        if count > 1:
            raise InputError(path, f"{count} members named {display(called)!r}", "one array a name")
    chosen = _chosen(infos, name, path) if member is None else _called(infos, member, path)
    chosen = chosen[: None if most is None else most + 1]
    found: dict[int, tuple[str, Member, Header] | InputError] = {}

    def read(numbers: Iterator[int]) -> None:
        for i in numbers:
            info = chosen[i]
            try:
                one, header = _read_member(file, info, path, ends[info.filename])
                found[i] = name or one.name, one, header
            except InputError as error:
                if bad is not None:
                    found[i] = error
                    continue
                if name is None and len(infos) > 1:
                    others = " (NAME=FILE.npz takes the member NAME alone, NAME=FILE.npz[MEMBER] one of any name)"
                    raise InputError(error.where, error.found, error.expected + others) from None
                raise

    run(read, range(len(chosen)))
    good = []
    for _, each in sorted(found.items(), key=itemgetter(0)):
        if not isinstance(each, InputError):
            good.append(each)
        elif bad is not None:
            bad.append(each)
    return good


def _chosen(infos: list[zipfile.ZipInfo], name: str | None, path: bytes) -> list[zipfile.ZipInfo]:
    if name is None or len(infos) == 1:
        return infos
    chosen = [info for info in infos if info.filename.removesuffix(".npy") == name]
    if not chosen:
        expected = f"one named {name!r}, or a single one (NAME=FILE.npz[MEMBER] takes one of any name)"
        raise InputError(path, _list(infos), expected)
    return chosen


def _called(infos: list[zipfile.ZipInfo], member: str, path: bytes) -> list[zipfile.ZipInfo]:
    by_name = {info.filename: info for info in infos}
    if (info := by_name.get(member) or by_name.get(f"{member}.npy")) is None:
        raise InputError(path, _list(infos), f"one named {display(member)!r}")
    return [info]


def _list(infos: list[zipfile.ZipInfo]) -> str:
    shown = ", ".join(display(info.filename.removesuffix(".npy")) for info in infos[:_SHOWN])
    return f"members {shown}{', …' * (len(infos) > _SHOWN)}"


def _ends(infos: list[zipfile.ZipInfo], directory: int) -> dict[str, int]:
    """The offset where each member must end at the latest: the start of the next one, or of the archive's directory."""
    ends, end = {}, directory
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        ends[info.filename] = end
        end = info.header_offset
    return ends


def _read_member(file: File, info: zipfile.ZipInfo, path: bytes, end: int) -> tuple[Member, Header]:
    import zipfile

    where = path + b"[" + info.filename.encode("utf-8", "surrogateescape") + b"]"
    if info.flag_bits & _ENCRYPTED:
        raise InputError(where, "an encrypted member", "an archive without a password")
    if info.flag_bits & _PATCHED:
        raise InputError(where, "a member of patch data", "whole members")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(where, f"compression method {info.compress_type}", "stored or deflated members")
    # zipfile corrects the place by what the end of the archive claims, so that it may be anything.
    has_place = 0 <= info.header_offset < _FAR
    local = file.read(30 + 4 * len(info.orig_filename), info.header_offset) if has_place else b""
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise InputError(where, "a damaged archive (no member where its directory says)", _WHOLE)
    _, name_length, extra_length = _LOCAL_HEADER.unpack_from(local)
    name = local[30 : 30 + name_length].decode("utf-8" if info.flag_bits & _UTF_8 else "cp437", "replace")
    if name != info.orig_filename:
        raise InputError(where, f"a damaged archive (the member calls itself {display(name)!r})", _WHOLE)
    member = Member(
        name=info.filename.removesuffix(".npy"),
        offset=info.header_offset + 30 + name_length + extra_length,
        compressed=info.compress_size,
        size=info.file_size,
        crc=info.CRC,
        deflated=info.compress_type == zipfile.ZIP_DEFLATED,
    )
    if member.offset + member.compressed > end:  # members that share their bytes can unpack to any size
        room = max(0, end - member.offset)
        found = f"a member of {member.compressed} bytes that ends inside what follows it after {room} (a zip bomb?)"
        raise InputError(where, found, "members that do not overlap")
    if not member.deflated and member.compressed != member.size:
        raise InputError(where, "a stored member whose sizes differ", _WHOLE)
    raw = _start_of(file, member, where, min(FIRST_READ_BYTES, member.size))
    if member.size == 0:
        raise InputError(where, "an empty member", "a .npy file")
    if not info.filename.endswith(".npy") and not raw.startswith(NPY_MAGIC):
        raise InputError(where, "a member that is no .npy", "arrays only")
    size = header_size(raw, where)
    if size > len(raw):
        raw = _start_of(file, member, where, min(size, member.size))
    if size > len(raw):
        raise cut_in_header(where, f"{len(raw)} of {size} bytes")
    header = parse_header(raw[:size], where)
    check_size(header, member.size, where)
    return member, header


def _start_of(file: File, member: Member, where: bytes, size: int) -> bytes:
    start = bytearray(size)
    return bytes(start[: MemberStream(file, member, where).read_into(memoryview(start), 0)])


def check_whole(file: File, member: Member, where: bytes | str) -> None:
    """Unpack a member once, front to back. Raises `InputError` unless its size and CRC are right."""
    chunk = memoryview(bytearray(_CHUNK_BYTES))
    stream = MemberStream(file, member, where)
    position = 0
    while position < member.size:
        count = stream.read_into(chunk[: min(_CHUNK_BYTES, member.size - position)], position)
        if not count:
            raise InputError(where, f"the member ends after {position} bytes", f"{member.size} bytes")
        position += count
