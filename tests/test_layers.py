"""The layers keep apart: no TensorFlow in the converter, none in the readers before one of them is called."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import npy2tfrecord

ROOT = Path(__file__).parent.parent
HEAVY = {"keras", "tensorflow", "tensorflow_datasets"}


def imports(path: Path) -> Iterator[str]:
    """The top-level packages that a module imports, whenever it does."""
    for node in ast.walk(ast.parse(path.read_bytes(), path)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield path.parent.name if node.level else str(node.module).partition(".")[0]


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def test_converter_never_imports_tensorflow_or_the_readers() -> None:
    for path in modules("npy2tfrecord"):
        assert not {*imports(path)} & {*HEAVY, "readers"}, path


def test_nothing_is_imported_with_tensorflow_before_it_is_called() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in modules("npy2tfrecord")
        if path.stem[0] != "_"
    ]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))
import {", ".join(names)}, readers
for package in npy2tfrecord, readers:
    for name in package.__all__:
        getattr(package, name)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_version_is_the_installed_one() -> None:
    assert npy2tfrecord.__version__ == metadata.version("npy2tfrecord")


def test_py_typed_is_shipped() -> None:
    for package in ("npy2tfrecord", "readers"):
        assert (ROOT / package / "py.typed").is_file()


def test_shell_scripts_are_executable() -> None:
    scripts = [path for folder in ("scripts", ".ci") for path in (ROOT / folder).iterdir() if path.is_file()]
    commands = [path for path in scripts if path.read_bytes().startswith(b"#!")]
    assert {"quickstart", "test", "run"} <= {path.name for path in commands}
    for path in commands:
        assert os.access(path, os.X_OK), path
