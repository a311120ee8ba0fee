"""The contests as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks import markdown
from benchmarks.markdown import table
from benchmarks.storage.contest import OURS_NAME, READER, SETS

NOTE = (
    "Every call on a source waits the time given (a library of the benchmark's own, loaded before each program). The"
    " 64 threads list the directories, open and read every file, and do nothing else. Contestants that wait for one"
    " call at a time get a part of the files: the time beyond what they take to start is in proportion. What was"
    " written is read back. ¹ stores the files as they are."
)


def delay_text(milliseconds: float) -> str:
    """A delay as people write it."""
    return f"{milliseconds:g} ms" if milliseconds else "none"


def contest_table(found: dict[str, Any]) -> str:
    """One set at one delay: seconds, and times those of the 64 threads."""
    results = found["results"]
    yardstick = results.get(READER, {}).get("seconds")
    rows = []
    for result in results.values():
        seconds = result.get("seconds")
        ratio = f"{seconds / yardstick:.2f}×" if seconds and yardstick else ""
        rows.append([result["title"], f"{seconds:.2f}" if seconds else result.get("failed", ""), ratio])
    return table([f"{found['title']}, {delay_text(found['milliseconds'])} a call", "seconds", "of 64 threads"], rows)


def show(name: str, found: dict[str, Any]) -> str:
    """One part."""
    return markdown.show(name, found, contest_table)


def page(report: dict[str, Any]) -> str:
    """All of it: a table for each set, delays side by side."""
    parts = []
    for name in SETS:
        held = {
            found["milliseconds"]: found["results"]
            for part, found in report["parts"].items()
            if part.startswith(f"{name}/") and "results" in found
        }
        if not held:
            continue
        titles = {each: result["title"] for results in held.values() for each, result in results.items()}
        rows = [[title, *(_cell(results, each) for results in held.values())] for each, title in titles.items()]
        parts.append(table([f"{SETS[name].title}: seconds", *map(delay_text, held)], rows))
    parts.append(NOTE)
    parts += [show(name, found).strip() for name, found in report["parts"].items() if "results" not in found]
    return "\n\n".join(parts)


def _cell(results: dict[str, Any], name: str) -> str:
    seconds, yardstick = (results.get(each, {}).get("seconds") for each in (name, READER))
    if not seconds:
        return results.get(name, {}).get("failed", "")
    text = f"{seconds:.2f}" if seconds < 100 else f"{seconds:.0f}"
    return f"{text} ({seconds / yardstick:.2f}×)" if name == OURS_NAME and yardstick else text


def draw(report: dict[str, Any]) -> dict[str, str]:
    """No charts."""
    return {}
