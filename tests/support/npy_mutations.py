"""Changing `.npy` files at random, and comparing what we make of the result with what NumPy makes of it."""

from __future__ import annotations

import io
import random
import warnings

import numpy as np

from npy2tfrecord.errors import InputError
from npy2tfrecord.formats.dtypes import EXTENSION_NAMES
from npy2tfrecord.formats.npy import Header, check_size, header_size, parse_header

WORDS = [
    *(b"'", b'"', b"(", b")", b"[", b"]", b"{", b"}", b",", b":", b" ", b"\n", b"\t", b"\r", b"\f", b"\v", b"\0", b"#"),
    *(b"descr", b"fortran_order", b"shape", b"True", b"False", b"None", b"L", b"0", b"1", b"2", b"-1", b"1e3", b"0x1"),
    *(b"float32", b"bfloat16", b"int", b"?", b"d", b"g2", b"M8[ns]", b"m8", b"[s]"),
    *(b"<", b">", b"|", b"=", b"f4", b"i8", b"c16", b"b1", b"V2", b"O", b"U3", b"\\", b"\x85", b"\xa0", b"\x1c", b"u'"),
    *(b"9999999999999999999", b"18446744073709551616", b"1L", b"2 L", b"(3,)", b"()", b"(,)", b"''", b"'x': 1"),
]


def ours(data: bytes) -> Header | None:
    """The header as we read it; None for our one error. Anything else that is raised is a defect."""
    try:
        size = header_size(data)
        if size > len(data):
            return None
        header = parse_header(data[:size])
        check_size(header, len(data))
    except InputError:
        return None
    return header


def check_against_numpy(data: bytes) -> bool:
    """Whether we take the file; if so, NumPy must find the very array that we find."""
    header = ours(data)
    if header is None or header.dtype.kind == "V" or header.dtype.name in EXTENSION_NAMES:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers written by Python 2
            expected = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise AssertionError(f"we take what NumPy does not: {data[:200]!r}") from error
    assert isinstance(expected, np.ndarray)
    assert (header.dtype.name, header.shape) == (expected.dtype.name, expected.shape), data[:200]
    found = np.frombuffer(data, header.dtype, offset=header.data_offset)
    found = found.reshape(header.shape, order="F" if header.fortran_order else "C")
    assert found.tobytes() == expected.tobytes(), data[:200]
    return True


def mutated(rng: random.Random, data: bytes, header: int) -> bytes:
    """The file with a few changes that a file of this kind may suffer, nearly all of them in the header."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(10, header) if rng.random() < 0.9 else rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:  # a word put in
            data = data[:at] + rng.choice(WORDS) + data[at:]
        elif kind == 1:  # a word in the place of others
            word = rng.choice(WORDS)
            data = data[:at] + word + data[at + len(word) :]
        elif kind == 2:  # a byte changed
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 3:  # something cut out
            data = data[:at] + data[at + rng.randrange(1, 8) :]
        elif kind == 4:  # padding replaced
            text, pad = data[10:header].rstrip(b" \n"), rng.choice((b" ", b"\n", b"\t", b"\v", b"\x85", b"\x1f", b"\0"))
            data = data[:10] + text + pad * (header - 10 - len(text)) + data[header:]
        else:  # an item said differently
            old, new = rng.choice(
                [
                    (b"'", b'"'), (b", ", b","), (b": ", b":"), (b", }", b"}"), (b"(", b"( "), (b",)", b", )"),
                    (b",", b"L,"), (b")", b",)"), (b" ", b"\n"), (b" ", b"  "), (b"False", b"True"), (b"<", b">"),
                    (b"<", b"|"), (b"<", b"="), (b"<", b""), (b"{", b" {"), (b"{", b"\n{"), (b" ", b"\xa0"),
                    (b"<f4", b"float32"), (b"<f8", b"d"),
                ]
            )  # fmt: skip
            data = data[:10] + data[10:header].replace(old, new) + data[header:]
    return refitted(data) if rng.random() < 0.7 else data


def refitted(data: bytes) -> bytes:
    """The header's length and the amount of data made to fit the text, so that only the text can be at fault."""
    end = data.rfind(b"}") + 1
    wide = 2 if data[6:7] == b"\1" else 4
    start = data[:8] + max(0, end - 8 - wide).to_bytes(4, "little")[:wide] + data[8 + wide : end]
    try:
        return start + bytes(min(parse_header(start).nbytes, 10**4))
    except InputError:
        return start
