"""Every plugin of ours keeps its contract. A new built-in is covered by declaring it; one with
several natures adds a row below.

Engines that need a model are checked in tests/engine by the same `check_engine`.
"""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.plan import Model
from orchestrator.core.values import PluginSpec, Prefix, Problem, Trace
from orchestrator.engines.fake.engine import Fake
from orchestrator.kit.prefixes import LabelledPrefix
from orchestrator.plan import registry
from orchestrator.testing import (
    check_domain,
    check_engine,
    check_selector,
    check_similarity,
    check_strategy,
    check_verifier,
)


def ours(group: str) -> list[str]:
    """Names that this distribution declares: other test modules may have registered some of their
    own.
    """
    return [
        name
        for name in registry.names(group)
        if registry.distribution(group, name).startswith("leadline ")
    ]


def plugin(group: str, name: str, options: dict[str, object]) -> Any:
    return registry.load(group, PluginSpec(name, options))


# Strategies whose default takes hundreds of traces are checked at a size that still goes through
# all their phases.
SMALL: dict[str, dict[str, object]] = {
    "ab-mcts": {"verifier": "v"},
    "ab-mcts-m": {"verifier": "v", "n": 4},
    "beam": {"verifier": "v", "steps": 5},
    "budget-forcing": {"n": 2, "ignore": 2},
    "cascade": {"models": ["main", ""], "n": 3},
    "compute-optimal": {
        "first": 3,
        "medium": "revise chains=2 revisions=1",
        "hard": "consistency n=4",
    },
    "concise-hint": {"n": 2, "interval": 8, "thinking": 100},
    "dvts": {"verifier": "v", "width": 2, "steps": 5},
    "early-answer": {"n": 2, "warm_up": 2, "thinking": 100},
    "ensemble": {"models": ["", "main"], "weights": [1.0, 3.0]},
    "mind-evolution": {
        "verifier": "v",
        "islands": 2,
        "conversations": 2,
        "turns": 2,
        "generations": 3,
        "reset_every": 2,
    },
    "mits": {"n": 2, "beam": 2, "steps": 3},
    "parallel-probe": {"n": 8},  # its 64 attempts take seconds in every world
    "particles": {"verifier": "v", "n": 4, "steps": 5},
    "refine": {"inner": "consistency n=3", "rounds": 1},
    "speculative-thinking": {"large": "main", "n": 2, "tokens": 200},
    "staged": {"stages": ["consistency n=2", "revise chains=2 revisions=1"]},
    "revise": {"chains": 2, "revisions": 2},
    "rsa": {"n": 4, "k": 2, "steps": 3},
    "scrutinize": {"n": 4, "verdicts": 4, "preliminary": 1, "comparisons": 2, "per_answer": 2},
}
STRATEGIES: list[tuple[str, dict[str, object]]] = [
    *((name, SMALL.get(name, {})) for name in ours("strategies")),
    ("adaptive", {"rule": "window"}),
    ("adaptive", {"rule": "bayes", "n": 16}),
    ("adaptive", {"wave": 1, "growth": 1}),
    ("adaptive", {"wave": 1, "growth": 3.0, "n": 1}),
    ("consistency", {"n": 1}),
    ("dynasor", {"n": 3, "stable": 2, "interval": 4}),
    ("parallel-probe", {"n": 5, "interval": 4, "stable": 4, "warm_up": 1, "patience": 2}),
    ("sounding", {"n": 12, "interval": 4, "patience": 2, "longest_tokens": 30}),
    ("sounding", {"n": 6, "interval": 2, "patience": 1, "tokens": 60, "risk_growth": 0.0}),
    ("consistency", {"n": 3, "depth": 4}),
    ("deepen", {"depths": [3], "n": 1}),
    ("deepen", {"depths": [1, 2, 4, 8], "n": 24, "wave": 3, "confidence": 0.9, "confirm": 2}),
    ("deepen", {"depths": [1, 4], "confirm": 0, "wave": 5}),
    (
        "deepen",
        {"depths": [2, 8], "accuracies": [0.4, 0.8], "alternatives": 3.0, "confidence": 0.98},
    ),
    ("deepconf", {"n": 6, "n_init": 3, "keep": 0.9, "wave": 1, "window_tokens": 4}),
    ("deepconf", {"n": 20, "n_init": 1, "wave": 30, "depth": 2}),
    ("deepprune", {"judge": "lexical", "n": 6, "prefix_tokens": 8, "n_words": 0, "depth": 2}),
    ("deepprune", {"judge": "llm", "n": 6, "tau": 0.3, "n_finished": 2, "n_compared": 1}),
    ("deepprune", {"keep": "every", "n": 6}),
    (
        "deepprune",
        {"keep": "every", "judge": "lexical slope=3", "max_clusters": 2, "when_full": "leave"},
    ),
    (
        "deepprune",
        {"judge": {"name": "lexical", "centre": 0.99}, "max_clusters": 1, "n_single": 1, "n": 5},
    ),
    ("ab-mcts", {"verifier": "v", "n": 5, "parallel": 8, "posterior": "beta", "depth": 2}),
    ("ab-mcts", {"verifier": "v", "n": 7, "models": ["", "main"], "choose": "ucb"}),
    (
        "ab-mcts-m",
        {
            "verifier": "v",
            "n": 3,
            "parallel": 8,
            "models": ["", "main"],
            "prune_size": 1,
            "depth": 2,
        },
    ),
    ("beam", {"verifier": "v", "n": 6, "width": 2, "steps": 3, "aggregate": "product", "depth": 2}),
    ("concise-hint", {"n": 1, "interval": 1, "growth": 2.0, "thinking": 40, "depth": 2}),
    (
        "early-answer",
        {"n": 1, "warm_up": 0, "timescale": 1.0, "variance": 9.0, "thinking": 100, "depth": 2},
    ),
    ("dvts", {"verifier": "v", "n": 4, "width": 1, "steps": 2, "aggregate": "min"}),
    (
        "mind-evolution",
        {
            "verifier": "v",
            "islands": 1,
            "reset_islands": 1,
            "conversations": 1,
            "generations": 2,
            "solved": 0.4,
            "depth": 2,
        },
    ),
    ("mits", {"n": 1, "beam": 0, "steps": 2, "gain": 0.0, "depth": 2}),
    ("particles", {"verifier": "v", "n": 1, "steps": 2}),
    ("revise", {"chains": 1, "revisions": 0, "memory": 1, "depth": 2}),
    ("rsa", {"n": 1, "k": 1, "steps": 3}),
    ("speculative-thinking", {"large": "main", "n": 2, "tokens": 60, "always": 100}),
    ("scrutinize", {"n": 2, "verdicts": 1, "preliminary": 0, "comparisons": 1, "judge_depth": 4}),
    ("short-m@k", {"m": 1, "k": 1}),
    ("short-m@k", {"m": 8, "k": 8}),
]
# One inside another, twice over: what is inside may itself leave traces running, drop them,
# continue them, or be several at once.
COMPOSED: list[tuple[str, dict[str, object]]] = [
    ("refine", {"inner": "consistency n=2 depth=2", "select": "best by=verdict:v", "shown": 2}),
    (
        "refine",
        {
            "inner": {"name": "refine", "inner": "adaptive n=4 wave=2", "rounds": 1},
            "rounds": 1,
            "select": "weighted",
        },
    ),
    ("refine", {"inner": "deepprune judge=lexical n=4 prefix_tokens=8 n_words=0", "rounds": 1}),
    (
        "refine",
        {
            "inner": "deepconf n=6 n_init=3 wave=1 window_tokens=4",
            "rounds": 1,
            "select": "discounted",
        },
    ),
    (
        "refine",
        {
            "inner": {"name": "cascade", "models": ["main", ""], "inner": "short-m@k m=1 k=2"},
            "rounds": 1,
        },
    ),
    (
        "cascade",
        {
            "models": ["", "main"],
            "inner": {"name": "staged", "stages": ["consistency n=2", "rsa n=2 k=1 steps=2"]},
        },
    ),
    ("refine", {"inner": "mits n=2 beam=2 steps=2", "rounds": 1, "select": "pmi"}),
    (
        "staged",
        {
            "stages": [
                "early-answer n=2 warm_up=2 thinking=100",
                "mind-evolution verifier=v islands=2 turns=1 generations=2",
            ]
        },
    ),
    (
        "staged",
        {
            "stages": [
                "beam verifier=v n=2 width=1 steps=2",
                {"name": "refine", "inner": "consistency n=2", "rounds": 1},
            ]
        },
    ),
    (
        "compute-optimal",
        {
            "first": 2,
            "verifier": "v",
            "easy": "",
            "medium": "scrutinize n=2 verdicts=1 preliminary=0",
            "hard": "dvts verifier=v steps=2",
        },
    ),
]
SELECTORS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in ours("selectors")),
    *(
        (name, {"by": by})
        for name in ("best", "best-weighted", "filtered", "weighted")
        for by in ("verdict:v", "mean_logprob")
    ),
    ("depth-weighted", {"depths": [0, 4], "weights": [0.5, 2.0]}),
    ("filtered", {"keep": 1.0}),
    ("final", {"vote": "best by=verdict:v"}),
    ("final", {"vote": {"name": "final", "vote": "pessimistic"}}),
    ("pessimistic", {"by": "verdict:v", "alpha": 2.0}),
    ("filtered", {"keep": 0.9, "by": "lowest_confidence@512"}),
]
# What a verifier needs beyond its defaults: options, fields of the problem's row, and texts that it
# can judge.
VERIFIERS: dict[str, tuple[dict[str, object], str, list[str]]] = {
    "code-tests": (
        {},
        '{"tests": ["assert f(1) == 2"]}',
        ["```python\ndef f(x): return x + 1\n```", "```python\nf = abs\n```"],
    ),
    "function": ({"function": "operator:ne"}, "{}", []),
    "process-reward": ({"model": "prm"}, "{}", []),
    "reward": ({"model": "rm"}, "{}", []),
}
EXAMPLES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "choice": {
        "stated": [("So the answer is (B).", "B"), (r"Thus \boxed{C}", "C")],
        "equal": [("(b)", "B"), ("B.", "B"), ("B) 15", "B")],
        "different": [("A", "B")],
    },
    "code": {
        "stated": [
            ("```python\nprint(1)\n```\nIt prints 1.", "print(1)"),
            ("```\nx = 1\n```", "x = 1"),
        ],
        "equal": [("a = 1\n", "a = 1"), ("a  \n\tb", "a\n\tb")],
        "different": [("a = 1", "a = 2"), ("if a:\n  b", "if a:\n    b")],
    },
    "json": {
        "equal": [('{"a": 1, "b": [2]}', '{"b":[2],"a":1}')],
        "different": [("1", "2"), ('{"a": 1}', '{"a": 2}')],
    },
    "math": {
        "stated": [("So the answer is 5.", "5"), (r"Thus \boxed{\frac{1}{2}}", "0.5")],
        "equal": [("1/2", "0.5"), (r"\frac{1}{2}", "50\\%"), ("x+1", "1+x")],
        "different": [("1", "2"), ("x+1", "x+2")],
    },
    "number": {
        "stated": [("So the answer is 5.", "5"), (r"Thus \boxed{1/2}", "0.5")],
        "equal": [("1/2", "0.5"), ("50%", "0.5"), ("1,000", "1000")],
        "different": [("1", "2"), ("0.333", "1/3")],
    },
    "text": {
        "stated": [(r"Thus \boxed{Paris}", "Paris"), ("The answer is Paris.", "paris")],
        "equal": [("Paris", " paris."), ("New  York", "new york")],
        "different": [("Paris", "Rome")],
    },
}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "options"), STRATEGIES)
def test_strategy_keeps_the_contract(name: str, options: dict[str, object], seed: int) -> None:
    """Any order, budget, failure and stop, and replay: see `orchestrator.testing.strategies`."""
    check_strategy(plugin("strategies", name, options), seeds=[seed])


