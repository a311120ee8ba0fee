"""What a file is that should hold arrays and does not, by its first bytes, and how to get the arrays.

In the remedies, FILE is the file that is to be written and OLD the one there is.
"""

from __future__ import annotations

import re

from npy2tfrecord.errors import InputError

NPY_MAGIC = b"\x93NUMPY"

_AGAIN = "download or copy it again"
_UNPACK = "unpack it first"
_OF_HDF5 = "np.save(FILE, h5py.File(OLD)['NAME'][...])"
_OF_IMAGE = "np.save(FILE, np.asarray(PIL.Image.open(OLD)))"
_PICKLE = "a pickle (Python objects, which are never loaded)"
_OF_PICKLE = "load it if you trust it, and np.save(FILE, array, allow_pickle=False)"

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    # A pattern for the first bytes, what they are of, what to do.
    (rb"version https://git-lfs", "a git-lfs pointer in place of the data", "git lfs pull fetches it"),
    (rb"/annex/objects/", "a git-annex pointer in place of the data", "git annex get fetches it"),
    (
        rb"\x00\x05\x16[\x00\x07]",
        "an AppleDouble file, which macOS leaves beside others",
        "--exclude '._*' leaves it out",
    ),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body)", "an HTML page (of a login or an error?)", _AGAIN),
    (rb"\s*<(\?xml|Error)", "an XML document (a server's error message?)", _AGAIN),
    (
        rb"\x80[\x02-\x05]|\([ld]p\d|\]q\x00|c(numpy|__builtin__|copy_reg)",
        "a pickle (Python objects, which are never loaded)",
        _OF_PICKLE,
    ),
    (rb"\x1f\x8b", "gzip-compressed data", "name it .gz and gunzip it"),
    (rb"BZh[1-9]", "bzip2-compressed data", _UNPACK),
    (rb"\xfd7zXZ\x00", "xz-compressed data", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "zstd-compressed data", _UNPACK),
    (rb"PK(\x03\x04|\x05\x06)", "a zip archive", "if np.savez wrote it, name it .npz; else unpack it"),
    (NPY_MAGIC, "a .npy file", "name it .npy"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _OF_HDF5),
    (rb"MATLAB 7.3 MAT-file", "a MATLAB file of version 7.3 (HDF5)", _OF_HDF5),
    (rb"MATLAB 5.0 MAT-file", "a MATLAB file", "np.save(FILE, scipy.io.loadmat(OLD)['NAME'])"),
    (rb"\x89PNG\r\n\x1a\n", "a PNG image", _OF_IMAGE),
    (rb"\xff\xd8\xff", "a JPEG image", _OF_IMAGE),
    (rb"(?s).{0,4}NUMPY", "a .npy file that was changed (copied as text?)", f"{_AGAIN}, in binary mode"),
    (rb"\x00{16}", "zeros (of a copy that was not finished?)", _AGAIN),
)
_PATTERNS = [(re.compile(pattern), what, remedy) for pattern, what, remedy in _KINDS]
_TEXT = re.compile(r"[^\x00-\x08\x0e-\x1f\x7f-\x9f]+")
_SHOWN = 24  # characters of a text

_PACKED = {b".gz": "gunzip", b".bz2": "bunzip2", b".xz": "unxz", b".zst": "unzstd"}


def not_of_type(expected: str, start: bytes, where: bytes | str) -> InputError:
    """The error for a file (or member) that begins with `start`, which no file of the `expected` type does."""
    if not start:
        return InputError(where, "the file is empty", f"{expected}: {_AGAIN}, or leave it out with --exclude")
    for pattern, what, remedy in _PATTERNS:
        if pattern.match(start):
            return InputError(where, what, f"{expected}: {remedy}")
    text = start.decode("utf-8", "ignore")  # which may be cut inside a character
    if _TEXT.fullmatch(text) and len(text.encode()) > len(start) - 4:
        line = re.split(r"[\r\n]", text.lstrip("\ufeff \r\n"))[0]
        delimiter = next((f", delimiter={sign!r}" for sign in ",;\t" if sign in line), "")
        is_table = re.search(r"\d", line)
        remedy = f"np.save(FILE, np.loadtxt(OLD{delimiter})) makes one of a table" if is_table else _AGAIN
        return InputError(where, f"text, which begins with {line[:_SHOWN]!r}", f"{expected}: {remedy}")
    remedy = "np.save(FILE, np.fromfile(OLD, DTYPE)) makes one of raw numbers"
    return InputError(where, f"starts with {start[:6]!r}", f"{expected}: {remedy}")


def packed_by_name(path: bytes) -> InputError | None:
    """The error for a `.npy.gz` or the like, by its name: it holds an array, but can't be read as it is."""
    stem, dot, suffix = path.lower().rpartition(b".")
    tool = _PACKED.get(dot + suffix)
    if tool is None or not stem.endswith((b".npy", b".npz")):
        return None
    return InputError(path, "a compressed file", f"a .npy or .npz file as it is: unpack it with {tool}")
