"""Speculative Thinking (Yang et al., arXiv 2504.12329; github.com/uservan/speculative_thinking).

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
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, ClassVar

from msgspec import Meta

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
from orchestrator.kit.options import PlannedAttempts

VERIFICATION = ("verify", "think again", "recap", "check")
REFLECTION = ("wait", "alternatively", "hold on", "another", *VERIFICATION)
AFFIRMATION = ("yeah", "yes", "final answer", "confident")
CHECK = "Let me check whether there are some wrong steps:"


class Mood(Enum):
    """The role of a sentence in the reasoning."""

    STATEMENT = "statement"
    AFFIRMATION = "affirmation"
    REFLECTION = "reflection"


def mood(text: str) -> Mood:
    """Return a sentence's mood: the kind whose keywords occur more often; a tie is reflection.

    Keywords count as parts of words, in any case.
    """
    n_reflecting, n_affirming = _count(text, REFLECTION), _count(text, AFFIRMATION)
    if not n_reflecting and not n_affirming:
        return Mood.STATEMENT
    return Mood.AFFIRMATION if n_affirming > n_reflecting else Mood.REFLECTION


def verifies(text: str) -> bool:
    """Tell whether a sentence contains a keyword of verification."""
    return _count(text, VERIFICATION) > 0


def _count(text: str, keywords: tuple[str, ...]) -> int:
    lowered = text.lower()
    return sum(lowered.count(keyword) for keyword in keywords)


@dataclass(slots=True)
class Takeover:
    """Decides what the large model writes next, and counts reflections; one for each attempt.

    | what was written | the large model |
    |---|---|
    | a probe that states | writes nothing: the probe is dropped, the small model continues |
    | a probe that affirms or reflects | writes `sentence` tokens in its place |
    | a sentence of the large model that verifies | continues for `verification` tokens |
    | the `patience`-th sentence of the large model that reflects | is prompted to check, writes
      `reflection` tokens, and the count restarts |

    After each of the last kind `reflection` grows by 25 up to 200 and `patience` by 5 up to 30, as
    in the released code.
    """

    sentence: int = 20
    verification: int = 125
    reflection: int = 125
    patience: int = 15
    n_reflections: int = 0

    def instead_of_probe(self, text: str) -> int:
        """Return how many tokens the large model writes instead of a probe; 0 for none."""
        return 0 if mood(text) is Mood.STATEMENT else self.sentence

    def after_sentence(self, text: str) -> list[tuple[str, int]]:
        """Return what the large model writes after its sentence: suffixes and numbers of tokens."""
        pieces = [("", self.verification)] if verifies(text) else []
        self.n_reflections += mood(text) is Mood.REFLECTION
        if self.n_reflections >= self.patience:
            pieces.append((CHECK, self.reflection))
            self.n_reflections = 0
            self.reflection = min(self.reflection + 25, 200)
            self.patience = min(self.patience + 5, 30)
        return pieces


@dataclass(frozen=True, slots=True)
class SpeculativeThinking(PlannedAttempts):
    """Lets a large model take over a small one's thinking where it matters.

    Both models must share their tokenizer.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.CONTINUE, Capability.RULES})

    # required: a continuation that names no pool would stay with the small model
    large: Annotated[
        str, Meta(min_length=1, description="Model pool of the plan with the large model.")
    ]
    n: Annotated[int, Meta(ge=1, description="Number of attempts.")] = 4
    tokens: Annotated[int, Meta(ge=1, description="Largest number of tokens of an attempt.")] = 8192
    chunk: Annotated[
        int, Meta(ge=1, description="Tokens after which the small model is probed at the latest.")
    ] = 1024
    always: Annotated[
        int,
        Meta(
            ge=0,
            description="Tokens that the large model writes after every `delimiter`, for small "
            "models that do not reason (the paper's 100); 0 decides by keywords.",
        ),
    ] = 0
    delimiter: Annotated[
        str,
        Meta(min_length=1, description="Text after which the large model may take over."),
    ] = "\n\n"
    model: Annotated[
        str,
        Meta(
            description="Model pool of the plan with the small model; empty for the plan's first."
        ),
    ] = ""

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools that this strategy names in addition to `model`."""
        return (self.large,)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Think in all attempts, side by side."""
        yield from gather(
            _JointAttempt(self, self.model, self.tokens).think() for _ in range(self.n)
        )


@dataclass(slots=True)
class _JointAttempt:
    """An attempt that two models write in turns: its latest trace and its remaining tokens."""

    options: SpeculativeThinking
    small: str
    n_left: int
    parent: int | None = None
    open: bool = True
    takeover: Takeover = field(default_factory=Takeover)

    def think(self) -> Generator[Command, Reply, None]:
        """Write the attempt to its end."""
        rules = (Delimiter(self.options.delimiter),)
        while self.open:
            trace = yield from self._write(
                Request(model=self.small, rules=rules, max_new_tokens=self.options.chunk)
            )
            # a continuation that names no model would be the large one's where that wrote last
            self.small = trace.model
            if self.open:
                always = self.options.always
                yield from self._write(self._large(always)) if always else self._help()

    def _help(self) -> Generator[Command, Reply, None]:
        """Probe the small model's next sentence, and let the large one write by the table."""
        probe = yield from self._continue(
            Request(model=self.small, max_new_tokens=self.takeover.sentence, purpose=Purpose.PROBE)
        )
        n_tokens = self.takeover.instead_of_probe(probe.text)
        if not n_tokens:
            return
        sentence = yield from self._write(self._large(n_tokens))
        for suffix, n_more in self.takeover.after_sentence(sentence.text):
            if self.open:
                yield from self._write(self._large(n_more, suffix))

    def _large(self, n_tokens: int, suffix: str = "") -> Request:
        return Request(model=self.options.large, max_new_tokens=n_tokens, suffix=suffix)

    def _write(self, request: Request) -> Generator[Command, Reply, Trace]:
        """Add a piece; the attempt ends at its natural end, its limit, or when a piece failed."""
        trace = yield from self._continue(request)
        self.n_left -= trace.usage.output_tokens
        self.open = (
            trace.finish in (Finish.RULE, Finish.LENGTH)
            and self.n_left > 0
            and trace.usage.output_tokens > 0
        )
        if trace.finish is not Finish.FAILED:
            self.parent = trace.ordinal
        return trace

    def _continue(self, request: Request) -> Generator[Command, Reply, Trace]:
        """Return a continuation of the attempt so far, within its remaining tokens."""
        n_tokens = min(request.max_new_tokens or self.n_left, self.n_left)
        return (yield from ask(changed(request, parent=self.parent, max_new_tokens=n_tokens)))
