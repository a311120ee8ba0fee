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


# A folder or module of the converter imports only those before it, and modules of its own.
LAYERS = (
    *(
        "errors",
        "syscalls",
        "paths",
        "cleanup",
        "formats",
        "storage",
        "options",
        "sources",
        "planning",
        "writing",
        "jobs",
        "output",
        "conversion",
    ),
    *("checking", "commands"),
)
# The same for the readers; all other modules are the functions for callers, on top.
READER_LAYERS = ({"manifests", "options", "outputs", "splits", "windows"}, {"shards"}, {"pipeline"})
# What these use of the converter.
READERS_USE = {
    "errors",
    "syscalls",
    "paths",
    "formats",
    "storage",
    "options",
    "sources",
    "planning",
    "conversion",
    "checking",
}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def imports(path: Path) -> Iterator[str]:
    """The full names of the modules that a module imports, whenever it does."""
    for node in ast.walk(ast.parse(path.read_bytes(), path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            inside = ROOT.joinpath(*str(node.module).split("."))
            for name in node.names:
                is_module = (inside / name.name).is_dir() or (inside / f"{name.name}.py").is_file()
                yield f"{node.module}.{name.name}" if is_module else str(node.module)


def parts(path: Path) -> list[str]:
    return list(path.relative_to(ROOT).with_suffix("").parts)


def test_every_folder_of_the_converter_imports_only_those_before_it() -> None:
    wrong = []
    for path in modules("npy2tfrecord"):
        _, *own = parts(path)
        if own[0] in ("__init__", "__main__"):
            continue
        assert own[0] in LAYERS, f"{path.relative_to(ROOT)}: say in LAYERS where it stands"
        allowed = LAYERS[: LAYERS.index(own[0]) + 1]
        for name in imports(path):
            package, *rest = name.split(".")
            if package == "npy2tfrecord" and rest and rest[0] not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_the_readers_imports_only_those_before_it() -> None:
    def layer(name: str) -> int:
        return next((i for i, layer in enumerate(READER_LAYERS) if name in layer), len(READER_LAYERS))

    wrong = []
    for path in modules("readers"):
        _, *own = parts(path)
        for name in imports(path):
            package, *rest = name.split(".")
            if (package == "readers" and rest and layer(rest[0]) > layer(own[0])) or (
                package == "npy2tfrecord" and rest and rest[0] not in READERS_USE
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_converter_never_imports_tensorflow_or_the_readers() -> None:
    for path in modules("npy2tfrecord"):
        assert not {name.partition(".")[0] for name in imports(path)} & {*HEAVY, "readers"}, path


def test_reading_shards_needs_no_tensorflow() -> None:
    for path in modules("readers/shards"):
        assert not {name.partition(".")[0] for name in imports(path)} & HEAVY, path


def test_importing_the_plan_imports_no_process_pool() -> None:
    code = """
import sys
import numpy, platform
there = set(sys.modules)  # Python 3.10 has some of them from these
import npy2tfrecord.planning.plan
pools = {"joblib", "concurrent.futures", "multiprocessing", "dask", "distributed", "subprocess", "socket"}
assert not pools & (sys.modules.keys() - there), pools & (sys.modules.keys() - there)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_nothing_is_imported_with_tensorflow_before_it_is_called() -> None:
    names = [".".join(parts(path)) for path in modules("npy2tfrecord") if path.stem[0] != "_"]
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
