"""What a job is expected to cost, before it runs or before the rest of it does.

Two ways. From bounds: the plan's strategy explores one problem on made-up replies, with attempts
that all agree, with the longest attempts of which no two agree, and in the shortest steps; no
engine is started. From measurement: the finished problems of the job, or of a pilot, are
extrapolated to the others. The one rule: every number says which of the two it is, and what is
unknown is None.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from orchestrator.core.errors import LeadlineError
from orchestrator.core.plan import Budget, Plan
from orchestrator.core.session import Effect, Session, Start, prepared_prompt
from orchestrator.core.values import (
    Answer,
    Delimiter,
    Finish,
    Problem,
    Prompt,
    Request,
    Result,
    Status,
    Trace,
    Usage,
    Verdict,
)
from orchestrator.core.votes import VOTING
from orchestrator.engines.reply import trace_for
from orchestrator.jobs.sessions import Explorer
from orchestrator.plan.execution import Execution, Prices, Spent

LEAST_MEASURED = 2  # finished problems: one has no spread
BYTES_PER_TOKEN = 4  # of English text, on the average of common tokenizers
_MOST_SHOWN = 1_000_000  # tokens of a reply that later prompts contain; no model reads more
_COVERAGE = 0.975  # of one end of a 95 % interval


@dataclass(frozen=True, slots=True)
class Expected:
    """A number of the whole rest of a job, between `low` and `high`; None is unknown."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


