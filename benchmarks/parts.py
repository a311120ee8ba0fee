"""What the benchmarks share: a run has parts, and each is saved when it is done, so that a run can be cut short."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.environment import compile_ours, peers_python, peers_versions
from benchmarks.machine import ROOT, Failed, describe

Found = dict[str, Any]
DOCS = ROOT / "docs" / "benchmarks"


@dataclass(frozen=True)
class Part:
    """Something to measure: `name` is SET/MEASURE."""

    name: str
    take: Callable[[], Found]

    @property
    def set(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Benchmark:
    """A program: its name, and how its report becomes a page and charts (by file name)."""

    name: str
    page: Callable[[Found], str]
    charts: Callable[[Found], dict[str, str]]
    show: Callable[[str, Found], str]  # one part, for the terminal


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all have."""
    add = parser.add_argument
    add("--quick", action="store_true", help="smaller sets and fewer runs, in a few minutes")
    add("--only", default="", metavar="PARTS", help="only these parts or sets, separated by commas")
    add("--list", action="store_true", help="the names of the parts, and the minutes each took when it was last saved")
    add("--save", type=Path, metavar="DIR", help="directory for JSON and charts; docs/benchmarks updates the page too")
    add("--add", action="store_true", help="keep the parts that an earlier run saved there")
    add("--resume", action="store_true", help="as --add, and skip the parts that an earlier run saved there")
    add("--redraw", action="store_true", help="measure nothing; make the page and charts from what was saved")
    add("--dir", type=Path, help="directory for data sets and outputs (/dev/shm, or the cache directory)")


def run(benchmark: Benchmark, parts: Sequence[Part], given: argparse.Namespace, leave: Callable[[str], None]) -> None:
    """Take the parts asked for in turn, saving after each; `leave` clears what a set needed."""
    path = given.save / f"{benchmark.name}.json" if given.save else DOCS / f"{benchmark.name}.json"
    earlier: Found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = earlier.get("parts", {}) if given.add or given.resume else {}
    if given.list:
        for part in parts:
            print(f"{part.name:24}{earlier.get('parts', {}).get(part.name, {}).get('minutes', ''):>6}")
        return
    if given.redraw:
        _save(benchmark, earlier, given.save or DOCS)
        return
    wanted = [part for part in parts if _is_wanted(part, given.only)]
    if given.resume:
        wanted = [part for part in wanted if part.name not in kept or "failed" in kept[part.name]]
    peers = peers_versions(peers_python())
    compile_ours()
    command = shlex.join(["benchmarks/run", benchmark.name, *_without_paths(sys.argv[1:])])
    failed = False
    for number, part in enumerate(wanted):
        say(f"{part.name} …")
        started, load = time.monotonic(), os.getloadavg()[0]
        found: Found = {"command": command, "made": _now(), "load": round(load, 1)}
        try:
            found |= part.take()
        except Exception as error:  # the other parts are worth having
            failed = True
            found["failed"] = last_line(str(error))
            say(str(error) if isinstance(error, Failed) else traceback.format_exc())
        finally:
            if number + 1 == len(wanted) or wanted[number + 1].set != part.set:
                leave(part.set)
        found["minutes"] = round((time.monotonic() - started) / 60, 1)
        kept[part.name] = found
        print(benchmark.show(part.name, found), flush=True)
        say(f"{part.name}: {found['minutes']} minutes")
        ordered = {each.name: kept[each.name] for each in parts if each.name in kept}
        report = {"machine": describe(), "peers": peers, "parts": ordered}
        if given.save:
            _save(benchmark, report, given.save)
    if failed:
        sys.exit(1)


def _is_wanted(part: Part, only: str) -> bool:
    names = [name for name in only.split(",") if name]
    return not names or part.name in names or part.set in names


def _without_paths(words: list[str]) -> list[str]:
    """The command without the paths of this machine."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word.startswith("--dir="):
            skip = False
        elif word == "--dir":
            skip = True
        else:
            kept.append(word)
    return kept


def _save(benchmark: Benchmark, report: Found, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (directory / f"{benchmark.name}.json").write_text(text, encoding="utf-8")
    for name, chart in benchmark.charts(report).items():
        (directory / name).write_text(chart, encoding="utf-8")
    if directory.resolve() == DOCS:
        body = f"{markdown.made(report)}\n\n{benchmark.page(report)}"
        markdown.update(ROOT / "docs" / "performance.md", benchmark.name, body)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def last_line(text: str) -> str:
    """The end of what a program said, without the directories of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return re.sub(r"(?<![\w.:/])/[^\s'\"]*/", "", lines[-1])[-150:]
