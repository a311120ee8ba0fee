"""Tables of results in Markdown, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_HIDDEN = ("command", "made", "load", "minutes")  # of a part: said once for the whole page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns after the first are figures."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {number(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(number, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def values(title: str, found: Mapping[str, Any]) -> str:
    """Named values, a line each."""
    return table([title, ""], [[key, number(value)] for key, value in found.items()])


def show(name: str, found: dict[str, Any], results_table: Callable[[dict[str, Any]], str]) -> str:
    """One part: why it failed, its results by contestant as `results_table` lays them out, or its values."""
    if "failed" in found:
        return f"\n{name} failed: {found['failed']}\n"
    if "results" in found:
        return f"\n{results_table(found)}\n"
    return f"\n{values(name.replace('/', ', '), {k: v for k, v in found.items() if k not in _HIDDEN})}\n"


def made(report: Mapping[str, Any]) -> str:
    """By which commands, when, on what."""
    machine, parts = report["machine"], report["parts"].values()
    commands = "; ".join(f"`{each}`" for each in dict.fromkeys(part["command"] for part in parts))
    days = " to ".join(dict.fromkeys([min(part["made"] for part in parts)[:10], max(p["made"] for p in parts)[:10]]))
    minutes = sum(part["minutes"] for part in parts)
    load = max(part["load"] for part in parts)
    peers = ", ".join(f"{name} {version}" for name, version in report["peers"].items())
    return (
        f"{commands}, {days}, {minutes:.0f} minutes in all, {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_gb']} GB, {machine['system']}, Python {machine['python']}. "
        f"The load when a part began was {load} at most, what the part before left included. Peers: {peers}."
    )


def update(page: Path, name: str, body: str) -> None:
    """Put `body` between the page's markers for `name`."""
    start, end = f"<!-- {name}: made by benchmarks/run {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place for {name}: expected {start} and {end}")
    page.write_text(f"{before}{start}\n{body}\n{end}{after}", encoding="utf-8")
