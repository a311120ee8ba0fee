"""Whatever is passed to the readers, they raise the package's errors: never TensorFlow's, never Python's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reading_data import write_dataset

import readers
from npy2tfrecord.errors import Error

pytest.importorskip("tensorflow")

WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**63, 2**70, float("nan"), "", "x", "\0", "a\udcff", b"x", (), [], {}, object(),
    np.zeros(3), np.float32(2), np.datetime64("2020"), (1, 2, 3), {1: 2}, [[1]], type, ("array", None),
    {"array": None}, {"array": "x"}, {"array": (2**31, 2)}, "9" * 400 + "MB", f"train[{'9' * 5000}:]",
    f"train[:{'9' * 5000}%]", "train+",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    write_dataset(folder / "set", [np.zeros((n, 2), "f4") for n in range(1, 9)], labels=[0] * 8)
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "a.npy", np.zeros(3))
    return folder


def names_of(function: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and name != "self"
    ]


CALLS = [
    ("set", readers.load_dataset, {"batch_size": 2}),
    ("set", readers.ArraySource, {}),
    ("arrays", readers.load_npy, {}),
]


@pytest.mark.parametrize(
    ("where", "read", "option", "options"),
    [(where, read, name, options) for where, read, options in CALLS for name in names_of(read)],
)
def test_an_option_is_taken_or_refused_as_the_package_does(
    data: Path, where: str, read: Callable[..., Any], option: str, options: dict[str, Any]
) -> None:
    first = names_of(read)[0]
    for value in WRONG:
        given = {first: data / where} | options | {option: value}
        if option == "map_fn" and callable(value):
            continue
        with suppress(Error):
            read(given.pop(first), **given)


@pytest.mark.parametrize("option", ["sources", "weights"])
def test_mix_too(data: Path, option: str) -> None:
    for value in WRONG:
        given = {"sources": [data / "set"] * 2} | {option: value}
        with suppress(Error):
            readers.mix(**given)
