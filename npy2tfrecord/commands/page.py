"""A page about a data set or about sources: one HTML file that opens from disk and needs nothing else.

It loads nothing, and its policy forbids it to. Without a script all is there but the buttons that copy code.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from npy2tfrecord import syscalls
from npy2tfrecord.checking import viewer
from npy2tfrecord.checking.gallery import gallery_html, require_matplotlib
from npy2tfrecord.commands.plots import Panel, axis_panels, manifest_panels, panel_svg
from npy2tfrecord.commands.snippets import reading_snippets
from npy2tfrecord.errors import OutputError, display
from npy2tfrecord.formats.manifest import Manifest, Skipped
from npy2tfrecord.formats.manifest_html import MOST_ROWS, escaped, feature_table, size, split_table, summary, table
from npy2tfrecord.paths import is_bucket, local_path, place

if TYPE_CHECKING:
    from npy2tfrecord.conversion.surveyor import ScanReport

_EXAMPLES = 12
_MOST_PANELS = 12
_MOST_OPTION_CHARACTERS = 4000

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #f0f0f0; background: #fff; color: #1b1b1b; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; vertical-align: top; }
tbody th { font-weight: normal; overflow-wrap: anywhere; }
pre { background: var(--soft); border-radius: 6px; margin: 0; overflow-x: auto; padding: .8rem; }
code { font: 14px/1.45 ui-monospace, monospace; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.charts figure { margin: 0; }
.charts img { max-width: 100%; height: auto; }
.code { position: relative; }
button { font: inherit; font-size: .8rem; position: absolute; right: .4rem; top: .4rem; }
@media (prefers-color-scheme: dark) {
  :root { --soft: #26282c; background: #17181b; color: #e8e8e8; }
  .charts img { filter: invert(1) hue-rotate(180deg); }
}
"""

_SCRIPT = """
for (const block of document.querySelectorAll(".code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy the lines for " + block.dataset.name);
  button.addEventListener("click", async () => {
    const code = block.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
    }
  });
  block.append(button);
}
"""


def write_manifest_page(manifest: Manifest, out: str, path: str) -> None:
    """Write the page about a converted data set.

    Raises `UsageError` without matplotlib, `DamageError` for examples that are damaged, and `OutputError`.
    """
    require_matplotlib()
    examples = viewer.sample(out, _EXAMPLES)
    shards = [
        [shard.file, f"{shard.examples:,}", size(shard.bytes), shard.hash] for shard in manifest.shards[:MOST_ROWS]
    ]
    options = json.dumps(dict(manifest.options), indent=1, ensure_ascii=False)[:_MOST_OPTION_CHARACTERS]
    body = [
        _section("Examples", gallery_html(examples, manifest.features)),
        _section("Contents", _scrolled(feature_table(manifest.features)) + _scrolled(split_table(manifest))),
        _section("Charts", _charts(manifest_panels(manifest))),
        _section("Reading it", _code_blocks(reading_snippets(manifest, out))),
        _section(
            "Shards",
            _scrolled(table("Files", ["file", "examples", "size", "XXH3-128"], shards, len(manifest.shards))),
        ),
        _skipped(manifest.skipped),
        _section("Options", f'<pre tabindex="0"><code>{html.escape(_printable(options))}</code></pre>'),
    ]
    where = place(out, "data set")
    name = os.path.basename(where if is_bucket(where) else os.path.abspath(where)) or out
    _write(path, name, summary(manifest), body)


def write_scan_page(found: ScanReport, sources: Sequence[str], command: str | None, path: str) -> None:
    """Write the page about sources that were scanned, and the command that converts them, if one does.

    Raises `UsageError` without matplotlib, `InputError` for a source that has changed, and `OutputError`.
    """
    require_matplotlib()
    passed_over = [[kind, f"{count:,}"] for kind, count in found.passed_over.items()]
    body = [
        _examples_section(found),
        _section("Contents", _scrolled(feature_table(found.features, found.counts))),
        _section("Charts", _charts(axis_panels(found.features))),
        "" if command is None else _section("Converting it", _code_blocks({"Shell": command})),
        _section(
            "Passed over",
            _scrolled(table("Files that are no sources", ["kind", "files"], passed_over[:MOST_ROWS], len(passed_over))),
        )
        if passed_over
        else "",
        _skipped([Skipped(display(each.where), each.problem) for each in found.problems]),
    ]
    total = size(sum(info.bytes for info in found.features))
    _write(path, ", ".join(sources), f"{found.files:,} files, {total} of values", body)


def _examples_section(found: ScanReport) -> str:
    if found.joined is None:
        return _section("Examples", f"<p>None: {escaped(found.obstacle)}</p>")
    pictures = gallery_html(viewer.sample_sources(found.joined, _EXAMPLES), found.features)
    return _section("Examples", f"<p>{found.examples:,} examples, some of them:</p>{pictures}")


def _write(path: str, title: str, subtitle: str, body: Iterable[str]) -> None:
    """Write a page. `subtitle` and `body` are HTML."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    content = "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{escaped(title)}</title><style>{_STYLE}</style></head>",
            f"<body><header><h1><bdi>{escaped(title)}</bdi></h1><p>{subtitle}</p></header><main>",
            *filter(None, body),
            f"</main><script>{_SCRIPT}</script></body></html>\n",
        ]
    )
    target = local_path(path, "page")
    try:
        syscalls.write_file(target, content.encode(), sync=False)
    except OSError as error:
        raise OutputError.from_os("write", target, error) from error


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escaped(title)}</h2>\n{content}</section>"


def _scrolled(content: str) -> str:
    return f'<div class="scroll" tabindex="0">{content}</div>'


def _charts(panels: Sequence[Panel]) -> str:
    figures = []
    for panel in panels[:_MOST_PANELS]:
        data = base64.b64encode(panel_svg(panel)).decode()
        title = escaped(panel[0])
        figures.append(f'<figure><figcaption>{title}</figcaption><img alt="Chart: {title}" width="346" height="250"'
                       f' src="data:image/svg+xml;base64,{data}"></figure>')  # fmt: skip
    more = f"<p>… and {len(panels) - _MOST_PANELS:,} more</p>" if len(panels) > _MOST_PANELS else ""
    return f'<div class="charts">{"".join(figures)}</div>{more}' if figures else "<p>No axis varies.</p>"


def _code_blocks(snippets: Mapping[str, str]) -> str:
    return "".join(
        f'<h3>{escaped(name)}</h3><div class="code" data-name="{escaped(name)}">'
        f'<pre tabindex="0"><code>{html.escape(code)}</code></pre></div>'
        for name, code in snippets.items()
    )


def _skipped(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    rows = [[each.source or "(all)", each.reason] for each in skipped[:MOST_ROWS]]
    return _section("Skipped sources", _scrolled(table("Left out, and why", ["source", "reason"], rows, len(skipped))))


def _printable(text: str) -> str:
    return "\n".join(map(display, text.split("\n")))
