"""Finding programs in a reply: its fenced code blocks (Markdown). Linear time on any text.

last_program(reply, finished=True)      # the last Python block
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.kit.answers.find import reply

PYTHON = ("python", "python3", "py")
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)")


def last_program(text: str, finished: bool, fences: Sequence[str] = PYTHON) -> str | None:
    """Return the last block with one of these languages on its fence, else the last without

    None if there is no such block. Thinking is ignored, and so are blank blocks. An unclosed block
    counts if the text is complete.
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
    """Return the language and content of each block, in order.

    The indentation of a list is removed. The same kind of fence, of at least equal length, closes a
    block.
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