@pytest.mark.parametrize(("name", "options"), COMPOSED)
def test_a_composition_keeps_the_contract(name: str, options: dict[str, object]) -> None:
    """What holds of each strategy holds of one inside another, to any depth."""
    check_strategy(plugin("strategies", name, options), seeds=[0])


@pytest.mark.parametrize(("name", "options"), SELECTORS)
def test_selector_keeps_the_contract(name: str, options: dict[str, object]) -> None:
    """Pure, order-independent, ranked by the tie rule: see `orchestrator.testing.selectors`."""
    check_selector(plugin("selectors", name, options), verdicts=["v"])


@pytest.mark.parametrize("name", ours("domains"))
def test_domain_keeps_the_contract(name: str) -> None:
    """Reads or abstains, never raises, linear in process: see `orchestrator.testing.domains`."""
    assert name in EXAMPLES, f"give domain {name!r} a row of EXAMPLES"
    check_domain(plugin("domains", name, {}), **EXAMPLES[name])


@pytest.mark.parametrize("name", ours("verifiers"))
async def test_verifier_keeps_the_contract(name: str) -> None:
    """One verdict per trace, in order, in [0, 1], or none with a reason: see
    `orchestrator.testing.verifiers` and `asking`.
    """
    options, tags, texts = VERIFIERS.get(name, ({}, "{}", []))
    lacking = getattr(registry.plugin_class("verifiers", name), "lacking", str)()
    if lacking:
        pytest.skip(lacking)
    traces = [Trace(400 + i, text) for i, text in enumerate(texts)]
    await check_verifier(
        plugin("verifiers", name, options),
        name=name,
        problem=Problem("check", "What is it?", tags=tags),
        traces=traces,
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("generative-reward", {"k": 3, "meta": "rm", "kept": 1, "model": "judge"}),
        ("process-evaluator", {"stated": True, "aggregate": "min"}),
        ("process-reward", {"model": "prm", "aggregate": "product", "delimiter": " "}),
    ],
)
async def test_verifier_keeps_the_contract_with_other_options(
    name: str, options: dict[str, object]
) -> None:
    """One with several natures is checked in each."""
    await check_verifier(plugin("verifiers", name, options), name=name)


