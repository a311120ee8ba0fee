"""The results as tables and charts."""

from __future__ import annotations

from typing import Any

from benchmarks import charts, markdown
from benchmarks.convert.contest import BY_HAND, BY_NAME, COPY, OURS_NAME
from benchmarks.markdown import table

NOTE = "¹ stores the bytes of the `.npy` files without looking at them"
SMALL_BYTES = 100_000


def contest_table(found: dict[str, Any]) -> str:
    """One set of the contest: every contestant's time, rate, and how many times longer than ours it took."""
    results = found["results"]
    ours = results.get(OURS_NAME, {}).get("seconds")
    rows = []
    for contestant, result in results.items():
        seconds = result["seconds"]
        title = BY_NAME[contestant].title
        if seconds is None:
            rows.append([title, result["note"].replace("|", "/"), "", "", "", ""])
            continue
        part = "all" if result["files"] == found["files"] else f"{result['files']:,}"
        ratio = f"{seconds / ours:.2f}" if ours else ""
        rows.append([title, f"{seconds:.2f} s", _rate(found, seconds), ratio, part, str(len(result["runs"]))])
    head = [f"{found['title']} ({found['bytes'] / 1e6:,.0f} MB)", "time", "rate", "time / ours", "files a run", "runs"]
    return f"{table(head, rows)}\n\nData and output on {found['data_on']}."


def _rate(found: dict[str, Any], seconds: float) -> str:
    if found["bytes"] / found["files"] < SMALL_BYTES:
        return f"{found['files'] / seconds:,.0f} files/s"
    return f"{found['bytes'] / seconds / 1e6:,.0f} MB/s"


def _best_peer(found: dict[str, Any], *, unread: bool) -> tuple[str, float] | None:
    """The fastest of the peers on a set; those that store the files' bytes unread count if `unread`."""
    times = {
        BY_NAME[name].title: result["seconds"]
        for name, result in found["results"].items()
        if BY_NAME[name].is_peer and result["seconds"] is not None and (unread or "¹" not in BY_NAME[name].title)
    }
    return min(times.items(), key=lambda item: item[1]) if times else None


def summary_table(contests: list[dict[str, Any]]) -> str:
    """All sets of the contest: ours against a copy, the script by hand and the fastest peers."""
    rows = []
    for found in contests:
        seconds = {name: result["seconds"] for name, result in found["results"].items()}
        ours = seconds.get(OURS_NAME)
        if not ours:
            continue
        ratios = [f"{seconds[n] / ours:.2f}×" if seconds.get(n) else "" for n in (COPY, BY_HAND)]
        for unread in (False, True):
            peer = _best_peer(found, unread=unread)
            ratios.append(f"{peer[1] / ours:.1f}× ({peer[0]})" if peer else "")
        rows.append([found["title"], f"{ours:.2f} s", *ratios])
    head = ["set", "npy2tfrecord", "of a copy's speed", "of the script by hand"]
    return table([*head, "of the fastest peer that reads the arrays", "of the fastest peer of all"], rows)


def show(name: str, found: dict[str, Any]) -> str:
    """One part."""
    return markdown.show(name, found, contest_table)


def _contests(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [found for found in report["parts"].values() if "results" in found]


def page(report: dict[str, Any]) -> str:
    """All of it."""
    parts = [
        summary_table(_contests(report)),
        "![Conversion speed beside other tools](benchmarks/convert.svg)",
        *(contest_table(found) for found in _contests(report)),
        NOTE,
    ]
    if _scaling(report):
        parts.append("![Throughput by jobs and by files](benchmarks/convert-scaling.svg)")
    parts += [show(name, found).strip() for name, found in report["parts"].items() if "results" not in found]
    return "\n\n".join(parts)


def _scaling(report: dict[str, Any]) -> dict[str, Any] | None:
    found: dict[str, Any] = report["parts"].get("small/scaling", {})
    return found if "seconds by jobs" in found else None


def draw(report: dict[str, Any]) -> dict[str, str]:
    """Throughput of every contestant on every set, and the curves of scaling."""
    blocks = []
    for found in _contests(report):
        small = found["bytes"] / found["files"] < SMALL_BYTES
        amount = found["files"] if small else found["bytes"] / 1e6
        titles = {name: BY_NAME[name].title.replace(" ¹", "") for name in found["results"]}
        rates = {titles[n]: amount / each["seconds"] for n, each in found["results"].items() if each["seconds"]}
        kinds = {titles[n]: kind for n, kind in ((OURS_NAME, "ours"), (COPY, "floor")) if n in titles}
        blocks.append(charts.Bars(found["title"], rates, "files/s" if small else "MB/s", kinds))
    drawn = {}
    if blocks:
        title = "Conversion speed of npy2tfrecord beside other tools; longer is faster"
        drawn["convert.svg"] = charts.bars(title, blocks)
    if (curve := _scaling(report)) is not None:
        by_jobs = {float(n): curve["files"] / seconds for n, seconds in curve["seconds by jobs"].items()}
        by_files = {float(n): float(n) / seconds for n, seconds in curve["seconds by files"].items()}
        plots = [
            charts.Curve("by jobs", by_jobs, "jobs", "files/s", ideal=1),
            charts.Curve("by files, 4 jobs", by_files, "files", "files/s"),
        ]
        drawn["convert-scaling.svg"] = charts.curves("Throughput by jobs and by files; dashed: in proportion", plots)
    return drawn
