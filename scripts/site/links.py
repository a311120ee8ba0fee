"""For the site: links that leave docs/ become plain text, since only the repository has what they lead to."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:README|CHANGELOG|LICENSE|benchmarks|examples|scripts|tests)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page without these links."""
    return _OUTSIDE.sub(r"\1", markdown)
