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
from dataclasses import dataclass

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES as EXTENSION_NAMES
from npy2tfrecord.formats.dtypes import SUPPORTED_NAMES as SUPPORTED_NAMES
from npy2tfrecord.formats.dtypes import dtype_from_name as dtype_from_name
from npy2tfrecord.formats.dtypes import parse_descr

MAGIC = b"\x93NUMPY"
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
_STRUCTURED = re.compile(r"\s*\{.{0,64}?['\"]descr['\"]\s*:\s*\[", re.DOTALL)
_END = re.compile(r"\s*\} *\n*\Z")
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
    if start[:6] != MAGIC:
        if not start:
            raise InputError(where, "the file is empty", "a .npy file")
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            raise InputError(where, "a zip archive", "a .npy file; if it is an .npz file, rename it")
        raise InputError(where, f"starts with {start[:6]!r}", f"a .npy file, which starts with {MAGIC!r}")
    version = tuple(start[6:8])
    if version == (1, 0) and len(start) >= 10:
        size = 10 + int.from_bytes(start[8:10], "little")
    elif version in ((2, 0), (3, 0)) and len(start) >= 12:
        size = 12 + int.from_bytes(start[8:12], "little")
    elif len(version) == 2 and version not in ((1, 0), (2, 0), (3, 0)):
        raise InputError(where, f"version {version[0]}.{version[1]} of the .npy format", "version 1.0, 2.0 or 3.0")
    else:
        raise InputError(where, f"the file ends inside its header, after {len(start)} bytes", "a whole .npy file")
    if size > MAX_HEADER_BYTES:
        raise InputError(where, f"a header of {size} bytes", f"at most {MAX_HEADER_BYTES}")
    return size


def parse_header(raw: bytes, where: bytes | str = "") -> Header:
    """The header whose bytes, from the magic to the start of the data, are `raw`.

    Raises `InputError` for whatever is no header of an array that can be converted.
    """
    start = 10 if raw[6] == 1 else 12
    try:
        text = raw[start:].decode("utf-8" if raw[6] == 3 else "latin-1")
    except UnicodeDecodeError:
        raise InputError(where, "a header that is not UTF-8", "text") from None
    descr, fortran_order, shape = _parse_dict(text, raw[6], where)
    dtype = parse_descr(descr, where)
    if len(shape) > MAX_RANK:
        raise InputError(where, f"an array of rank {len(shape)}", f"a rank of at most {MAX_RANK}")
    if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:  # NumPy's own limit, also for what holds nothing
        raise InputError(where, f"shape {shape}", "sizes whose product is below 2**63")
    return Header(dtype, shape, fortran_order, raw)


def _parse_dict(text: str, version: int, where: bytes | str) -> tuple[str, bool, tuple[int, ...]]:
    if _STRUCTURED.match(text):
        raise InputError(where, "a structured array (named fields)", "an array of numbers; save each field by itself")
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
        shown = text.strip()
        shown = shown if len(shown) <= 100 else shown[:100] + "…"
        raise InputError(
            where,
            f"a header that reads {shown!r}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } or the like",
        )
    sizes = values["shape"].replace("L", "").replace(" ", "")
    if sizes and "," not in sizes:
        raise InputError(where, f"a header whose shape is ({sizes})", f"a tuple, ({sizes},)")
    return values["descr"], values["fortran_order"] == "True", tuple(int(n) for n in sizes.split(",") if n.strip())


def check_size(header: Header, size: int, where: bytes | str = "") -> None:
    """Raise `InputError` unless a file (or member) of `size` bytes is exactly this header and its data."""
    if size == header.file_size:
        return
    difference = size - header.file_size
    what = f"{-difference} bytes too few (truncated?)" if difference < 0 else f"{difference} trailing bytes"
    raise InputError(
        where,
        f"{size} bytes, {what}",
        f"{header.file_size} for {header.dtype.name} of shape {header.shape}",
    )


def write_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header that `np.save` writes for an array of this dtype and shape in C order."""
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype) if dtype.kind != "V" else dtype.str
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()
