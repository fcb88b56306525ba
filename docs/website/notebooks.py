"""Executed notebooks as markdown: texts, code, and what each cell printed or showed.

Notebooks are executed by whoever commits them; nothing is run here. Pure.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any


def markdown(notebook: Mapping[str, Any]) -> str:
    """Return a notebook of format 4 as one page."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _cell(cell)) + "\n"


def _cell(cell: Mapping[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"]).strip()
    if cell["cell_type"] == "markdown":
        yield source
    elif cell["cell_type"] == "code" and source:
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            yield _output(output)


def _output(output: Mapping[str, Any]) -> str:
    """Return one output: the richest form that a page can show."""
    if output["output_type"] == "stream":
        return _text("".join(output["text"]))
    if output["output_type"] == "error":
        return _text(f"{output['ename']}: {output['evalue']}")
    data = {
        kind: "".join(value) for kind, value in output["data"].items() if kind != "application/json"
    }
    if "image/png" in data:
        picture = "".join(data["image/png"].split())
        alt = html.escape(data.get("text/plain", "figure"), quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{picture}">'
    if "text/html" in data:
        return f'<div class="output">\n{_without_blank_lines(data["text/html"])}\n</div>'
    return _text(data.get("text/plain", ""))


def _text(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # the colours of a terminal
    fence = "````" if "```" in text else "```"
    return f"{fence}text\n{text.rstrip()}\n{fence}"


def _without_blank_lines(text: str) -> str:
    """A blank line would end the block of markup."""
    return "\n".join(line for line in text.splitlines() if line.strip())
