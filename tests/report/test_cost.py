"""What a job is expected to cost: bounds by made-up replies, and extrapolation."""

from __future__ import annotations

import math

import pytest

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import PluginSpec, Problem, Result, Sampling, Status, Usage
from orchestrator.jobs.sessions import load_explorer
from orchestrator.plan.execution import Execution, Prices, Spent, TokenPrices
from orchestrator.report.cost import Costs, Expected, bounds, extrapolated, total

PRICED = Execution(prices=Prices(pools={"main": TokenPrices(input=1.0, output=10.0)}))
PROBLEMS = [Problem(f"q{i}", "word" * 5) for i in range(10)]  # 20 bytes: about 5 tokens


def of(strategy: str, budget: Budget = Budget(), **options: object) -> Costs:
    plan = Plan(
        strategy=PluginSpec(strategy, options),
        sampling=Sampling(max_new_tokens=100),
        budget=budget,
    )
    return bounds(PROBLEMS, plan, PRICED, load_explorer(plan))


def test_bounds_of_a_fixed_width_are_exact() -> None:
    """10 problems, 4 attempts each, at most 100 tokens an attempt."""
    costs = of("consistency", n=4)
    assert costs.requests == Expected(None, 40.0, 40.0)
    assert costs.prompt_tokens == Expected(None, 200.0, 200.0)
    assert costs.output_tokens.high == 4000.0
    assert costs.usd.high == pytest.approx(200 * 1e-6 + 4000 * 10e-6)
    assert costs.seconds == Expected()


def test_bounds_of_an_adaptive_strategy_depend_on_agreement() -> None:
    costs = of("adaptive", n=16, wave=4)
    assert (costs.requests.low, costs.requests.high) == (40.0, 160.0)


def test_a_budget_of_a_problem_bounds_the_cost() -> None:
    assert of("consistency", Budget(traces=3), n=16).requests.high == 30.0


def test_cancelled_attempts_may_have_come_to_their_last_token() -> None:
    """Three of eight vote; the other five are cancelled when the third ends, in the worst case."""
    assert of("short-m@k", m=3, k=8).output_tokens.high == 10 * 8 * 100


def test_replies_without_a_practical_limit_are_priced_in_little_memory() -> None:
    """Each of two attempts, the second of which sees the first, may have 2^40 tokens."""
    plan = Plan(
        strategy=PluginSpec("revise", {"chains": 1, "revisions": 1}),
        sampling=Sampling(max_new_tokens=2**40),
    )
    costs = bounds(PROBLEMS[:1], plan, PRICED, load_explorer(plan))
    assert costs.output_tokens.high == 2 * 2.0**40


def test_money_is_unknown_without_a_price_of_every_pool() -> None:
    plan = Plan()
    assert bounds(PROBLEMS, plan, Execution(), load_explorer(plan)).usd.high is None


def test_nothing_remains_and_costs_nothing() -> None:
    plan = Plan()
    assert bounds([], plan, PRICED, load_explorer(plan)).usd == Expected(0.0, 0.0, 0.0)


def result(n_tokens: int, n_traces: int = 4) -> Result:
    usage = {"solve": Usage(10, 0, n_tokens, seconds=2.0)}
    return Result("q", Status.ANSWERED, usage=usage, n_traces=n_traces)


def test_a_total_has_the_prediction_interval_of_student() -> None:
    """90, 110: mean 100, s = 14.14, t(0.975; 1) = 12.706; of 50 more: s sqrt(50^2 / 2 + 50)."""
    expected = total([90.0, 110.0], 50)
    half = 12.706 * math.sqrt(200) * math.sqrt(50 * 50 / 2 + 50)
    assert expected.value == 5000.0
    assert expected.high == pytest.approx(5000 + half, rel=1e-4)
    assert expected.low == max(0.0, 5000 - half)
    assert total([5.0, 5.0], 3) == Expected(15.0, 15.0, 15.0)


def test_finished_problems_are_extrapolated() -> None:
    spent = Spent({"main": Usage(20, 0, 200, seconds=4.0)}, 8, seconds=1.0)
    costs = extrapolated([result(100), result(100)], 10, spent, PRICED)
    assert costs.n_measured == 2
    assert costs.requests.value == 40.0
    assert costs.output_tokens.value == 1000.0
    assert costs.usd.value == pytest.approx(10 * (10 * 1e-6 + 100 * 10e-6))
    # 2 s of requests a problem, 64 at a time; the job itself took half a second a problem
    assert costs.seconds.low == pytest.approx(10 * 2 / 64)
    assert costs.seconds.high == pytest.approx(5.0)


def test_gpu_hours_cost_what_the_time_does() -> None:
    spent = Spent({"main": Usage(20, 0, 200, seconds=4.0)}, 8, 1.0, gpu_seconds=2.0, n_gpus=2.0)
    costs = extrapolated([result(100)] * 2, 10, spent, Execution(prices=Prices(gpu_hour=36.0)))
    assert costs.gpu_seconds.high == pytest.approx(10.0)
    assert costs.usd.high == pytest.approx(0.1)
