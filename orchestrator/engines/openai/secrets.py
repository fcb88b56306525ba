"""Keeps the secrets of a server out of everything that is written: plans, journals, messages.

The one rule: a secret is read from the environment, and what a server sends back is searched for
it. A secret is the key, or the value of a header that `headers_env` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from orchestrator.core.errors import LeadlineError
from orchestrator.core.values import Trace, changed

_MIN_CHARS = 8  # a shorter text is no key, and may be a word of the reply
_KEY = re.compile(r"(?i)\b(sk|pk|rk|hf|gsk|xai|key|api)[-_][A-Za-z0-9_-]{16,}")
_CREDENTIAL = re.compile(r"(?i)^\s*(basic|bearer|token)\s+\S|\beyJ[\w-]{8,}\.")  # or a JWT
# words of the names of headers whose values are secrets
_SECRET_WORD = re.compile(
    "apikey|auth|authorization|cookie|credentials?|key|password|secret|signature|token"
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"[\x20-\x7e\t]*")
# headers that the client writes, with what replaces them
_OURS: Mapping[str, str] = {
    "accept-encoding": "replies are requested uncompressed",
    "content-length": "the client writes it",
    "content-type": "the client writes it",
    "host": "set base_url",
    "openai-organization": "set organization",
    "openai-project": "set project",
    "transfer-encoding": "the client writes it",
}


def require_public(
    base_url: str, api_key_env: str, headers: Mapping[str, str], headers_env: Mapping[str, str]
) -> None:
    """Raise ValueError for a secret in an option, which plans and journals would then keep.

    Also for a header that cannot be sent. The message never has a value.
    """
    _require_no_key(base_url)
    if api_key_env:
        _require_variable("api_key_env", api_key_env)
    _require_headers(headers, headers_env)


def _require_no_key(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment or _KEY.search(url):
        raise ValueError(
            "base_url carries a user name, a query or a key, which the job directory would keep; "
            "write the bare address, and name the variable that holds the key: api_key_env"
        )


def _require_headers(headers: Mapping[str, str], headers_env: Mapping[str, str]) -> None:
    for key, names in (("headers", headers), ("headers_env", headers_env)):
        for name in names:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{key}: {name!r} is not the name of a header")
            if reason := _OURS.get(name.lower()):
                raise ValueError(f"{key}: {name} cannot be set: {reason}")
    if both := {name.lower() for name in headers} & {name.lower() for name in headers_env}:
        raise ValueError(f"{min(both)} is in headers and in headers_env; keep one of them")
    for name, value in headers.items():
        is_secret = any(map(_SECRET_WORD.fullmatch, re.split(r"[-_.]", name.lower())))
        if is_secret or _KEY.search(value) or _CREDENTIAL.search(value):
            raise ValueError(
                f"headers: {name} carries a secret, which the job directory would keep; name the "
                f'variable that holds it: headers_env = {{ "{name}" = "VARIABLE" }}'
            )
        if not _VALUE.fullmatch(value):
            raise ValueError(f"headers: the value of {name} must be one line of ASCII characters")
    for name, variable in headers_env.items():
        _require_variable(f"headers_env: the value of {name}", variable)


def _require_variable(what: str, variable: str) -> None:
    # a text that is no name may be the secret itself
    if not variable.isidentifier():
        raise ValueError(
            f"{what} must be the name of an environment variable, such as MY_KEY, and never the "
            "secret itself"
        )


def secret(variable: str) -> str:
    """Return a secret from the environment, without the white space around it; "" for none."""
    return os.environ.get(variable, "").strip() if variable else ""


def secret_headers(headers_env: Mapping[str, str]) -> dict[str, str]:
    """Return headers with their values from the environment.

    ValueError with the variable that is not set, or cannot be sent.
    """
    headers = {}
    for name, variable in headers_env.items():
        value = headers[name] = secret(variable)
        if not value or not _VALUE.fullmatch(value):
            fault = "must be one line of ASCII characters" if value else "is not set"
            raise ValueError(f"the header {name} is read from ${variable}, which {fault}")
    return headers


class Mask:
    """Replaces secrets by as many stars, so that positions in a text stay the same."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Mask nothing for secrets that are empty or too short.

        Of a secret with several words, such as "Bearer abc", each is one.
        """
        found = {text for whole in secrets for text in (whole, *whole.split())}
        longest_first = sorted(found, key=lambda text: (-len(text), text))
        parts = [_pattern(text) for text in longest_first if len(text) >= _MIN_CHARS]
        self._pattern = re.compile("|".join(parts)) if parts else None
        whole = [text for text in longest_first if len(text) >= _MIN_CHARS]
        self._whole = re.compile("|".join(map(re.escape, whole)))
        self._n_longest = max(map(len, whole), default=0)

    def text(self, text: str) -> str:
        """Return the text without the secrets."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: "*" * len(found[0]), text)

    def piecewise(self, on_text: Callable[[str], None]) -> Callable[[str], None]:
        """Return what passes pieces of a text on without the secrets.

        As many characters as a secret may have are held back, and those of the end for good.
        """
        if self._pattern is None:
            return on_text
        held = ""

        def take(piece: str) -> None:
            nonlocal held
            text = self._whole.sub(lambda found: "*" * len(found[0]), held + piece)
            n_ready = max(0, len(text) - self._n_longest + 1)
            held = text[n_ready:]
            if n_ready:
                on_text(text[:n_ready])

        return take

    def trace(self, trace: Trace) -> Trace:
        """Return the trace without the secrets."""
        texts = {name: getattr(trace, name) for name in ("text", "error", "note")}
        masked = {name: self.text(text) for name, text in texts.items()}
        return trace if masked == texts else changed(trace, **masked)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Mask the secrets in the message of an error that is raised in the block."""
        try:
            yield
        except LeadlineError as error:
            error.args = tuple(self.text(a) if isinstance(a, str) else a for a in error.args)
            raise


def _pattern(secret: str) -> str:
    """Return a pattern for a secret, or for its beginning where a text was cut within it."""
    cut = "|".join(re.escape(secret[:n]) for n in range(len(secret) - 1, _MIN_CHARS - 1, -1))
    return f"{re.escape(secret)}|(?:{cut})\\Z" if cut else re.escape(secret)
