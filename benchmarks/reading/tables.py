"""The results as tables and charts."""

from __future__ import annotations

from typing import Any

from benchmarks import charts, markdown
from benchmarks.markdown import table
from benchmarks.reading.race import OUR_PROGRAMS, PEERS

TITLES = {"readers": "load_dataset", "readers, ragged": "load_dataset, ragged", "load_npy": "load_npy"}
BARE, TFDS, NP_LOAD = "bare TFRecordDataset", "tfds", "np.load in a map"


def race_table(found: dict[str, Any]) -> str:
    """One race: examples a second of every contestant, how many times as fast the first is."""
    results = found["results"]
    first = next(iter(results))
    head = [f"{found['title']} ({found['examples']:,} arrays)", "examples/s", "MB/s", f"{TITLES.get(first, first)} is"]
    rows = []
    for name, result in results.items():
        if result["rate"] is None or result["note"]:
            rows.append([TITLES.get(name, name), result["note"].replace("|", "/"), "", "", "", "", ""])
            continue
        ratio = f"{results[first]['rate'] / result['rate']:.2f}×" if results[first]["rate"] else ""
        part = "all" if result["examples"] == found["examples"] else f"{result['examples']:,}"
        speed = f"{result['rate'] * found['bytes an example'] / 1e6:,.0f}"
        row = [TITLES.get(name, name), f"{result['rate']:,.0f}", speed, ratio, part, str(len(result["seconds"]))]
        rows.append(row)
    return table([*head, "arrays an epoch", "epochs"], rows)


def _races(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [found for found in report["parts"].values() if "results" in found]


def summary_table(races: list[dict[str, Any]]) -> str:
    """How many times as fast as each kind of peer the readers of batches are."""
    rows = []
    for found in races:
        rates = {name: each["rate"] for name, each in found["results"].items() if each["rate"] and not each["note"]}
        for reader in ("readers", "readers, ragged", "load_npy"):
            if reader not in rates:
                continue
            rate = rates[reader]
            ratios = [f"{rate / rates[name]:.2f}×" if name in rates else "" for name in (TFDS, BARE, NP_LOAD)]
            others = {name: rates[name] for name in PEERS if name in rates}
            best = max(others, key=lambda name: others[name]) if others else None
            ratios.insert(1, f"{rate / others[best]:.2f}× ({best})" if best else "")
            rows.append([found["title"], TITLES[reader], f"{rate:,.0f}", *ratios])
    head = ["set", "reader", "examples/s", "of tfds", "of the best other peer", "of a bare TFRecordDataset"]
    return table([*head, "of np.load in a map"], rows)


def number_table(races: list[dict[str, Any]]) -> str:
    """How many times as fast as each way to read array_record the same way with ArraySource is."""
    rows = []
    for found in races:
        rates = {name: each["rate"] for name, each in found["results"].items() if each["rate"] and not each["note"]}
        if "ArraySource" not in found["results"]:
            continue
        ratios = []
        for way in ("", ", lists", " in grain"):
            ours, theirs = rates.get(f"ArraySource{way}"), rates.get(f"array_record{way}")
            ratios.append(f"{ours / theirs:.2f}×" if ours and theirs else "")
        rows.append([found["title"], *ratios])
    head = ["ArraySource, of array_record's speed", "one by one", "lists of 256", "in a Grain pipeline"]
    return table(head, rows)


def show(name: str, found: dict[str, Any]) -> str:
    """One part."""
    return markdown.show(name, found, race_table)


def page(report: dict[str, Any]) -> str:
    """All of it."""
    races = _races(report)
    parts = [summary_table(races), number_table(races), "![Examples a second](benchmarks/reading.svg)"]
    return "\n\n".join([*parts, *(show(name, found).strip() for name, found in report["parts"].items())])


def draw(report: dict[str, Any]) -> dict[str, str]:
    """Examples a second of every contestant in every race."""
    blocks = []
    for found in _races(report):
        names = [name for name, each in found["results"].items() if each["rate"] and not each["note"]]
        rates = {TITLES.get(name, name): found["results"][name]["rate"] for name in names}
        kinds = {TITLES.get(name, name): "ours" for name in names if name.startswith(OUR_PROGRAMS)} | {BARE: "floor"}
        blocks.append(charts.Bars(found["title"], rates, "/s", kinds))
    return {"reading.svg": charts.bars("Examples read a second; longer is faster", blocks)} if blocks else {}
