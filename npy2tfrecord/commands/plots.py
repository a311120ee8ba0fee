"""Pictures of a data set and of an example, with matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from npy2tfrecord.checking.gallery import require_matplotlib
from npy2tfrecord.commands.text import count_text, shape_text, size_text
from npy2tfrecord.errors import OutputError, UsageError, display
from npy2tfrecord.formats.manifest import FeatureInfo, Histogram, Manifest
from npy2tfrecord.paths import local_path

if TYPE_CHECKING:
    from npy2tfrecord.checking.viewer import View

_SUFFIXES = (".png", ".svg", ".pdf")
_COLUMNS = 3
_PANEL_INCHES = (3.6, 2.6)
_BINS = 32
_MAX_BARS = 40  # up to so many shards have a bar each; more are shown as a histogram of sizes
_MAX_SLICES = 9
_FEW_CHANNELS = 12
_MAX_PANELS = 24
_NAMED_CLASSES = 14  # more classes are drawn without names
_GREY = "#666666"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "text.parse_math": False,
    "svg.hashsalt": "npy2tfrecord",  # no random names: the same data set gives the same file
}

Panel = tuple[str, str, Callable[[Any], None]]  # title, label of the x axis, drawing function


def plot_manifest(manifest: Manifest, path: str) -> None:
    """Draw a data set: axes that vary, shards, classes by split, and ranges of values where known."""
    total = f"{count_text(manifest.examples, 'example')} in {count_text(len(manifest.shards), 'shard')}"
    features = ", ".join(
        f"{display(info.name)} {info.dtype} {shape_text(info, dash='–')}" for info in manifest.features[:4]
    )
    _draw(manifest_panels(manifest), f"{total}, {size_text(manifest.total_bytes)}", features, path)


def manifest_panels(manifest: Manifest) -> list[Panel]:
    """What there is to draw of a data set."""
    panels = axis_panels(manifest.features)
    if len(manifest.shards) > 1 or not panels:
        panels.append(("Shards", "", partial(_draw_shards, manifest=manifest)))
    if manifest.label_counts.keys() == manifest.splits.keys():
        panels.append(("Classes", "", partial(_draw_classes, manifest=manifest)))
    elif len(manifest.splits) > 1:
        counts = {split: sum(shard.examples for shard in shards) for split, shards in manifest.splits.items()}
        panels.append(("Splits", "examples", partial(_draw_bars, counts=counts)))
    for info in manifest.features:
        if info.stats is not None and any(value is not None for value in info.stats["mean"]):
            title = f"{display(info.name)}: values"
            one = len(info.stats["mean"]) == 1
            panels.append((title, "" if one else "channel", partial(_draw_stats, stats=info.stats)))
    return panels


def plot_features(features: Sequence[FeatureInfo], path: str) -> None:
    """Draw how the axes of each feature vary."""
    text = ", ".join(f"{display(info.name)} {info.dtype} {shape_text(info, dash='–')}" for info in features[:4])
    panels = axis_panels(features) or [("Axes", "", partial(_say, text="no axis varies"))]
    _draw(panels, size_text(sum(info.bytes for info in features)), text, path)


def plot_example(seen: View, path: str) -> None:
    """Draw the arrays of an example: curves, pictures, or slices of arrays with more axes."""
    panels: list[Panel] = []
    for name, array in seen.arrays.items():
        shape = f"({', '.join(map(str, array.shape))}{',' * (array.ndim == 1)})"
        values = np.abs(array) if array.dtype.kind == "c" else array
        with np.errstate(invalid="ignore"):  # a signaling NaN
            values = values.astype(np.float64)
        title = f"{display(name)} {array.dtype.name} {shape}"
        if values.ndim < 3 or (values.ndim == 3 and values.shape[-1] in (3, 4)):
            panels.append(
                (title, "", partial(_draw_array, values=values, top=255 if array.dtype == np.uint8 else None))
            )
            continue
        slices = values.reshape(-1, *values.shape[-2:])
        chosen = np.unique(np.linspace(0, len(slices) - 1, min(len(slices), _MAX_SLICES)).round().astype(int))
        for i in chosen.tolist():
            index = ", ".join(map(str, np.unravel_index(i, values.shape[:-2])))
            panels.append((f"{title}\n[{index}]", "", partial(_draw_array, values=slices[i])))
    _draw(panels, display(seen.key), f"label {seen.label}" if seen.label is not None else "", path)


def _draw(panels: list[Panel], title: str, subtitle: str, path: str) -> None:
    path = local_path(path, "plot")
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"plot {path!r}: expected a file that ends in {', '.join(_SUFFIXES)}")
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = panels[:_MAX_PANELS]
    columns = 2 if len(panels) == 4 else min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with rc_context(_STYLE):
        width = max(columns, 1.6) * _PANEL_INCHES[0]
        figure = Figure(figsize=(width, rows * _PANEL_INCHES[1] + 0.7), layout="constrained")
        figure.suptitle(
            _shortened(title, width) + (f"\n{_shortened(subtitle, width)}" if subtitle else ""), fontsize=11
        )
        for i, (name, label, draw) in enumerate(panels):
            axes = figure.add_subplot(rows, columns, i + 1)
            axes.set_title(name, loc="left")
            _draw_panel(axes, label, draw)
        try:
            figure.savefig(path, dpi=110, metadata={"Date": None} if suffix == ".svg" else None)
        except OSError as error:
            raise OutputError.from_os("write", path, error) from error


def panel_svg(panel: Panel) -> bytes:
    """A panel without its title, on no background, as SVG."""
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    _, label, draw = panel
    content = io.BytesIO()
    with rc_context(_STYLE | {"svg.fonttype": "none"}):
        figure = Figure(figsize=_PANEL_INCHES, layout="constrained")
        _draw_panel(figure.add_subplot(), label, draw)
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _draw_panel(axes: Any, label: str, draw: Callable[[Any], None]) -> None:
    axes.set_xlabel(label, color=_GREY)
    axes.tick_params(colors=_GREY, labelcolor="black")
    draw(axes)


def _shortened(text: str, inches: float) -> str:
    most = int(inches * 11)
    return text if len(text) <= most else text[: most - 1] + "…"


def axis_panels(features: Sequence[FeatureInfo]) -> list[Panel]:
    """A histogram for each axis that varies."""
    panels: list[Panel] = []
    for info in features:
        for axis, histogram in enumerate(info.histograms):
            if histogram is not None:
                low = info.min_shape[axis]
                draw = partial(_draw_histogram, histogram=histogram, low=low)
                panels.append((f"{display(info.name)}: axis {axis}", "size", draw))
    return panels


def _draw_histogram(axes: Any, histogram: Histogram, low: int) -> None:
    high = histogram.sizes[-1]
    step = -(-(high - low + 1) // _BINS)
    edges = np.arange(low, high + step + 1, step)
    counts, _ = np.histogram(histogram.sizes, bins=edges, weights=histogram.counts)
    axes.bar(edges[:-1] - 0.5, counts, width=step * 0.94, align="edge", color="C0")
    axes.set_ylabel("arrays", color=_GREY)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _thousands(axes.yaxis)


def _draw_shards(axes: Any, manifest: Manifest) -> None:
    unit, name = next(
        ((size, name) for size, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
         if max(shard.bytes for shard in manifest.shards) >= size), (1, "bytes"))  # fmt: skip
    splits = manifest.splits
    if len(manifest.shards) <= _MAX_BARS:
        start = 0
        for i, (split, shards) in enumerate(splits.items()):
            sizes = [shard.bytes / unit for shard in shards]
            axes.bar(range(start, start + len(sizes)), sizes, color=f"C{i}", label=split)
            start += len(sizes)
        axes.set_xlabel("shard", color=_GREY)
        axes.set_ylabel(name, color=_GREY)
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        axes.hist(
            [[shard.bytes / unit for shard in shards] for shards in splits.values()],
            bins=_BINS,
            stacked=True,
            label=list(splits),
        )
        axes.set_xlabel(name, color=_GREY)
        axes.set_ylabel("shards", color=_GREY)
    axes.margins(y=0.25 if len(splits) > 1 else 0.05)
    if len(splits) > 1:
        axes.legend(frameon=False, ncols=3, loc="upper right", fontsize=8)


def _draw_bars(axes: Any, counts: dict[str, int]) -> None:
    names = list(counts)[::-1]
    colors = [f"C{i}" for i in range(len(names))][::-1]
    bars = axes.barh(names, [counts[name] for name in names], color=colors)
    axes.bar_label(bars, labels=[f"{counts[name]:,}" for name in names], padding=3, fontsize=8)
    axes.margins(x=0.25)
    _thousands(axes.xaxis)
    axes.locator_params(axis="x", nbins=4)


def _draw_classes(axes: Any, manifest: Manifest) -> None:
    """Bars of how many examples each class has, the splits one upon the other."""
    counts, names = manifest.label_counts, manifest.labels or ()
    labels = sorted(set(range(len(names))).union(*(counted.values for counted in counts.values())))
    few = len(labels) <= _NAMED_CLASSES
    texts = [_shortened(display(names[i]), 1.2) if 0 <= i < len(names) else str(i) for i in labels]
    at, start = np.arange(len(labels)), np.zeros(len(labels), dtype=np.int64)
    for split, counted in counts.items():
        examples = np.zeros(len(labels), dtype=np.int64)
        examples[np.searchsorted(labels, counted.values)] = counted.counts
        kind: dict[str, Any] = {"color": f"C{list(counts).index(split)}", "label": f"{split}: {examples.sum():,}"}
        if few:
            axes.barh(at, examples, left=start, height=0.8, **kind)
        else:
            axes.bar(at, examples, bottom=start, width=1.0, **kind)
        start += examples
    if few:
        axes.set_yticks(at, texts)
        axes.invert_yaxis()
        axes.set_xlabel("examples", color=_GREY)
        axes.margins(x=0.55 if len(counts) > 1 else 0.05)  # room for the legend
        axes.locator_params(axis="x", nbins=5)
    else:
        axes.set_xlabel(f"{len(labels):,} classes", color=_GREY)
        axes.set_ylabel("examples", color=_GREY)
        axes.margins(x=0.01, y=0.25 if len(counts) > 1 else 0.05)
        axes.xaxis.set_major_formatter(lambda value, _: texts[int(value)] if value in range(len(texts)) else "")
    _thousands(axes.xaxis if few else axes.yaxis)
    if len(counts) > 1:
        axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=1 if few else 3)


def _draw_stats(axes: Any, stats: Any) -> None:
    def column(name: str) -> np.ndarray:
        return np.array([np.nan if value is None else value for value in stats[name]], dtype=np.float64)

    low, high, mean, deviation = column("min"), column("max"), column("mean"), column("std")
    x = np.arange(len(mean))
    if len(mean) == 1:
        axes.barh(x, high - low, left=low, height=0.3, color="C0", alpha=0.25, label="minimum to maximum")
        axes.barh(x, 2 * deviation, left=mean - deviation, height=0.3, color="C0", label="mean ± deviation")
        axes.plot(mean, x, "|", color="black", markersize=24)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.use_sticky_edges = False
        axes.margins(x=0.06)
        axes.set_ylim(-0.6, 0.9)
    elif len(mean) <= _FEW_CHANNELS:
        axes.bar(x, high - low, bottom=low, width=0.5, color="C0", alpha=0.25, label="minimum to maximum")
        axes.bar(x, 2 * deviation, bottom=mean - deviation, width=0.5, color="C0", label="mean ± deviation")
        axes.plot(x, mean, "_", color="black", markersize=16)
        axes.set_xticks(x)
        axes.use_sticky_edges = False
        bottom, top = np.nanmin(low), np.nanmax(high)
        axes.set_ylim(bottom - 0.05 * ((top - bottom) or 1), top + 0.45 * ((top - bottom) or 1))
    else:
        axes.fill_between(x, low, high, color="C0", alpha=0.2, linewidth=0, label="minimum to maximum")
        axes.fill_between(x, mean - deviation, mean + deviation, color="C0", alpha=0.5, linewidth=0, label="deviation")
        axes.plot(x, mean, color="C0", label="mean")
        axes.margins(y=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _draw_array(axes: Any, values: np.ndarray, top: float | None = None) -> None:
    if values.ndim == 0:
        _say(axes, f"{float(values):g}")
    elif values.ndim == 1:
        axes.plot(values, linewidth=1)
    elif values.size == 0:
        _say(axes, "empty")
    elif values.ndim == 3:
        finite = np.nan_to_num(values)
        low, high = (finite.min(), finite.max()) if top is None else (0.0, top)
        axes.imshow((finite - low) / ((high - low) or 1), interpolation="nearest")
    else:
        aspect = "equal" if 0.25 <= values.shape[0] / values.shape[1] <= 4 else "auto"
        image = axes.imshow(values, aspect=aspect, interpolation="nearest", cmap="viridis")
        axes.figure.colorbar(image, ax=axes, shrink=0.85)


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()


def _thousands(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == round(value) else "")
