"""One plugin of each kind, on the public names alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator import (
    Capability,
    Cluster,
    Finish,
    Model,
    Problem,
    Request,
    Trace,
    Usage,
    Verdict,
    next_trace,
    submit,
)
from orchestrator.core.protocols import Pair, Scores
from orchestrator.core.steps import Steps
from orchestrator.core.votes import rank, tally, voters


@dataclass(frozen=True, slots=True)
class FirstTwo:
    """Starts `n` traces and stops when two agree."""

    n: Annotated[int, Meta(ge=1, description="The number of traces to start.")] = 6

    @property
    def n_planned(self) -> int:
        """How many traces full sampling takes."""
        return self.n

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Wait until an answer has been seen twice, or for all."""
        seen: set[str] = set()
        for _ in (yield from submit([Request()] * self.n)):
            trace = yield from next_trace()
            if trace.answer is None:
                continue
            if trace.answer.key in seen:
                return
            seen.add(trace.answer.key)


@dataclass(frozen=True, slots=True)
class Shortest:
    """Ranks answers by their shortest trace: weight 1 / its tokens."""

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters, the one with the shortest trace first."""
        chosen = voters(traces)
        tokens = {t.ordinal: max(1, t.usage.output_tokens) for t in chosen}
        return rank(
            replace(c, weight=1 / min(tokens[o] for o in c.ordinals)) for c in tally(chosen)
        )


@dataclass(frozen=True, slots=True)
class Colour:
    """One colour: the last one that a text gives."""

    colours: Annotated[tuple[str, ...], Meta(description="The words that are answers.")] = (
        "red",
        "green",
        "blue",
    )

    in_process: ClassVar[bool] = True

    def extract(self, text: str, finished: bool) -> str | None:
        """Return the word after the last "colour: "."""
        word = (
            text.lower().rpartition("colour: ")[2][:20].split(" ")[0].strip(".\n")
            if "colour: " in text.lower()
            else ""
        )
        return word if word in self.colours else None

    def canonical(self, answer: str) -> str:
        """Return the colour in lower case."""
        return "=" + answer.strip().lower().lstrip("=")

    def equivalent(self, a: str, b: str) -> bool:
        """Tell whether they are one colour."""
        return self.canonical(a) == self.canonical(b)


@dataclass(frozen=True, slots=True)
class Brevity:
    """Scores a trace by its brevity: 1 when empty, 1/2 at `half` characters."""

    half: Annotated[
        int, Meta(ge=1, description="The number of characters at which the score is 1/2.")
    ] = 100

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        """Return half / (half + length) for each."""
        return [Verdict("brevity", self.half / (self.half + len(t.text))) for t in traces]


@dataclass(frozen=True, slots=True)
class Echo:
    """An engine that writes a colour and then counts."""

    seconds_per_token: Annotated[float, Meta(gt=0, description="The time of each word.")] = 0.0005

    def capabilities(self) -> frozenset[Capability]:
        """Return what it can do."""
        return frozenset({Capability.SEED, Capability.CANCEL})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[EchoEngine]:
        """Yield the engine."""
        yield EchoEngine(self.seconds_per_token)


class EchoEngine:
    """Serves requests by their seeds."""

    def __init__(self, seconds_per_token: float) -> None:
        self._pace = seconds_per_token
        self._aborts: dict[tuple[str, int], asyncio.Event] = {}

    async def generate(self, request: Request) -> Trace:
        """Return a trace of 400 words, or of fewer when cut."""
        limit = min(400, request.max_new_tokens or 400)
        event = self._aborts[request.problem_id, request.ordinal] = asyncio.Event()
        began = asyncio.get_running_loop().time()
        n, finish = limit, Finish.STOP if limit == 400 else Finish.LENGTH
        try:
            async with asyncio.timeout(limit * self._pace):
                await event.wait()
            n, finish = (
                min(limit, int((asyncio.get_running_loop().time() - began) / self._pace)),
                Finish.CANCELLED,
            )
        except TimeoutError:
            pass
        finally:
            del self._aborts[request.problem_id, request.ordinal]
        words = [
            "colour:",
            random.Random(request.seed).choice(("red", "green", "blue")),
            *map(str, range(400)),
        ][:n]
        return Trace(
            request.ordinal,
            " ".join(words),
            finish=finish,
            parent=request.parent,
            purpose=request.purpose,
            model=request.model,
            depth=request.depth,
            usage=Usage(prompt_tokens=1, output_tokens=n, layer_tokens=1 + n),
        )

    def abort(self, request: Request) -> None:
        """Stop a running request."""
        event = self._aborts.get((request.problem_id, request.ordinal))
        if event is not None:
            event.set()


@dataclass(frozen=True, slots=True)
class Length:
    """Prefixes of similar length are similar."""

    def score(self, problem: Problem, pairs: Sequence[Pair]) -> Scores:
        """Return the shorter's share of the longer."""
        yield from ()
        lengths = [sorted((len(a.text), len(b.text))) for a, b in pairs]
        return [short / long if long else 1.0 for short, long in lengths]


__all__ = ["Brevity", "Colour", "Echo", "FirstTwo", "Length", "Shortest"]
