"""Every strategy, small enough for thousands of jobs, and plans drawn from them by a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.plan import Budget, Model, Plan, Settings
from orchestrator.core.values import PluginSpec, Problem, Sampling, Trace, Verdict
from orchestrator.engines.fake.engine import Fake
from orchestrator.plan import registry

MODELS = {
    "main": Model("fake"),
    "large": Model("fake"),
    "rm": Model("fake", task="classify"),
    "prm": Model("fake", task="token_classify"),
}
# replies of 3 to 15 tokens, with one right answer, which has the number of its problem in it
ENGINE = Fake(answers=("{hash}", "{hash}", "5000"), n_tokens=3, spread_tokens=12, judge_error=0.2)
DOMAIN = "number"


def engine(seconds_per_token: float) -> Fake:
    """Return the engine at another pace, with the same replies."""
    return replace(ENGINE, seconds_per_token=seconds_per_token)


@registry.verifier("chaos-vowels")
@dataclass(frozen=True, slots=True)
class ChaosVowels:
    """Scores a text by its share of vowels; never fails."""

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        return [
            Verdict("chaos-vowels", sum(c in "aeiou" for c in t.text) / max(1, len(t.text)))
            for t in traces
        ]


@dataclass(frozen=True, slots=True)
class Case:
    """How small a strategy runs here, and with which selector.

    The verifier of a plan replaces the word `VERIFIER` in options. `is_ordered`: its result may
    depend on the order in which traces arrive.
    """

    options: Mapping[str, object]
    selector: Mapping[str, object] = field(default_factory=lambda: {"name": "majority"})
    is_verified: bool = False
    is_ordered: bool = True


VERIFIERS: Mapping[str, Mapping[str, object]] = {
    "chaos-vowels": {},
    "reward": {"model": "rm"},
    "process-reward": {"model": "prm", "delimiter": " wait", "aggregate": "last"},
    "llm-judge": {"model": "large"},
    "generative-reward": {"model": "large", "k": 2},
    "process-evaluator": {"model": "large"},
}
BY = {"by": "verdict:VERIFIER"}
STEPS = {"verifier": "VERIFIER", "steps": 3, "delimiter": " wait"}
PROBES = {"n": 3, "interval": 4, "probe_tokens": 3}
CASES: Mapping[str, Case] = {
    "ab-mcts": Case(
        {"verifier": "VERIFIER", "n": 5, "parallel": 2}, {"name": "best", **BY}, is_verified=True
    ),
    "ab-mcts-m": Case(
        {"verifier": "VERIFIER", "n": 4, "parallel": 2, "models": ["main", "large"]},
        {"name": "best", **BY},
        is_verified=True,
    ),
    "adaptive": Case({"n": 6, "wave": 2, "growth": 1.0}),
    "auto": Case({"chosen": "adaptive n=6 wave=2 growth=1"}),
    "beam": Case({**STEPS, "n": 4, "width": 2}, {"name": "best", **BY}, is_verified=True),
    "budget-forcing": Case({"n": 3, "end": " wait", "thinking": 12, "answer": 6}),
    "cascade": Case({"models": ["main", "large"], "n": 3, "agreement": 1.0}, {"name": "final"}),
    "compute-optimal": Case(
        {"first": 3, "verifier": "VERIFIER", "medium": "revise chains=2 revisions=1"},
        {"name": "best-weighted", **BY},
        is_verified=True,
    ),
    "concise-hint": Case(
        {"n": 2, "interval": 4, "growth": 0.1, "thinking": 14, "answer": 5, "end": " wait"}
    ),
    "consistency": Case({"n": 5}, {"name": "weighted", "by": "mean_confidence"}, is_ordered=False),
    "deepconf": Case(
        {"n": 6, "n_init": 3, "window_tokens": 4, "wave": 2},
        {"name": "weighted", "by": "lowest_confidence@4"},
    ),
    "deepen": Case(
        {"depths": [1, 2], "n": 6, "wave": 2, "confidence": 0.99}, {"name": "depth-weighted"}
    ),
    "deepprune": Case(
        {"n": 4, "n_words": 2, "words": ["so", "wait"], "prefix_tokens": 4, "tau": 0.3}
    ),
    "dvts": Case({**STEPS, "n": 4, "width": 2}, {"name": "best-weighted", **BY}, is_verified=True),
    "dynasor": Case({**PROBES, "stable": 2}),
    "early-answer": Case(
        {
            "n": 2,
            "warm_up": 0,
            "variance": 9.0,
            "thinking": 14,
            "answer": 5,
            "delimiter": " so",
            "end": " wait",
        }
    ),
    "ensemble": Case(
        {"models": ["main", "large"], "n": 5},
        {"name": "filtered", "by": "mean_confidence", "keep": 0.5},
        is_ordered=False,
    ),
    "mind-evolution": Case(
        {
            "verifier": "VERIFIER",
            "islands": 2,
            "conversations": 1,
            "turns": 2,
            "generations": 2,
            "parents": 2,
        },
        {"name": "best", **BY},
        is_verified=True,
    ),
    "mits": Case(
        {"n": 2, "beam": 1, "steps": 3, "step_tokens": 4, "delimiter": " wait"}, {"name": "pmi"}
    ),
    "parallel-probe": Case({**PROBES, "stable": 2, "warm_up": 1, "patience": 1}),
    "particles": Case({**STEPS, "n": 3}, {"name": "pessimistic", **BY}, is_verified=True),
    "refine": Case({"inner": "consistency n=3", "rounds": 1}, {"name": "final"}, is_ordered=False),
    "revise": Case({"chains": 2, "revisions": 2}, {"name": "final"}),
    "rsa": Case({"n": 3, "k": 2, "steps": 3}, {"name": "final"}, is_ordered=False),
    "scrutinize": Case(
        {"n": 2, "verdicts": 2, "preliminary": 1, "comparisons": 2, "judge": "large"},
        {"name": "scrutinized"},
    ),
    "short-m@k": Case({"m": 2, "k": 4}, {"name": "best"}),
    "sounding": Case(
        {"n": 4, "width": 2, "interval": 4, "patience": 1, "probe_tokens": 2, "risk": 0.01},
        {"name": "discounted"},
    ),
    "speculative-thinking": Case(
        {"large": "large", "n": 2, "tokens": 20, "chunk": 6, "delimiter": " so"}
    ),
    "staged": Case(
        {"stages": ["consistency n=3", "revise chains=2 revisions=1"], "agreement": 1.0},
    ),
}


def packaged_strategies() -> set[str]:
    """Return the strategies that this distribution declares."""
    names = registry.names("strategies")
    return {n for n in names if registry.distribution("strategies", n).startswith("leadline ")}


def plan_of(name: str, verifier: str = "chaos-vowels", **fields: Any) -> Plan:
    """Return the plan of a case with a verifier, for the cases that need one or `is_verified`."""
    case = CASES[name]

    def filled(table: Mapping[str, object]) -> dict[str, object]:
        return {
            key: value.replace("VERIFIER", verifier) if isinstance(value, str) else value
            for key, value in table.items()
        }

    is_verified = fields.pop("is_verified", False) or case.is_verified
    options, verifiers = filled(case.options), dict[str, Mapping[str, object]]()
    if is_verified:
        verifiers = {verifier: VERIFIERS[verifier]}
    named = repr((options, verifiers))
    return Plan(
        models={k: model for k, model in MODELS.items() if k == "main" or repr(k) in named},
        strategy=PluginSpec(name, options),
        selector=filled(case.selector),
        verifiers=tuple(PluginSpec(*one) for one in verifiers.items()),
        sampling=Sampling(temperature=0.8, max_new_tokens=24),
        domain=DOMAIN,
        **fields,
    )


def drawn_plan(rng: random.Random, name: str = "") -> tuple[str, Plan]:
    """Return a case and a plan of it: with one of the verifiers, and in some with a budget."""
    name = name or rng.choice(sorted(CASES))
    verifier = rng.choice(sorted(VERIFIERS))
    is_verified = rng.random() < 0.15
    plan = plan_of(name, verifier, seed=rng.randrange(100), is_verified=is_verified)
    kind = rng.random()
    if kind < 0.1:
        plan = replace(plan, budget=Budget(traces=rng.randint(1, 8)))
    elif kind < 0.2:
        plan = replace(plan, budget=Budget(tokens=rng.randint(5, 90)))
    elif kind < 0.35:
        plan = replace(plan, budget=Budget(seconds=rng.uniform(0.05, 30.0)))
    return name, plan


def problems(rng: random.Random, plan: Plan, n: int) -> list[Problem]:
    """Return problems; some have settings of their own."""
    made = []
    for i in range(n):
        settings = ""
        if rng.random() < 0.1:
            settings = Settings(seed=rng.randrange(100)).encoded()
        made.append(Problem(f"p{i}", f"Question {i}?", DOMAIN, settings=settings))
    return made
