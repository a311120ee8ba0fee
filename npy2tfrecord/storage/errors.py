"""What a bucket answers and a file system does not."""

from __future__ import annotations


class ChangedObjectError(OSError):
    """An object that is no longer the one that was asked for: its ETag is another."""


class BeyondEndError(OSError):
    """A range that begins behind the object's last byte."""
