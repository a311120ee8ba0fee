"""Bars and curves as SVG, written by hand: no plotting library, and they follow dark mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, LABELS, VALUES, ROW, TITLE, GAP = 760, 280, 110, 18, 26, 16
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 13px }
  .peer { fill: #8c959f } .ours { fill: #1a7f37 } .floor { fill: #d0d7de }
  .line { fill: none; stroke: #1a7f37; stroke-width: 2 } .ideal { fill: none; stroke: #8c959f; stroke-dasharray: 4 }
  .axis { stroke: #8c959f; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .peer { fill: #6e7681 } .ours { fill: #3fb950 } .floor { fill: #30363d }
    .line { stroke: #3fb950 }
  }
"""


@dataclass
class Bars:
    """One block of bars: rates by name, and which of them are ours or a floor."""

    title: str
    rates: Mapping[str, float]
    unit: str
    kinds: Mapping[str, str] = field(default_factory=dict)


def bars(title: str, blocks: Sequence[Bars]) -> str:
    """Blocks below each other, each scaled to its longest bar; a longer bar is faster."""
    body: list[str] = []
    y = 0
    for block in blocks:
        if not block.rates:
            continue
        body.append(f'<text class="title" x="0" y="{y + 16}">{escape(block.title)}</text>')
        y += TITLE
        longest = max(block.rates.values())
        for name, rate in sorted(block.rates.items(), key=lambda item: -item[1]):
            length = max(1, round((WIDTH - LABELS - VALUES) * rate / longest, 1))
            kind = block.kinds.get(name, "peer")
            body.append(f'<text x="{LABELS - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
            body.append(f'<rect class="{kind}" x="{LABELS}" y="{y + 2}" width="{length}" height="{ROW - 4}"/>')
            body.append(f'<text x="{LABELS + length + 6}" y="{y + 13}">{rate:,.0f} {block.unit}</text>')
            y += ROW
        y += GAP
    return _svg(title, WIDTH, max(y, 1), body)


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
    width, height, margin = WIDTH / max(1, len(plots)), 260, 60
    body: list[str] = []
    for number, plot in enumerate(plots):
        xs, ys = sorted(plot.points), [plot.points[x] for x in sorted(plot.points)]
        ideals = [ys[0] * (x / xs[0]) ** (plot.ideal or 0) for x in xs]
        low, high = min(*ys, *ideals) / 1.5, max(*ys, *ideals) * 1.3
        left, right = number * width + margin, (number + 1) * width - 30

        def place(x: float, y: float) -> str:
            across = math.log(x / xs[0]) / math.log(xs[-1] / xs[0])  # noqa: B023
            up = math.log(y / low) / math.log(high / low)  # noqa: B023
            return f"{left + across * (right - left):.1f},{height - 40 - up * (height - 80):.1f}"  # noqa: B023

        body.append(f'<text class="title" x="{left}" y="16">{escape(plot.title)}</text>')
        body.append(f'<text x="{left}" y="34">{escape(plot.y_title)}</text>')
        body.append(f'<text x="{right}" y="{height - 6}" text-anchor="end">{escape(plot.x_title)}</text>')
        body.append(f'<path class="axis" d="M{left} {height - 40}H{right}"/>')
        if plot.ideal is not None:
            points = " ".join(place(x, y) for x, y in zip(xs, ideals, strict=True))
            body.append(f'<polyline class="ideal" points="{points}"/>')
        points = " ".join(place(x, y) for x, y in zip(xs, ys, strict=True))
        body.append(f'<polyline class="line" points="{points}"/>')
        for x, y in zip(xs, ys, strict=True):
            across, up = place(x, y).split(",")
            body.append(f'<circle class="ours" cx="{across}" cy="{up}" r="3"/>')
            body.append(f'<text x="{across}" y="{float(up) - 8:.1f}" text-anchor="middle">{y:,.0f}</text>')
            body.append(f'<text x="{across}" y="{height - 24}" text-anchor="middle">{x:,.0f}</text>')
    return _svg(title, WIDTH, height, body)


def _svg(title: str, width: int, height: float, body: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", *body, "</svg>", ""])
