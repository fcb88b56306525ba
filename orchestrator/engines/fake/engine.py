"""A deterministic engine without a model, to test and benchmark everything around engines.

A reply depends only on the request (its seed), never on time or order, so runs can be compared bit
for bit. It does not imitate a language model.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.metrics import (
    RuleFold,
    first_words,
    metric_values,
    prefix_value,
    recorded_with,
    top_logprobs_returned,
)
from orchestrator.core.plan import Model
from orchestrator.core.values import (
    Capability,
    Finish,
    Prompt,
    Purpose,
    Request,
    TokenLogprob,
    Trace,
    Usage,
)
from orchestrator.engines.fake.draws import uniform, uniforms
from orchestrator.engines.fake.likely import token_logprobs
from orchestrator.engines.fake.listeners import informed
from orchestrator.engines.fake.thinking import CLOSING, NO_THOUGHT, Thought, thought
from orchestrator.engines.fake.truth import JUDGING, pool_values, verdict_text, word_chances
from orchestrator.engines.paced import PacedEngine
from orchestrator.engines.reply import trace_for
from orchestrator.kit.answers.tags import CLOSE, OPEN

_WORDS = (" so", " so", " wait")


@dataclass(frozen=True, slots=True)
class Fake:
    """Draws replies by the seed, without a model; for tests, dry runs and benchmarks.

    Its accuracy means nothing. Its model is a single layer that runs once per unit of depth, so
    depth multiplies seconds and layer-tokens. Its judges, and its pools with a task, treat the
    first of `answers` as right.
    """

    # only the names of the plan's models matter
    loads_models: ClassVar[bool] = False

    answers: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1,
            description="The answers that attempts give. {hash} in one stands for a number from 0 "
            "to 999 that belongs to the problem.",
        ),
    ] = ("{hash}", "0", "1")
    weights: Annotated[
        tuple[float, ...],
        Meta(
            description="Relative frequency of each answer; an empty list draws all equally often."
        ),
    ] = ()
    n_tokens: Annotated[int, Meta(ge=1, description="Tokens of an attempt.")] = 8
    spread_tokens: Annotated[
        int, Meta(ge=0, description="Largest number of additional tokens, drawn for each attempt.")
    ] = 0
    seconds_per_token: Annotated[
        float, Meta(ge=0, description="Seconds per token at depth 1; 0 replies at once.")
    ] = 0.0
    failure_rate: Annotated[
        float, Meta(ge=0, le=1, description="Share of the requests that fail.")
    ] = 0.0
    hang_rate: Annotated[
        float, Meta(ge=0, le=1, description="Share of the requests that never end by themselves.")
    ] = 0.0
    gpus: Annotated[
        float,
        Meta(ge=0, description="Number of GPUs that it claims to use."),
    ] = 0.0
    crash_after: Annotated[
        int, Meta(ge=0, description="Number of requests after which the engine dies; 0 for never.")
    ] = 0
    crash_hard: Annotated[
        bool, Meta(description="Whether the dying engine also ends its process, without an error.")
    ] = False
    judge_error: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of verdicts and values that are inverted."),
    ] = 0.0
    steps: Annotated[
        int,
        Meta(
            ge=0,
            description="A problem takes 1 to this many steps, by its id. An attempt of less depth "
            "is a guess: all answers weigh the same. 0: no problem takes any.",
        ),
    ] = 0

    thinking: Annotated[
        int,
        Meta(
            ge=0,
            description="A problem takes 1 to this many tokens of thinking before the reply, by "
            "its id. An attempt whose thinking was ended earlier is a guess: all answers weigh the "
            "same. 0: attempts do not think.",
        ),
    ] = 0

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.answers):
            raise ValueError(
                f"weights has {len(self.weights)} values for {len(self.answers)} answers; "
                "give one for each, or none"
            )

    def capabilities(self) -> frozenset[Capability]:
        """Return all capabilities."""
        return frozenset(Capability)

    def require_thinking(self, n_tokens: int, models: Mapping[str, Model]) -> None:
        """Accept any limit."""

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[FakeEngine]:
        """Yield the engine; there is nothing to start or stop."""
        if not models:
            raise PlanError("the plan has no model")
        yield FakeEngine(self, {name: model.task for name, model in models.items()})


class FakeEngine(PacedEngine):
    """Completes requests according to `Fake`'s options."""

    def __init__(self, options: Fake, tasks: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__()
        self._options = options
        self._tasks = tasks  # of model pools
        self._guesses = list(itertools.accumulate([1.0] * len(options.answers)))
        self._bounds = list(itertools.accumulate(options.weights)) or self._guesses
        self._n_requests = 0
        self._listeners: dict[tuple[str, int], Callable[[str], None]] = {}

    @property
    def n_gpus(self) -> float:
        """The GPUs that it claims to use."""
        return self._options.gpus

    async def generate(self, request: Request) -> Trace:
        """Return the trace that the request's seed determines."""
        self._count()
        options = self._options
        # A continuation reads the seed of its first trace from the first inherited token, so
        # checkpoints change nothing.
        root_seed = request.prefix_ids[0] if request.prefix_ids else request.seed % 2**31
        if options.failure_rate and uniform(root_seed, 0) < options.failure_rate:
            return self._trace(
                request, (), Finish.FAILED, error="the fake engine fails this trace on purpose"
            )
        hangs = bool(options.hang_rate) and uniform(root_seed, 1) < options.hang_rate
        if (task := self._tasks.get(request.model, "")) and not hangs:
            return pool_values(request, task, self._right(request), options.judge_error)
        ids, finish, metrics = self._stream(request, root_seed)
        ids, finish, stop = (
            self._stopped(request, ids, finish) if request.stop else (ids, finish, "")
        )
        seconds_per_token = options.seconds_per_token * (request.depth or 1)
        wait = self.tokens_before_abort(request, len(ids), seconds_per_token, hangs)
        if self._listeners and (listener := self._listeners.pop(request.identity, None)):
            texts = functools.partial(self._text_of_first, request, ids)
            async with informed(listener, texts, len(ids), seconds_per_token):
                n_done = await wait
        else:
            n_done = await wait
        if n_done is None:
            return self._trace(request, ids, finish, metrics=metrics, stop=stop)
        return self._trace(request, ids[:n_done], Finish.CANCELLED)

    def listen(self, request: Request, on_text: Callable[[str], None]) -> None:
        """Report the text of a request's next `generate` as its tokens come."""
        self._listeners[request.identity] = on_text

    def _text_of_first(self, request: Request, ids: tuple[int, ...], n: int) -> str:
        return self._trace(request, ids[:n], Finish.STOP).text

    def _count(self) -> None:
        self._n_requests += 1
        if self._options.crash_after and self._n_requests > self._options.crash_after:
            if self._options.crash_hard:
                os._exit(70)
            raise EngineError(
                f"the fake engine dies on purpose after {self._options.crash_after} requests"
            )

    def _stream(
        self, request: Request, root_seed: int
    ) -> tuple[tuple[int, ...], Finish, dict[str, float]]:
        options = self._options
        thinking = self._thought(request)
        n_total = options.n_tokens
        if options.spread_tokens:
            n_total += int(uniform(root_seed, 2) * (options.spread_tokens + 1))
        n_total += thinking.n_tokens + 1 if options.thinking else 0
        guessed = thinking.is_short or (
            bool(options.steps)
            and (request.depth or 1) < problem_steps(request.problem_id, options.steps)
        )
        bounds = self._guesses if guessed else self._bounds
        draw = uniform(root_seed, 3) * bounds[-1]
        answer = bisect.bisect(bounds, draw, hi=len(bounds) - 1)
        first = len(request.prefix_ids)
        # Token 0 encodes the seed, the last token the answer; one may end the thinking, and the
        # others mean nothing.
        ids = [
            root_seed if i == 0 else -1 - answer if i == n_total - 1 else i
            for i in range(first, max(first + 1, n_total))
        ]
        if thinking.closing is not None:
            ids[thinking.closing - first] = CLOSING
        finish = Finish.STOP
        limit = request.max_new_tokens
        if limit is not None and len(ids) > limit:
            ids, finish = ids[:limit], Finish.LENGTH
        if request.rules or request.metrics:
            return self._folded(request, ids, finish, root_seed)
        return tuple(ids), finish, {}

    def _thought(self, request: Request) -> Thought:
        if not self._options.thinking or request.purpose in JUDGING:
            return NO_THOUGHT
        return thought(request, self._options.thinking)

    def _folded(
        self, request: Request, ids: list[int], finish: Finish, root_seed: int
    ) -> tuple[tuple[int, ...], Finish, dict[str, float]]:
        # A token's confidence depends on the prompt, the trace and the token's position: it is the
        # same whether the token is generated or inherited.
        first = len(request.prefix_ids)
        every = _confidences(request, root_seed, first + len(ids))
        inherited, confidences = every[:first], every[first:]
        fold = RuleFold(request.rules)
        for i, token in enumerate(ids):
            if fold.update(self._text(request, (token,)), confidences[i : i + 1]):
                ids, confidences, finish = ids[: i + 1], confidences[: i + 1], Finish.RULE
                break
        sampled, entropies = [-c / 10 for c in confidences], [1 - c / 10 for c in confidences]
        words = first_words(request.metrics)
        chances = list(itertools.islice(uniforms(request.seed + 1), len(words)))
        # the first word is the judge's word for "right"
        if request.purpose is Purpose.VERIFY and request.subjects:
            chances = word_chances(
                request, self._right(request), self._options.judge_error, chances
            )
        likely = [
            (word, math.log(chance / (1 + sum(chances))))
            for word, chance in zip(words, chances, strict=True)
            if chance
        ]
        metrics = metric_values(
            recorded_with(request.metrics), sampled, confidences, likely, entropies
        )
        return (
            tuple(ids),
            finish,
            metrics | prefix_value(request.metrics, [-c / 10 for c in inherited]),
        )

    def _stopped(
        self, request: Request, ids: tuple[int, ...], finish: Finish
    ) -> tuple[tuple[int, ...], Finish, str]:
        """Return the tokens before the first stop string.

        The token that completes the stop string is left out entirely.
        """
        for n in range(1, len(ids) + 1):
            hits = [stop for stop in request.stop if stop in self._text(request, ids[:n])]
            if hits:
                return ids[: n - 1], Finish.STOP, hits[0]
        return ids, finish, ""

    def _text(self, request: Request, ids: Sequence[int]) -> str:
        words = "".join([_WORDS[i % 3] if i >= 0 else CLOSE for i in ids if i >= 0 or i == CLOSING])
        ends = bool(ids) and CLOSING < ids[-1] < 0
        return words + self._ending(request, -1 - ids[-1]) if ends else words

    def _ending(self, request: Request, answer: int) -> str:
        if request.purpose in JUDGING:
            return verdict_text(request, self._right(request), self._options.judge_error)
        return _statement(request.problem_id, self._options.answers[answer])

    def _right(self, request: Request) -> str:
        return _statement(request.problem_id, self._options.answers[0])

    def _trace(
        self,
        request: Request,
        ids: tuple[int, ...],
        finish: Finish,
        *,
        error: str = "",
        metrics: Mapping[str, float] | None = None,
        stop: str = "",
    ) -> Trace:
        suffix_ids = (0,) * len(request.suffix.split())
        prompt_tokens = n_words(request.prompt) + len(request.prefix_ids) + len(suffix_ids)
        depth = request.depth or 1
        thinking, text = self._thought(request), self._text(request, ids)
        # as if the prompt had opened the thinking: the opening tag is no token
        opens = thinking.closing is not None and not request.prefix_ids and text
        return trace_for(
            request,
            finish,
            text=f"{OPEN}{text}" if opens else text,
            token_ids=ids,
            usage=Usage(
                prompt_tokens,
                0,
                len(ids),
                (prompt_tokens + len(ids)) * depth,
                len(ids) * self._options.seconds_per_token * depth,
                thinking.n_within(len(request.prefix_ids), ids),
            ),
            metrics=metrics or {},
            suffix_ids=suffix_ids,
            error=error,
            stop=stop,
            logprobs=self._logprobs(request, ids),
        )

    def _logprobs(self, request: Request, ids: tuple[int, ...]) -> tuple[TokenLogprob, ...]:
        n_top = top_logprobs_returned(request)
        if n_top is None or not ids:
            return ()
        first = len(request.prefix_ids)
        root_seed = request.prefix_ids[0] if first else ids[0]
        confidences = _confidences(request, root_seed, first + len(ids))[first:]
        texts = [self._text(request, (id,)) for id in ids]
        return token_logprobs(texts, [-c / 10 for c in confidences], n_top)


def _confidences(request: Request, root_seed: int, n_tokens: int) -> list[float]:
    numbers = uniforms(root_seed ^ _prompt_seed(request.prompt))
    return [5.0 + 5.0 * u for u in itertools.islice(numbers, n_tokens)]


@lru_cache(maxsize=65_536)
def _statement(problem_id: str, answer: str) -> str:
    return f" The answer is {answer.replace('{hash}', problem_number(problem_id))}."


def problem_number(problem_id: str) -> str:
    """Return the number that replaces `{hash}` in this problem's answers."""
    return str(int.from_bytes(blake2b(problem_id.encode(), digest_size=4).digest(), "big") % 1000)


@lru_cache(maxsize=65_536)
def problem_steps(problem_id: str, most: int) -> int:
    """Return how many steps a problem takes, from 1 to `most`, each equally likely over ids."""
    return (
        1
        + int.from_bytes(blake2b(f"steps {problem_id}".encode(), digest_size=4).digest(), "big")
        % most
    )


@lru_cache(maxsize=1024)
def _prompt_seed(prompt: Prompt) -> int:
    return int.from_bytes(
        blake2b(repr(prompt).encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big"
    )


@lru_cache(maxsize=1024)
def n_words(prompt: Prompt) -> int:
    """Return how many words a prompt has: its tokens, to this engine."""
    text = prompt if isinstance(prompt, str) else " ".join(m.content for m in prompt)
    return len(text.split())
