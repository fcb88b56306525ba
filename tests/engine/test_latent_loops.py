"""Looped models in a real vLLM against references that recompute everything: fixed depths, the residual step, exits of both kinds.

One program runs all cases (`loop_cases`), because its engines are cheap there; here each rule is asserted of what it printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what all cases printed."""
    program = Path(__file__).with_name("loop_cases.py")
    ended = subprocess.run(
        [sys.executable, str(program), str(tmp_path_factory.mktemp("loops"))], capture_output=True, text=True, timeout=580
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def assert_equal(case: dict[str, Any]) -> None:
    """Token for token; and where a rule decides, iteration for iteration."""
    assert case["got"] == case["want"]
    if "taken" in case:
        assert case["counted"] == case["taken"]


@pytest.mark.parametrize("kind", ["ouro", "huginn", "llama"])
def test_depths_mixed_in_one_batch_equal_the_reference(found: dict[str, Any], kind: str) -> None:
    """Depths 1, 2 and 4 of three prompts at once: every iteration has a KV slot of its own, every state starts where it should."""
    case = found["fixed"][kind]
    assert_equal(case)
    assert case["got"][0] != case["got"][1] != case["got"][2], "a model that does not feel its depth shows nothing"


@pytest.mark.parametrize("kind", ["huginn", "llama"])
def test_the_residual_step_equals_the_reference(found: dict[str, Any], kind: str) -> None:
    """h_t = 0.3 h_{t-1} + 0.7 f(h_{t-1}) inside the loop, through the plain stack and through the recurrence."""
    case = found["residual"][kind]
    assert_equal(case)
    assert case["got"] != found["fixed"][kind]["got"]


@pytest.mark.parametrize("kind", ["ouro", "huginn", "llama"])
@pytest.mark.parametrize("measure", ["state", "kl"])
def test_exits_equal_the_reference_token_for_token(found: dict[str, Any], kind: str, measure: str) -> None:
    """Tokens leave at depths of their own, under largest depths that differ in one batch; the worker counts what each took."""
    (case,) = (case for name, case in found["exits"].items() if name.startswith(f"{kind} {measure}"))
    assert_equal(case)
    assert len([depth for depth in case["depths"] if depth < 5]) > 1, "exits must differ, or this shows nothing"


@pytest.mark.parametrize("rule", ["state<0.06", "kl<5e-3 after 2"])
def test_where_rows_cannot_be_left_out_the_result_is_the_same(found: dict[str, Any], rule: str) -> None:
    """The way of attention backends whose metadata is not rewritten, as on a GPU."""
    assert_equal(found["masked"][rule])


def test_exits_by_state_do_not_feel_how_a_prompt_is_cut(found: dict[str, Any]) -> None:
    """Chunked prefill."""
    assert_equal(found["chunked"])


def test_exits_by_state_survive_preemption(found: dict[str, Any]) -> None:
    """A request that is pushed out computes its generated tokens anew, many at once, and leaves where it left before.

    What it counts is more than the reference: the tokens that ran twice were paid for twice.
    """
    case = found["preempted"]
    assert case["n_preempted"] > 0
    assert case["got"] == case["want"]


def test_exits_by_state_share_prefixes(found: dict[str, Any]) -> None:
    """A cached block holds what its tokens would compute again, exits included; its tokens are counted where they ran."""
    case = found["prefix_hits"]
    assert case["got"] == case["want"]
    assert case["cached"] == [0, 64, 64]
    assert case["counted"][0] == case["taken"][0]
    assert [own for _, own in case["counted"]] == [own for _, own in case["taken"]]
    assert case["counted"][1][0] < case["taken"][1][0]
