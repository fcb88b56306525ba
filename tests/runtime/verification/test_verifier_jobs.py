"""Whole jobs with verifiers that query models, on the fake engine.

Its pools and judges lean towards a known truth.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Budget, Model, Plan
from orchestrator.core.steps import Command, Reply
from orchestrator.core.values import (
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Result,
    Sampling,
    Trace,
    Usage,
    Verdict,
)
from orchestrator.engines.fake.engine import Fake, problem_number
from orchestrator.kit.model_verifier import ask_all, completed_only
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime.isolated_verifiers import IsolatedVerifiers
from orchestrator.runtime.verify import VerifierOutcome, VerifierRunner
from orchestrator.studies.evaluate import savings
from orchestrator.testing.scripted.pools import PROBLEM, trace

MODELS = {
    "main": Model("fake"),
    "judge": Model("fake"),
    "rm": Model("fake", task="classify"),
    "prm": Model("fake", task="token_classify"),
    "embedder": Model("fake", task="embed"),
}
VERIFIERS: Mapping[str, Mapping[str, object]] = {
    "reward": {"model": "rm"},
    "process-reward": {"model": "prm", "delimiter": " wait", "aggregate": "last"},
    "generative-reward": {"model": "judge", "k": 4, "meta": "rm"},
    "process-evaluator": {"model": "judge"},
    "llm-judge": {"model": "judge"},
}


def plan_with(name: str, options: Mapping[str, object], n: int = 4, **fields: Any) -> Plan:
    return Plan(
        models=MODELS,
        strategy=PluginSpec("consistency", {"n": n}),
        selector=PluginSpec("best", {"by": f"verdict:{name}"}),
        verifiers=(PluginSpec(name, options),),
        **fields,
    )


def fake(**options: object) -> Execution:
    return Execution(
        engine=PluginSpec("fake", {"answers": ["{hash}", "0"], "weights": [3.0, 7.0], **options})
    )


def problems(n: int) -> list[Problem]:
    return [Problem(f"v{i}", f"Question {i}?", "number") for i in range(n)]


def share_right(results: list[Result]) -> float:
    return sum(
        r.answer is not None and r.answer.text == problem_number(r.problem_id) for r in results
    ) / len(results)


@pytest.mark.parametrize("name", VERIFIERS)
def test_best_of_n_finds_what_a_verifier_without_error_knows(name: str) -> None:
    """A verifier without error finds a right attempt if there is one.

    Right with .3: one of 4 is with 1 - .7^4 = .7599; 80 problems: sd .0478; five of those, P(false
    alarm) < 1e-6. A random choice gets .3.
    """
    results = orchestrator.run(problems(80), plan_with(name, VERIFIERS[name], seed=2), fake())
    assert share_right(results) == pytest.approx(1 - 0.7**4, abs=0.24)
    assert all(not r.error and r.usage["verify"].prompt_tokens > 0 for r in results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reward", {"model": "rm"}),
        ("process-reward", VERIFIERS["process-reward"]),
        ("llm-judge", {}),
        ("generative-reward", {"k": 1}),
    ],
)
def test_best_of_n_with_one_look_that_errs_meets_its_closed_form(
    name: str, options: Mapping[str, object]
) -> None:
    """With p = .3 and error e = .25, a candidate is judged right with q = p(1-e) + (1-p)e = .4.

    The size of the score is independent of everything else.

    P(right) = (1 - .6^4) p(1-e)/q + .6^4 pe/(1-q) = .8704 x .5625 + .1296 x .125 = .5058. 300
    problems: sd .0289, five of those .144.
    """
    results = orchestrator.run(problems(300), plan_with(name, options), fake(judge_error=0.25))
    assert share_right(results) == pytest.approx(0.5058, abs=0.144)


def simulated(score: Callable[[bool, random.Random], float]) -> float:
    """Return how often the best of 4 is right with .3 each, by simulation.

    It has 20,000 problems (sd .0035); ties go to the first.
    """
    rng = random.Random(0)
    n_right = 0
    for _ in range(20_000):
        truths = [rng.random() < 0.3 for _ in range(4)]
        scores = [score(truth, rng) for truth in truths]
        n_right += truths[scores.index(max(scores))]
    return n_right / 20_000


def three_votes(truth: bool, rng: random.Random) -> float:
    """Return the mean of three scores, of which one in four errs.

    Each is 8 to 10 for a candidate judged right and 1 to 3 for one judged wrong.
    """
    return (
        sum(
            rng.randint(8, 10) if truth != (rng.random() < 0.25) else rng.randint(1, 3)
            for _ in range(3)
        )
        / 3
    )


def two_shares(truth: bool, rng: random.Random) -> float:
    """Return the mean of two probabilities, of the single step and of the whole.

    Each judgement errs one time in four.
    """

    def share() -> float:
        low, high = sorted((rng.random(), rng.random()))
        return (high if truth != (rng.random() < 0.25) else low) / (low + high)

    return (share() + share()) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "score"),
    [("generative-reward", {"k": 3}, three_votes), ("process-evaluator", {}, two_shares)],
)
def test_best_of_n_with_several_looks_that_err_meets_a_simulation(
    name: str, options: Mapping[str, object], score: Callable[[bool, random.Random], float]
) -> None:
    """With 300 problems the sd of a share is at most .029; five of those.

    Three votes are better than the one above (.51); a random choice gets .3.
    """
    results = orchestrator.run(problems(300), plan_with(name, options), fake(judge_error=0.25))
    assert share_right(results) == pytest.approx(simulated(score), abs=0.145)


def test_what_verifying_costs_is_on_its_account_and_in_no_saving(tmp_path: Path) -> None:
    """4 traces of 8 tokens with 4 critiques of 8 each: 32 tokens for solving, 128 for verifying.

    Full sampling would cost the same 160.
    """
    [result] = orchestrator.run(
        problems(1), plan_with("generative-reward", {"k": 4}), fake(), out=tmp_path
    )
    assert {account: u.output_tokens for account, u in result.usage.items()} == {
        "solve": 32,
        "verify": 128,
    }
    assert result.full_tokens == 160
    saved = savings([result])
    assert saved is not None
    assert saved.tokens.value == 0
    for kept in orchestrator.traces(tmp_path, "v0"):
        assert kept.usage.output_tokens == 8
        assert kept.verdicts[0].usage.output_tokens == 32
        assert kept.verification_usage == kept.verdicts[0].usage


def test_a_token_budget_counts_verdicts() -> None:
    """The second of 50 traces reaches a budget of 80; solving alone would need ten.

    Each trace costs 8 tokens and its four critiques 32.
    """
    plan = plan_with("generative-reward", {"k": 4}, n=50, budget=Budget(tokens=80))
    [result] = orchestrator.run(problems(1), plan, Execution(engine=fake().engine, window=1))
    assert result.stopped_by == "tokens"
    # three more were in flight; without a bound it is all fifty
    assert sum(u.output_tokens for u in result.usage.values()) <= 200


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_job_that_died_among_verdicts_goes_on_to_the_same_pool(name: str, tmp_path: Path) -> None:
    """A resumed job has the pool of an uninterrupted one.

    The engine dies after eleven requests, for solving and verifying.
    """
    plan = plan_with(name, VERIFIERS[name])

    def execution(crash_after: int = 0) -> Execution:
        return Execution(engine=fake(judge_error=0.3, crash_after=crash_after).engine, window=2)

    with pytest.raises(EngineError):
        orchestrator.run(problems(3), plan, execution(11), out=tmp_path / "cut")
    resumed = orchestrator.run(problems(3), plan, execution(), out=tmp_path / "cut")
    whole = orchestrator.run(problems(3), plan, execution(), out=tmp_path / "whole")
    assert [(r.answer, r.clusters, r.usage) for r in resumed] == [
        (r.answer, r.clusters, r.usage) for r in whole
    ]
    for problem in problems(3):
        assert orchestrator.traces(tmp_path / "cut", problem.id) == orchestrator.traces(
            tmp_path / "whole", problem.id
        )
        assert all(t.verdicts for t in orchestrator.traces(tmp_path / "whole", problem.id))


def test_a_search_by_steps_reads_the_reward_of_every_step(tmp_path: Path) -> None:
    """Beam search scores each step on the whole text so far.

    There are as many step scores as steps, and the answer is the verifier's choice.
    """
    strategy = PluginSpec(
        "beam", {"verifier": "process-reward", "n": 4, "width": 2, "steps": 3, "delimiter": " wait"}
    )
    spec = PluginSpec("process-reward", VERIFIERS["process-reward"])
    plan = Plan(
        models=MODELS,
        strategy=strategy,
        selector=PluginSpec("best", {"by": "verdict:process-reward"}),
        verifiers=(spec,),
    )
    [result] = orchestrator.run(problems(1), plan, fake(), out=tmp_path)
    pool = {t.ordinal: t for t in orchestrator.traces(tmp_path, "v0")}
    assert not result.error

    def whole(t: Trace) -> str:
        return (whole(pool[t.parent]) if t.parent is not None else "") + t.text

    for t in pool.values():
        assert len(t.verdicts[0].steps) == len(
            [s for s in whole(t).strip().split(" wait") if s.strip()]
        )
    assert any(t.parent is not None for t in pool.values())


def test_a_verdict_that_cannot_be_had_is_a_note_and_its_tokens_are_counted(tmp_path: Path) -> None:
    """A judge that never gives a score leaves no verdict, never a 0; its tokens are charged.

    Its replies are cut after one token.
    """
    plan = plan_with("generative-reward", {"k": 3, "max_new_tokens": 1}, n=2)
    [result] = orchestrator.run(problems(1), plan, fake(), out=tmp_path)
    for t in orchestrator.traces(tmp_path, "v0"):
        assert t.verdicts == ()
        assert "none of 3 samples stated a score" in t.note
        assert t.unjudged.output_tokens == 3
    assert result.usage["verify"].output_tokens == 6


@registry.verifier("two-in-a-row")
@dataclass(frozen=True, slots=True)
class TwoInARow:
    """Sends a request, waits, and sends another; its score is meaningless."""

    def ask(self, problem: Problem, trace: Trace) -> Generator[Command, Reply, Verdict]:
        for _ in range(2):
            completed_only(
                (yield from ask_all([Request(prompt="Well?", max_new_tokens=4)] * 3, trace))
            )
        return Verdict("two-in-a-row", 0.5)


def runner(engine: Any, n_requests: int) -> VerifierRunner:
    plan = Plan(verifiers=(PluginSpec("two-in-a-row"),))
    return VerifierRunner(plan, engine, IsolatedVerifiers(()), n_requests)


async def outcomes(engine: Any, n_requests: int, n_traces: int) -> list[VerifierOutcome]:
    verifiers = runner(engine, n_requests)
    traces = [trace(i, "1") for i in range(n_traces)]
    return list(await asyncio.gather(*(verifiers.run("two-in-a-row", PROBLEM, t) for t in traces)))


class Counting:
    """An engine that counts its running requests until they are aborted; `full` at two requests."""

    def __init__(self, hold: bool) -> None:
        self.full = asyncio.Event()
        self.running: dict[int, asyncio.Future[Finish]] = {}
        self.most = 0
        self.seen: list[tuple[int, int]] = []
        self.hold = hold

    async def generate(self, request: Request) -> Trace:
        assert request.ordinal not in self.running
        self.seen.append((request.ordinal, request.seed))
        finish = self.running[request.ordinal] = asyncio.get_running_loop().create_future()
        self.most = max(self.most, len(self.running))
        if len(self.running) == 2:
            self.full.set()
        try:
            ended = await finish if self.hold else (await asyncio.sleep(0), Finish.STOP)[1]
        finally:
            del self.running[request.ordinal]
        return Trace(
            request.ordinal,
            "so",
            (1,),
            ended,
            purpose=request.purpose,
            usage=Usage(output_tokens=1),
        )

    def abort(self, request: Request) -> None:
        self.running[request.ordinal].set_result(Finish.CANCELLED)


async def test_no_more_requests_are_in_flight_than_the_window_holds() -> None:
    """At most five requests run, all traces get their verdict, and no seed occurs twice.

    Ten traces have three concurrent requests each, and the window has five slots.
    """
    engine = Counting(hold=False)
    found = await outcomes(engine, 5, 10)
    assert engine.most == 5
    assert [o.verdict and o.verdict.usage.output_tokens for o in found] == [6] * 10
    assert len({seed for _, seed in engine.seen}) == 60


async def test_a_trace_that_is_given_up_is_asked_about_no_more() -> None:
    """The abort stops running and waiting requests, and none is sent afterwards.

    There are three requests and two slots.
    """
    engine = Counting(hold=True)
    verifiers = runner(engine, 2)
    task = asyncio.create_task(verifiers.run("two-in-a-row", PROBLEM, trace(7, "1")))
    await engine.full.wait()
    verifiers.abort(Request(problem_id=PROBLEM.id, ordinal=8))
    verifiers.abort(Request(problem_id=PROBLEM.id, ordinal=7))
    outcome = await task
    assert (outcome.verdict, outcome.note) == (None, "its trace was cancelled")
    assert outcome.usage.output_tokens == 2
    assert len(engine.seen) == 2
    verifiers.abort(Request(problem_id=PROBLEM.id, ordinal=7))


async def test_cancelling_a_run_leaves_no_request_behind() -> None:
    """An interrupted job cancels the task that annotates a trace, and its requests end with it."""
    engine = Counting(hold=True)
    task = asyncio.create_task(outcomes(engine, 2, 3))
    await engine.full.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.running == {}


async def test_a_job_stopped_by_its_time_does_not_wait_for_judges(tmp_path: Path) -> None:
    """When the problem's time is over, the judge's requests are stopped, and notes report it.

    Attempts take some milliseconds, the judge a quarter of an hour.
    """

    @registry.verifier("endless")
    @dataclass(frozen=True, slots=True)
    class Endless:
        def ask(self, problem: Problem, trace: Trace) -> Generator[Command, Reply, Verdict]:
            completed_only(
                (yield from ask_all([Request(prompt="Well?", max_new_tokens=10**6)], trace))
            )
            return Verdict("endless", 1.0)

    engine = PluginSpec("fake", {"n_tokens": 10**6, "seconds_per_token": 0.001})
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 2}),
        verifiers=(PluginSpec("endless"),),
        budget=Budget(seconds=2.0),
    )
    plan = replace(plan, sampling=Sampling(max_new_tokens=4))
    results = [
        r
        async for r in orchestrator.arun(problems(1), plan, Execution(engine=engine), out=tmp_path)
    ]
    assert results[0].stopped_by == "seconds"
    assert ["its trace was cancelled" in t.note for t in orchestrator.traces(tmp_path, "v0")] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("verifier", "reason"),
    [
        ({"name": "reward", "model": "rmm"}, r"names model 'rmm' \(did you mean 'rm'\?\)"),
        (
            {"name": "reward", "model": "judge"},
            (
                r"models\.judge\.task = '': verifier 'reward' needs values from this pool; "
                "set it to 'classify'"
            ),
        ),
        (
            {"name": "llm-judge", "model": "rm"},
            r"models\.rm\.task = 'classify': verifier 'llm-judge' needs text from this pool",
        ),
        ({"name": "process-reward", "model": "rm"}, r"set it to 'token_classify'"),
        ({"name": "generative-reward", "meta": "judge"}, r"needs values from this pool"),
        ({"name": "generative-reward", "kept": 2}, r"set a pool `meta`"),
    ],
)
def test_a_verifier_whose_pool_is_not_there_or_does_something_else_is_refused(
    verifier: dict[str, object], reason: str
) -> None:
    """It is refused before anything starts, or all verdicts of a long run would be missing."""
    spec = PluginSpec(str(verifier.pop("name")), verifier)
    with pytest.raises(PlanError, match=reason):
        orchestrator.run(problems(1), Plan(models=MODELS, verifiers=(spec,)), fake())


def test_a_task_is_refused_where_it_cannot_be() -> None:
    """A task is invalid on the first pool, with a layer schedule, and on some engines.

    The first pool answers; the task's name must be known; the engine must support pools with a
    task.
    """
    cases = {
        "first pool": ({"main": Model("fake", task="embed")}, fake()),
        "one of classify, token_classify, embed": (
            {"main": Model("fake"), "rm": Model("fake", task="score")},
            fake(),
        ),
        r"runs other layers than its own \(damped\)": (
            {"main": Model("fake"), "rm": Model("fake", task="embed", damped=True)},
            fake(),
        ),
        "engine 'openai' has no such pools": (
            {"main": Model("gpt"), "rm": Model("gpt", task="classify")},
            Execution(engine=PluginSpec("openai", {"base_url": "http://127.0.0.1:1/v1"})),
        ),
    }
    for reason, (models, execution) in cases.items():
        with pytest.raises(PlanError, match=reason):
            orchestrator.run(problems(1), Plan(models=models), execution)


def test_a_judge_of_embeddings_compares_prefixes_in_a_job(tmp_path: Path) -> None:
    """Each prefix is embedded in a separate request, charged to judging.

    The named pool must return embeddings.
    """
    judge = {"name": "sentence-embedding", "model": "embedder"}
    plan = Plan(
        models=MODELS,
        strategy=PluginSpec(
            "deepprune", {"judge": judge, "n": 4, "prefix_tokens": 4, "n_words": 0}
        ),
    )
    [result] = orchestrator.run(problems(1), plan, fake(), out=tmp_path)
    assert not result.error
    embedded = [t for t in orchestrator.traces(tmp_path, "v0") if t.purpose is Purpose.COMPARE]
    assert embedded
    assert all(len(t.values) == 32 and t.subjects for t in embedded)
    wrong = Plan(
        models=MODELS, strategy=PluginSpec("deepprune", {"judge": {**judge, "model": "rm"}})
    )
    reason = (
        r"models\.rm\.task = 'classify': strategy\.similarity of strategy 'deepprune' "
        "needs values from this pool; set it to 'embed'"
    )
    with pytest.raises(PlanError, match=reason):
        orchestrator.run(problems(1), wrong, fake())


async def test_a_fake_pool_reads_the_truth_off_the_text() -> None:
    """Values are above 0 for a right answer, below for a wrong one, near 0 for none.

    There is one value per tag.
    """
    async with Fake().open(MODELS) as engine:
        right = f"Well. The answer is {problem_number('q')}."

        async def values(text: str, **fields: Any) -> tuple[float, ...]:
            return (
                await engine.generate(
                    Request(prompt=text, problem_id="q", ordinal=0, seed=3, **fields)
                )
            ).values

        assert 1 <= (await values(right, model="rm"))[0] <= 3
        assert -3 <= (await values("The answer is x.", model="rm"))[0] <= -1
        assert -1 <= (await values("Well.", model="rm"))[0] <= 1
        steps = await values(f"Well.#{right}#", model="prm", read_at="#")
        assert len(steps) == 2
        assert -1 <= steps[0] <= 1 <= steps[1]
        assert sum(x * x for x in await values("a b a", model="embedder")) == pytest.approx(1)
