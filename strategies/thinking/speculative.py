"""Speculative Thinking (Yang et al., arXiv 2504.12329; github.com/uservan/speculative_thinking): a
large model takes over where it matters.

A small model thinks. After each blank line it writes a probe of one sentence; where the probe's
words show that it affirms or reflects, a large model writes that place instead, and longer where it
verifies or where there has been too much reflection. The table is in `Takeover`; the keywords,
counts and the code's growing limits are the released ones. Both models must share their tokenizer:
continuation is by token ids. Where we differ: a chunk that reaches its limit without a blank line
is probed like any other.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum

from orchestrator.core.steps import Command, Reply, Steps, ask
from orchestrator.core.values import (
    Capability,
    Delimiter,
    Finish,
    Problem,
    Purpose,
    Request,
    Trace,
    changed,
)
from orchestrator.kit.compose import gather

REFLECTION = (
    "wait",
    "alternatively",
    "hold on",
    "another",
    "verify",
    "think again",
    "recap",
    "check",
)
AFFIRMATION = ("yeah", "yes", "final answer", "confident")
VERIFICATION = ("verify", "think again", "recap", "check")
CHECK = "Let me check whether there are some wrong steps:"


class Mood(Enum):
    """What a sentence does."""

    STATEMENT = "statement"
    AFFIRMATION = "affirmation"
    REFLECTION = "reflection"


def mood(text: str) -> Mood:
    """Return a sentence's mood: the kind whose keywords occur more often, as parts of words, in any
    case; reflection where they tie.
    """
    reflects, affirms = _count(text, REFLECTION), _count(text, AFFIRMATION)
    if not reflects and not affirms:
        return Mood.STATEMENT
    return Mood.AFFIRMATION if affirms > reflects else Mood.REFLECTION


def verifies(text: str) -> bool:
    """Tell whether a sentence contains a keyword of verification."""
    return _count(text, VERIFICATION) > 0


def _count(text: str, keywords: tuple[str, ...]) -> int:
    lowered = text.lower()
    return sum(lowered.count(keyword) for keyword in keywords)


@dataclass(slots=True)
class Takeover:
    """Decides what the large model writes next; counts reflections. One per trace.

    | what was written | the large model |
    |---|---|
    | a probe that states | nothing: the probe is dropped, the small model goes on |
    | a probe that affirms or reflects | writes `sentence` tokens in its place |
    | a sentence of the large model that verifies | goes on for `verification` tokens |
    | the `patience`-th sentence of the large model that reflects | is told to check and writes
      `reflection` tokens; counting begins anew |

    After each of the last kind `reflection` grows by 25 up to 200 and `patience` by 5 up to 30, as
    in the released code.
    """

    sentence: int = 20
    verification: int = 125
    reflection: int = 125
    patience: int = 15
    n_reflections: int = 0

    def of_probe(self, text: str) -> int:
        """Return how many tokens the large model writes instead of a probe; 0 for none."""
        return 0 if mood(text) is Mood.STATEMENT else self.sentence

    def of_sentence(self, text: str) -> list[tuple[str, int]]:
        """Return what the large model writes after its sentence, in order: what it is told before,
        and how many tokens.
        """
        more = [("", self.verification)] if verifies(text) else []
        self.n_reflections += mood(text) is Mood.REFLECTION
        if self.n_reflections >= self.patience:
            more.append((CHECK, self.reflection))
            self.n_reflections = 0
            self.reflection, self.patience = (
                min(self.reflection + 25, 200),
                min(self.patience + 5, 30),
            )
        return more


@dataclass(frozen=True, slots=True)
class SpeculativeThinking:
    """Thinks `n` traces of at most `tokens` tokens with `model`, helped by the pool `large`.

    `always` is for a small model that does not reason: the large one writes so many tokens after
    every blank line (the paper's 100); 0 decides by keywords.
    """

    large: str
    n: int = 4
    tokens: int = 8192
    chunk: int = 1024
    always: int = 0
    delimiter: str = "\n\n"
    model: str = ""

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("tokens", 1), ("chunk", 1), ("always", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}: at least {least}")
        if not self.large:
            raise ValueError(
                "large = '': name the pool of the large model; a continuation that names none would stay with the small one"
            )
        if not self.delimiter:
            raise ValueError(
                "delimiter = '': give the text after which the large model may take over, such as a blank line"
            )

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools it names besides `model`."""
        return (self.large,)

    @property
    def needs(self) -> frozenset[Capability]:
        """Continuation by token ids, and stop rules."""
        return frozenset({Capability.CONTINUE, Capability.RULES})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Think all traces side by side."""
        yield from gather(
            _Pen(self.model, self.large, self.tokens).think(self) for _ in range(self.n)
        )


class _Pen:
    """One trace being written by two models: where it stands, and how many tokens are left."""

    def __init__(self, small: str, large: str, n_left: int) -> None:
        self.small, self.large, self.n_left = small, large, n_left
        self.at: int | None = None
        self.open = True

    def think(self, options: SpeculativeThinking) -> Generator[Command, Reply, None]:
        """Write the trace to its end."""
        takeover = Takeover()
        while self.open:
            rules = (Delimiter(options.delimiter),)
            written = yield from self.write(
                Request(model=self.small, rules=rules, max_new_tokens=options.chunk)
            )
            # a continuation that names no model would be the large one's where that wrote last
            self.small = written.model
            if self.open:
                yield from (
                    self.write(Request(model=self.large, max_new_tokens=options.always))
                    if options.always
                    else self.help(takeover)
                )

    def help(self, takeover: Takeover) -> Generator[Command, Reply, None]:
        """Probe the small model's next sentence, and let the large one write as the table says."""
        probe = yield from self.ask(
            Request(model=self.small, max_new_tokens=takeover.sentence, purpose=Purpose.PROBE)
        )
        n_tokens = takeover.of_probe(probe.text)
        if not n_tokens:
            return
        sentence = yield from self.write(Request(model=self.large, max_new_tokens=n_tokens))
        for told, n_more in takeover.of_sentence(sentence.text):
            if self.open:
                yield from self.write(Request(model=self.large, max_new_tokens=n_more, suffix=told))

    def write(self, request: Request) -> Generator[Command, Reply, Trace]:
        """Add a piece to the trace; it is closed at its natural end, at the limit of its tokens, or
        when a piece failed.
        """
        trace = yield from self.ask(request)
        self.n_left -= trace.usage.output_tokens
        self.open = (
            trace.finish in (Finish.RULE, Finish.LENGTH)
            and self.n_left > 0
            and trace.usage.output_tokens > 0
        )
        if trace.finish is not Finish.FAILED:
            self.at = trace.ordinal
        return trace

    def ask(self, request: Request) -> Generator[Command, Reply, Trace]:
        """Return a continuation of the trace as it stands, within the tokens that are left."""
        n_tokens = min(request.max_new_tokens or self.n_left, self.n_left)
        return (yield from ask(changed(request, parent=self.at, max_new_tokens=n_tokens)))
