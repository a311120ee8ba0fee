"""A gallery of examples as HTML: each array is drawn by what it is, with matplotlib.

All is in one text: pictures are `data:` URIs, and what files say (keys, labels) is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from npy2tfrecord.checking.viewer import View, value_range
from npy2tfrecord.errors import UsageError, display
from npy2tfrecord.formats.manifest import FeatureInfo
from npy2tfrecord.formats.manifest_html import escaped

MAX_BYTES = 1_000_000  # of a gallery: pictures that would make it longer are left out
_PIXELS = 128  # of a picture's longer side, at most
_SHOWN_PIXELS = 160  # on the page
_MOST_ARRAYS = 6  # of an example
_SLICES = 9
_FEW_SERIES = 12  # axes of fewer sizes are series, one line each
_MANY_POINTS = 4096
_RED_GREEN_BLUE = (3, 4)
_NO_METADATA: Any = {"Software": None}
_LINE = "#2f81c7"  # legible on white and on black


@dataclass(frozen=True)
class Drawing:
    """A picture of an array: what the array was taken for, and a PNG."""

    kind: str
    png: bytes


def require_matplotlib() -> None:
    """Raise `UsageError` where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("a plot needs the package matplotlib: pip install 'npy2tfrecord[plot]'") from None


def gallery_html(examples: Sequence[View], features: Sequence[FeatureInfo]) -> str:
    """The examples as figures that stand beside each other. Raises `UsageError` without matplotlib."""
    require_matplotlib()
    varying = {info.name: bool(info.shape) and info.shape[0] is None for info in features}
    figures, room = [], MAX_BYTES
    for number, seen in enumerate(examples):
        figure = _figure(seen, varying)
        room -= len(figure)
        if room < 0:
            figures.append(f"<p>{len(examples) - number} more would make this page too large.</p>")
            break
        figures.append(figure)
    return f'<div style="display:flex;flex-wrap:wrap;gap:1.2rem;align-items:flex-start">{"".join(figures)}</div>'


def _figure(seen: View, varying: dict[str, bool]) -> str:
    """One example: its arrays, then its key and label."""
    parts = []
    for name, array in islice(seen.arrays.items(), _MOST_ARRAYS):
        shape = f"({', '.join(map(str, array.shape))}{',' * (array.ndim == 1)})"
        what = f"{display(name)} {array.dtype.name} {shape}"
        drawing = draw(array, first_axis_varies=varying.get(name, False))
        if drawing is None:
            text = "empty" if array.size == 0 else f"{array.reshape(-1)[0]}"
            picture = f'<div style="font-size:1.6rem;padding:1rem 0">{escaped(text)}</div>'
            kind = "value"
        else:
            kind = drawing.kind
            smooth = "auto" if kind in ("series", "points") else "pixelated"
            height = (
                f"{_SHOWN_PIXELS * 5 // 8}px" if kind == "spectrogram" else "auto"
            )  # time and pitch have no common scale
            picture = (
                f'<img alt="{escaped(f"{kind} of {display(seen.key)}: {what}")}" width="{_SHOWN_PIXELS}"'
                f' style="image-rendering:{smooth};max-width:100%;height:{height}"'
                f' src="data:image/png;base64,{base64.b64encode(drawing.png).decode()}">'
            )
        known = value_range(array)
        values = f"<br>{known['min']:.4g} to {known['max']:.4g}" if known and array.size > 1 else ""
        parts.append(
            f'<div style="width:{_SHOWN_PIXELS}px">{picture}'
            f'<div style="font-size:.8rem">{kind} {escaped(what)}{values}</div></div>'
        )
    label = f", label <bdi>{escaped(seen.label)}</bdi>" if seen.label is not None else ""
    return (
        f'<figure style="margin:0;max-width:{_SHOWN_PIXELS * min(2, len(parts)) + 8 * (len(parts) > 1)}px">'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(parts)}</div>'
        f'<figcaption style="overflow-wrap:anywhere"><bdi>{escaped(display(seen.key))}</bdi>{label}</figcaption>'
        "</figure>"
    )


# --- what an array is, and how that is drawn ----------------------------------------------------


def draw(array: np.ndarray, *, first_axis_varies: bool) -> Drawing | None:
    """The picture of an array by what it seems to be; None for a single value and for no values.

    Images end or begin with an axis of 3 colours, or are integers of two axes. Spectrograms are floats of two axes
    whose first is time, and varies. Points have two or three coordinates. All other arrays of one or two axes are
    series or maps, and those of more axes volumes.
    """
    if array.ndim == 0 or array.size == 0:
        return None
    if array.dtype.kind == "c":
        array = np.abs(array)
    if array.dtype.kind in "mM":
        array = array.astype(np.int64)
    if array.ndim == 1:
        values = _float(_thinned(array, 0, _MANY_POINTS))
        return _drawn("series", lambda axes: axes.plot(values, color=_LINE, linewidth=1))
    if array.ndim == 2:
        return _draw_two_axes(array, first_axis_varies)
    if array.ndim == 3:
        if array.shape[-1] in _RED_GREEN_BLUE and min(array.shape[:2]) > 1:
            return Drawing("image", _png(_colors(_small(array))))
        if array.shape[-1] == 1:
            return Drawing("image", _png(_small(array[..., 0]), gray=True))
        if array.shape[0] in _RED_GREEN_BLUE and min(array.shape[1:]) > 4 * array.shape[0]:
            return Drawing("image", _png(_colors(_small(np.moveaxis(array, 0, -1)))))
    return Drawing("volume", _slices(array))


