"""From a result to the protocol's replies: choices, usage, and the object `leadline`.

The one rule: `usage` counts everything that was spent, and `leadline` says on what. Attempts and
their parts are those of a batch's output (`orchestrator.jobs.openai_batch`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.core.values import Finish, Result, Status, Trace, Usage
from orchestrator.core.votes import pruned
from orchestrator.jobs.openai_batch import best_attempts, choice_of, usage_counts
from orchestrator.plan.execution import Prices
from orchestrator.serve.protocol.faults import Fault, broken, invalid
from orchestrator.serve.protocol.questions import Question

JSON = dict[str, Any]
# how engines say that a prompt, or what is to follow it, does not fit: ours, vLLM's, and OpenAI's
_TOO_LONG = re.compile(r"context (of model pool|length|window)|context_length_exceeded", re.I)
# how ours and vLLM's say that the model takes no messages
_NO_TEMPLATE = re.compile(r"(has no|must provide a) chat template")


@dataclass(frozen=True, slots=True)
class Answered:
    """A request with its result, its traces and its choices; `created` is a Unix time."""

    question: Question
    result: Result
    traces: Sequence[Trace]
    choices: Sequence[JSON]
    created: int
    prices: Prices

    @property
    def id(self) -> str:
        """The id of the request."""
        return self.question.problem.id

    @property
    def usage(self) -> JSON:
        """Everything that was spent, under the names of the protocol."""
        return usage_counts(self.result)

    def extension(self) -> JSON:
        """Return the object `leadline`."""
        result, question = self.result, self.question
        n_votes = sum(cluster.count for cluster in result.clusters)
        return {
            "answer": None if result.answer is None else result.answer.text,
            "share": result.clusters[0].count / n_votes if n_votes else None,
            "status": result.status.value,
            "tied": result.tied,
            "votes": [
                {"answer": c.answer.text, "count": c.count, "weight": c.weight}
                for c in result.clusters
            ],
            "strategy": question.strategy,
            "reason": _reason(result),
            "stopped_by": result.stopped_by or None,
            "n_attempts": result.n_attempts,
            "n_planned": result.n_planned,
            "attempts": {state.replace(" ", "_"): n for state, n in result.attempts.items()},
            "cost": self._cost(),
            "seconds": round(result.seconds, 6),
            "ignored": list(question.ignored),
        }

    def _cost(self) -> JSON:
        """Return the cost by purpose, in US dollars too where the plan has prices."""
        cost: JSON = {account: asdict(usage) for account, usage in self.result.usage.items()}
        if self.prices.pools:
            usd = defaultdict[str, float](float)
            for trace in self.traces:
                price = self.prices.of(trace.model)
                usd[trace.account] += price.usd(trace.usage)
                if trace.verification_usage != Usage():
                    usd["verify"] += price.usd(trace.verification_usage)
            for account in cost:
                cost[account]["usd"] = round(usd[account], 9)
        return cost


def answered(
    question: Question, result: Result, traces: Sequence[Trace], created: int, prices: Prices
) -> Answered:
    """Return a request with its choices; Fault if it has failed."""
    if result.status in (Status.FAILED, Status.INVALID):
        raise failure(result, traces)
    attempts = best_attempts(pruned(traces, result.dropped), result, question.n_choices)
    choices = [
        {"index": index, **choice_of(attempt, question.is_chat)}
        for index, attempt in enumerate(attempts or [_no_attempt(result)])
    ]
    return Answered(question, result, traces, choices, created, prices)


def failure(result: Result, traces: Sequence[Trace]) -> Fault:
    """Return the fault of a problem that failed; named is what is wrong with its prompt."""
    errors = [trace.error for trace in traces if trace.error]
    too_long = next((error for error in errors if _TOO_LONG.search(error)), "")
    if too_long:
        return invalid(_shortened(too_long), "messages", "context_length_exceeded")
    if any(map(_NO_TEMPLATE.search, errors)):
        message = "the model has no chat template: send a plain prompt to /v1/completions"
        return invalid(message, "messages", "no_chat_template")
    return broken(result.error or "; ".join(errors[:1]), 502 if errors else 500)


def completion(reply: Answered) -> JSON:
    """Return the reply of /v1/chat/completions or of /v1/completions."""
    return {
        "id": reply.id,
        "object": "chat.completion" if reply.question.is_chat else "text_completion",
        "created": reply.created,
        "model": reply.question.model,
        "choices": list(reply.choices),
        "usage": reply.usage,
        "leadline": reply.extension(),
    }


def _reason(result: Result) -> str:
    """Return why exploration ended when it did."""
    of = "" if result.n_planned is None else f" of {result.n_planned}"
    n = f"{result.n_attempts}{of} attempts"
    if result.stopped_by == "shutdown":
        return f"the service shut down after {n}"
    if result.stopped_by:
        return f"the budget of {result.stopped_by} ended it after {n}"
    if result.n_planned is not None and (result.n_attempts or 0) < result.n_planned:
        return f"the strategy stopped early, after {n}"
    return f"the strategy came to its end after {n}"


def _no_attempt(result: Result) -> Trace:
    """Return what stands for the attempt of a problem that has none."""
    return Trace(0, finish=Finish.LENGTH if result.stopped_by else Finish.STOP)


def _shortened(error: str) -> str:
    """Return an engine's message about a prompt without what names things of the service."""
    return error.partition(": shorten")[0].removeprefix("vLLM refused the request: ")[:500]
