"""A job that grows ends as a fresh job of the larger plan, and sends only the missing requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

import orchestrator
from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Budget, Model, Plan, fingerprint
from orchestrator.core.protocols import Engine
from orchestrator.core.values import (
    Capability,
    PluginSpec,
    Problem,
    Request,
    Result,
    Sampling,
    Status,
    Trace,
    Verdict,
)
from orchestrator.engines.fake.engine import Fake, problem_number
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived, Opened, Stopped, digest
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution, Supervision
from orchestrator.runtime.api import run_job

PROBLEMS = [Problem(f"p{i}", f"Question {i}?", "number") for i in range(4)]


@registry.verifier("test-right")
@dataclass(frozen=True, slots=True)
class Knows:
    """Scores traces with the fake engine's right answer with .9, others with .1."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        right = f" {problem_number(problem.id)}."
        return [Verdict("test-right", 0.9 if t.text.endswith(right) else 0.1) for t in traces]


@dataclass
class Counted:
    """A fake engine, and its factory, that counts the requests it is sent."""

    weights: tuple[float, ...] = ()
    failure_rate: float = 0.0
    dies_after: int = 0
    sent: Counter[tuple[str, int]] = field(default_factory=Counter)
    engine: Engine | None = None

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
        options = Fake(
            weights=self.weights,
            failure_rate=self.failure_rate,
            crash_after=self.dies_after,
            spread_tokens=4,
            judge_error=0.2,
        )
        async with options.open(models) as self.engine:
            yield self

    async def generate(self, request: Request) -> Trace:
        self.sent[request.identity] += 1
        assert self.engine is not None
        return await self.engine.generate(request)

    def abort(self, request: Request) -> None:
        assert self.engine is not None
        self.engine.abort(request)


@dataclass(frozen=True)
class Ran:
    """What a run left: results, traces in order of arrival, rows of results.jsonl, requests."""

    results: list[Result]
    traces: dict[str, list[Trace]]
    rows: list[dict[str, object]]
    sent: Counter[tuple[str, int]]


async def run(
    directory: Path,
    plan: Plan,
    problems: Sequence[Problem] = PROBLEMS,
    *,
    weights: tuple[float, ...] = (),
    engine: Counted | None = None,
    window: int = 64,
) -> Ran:
    engine = engine or Counted(weights)
    execution = Execution(window=window, supervision=Supervision(max_failed=1.0))
    with open_job(directory, plan, problems) as job:
        async for _ in run_job(job, plan, execution, factory=engine):
            pass
        results = [replace(result, seconds=0.0) for result in job.results()]
        traces = {p.id: list(job.journal.traces(p.id)) for p in problems}
    lines = (directory / "results.jsonl").read_text().splitlines()
    rows = [{**msgspec.json.decode(line), "seconds": 0.0} for line in lines]
    return Ran(results, traces, rows, engine.sent)


def plan_of(name: str, **options: object) -> Plan:
    case = CASES[name]
    options = {**case.options, **options}
    return Plan(
        models={"main": Model("fake"), "large": Model("fake")},
        strategy=PluginSpec(name, options),
        selector=PluginSpec(case.selector, case.vote),
        verifiers=(PluginSpec("test-right"),) if "verifier" in options else (),
    )


@dataclass(frozen=True)
class Case:
    """A strategy's options, those that change when it grows, and the selector of its plan."""

    options: Mapping[str, object]
    more: Mapping[str, object]
    selector: str = "majority"
    vote: Mapping[str, object] = field(default_factory=dict)


