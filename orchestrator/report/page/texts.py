"""Texts of a page that may be cut, and say by how much. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A text or its beginning; `n_left_out` characters are missing before `end`."""

    text: str
    n_left_out: int = 0
    end: str = ""


def cut_text(text: str, n_most: int) -> Text:
    """Return a text of about `n_most` characters (0: all): its beginning, and a quarter of its end.

    A text that is longer by an eighth is not cut.
    """
    n_left_out = len(text) - n_most
    if not n_most or n_left_out <= n_most // 8:
        return Text(text)
    n_end = n_most // 4
    return Text(text[: n_most - n_end], n_left_out, text[len(text) - n_end :])
