"""`load_npy`: `.npy` files as a `tf.data.Dataset`, with no conversion."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from npy2tfrecord.conversion.surveyor import survey
from npy2tfrecord.errors import UsageError
from npy2tfrecord.formats.manifest import FeatureInfo, Manifest, ShardInfo, shard_name
from npy2tfrecord.options import Options, parse_sources, with_splits_of
from npy2tfrecord.paths import is_bucket, local_path
from npy2tfrecord.planning.examples import Examples
from npy2tfrecord.planning.feature_summary import summarize
from npy2tfrecord.planning.joiner import join
from npy2tfrecord.sources.finder import find
from npy2tfrecord.storage.in_flight import MOST_IN_FLIGHT
from readers import splits
from readers.dataset import check_padding_names, features_used
from readers.options import ReadOptions
from readers.outputs import choose_structure, columns_of
from readers.pipeline.malloc import keep_large_blocks
from readers.pipeline.strategy import choose, waiting
from readers.splits import Part

if TYPE_CHECKING:
    import tensorflow as tf

_SPLIT = "train"
_MAX_PIECES = 2**16


def load_npy(
    sources: Any,
    *,
    rows: bool = False,
    labels: str | os.PathLike[str] | None = None,
    label_by: str | None = None,
    key_by: str | Sequence[str] | Mapping[str, str] | None = None,
    include: Sequence[str] | str = (),
    exclude: Sequence[str] | str = (),
    follow_symlinks: bool = False,
    group_by_suffix: bool = False,
    missing: str = "fail",
    void_dtype: str | None = None,
    split: str | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Examples straight from `.npy` files, with the options and elements of `load_dataset`.

    sources, rows, labels, label_by, key_by, include, exclude, follow_symlinks, group_by_suffix, missing, void_dtype: as
        in `npy2tfrecord.convert`.
    split: a slice, as in 'train[:80%]'; everything is one split, 'train', in the order of the keys.

    Every header is read first, the files themselves when their turn comes. Raises `InputError` for a
    source that can't be read, and the pipeline an error that names a file that changed afterwards.
    """
    if "normalize" in options:
        raise UsageError("normalize: files as they are have no statistics; convert them with --stats")
    if "on_corrupt" in options:
        raise UsageError("on_corrupt: files as they are have no checksums; leave it out")
    chosen = ReadOptions(**_known(options))
    source_options = Options(
        rows=rows, labels=_path(labels), label_by=label_by, key_by=key_by, include=_tuple(include, "include"),
        exclude=_tuple(exclude, "exclude"), follow_symlinks=follow_symlinks, group_by_suffix=group_by_suffix,
        missing=missing, void_dtype=void_dtype,
    )  # fmt: skip
    parsed = parse_sources(sources)
    if url := next((os.fsdecode(source.path) for source in parsed if is_bucket(source.path)), None):
        raise UsageError(f"{url}: files in a bucket can't be read in place; convert them, or copy them to a disk")
    source_options = with_splits_of(parsed, source_options)
    scanned = survey(find(parsed, source_options), source_options)
    examples = join(scanned, source_options)
    manifest = _describe(examples, rows)
    selection = splits.select(manifest, split)
    structure = choose_structure(manifest, chosen)
    columns = columns_of(structure)
    check_padding_names(manifest, chosen)
    used = features_used(manifest, columns)
    _check_readable(examples, used, rows)
    parts = splits.share(splits.left(selection.parts, chosen.stops()), *chosen.worker_index())

    from readers.pipeline.builder import Builder
    from readers.pipeline.decoders import make_decoder
    from readers.pipeline.npy_records import NpyFiles

    count = sum(part.count for part in parts)
    strategy = choose(used, selection.example_bytes, count, len(parts), chosen, files=True)
    # Any example is as near as any other: small pieces in random order are a better shuffle.
    strategy = dataclasses.replace(strategy, pieces=max(strategy.pieces, min(_MAX_PIECES, count // strategy.block)))
    if scanned.in_flight:
        strategy = waiting(strategy, min(scanned.in_flight, MOST_IN_FLIGHT), selection.example_bytes)
    if strategy.tune_malloc:
        keep_large_blocks()
    decoders = [
        dataclasses.replace(
            make_decoder(info, strategy.methods[info.name], chosen), skip=_common_header(examples, info)
        )
        for info in used
    ]

    def make_stage(parts: Sequence[Part]) -> NpyFiles:
        return NpyFiles(examples, parts, decoders, "label" in columns, strategy.ahead)

    return Builder(make_stage, parts, decoders, structure, chosen, strategy, manifest.examples).build()


def _common_header(examples: Examples, info: FeatureInfo) -> int:
    """The size of the files' headers where they can be left in front of the values: one size, nothing to reorder."""
    (table,) = (table for table in examples.tables if table.feature == info.name)
    sizes = {header.data_offset for header in table.headers}
    if examples.rows is not None or len(sizes) > 1 or not all(header.is_plain for header in table.headers):
        return 0
    return sizes.pop() if min(sizes) % 16 == 0 else 0


def _known(options: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(ReadOptions)}
    for name in options:
        if name not in known:
            raise UsageError(f"{name}: no such option; there are {', '.join(sorted(known))}")
    return options


def _path(labels: Any) -> str | None:
    if labels is not None and not isinstance(labels, str | os.PathLike):
        raise UsageError(f"labels={labels!r}: expected 'dirs', or the path of a table")
    return None if labels is None else local_path(labels, "labels")


def _tuple(patterns: Any, option: str) -> tuple[str, ...]:
    given = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(given, list | tuple) or not all(isinstance(pattern, str) for pattern in given):
        raise UsageError(f"{option}={patterns!r}: expected a pattern, or a list of them")
    return tuple(given)


def _describe(examples: Examples, rows: bool) -> Manifest:
    """The manifest that a conversion would give, as far as reading needs it."""
    infos = []
    for table, sources in zip(examples.tables, examples.sources, strict=True):
        counts = np.bincount(table.header_ids[sources], minlength=len(table.headers))
        infos.append(summarize(table, counts, int(rows), table.headers[0].dtype))
    shard = ShardInfo(
        file=shard_name(_SPLIT, 0, 1),
        examples=len(examples),
        bytes=sum(info.bytes for info in infos),
        hash="0" * 32,
        tail="",
    )
    return Manifest(
        features=tuple(infos), splits={_SPLIT: (shard,)}, labels=examples.classes, label_dtype=examples.label_dtype
    )


def _check_readable(examples: Examples, used: Sequence[FeatureInfo], rows: bool) -> None:
    """Raise `UsageError` for what the graph's operations can't read in place."""
    names = {info.name for info in used}
    for table in examples.tables:
        if table.feature not in names:
            continue
        where = os.fsdecode(table.path(0))
        if table.members is not None:
            raise UsageError(f"{where}: members of .npz archives can't be read in place; convert them")
        for header in table.headers if rows else ():
            if not header.is_c_order:
                raise UsageError(f"{where}: rows of arrays in Fortran order are not together in the file; convert them")
            if not header.nbytes and header.shape[0]:
                raise UsageError(f"{where}: rows without a value can't be read in place; convert them")
