"""Options may stand anywhere, and words after `--` are arguments, whatever they look like."""

from __future__ import annotations

from typing import Any

import pytest

from npy2tfrecord.commands.arguments import parse


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("convert x --seed -1 y --no-shuffle o", {"sources": ["x", "y"], "out": "o", "seed": -1, "shuffle": False}),
        ("convert --include a b -- src out", {"sources": ["b", "src"], "out": "out", "include": ["a"]}),
        ("convert --include=-a s o", {"sources": ["s"], "out": "o", "include": ["-a"]}),
        (r"convert s --label-by -(\d+)$ o", {"sources": ["s"], "out": "o", "label_by": r"-(\d+)$"}),
        ("convert -j4 -- -- -a -o", {"sources": ["--", "-a"], "out": "-o", "jobs": 4}),
        ("convert s -- -o --frob -j 2", {"sources": ["s", "-o", "--frob", "-j"], "out": "2"}),
        ("verify out --source a b", {"out": "out", "source": ["a", "b"]}),
        ("verify --source a b --jobs 2 out", {"out": "out", "source": ["a", "b"], "jobs": 2}),
        ("verify --source a b -- out", {"out": "out", "source": ["a", "b"]}),
        ("verify --source a -- -out", {"out": "-out", "source": ["a"]}),
        ("info -- -out", {"out": "-out"}),
        ("show out -- -key", {"out": "out", "key": "-key"}),
        ("show -- -out --key", {"out": "-out", "key": "--key"}),
        ("export --overwrite -- -out -dir", {"out": "-out", "directory": "-dir", "overwrite": True}),
    ],
)
def test_words_become_arguments(words: str, expected: dict[str, Any]) -> None:
    command, *rest = words.split()
    parsed = vars(parse(command, rest))
    own = ("color", "html", "json", "plot", "quick", "repair", "shards")
    chosen = {name: value for name, value in parsed.items() if name not in own}
    unset = {"dry_run": False, "quiet": False, "progress": "auto", "overwrite": False}
    assert chosen == (unset if command == "convert" else {}) | expected
