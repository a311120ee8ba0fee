"""The options of the commands, the keywords of the functions and the fields of `Options` are the same."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

import npy2tfrecord
from npy2tfrecord.commands import arguments, convert, merge, scan, verify
from npy2tfrecord.options import Options

# Arguments that the commands handle by themselves, and keywords that only Python has.
OF_COMMANDS = {
    "sources",
    "sets",
    "out",
    "json",
    "html",
    "plot",
    "quiet",
    "progress",
    "dry_run",
    "overwrite",
    "help",
    "color",
}
OF_PYTHON = {"progress", "dry_run", "overwrite", "repaired"}


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of the keyword-only parameters."""
    parameters = inspect.signature(function).parameters.values()
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters)
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def test_convert_takes_the_fields_of_options_with_their_defaults() -> None:
    fields = {each.name: each.default for each in dataclasses.fields(Options) if each.init}
    given = keywords(npy2tfrecord.convert)
    assert {name: given[name] for name in given if name not in OF_PYTHON} == fields


def test_scan_takes_keywords_of_convert() -> None:
    assert keywords(npy2tfrecord.scan).items() <= keywords(npy2tfrecord.convert).items()


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("convert", convert, npy2tfrecord.convert),
        ("merge", merge, npy2tfrecord.merge),
        ("scan", scan, npy2tfrecord.scan),
        ("verify", verify, npy2tfrecord.verify),
    ],
)
def test_options_of_a_command_are_the_keywords_of_its_function(
    name: str, module: Any, function: Callable[..., Any]
) -> None:
    assert {*module.OPTIONS} == keywords(function).keys() - OF_PYTHON
    assert {action.dest for action in arguments.make_parser(name)._actions} - OF_COMMANDS == {*module.OPTIONS}


@pytest.mark.parametrize("function", [npy2tfrecord.convert, npy2tfrecord.merge])
def test_docstring_explains_every_keyword(function: Callable[..., Any]) -> None:
    described = {
        name.strip()
        for line in str(inspect.getdoc(function)).splitlines()
        if line[:1].isalpha()
        for name in line.partition(": ")[0].split(",")
    }
    assert keywords(function).keys() <= described


def test_every_keyword_has_a_type() -> None:
    for function in (npy2tfrecord.convert, npy2tfrecord.scan, npy2tfrecord.verify, npy2tfrecord.export):
        for parameter in inspect.signature(function).parameters.values():
            assert parameter.annotation is not parameter.empty, parameter
