"""The options that a manifest records, which may hold anything, as options again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npy2tfrecord.errors import DamageError, UsageError, display
from npy2tfrecord.options import Options

_TEXT, _NUMBER = (str, type(None)), (int, type(None))
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("include", "exclude"), (list,)),
    **dict.fromkeys(("follow_symlinks", "rows", "group_by_suffix", "members", "shuffle", "stats"), (bool,)),
    **dict.fromkeys(
        ("on_error", "missing", "compression", "void_dtype", "split_by", "sort", "labels", "label_by"), _TEXT
    ),
    **dict.fromkeys(("seed", "num_shards", "shard_size"), _NUMBER),
    "split": (*_TEXT, dict),
    **dict.fromkeys(("dtype", "rank", "key_by"), (dict,)),
}


def options_of(
    recorded: Mapping[str, Any], files: Mapping[str, str | os.PathLike[str] | None], running: Options
) -> Options:
    """The options that a manifest records, for a run with the workers of `running`.

    `files` are the tables of labels and splits, whose names are not recorded. Raises `UsageError` for options that are
    unknown here, `DamageError` for what no conversion records.
    """
    kept = dict(recorded)
    try:
        # A stranger's manifest names no file that is to be read, and no machine that is to be asked.
        if unknown := kept.keys() - _OPTION_TYPES.keys():
            raise UsageError(
                f"the data set was made with options that this version of npy2tfrecord does not know, so its sources"
                f" can't be compared: {', '.join(map(display, sorted(unknown)))}. It is older than the data set:"
                " install a newer one"
            )
        kept = Options().shaping() | kept  # an option that is not recorded was added later, and had its default
        if kept["labels"] not in (None, "dirs", "file"):
            raise ValueError(f"labels is {kept['labels']!r:.60}")
        for name, value in kept.items():
            parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
            if type(value) not in _OPTION_TYPES[name] or not all(isinstance(part, str) for part in parts):
                raise ValueError(f"{name} is {value!r:.60}")
        for name, file in files.items():
            if kept[name] == "file" and file is None:
                raise UsageError(f"the {name.rstrip('s')}s came from a file: name it with --{name} FILE")
            if kept[name] == "file":
                kept[name] = file if name == "labels" or file is None else Path(file)
            elif file is not None:
                raise UsageError(f"{name} {display(os.fspath(file))}: the data set has no {name} from a file")
            elif isinstance(kept[name], str) and kept[name].lower().endswith(".csv"):
                raise ValueError(f"{name} is {kept[name]!r:.60}")
        kept["dtype"] = {name or None: dtype for name, dtype in kept["dtype"].items()}
        if kept["shard_size"] is None:
            del kept["shard_size"]
        return Options(
            **kept,
            jobs=running.jobs,
            backend=running.backend,
            scheduler=running.scheduler,
            in_flight=running.in_flight,
            scratch=running.scratch,
            assume_single_writer=running.assume_single_writer,
        )
    except UsageError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise DamageError(f"the manifest's options are not those of this version: {error}") from None
