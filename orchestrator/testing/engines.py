"""The contract of engines: replies paired with their requests, seeds, limits, aborts, cancellation,
and what the capabilities promise.

Costs some sixty short completions. Each wait is bounded, so an engine that hangs fails here. Greedy
continuation is compared exactly; a real engine whose batches round differently may differ in a
near-tie, which is why the comparison is made on a few tokens.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Collection
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
from orchestrator.engines.reply import validated
from orchestrator.testing.rules import require, with_or_without_loop

T = TypeVar("T")
_N_TOKENS = 12  # a length that any engine serves quickly
_GREEDY = Sampling(temperature=0.0, top_p=1.0)
_DRAWN = Sampling(temperature=1.0, top_p=1.0)


@dataclass(frozen=True, slots=True)
class _Bench:
    """An engine under test, and how it is asked."""

    engine: Engine
    model: str
    prompt: Prompt
    wait_seconds: float

    def request(self, ordinal: int, problem_id: str = "check") -> Request:
        """Return a complete request, as a Session makes them."""
        return Request(
            prompt=self.prompt,
            model=self.model,
            sampling=_DRAWN,
            max_new_tokens=_N_TOKENS,
            problem_id=problem_id,
            ordinal=ordinal,
            seed=1_000 + ordinal,
        )

    async def get(self, request: Request) -> Trace:
        """Return the reply, checked for what holds of every reply."""
        trace = await self.within(
            self.engine.generate(request), f"generate({request.problem_id}, {request.ordinal})"
        )
        _check_reply(request, trace)
        return trace

    async def within(self, result: Awaitable[T], what: str) -> T:
        """Await, bounded."""
        try:
            async with asyncio.timeout(self.wait_seconds):
                return await result
        except TimeoutError as error:
            raise AssertionError(
                f"never hangs: {what} gave nothing for {self.wait_seconds} s"
            ) from error


@with_or_without_loop
async def check_engine(
    engine: Engine,
    capabilities: Collection[Capability],
    *,
    model: str = "main",
    prompt: Prompt = "Count from one to one hundred, in words.",
    long_tokens: int = 2_000,
    wait_seconds: float = 120.0,
) -> None:
    """Check the contract of an open engine that can do what `capabilities` say.

    `prompt` must lead to replies of more than a dozen tokens, most of them still running a tenth of
    a second after they began if they may be `long_tokens` long. No single wait lasts longer than
    `wait_seconds`.
    """
    bench = _Bench(engine, model, prompt, wait_seconds)
    await _check_pairing(bench)
    await _check_limit(bench)
    await _check_unknown_aborts(bench)
    await _check_task_cancellation(bench, long_tokens)
    if Capability.SEED in capabilities:
        await _check_seeds(bench)
    if Capability.CANCEL in capabilities:
        await _check_abort(bench, long_tokens)
    if Capability.CONTINUE in capabilities:
        await _check_continuation(bench)
    if Capability.RULES in capabilities:
        await _check_rules(bench, Capability.LOGPROBS in capabilities)
    if Capability.LOGPROBS in capabilities:
        await _check_metrics(bench)
    if Capability.SCORE in capabilities:
        await _check_score(bench)
    if Capability.STOPS in capabilities:
        await _check_stops(bench)


def _check_reply(request: Request, trace: Trace) -> None:
    who = f"the reply to ({request.problem_id}, {request.ordinal})"
    # a looped model says which depth is its own
    depth = trace.depth if request.depth is None else request.depth
    asked = (request.ordinal, request.parent, request.purpose, request.model, depth)
    got = (trace.ordinal, trace.parent, trace.purpose, trace.model, trace.depth)
    require(
        got == asked,
        "pairing",
        f"{who} says (ordinal, parent, purpose, model, depth) = {got}, asked was {asked}; copy them over",
    )
    require(trace.finish is not Finish.FAILED, "serves", f"{who} failed: {trace.error}")
    usage = trace.usage
    counted = not trace.token_ids or usage.output_tokens == len(trace.token_ids)
    # a stop string is generated, and left out
    counted = counted or (bool(trace.stop) and usage.output_tokens > len(trace.token_ids))
    require(
        counted,
        "usage",
        f"{who} counts {usage.output_tokens} tokens and holds {len(trace.token_ids)}",
    )
    require(
        usage.prompt_tokens > 0,
        "usage",
        f"{who} counts no token of the prompt; count the whole of it, inherited tokens too",
    )
    require(
        0 <= usage.cached_tokens <= usage.prompt_tokens,
        "usage",
        f"{who} has {usage.cached_tokens} of {usage.prompt_tokens} cached",
    )
    validated = (
        usage.output_tokens >= 0
        and usage.layer_tokens >= 0
        and math.isfinite(usage.seconds)
        and usage.seconds >= 0
    )
    require(validated, "usage", f"{who} has {usage}; counts and seconds are not negative")
    limit = request.max_new_tokens
    within = limit is None or usage.output_tokens <= limit
    require(within, "max_new_tokens", f"{who} has {usage.output_tokens} tokens, more than {limit}")
    require(
        trace.answer is None,
        "undressed",
        f"{who} has an answer; reading it is the domain's business",
    )


async def _check_pairing(bench: _Bench) -> None:
    """32 requests at once, of two problems, with one prompt: each gets a reply of its own."""
    requests = [
        bench.request(i, problem_id) for i in range(16) for problem_id in ("check-a", "check-b")
    ]
    requests = [replace(r, seed=r.seed + 500 * (r.problem_id == "check-b")) for r in requests]
    traces = await asyncio.gather(*map(bench.get, requests))
    distinct = len({(t.text, t.token_ids) for t in traces})
    require(
        distinct > 1,
        "identity, never the prompt",
        f"{len(traces)} requests with one prompt and many seeds got one and the same reply",
    )


async def _check_limit(bench: _Bench) -> None:
    trace = await bench.get(replace(bench.request(40), max_new_tokens=3))
    full = trace.finish is not Finish.LENGTH or trace.usage.output_tokens == 3
    require(
        full,
        "max_new_tokens",
        f"a trace of {trace.usage.output_tokens} tokens says that it was cut at 3",
    )
    looked = validated(
        request := replace(bench.request(41), max_new_tokens=4, checkpoint=4),
        await bench.get(request),
    )
    ended = looked.finish is Finish.STOP or (
        looked.finish is Finish.RULE and 2 < looked.usage.output_tokens <= 4
    )
    require(
        ended,
        "checkpoint",
        f"a checkpoint at 4 tokens gave {looked.finish.value} after {looked.usage.output_tokens}",
    )
    require(
        trace.usage.output_tokens > 0, "usage", "a trace that ended has no token; count the output"
    )


async def _check_unknown_aborts(bench: _Bench) -> None:
    request = bench.request(50)
    try:
        bench.engine.abort(request)
        trace = await bench.get(request)
        bench.engine.abort(request)
        bench.engine.abort(request)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(
            f"unknown aborts are ignored: {error!r}; a request may end just before its abort arrives"
        ) from error
    remedy = "a request was cut by an abort that came before it was generated; forget aborts of what does not run"
    require(trace.finish is not Finish.CANCELLED, "unknown aborts are ignored", remedy)


async def _check_task_cancellation(bench: _Bench, long_tokens: int) -> None:
    for ordinal in range(60, 63):
        task = asyncio.ensure_future(
            bench.engine.generate(replace(bench.request(ordinal), max_new_tokens=long_tokens))
        )
        await asyncio.wait({task}, timeout=0.02)
        if not task.done():
            task.cancel()
            await bench.within(asyncio.wait({task}), "a cancelled generate()")
            require(
                task.cancelled(),
                "task cancellation",
                "generate() swallowed CancelledError; let it through after aborting",
            )
    await bench.get(bench.request(63))


async def _check_seeds(bench: _Bench) -> None:
    first, second = [await bench.get(replace(bench.request(70), seed=7)) for _ in range(2)]
    same = (first.text, first.token_ids) == (second.text, second.token_ids)
    require(
        same,
        "seed",
        f"one request alone, twice, with one seed: {first.text!r:.80} and {second.text!r:.80}; pass the seed on",
    )
    others = [await bench.get(replace(bench.request(70), seed=seed)) for seed in range(100, 108)]
    distinct = {(t.text, t.token_ids) for t in others}
    require(
        len(distinct) > 1,
        "seed",
        "eight seeds gave one and the same reply at temperature 1; pass the seed on",
    )


async def _check_abort(bench: _Bench, long_tokens: int) -> None:
    """An abort may find the request finished: one of four must be caught running."""
    cut = []
    for ordinal in range(80, 84):
        request = replace(bench.request(ordinal), max_new_tokens=long_tokens)
        task = asyncio.ensure_future(bench.get(request))
        await asyncio.wait({task}, timeout=0.1)
        # an abort that comes before the request has begun is forgotten
        for _ in range(math.ceil(bench.wait_seconds / 0.1)):
            if task.done():
                break
            bench.engine.abort(request)
            await asyncio.wait({task}, timeout=0.1)
        trace = await bench.within(task, "an aborted generate()")
        if trace.finish is Finish.CANCELLED:
            cut.append(trace)
    remedy = "no request came back CANCELLED after its abort; return one with the tokens so far, or give a prompt with longer replies"
    require(bool(cut), "abort", remedy)
    short = all(t.usage.output_tokens < long_tokens for t in cut)
    require(
        short,
        "abort",
        f"a cancelled trace has all its {long_tokens} tokens: it ran to its end; stop the generation itself",
    )


async def _check_continuation(bench: _Bench) -> None:
    whole_request = replace(bench.request(90), sampling=_GREEDY)
    whole = await bench.get(whole_request)
    half = len(whole.token_ids) // 2
    require(
        half > 0,
        "continuation",
        f"the reply has {len(whole.token_ids)} token ids; return them, or give a prompt with longer replies",
    )
    start = await bench.get(replace(whole_request, max_new_tokens=half))
    follow = replace(
        bench.request(91),
        sampling=_GREEDY,
        parent=90,
        prefix_ids=start.token_ids,
        prefix_text=start.text,
        max_new_tokens=_N_TOKENS - half,
    )
    rest = await bench.get(follow)
    joined = (*start.token_ids, *rest.token_ids)
    remedy = f"uninterrupted {whole.token_ids}, in two parts {joined}; go on from `prefix_ids`, not from text"
    require(joined == whole.token_ids, "continuation equals the uninterrupted trace", remedy)
    require(
        start.text + rest.text == whole.text,
        "continuation",
        f"the texts {start.text!r} and {rest.text!r} do not make {whole.text!r}",
    )
    forced = await bench.get(replace(follow, ordinal=92, suffix=" The final answer is"))
    require(
        bool(forced.suffix_ids),
        "suffix",
        "a forced suffix has no `suffix_ids`; return its tokens, which a continuation inherits",
    )
    counted = forced.usage.prompt_tokens >= rest.usage.prompt_tokens + len(forced.suffix_ids)
    require(
        counted,
        "suffix",
        f"{forced.usage} does not count the forced suffix as prompt; it is none of the trace's own tokens",
    )


async def _check_rules(bench: _Bench, has_logprobs: bool) -> None:
    request = replace(bench.request(100), sampling=_GREEDY)
    whole = await bench.get(request)
    mark = whole.text[len(whole.text) // 3] if whole.text else ""
    require(bool(mark), "rules", "the reply has no text; give a prompt with longer replies")
    cut = await bench.get(replace(request, ordinal=101, rules=(Delimiter(mark),)))
    require(
        cut.finish is Finish.RULE,
        "rules",
        f"finish is {cut.finish.value}, although {cut.text!r} holds the delimiter {mark!r}",
    )
    require(
        mark in cut.text and len(cut.text) < len(whole.text),
        "rules",
        f"{cut.text!r} was not cut after {mark!r}",
    )
    never = await bench.get(replace(request, ordinal=102, rules=(Delimiter("\x00 never"),)))
    require(never.finish is not Finish.RULE, "rules", "a rule fired that cannot")
    if has_logprobs:
        floor = ConfidenceFloor(1e9, window_tokens=2, top_k=5)
        low = await bench.get(replace(request, ordinal=103, rules=(floor,)))
        fired = low.finish is Finish.RULE and 2 <= low.usage.output_tokens < _N_TOKENS
        require(
            fired,
            "rules",
            f"{floor} gave {low.finish.value} after {low.usage.output_tokens} tokens; it holds from the second one on",
        )


async def _check_metrics(bench: _Bench) -> None:
    names = (
        "mean_logprob",
        "mean_confidence",
        "mean_entropy",
        "tail_confidence@4",
        "lowest_confidence@4",
        "bottom10_confidence@4",
    )
    metrics = (await bench.get(replace(bench.request(110), metrics=names))).metrics
    require(set(metrics) == set(names), "metrics", f"asked for {names}, got {tuple(metrics)}")
    require(
        all(map(math.isfinite, metrics.values())),
        "metrics",
        f"{metrics} are not finite; clip log-probabilities of -inf",
    )
    require(
        metrics["mean_logprob"] <= 0,
        "metrics",
        f"mean_logprob is {metrics['mean_logprob']}; natural logarithms of probabilities",
    )
    ordered = (
        metrics["lowest_confidence@4"]
        <= metrics["bottom10_confidence@4"]
        <= max(map(abs, metrics.values())) + 1e-6
    )
    require(
        ordered, "metrics", f"{metrics}: the lowest group is above the mean of the lowest tenth"
    )
    first = replace(bench.request(111), sampling=_GREEDY, max_new_tokens=1)
    word = (await bench.get(first)).text.strip()
    if word:  # else it begins with a space or half a character, which no metric can name
        name = f"first_token_logprob@{word}"
        likely = (await bench.get(replace(first, ordinal=112, metrics=(name,)))).metrics.get(
            name, 1.0
        )
        require(
            likely <= 0,
            "metrics",
            f"{word!r} is the likeliest first token, and {name} is missing or above 0",
        )


async def _check_score(bench: _Bench) -> None:
    """Read back tokens that were drawn: after the same prompt they are as likely as when they were
    drawn, after another they are not.
    """
    name = "prefix_logprob"
    drawn = await bench.get(replace(bench.request(130), metrics=("mean_logprob",)))
    expected = drawn.metrics["mean_logprob"] * len(drawn.token_ids)
    reading = replace(
        bench.request(131),
        parent=130,
        prefix_ids=drawn.token_ids,
        prefix_text=drawn.text,
        max_new_tokens=1,
        metrics=(name, "mean_logprob"),
    )
    metrics = (await bench.get(reading)).metrics
    require(
        set(metrics) == {name, "mean_logprob"},
        "score",
        f"asked for {name} and mean_logprob, got {tuple(metrics)}",
    )
    near = abs(metrics[name] - expected) <= 0.01 * len(drawn.token_ids)
    remedy = f"the sum over the inherited tokens, and only those; is it of the same model, before temperature, as {expected}?"
    require(near, "score", f"{name} is {metrics[name]}; {remedy}")
    other = (await bench.get(replace(reading, ordinal=132, prompt="Name a fruit."))).metrics[name]
    require(
        abs(other - expected) > 1e-6,
        "score",
        f"{name} is {other} after another prompt, too; it is to be read after the request's own",
    )
    suffixed = (
        await bench.get(replace(reading, ordinal=133, suffix=" The final answer is"))
    ).metrics[name]
    require(
        abs(suffixed - expected) <= 0.01 * len(drawn.token_ids),
        "score",
        f"{name} is {suffixed} with a suffix, which it must not count",
    )
    bare = (await bench.get(replace(bench.request(134), metrics=(name,)))).metrics
    require(
        name not in bare,
        "score",
        f"{name} is {bare.get(name)} where nothing is inherited; leave it out",
    )


async def _check_stops(bench: _Bench) -> None:
    """Stop at a piece from the middle of a greedy reply: what is left is its beginning, in text and
    in token ids.
    """
    request = replace(bench.request(120), sampling=_GREEDY)
    whole = await bench.get(request)
    mark = whole.text[len(whole.text) // 2 :][:4]
    require(bool(mark), "stops", "the reply has no text; give a prompt with longer replies")
    cut = await bench.get(replace(request, ordinal=121, stop=("\x00 never", mark)))
    told = (cut.finish, cut.stop)
    require(
        told == (Finish.STOP, mark),
        "stops",
        f"{cut.text!r} says (finish, stop) = {told}; it was to stop at {mark!r} and to say so",
    )
    begins = whole.text.startswith(cut.text) and mark not in cut.text
    require(begins, "stops", f"{cut.text!r} is not what comes before {mark!r} in {whole.text!r}")
    ids = whole.token_ids[: len(cut.token_ids)] == cut.token_ids and len(cut.token_ids) < len(
        whole.token_ids
    )
    require(
        ids,
        "stops",
        f"token ids {cut.token_ids} of {whole.token_ids} do not leave the stop string out",
    )
    require(
        not whole.stop, "stops", f"a reply that no stop string ended says that {whole.stop!r} did"
    )