def _draw_two_axes(array: np.ndarray, first_axis_varies: bool) -> Drawing:
    rows, columns = array.shape
    if array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float8")):
        if columns in (2, 3):
            points = _float(_thinned(array, 0, _MANY_POINTS))
            color = points[:, 2] if columns == 3 else _LINE
            return _drawn("points", lambda axes: axes.scatter(points[:, 0], points[:, 1], c=color, s=6))
        if columns <= _FEW_SERIES and rows > 3 * columns:
            lines = _float(_thinned(array, 0, _MANY_POINTS))
            return _drawn("series", lambda axes: axes.plot(lines, linewidth=1))
        if first_axis_varies or rows > 2 * columns:  # time to the right, low frequencies at the bottom
            return Drawing("spectrogram", _png(_small(array.T[::-1])))
        return Drawing("map", _png(_small(array)))
    return Drawing("image", _png(_small(array), gray=True))


def _slices(array: np.ndarray) -> bytes:
    """Up to nine slices of the last two axes (of images, if the last axis is colour), in rows of three."""
    colored = array.ndim > 3 and array.shape[-1] in _RED_GREEN_BLUE
    slices = array.reshape(-1, *array.shape[-3 if colored else -2 :])
    chosen = np.unique(np.linspace(0, len(slices) - 1, min(len(slices), _SLICES)).round().astype(int))
    picked = np.stack([_small(slices[i], _PIXELS // 2) for i in chosen.tolist()])
    pixels = _colors(picked) if colored else _rgba(picked, gray=True)
    count, height, width, channels = pixels.shape
    across = min(3, count)
    down = -(-count // across)
    sheet = np.zeros((down * (height + 1) - 1, across * (width + 1) - 1, 4), np.uint8)  # transparent between slices
    for i, each in enumerate(pixels):
        top, left = i // across * (height + 1), i % across * (width + 1)
        sheet[top : top + height, left : left + width, :channels] = each
        if channels == 3:
            sheet[top : top + height, left : left + width, 3] = 255
    return _png(sheet)


def _small(array: np.ndarray, pixels: int = _PIXELS) -> np.ndarray:
    """Every so manieth value of the first two axes, so that neither is longer than `pixels`."""
    return _thinned(_thinned(array, 0, pixels), 1, pixels)


def _thinned(array: np.ndarray, axis: int, most: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(None, None, -(-array.shape[axis] // most)),)]


def _float(array: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):  # signaling NaNs
        values = array.astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    return values


def _scaled(array: np.ndarray) -> np.ndarray:
    """Values from 0 to 1; whatever is not finite is 0."""
    with np.errstate(invalid="ignore"):
        values = array.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    low, high = values[finite].min(), values[finite].max()
    return np.where(finite, np.clip((values / 2 - low / 2) / ((high / 2 - low / 2) or 1), 0, 1), 0)


def _colors(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    pixels: np.ndarray = (_scaled(array) * 255).round().astype(np.uint8)
    return pixels


def _rgba(array: np.ndarray, *, gray: bool) -> np.ndarray:
    """The colours of values; bytes as they are where they are an image, other values from their least to their most."""
    from matplotlib import colormaps

    values = array / 255 if gray and array.dtype == np.uint8 and array.max() > 1 else _scaled(array)
    pixels: np.ndarray = colormaps["gray" if gray else "viridis"](values, bytes=True)
    return pixels


def _png(pixels: np.ndarray, *, gray: bool = False) -> bytes:
    from matplotlib.image import imsave

    if pixels.ndim == 2:
        pixels = _rgba(pixels, gray=gray)
    content = io.BytesIO()
    imsave(content, np.ascontiguousarray(pixels), format="png", metadata=_NO_METADATA)
    return content.getvalue()


def _drawn(kind: str, plot: Callable[[Any], object]) -> Drawing:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"axes.edgecolor": "#888888", "xtick.color": "#888888", "ytick.color": "#888888", "font.size": 8}):
        figure = Figure(figsize=(2.6, 2.0), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.patch.set_alpha(0)
        plot(axes)
        content = io.BytesIO()
        figure.savefig(content, dpi=110, format="png", transparent=True, metadata=_NO_METADATA)
    return Drawing(kind, content.getvalue())
