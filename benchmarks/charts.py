"""Bars and curves as SVG, drawn by matplotlib on a white ground, so that they can be read in dark mode too."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

WIDTH, ROW, TITLE = 8.0, 0.23, 0.55  # inches: of a chart, of a bar, of what is around a block of bars
COLOURS = {"ours": "#1a7f37", "peer": "#8c959f", "floor": "#d0d7de"}
STYLE: dict[str, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "npy2tfrecord",  # the same results give the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


@dataclass
class Bars:
    """One block of bars: rates by name, and which of them are ours or a floor."""

    title: str
    rates: Mapping[str, float]
    unit: str
    kinds: Mapping[str, str] = field(default_factory=dict)


def bars(title: str, blocks: Sequence[Bars]) -> str:
    """Blocks below each other, each scaled to its longest bar; a longer bar is faster."""
    blocks = [block for block in blocks if block.rates]
    heights = [TITLE + ROW * len(block.rates) for block in blocks]
    with _figure(title, sum(heights)) as (figure, svg):
        grid = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)
        for axes, block in zip(grid[:, 0], blocks, strict=True):
            names = sorted(block.rates, key=lambda name: block.rates[name])
            rates = [block.rates[name] for name in names]
            drawn = axes.barh(names, rates, color=[COLOURS[block.kinds.get(name, "peer")] for name in names])
            axes.bar_label(drawn, [f"{rate:,.0f} {block.unit}" for rate in rates], padding=4)
            axes.set_title(block.title, loc="left", fontweight="bold", fontsize=10)
            axes.set_xlim(0, 1.18 * max(rates))
            axes.set_ylim(-0.6, len(names) - 0.4)
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.tick_params(left=False)
            axes.xaxis.set_major_locator(NullLocator())
    return svg.getvalue()


@dataclass
class Curve:
    """Points of a curve, both axes logarithmic; with `ideal`, a straight line of that slope from the first point."""

    title: str
    points: Mapping[float, float]
    x_title: str
    y_title: str
    ideal: float | None = None


def curves(title: str, plots: Sequence[Curve]) -> str:
    """Curves beside each other."""
    with _figure(title, 3.0) as (figure, svg):
        grid = figure.subplots(1, len(plots), squeeze=False)
        for axes, plot in zip(grid[0], plots, strict=True):
            xs = sorted(plot.points)
            ys = [plot.points[x] for x in xs]
            if plot.ideal is not None:
                axes.plot(xs, [ys[0] * (x / xs[0]) ** plot.ideal for x in xs], "--", color=COLOURS["peer"])
            axes.plot(xs, ys, "o-", color=COLOURS["ours"], markersize=4)
            for x, y in zip(xs, ys, strict=True):
                axes.annotate(f"{y:,.0f}", (x, y), (0, 6), textcoords="offset points", ha="center")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.margins(0.12, 0.2)
            axes.set_title(plot.title, loc="left", fontweight="bold", fontsize=10)
            axes.set_xlabel(plot.x_title)
            axes.set_ylabel(plot.y_title)
            axes.set_xticks(xs, [f"{x:,.0f}" for x in xs])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(NullLocator())  # the points bear their values
            axes.yaxis.set_minor_locator(NullLocator())
    return svg.getvalue()


@contextmanager
def _figure(title: str, height: float) -> Iterator[tuple[Figure, io.StringIO]]:
    """A figure to draw into, and the SVG file that it is when the block has ended."""
    svg = io.StringIO()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, svg
        figure.savefig(svg, format="svg", metadata={"Date": None, "Title": title})
