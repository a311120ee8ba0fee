"""A manifest as HTML tables, for notebooks and for the page that `info --html` makes.

Names come from files: all of them are escaped. Tables have a bounded length, whatever the data set.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from npy2tfrecord.errors import display

if TYPE_CHECKING:
    from npy2tfrecord.formats.manifest import FeatureInfo, Manifest

MOST_ROWS = 100
_MOST_COLUMNS = 12
_SHOWN_NAME = 120  # characters of a name


def manifest_html(manifest: Manifest) -> str:
    """What a data set holds: its features, and its splits by class."""
    tables = [feature_table(manifest.features), split_table(manifest)]
    return f"<div><p>{summary(manifest)}</p>{''.join(tables)}</div>"


def summary(manifest: Manifest) -> str:
    """`240 examples in 2 shards, 1.70 MB`."""
    packed = "" if manifest.compression == "none" else f", {escaped(manifest.compression)}"
    examples, shards = _count(manifest.examples, "example"), _count(len(manifest.shards), "shard")
    return f"{examples} in {shards}, {size(manifest.total_bytes)}{packed}"


def feature_table(features: Sequence[FeatureInfo], counts: Sequence[int] | None = None) -> str:
    """A row for each feature; `counts` are the numbers of their arrays where they may differ."""
    columns = ["feature", "dtype", "shape", "size", *(["arrays"] if counts is not None else [])]
    has_stats = any(info.stats is not None for info in features)
    columns += ["min", "mean", "max", "deviation"] if has_stats else []
    rows = []
    for i, info in enumerate(features[:MOST_ROWS]):
        time = f" ({info.time})" if info.time is not None else ""
        row = [info.name, info.dtype + time, shape(info), size(info.bytes)]
        row += [f"{counts[i]:,}"] if counts is not None else []
        row += [_range(info, name) for name in ("min", "mean", "max", "std")] if has_stats else []
        rows.append(row)
    return table("Features", columns, rows, len(features))


def split_table(manifest: Manifest) -> str:
    """A row for each split, or where classes were counted, a row for each class and a column for each split."""
    counted = manifest.label_counts
    if not counted or counted.keys() != manifest.splits.keys() or len(counted) > _MOST_COLUMNS:
        rows = [
            [split, f"{sum(s.examples for s in shards):,}", f"{len(shards):,}", size(sum(s.bytes for s in shards))]
            for split, shards in list(manifest.splits.items())[:MOST_ROWS]
        ]
        return table("Splits", ["split", "examples", "shards", "size"], rows, len(manifest.splits))
    found = {split: dict(zip(each.values, each.counts, strict=True)) for split, each in counted.items()}
    names = manifest.labels or ()
    labels = sorted(set(range(len(names))).union(*found.values()))
    rows = [
        [f"{label} {names[label]}" if 0 <= label < len(names) else str(label)]
        + [f"{found[split].get(label, 0):,}" for split in counted]
        for label in labels[:MOST_ROWS]
    ]
    totals = ["all"] + [f"{sum(each.values()):,}" for each in found.values()]
    return table("Examples by class and split", ["class", *counted], [*rows, totals], len(labels) + 1)


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], total: int | None = None) -> str:
    """Texts as a table, escaped; the first cell of a row is its head. `total` is how many rows there would be."""
    head = "".join(
        f'<th scope="col" style="text-align:{_side(i)}">{escaped(each)}</th>' for i, each in enumerate(columns)
    )
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    more = f"<p>… and {total - len(rows):,} more</p>" if total is not None and total > len(rows) else ""
    return (
        f"<table><caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    )


def _cells(row: Iterable[str]) -> str:
    first, *others = row
    cells = [f'<th scope="row" style="text-align:left"><bdi>{escaped(first)}</bdi></th>']
    return "".join(
        cells + [f'<td style="text-align:{_side(i)}">{escaped(each)}</td>' for i, each in enumerate(others, 1)]
    )


def _side(column: int) -> str:
    return "right" if column else "left"


def escaped(text: str) -> str:
    """A text from a file as HTML: printable, of bounded length, and no markup."""
    shown = display(text)
    return html.escape(shown if len(shown) <= _SHOWN_NAME else shown[: _SHOWN_NAME - 1] + "…")


def shape(info: FeatureInfo) -> str:
    """`(20–400, 80)`."""
    axes = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(info.min_shape, info.max_shape, strict=True)]
    return f"({', '.join(axes)}{',' * (len(axes) == 1)})"


def size(count: int) -> str:
    """A number of bytes for people: `1.70 MB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count} bytes"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _range(info: FeatureInfo, name: str) -> str:
    """A statistic; of several channels the least and the most."""
    found = [value for value in (info.stats or {}).get(name, ()) if value is not None]
    if not found:
        return ""
    low, high = f"{min(found):.4g}", f"{max(found):.4g}"
    return low if low == high else f"{low} to {high}"
