"""The `.npy` format: reading headers that may be hostile, and writing them.

Source of the format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

NumPy's own reader is made for trusted files: it evaluates the header, believes the shape and ignores
what follows the data. Here the header is matched against the grammar of what `np.save` and its
ports write, nothing is evaluated or allocated by what it claims, and the file's size must be
exactly what the header says.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.dtypes import SUPPORTED_NAMES as SUPPORTED_NAMES
from npy2tfrecord.formats.dtypes import dtype_from_name as dtype_from_name
from npy2tfrecord.formats.dtypes import parse_descr
from npy2tfrecord.formats.file_types import NPY_MAGIC, not_of_type

MAGIC = NPY_MAGIC
MAX_HEADER_BYTES = 64 * 1024  # of the header's text; np.save writes 118 bytes for all but huge ranks
MAX_RANK = 32  # what NumPy 1 can hold; NumPy 2 goes to 64, TensorFlow does not get near either
FIRST_READ_BYTES = 128  # what np.save makes of nearly every header, padding included

_SIZE = r"(?:0|[1-9]\d{0,18})L?"  # Python 2 wrote long integers with an L
_ITEM = re.compile(
    r"\s*(?P<quote>['\"])(?P<name>descr|fortran_order|shape)(?P=quote)\s*:\s*(?:"
    r"(?P<q>['\"])(?P<descr>[^'\"\\]{0,64})(?P=q)"
    r"|(?P<structured>\[)"
    r"|(?P<order>True|False)"
    rf"|\(\s*(?P<shape>(?:{_SIZE}\s*,\s*)*(?:{_SIZE}\s*)?)\)"
    r")\s*(?:(?P<comma>,)|(?=\}))",
)
_END = re.compile(r"\s*\} *\n*\Z")
_KEY = re.compile(r"['\"]([^'\"]{1,40})['\"]\s*:\s*")
_FIELD = re.compile(r"\(\s*(['\"])(.{0,40}?)\1\s*,")
_SHOWN = 100  # characters of a header, in a message
_STRANGE = re.compile(r"[^\n -~]")  # NumPy reads a header as a literal of Python, in which these are no white space


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a `.npy` says: enough to read the array's bytes.

    `raw` is the header itself with magic and padding, so that another file's can be compared with it.
    """

    dtype: np.dtype  # byte order as in the file
    shape: tuple[int, ...]
    fortran_order: bool
    raw: bytes

    @property
    def data_offset(self) -> int:
        return len(self.raw)

    @property
    def nbytes(self) -> int:
        """Bytes of the array's data, as a Python integer that cannot overflow."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def file_size(self) -> int:
        return len(self.raw) + self.nbytes

    @property
    def is_plain(self) -> bool:
        """Whether the data in the file is the array in C order, little-endian."""
        return self.is_c_order and self.is_little_endian

    @property
    def is_c_order(self) -> bool:
        return not self.fortran_order or sum(n != 1 for n in self.shape) < 2

    @property
    def is_little_endian(self) -> bool:
        return bool(self.dtype.newbyteorder("<") == self.dtype)


def header_size(start: bytes, where: bytes | str = "") -> int:
    """Bytes from the start of the file to its data, read from the first 12 (or more) bytes.

    Raises `InputError` when they are no start of a `.npy` file.
    """
    if start[:6] != MAGIC and (not start or not MAGIC.startswith(start)):
        raise not_of_type("a .npy file", start, where)
    version = tuple(start[6:8])
    if version == (1, 0) and len(start) >= 10:
        size = 10 + int.from_bytes(start[8:10], "little")
    elif version in ((2, 0), (3, 0)) and len(start) >= 12:
        size = 12 + int.from_bytes(start[8:12], "little")
    elif len(version) == 2 and version not in ((1, 0), (2, 0), (3, 0)):
        raise InputError(where, f"version {version[0]}.{version[1]} of the .npy format", "version 1.0, 2.0 or 3.0")
    else:
        raise cut_in_header(where, f"{len(start)} bytes")
    if size > MAX_HEADER_BYTES:
        raise InputError(where, f"a header of {size} bytes", f"at most {MAX_HEADER_BYTES}")
    return size


def cut_in_header(where: bytes | str, size: str) -> InputError:
    """The error for a file (or member) of that size, in words, which is less than its header."""
    return InputError(where, f"ends inside its header, after {size}", "a whole .npy file: download or copy it again")


def parse_header(
    raw: bytes, where: bytes | str = "", parse_dtype: Callable[[str, bytes | str], np.dtype] = parse_descr
) -> Header:
    """The header whose bytes, from the magic to the start of the data, are `raw`.

    Raises `InputError` for whatever is no header of an array that can be converted.
    """
    start = 10 if raw[6] == 1 else 12
    try:
        text = raw[start:].decode("utf-8" if raw[6] == 3 else "latin-1")
    except UnicodeDecodeError:
        raise InputError(where, "a header that is not UTF-8", "text: download or copy it again") from None
    descr, fortran_order, shape = _parse_dict(text, raw[6], where)
    dtype = parse_dtype(descr, where)
    if len(shape) > MAX_RANK:
        raise InputError(where, f"an array of rank {len(shape)}", f"a rank of at most {MAX_RANK}")
    if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:  # NumPy's own limit, also for what holds nothing
        raise InputError(where, f"shape {shape}", "sizes whose product is below 2**63")
    return Header(dtype, shape, fortran_order, raw)


def _parse_dict(text: str, version: int, where: bytes | str) -> tuple[str, bool, tuple[int, ...]]:
    values: dict[str, str] = {}
    position = len(text) - len(text.lstrip(" "))
    if text[position : position + 1] == "{":
        position += 1
        while item := _ITEM.match(text, position):
            name = item["name"]
            value = item["descr" if name == "descr" else "order" if name == "fortran_order" else "shape"]
            if name in values or value is None:
                break
            values[name] = value
            position = item.end()
            if not item["comma"]:
                break
    of_python_2 = "L" in values.get("shape", "")
    if len(values) != 3 or not _END.match(text, position) or _STRANGE.search(text) or (of_python_2 and version > 2):
        raise InputError(where, *_diagnose(text))
    sizes = values["shape"].replace("L", "").replace(" ", "")
    if sizes and "," not in sizes:
        raise InputError(where, f"a header whose shape is ({sizes})", f"a tuple, ({sizes},)")
    return values["descr"], values["fortran_order"] == "True", tuple(int(n) for n in sizes.split(",") if n.strip())


def _diagnose(text: str) -> tuple[str, str]:
    """What is wrong with a header that can't be parsed, and what is expected in its place."""
    keys = list(_KEY.finditer(text))
    names = [key[1] for key in keys]
    ends = [key.start() for key in keys[1:]] + [len(text)]
    values = {key[1]: text[key.end() : end].strip(" ,}\n") for key, end in zip(keys, ends, strict=False)}
    shown = _shown(text)
    if values.get("descr", "").startswith("["):
        fields = [field[2] for field in _FIELD.finditer(values["descr"])]
        if not fields:
            return "a structured array", "numbers"
        listed = ", ".join(map(repr, fields[:3])) + (", …" if len(fields) > 3 else "")
        return f"a structured array with {listed}", f"numbers: np.save(FILE, array[{fields[0]!r}]) for each of them"
    if not text.strip():
        return "an empty header", "descr, fortran_order and shape in it"
    strange = _STRANGE.findall(text)
    if strange and set(strange) == {"\r"}:
        return (
            f"a header with line ends of Windows: {shown}",
            "a file that was not copied as text, which damages its values: download or copy it again in binary mode",
        )
    if strange:
        return f"a header with the character {strange[0]!r}: {shown}", "printable ASCII characters"
    if not text.lstrip().startswith("{"):
        return f"a header that is no dictionary: {shown}", "one in braces"
    if "}" not in text:
        return f"a header without an end: {shown}", "a closing brace"
    for name in ("descr", "fortran_order", "shape"):
        if names.count(name) != 1:
            found = f"{name!r} twice" if name in names else f"no {name!r}"
            return f"a header with {found}: {shown}", "descr, fortran_order and shape, each once"
    if others := [name for name in names if name not in ("descr", "fortran_order", "shape")]:
        return f"a header with the key {others[0]!r}: {shown}", "descr, fortran_order and shape only"
    for name, group, expected in (
        ("descr", "descr", "the code of a dtype in quotes"),
        ("fortran_order", "order", "True or False"),
        ("shape", "shape", "a tuple of whole numbers from 0 on"),
    ):
        value = values[name]
        item = _ITEM.match(f"'{name}': {value}}}")
        if item is None or item[group] is None:
            value = value if len(value) <= 40 else value[:40] + "…"
            if name == "shape" and re.fullmatch(rf"\[?\s*{_SIZE}(?:\s*,\s*{_SIZE})*\s*,?\s*\]?", value):
                expected = f"the tuple {tuple(int(n) for n in re.findall('[0-9]+', value))}"
            elif name == "shape" and re.search(r"\d{20}", value):
                expected = "sizes of at most 19 digits"
            return f"a header whose {name} is {value}", expected
    return f"a header that reads {shown}", "three items with commas between them, and nothing behind them but blanks"


