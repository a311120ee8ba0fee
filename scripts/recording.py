"""A recording of a terminal as SVG: commands are run, and what they print is drawn as text, in the terminal's colours.

The text can be selected; colours follow the light or dark scheme of whoever looks; lines appear one after the other,
unless less motion is asked for.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from xml.sax.saxutils import escape

COMMANDS = (
    "npy2tfrecord scan demo/speech",
    "npy2tfrecord convert demo/speech shards --label-by 'no|yes' --split train=0.7,val=0.3",
    "npy2tfrecord verify shards",
)
COLUMNS = 88
_CHARACTER, _LINE, _MARGIN, _BAR = 8.43, 18, 16, 30  # pixels
_SECONDS_A_LINE, _SECONDS_A_COMMAND = 0.05, 0.9
_CODE = re.compile(r"\x1b\[([0-9;]*)m")
_CLASSES = {"1": "bold", "1;31": "red", "32": "green", "33": "yellow", "36": "cyan", "2": "faint"}

_STYLE = """
svg { --back: #ffffff; --text: #24292f; --edge: #d0d7de; --faint: #6e7781;
  --green: #116329; --cyan: #1b7c83; --yellow: #7d4e00; --red: #a40e26 }
@media (prefers-color-scheme: dark) { svg { --back: #0d1117; --text: #e6edf3; --edge: #30363d; --faint: #8b949e;
  --green: #56d364; --cyan: #56d4dd; --yellow: #e3b341; --red: #ff7b72 } }
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: var(--text); white-space: pre }
.bold { font-weight: 700 } .green { fill: var(--green) } .cyan { fill: var(--cyan) } .yellow { fill: var(--yellow) }
.red { fill: var(--red) } .faint { fill: var(--faint) }
@media (prefers-reduced-motion: no-preference) { .line { animation: show 1ms both } }
@keyframes show { from { visibility: hidden } to { visibility: visible } }
"""


def recording() -> str:
    """The SVG of `COMMANDS`, run on the demo sets."""
    with tempfile.TemporaryDirectory() as here:
        _run("npy2tfrecord demo demo", here)
        lines: list[tuple[float, str]] = []
        at = 0.0
        for command in COMMANDS:
            lines.append((at, f"\x1b[2m$\x1b[0m \x1b[1m{command}\x1b[0m"))
            at += _SECONDS_A_COMMAND
            for line in _run(f"{command} --color always", here).splitlines():
                lines.append((at, line))
                at += _SECONDS_A_LINE
            lines.append((at, ""))
            at += _SECONDS_A_COMMAND
    return _svg(lines[:-1])


def _run(command: str, here: str) -> str:
    """What a command prints to a pipe: no bar, which would show the time that it took."""
    _, *words = shlex.split(command)
    done = subprocess.run(
        [sys.executable, "-m", "npy2tfrecord", *words],
        cwd=here,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


def _svg(lines: list[tuple[float, str]]) -> str:
    width = round(COLUMNS * _CHARACTER + 2 * _MARGIN)
    height = _BAR + len(lines) * _LINE + _MARGIN
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    edge = f'x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>A terminal that runs {escape('; '.join(COMMANDS))}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect {edge} style="fill: var(--back); stroke: var(--edge)"/>',
        *(f'<circle cx="{20 + 18 * i}" cy="16" r="5.5" style="fill: var(--edge)"/>' for i in range(3)),
    ]
    for number, (at, line) in enumerate(lines):
        if line:
            y = _BAR + (number + 1) * _LINE - 4
            delay = f' style="animation-delay: {at:.2f}s"'
            parts.append(f'<text class="line" x="{_MARGIN}" y="{y}" xml:space="preserve"{delay}>{_spans(line)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _spans(line: str) -> str:
    """A line with its colours as spans."""
    text, kind = "", ""
    for i, piece in enumerate(_CODE.split(line)):
        if i % 2:
            kind = _CLASSES.get(piece, "")
        elif piece:
            text += f'<tspan class="{kind}">{escape(piece)}</tspan>' if kind else escape(piece)
    return text
