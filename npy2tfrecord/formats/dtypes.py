"""The dtypes that can be converted, and how headers, options and manifests spell them.

No string from outside reaches `numpy.dtype` as it is: it is looked up in the tables below first.
"""

from __future__ import annotations

import re

import numpy as np

from npy2tfrecord.errors import InputError

SUPPORTED_NAMES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
EXTENSION_NAMES = (
    *("bfloat16", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"),
    *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
"""dtypes of the ml_dtypes package that can be written and read; np.save stores them as V2 or V1."""

_OTHER_NAMES = "int=i8 uint=u8 half=f2 single=f4 double=f8 float=f8 complex=c16"
_LETTERS = "?=b1 b=i1 B=u1 h=i2 H=u2 i=i4 I=u4 l=i8 L=u8 q=i8 Q=u8 e=f2 f=f4 d=f8 F=c8 D=c16"
_NAMES = {name: np.dtype(name).str[1:] for name in SUPPORTED_NAMES}
_CODES = {code: code for code in _NAMES.values()} | dict(pair.split("=") for pair in _LETTERS.split())
_NAMES |= dict(pair.split("=") for pair in _OTHER_NAMES.split())
"""What NumPy reads in a header: codes, which may have a byte order, and names, which may not. np.save writes neither
names nor single letters, but other programs do.
"""

_DESCR = re.compile(r"([<>|=]?)([a-zA-Z?]\d{0,9})")
_UNIT = r"(?:\[(?:generic|([1-9]\d{0,9})?(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as))\])?"
_TIME = re.compile(rf"(?:([<>|=]?)([Mm])8|(datetime64|timedelta64)){_UNIT}")
_MAX_UNITS = 2**31 - 1
_UNSUPPORTED = (
    # Expected here is what works: each line of Python makes an array that can be converted.
    (
        r"[<>|=]?O\d*|object",
        "an object array (its values are pickled Python objects, which are never loaded)",
        "np.save(FILE, array.astype('float64'), allow_pickle=False), or each of its arrays by itself",
    ),
    (
        r"[<>|=]?[Sa]\d*|bytes\d*",
        "an array of byte strings",
        "np.save(FILE, np.unique(array, return_inverse=True)[1]), or a table for --labels",
    ),
    (
        r"[<>|=]?[UT]\d*|str\d*",
        "an array of strings",
        "np.save(FILE, np.unique(array, return_inverse=True)[1]), or a table for --labels",
    ),
    (
        r"[<>|=]?V\d*|void\d*",
        "an array of void (raw bytes)",
        "np.save(FILE, array.view('uint8').reshape(*array.shape, -1))",
    ),
    (
        r"[<>|=]?(?:f1[0-6]|g)|float(?:80|96|128)|longdouble|longfloat",
        "an array of extended-precision floats",
        "np.save(FILE, array.astype('float64'))",
    ),
    (
        r"[<>|=]?(?:c2[0-4]|c32|G)|complex(?:160|192|256)|clongdouble",
        "an array of extended-precision complex numbers",
        "np.save(FILE, array.astype('complex128'))",
    ),
    (r"int[124]", "an array of integers of less than a byte", "np.save(FILE, array.astype('int8'))"),
    (r"uint[124]", "an array of integers of less than a byte", "np.save(FILE, array.astype('uint8'))"),
    (r"float[46]_\w+", "an array of floats of less than a byte", "np.save(FILE, array.astype('float32'))"),
)


def parse_descr(descr: str, where: bytes | str = "") -> np.dtype:
    """The dtype that a header names, in the file's byte order.

    Raises `InputError` for whatever can't be converted; it says how to save the array so that it can.
    """
    if code := _NAMES.get(descr):
        return np.dtype(code)
    if descr in EXTENSION_NAMES:
        return _extension(descr, descr, where)
    if match := _DESCR.fullmatch(descr):
        order, code = match.groups()
        if code in _CODES:
            return np.dtype(order.replace("|", "=") + _CODES[code])
        if code in ("V1", "V2", "f1"):  # the last is what np.save calls float8_e5m2, and np.load does not know
            return np.dtype(f"V{code[1]}")
        if code == "g2":  # so the package bfloat16 has np.save write its dtype, and np.load does not know it
            return _extension("bfloat16", descr, where).newbyteorder(">" if order == ">" else "<")
    if (time := _time(descr)) is not None:
        return time
    for pattern, what, remedy in _UNSUPPORTED:
        if re.fullmatch(pattern, descr):
            raise InputError(where, f"{what}, dtype {descr!r}", f"numbers: {remedy}")
    raise InputError(where, f"dtype {descr!r}", _nearest(descr))


def _extension(name: str, descr: str, where: bytes | str) -> np.dtype:
    try:
        return dtype_from_name(name)
    except ModuleNotFoundError:
        found = f"dtype {descr!r}, which takes the package ml_dtypes"
        raise InputError(where, found, "that package: pip install ml_dtypes") from None
    except ValueError as error:
        raise InputError(where, f"dtype {descr!r}", str(error)) from None


def _time(descr: str) -> np.dtype | None:
    """The datetime64 or timedelta64 that this names."""
    match = _TIME.fullmatch(descr)
    if match is None or int(match[4] or 1) > _MAX_UNITS:
        return None
    order, kind, name, count, unit = match.groups()
    kind = kind or ("M" if name == "datetime64" else "m")
    return np.dtype(f"{'>' if order == '>' else '<'}{kind}8" + (f"[{count or ''}{unit}]" if unit else ""))


def is_time(dtype: np.dtype) -> bool:
    """Whether these are dates or time spans."""
    return dtype.kind in "Mm"


def stored_name(dtype: np.dtype) -> str:
    """The name of the dtype that records hold instead: int64 for dates and time spans, else its own."""
    return "int64" if is_time(dtype) else str(dtype.name)


def time_from_name(name: str) -> np.dtype:
    """The dtype of a manifest's `time`. Raises `ValueError` for anything but that dtype's own name."""
    time = _time(name)
    if time is None or time.name != name:
        raise ValueError(f"{name!r} is no datetime64 or timedelta64")
    return time


def _nearest(descr: str) -> str:
    """What a dtype that is spelled wrong should be; all there are, when it resembles none."""
    resembled = [name for name in (*SUPPORTED_NAMES, *EXTENSION_NAMES) if name in descr.lower()]
    if not resembled:
        return "bool, int8–64, uint8–64, float16–64, complex64–128, datetime64 or timedelta64"
    name = max(resembled, key=len)  # of uint8 and int8, which it has in it, the first
    return f"{np.dtype(name).str!r}, as np.save writes {name}" if name in SUPPORTED_NAMES else repr(name)


def dtype_from_name(name: str) -> np.dtype:
    """The dtype a manifest or an option names: those of NumPy, and those of ml_dtypes if it is installed.

    Raises `ValueError` for any other name and one that the installed ml_dtypes lacks, `ModuleNotFoundError` when it is
    missing.
    """
    if name in SUPPORTED_NAMES:
        return np.dtype(name)
    if name in EXTENSION_NAMES:
        import ml_dtypes

        if not hasattr(ml_dtypes, name):
            raise ValueError(f"a version of ml_dtypes with {name}, which the installed {ml_dtypes.__version__} lacks")
        extension: np.dtype = np.dtype(getattr(ml_dtypes, name))
        return extension
    raise ValueError(f"unknown dtype {name!r}; known are {', '.join(SUPPORTED_NAMES + EXTENSION_NAMES)}")
