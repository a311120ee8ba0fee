"""The contests as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks import markdown
from benchmarks.markdown import number, table

RANDOM = "at random, examples/s"
NOTE = (
    "Seconds. Converting and putting are whole processes, from command to exit; an epoch counts from `load_dataset`, or"
    " what a peer has for it, to its last batch, without the import of libraries. A speed of 0.8 of another's is 1.25"
    " times its seconds."
)


def delay_text(milliseconds: float) -> str:
    """A delay as people write it."""
    return f"{milliseconds:g} ms"


def contest_table(found: dict[str, Any]) -> str:
    """One contest at one delay."""
    return _side_by_side([found])


def show(name: str, found: dict[str, Any]) -> str:
    """One part."""
    return markdown.show(name, found, contest_table)


def page(report: dict[str, Any]) -> str:
    """All of it: a table for each contest, delays side by side."""
    contests: dict[str, list[dict[str, Any]]] = {}
    for found in report["parts"].values():
        if "results" in found:
            contests.setdefault(found["title"], []).append(found)
    shown = [_side_by_side(each) for each in contests.values()]
    failed = [show(name, found).strip() for name, found in report["parts"].items() if "results" not in found]
    return "\n\n".join([*shown, NOTE, *failed])


def _side_by_side(contests: list[dict[str, Any]]) -> str:
    """The same contest at several delays."""
    titles = {name: result["title"] for found in contests for name, result in found["results"].items()}
    rows = [[title, *(_cell(found["results"].get(name)) for found in contests)] for name, title in titles.items()]
    for ratio in dict.fromkeys(ratio for found in contests for ratio in found["ratios"]):
        ratios = [found["ratios"].get(ratio) for found in contests]
        rows.append([f"**{ratio}**", *(f"**{each:.2f}×**" if each else "" for each in ratios)])
    if any(RANDOM in found for found in contests):
        rows.append([f"ArraySource, lists {RANDOM}", *(number(found.get(RANDOM, "")) for found in contests)])
    return table([contests[0]["title"], *(delay_text(found["milliseconds"]) for found in contests)], rows)


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    if "failed" in result:
        return f"failed: {result['failed']}".replace("|", "\\|")
    return f"{result['seconds']:.2f}" if result["seconds"] < 100 else f"{result['seconds']:.0f}"


def draw(report: dict[str, Any]) -> dict[str, str]:
    """No charts."""
    return {}