NOTHING = Expected(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Costs:
    """The expected costs of the `n_problems` that are not done.

    With `n_measured`, they are extrapolated from that many problems, with 95 % intervals. With 0
    they are bounds: of `requests` by agreement, of tokens and money the most; times are unknown.
    """

    n_problems: int
    n_measured: int
    requests: Expected = Expected()
    prompt_tokens: Expected = Expected()
    output_tokens: Expected = Expected()
    seconds: Expected = Expected()
    gpu_seconds: Expected = Expected()
    usd: Expected = Expected()
    notes: tuple[str, ...] = ()


# --- from bounds


def bounds(
    problems: Sequence[Problem], plan: Plan, execution: Execution, explorer: Explorer
) -> Costs:
    """Return the bounds on the cost of these problems; nothing is started.

    The problem with the median prompt stands for all: strategies do not depend on a problem's text.
    Prompts are measured in bytes, so their tokens are an estimate.
    """
    n = len(problems)
    if not problems:
        return Costs(0, 0, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
    by_length = sorted(problems, key=lambda p: n_bytes(prepared_prompt(p, plan)))
    median = by_length[n // 2]
    ends = [explored(median, plan, explorer, reply) for reply in _REPLIES]
    known = [spent for spent in ends if spent is not None]
    if not known:
        note = (
            "the strategy's bounds are unknown: it needs the replies of a model; --pilot measures"
        )
        return Costs(n, 0, notes=(note,))
    requests = sorted(spent.n_requests * n for spent in known)
    prompts = sorted(spent.total.prompt_tokens * n for spent in known)
    return Costs(
        n,
        0,
        Expected(None, requests[0], requests[-1]),
        Expected(None, prompts[0], prompts[-1]),
        Expected(None, None, max(spent.total.output_tokens for spent in known) * n),
        usd=Expected(None, None, _most_usd(known, n, execution.prices)),
        notes=tuple(_bound_notes(plan, known)),
    )


def _most_usd(known: Sequence[Spent], n: int, prices: Prices) -> float | None:
    """Return the most that n problems cost; None if not all their pools have prices."""
    if any(pool not in prices.pools for spent in known for pool in spent.usage):
        return None
    return n * max(prices.usd(spent) for spent in known)


def _bound_notes(plan: Plan, known: Sequence[Spent]) -> list[str]:
    notes = []
    if len(known) < len(_REPLIES):
        notes.append(
            "the strategy could not be explored with all kinds of replies; it may cost more"
        )
    if plan.verifiers:
        names = ", ".join(spec.name for spec in plan.verifiers)
        notes.append(f"requests that verifiers ({names}) make are not included; --pilot has them")
    return notes


def explored(
    problem: Problem,
    plan: Plan,
    explorer: Explorer,
    reply: Callable[[Request], Trace],
) -> Spent | None:
    """Return what the strategy spends on a problem with made-up replies; None where it fails."""
    plan = replace(plan, budget=Budget(plan.budget.traces, plan.budget.tokens))
    session = Session(problem, explorer.strategy, plan, explorer.metrics)
    try:
        queue: deque[Effect] = deque(session.start())
        while queue:
            effect = queue.popleft()
            request = effect.request
            if not isinstance(effect, Start) or request.ordinal not in session.running:
                continue
            trace = _verified(reply(request), request, plan)
            if session.is_cancelled(request.ordinal):  # at its last token, in the worst case
                trace = replace(trace, finish=Finish.CANCELLED, answer=None)
            queue += session.receive(trace)
    except (LeadlineError, KeyError):
        return None
    if session.error or session.running:
        return None
    usage: dict[str, Usage] = {}
    for trace in session.traces.values():
        usage[trace.model] = usage.get(trace.model, Usage()) + trace.usage
    return Spent(usage, n_requests=len(session.traces))


def _verified(trace: Trace, request: Request, plan: Plan) -> Trace:
    verdicts = tuple(Verdict(spec.name, 0.5) for spec in plan.verifiers)
    return replace(trace, verdicts=verdicts, metrics=dict.fromkeys(request.metrics, 0.0))


def _agreeing_reply(request: Request) -> Trace:
    return _reply(request, 1, Finish.STOP, "agreed")


def _longest_reply(request: Request) -> Trace:
    n_tokens = request.max_new_tokens or 1
    finish = Finish.LENGTH
    if request.checkpoint is not None and request.checkpoint < n_tokens:
        n_tokens, finish = request.checkpoint, Finish.RULE
    return _reply(request, n_tokens, finish, str(request.ordinal))


def _stepwise_reply(request: Request) -> Trace:
    """Return the shortest step where a request ends with its step, else the longest reply."""
    if any(isinstance(rule, Delimiter) for rule in request.rules):
        return _reply(request, 1, Finish.RULE, "")
    return _longest_reply(request)


_REPLIES = (_agreeing_reply, _longest_reply, _stepwise_reply)


def _reply(request: Request, n_tokens: int, finish: Finish, answer: str) -> Trace:
    n_prompt = math.ceil(n_bytes(request.prompt) / BYTES_PER_TOKEN)
    is_attempt = request.purpose in VOTING and finish is not Finish.RULE
    return replace(
        trace_for(request, finish),
        text=_text(min(n_tokens, _MOST_SHOWN)),
        token_ids=_ids(min(n_tokens, _MOST_SHOWN)),
        usage=Usage(n_prompt + len(request.prefix_ids), output_tokens=n_tokens),
        answer=Answer(answer, f"={answer}") if is_attempt else None,
    )


@lru_cache
def _ids(n_tokens: int) -> tuple[int, ...]:
    return (0,) * n_tokens


@lru_cache
def _text(n_tokens: int) -> str:
    return " " * BYTES_PER_TOKEN * n_tokens


def n_bytes(prompt: Prompt) -> int:
    """Return the length of a prompt in UTF-8."""
    texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


# --- from measurement


def extrapolated(
    results: Sequence[Result], n_problems: int, spent: Spent, execution: Execution
) -> Costs:
    """Return the cost of `n_problems` more from the results of at least `LEAST_MEASURED` problems.

    `spent` is what the job has spent on them. Time is between that of a full window at the pace of
    each request, and that of the pilot's own throughput.
    """
    done = [r for r in results if r.status is not Status.INVALID]
    usages = [sum(r.usage.values(), Usage()) for r in done]
    prices = [_usd_of(usage, spent, execution.prices) for usage in usages]
    seconds = _seconds(usages, n_problems, spent, execution)
    gpu_seconds = _times(seconds, spent.n_gpus) if spent.n_gpus else NOTHING
    usd = total(prices, n_problems) if execution.prices.pools else NOTHING
    by_time = _times(gpu_seconds, execution.prices.gpu_hour / 3600)
    return Costs(
        n_problems,
        len(done),
        total([float(r.n_traces) for r in done], n_problems),
        total([float(u.prompt_tokens) for u in usages], n_problems),
        total([float(u.output_tokens) for u in usages], n_problems),
        seconds,
        gpu_seconds,
        _sum(usd, by_time) if execution.prices else Expected(),
    )


def total(values: Sequence[float], n: int) -> Expected:
    """Return the total of n more values like these, with a 95 % prediction interval.

    By Student's t: of the mean of the k measured values, and of the spread of n more.
    """
    k = len(values)
    mean = sum(values) / k
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (k - 1))
    if not spread:
        return Expected(n * mean, n * mean, n * mean)
    from scipy import stats  # the import takes a second, and only a dry run needs it here

    half = float(stats.t.ppf(_COVERAGE, k - 1)) * spread * math.sqrt(n * n / k + n)
    return Expected(n * mean, max(0.0, n * mean - half), n * mean + half)


def _usd_of(usage: Usage, spent: Spent, prices: Prices) -> float:
    """Return the price of a problem's tokens; with several pools, at the mean price of a token."""
    if len(spent.usage) == 1:
        return prices.of(next(iter(spent.usage))).usd(usage)
    all_tokens = spent.total.output_tokens
    of_tokens = replace(prices, gpu_hour=0.0).usd(spent)
    return of_tokens * usage.output_tokens / all_tokens if all_tokens else 0.0


def _seconds(
    usages: Sequence[Usage], n_problems: int, spent: Spent, execution: Execution
) -> Expected:
    if not spent.seconds:
        return Expected()
    in_flight = sum(usage.seconds for usage in usages) / len(usages) / execution.window
    one_by_one = spent.seconds / len(usages)
    low, high = sorted((in_flight * n_problems, one_by_one * n_problems))
    return Expected(None, low, high)


def _times(expected: Expected, factor: float) -> Expected:
    ends = (expected.value, expected.low, expected.high)
    return Expected(*(None if end is None else factor * end for end in ends))


def _sum(a: Expected, b: Expected) -> Expected:
    """Return the sum; unknown where one of them is."""
    pairs = ((a.value, b.value), (a.low, b.low), (a.high, b.high))
    return Expected(*(None if None in pair else sum(pair) for pair in pairs))  # type: ignore[arg-type]  # no None is left
