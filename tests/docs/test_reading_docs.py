"""`docs/reading.md` is true: its snippets run, and every option is in it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from reading_data import write_dataset

import readers

pytest.importorskip("tensorflow")

PAGE = (Path(__file__).parents[2] / "docs" / "reading.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
@pytest.mark.filterwarnings("default")  # other packages' deprecations are not this page's
def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
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
    for module in re.findall(r"^import (\w+)", SNIPPETS[number], re.MULTILINE):
        pytest.importorskip(module)
    exec(compile(SNIPPETS[number], f"reading.md snippet {number}", "exec"), {})


def test_every_option_of_load_dataset_is_documented() -> None:
    documented = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| `.*?\|", PAGE, re.MULTILINE))))
    options = set(inspect.signature(readers.load_dataset).parameters) - {"path"}
    assert options <= documented
