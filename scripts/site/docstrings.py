"""For the site: a docstring's lines `name: what it is` become a list, as Markdown wants it."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ARGUMENT = re.compile(r"^(\w+(?:, \w+)*): ", re.MULTILINE)


class ArgumentLists(griffe.Extension):
    """Rewrites the docstrings of what is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """The docstring of one object, rewritten."""
        if obj.docstring is not None:
            obj.docstring.value = with_lists(obj.docstring.value)


def with_lists(text: str) -> str:
    """The text, with a list in the place of lines that explain arguments."""
    paragraphs = text.split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        if _ARGUMENT.match(paragraph):
            named = _ARGUMENT.sub(lambda m: "- " + ", ".join(f"`{n}`" for n in m[1].split(", ")) + ": ", paragraph)
            paragraphs[i] = named
    return "\n\n".join(paragraphs)
