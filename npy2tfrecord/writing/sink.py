"""The way of a shard's bytes into its file: hashed, counted and, if asked for, compressed as a whole.

TensorFlow reads gzip and zlib streams. ISA-L writes both several times faster than zlib and is used
where the `isal` package is installed; the records inside are the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from npy2tfrecord import syscalls
from npy2tfrecord.formats.manifest import Hash
from npy2tfrecord.formats.shard import Content, ContentHash

_GZIP_BITS, _ZLIB_BITS = 31, 15
_LEVEL = 1
_PIECE_BYTES = 1 << 20  # that are compressed at a time: what comes out may depend on how the bytes came in


def _compressor(compression: str) -> tuple[str, Any]:
    """The name and version of a compressor, and a new stream of it."""
    bits = _GZIP_BITS if compression == "gzip" else _ZLIB_BITS
    try:
        import isal
        from isal import isal_zlib
    except ImportError:
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}", zlib.compressobj(level=_LEVEL, wbits=bits)
    return f"isal {isal.__version__}", isal_zlib.compressobj(level=_LEVEL, wbits=bits)


class Compressor:
    """Takes a shard's bytes in order and writes them to an open file. `wrote` is called with how many were written."""

    def __init__(self, handle: int, compression: str, wrote: Callable[[int], None] | None = None) -> None:
        self._handle, self._wrote = handle, wrote
        self.name: str | None = None  # and version, of what compresses
        self._deflate: Any = None
        if compression != "none":
            self.name, self._deflate = _compressor(compression)
        self._written, self._unpacked = ContentHash(), Hash()
        self._pending = bytearray()

    def write(self, data: memoryview) -> None:
        if self._deflate is None:
            self._write(data)
            return
        self._unpacked.update(data)
        while data:
            part = data[: _PIECE_BYTES - len(self._pending)]
            self._pending += part
            data = data[len(part) :]
            if len(self._pending) == _PIECE_BYTES:
                self._compress()

    def finish(self) -> None:
        if self._deflate is not None:
            self._compress()
            self._write(memoryview(self._deflate.flush()))

    def _compress(self) -> None:
        pending, self._pending = self._pending, bytearray()
        self._write(memoryview(self._deflate.compress(pending)))

    def _write(self, data: memoryview) -> None:
        if data:
            self._written.update(data)
            syscalls.write_all(self._handle, data)
            if self._wrote is not None:
                self._wrote(len(data))

    @property
    def content(self) -> Content:
        """What has been written to the file."""
        return self._written.content

    @property
    def unpacked(self) -> str | None:
        """The hash of the bytes before they were compressed, None where they are not."""
        return None if self._deflate is None else str(self._unpacked.hexdigest())