BY = {"by": "verdict:test-right"}
STEPS = {"verifier": "test-right", "n": 4, "width": 2, "steps": 3, "delimiter": " wait"}
CASES = {
    "ab-mcts": Case({"verifier": "test-right", "n": 5, "parallel": 2}, {"n": 9}, "best", BY),
    "ab-mcts-m": Case(
        {"verifier": "test-right", "n": 5, "parallel": 2, "models": ["main", "large"]},
        {"n": 9},
        "best",
        BY,
    ),
    "adaptive": Case({"n": 8}, {"n": 16}),
    "auto": Case({"chosen": "adaptive n=8"}, {"chosen": "adaptive n=16"}),
    "beam": Case(STEPS, {"n": 8}, "best", BY),
    "budget-forcing": Case({"n": 3, "end": " wait", "thinking": 6, "answer": 6}, {"n": 6}),
    "cascade": Case(
        {"models": ["main", "large"], "n": 2, "agreement": 1.0},
        {"models": ["main", "large", "main"]},
        "final",
    ),
    "compute-optimal": Case(
        {
            "first": 3,
            "verifier": "test-right",
            "medium": "consistency n=2",
            "hard": "refine inner='consistency n=2' rounds=1",
        },
        {"hard": "refine inner='consistency n=2' rounds=2"},
        "best-weighted",
        BY,
    ),
    "concise-hint": Case({"n": 2, "interval": 3, "growth": 0.0, "end": " wait"}, {"n": 4}),
    "consistency": Case({"n": 8}, {"n": 16}),
    "deepconf": Case(
        {"n": 7, "n_init": 4, "window_tokens": 6, "wave": 2},
        {"n": 14},
        "weighted",
        {"by": "lowest_confidence@6"},
    ),
    "deepen": Case(
        {"depths": [1, 2], "n": 8, "wave": 3, "confidence": 0.99}, {"n": 16}, "depth-weighted"
    ),
    "deepprune": Case(
        {
            "n": 4,
            "n_words": 2,
            "words": ["so"],
            "prefix_tokens": 3,
            "tau": 0.3,
            "similarity": "lexical",
        },
        {"n": 8},
    ),
    "dvts": Case(STEPS, {"n": 8}, "best-weighted", BY),
    "dynasor": Case({"n": 3, "stable": 2, "interval": 3, "probe_tokens": 3}, {"n": 6}),
    "early-answer": Case(
        {"n": 2, "warm_up": 0, "delimiter": " so", "variance": 1.0, "end": "</think>"}, {"n": 4}
    ),
    "ensemble": Case({"models": ["main", "large"], "n": 4}, {"n": 8}),
    "mind-evolution": Case(
        {"verifier": "test-right", "islands": 2, "conversations": 2, "turns": 2, "generations": 2},
        {"generations": 3},
        "best",
        BY,
    ),
    "mits": Case({"n": 2, "beam": 2, "steps": 3, "delimiter": " wait"}, {"n": 4}, "pmi"),
    "parallel-probe": Case(
        {"n": 3, "interval": 3, "stable": 2, "warm_up": 1, "patience": 1, "probe_tokens": 2},
        {"n": 6},
    ),
    "particles": Case(
        {"verifier": "test-right", "n": 3, "steps": 3, "delimiter": " wait"},
        {"n": 6},
        "best",
        BY,
    ),
    "refine": Case({"inner": "consistency n=3", "rounds": 1}, {"rounds": 2}, "final"),
    "revise": Case({"chains": 2, "revisions": 2}, {"revisions": 3}, "final"),
    "rsa": Case({"n": 3, "k": 2, "steps": 3}, {"steps": 4}, "final"),
    "scrutinize": Case(
        {"n": 3, "verdicts": 2, "preliminary": 1, "comparisons": 2}, {"n": 6}, "scrutinized"
    ),
    "short-m@k": Case({"m": 3, "k": 6}, {"k": 12}),
    "sounding": Case(
        {"n": 4, "width": 2, "interval": 4, "patience": 1, "probe_tokens": 2, "risk": 0.01},
        {"n": 8},
        "discounted",
    ),
    "speculative-thinking": Case(
        {"large": "large", "n": 2, "tokens": 40, "delimiter": " wait"}, {"n": 4}
    ),
    "staged": Case(
        {
            "stages": ["consistency n=2", "scrutinize n=2 verdicts=1 preliminary=0"],
            "agreement": 1.0,
        },
        {
            "stages": [
                "consistency n=2",
                "scrutinize n=2 verdicts=1 preliminary=0",
                "consistency n=4",
            ]
        },
        "scrutinized",
    ),
}
# an attempt more comes before the continuations, probes or verdicts of the others
REFUSED = {
    *("beam", "budget-forcing", "concise-hint", "deepprune", "dvts", "dynasor", "early-answer"),
    *("mits", "parallel-probe", "particles", "scrutinize", "sounding", "speculative-thinking"),
}


