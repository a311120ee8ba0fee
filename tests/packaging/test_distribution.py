"""What is released is whole: the wheel, made from the source distribution, runs in an environment of its own."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from shutil import copyfile, copytree

import numpy as np
import pytest

import npy2tfrecord
from npy2tfrecord.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]
GENERATED = (ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()

_tools = ("build", "check_wheel_contents", "setuptools", "twine")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed") for name in _tools
]


def run(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel made from it."""
    here = tmp_path_factory.mktemp("built")
    (here / "source").mkdir()
    tracked = {path.name for path in ROOT.iterdir() if path.suffix != ".egg-info"} - {".git", ".venv", *GENERATED}
    for name in tracked:
        copy = copytree if (ROOT / name).is_dir() else copyfile
        copy(ROOT / name, here / "source" / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", here / "dist", here / "source")
    return here / "dist"


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel, what it requires (linked from this one), and nothing else."""
    here = tmp_path_factory.mktemp("environment")
    venv.create(here, with_pip=False, symlinks=True)
    python = here / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel)
    (packages,) = here.glob("lib/python*/site-packages")
    required = [re.split(r"[<>=;\[ ]", line)[0] for line in metadata.requires("npy2tfrecord") or () if ";" not in line]
    assert len(required) >= 5
    for name in (*required, "shtab"):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    return here / "bin"


def test_metadata_and_contents_pass_the_checks_of_an_index(built: Path) -> None:
    run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built.iterdir())
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "check_wheel_contents", "--config", ROOT / "pyproject.toml", wheel)


def test_wheel_has_every_module_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = [path for package in ("npy2tfrecord", "readers") for path in (ROOT / package).rglob("*")]
    expected = {str(path.relative_to(ROOT)) for path in packages if path.suffix in {".py", ".typed"}}
    assert names == expected
    assert {"npy2tfrecord/py.typed", "readers/py.typed"} <= names


def test_source_distribution_has_tests_pages_and_scripts(built: Path) -> None:
    import tarfile

    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    tracked = [
        path
        for folder in ("benchmarks", "docs", "examples", "npy2tfrecord", "readers", "scripts", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert not {str(path.relative_to(ROOT)) for path in tracked} - names
    assert {"README.md", "CHANGELOG.md", "LICENSE", "Dockerfile", "setup.cfg", "pyproject.toml"} <= names


def test_every_command_runs_where_only_the_wheel_and_its_requirements_are(environment: Path, tmp_path: Path) -> None:
    command = environment / "npy2tfrecord"
    for kind in ("cats", "dogs"):
        (tmp_path / "arrays" / kind).mkdir(parents=True)
        np.save(tmp_path / "arrays" / kind / "1.npy", np.arange(6.0))
    calls = {
        "demo": "demo sets",
        "scan": "scan arrays",
        "convert": "convert --labels dirs --no-fsync arrays out",
        "info": "info out",
        "show": "show out cats/1",
        "verify": "verify out --source arrays",
        "merge": "merge --no-fsync out merged",
        "export": "export merged back",
        "completion": "completion bash",
    }
    assert calls.keys() == COMMANDS.keys()
    said = {name: run(command, *words.split(), cwd=tmp_path) for name, words in calls.items()}
    assert said["verify"] == "out: all 2 examples in 1 shard are whole\n"
    assert "_shtab_npy2tfrecord" in said["completion"]
    for name in COMMANDS:
        assert run(command, name, "--help").startswith(f"usage: npy2tfrecord {name} ")
    program = """
import importlib.util, sys
import npy2tfrecord, readers
assert all("/environment" in package.__file__ for package in (npy2tfrecord, readers)), npy2tfrecord.__file__
assert importlib.util.find_spec("tensorflow") is None and importlib.util.find_spec("scipy") is None
print(npy2tfrecord.__version__, len(readers.ArraySource("out")), readers.ArraySource("out")[0]["array"])
"""
    said_by_python = run(environment / "python", "-c", program, cwd=tmp_path)
    assert said_by_python == f"{npy2tfrecord.__version__} 2 [0. 1. 2. 3. 4. 5.]\n"
    assert run(environment / "python", "-m", "npy2tfrecord", "--version") == run(command, "--version")


def test_changelog_has_a_section_for_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (first, *_) = re.findall(r"^## \[(.*?)\]", changelog, re.MULTILINE)
    assert first == npy2tfrecord.__version__
