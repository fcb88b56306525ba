"""Where a reply gives a program: its fenced code blocks (Markdown). Linear time on any text.

last_program(reply, finished=True)      # the last Python block
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.kit.answers.find import reply

PYTHON = ("python", "python3", "py")
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)")


def last_program(text: str, finished: bool, fences: Sequence[str] = PYTHON) -> str | None:
    """Return the last block with one of these languages on its fence, else the last with none.

    None without any. Only what follows a closed `</think>` counts. A block that is not closed
    counts when the text came to its end. Blank blocks do not.
    """
    part = reply(text, finished)
    named = bare = None
    for language, body in _blocks(part.text, part.finished):
        if not body.strip():
            continue
        if language.lower() in fences:
            named = body
        elif not language:
            bare = body
    return bare if named is None else named


def _blocks(text: str, finished: bool) -> list[tuple[str, str]]:
    """Language and content of each block, in order.

    A list's indentation is removed; a fence is closed by one of its kind that is at least as long.
    """
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, str, str] | None = None  # indentation, fence, language
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _fence(line)
        if opened is None:
            opened, lines = fence, []
        elif fence and not fence[2] and fence[1].startswith(opened[1]):
            blocks.append((opened[2], "\n".join(lines)))
            opened = None
        else:
            lines.append(line.removeprefix(opened[0]))
    if opened is not None and finished:
        blocks.append((opened[2], "\n".join(lines)))
    return blocks


def _fence(line: str) -> tuple[str, str, str] | None:
    match = _FENCE.match(line)
    # a line with backticks on both sides is code in a sentence
    if match is None or "`" in match[3]:
        return None
    return match[1], match[2], (match[3].split() or [""])[0]