def assert_same(grown: Ran, fresh: Ran) -> None:
    assert grown.rows == fresh.rows
    assert grown.results == fresh.results
    assert grown.traces == fresh.traces


@pytest.mark.parametrize("name", CASES)
async def test_it_equals_a_fresh_job_or_is_refused(name: str, tmp_path: Path) -> None:
    """A strategy that would have sent other requests is refused, and its job is as before."""
    small, large = plan_of(name), plan_of(name, **CASES[name].more)
    first = await run(tmp_path / "grown", small)
    if name in REFUSED:
        with pytest.raises(PlanError, match=r"would lose finished traces, in 'p\d' first: trace"):
            await run(tmp_path / "grown", large)
        again = await run(tmp_path / "grown", small)
        assert_same(again, first)
        assert not again.sent
        return
    grown = await run(tmp_path / "grown", large)
    fresh = await run(tmp_path / "fresh", large)
    assert_same(grown, fresh)
    assert first.sent + grown.sent == fresh.sent


@pytest.mark.parametrize("name", CASES)
async def test_a_larger_budget_of_traces_is_used_by_every_strategy(
    name: str, tmp_path: Path
) -> None:
    """What a budget cut off continues where it ended."""
    plan = plan_of(name)
    first = await run(tmp_path / "grown", replace(plan, budget=Budget(traces=3)))
    grown = await run(tmp_path / "grown", plan)
    fresh = await run(tmp_path / "fresh", plan)
    assert_same(grown, fresh)
    assert first.sent + grown.sent == fresh.sent


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0, 1.0), pytest.param((7.0, 2.0, 1.0), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(PluginSpec("consistency"), marks=pytest.mark.slow),
        PluginSpec("adaptive"),
        pytest.param(PluginSpec("adaptive", {"rule": "window", "wave": 5}), marks=pytest.mark.slow),
        PluginSpec("adaptive", {"rule": "bayes", "wave": 2}),
    ],
    ids=["consistency", "beta", "window", "bayes"],
)
async def test_n_grows_step_by_step(
    strategy: PluginSpec, weights: tuple[float, ...], tmp_path: Path
) -> None:
    """8, 16, 32: no request is sent twice, and early decisions are those of a fresh job."""
    problems = [Problem(f"p{i}", f"Question {i}?", "number") for i in range(20)]

    def plan(n: int) -> Plan:
        return Plan(strategy=replace(strategy, options={**strategy.options, "n": n}))

    sent: Counter[tuple[str, int]] = Counter()
    for n in (8, 16, 32):
        grown = await run(tmp_path / "grown", plan(n), problems, weights=weights)
        sent += grown.sent
        assert_same(grown, await run(tmp_path / f"fresh-{n}", plan(n), problems, weights=weights))
    assert set(sent.values()) == {1}
    fresh = await run(tmp_path / "fresh", plan(32), problems, weights=weights)
    assert sent == fresh.sent


@pytest.mark.parametrize("n_tokens", [16, 40, 64])
async def test_a_larger_budget_of_tokens_continues(n_tokens: int, tmp_path: Path) -> None:
    plan = plan_of("adaptive", n=16)
    for tokens in (n_tokens, 0):
        grown = await run(tmp_path / "grown", replace(plan, budget=Budget(tokens=tokens)))
    assert_same(grown, await run(tmp_path / "fresh", plan))


