"""Results: status, accounts and the price of full sampling, from a finished pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.outcome import conclude, mean_tokens, usage_by_account
from orchestrator.core.types import Cluster, Finish, Problem, Purpose, Status, Trace
from orchestrator.core.votes import tally, voters
from orchestrator.testing import PROBLEM, pool, trace


def majority(traces: Sequence[Trace]) -> list[Cluster]:
    return tally(voters(traces))


def test_a_vote_is_an_answer() -> None:
    """The leader of the clusters is the answer; counts come from the pool."""
    traces = [*pool("A B A !"), trace(4, None, finish=Finish.CANCELLED)]
    result = conclude(replace(PROBLEM, tags='{"k": 1}'), traces, majority, n_full=8, stopped_by="tokens", seconds=2.5, fingerprint="f")
    assert (result.status, result.answer and result.answer.key) == (Status.ANSWERED, "A")
    assert (result.n_traces, result.n_failed, result.n_cancelled) == (5, 1, 1)
    assert (result.stopped_by, result.seconds, result.fingerprint, result.tags) == ("tokens", 2.5, "f", '{"k": 1}')
    assert result.full_tokens == 80.0, "8 attempts at the mean of 10 tokens"
    assert not result.tied


def test_nobody_said_anything() -> None:
    """Abstaining is an outcome, not an error; so is an empty pool."""
    for traces in ([], pool("- -"), pool("- !")):
        result = conclude(PROBLEM, traces, majority)
        assert (result.status, result.answer, result.error) == (Status.ABSTAINED, None, "")


def test_every_trace_failed() -> None:
    """Then the problem failed, and says with what."""
    result = conclude(PROBLEM, pool("! !"), majority)
    assert result.status is Status.FAILED
    assert "every trace failed" in result.error
    assert "failed on purpose" in result.error


def test_a_strategys_error_outweighs_its_votes() -> None:
    """A half-done exploration has no answer to show, though its clusters are kept."""
    result = conclude(PROBLEM, pool("A A"), majority, error="boom")
    assert (result.status, result.answer, result.error) == (Status.FAILED, None, "boom")
    assert result.clusters


def test_a_tie_is_reported() -> None:
    """The leader won by the rule alone."""
    assert conclude(PROBLEM, pool("A B"), majority).tied


def _raise(traces: Sequence[Trace]) -> list[Cluster]:
    raise RuntimeError("two\nlines")


@pytest.mark.parametrize("nonsense", [_raise, lambda traces: None, lambda traces: ["A"], lambda traces: 5])
def test_a_selector_that_breaks_fails_its_problem_alone(nonsense: Any) -> None:
    """A plugin may raise or return anything: one row says so, on one line, and the job goes on."""
    result = conclude(PROBLEM, pool("A"), nonsense)
    assert result.status is Status.FAILED
    assert result.error
    assert "\n" not in result.error


def test_tokens_are_charged_to_purposes() -> None:
    """A cancelled attempt is charged to pruning; a cancelled probe stays a probe."""
    traces = [
        trace(0, "A", tokens=5),
        trace(1, None, tokens=7, finish=Finish.CANCELLED),
        trace(2, None, tokens=2, purpose=Purpose.PROBE, finish=Finish.CANCELLED),
        trace(3, "A", tokens=11),
    ]
    usage = usage_by_account(traces)
    assert {account: u.output_tokens for account, u in usage.items()} == {"solve": 16, "pruned": 7, "probe": 2}
    assert sum(u.output_tokens for u in usage.values()) == sum(t.usage.output_tokens for t in traces), "every token once"


def test_the_mean_is_over_whole_attempts() -> None:
    """A chain of continuations is one attempt; cancelled, failed and probing traces price nothing."""
    traces = [
        trace(0, None, tokens=4, finish=Finish.LENGTH),
        trace(1, "A", tokens=6, parent=0),
        trace(2, "A", tokens=20),
        trace(3, None, tokens=1, parent=2, purpose=Purpose.PROBE),
        trace(4, None, tokens=99, finish=Finish.CANCELLED),
        trace(5, tokens=99, finish=Finish.FAILED),
    ]
    assert mean_tokens(traces) == (10 + 20) / 2
    assert mean_tokens(traces[4:]) is None
    assert mean_tokens([]) is None


def test_an_unknown_price_is_none_not_zero() -> None:
    """Savings against an unknown cost are unknown."""
    assert conclude(Problem("p", "?"), pool("A"), majority).full_tokens is None
    assert conclude(Problem("p", "?"), pool("! !"), majority, n_full=4).full_tokens is None
