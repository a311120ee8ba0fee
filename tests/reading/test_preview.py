"""`readers.preview`: examples of a data set as a notebook shows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from converted import Command, save

import readers
from npy2tfrecord.errors import UsageError

pytest.importorskip("matplotlib")


@pytest.fixture
def out(tmp_path: Path, command: Command) -> Path:
    names = [f"<i>{kind}/{i:02}" for kind in ("cat", "dog") for i in range(10)]
    source = save(tmp_path / "in", {name: np.full((8, 8, 3), i, "u1") for i, name in enumerate(names)})
    words = ("--labels", "dirs", "--split", "train=0.7,val=0.3", "-q")
    command.ok("convert", source, tmp_path / "out", *words)
    return tmp_path / "out"


def test_examples_are_shown_with_keys_and_labels(out: Path) -> None:
    seen = readers.preview(out)
    assert len(seen.examples) == 9
    shown = seen._repr_html_()
    assert shown.count("<img ") == shown.count("<figcaption") == 9
    for view in seen.examples:
        assert f"&lt;i&gt;{view.key.decode()[3:]}</bdi>, label" in shown
    assert "<i>" not in shown
    assert str(seen).splitlines()[0].endswith(")")
    assert repr(seen) == "Preview(9 examples)"


def test_a_split_and_several_sets(out: Path) -> None:
    keys = {source["key"] for source in readers.ArraySource(out, split="val")}
    assert {view.key.decode() for view in readers.preview(out, 100, split="val").examples} == keys
    assert len(readers.preview([out, out], 5).examples) == 5
    with pytest.raises(UsageError, match="no split 'test'"):
        readers.preview(out, split="test")
    with pytest.raises(UsageError, match="1 or more"):
        readers.preview(out, 0)


def test_preview_needs_no_tensorflow(out: Path) -> None:
    code = "import readers, sys; readers.preview(sys.argv[1], 2); assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code, out], check=True)


def test_preview_without_matplotlib_says_what_to_install(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="needs the package matplotlib"):
        readers.preview(out)