async def test_a_smaller_budget_or_n_is_refused(tmp_path: Path) -> None:
    """Traces that were paid for would have to go; what would not have been cut is kept."""
    plan = plan_of("consistency")
    await run(tmp_path, plan)
    for smaller, reason in (
        (plan_of("consistency", n=4), "the new plan makes no request 4 for trace 4"),
        (replace(plan, budget=Budget(traces=5)), "makes no request 5 for trace 5"),
        (
            replace(plan, budget=Budget(tokens=20)),
            "the new plan would have stopped before trace 3 was finished",
        ),
    ):
        with pytest.raises(PlanError, match=reason):
            await run(tmp_path, smaller)
    roomy = replace(plan, budget=Budget(traces=8, tokens=1000))
    assert_same(await run(tmp_path, roomy), await run(tmp_path / "fresh", roomy))


async def test_a_time_budget_continues_where_it_ended(tmp_path: Path) -> None:
    """A stop after 5 seconds is lifted by a budget of 10, and stays under one of 5."""
    plan = replace(plan_of("consistency", n=4), budget=Budget(seconds=5.0))
    traces = (await run(tmp_path / "source", plan, PROBLEMS[:1])).traces["p0"]

    def begun(directory: Path) -> Path:
        with open_job(directory, plan, PROBLEMS[:1]) as job:
            events = [Arrived("p0", trace, 1.0 + trace.ordinal) for trace in traces[:2]]
            opened = Opened("p0", digest(PROBLEMS[0]), fingerprint(plan))
            job.journal.append([opened, *events, Stopped("p0", "seconds", 5.0)])
        return directory

    longer = replace(plan, budget=Budget(seconds=3600.0))
    grown = await run(begun(tmp_path / "longer"), longer, PROBLEMS[:1])
    assert [request for request, _ in grown.sent] == ["p0"] * 2
    assert grown.results[0].stopped_by == ""
    voted = replace(plan, selector=PluginSpec("final"))
    again = await run(begun(tmp_path / "same"), voted, PROBLEMS[:1])
    assert not again.sent
    assert again.results[0].stopped_by == "seconds"
    with pytest.raises(PlanError, match="would have stopped before trace 1 was finished"):
        await run(begun(tmp_path / "less"), replace(plan, budget=Budget(seconds=1.5)), PROBLEMS[:1])


async def test_another_selector_votes_without_an_engine(tmp_path: Path) -> None:
    """Everything it reads is in the journal."""
    plan = plan_of("revise")
    await run(tmp_path / "grown", plan)
    other = replace(plan, selector=PluginSpec("majority"))
    with open_job(tmp_path / "grown", other, PROBLEMS) as job:
        assert not job.remaining()
        assert job.growth is not None
        assert job.growth.changes == ("selector.name: 'final' -> 'majority'",)
    grown = await run(tmp_path / "grown", other)
    assert not grown.sent
    assert_same(grown, await run(tmp_path / "fresh", other))


async def test_a_selector_needs_the_metrics_that_were_recorded(tmp_path: Path) -> None:
    """More metrics than a selector reads do no harm, fewer are refused by name."""
    weighted = PluginSpec("weighted", {"by": "mean_confidence"})
    plan = replace(plan_of("consistency"), selector=weighted)
    first = await run(tmp_path / "rich", plan)
    plain = replace(plan, selector=PluginSpec("majority"))
    grown = await run(tmp_path / "rich", plain)
    fresh = await run(tmp_path / "poor", plain)
    assert (grown.results, grown.traces, grown.sent) == (fresh.results, first.traces, Counter())
    with pytest.raises(PlanError, match="trace 0 was recorded without mean_confidence, which"):
        await run(tmp_path / "poor", plan)


async def test_one_metric_brings_those_that_come_with_its_log_probabilities(tmp_path: Path) -> None:
    """So any vote by log-probabilities may be tried on a job that recorded one of them."""
    plan = replace(plan_of("consistency"), selector=PluginSpec("weighted"))
    await run(tmp_path / "grown", plan)
    filtered = replace(plan, selector=PluginSpec("filtered"))
    grown = await run(tmp_path / "grown", filtered)
    assert_same(grown, await run(tmp_path / "fresh", filtered))
    assert grown.sent == Counter()


