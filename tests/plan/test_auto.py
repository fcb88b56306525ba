"""`strategy = "auto"`: the choice by budget and by what a plan has, where it is recorded and said,
and the pilot that measures instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.core.plan import Budget, Model, Plan, fingerprint
from orchestrator.core.values import Capability, PluginSpec, Problem, Trace, Verdict
from orchestrator.engines.fake.engine import problem_number
from orchestrator.plan import auto, registry
from orchestrator.plan.auto import Situation, choose, situation
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import load_plan
from orchestrator.plan.spec_syntax import spelled
from orchestrator.studies.estimates import mean_estimate
from orchestrator.studies.replay import pilot
from orchestrator.studies.replay.experiment import ReplayRow, ReplaySetting

ALL = frozenset(Capability)
Run = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in a directory of its own, with 20 problems; an attempt is right with .4."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"q{i}", "prompt": f"What is {i}?", "answer": problem_number(f"q{i}")}
        for i in range(20)
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("plan.toml").write_text(
        'problems = "p.jsonl"\ndomain = "number"\nstrategy = "auto"\n'
        '[execution.engine]\nname = "fake"\n'
        "weights = [4.0, 3.0, 3.0]\n"
    )
    return lambda *arguments: CliRunner().invoke(leadline, list(arguments))


@registry.verifier("test-knows")
@dataclass(frozen=True, slots=True)
class Knows:
    """Scores what states the right answer with .9 and everything else with .1."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [
            Verdict(
                "test-knows", 0.9 if t.text.endswith(f" {problem_number(problem.id)}.") else 0.1
            )
            for t in traces
        ]


@registry.verifier("test-pooled")
@dataclass(frozen=True, slots=True)
class Pooled:
    """Has a pool of its own, as a judge model does."""

    model: str = "judge"

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [Verdict("test-pooled", 0.5) for _ in traces]


# --- the rules


@pytest.mark.parametrize(
    ("found", "strategy", "selector", "said"),
    [
        (Situation(), "adaptive n=16", "majority", "no budget: up to 16 attempts"),
        (
            Situation(budget=Budget(tokens=500)),
            "consistency n=1",
            "majority",
            "no two attempts of 512 tokens fit budget.tokens = 500",
        ),
        (
            Situation(budget=Budget(tokens=3000)),
            "consistency n=5",
            "majority",
            "5 attempts of 512 tokens fit budget.tokens = 3,000",
        ),
        (Situation(budget=Budget(tokens=10**6)), "adaptive n=40", "majority", "1953 attempts"),
        (
            Situation(budget=Budget(tokens=10**6, traces=9)),
            "adaptive n=9",
            "majority",
            "budget.traces = 9",
        ),
        (Situation(budget=Budget(seconds=30)), "consistency n=8", "majority", "all start at once"),
        (
            Situation(budget=Budget(seconds=30), max_new_tokens=8192, capabilities=ALL),
            "short-m@k m=5 k=8",
            "majority",
            "the first 5 of 8",
        ),
        (
            Situation(budget=Budget(traces=4), verifiers=("prm",)),
            "consistency n=4",
            "best-weighted by=verdict:prm",
            "the scores of 'prm'",
        ),
        (
            Situation(verifiers=("prm",)),
            "adaptive n=16",
            "best-weighted by=verdict:prm",
            "the scores of 'prm' weigh the votes",
        ),
        (
            Situation(max_new_tokens=8192, capabilities=ALL),
            "sounding n=16",
            "discounted slope=0.5",
            "a fifth of the tokens",
        ),
        (
            Situation(max_new_tokens=8192, capabilities=ALL, vote=PluginSpec("weighted")),
            "adaptive n=16",
            "weighted",
            "stops when the vote",
        ),
        (
            Situation(max_new_tokens=8192),
            "adaptive n=16",
            "majority",
            "stops when the vote is decided",
        ),
        (
            Situation(models=("s", "l")),
            """cascade models='["s", "l"]' inner='adaptive n=8'""",
            "final",
            "2 models",
        ),
        (
            Situation(models=("s", "l"), budget=Budget(traces=9)),
            """cascade models='["s", "l"]' n=4""",
            "final",
            "in the plan's order",
        ),
        (
            Situation(models=("s", "l"), budget=Budget(traces=7)),
            "consistency n=7",
            "majority",
            "too few",
        ),
        (
            Situation(models=("s", "l"), budget=Budget(seconds=9)),
            "consistency n=8",
            "majority",
            "all of 's' start at once",
        ),
        (
            Situation(models=("s", "l"), verifiers=("v",)),
            """cascade models='["s", "l"]' inner='adaptive n=8'""",
            "final vote='best-weighted by=verdict:v'",
            "2 models",
        ),
        (Situation(own_depth=8, capabilities=ALL), "adaptive n=16", "majority", "depth stays at 8"),
    ],
)
def test_the_choice_by_situation(found: Situation, strategy: str, selector: str, said: str) -> None:
    """One row per rule of docs/auto.md; what is chosen loads."""
    choice = choose(found)
    assert (spelled(choice.strategy), spelled(choice.selector)) == (strategy, selector)
    assert said in choice.why
    registry.load("strategies", choice.strategy)
    registry.load("selectors", choice.selector)


