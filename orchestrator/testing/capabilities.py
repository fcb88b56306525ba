"""Checks of an engine's capabilities, one per capability, on a bench with an open engine.

Checks for all engines, regardless of capabilities, are in `orchestrator.testing.engines`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from orchestrator.core.protocols import Engine
from orchestrator.core.values import (
    Capability,
    ConfidenceFloor,
    Delimiter,
    Finish,
    Prompt,
    Request,
    Sampling,
    Trace,
)
from orchestrator.testing.rules import require

T = TypeVar("T")
_N_TOKENS = 12  # a length that any engine completes quickly
_GREEDY = Sampling(temperature=0.0, top_p=1.0)
_SAMPLED = Sampling(temperature=1.0, top_p=1.0)


@dataclass(frozen=True, slots=True)
class Bench:
    """An engine under test, with helpers that send requests to it."""

    engine: Engine
    model: str
    prompt: Prompt
    long_tokens: int
    wait_seconds: float

    def request(self, ordinal: int, problem_id: str = "check") -> Request:
        """Return a complete request, like the requests of a Session."""
        return Request(
            prompt=self.prompt,
            model=self.model,
            sampling=_SAMPLED,
            max_new_tokens=_N_TOKENS,
            problem_id=problem_id,
            ordinal=ordinal,
            seed=1_000 + ordinal,
        )

    def long_request(self, ordinal: int) -> Request:
        """Return a request with a reply that is long enough to be stopped."""
        return replace(self.request(ordinal), max_new_tokens=self.long_tokens)

    async def reply(self, request: Request) -> Trace:
        """Return the reply after the checks that apply to every reply."""
        trace = await self.within(
            self.engine.generate(request), f"generate({request.problem_id}, {request.ordinal})"
        )
        _check_reply(request, trace)
        return trace

    async def within(self, result: Awaitable[T], what: str) -> T:
        """Await with a time limit."""
        try:
            async with asyncio.timeout(self.wait_seconds):
                return await result
        except TimeoutError as error:
            raise AssertionError(
                f"never hangs: {what} returned nothing for {self.wait_seconds} s"
            ) from error


def _check_reply(request: Request, trace: Trace) -> None:
    who = f"the reply to ({request.problem_id}, {request.ordinal})"
    usage, n_ids, limit = trace.usage, len(trace.token_ids), request.max_new_tokens
    # a looped model reports its own depth
    depth = trace.depth if request.depth is None else request.depth
    expected = (request.ordinal, request.parent, request.purpose, request.model, depth)
    actual = (trace.ordinal, trace.parent, trace.purpose, trace.model, trace.depth)
    require(
        actual == expected,
        "pairing",
        f"{who} has (ordinal, parent, purpose, model, depth) = {actual}, its request {expected}; "
        "copy them over",
    )
    require(trace.finish is not Finish.FAILED, "serves", f"{who} failed: {trace.error}")
    require(
        # a stop string is generated but not returned
        n_ids in (0, usage.output_tokens) or (bool(trace.stop) and usage.output_tokens > n_ids),
        "usage",
        f"{who} counts {usage.output_tokens} tokens but contains {n_ids}",
    )
    require(
        usage.prompt_tokens > 0,
        "usage",
        f"{who} counts no prompt tokens; count the whole prompt, inherited tokens included",
    )
    require(
        0 <= usage.cached_tokens <= usage.prompt_tokens,
        "usage",
        f"{who} has {usage.cached_tokens} of {usage.prompt_tokens} cached",
    )
    require(
        min(usage.output_tokens, usage.layer_tokens, usage.seconds) >= 0
        and math.isfinite(usage.seconds),
        "usage",
        f"{who} has {usage}; counts and seconds must be finite and not negative",
    )
    require(
        limit is None or usage.output_tokens <= limit,
        "max_new_tokens",
        f"{who} has {usage.output_tokens} tokens, more than {limit}",
    )
    require(trace.answer is None, "raw", f"{who} has an answer; leave reading it to the domain")


def require_distinct(traces: Collection[Trace], rule: str, what: str) -> None:
    replies = {(t.text, t.token_ids) for t in traces}
    require(len(replies) > 1, rule, f"{what} all returned the same reply; pass the seed on")


async def _check_seeds(bench: Bench) -> None:
    first, second = [await bench.reply(replace(bench.request(70), seed=7)) for _ in range(2)]
    require(
        (first.text, first.token_ids) == (second.text, second.token_ids),
        "seed",
        f"one request alone, twice, with one seed: {first.text!r:.80} and {second.text!r:.80}; "
        "pass the seed on",
    )
    others = [await bench.reply(replace(bench.request(70), seed=seed)) for seed in range(100, 108)]
    require_distinct(others, "seed", "eight seeds at temperature 1")


async def _check_abort(bench: Bench) -> None:
    """Abort four requests; an abort may arrive after the end, so at least one must be cut."""
    cut = []
    for ordinal in range(80, 84):
        request = bench.long_request(ordinal)
        task = asyncio.ensure_future(bench.reply(request))
        await asyncio.wait({task}, timeout=0.1)
        # an abort that arrives before the request starts is ignored
        for _ in range(math.ceil(bench.wait_seconds / 0.1)):
            if task.done():
                break
            bench.engine.abort(request)
            await asyncio.wait({task}, timeout=0.1)
        trace = await bench.within(task, "an aborted generate()")
        if trace.finish is Finish.CANCELLED:
            cut.append(trace)
    require(
        bool(cut),
        "abort",
        "no request came back CANCELLED after its abort; "
        "return one with the tokens so far, or use a prompt with longer replies",
    )
    require(
        all(t.usage.output_tokens < bench.long_tokens for t in cut),
        "abort",
        f"a cancelled trace has all its {bench.long_tokens} tokens: it ran to its end; "
        "stop the generation itself",
    )


async def _check_continuation(bench: Bench) -> None:
    request = replace(bench.request(90), sampling=_GREEDY)
    whole = await bench.reply(request)
    half = len(whole.token_ids) // 2
    require(
        half > 0,
        "continuation",
        f"the reply has {len(whole.token_ids)} token ids; "
        "return them, or use a prompt with longer replies",
    )
    start = await bench.reply(replace(request, max_new_tokens=half))
    continuation = replace(
        bench.request(91),
        sampling=_GREEDY,
        parent=90,
        prefix_ids=start.token_ids,
        prefix_text=start.text,
        max_new_tokens=_N_TOKENS - half,
    )
    rest = await bench.reply(continuation)
    joined = (*start.token_ids, *rest.token_ids)
    require(
        joined == whole.token_ids,
        "continuation equals the uninterrupted trace",
        f"uninterrupted {whole.token_ids}, in two parts {joined}; "
        "continue from `prefix_ids`, not from text",
    )
    require(
        start.text + rest.text == whole.text,
        "continuation",
        f"the texts {start.text!r} and {rest.text!r} do not make {whole.text!r}",
    )
    forced = await bench.reply(replace(continuation, ordinal=92, suffix=" The final answer is"))
    require(
        bool(forced.suffix_ids),
        "suffix",
        "a forced suffix has no `suffix_ids`; return its tokens, which a continuation inherits",
    )
    require(
        forced.usage.prompt_tokens >= rest.usage.prompt_tokens + len(forced.suffix_ids),
        "suffix",
        f"{forced.usage} does not count the forced suffix as prompt; "
        "it is not among the trace's own tokens",
    )


async def _check_rules(bench: Bench) -> None:
    request = replace(bench.request(100), sampling=_GREEDY)
    whole = await bench.reply(request)
    require(bool(whole.text), "rules", "the reply has no text; use a prompt with longer replies")
    mark = whole.text[len(whole.text) // 3]
    cut = await bench.reply(replace(request, ordinal=101, rules=(Delimiter(mark),)))
    require(
        cut.finish is Finish.RULE,
        "rules",
        f"finish is {cut.finish.value}, although {cut.text!r} contains the delimiter {mark!r}",
    )
    require(
        mark in cut.text and len(cut.text) < len(whole.text),
        "rules",
        f"{cut.text!r} was not cut after {mark!r}",
    )
    never = await bench.reply(replace(request, ordinal=102, rules=(Delimiter("\x00 never"),)))
    require(never.finish is not Finish.RULE, "rules", "a rule fired that cannot fire")


async def _check_confidence_floor(bench: Bench) -> None:
    floor = ConfidenceFloor(1e9, window_tokens=2, top_k=5)
    low = await bench.reply(replace(bench.request(103), sampling=_GREEDY, rules=(floor,)))
    require(
        low.finish is Finish.RULE and 2 <= low.usage.output_tokens < _N_TOKENS,
        "rules",
        f"{floor} gave {low.finish.value} after {low.usage.output_tokens} tokens; "
        "it holds from the second one on",
    )


async def _check_metrics(bench: Bench) -> None:
    lowest, bottom = "lowest_confidence@4", "bottom10_confidence@4"
    names = ("mean_logprob", "mean_confidence", "mean_entropy", "tail_confidence@4", lowest, bottom)
    metrics = (await bench.reply(replace(bench.request(110), metrics=names))).metrics
    require(set(metrics) >= set(names), "metrics", f"requested {names}, got {tuple(metrics)}")
    require(
        all(map(math.isfinite, metrics.values())),
        "metrics",
        f"{metrics} are not finite; clip log-probabilities of -inf",
    )
    require(
        metrics["mean_logprob"] <= 0,
        "metrics",
        f"mean_logprob is {metrics['mean_logprob']}; return natural logarithms of probabilities",
    )
    require(
        metrics[lowest] <= metrics[bottom] <= max(map(abs, metrics.values())) + 1e-6,
        "metrics",
        f"{metrics}: the lowest group is above the mean of the lowest tenth",
    )
    first = replace(bench.request(111), sampling=_GREEDY, max_new_tokens=1)
    word = (await bench.reply(first)).text.strip()
    if word:  # otherwise it begins with a space or half a character, which a metric cannot name
        name = f"first_token_logprob@{word}"
        metrics = (await bench.reply(replace(first, ordinal=112, metrics=(name,)))).metrics
        require(
            metrics.get(name, 1.0) <= 0,
            "metrics",
            f"{word!r} is the most likely first token, and {name} is missing or above 0",
        )


async def _check_score(bench: Bench) -> None:
    """Score tokens that were sampled before.

    After the same prompt their log-probabilities are those of sampling; after another prompt they
    differ.
    """
    name = "prefix_logprob"
    drawn = await bench.reply(replace(bench.request(130), metrics=("mean_logprob",)))
    expected = drawn.metrics["mean_logprob"] * len(drawn.token_ids)
    tolerance = 0.01 * len(drawn.token_ids)
    reading = replace(
        bench.request(131),
        parent=130,
        prefix_ids=drawn.token_ids,
        prefix_text=drawn.text,
        max_new_tokens=1,
        metrics=(name, "mean_logprob"),
    )
    metrics = (await bench.reply(reading)).metrics
    require(
        set(metrics) == {name, "mean_logprob"},
        "score",
        f"requested {name} and mean_logprob, got {tuple(metrics)}",
    )
    require(
        abs(metrics[name] - expected) <= tolerance,
        "score",
        f"{name} is {metrics[name]}; the sum over the inherited tokens, and only those; "
        f"is it of the same model, before temperature, as {expected}?",
    )
    other = (await bench.reply(replace(reading, ordinal=132, prompt="Name a fruit."))).metrics[name]
    require(
        abs(other - expected) > 1e-6,
        "score",
        f"{name} is {other} after another prompt, too; read it after the request's own",
    )
    suffixed = await bench.reply(replace(reading, ordinal=133, suffix=" The final answer is"))
    require(
        abs(suffixed.metrics[name] - expected) <= tolerance,
        "score",
        f"{name} is {suffixed.metrics[name]} with a suffix, which it must not count",
    )
    bare = (await bench.reply(replace(bench.request(134), metrics=(name,)))).metrics
    require(
        name not in bare,
        "score",
        f"{name} is {bare.get(name)} without inherited tokens; leave it out",
    )


async def _check_stops(bench: Bench) -> None:
    """Stop at a piece from the middle of a greedy reply: only the text before it is returned."""
    request = replace(bench.request(120), sampling=_GREEDY)
    whole = await bench.reply(request)
    mark = whole.text[len(whole.text) // 2 :][:4]
    require(bool(mark), "stops", "the reply has no text; use a prompt with longer replies")
    cut = await bench.reply(replace(request, ordinal=121, stop=("\x00 never", mark)))
    require(
        (cut.finish, cut.stop) == (Finish.STOP, mark),
        "stops",
        f"{cut.text!r} has (finish, stop) = {(cut.finish, cut.stop)}; "
        f"it must stop at {mark!r} and report it",
    )
    require(
        whole.text.startswith(cut.text) and mark not in cut.text,
        "stops",
        f"{cut.text!r} is not the text before {mark!r} in {whole.text!r}",
    )
    n_ids = len(cut.token_ids)
    require(
        n_ids < len(whole.token_ids) and whole.token_ids[:n_ids] == cut.token_ids,
        "stops",
        f"token ids {cut.token_ids} of {whole.token_ids} do not leave the stop string out",
    )
    require(
        not whole.stop, "stops", f"a reply that no stop string ended reports {whole.stop!r} as one"
    )


# in order; the first failing check is reported
CHECKS: tuple[tuple[frozenset[Capability], Callable[[Bench], Awaitable[None]]], ...] = (
    (frozenset({Capability.SEED}), _check_seeds),
    (frozenset({Capability.CANCEL}), _check_abort),
    (frozenset({Capability.CONTINUE}), _check_continuation),
    (frozenset({Capability.RULES}), _check_rules),
    (frozenset({Capability.RULES, Capability.LOGPROBS}), _check_confidence_floor),
    (frozenset({Capability.LOGPROBS}), _check_metrics),
    (frozenset({Capability.SCORE}), _check_score),
    (frozenset({Capability.STOPS}), _check_stops),
)
