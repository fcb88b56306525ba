"""Texts of the program as markdown: what they quote becomes code or a link. Pure."""

from __future__ import annotations

import re

_MARKED = re.compile(r"(`[^`]+`|(?<![\w-])--\w[\w.-]*\w|docs/[\w-]+\.md)")


def prose(text: str, docs: str) -> str:
    """Return a text on one line: code and flags as code, pages as links, the rest as it is.

    `docs` is the way from the page to the folder docs, such as "../".
    """
    return "".join(_part(part, docs) for part in _MARKED.split(" ".join(text.split())))


def code_span(text: str) -> str:
    """Return a text as code."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _part(part: str, docs: str) -> str:
    if part.startswith("`"):
        return part
    if part.startswith("--"):
        return f"`{part}`"
    if part.startswith("docs/"):
        return f"[{part}]({docs}{part.removeprefix('docs/')})"
    return re.sub(r"([|*_<>\[\]])", r"\\\1", part)