def test_a_situation_is_read_off_the_plan() -> None:
    """Pools of the same weights are one model, a verifier's pool does not answer, and the shipped
    looped model says its depth.
    """
    models = {
        "main": Model("sounder"),
        "wide": Model("sounder", max_depth=8),
        "judge": Model("j"),
        "large": Model("l"),
    }
    plan = Plan(models=models, verifiers=(PluginSpec("test-pooled"),), budget=Budget(tokens=9))
    found = situation(plan, Execution(engine=PluginSpec("fake")))
    assert (found.models, found.verifiers, found.budget, found.own_depth) == (
        ("main", "large"),
        ("test-pooled",),
        Budget(tokens=9),
        8,
    )
    assert Capability.CONTINUE in found.capabilities


# --- where the choice is made and kept
# -------------------------------------------------------------------------------------


def test_a_loaded_plan_holds_the_choice_the_vote_and_the_reason(tmp_path: Path) -> None:
    """Before anything starts, so that it is in the fingerprint; a selector that the user names
    stays.
    """
    file = tmp_path / "plan.toml"
    file.write_text(
        'strategy = "auto"\n[budget]\ntokens = 5120\n[execution.engine]\nname = "fake"\n'
    )
    plan = load_plan(file).plan
    assert plan.strategy.options["chosen"] == {"name": "adaptive", "n": 10}
    assert "10 attempts of 512 tokens fit" in str(plan.strategy.options["why"])
    assert load_plan(file, {"budget.tokens": "2048"}).plan.strategy.options["chosen"] == {
        "name": "consistency",
        "n": 4,
    }
    assert fingerprint(load_plan(file, {"budget.tokens": "2048"}).plan) != fingerprint(plan)
    named = load_plan(file, {"selector": "weighted"})
    assert (named.plan.selector.name, named.vote) == ("weighted", PluginSpec("weighted"))


def test_a_job_resumes_with_the_recorded_choice(cli: Run) -> None:
    """Whatever the rules say by now: the record names the strategy, and none is chosen again."""
    assert cli("run", "plan.toml", "--limit", "3", "--budget.traces", "9", "-q").exit_code == 0
    record = Path("runs/plan/plan.toml")
    assert 'name = "adaptive"\nn = 9' in record.read_text()
    assert load_plan(record).plan.strategy.options["chosen"] == {"name": "adaptive", "n": 9}
    again = cli("resume", "runs/plan")
    assert again.exit_code == 0, again.output
    assert "auto chose adaptive n=9, vote by majority: budget.traces = 9;" in again.stderr


