"""The pages about reading are true: their snippets run, and every option is in `docs/reading.md`."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reading_data import write_dataset

import readers

pytest.importorskip("tensorflow")

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reading.md").read_text(encoding="utf-8")
SNIPPETS = [
    pytest.param(snippet, id=f"{page.stem}-{number}")
    for page in [DOCS / "reading.md", *sorted((DOCS / "reading").glob("*.md"))]
    for number, snippet in enumerate(
        re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    )
]


@pytest.mark.parametrize("snippet", SNIPPETS)
@pytest.mark.filterwarnings("default")  # other packages' deprecations are not this page's
def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snippet: str) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.random((int(n), 4)).astype("f4") for n in rng.integers(3, 9, 48)]
    labels = [i % 2 for i in range(48)]
    for name in ("shards", "more-shards"):
        write_dataset(tmp_path / name, arrays, labels=labels, classes=("cats", "dogs"))
    for i, array in enumerate(arrays):
        file = tmp_path / "arrays" / ("cats", "dogs")[i % 2] / f"{i}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    monkeypatch.chdir(tmp_path)
    for module in re.findall(r"^(?:import|from) (grain|jax|torch)\b", snippet, re.MULTILINE):
        pytest.importorskip(module)
    if "import jax" in snippet:  # its threads would stay, and it warns of every later fork
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(DOCS.parent)}
        done = subprocess.run([sys.executable, "-c", snippet], env=environment, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0, done.stderr.decode()
    else:
        exec(compile(snippet, "snippet", "exec"), {})


def test_every_option_of_load_dataset_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| `.*?\|", PAGE, re.MULTILINE))))
    options = set(inspect.signature(readers.load_dataset).parameters) - {"path"}
    assert options <= documented
