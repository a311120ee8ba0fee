"""What the commands print: plain text, aligned, at most 80 columns wide where names allow it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from npy2tfrecord.commands import colors
from npy2tfrecord.errors import display
from npy2tfrecord.formats.example import LABEL
from npy2tfrecord.formats.manifest import FILE_NAME, FeatureInfo, Histogram, Manifest, Skipped

if TYPE_CHECKING:
    from npy2tfrecord.checking.viewer import View
    from npy2tfrecord.conversion.surveyor import ScanReport
    from npy2tfrecord.planning.examples import Known

_COLUMNS = 80
_BAR_WIDTH = 40
_MAX_BARS = 12
_PROFILE_BARS = 24  # of an axis, in one line
_SHOWN_SKIPPED = 10
_SHOWN_CLASSES = 10
_SHOWN_FOLDERS = 6
_SHOWN_KINDS = 8  # of files that are passed over, or features of an example
_NAME_WIDTH = 32  # of a class name in a table


def _terminal_signs() -> tuple[str, str, str, str]:
    """A range's dash, a bar's block, a sliver of one, and heights; in ASCII where standard output lacks them."""
    signs = ("–", "█", "▏", "▁▂▃▄▅▆▇█")
    try:
        "".join(signs).encode(getattr(sys.__stdout__, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return ("-", "#", "|", "_.-:=+*#")
    return signs


_DASH, _BLOCK, _SLIVER, _HEIGHTS = _terminal_signs()


def size_text(size: float) -> str:
    """A size for people: `133.2 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def count_text(count: int, noun: str) -> str:
    """`1 example`, `5,000 examples`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def shape_text(info: FeatureInfo, dash: str = _DASH) -> str:
    """`(20–400, 80)`: an axis that varies is shown with its smallest and largest size."""
    sizes = zip(info.min_shape, info.max_shape, strict=True)
    axes = [str(low) if low == high else f"{low}{dash}{high}" for low, high in sizes]
    return f"({', '.join(axes)}{',' * (len(axes) == 1)})"


def plain_shape_text(shape: Sequence[int]) -> str:
    """`(3, 4)`, `(5,)`, `()`."""
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def table_text(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows in aligned columns, with numbers aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if cell[:1].isdigit() and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def histogram_text(histogram: Histogram, smallest: int) -> str:
    """A bar for each range of sizes of an axis, as long as there are arrays of these sizes."""
    totals, step = _bars(histogram, smallest, _MAX_BARS)
    low, high = smallest, histogram.sizes[-1]
    most = max(totals)
    lines = []
    width = len(str(high))
    for i, total in enumerate(totals):
        first, last = low + i * step, min(low + (i + 1) * step - 1, high)
        label = f"{first:>{width}}" if step == 1 else f"{first:>{width}}{_DASH}{last:<{width}}"
        bar = _BLOCK * round(total / most * _BAR_WIDTH) or (_SLIVER if total else "")
        lines.append(f"    {label}  {total:>9,}  {colors.bars(bar)}".rstrip())
    return "\n".join(lines)


def _bars(histogram: Histogram, low: int, most: int) -> tuple[list[int], int]:
    """How many arrays have a size in each of at most so many ranges from `low` on, and the width of a range."""
    high = histogram.sizes[-1]
    bars = min(most, high - low + 1)
    step = -(-(high - low + 1) // bars)
    totals = [0] * bars
    for size, count in zip(histogram.sizes, histogram.counts, strict=True):
        totals[(size - low) // step] += count
    while len(totals) > 1 and not totals[-1]:
        totals.pop()
    return totals, step


def profile_text(info: FeatureInfo) -> str:
    """A line for each axis that varies: its sizes, the one in the middle, and bars as high as there are arrays."""
    rows = []
    for axis, histogram in enumerate(info.histograms):
        if histogram is not None:
            low, high = info.min_shape[axis], info.max_shape[axis]
            totals, _ = _bars(histogram, low, _PROFILE_BARS)
            most = max(totals)
            heights = "".join(_HEIGHTS[(total * len(_HEIGHTS) - 1) // most] if total else " " for total in totals)
            rows.append((f"axis {axis}", f"{low}{_DASH}{high}", f"median {_median(histogram)}", colors.bars(heights)))
    return table_text(rows, indent="    ") if rows else ""


def _median(histogram: Histogram) -> int:
    """The size that half of the arrays do not exceed, or the upper end of its bin."""
    below = np.cumsum(histogram.counts)
    return histogram.sizes[int(np.searchsorted(below, (int(below[-1]) + 1) // 2))]


def _dtype_text(info: FeatureInfo) -> str:
    return info.dtype if info.time is None else f"{info.time} as {info.dtype}"


def features_text(
    features: Sequence[FeatureInfo], label: Sequence[str] | None = None, counts: Sequence[int] | None = None
) -> str:
    """A line for each feature, with bars for each axis that varies, and a line for the label if there is one.

    `label` are the dtype of the labels and what they are. `counts` are the numbers of arrays of each feature, where
    they may differ: then this is a profile, with one line for each axis.
    """
    rows = [[display(info.name), _dtype_text(info), shape_text(info), size_text(info.bytes)] for info in features]
    if counts is not None:
        rows = [[*row[:3], count_text(count, "array"), row[3]] for row, count in zip(rows, counts, strict=True)]
    if label is not None:
        rows.append([LABEL, *label, ""])
    lines = table_text(rows).split("\n")
    out = []
    for info, line in zip(features, lines, strict=False):
        out.append(line)
        if counts is not None:
            out += [profile_text(info)] * any(info.histograms)
            continue
        for axis, histogram in enumerate(info.histograms):
            if histogram is not None:
                out.append(f"    axis {axis}:")
                out.append(histogram_text(histogram, info.min_shape[axis]))
    return "\n".join(out + lines[len(features) :])


def _label_cells(manifest: Manifest) -> tuple[str, str] | None:
    names = manifest.labels
    if names is None:
        return None
    numbers = "integers" if manifest.label_dtype == "int64" else "numbers"
    return manifest.label_dtype, f"{len(names):,} class{'es' * (len(names) != 1)}" if names else numbers


def splits_text(manifest: Manifest) -> str:
    """A line for each split."""
    rows = []
    for split, shards in manifest.splits.items():
        sizes = [shard.bytes for shard in shards]
        low, high = size_text(min(sizes)), size_text(max(sizes))
        spread = low if len(sizes) == 1 else f"{low} each" if low == high else f"{low} to {high} each"
        rows.append(
            (
                split,
                count_text(sum(shard.examples for shard in shards), "example"),
                count_text(len(shards), "shard"),
                spread,
            )
        )
    return table_text(rows)


def classes_text(manifest: Manifest) -> str:
    """The first few classes, with the number of examples in each split where it is known."""
    splits, names = list(manifest.label_counts), manifest.labels or ()
    found = {split: dict(zip(c.values, c.counts, strict=True)) for split, c in manifest.label_counts.items()}
    labels = sorted(set(range(len(names))).union(*found.values()))
    rows = [("", *splits)] if len(splits) > 1 else []
    for label in labels[:_SHOWN_CLASSES]:
        name = f"{label} {_cut(display(names[label]))}" if 0 <= label < len(names) else str(label)
        rows.append((name, *(f"{found[split].get(label, 0):,}" for split in splits)))
    more = f"\n  ... and {len(labels) - _SHOWN_CLASSES:,} more" if len(labels) > _SHOWN_CLASSES else ""
    return table_text(rows) + more if labels else ""


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 3] + "..."


def scan_text(found: ScanReport) -> str:
    """All that `scan` shows."""
    parts = [f"{count_text(found.files, 'file')}, {size_text(sum(info.bytes for info in found.features))} of values"]
    if found.features:
        parts += ["", colors.heading("Features"), features_text(found.features, counts=found.counts)]
    if found.key is not None:
        arrays = [f"{display(name)} {plain_shape_text(shape)}" for name, shape in found.shapes.items()]
        more = f" and {len(arrays) - _SHOWN_KINDS:,} more features" if len(arrays) > _SHOWN_KINDS else ""
        shown = f"{display(found.key)}: {', '.join(arrays[:_SHOWN_KINDS])}{more}"
        parts += [
            "",
            colors.heading("Examples"),
            f"  {count_text(found.examples, 'example')}, the first {shown}",
        ]
        if found.lacking:
            has = "has" if found.lacking == 1 else "have"
            lacking = f"{count_text(found.lacking, 'source')} {has} a key that another feature lacks"
            parts.append(f"  {colors.warning(lacking)}")
        if found.inversion is not None:
            before, after = map(display, found.inversion)
            parts.append(f"  in the order of bytes: {before} before {after}; --sort natural turns them round")
    elif found.features:
        parts += ["", colors.heading("Examples"), "  " + colors.warning(f"none: {found.obstacle}")]
    if found.passed_over:
        parts += ["", passed_over_text(found.passed_over)]
    if found.problems:
        skipped = [Skipped(display(p.where), p.problem) for p in found.problems]
        parts += ["", skipped_text(skipped, "--json")]
    if found.size:
        parts += ["", colors.heading("Result"), f"  {size_text(found.size)} in {count_text(found.shards, 'shard')}"]
        if found.folders:
            names = [_cut(display(name)) for name in found.folders[:_SHOWN_FOLDERS]]
            more = ", ..." * (len(found.folders) > _SHOWN_FOLDERS)
            folders = count_text(len(found.folders), "folder")
            parts.append(f"  {folders} that may be classes: {', '.join(names)}{more}")
    elif found.key is not None:
        parts += ["", colors.heading("Result"), "  " + colors.warning(f"does not fit: {found.obstacle}")]
    return "\n".join(parts)


def passed_over_text(counts: Mapping[str, int]) -> str:
    """How many files of which kind are no sources: `Passed over: 12 hidden, 3 .txt`."""
    kinds = [f"{count:,} {kind}" for kind, count in counts.items()]
    others = sum([*counts.values()][_SHOWN_KINDS:])
    return f"{colors.heading('Passed over')}: " + ", ".join(
        kinds[:_SHOWN_KINDS] + [f"{others:,} others"] * bool(others)
    )


def known_text(known: Known) -> str:
    """What the sets of `--not-in` hold, and what has become of it."""
    changed = f"{count_text(known.changed, 'source')} {'has' if known.changed == 1 else 'have'} another size now"
    return (
        f"Left out: {count_text(known.examples, 'example')} that the earlier sets hold; {changed},"
        f" {count_text(known.gone, 'key')} {'has' if known.gone == 1 else 'have'} no source any more"
    )


def part_text(manifest: Manifest) -> str:
    """What a part has written."""
    shards, examples = count_text(len(manifest.shards), "shard"), count_text(manifest.examples, "example")
    return f"{examples} in {shards}; run without --part when all parts are done"


def unfinished_parts_text(parts: tuple[int, ...], count: int) -> str:
    """Which parts had shards missing, which the last run wrote itself."""
    shown = ", ".join(map(str, parts[:_SHOWN_SKIPPED])) + ", ..." * (len(parts) > _SHOWN_SKIPPED)
    return f"Not finished, and written by this run: part {shown} of {count}"


def skipped_text(skipped: Sequence[Skipped], where: str) -> str:
    """The first few skipped sources with reasons, and where all are listed."""
    lines = [colors.warning(f"Skipped {count_text(len(skipped), 'source')}:")]
    lines += [f"  {display(s.source) or '(all)'}: {s.reason}" for s in skipped[:_SHOWN_SKIPPED]]
    if len(skipped) > _SHOWN_SKIPPED:
        lines.append(f"  ... and {len(skipped) - _SHOWN_SKIPPED:,} more; {where} lists all")
    return "\n".join(lines)


def manifest_text(manifest: Manifest, title: str) -> str:
    """All that `info` shows."""
    parts = [
        f"{title}: {count_text(manifest.examples, 'example')} in {count_text(len(manifest.shards), 'shard')},"
        f" {size_text(manifest.total_bytes)}" + (f", {manifest.compression}" if manifest.compression != "none" else ""),
        "",
        colors.heading("Features"),
        features_text(manifest.features, _label_cells(manifest)),
        "",
        colors.heading("Splits"),
        splits_text(manifest),
    ]
    if classes := classes_text(manifest):
        parts += ["", colors.heading("Classes"), classes]
    if manifest.skipped:
        parts += ["", skipped_text(manifest.skipped, FILE_NAME)]
    return "\n".join(parts)


def reading_text(manifest: Manifest, out: str) -> str:
    """The three lines of Python that read the result."""
    split = next(iter(manifest.splits))
    lines = (
        "import readers",
        f"dataset = readers.load_dataset({out!r}, split={split!r}, batch_size=32)",
        f"for batch in dataset: print(batch[{manifest.features[0].name!r}].shape)",
    )
    return "\n".join([colors.heading("Read it with"), *(f"    {colors.command(line)}" for line in lines)])


def view_text(seen: View) -> str:
    """All that `show` shows of an example."""
    from npy2tfrecord.checking.viewer import value_range  # and all that it needs, for this alone

    lines = [f"{display(seen.key)}: record {seen.record} of {seen.shard}"]
    if seen.label is not None:
        lines.append(f"label {seen.label}")
    rows = []
    for name, array in seen.arrays.items():
        shape = plain_shape_text(array.shape)
        known = value_range(array)
        values = f"{known['min']:.6g} to {known['max']:.6g}, mean {known['mean']:.6g}" if known else ""
        rows.append((name, array.dtype.name, shape, size_text(array.nbytes), values))
    lines += ["", table_text(rows)]
    for name, array in seen.arrays.items():
        values = np.array2string(array, threshold=60, edgeitems=3, max_line_width=_COLUMNS, precision=4)
        lines += ["", name, values]
    return "\n".join(lines)