def test_the_same_command_goes_on_with_the_choice_it_began_with(
    cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the rules, or their words, have changed since; another budget is another plan, and
    refused as ever.
    """
    assert cli("run", "plan.toml", "--limit", "3", "-q").exit_code == 0
    monkeypatch.setattr(auto, "N_DEFAULT", 5)
    again = cli("run", "plan.toml", "--limit", "3")
    assert again.exit_code == 0, again.output
    assert "auto chose adaptive n=16" in again.stderr
    refused = cli("run", "plan.toml", "--limit", "3", "--budget.traces", "4")
    assert refused.exit_code == 2
    assert "budget.traces: 0 -> 4" in refused.stderr
    assert (
        "auto chose consistency n=5"
        in cli("run", "plan.toml", "--limit", "1", "--out", "fresh").stderr
    )


def test_a_run_says_what_was_chosen_and_why(cli: Run) -> None:
    """On the way, in the closing table, and as JSON; and the title names the strategy itself."""
    ran = cli("run", "plan.toml", "--limit", "2")
    assert (
        "auto chose adaptive n=16, vote by majority: no budget: up to 16 attempts; sampling stops "
        "when" in ran.stderr
    )
    assert "auto: adaptive n=16" in ran.stderr
    assert "chose adaptive n=16" in " ".join(ran.stdout.split())
    assert json.loads(cli("run", "plan.toml", "--limit", "2", "--json").stdout)[
        "chosen"
    ].startswith("adaptive n=16, vote by majority: ")
    assert (
        "auto chose consistency n=2"
        in cli(
            "solve",
            "What?",
            "--execution.engine",
            "fake",
            "--strategy",
            "auto",
            "--budget.traces",
            "2",
        ).stderr
    )


def test_from_python_the_choice_is_made_and_recorded_too(tmp_path: Path) -> None:
    """`run` and `solve` resolve as a plan file does; the second run finds the same choice."""
    plan = Plan(strategy=PluginSpec("auto"), budget=Budget(traces=6))
    execution = Execution(engine=PluginSpec("fake"))
    problems = [Problem("a", "What?", "number")]
    for _ in range(2):
        [result] = orchestrator.run(problems, plan, execution, out=tmp_path)
        assert (result.n_traces, result.n_planned) == (6, 6)
    recorded = json.loads((tmp_path / "plan.json").read_text())["plan"]["strategy"]["options"]
    assert recorded["chosen"] == {"name": "consistency", "options": {"n": 6}} or recorded[
        "chosen"
    ] == {"name": "consistency", "n": 6}
    solution = orchestrator.solve(
        "What?", None, execution, strategy="auto", domain="number", budget=Budget(traces=2)
    )
    assert solution.result.n_traces == 2


def test_an_engine_that_does_not_load_is_said_as_for_any_plan(tmp_path: Path) -> None:
    """Not by the choice, which needs it, but with the key and the near match."""
    file = tmp_path / "plan.toml"
    file.write_text('strategy = "auto"\n[execution.engine]\nname = "fak"\n')
    with pytest.raises(
        orchestrator.PlanError, match=r"there is no engine 'fak' \(did you mean 'fake'\?\)"
    ):
        load_plan(file)


# --- leadline choose


def test_choose_says_it_without_an_engine(cli: Run) -> None:
    """For any plan, whatever its strategy; nothing is written."""
    shown = cli("choose", "plan.toml", "--budget.tokens", "8192")
    assert shown.exit_code == 0, shown.output
    assert "strategy  adaptive n=16" in shown.stdout
    assert "why       16 attempts of 512 tokens fit budget.tokens = 8,192" in shown.stdout
    assert json.loads(cli("choose", "--execution.engine", "fake", "--json").stdout)["strategy"] == {
        "name": "adaptive",
        "options": {"n": 16},
    }
    assert not Path("runs").exists()


def row(strategy: str, right: list[float], tokens: float) -> ReplayRow:
    setting = ReplaySetting(registry.one_spec("", strategy))
    units = {str(i): (r, tokens) for i, r in enumerate(right)}
    costs = mean_estimate([tokens] * len(right))
    return ReplayRow(
        "p", setting, mean_estimate(right), costs, 0.0, 1.0, 0.0, 0.0, 0.0, None, None, units
    )


def test_a_pilot_keeps_the_rules_choice_unless_another_is_certainly_better() -> None:
    """Ten problems. Better by .1 on one of them: no interval above 0.

    By .3 to .5 on each: certain, and the most accurate is taken.
    """
    rule, same = row("adaptive n=16", [0.5] * 10, 90), row("consistency n=1", [0.6, *[0.5] * 9], 10)
    more, most = (
        row("consistency n=4", [0.8, 0.9] * 5, 40),
        row("consistency n=8", [0.9, 1.0] * 5, 80),
    )
    assert pilot.picked([rule, same]) is rule
    assert pilot.picked([rule, same, more]) is more
    assert pilot.picked([rule, more, most]) is most
    kept, better = pilot.measured([rule, same], 0), pilot.measured([rule, same, more], 100)
    assert (spelled(kept.strategy), spelled(better.strategy), better.selector) == (
        "adaptive n=16",
        "consistency n=4",
        auto.MAJORITY,
    )
    assert "none of 1 other settings is certainly better than the rules' choice" in kept.why
    assert "measured on 10 problems: 85.0% (" in better.why
    assert "+35.0 (" in better.why
    assert (
        "points against the rules' adaptive n=16, each ended by budget.tokens = 100" in better.why
    )


def test_candidates_are_the_rules_choice_the_widths_that_fit_and_the_votes_the_plan_allows() -> (
    None
):
    """Doubling up to n; short ones where there are enough; a named vote is the only one; never what
    cannot be replayed.
    """
    found = [spelled(c.strategy) for c in pilot.candidates(Situation(), 10)]
    assert found == [
        "adaptive n=10",
        *(f"consistency n={n}" for n in (1, 2, 4, 8, 10)),
        "short-m@k m=5 k=8",
    ]
    assert [spelled(v) for v in pilot.votes(Situation(verifiers=("a", "b")))] == [
        "majority", "best-weighted by=verdict:a", "best-weighted by=verdict:b",
    ]  # fmt: skip
    assert pilot.votes(Situation(verifiers=("a",), vote=PluginSpec("final"))) == [
        PluginSpec("final")
    ]
    several = Situation(models=("s", "l"), verifiers=("v",), max_new_tokens=9000, capabilities=ALL)
    assert pilot.default(several, 4) == ReplaySetting(
        PluginSpec("consistency", {"n": 4}), PluginSpec("best-weighted", {"by": "verdict:v"})
    )
    assert pilot.default(Situation(max_new_tokens=9000, capabilities=ALL), 20) == ReplaySetting(
        PluginSpec("adaptive", {"n": 20})
    )


def test_a_pilot_samples_compares_and_writes_a_plan_that_runs(cli: Run) -> None:
    """With a verifier that knows: its vote is right wherever one attempt is, which the majority is
    not, and is found.
    """
    shown = cli(
        "choose", "plan.toml", "--pilot", "10", "--verifiers", "test-knows", "--budget.traces", "4"
    )
    assert shown.exit_code == 0, shown.output
    numbers = json.loads(Path("runs/plan-choose/pilot.json").read_text())
    assert numbers["chosen"]["selector"]["name"] == "best-weighted"
    at = {
        (spelled(PluginSpec(**s["strategy"])), s["selector"]["name"]): s["accuracy"]["value"]
        for s in numbers["settings"]
    }
    assert at["consistency n=4", "best-weighted"] > at["consistency n=4", "majority"] + 0.1
    assert "why       measured on 10 problems" in shown.stdout
    ran = cli("run", "runs/plan-choose/chosen.toml", "-q", "--json")
    assert ran.exit_code == 0, ran.output
    assert "measured on 10 problems" in json.loads(ran.stdout)["chosen"]
    again = cli(
        "choose",
        "plan.toml",
        "--pilot",
        "10",
        "--verifiers",
        "test-knows",
        "--budget.traces",
        "4",
        "--json",
    )
    assert json.loads(again.stdout) == numbers["chosen"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--pilot", "1"], ["1 is not in the range x>=2"]),
        (
            ["--pilot", "5", "--budget.tokens", "600"],
            ["the budget allows one attempt", "raise budget.tokens"],
        ),
        (
            ["--pilot", "5", "--problems", "bare.jsonl"],
            ["none of the first 5 rows of bare.jsonl has a reference answer"],
        ),
        (["--pilot", "5", "--out", "job"], ["job was started with another plan"]),
        (["--strategy", "adaptive"], ["No such option '--strategy'"]),
    ],
)
def test_what_cannot_be_chosen_on_is_refused(
    cli: Run, arguments: list[str], words: list[str]
) -> None:
    """Before anything starts, with a remedy."""
    Path("bare.jsonl").write_text('{"id": "q", "prompt": "What?"}\n')
    cli("run", "plan.toml", "--out", "job", "--limit", "1", "-q")
    refused = cli("choose", "plan.toml", *arguments)
    assert refused.exit_code == 2, refused.output
    for word in words:
        assert word in refused.stderr, refused.stderr


def test_without_problems_there_is_nothing_to_measure_on(cli: Run) -> None:
    """A choice by rule needs none, a pilot does."""
    assert (
        "name a plan with a `problems` key"
        in cli("choose", "--execution.engine", "fake", "--pilot", "4").stderr
    )
