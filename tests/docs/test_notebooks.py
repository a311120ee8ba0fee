"""The notebook in `examples/` is small and runs, and what it shows is what its cells give."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_look.ipynb"

# Runs cells as Jupyter does: lines that begin with `!` in a shell, and the last expression is shown.
RUNNER = """
import ast, json, subprocess, sys
shown, names = [], {}
for cell in json.load(sys.stdin):
    outputs = []
    if cell.startswith("!"):
        outputs.append(["stream", subprocess.check_output(cell[1:], shell=True, text=True)])
    else:
        *lines, last = ast.parse(cell).body
        exec(compile(ast.Module(lines, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            is_html = hasattr(value, "_repr_html_")
            outputs.append(["text/html", value._repr_html_()] if is_html else ["text/plain", repr(value)])
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    shown.append(outputs)
print(json.dumps(shown))
"""


def stored(cell: dict[str, Any]) -> list[list[str]]:
    """The outputs of a cell in the notebook, as the runner gives them."""
    found = []
    for output in cell["outputs"]:
        assert output["output_type"] in ("stream", "execute_result"), output
        texts = {"stream": output["text"]} if "text" in output else output["data"]
        kind = next(kind for kind in ("stream", "text/html", "text/plain") if kind in texts)
        found.append([kind, "".join(texts[kind])])
    return found


def comparable(outputs: list[list[str]]) -> list[list[str]]:
    """Without line breaks, which Jupyter adds, and without pictures: their bytes depend on matplotlib's version."""
    return [[kind, re.sub(r'base64,[^"]*|\s', "", text)] for kind, text in outputs]


def test_notebook_is_small_and_holds_no_path_of_a_machine() -> None:
    content = NOTEBOOK.read_text(encoding="utf-8")
    assert len(content) < 300_000
    assert not re.search(r"/(home|tmp|work|root|usr)/", re.sub(r"base64,[^\"\\]*", "", content))
    counts = [cell["execution_count"] for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_notebook_shows_what_its_cells_give(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"},
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for cell, outputs in zip(cells, json.loads(done.stdout.splitlines()[-1]), strict=True):
        stale = "run it again: jupyter nbconvert --to notebook --execute --inplace examples/first_look.ipynb"
        assert comparable(stored(cell)) == comparable(outputs), stale