async def test_traces_without_the_metrics_that_come_along_are_refused(tmp_path: Path) -> None:
    """Earlier versions recorded only what was asked for."""
    plan = replace(plan_of("consistency"), selector=PluginSpec("weighted"))
    await run(tmp_path, plan)
    with open_job(tmp_path, plan, PROBLEMS) as job:
        events = list(job.journal.events("p0"))
        assert isinstance(events[0], Arrived)
        bare = replace(events[0].trace, metrics={"mean_confidence": 5.0})
        former = [replace(events[0], trace=bare), *events[1:]]
        job.journal.append(former, replacing=["p0"])
    with pytest.raises(PlanError, match="0 was recorded without bottom10_confidence, which"):
        await run(tmp_path, replace(plan, selector=PluginSpec("filtered")))


async def test_a_model_may_come_to_the_first_one(tmp_path: Path) -> None:
    """A cascade continues from the attempts of its first model alone."""
    alone = Plan(models={"main": Model("fake")}, strategy=PluginSpec("consistency", {"n": 2}))
    first = await run(tmp_path / "grown", alone)
    cascade = plan_of("cascade")
    grown = await run(tmp_path / "grown", cascade)
    fresh = await run(tmp_path / "fresh", cascade)
    assert_same(grown, fresh)
    assert first.sent + grown.sent == fresh.sent


FIXED: dict[str, tuple[dict[str, object], str]] = {
    "models.main.path: 'fake' -> 'other'": (
        {"models": {"main": Model("other"), "large": Model("fake")}},
        "another model writes other texts",
    ),
    "default_model: 'main' -> 'large'": (
        {"models": {"large": Model("fake"), "main": Model("fake")}},
        "the other pool writes other texts",
    ),
    "sampling.temperature: 0.7 -> 0.9": (
        {"sampling": Sampling(temperature=0.9)},
        "every text depends on it",
    ),
    "sampling.template: '{prompt}' -> 'Q: {prompt}'": (
        {"sampling": Sampling(template="Q: {prompt}")},
        "every text depends on it",
    ),
    "seed: 0 -> 1": ({"seed": 1}, "every text depends on it"),
    "domain: 'math' -> 'text'": ({"domain": "text"}, "answers were read by it"),
    "domains.number: None -> ": (
        {"domains": {"number": PluginSpec("number")}},
        "answers were read by it",
    ),
    "answers_in_thinking: None -> True": ({"answers_in_thinking": True}, "answers were read by it"),
    "verifiers: [] -> ": (
        {"verifiers": (PluginSpec("test-right"),)},
        "traces were verified when they arrived",
    ),
}


@pytest.mark.parametrize("key", FIXED)
async def test_what_traces_depend_on_is_refused_with_the_reason(key: str, tmp_path: Path) -> None:
    """Also where n grows at the same time; the job is not touched."""
    changes, reason = FIXED[key]
    first = await run(tmp_path, plan_of("consistency"))
    with pytest.raises(PlanError) as refused:
        await run(tmp_path, replace(plan_of("consistency", n=16), **changes))  # type: ignore[arg-type]  # by name
    [line] = [line for line in str(refused.value).splitlines() if key in line]
    assert line.endswith(f"({reason})")
    assert "`leadline run --fresh`" in str(refused.value)
    assert_same(await run(tmp_path, plan_of("consistency")), first)


async def test_a_job_without_a_trace_does_not_own_its_directory(tmp_path: Path) -> None:
    """A server that was never reached leaves a directory, and nothing to lose."""
    with open_job(tmp_path, plan_of("consistency"), PROBLEMS) as job:
        job.journal.append([Opened("p0", "another text", fingerprint(plan_of("consistency")))])
    other = replace(plan_of("adaptive"), seed=7)
    ran = await run(tmp_path, other)
    assert_same(ran, await run(tmp_path / "fresh", other))
    assert msgspec.json.decode((tmp_path / "plan.json").read_bytes())["plan"]["seed"] == 7


