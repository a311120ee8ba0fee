"""`docs/recipes.md` is true: its commands are run in order on such data as it shows, and print what it says."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from converted import Command
from layouts import MAKERS
from pages import fenced, run_blocks

pytest.importorskip("tensorflow")

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = {
    title: fenced(text)
    for title, _, text in (section.partition("\n") for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:])
}
_COLUMN = 38  # where a file's dtype and shape stand


def listing(root: Path, depth: int = 0) -> list[str]:
    """What is below a directory. Of more than five of a kind, the first two and the number of the others."""
    lines: list[str] = []
    indent = "  " * depth
    paths = sorted(root.iterdir(), key=lambda path: (path.is_dir(), path.suffix * path.is_file(), path.name))
    for _, group in itertools.groupby(paths, key=lambda path: path.is_dir() or path.suffix):
        members = list(group)
        shown = members if len(members) <= 5 else members[:2]
        for path in shown:
            if path.is_dir():
                lines += [f"{indent}{path.name}/", *listing(path, depth + 1)]
            else:
                lines += [f"{indent}{path.name}".ljust(_COLUMN) + content(path), *arrays_in(path, indent + "  ")]
        if len(members) > len(shown):
            lines.append(f"{indent}...".ljust(_COLUMN) + f"{len(members) - len(shown)} more {shown[0].suffix}")
    return [line.rstrip() for line in lines]


def content(path: Path) -> str:
    """The dtype and shape in a file."""
    if path.suffix != ".npy":
        return ""
    array = np.load(path, allow_pickle=False)
    return f"{array.dtype} {array.shape}"


def arrays_in(path: Path, indent: str) -> list[str]:
    """A line for each member of an archive."""
    if path.suffix != ".npz":
        return []
    with np.load(path, allow_pickle=False) as archive:
        return [f"{indent}{name}".ljust(_COLUMN) + f"{archive[name].dtype} {archive[name].shape}" for name in archive]


def test_there_is_a_recipe_for_every_layout() -> None:
    assert RECIPES.keys() == MAKERS.keys()


@pytest.mark.parametrize("title", MAKERS)
@pytest.mark.filterwarnings("default")  # other packages' deprecations are not this page's
def test_recipe(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    title: str,
) -> None:
    MAKERS[title](tmp_path)
    monkeypatch.chdir(tmp_path)
    (_, tree), *blocks = RECIPES[title]
    assert tree.splitlines() == listing(tmp_path)
    run_blocks(blocks, command, capsys, f"recipes.md, {title}")
