"""Examples whose sources turn out unreadable only while they are written, where that leaves nothing of a shard.

A shard is never empty. So all is planned once more, without any example that was left out of its shard: as if their
sources had been excluded. The set is collected over all shards before, and thus the same whatever stopped in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from npy2tfrecord.errors import ConflictError, InputError
from npy2tfrecord.formats.manifest import Skipped
from npy2tfrecord.options import Options
from npy2tfrecord.planning.plan import Plan
from npy2tfrecord.planning.planner import plan
from npy2tfrecord.writing.shard_writer import ShardEntry

LEFT_OUT, REASONS = "left_out", "reasons"  # in what is recorded: numbers of examples that rise, and why each of them


def left_out(
    planned: Plan, lost: Mapping[int, Skipped], tried: Plan, entries: Mapping[str, ShardEntry]
) -> dict[int, Skipped]:
    """The examples `lost` before, and those left out of their shards when the plan without them was `tried`."""
    numbers, found = _remaining(planned, lost), dict(lost)
    for split in tried.splits:
        for file, members in split.shards():
            for i, reason in entries[file].left_out:
                found[int(numbers[members[i]])] = reason
    return dict(sorted(found.items()))


def recorded(there: Mapping[str, Any], out: str) -> dict[int, Skipped]:
    """The examples that an earlier run planned without, by what it recorded. Raises `ConflictError` for nonsense."""
    numbers, reasons = there.get(LEFT_OUT, []), there.get(REASONS, ())
    try:
        rise = all(a < b for a, b in zip([-1, *numbers], numbers, strict=False))
        if not rise or not all(type(number) is int and number < 2**62 for number in numbers):
            raise ValueError
        skipped = [Skipped(str(source), str(reason)) for source, reason in reasons] or [Skipped("", "")] * len(numbers)
        return dict(zip(numbers, skipped, strict=True))
    except (TypeError, ValueError):
        raise ConflictError(f"{out}: {LEFT_OUT}: expected numbers of examples. --overwrite replaces it") from None


def record(lost: Mapping[int, Skipped]) -> dict[str, Any]:
    """The other way round, for a plan; nothing where nothing is lost."""
    return {LEFT_OUT: list(lost), REASONS: [[s.source, s.reason] for s in lost.values()]} if lost else {}


def _remaining(planned: Plan, lost: Mapping[int, Skipped]) -> np.ndarray:
    """The numbers of all other examples."""
    return np.setdiff1d(np.arange(len(planned.examples)), list(lost), assume_unique=True)


def without(planned: Plan, lost: Mapping[int, Skipped], options: Options) -> Plan:
    """The plan for all other examples. Raises `InputError` when there are none, and what `plan` raises."""
    if not lost:
        return planned
    kept = _remaining(planned, lost)
    reasons: Sequence[Skipped] = list(lost.values())
    if not len(kept):
        found = f"{reasons[0].reason}; with it, none of the {len(lost)} examples can be written"
        raise InputError(reasons[0].source, found, "at least one")
    examples = replace(planned.examples, skipped=[*planned.examples.skipped, *reasons])
    examples.take(kept)
    return plan(examples, options)
