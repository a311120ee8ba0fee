"""What a run notes for the next one: its plan, and a journal with a line for each shard that is finished.

A run that was killed may have left half a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from npy2tfrecord.formats.manifest import Hash, ShardInfo, Skipped
from npy2tfrecord.writing.shard_entry import ShardEntry, Upload


def parse_plan(data: bytes) -> dict[str, Any]:
    """The plan in a file; empty where it holds none, which differs from every plan."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def encode_entries(entries: Iterable[ShardEntry], plan: bytes) -> bytes:
    """The lines of shards that were written by the plan in the file `plan`."""
    lines = []
    for entry in entries:
        text = json.dumps(asdict(entry)).encode()
        lines.append(_digest(plan, text) + b" " + text + b"\n")
    return b"".join(lines)


def decode_entries(lines: Iterable[bytes], plan: bytes) -> Iterator[ShardEntry]:
    """The shards that the lines of a journal name.

    A line that was cut short or altered counts for nothing, and so does one of another plan, or with fields that are
    unknown here: its shard is written again.
    """
    for line in lines:
        digest, _, text = line.rstrip(b"\n").partition(b" ")
        is_whole = line.endswith(b"\n") and digest == _digest(plan, text)
        if is_whole and (entry := _parse(text)) is not None:
            yield entry


def _digest(plan: bytes, text: bytes) -> bytes:
    """What a line begins with: parts that were started with other options follow another plan."""
    return Hash(plan + text).hexdigest().encode()


def _parse(text: bytes) -> ShardEntry | None:
    try:
        fields = json.loads(text)
        fields["shard"] = ShardInfo(**fields["shard"])
        fields["left_out"] = tuple((i, Skipped(**skipped)) for i, skipped in fields["left_out"])
        fields["uploads"] = tuple(Upload(**upload) for upload in fields["uploads"])
        return ShardEntry(**fields)
    except (KeyError, TypeError, ValueError):
        return None