def _shown(text: str) -> str:
    """A header for a message: what is no printable character escaped, its padding left out."""
    shown = repr(re.sub(" {2,}", " ", text).strip(" \n"))
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 21]}…{shown[-20:]}"


def check_size(header: Header, size: int, where: bytes | str = "", *, behind: bytes = b"") -> None:
    """Raise `InputError` unless a file (or member) of `size` bytes is exactly this header and its data.

    `behind` is what follows the data, as far as it is known.
    """
    if size == header.file_size:
        return
    if behind.startswith(MAGIC):
        raise InputError(
            where,
            f"a second array behind the first, at byte {header.file_size}",
            "one array a file: save each to a file of its own, or all with np.savez",
        )
    difference = abs(size - header.file_size)
    count = "1 byte" if difference == 1 else f"{difference} bytes"
    what = f"{header.dtype.name} of shape {header.shape}"
    if size < header.file_size:
        found, remedy = f"{size} bytes, {count} too few for {what} (truncated?)", "download or copy it again"
    else:
        found, remedy = f"{size} bytes, {count} too many for {what}", "save, download or copy it again"
    raise InputError(where, found, f"{header.file_size} bytes: {remedy}")


def write_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header that `np.save` writes for an array of this dtype and shape in C order."""
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype) if dtype.kind != "V" else dtype.str
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()
