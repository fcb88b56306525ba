"""Options of every strategy and selector: what is refused when a plan is loaded, what is explained.

Ranges are stated in the options' `Meta`; checks across options are the classes' own.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from typing import Any

import msgspec
import pytest

from orchestrator.core.errors import PluginError
from orchestrator.core.values import PluginSpec
from orchestrator.plan import registry

ACROSS = [  # checks across options, with what their message must name
    ("strategies", "cascade", {"models": []}, "models"),
    ("strategies", "compute-optimal", {"easy_from": 0.2}, "hard_to = 0.25, easy_from = 0.2"),
    ("strategies", "deepconf", {"n": 3, "n_init": 4}, "n_init = 4, n = 3"),
    ("strategies", "deepen", {"depths": [2, 2]}, "ascending"),
    ("strategies", "deepen", {"accuracies": [0.5]}, "one for each of 2 depths"),
    ("strategies", "deepprune", {"n_words": 0}, "a prefix must end somewhere"),
    ("strategies", "deepprune", {"words": []}, "at least one word"),
    ("strategies", "ensemble", {"models": ["a"], "weights": [0.0]}, "not all zero"),
    ("strategies", "ensemble", {"models": ["a"], "weights": [1, 1]}, "one for each of 1 models"),
    ("strategies", "mind-evolution", {"verifier": "v", "reset_islands": 5}, "reset_islands = 5"),
    ("strategies", "mind-evolution", {"verifier": "v", "candidates": 4}, "candidates = 4"),
    ("strategies", "rsa", {"n": 3}, "k = 4, n = 3"),
    ("strategies", "scrutinize", {"preliminary": 5}, "preliminary = 5"),
    ("strategies", "short-m@k", {"m": 4, "k": 3}, "m = 4, k = 3"),
    ("strategies", "staged", {"stages": ["consistency", ""]}, "none of them may be empty"),
    ("selectors", "depth-weighted", {"depths": [1]}, "0 weights for 1"),
    ("selectors", "depth-weighted", {"depths": [1, 1], "weights": [1, 1]}, "all must be different"),
    *(
        ("strategies", name, {"verifier": "v", "n": 6}, "n = 6, width = 4")
        for name in ("beam", "dvts")
    ),
]
REQUIRED: dict[str, dict[str, object]] = {
    **{name: {"verifier": "v"} for name in ("ab-mcts", "ab-mcts-m", "beam", "dvts")},
    **{name: {"verifier": "v"} for name in ("mind-evolution", "particles")},
    **{name: {"models": ["a"]} for name in ("cascade", "ensemble")},
    "speculative-thinking": {"large": "b"},
}
OUT_OF_RANGE: dict[tuple[str, str], dict[str, list[object]]] = {
    ("strategies", "ab-mcts"): {"n": [0], "parallel": [0], "posterior": ["cauchy"]},
    ("strategies", "ab-mcts-m"): {
        "n": [0],
        "parallel": [0],
        "prune_size": [0],
        "prune_share": [0.0, math.nan],
    },
    ("strategies", "adaptive"): {
        "n": [0],
        "confidence": [1.0, 0.5],
        "window": [1],
        "bayes_factor": [0.0],
        "wave": [0],
        "growth": [0.9],
    },
    ("strategies", "beam"): {"width": [0], "steps": [0], "delimiter": [""]},
    ("strategies", "budget-forcing"): {
        "n": [0],
        "ignore": [-1],
        "thinking": [0],
        "answer": [0],
        "end": [""],
        "wait": [""],
    },
    ("strategies", "cascade"): {"n": [0], "agreement": [0.0, 1.1], "depth": [0]},
    ("strategies", "compute-optimal"): {"first": [0], "easy_from": [1.1], "hard_to": [-0.1]},
    ("strategies", "concise-hint"): {
        "n": [0],
        "interval": [0],
        "growth": [-0.1, math.inf],
        "hint": [""],
        "end": [""],
        "thinking": [0],
        "answer": [0],
    },
    ("strategies", "consistency"): {"n": [0], "depth": [0]},
    ("strategies", "deepconf"): {
        "n_init": [0],
        "keep": [0.0, 1.0],
        "window_tokens": [0],
        "consensus": [0.4],
        "wave": [0],
    },
    ("strategies", "deepen"): {
        "depths": [[], [0, 2]],
        "n": [0],
        "wave": [0],
        "confirm": [-1],
        "confidence": [1.0],
        "accuracies": [[0.5, 1.0]],
        "alternatives": [0.5, math.inf],
    },
    ("strategies", "deepprune"): {
        "n": [0],
        "n_words": [-1],
        "words": [[""]],
        "prefix_tokens": [-1],
        "tau": [1.0, -0.1],
        "max_clusters": [0],
        "n_compared": [0],
        "n_finished": [0],
        "n_single": [0],
    },
    ("strategies", "dvts"): {"width": [0], "steps": [0], "delimiter": [""]},
    ("strategies", "dynasor"): {"n": [0], "stable": [0], "interval": [0], "probe_tokens": [0]},
    ("strategies", "early-answer"): {
        "n": [0],
        "variance": [0.0, math.inf],
        "timescale": [0.0, 1.5],
        "warm_up": [-1],
        "end": [""],
        "delimiter": [""],
        "thinking": [0],
        "answer": [0],
    },
    ("strategies", "ensemble"): {"n": [0], "models": [[]], "weights": [[-1.0], [math.inf]]},
    ("strategies", "mind-evolution"): {
        "islands": [0],
        "conversations": [0],
        "turns": [0],
        "generations": [0],
        "parents": [0],
        "reset_every": [0],
        "survivors": [0],
        "temperature": [0.0, math.inf],
        "emigrants": [-1],
        "reset_islands": [-1],
    },
    ("strategies", "mits"): {
        "n": [0],
        "beam": [-1],
        "step_tokens": [0],
        "gain": [-1.0, math.inf],
        "steps": [0],
        "delimiter": [""],
    },
    ("strategies", "parallel-probe"): {
        "n": [0],
        "stable": [0],
        "patience": [0],
        "interval": [0],
        "probe_tokens": [0],
        "warm_up": [-1],
    },
    ("strategies", "particles"): {"n": [0], "steps": [0], "delimiter": [""]},
    ("strategies", "refine"): {"rounds": [-1], "shown": [0]},
    ("strategies", "revise"): {"chains": [0], "revisions": [-1], "memory": [0]},
    ("strategies", "rsa"): {"k": [0], "steps": [0]},
    ("strategies", "scrutinize"): {
        "n": [0],
        "verdicts": [0],
        "comparisons": [-1],
        "preliminary": [-1],
        "floor": [1.5],
        "per_answer": [0],
        "band": [-0.1],
    },
    ("strategies", "short-m@k"): {"m": [0]},
    ("strategies", "sounding"): {
        "risk": [0.0, 1.0],
        "error": [-0.1, 1.0],
        "n": [0],
        "width": [0],
        "interval": [0],
        "at_least": [0],
        "probe_tokens": [0],
        "spare": [-1],
        "slope": [-1.0],
        "share_power": [-1.0],
        "risk_growth": [-1.0],
        "patience": [-1],
        "longest_tokens": [-1],
        "tokens": [-1],
    },
    ("strategies", "speculative-thinking"): {
        "n": [0],
        "tokens": [0],
        "chunk": [0],
        "always": [-1],
        "delimiter": [""],
        "large": [""],
    },
    ("strategies", "staged"): {"stages": [[]], "agreement": [0]},
    ("selectors", "depth-weighted"): {"depths": [[-1]], "weights": [[-1.0], [math.inf]]},
    ("selectors", "discounted"): {"slope": [-0.5]},
    ("selectors", "filtered"): {"keep": [0.0, -0.1, 1.1, math.nan]},
    ("selectors", "pessimistic"): {
        "alpha": [-1.0, math.nan, math.inf],
        "by": ["mean_confidence", "judges of all"],
    },
    ("selectors", "pmi"): {"k": [0]},
    ("selectors", "scrutinized"): {"band": [-0.1, 1.1]},
}
PLUGINS = [
    (group, name)
    for group in ("strategies", "selectors")
    for name in registry.names(group)
    if registry.distribution(group, name).startswith("leadline ")
]


@pytest.mark.parametrize(("group", "name", "options", "words"), ACROSS)
def test_options_that_contradict_each_other_are_refused(
    group: str, name: str, options: dict[str, object], words: str
) -> None:
    """When the plan is loaded, naming the options and their values."""
    with pytest.raises(PluginError, match=words):
        registry.load(group, PluginSpec(name, {**REQUIRED.get(name, {}), **options}))


@pytest.mark.parametrize(
    ("group", "name", "option", "value"),
    [
        (group, name, option, value)
        for (group, name), options in OUT_OF_RANGE.items()
        for option, values in options.items()
        for value in values
    ],
)
def test_an_option_out_of_range_is_named(group: str, name: str, option: str, value: object) -> None:
    """When the plan is loaded, before anything starts, with its value."""
    with pytest.raises(PluginError, match=rf"\b{option}(\[\d\])? = "):
        registry.load(group, PluginSpec(name, {**REQUIRED.get(name, {}), option: value}))


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_every_option_explains_itself(group: str, name: str) -> None:
    """A sentence for each: `leadline plugins NAME` is all that a user of a plugin may read."""
    cls = registry.plugin_class(group, name)
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        metadata: list[Any] = getattr(hints[field.name], "__metadata__", [])
        text = next((m.description for m in metadata if isinstance(m, msgspec.Meta)), None)
        assert text, f"{name}: {field.name} has no description"
        assert text[0].isupper(), f"{name}: {field.name}: {text}"
        assert text.endswith("."), f"{name}: {field.name}: {text}"


@pytest.mark.parametrize(("group", "name"), PLUGINS)
def test_a_plugin_is_described_in_one_line(group: str, name: str) -> None:
    """Its class's first line, which `leadline plugins` lists."""
    first = (inspect.getdoc(registry.plugin_class(group, name)) or "").split("\n")[0]
    assert first.endswith(".")
    assert len(first) <= 80


def test_a_plugins_own_options_come_before_those_it_shares() -> None:
    """`leadline plugins NAME` lists them in this order: what makes the method first."""
    names = [option.name for option in registry.options("strategies", "beam")]
    assert names == ["n", "width", "aggregate", "verifier", "steps", "delimiter", "model", "depth"]