async def test_more_problems_in_another_order_send_only_their_own_requests(tmp_path: Path) -> None:
    """At the same time as a larger n."""
    first = await run(tmp_path / "grown", plan_of("consistency"), PROBLEMS[:2])
    turned = PROBLEMS[::-1]
    grown = await run(tmp_path / "grown", plan_of("consistency", n=12), turned)
    fresh = await run(tmp_path / "fresh", plan_of("consistency", n=12), turned)
    assert_same(grown, fresh)
    assert first.sent + grown.sent == fresh.sent


async def test_problems_that_were_away_while_the_job_grew_grow_when_they_are_back(
    tmp_path: Path,
) -> None:
    """Each from the plan that it was begun with: their traces are kept meanwhile."""
    first = await run(tmp_path / "grown", plan_of("consistency"))
    second = await run(tmp_path / "grown", plan_of("consistency", n=12), PROBLEMS[:1])
    assert [row["id"] for row in second.rows] == ["p0"]
    grown = await run(tmp_path / "grown", plan_of("consistency", n=16))
    fresh = await run(tmp_path / "fresh", plan_of("consistency", n=16))
    assert_same(grown, fresh)
    assert first.sent + second.sent + grown.sent == fresh.sent


async def test_a_job_that_dies_while_it_grows_keeps_its_results_and_continues(
    tmp_path: Path,
) -> None:
    """A result of before stays until there is the new one; only what was in flight is sent again.

    The engine dies with its 14th request, when at most one problem of four has its new traces.
    """
    first = await run(tmp_path / "grown", plan_of("consistency"))
    large = plan_of("consistency", n=16)
    dying = Counted(dies_after=13)
    with pytest.raises(EngineError):
        await run(tmp_path / "grown", large, engine=dying, window=1)
    lines = (tmp_path / "grown" / "results.jsonl").read_text().splitlines()
    planned = Counter(msgspec.json.decode(line)["n_planned"] for line in lines)
    assert planned.total() == 4
    assert planned[8] >= 3
    grown = await run(tmp_path / "grown", large)
    fresh = await run(tmp_path / "fresh", large)
    assert_same(grown, fresh)
    assert (first.sent + dying.sent + grown.sent).total() == fresh.sent.total() + 1


@pytest.mark.parametrize("dies_after", [1, 5, 12])
async def test_a_job_may_die_while_its_last_traces_arrive_again(
    dies_after: int, tmp_path: Path
) -> None:
    """They are in the journal once, and end the exploration with or without the new requests."""
    first = await run(tmp_path, plan_of("short-m@k"))
    larger = plan_of("short-m@k", k=12)
    with pytest.raises(EngineError):
        await run(tmp_path, larger, engine=Counted(dies_after=dies_after))
    grown = await run(tmp_path, larger)
    for problem in PROBLEMS:
        ordinals = [trace.ordinal for trace in grown.traces[problem.id]]
        assert sorted(ordinals) == list(range(12))
        assert grown.traces[problem.id][:6] == first.traces[problem.id]
    assert all(result.answer and result.n_traces == 12 for result in grown.results)


async def test_a_problem_that_failed_grows_and_is_tried_again(tmp_path: Path) -> None:
    plan = plan_of("consistency", n=2)
    failed = await run(tmp_path / "grown", plan, engine=Counted(failure_rate=1.0))
    assert {r.status for r in failed.results} == {Status.FAILED}
    larger = plan_of("consistency", n=4)
    assert_same(await run(tmp_path / "grown", larger), await run(tmp_path / "fresh", larger))


def test_python_grows_a_job_too(tmp_path: Path) -> None:
    execution = Execution(PluginSpec("fake"))
    for n in (4, 8):
        results = orchestrator.run(
            PROBLEMS, plan_of("consistency", n=n), execution, out=tmp_path / "job"
        )
        assert [result.n_traces for result in results] == [n] * 4
    with pytest.raises(PlanError, match=r"seed: 0 -> 5 \(every text depends on it\)"):
        orchestrator.run(
            PROBLEMS, replace(plan_of("consistency", n=8), seed=5), execution, out=tmp_path / "job"
        )
