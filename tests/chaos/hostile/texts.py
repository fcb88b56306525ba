"""Hostile texts, values and files, drawn by a seed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

_PIECES = (
    "The answer is ",
    r"\boxed{",
    "}",
    "{",
    r"\frac{1}{",
    r"\sqrt[",
    "$$",
    "<think>",
    "</think>",
    "```json\n",
    "```",
    '{"name": "f", "arguments": ',
    "[" * 50,
    "((((",
    "9" * 400,
    "9**9**9**9",
    "1e999999",
    "-0",
    "1/0",
    "0x1F",
    "1,000,000.5",
    "50\\%",
    "A",
    "(B)",
    "\x00",
    "\x1b[2J\x1b]0;title\x07",
    "\u202e",
    "\ufeff",
    "\U0001f600",
    "e\u0301",
    "\ud83d",  # half an emoji
    "٣٫١٤",
    "二十",
    "\r\n",
    "\t",
    "<script>alert(1)</script>",
    "&lt;",
    r"\text{",
    r"\begin{pmatrix}1&2\\",
    r"\int_0^\infty ",
    "{hash}",
    "%s%n",
    "../../etc/passwd",
    "Solution 2:",
    "Verdict: correct",
    "Score: 10/10",
    " or ",
    " wait",
)


def text(rng: random.Random, most: int = 12) -> str:
    """Return a text such as a model should not write."""
    parts = []
    for _ in range(rng.randint(0, most)):
        piece = rng.choice(_PIECES)
        parts.append(piece * (rng.choice((1, 1, 1, 1, 2, 300)) if len(piece) < 60 else 1))
        if rng.random() < 0.3:
            parts.append(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD7FF)))))
    return "".join(parts)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return a value of JSON or TOML, of any kind."""
    makers: list[Callable[[], Any]] = [
        lambda: rng.choice((0, 1, -1, 2**31, 2**63 - 1, -(2**63), 10**6)),
        lambda: rng.choice((0.0, -0.5, 1e308, 1e-320, math.inf, -math.inf, math.nan)),
        lambda: rng.random() < 0.5,
        lambda: "",
        lambda: text(rng, 3),
        lambda: rng.choice(("fake", "main", "majority", "adaptive", "verdict:x", "consistency n=")),
        list,
        dict,
    ]
    if depth < 3:
        makers += [
            lambda: [value(rng, depth + 1) for _ in range(rng.randint(1, 3))],
            lambda: {text(rng, 1) or "k": value(rng, depth + 1) for _ in range(rng.randint(1, 2))},
        ]
    return rng.choice(makers)()


def mutated(rng: random.Random, tree: Any) -> Any:
    """Return a tree of tables and lists with something in it changed."""
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = rng.choice(sorted(tree))
        kind = rng.random()
        if kind < 0.12:
            return {k: v for k, v in tree.items() if k != key}
        if kind < 0.24:
            return {(k + rng.choice("sx_. ") if k == key else k): v for k, v in tree.items()}
        if kind < 0.3:
            return {**tree, text(rng, 1): value(rng)}
        return {**tree, key: mutated(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.6:
        at = rng.randrange(len(tree))
        return [*tree[:at], mutated(rng, tree[at]), *tree[at + rng.randrange(2) :]]
    return value(rng)


def spoiled(rng: random.Random, data: bytes) -> bytes:
    """Return the content of a file with bytes changed, cut off, repeated or put in between."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, n = rng.randrange(len(data) + 1), rng.choice((1, 1, 3, 40))
        data = rng.choice(
            (
                data[:at],
                data[:at] + rng.randbytes(n) + data[at + n :],
                data[:at] + data[at + n :],
                data[:at] + data[at : at + n] * 3 + data[at:],
                data[:at] + text(rng, 2).encode("utf-8", "surrogatepass") + data[at:],
                data[:at] + rng.choice((b'"', b"\n", b"[", b"]", b"=", b"{", b"\\")) + data[at:],
            )
        )
    return data


def toml(tree: dict[str, Any], path: tuple[str, ...] = ()) -> str:
    """Return tables as TOML, with inline tables inside of lists."""
    lines = [f"{_key(k)} = {_inline(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    for key, table in tree.items():
        if isinstance(table, dict):
            name = ".".join(map(_key, (*path, key)))
            lines += [f"[{name}]", toml(table, (*path, key))]
    return "\n".join(lines)


def _key(name: str) -> str:
    return json.dumps(name)


def _inline(one: Any) -> str:
    if isinstance(one, dict):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in one.items()) + "}"
    if isinstance(one, list):
        return "[" + ", ".join(map(_inline, one)) + "]"
    if isinstance(one, float):
        return str(one) if math.isfinite(one) else repr(one)
    return json.dumps(one) if isinstance(one, str | bool) else str(one)
