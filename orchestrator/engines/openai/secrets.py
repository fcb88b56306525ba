"""Keeps the key of a server out of everything that is written: plans, journals, results, messages.

The one rule: the key is read from the environment, and what a server sends back is searched for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from orchestrator.core.errors import LeadlineError
from orchestrator.core.values import Trace, changed

_MIN_CHARS = 8  # a shorter text is no key, and may be a word of the reply
_KEY = re.compile(r"(?i)\b(sk|pk|rk|hf|gsk|xai|key|api)[-_][A-Za-z0-9_-]{16,}")


def require_no_key(url: str) -> None:
    """Raise ValueError if an address carries a key, which plans and journals would then keep."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment or _KEY.search(url):
        raise ValueError(
            "base_url carries a user name, a query or a key, which the job directory would keep; "
            "write the bare address, and name the variable that holds the key: api_key_env"
        )


class Mask:
    """Replaces a key by as many stars, so that positions in a text stay the same."""

    def __init__(self, key: str) -> None:
        """Mask nothing if the key is empty or too short."""
        cut = "|".join(re.escape(key[:n]) for n in range(len(key) - 1, _MIN_CHARS - 1, -1))
        cut = f"|(?:{cut})\\Z" if cut else ""  # a message may have been shortened within the key
        is_key = len(key) >= _MIN_CHARS
        self._pattern = re.compile(f"{re.escape(key)}{cut}") if is_key else None

    def text(self, text: str) -> str:
        """Return the text without the key."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: "*" * len(found[0]), text)

    def trace(self, trace: Trace) -> Trace:
        """Return the trace without the key."""
        texts = {name: getattr(trace, name) for name in ("text", "error", "note")}
        masked = {name: self.text(text) for name, text in texts.items()}
        return trace if masked == texts else changed(trace, **masked)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Mask the key in the message of an error that is raised in the block."""
        try:
            yield
        except LeadlineError as error:
            error.args = tuple(self.text(a) if isinstance(a, str) else a for a in error.args)
            raise
