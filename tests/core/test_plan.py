"""Plans: the fingerprint changes exactly with the settings that decide answers.

Differences are named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.plan import (
    Budget,
    Model,
    Plan,
    derive_seed,
    differences,
    document,
    fingerprint,
    same_weights,
)
from orchestrator.core.values import PluginSpec

PLAN = Plan()


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, PluginSpec("v") if not value or isinstance(value[0], PluginSpec) else "x")
    is_models = any(isinstance(one, Model) for one in value.values())
    return {**value, "other": Model("m") if is_models else PluginSpec("text")}


def variants(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value that differs from `value` in one leaf, with the leaf's path."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            for name, other in variants(inner, f"{path}.{field.name}"):
                yield name, replace(value, **{field.name: other})
        else:
            yield f"{path}.{field.name}", replace(value, **{field.name: changed(inner)})


VARIANTS = dict(variants(replace(PLAN, models={"main": Model("m")}), "plan"))
VARIANTS.pop("plan.models")
for name in ("file", "columns", "examples"):  # `content` is the digest of what they give
    VARIANTS.pop(f"plan.few_shot.{name}")
VARIANTS |= {
    f"model{name}": replace(PLAN, models={"main": m}) for name, m in variants(Model("smollm2"), "")
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_field_of_a_plan_changes_its_fingerprint(name: str) -> None:
    """An omitted field would let a job resume with answers of another plan.

    New fields are covered automatically.
    """
    base = replace(PLAN, models={"main": Model("m")}) if name.startswith("plan") else PLAN
    assert fingerprint(VARIANTS[name]) != fingerprint(base)


def test_the_pool_name_and_the_order_of_options_are_seen_as_they_should_be() -> None:
    """A pool's name changes the fingerprint, and the order of options does not.

    Requests select a pool by its name.
    """
    assert fingerprint(replace(PLAN, models={"other": Model("smollm2")})) != fingerprint(PLAN)
    one = replace(PLAN, strategy=PluginSpec("s", {"a": 1, "b": (1, 2)}))
    other = replace(PLAN, strategy=PluginSpec("s", {"b": [1, 2], "a": 1}))
    assert fingerprint(one) == fingerprint(other)


def test_the_first_pool_is_the_default_so_its_place_counts() -> None:
    """Two plans with different default models do different work."""
    a, b = Model("a"), Model("b")
    one, other = replace(PLAN, models={"a": a, "b": b}), replace(PLAN, models={"b": b, "a": a})
    assert one.default_model != other.default_model
    assert fingerprint(one) != fingerprint(other)


def test_a_pool_without_a_task_has_the_fingerprint_it_had_before_there_were_tasks() -> None:
    """Otherwise every job begun before would be refused."""
    assert "task" not in str(document(PLAN))
    assert fingerprint(PLAN) == "acef7bf566aa52f8"


def test_a_plan_that_leaves_thinking_alone_has_the_fingerprint_it_had_before() -> None:
    """Jobs begun before these keys existed must resume."""
    assert "reasoning_parser" not in str(document(PLAN))
    assert "answers_in_thinking" not in document(PLAN)


def test_models_that_differ_in_their_parser_have_the_same_weights() -> None:
    assert same_weights(Model("a", reasoning_parser="qwen3"), Model("a", max_depth=2))
    assert not same_weights(Model("a"), Model("a", residual=0.5))


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    """It is compared after a restart, so it must not depend on the hash seed or the process."""
    code = (
        "from orchestrator.core.plan import Plan, fingerprint, derive_seed; "
        "print(fingerprint(Plan()), derive_seed(1, 'p', 2))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout.split()
    assert out == [fingerprint(Plan()), str(derive_seed(1, "p", 2))]


def test_differences_name_the_leaf_and_both_values() -> None:
    """A refused resume must report what changed, not only that something did."""
    old, new = (
        asdict(PLAN),
        asdict(
            replace(
                PLAN, seed=3, budget=Budget(traces=5), strategy=PluginSpec("consistency", {"n": 4})
            )
        ),
    )
    assert differences(old, new) == [
        "budget.traces: 0 -> 5",
        "seed: 0 -> 3",
        "strategy.n: None -> 4",
    ]
    assert differences(old, old) == []


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)),
)
def test_differences_are_empty_exactly_for_equal_mappings(
    old: dict[str, int], new: dict[str, int]
) -> None:
    """There is one line per key that differs, including missing keys."""
    assert len(differences(old, new)) == sum(old.get(k) != new.get(k) for k in "abc")


@given(st.integers(), st.lists(st.integers() | st.text(), max_size=3))
def test_a_seed_fits_where_seeds_go(run: int, parts: list[int | str]) -> None:
    """It is below 2**53: JSON numbers, vLLM and NumPy all support it."""
    assert 0 <= derive_seed(run, *parts) < 2**53
    assert derive_seed(run, *parts) == derive_seed(run, *json.loads(json.dumps(parts)))


def test_seeds_of_different_traces_differ() -> None:
    """Problem and ordinal both count, and are separated: ("1", 23) is not ("12", 3).

    P(any collision of 10^4 in 2^53) < 6e-9.
    """
    seeds = {
        derive_seed(0, str(problem), ordinal) for problem in range(100) for ordinal in range(100)
    }
    assert len(seeds) == 10_000
    assert derive_seed(0, "1", 23) != derive_seed(0, "12", 3)
    assert derive_seed(0, "p", 1) != derive_seed(1, "p", 1)