@pytest.fixture(scope="module")
def trained_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model file fitted on made-up traces, where what is said last tells the answer."""
    pools = {}
    for i in range(30):
        finals = ["7", "8", "7"]
        pool = [
            LabelledPrefix(Prefix(o, f"We add {i} and find {final} = {final}. Since"), final)
            for o, final in enumerate(finals)
        ]
        pools[str(i)] = (Problem(str(i), f"What is {i}?"), pool)
    path = tmp_path_factory.mktemp("similarity") / "similarity.json"
    path.write_text(registry.plugin_class("similarity", "trained").fit(pools))
    return str(path)


@pytest.mark.parametrize("name", ours("similarity"))
def test_similarity_keeps_the_contract(name: str, trained_file: str) -> None:
    """One score per pair, of that pair alone, symmetric unless a model is asked: see
    `orchestrator.testing.similarity`.
    """
    required = {o.name for o in registry.options("similarity", name) if o.default == "(required)"}
    given: dict[str, object] = {"file": trained_file, "model": "embedder"}
    check_similarity(plugin("similarity", name, {key: given[key] for key in required}))


@pytest.mark.parametrize(
    "options", [{}, {"spread_tokens": 100, "answers": ("1", "2"), "weights": (3.0, 1.0)}]
)
async def test_fake_engine_keeps_the_contract(options: dict[str, Any]) -> None:
    """What the whole suite runs on must behave as a real engine does: see
    `orchestrator.testing.engines`.

    400 tokens of half a millisecond: an abort after a tenth of a second finds it running.
    """
    backend = Fake(n_tokens=400, seconds_per_token=0.0005, **options)
    async with backend.open({"main": Model("fake")}) as engine:
        await check_engine(engine, backend.capabilities(), wait_seconds=60)


@pytest.mark.parametrize("name", ours("engines"))
def test_engine_states_what_it_can_do_before_it_starts(name: str) -> None:
    """Capabilities are compared at plan time, on a machine that may lack the engine's package:
    loading must be cheap and start nothing.
    """
    needed: dict[str, object] = (
        {"base_url": "http://127.0.0.1:1/v1"} if name == "openai" else {"source": "recording.json"}
    )
    options = {o.name for o in registry.options("engines", name)}
    backend = plugin("engines", name, {k: v for k, v in needed.items() if k in options})
    assert isinstance(backend.capabilities(), frozenset)
