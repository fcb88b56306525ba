"""A limit of thinking that engine or model cannot honour is refused when the plan is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import PlanFault
from orchestrator.core.plan import Model, Plan, Settings, fingerprint
from orchestrator.core.values import Capability, PluginSpec, Sampling
from orchestrator.plan import registry
from orchestrator.plan.check import check_plan, row_requirement
from orchestrator.plan.execution import Execution

LIMITED = Sampling(thinking_tokens=64)
FAKE, VLLM = Execution(engine=PluginSpec("fake")), Execution(engine=PluginSpec("vllm"))
RAY = Execution(engine=PluginSpec("ray"))


@registry.engine("test-without-limits")
@dataclass(frozen=True)
class WithoutLimits:
    """Loads models, and cannot end their thinking."""

    def capabilities(self) -> frozenset[Capability]:
        return frozenset(Capability)


@registry.engine("test-limits-parsers")
@dataclass(frozen=True)
class LimitsParsers(WithoutLimits):
    """Ends the thinking of pools with a parser."""

    def require_thinking(self, n_tokens: int, models: Mapping[str, Model]) -> None:
        for name, model in models.items():
            if not model.reasoning_parser:
                raise PlanFault("sampling.thinking_tokens", f"{name}, {n_tokens}")


@pytest.fixture
def qwen(tmp_path: Path) -> Model:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return Model(str(tmp_path))


def refused(plan: Plan, execution: Execution) -> str:
    with pytest.raises(PlanFault) as caught:
        check_plan(plan, execution)
    assert caught.value.key == "sampling.thinking_tokens"
    return str(caught.value)


def test_the_limit_leaves_tokens_for_the_reply() -> None:
    """Thinking and reply share max_new_tokens: at the limit itself, there would be no reply."""
    check_plan(Plan(sampling=Sampling(thinking_tokens=511)), FAKE)
    words = refused(Plan(sampling=Sampling(thinking_tokens=512)), FAKE)
    assert "512: it must be less than sampling.max_new_tokens (512)" in words


@pytest.mark.parametrize("execution", [VLLM, RAY])
def test_vllm_needs_a_parser_and_the_error_names_that_of_the_family(
    qwen: Model, execution: Execution
) -> None:
    words = refused(Plan({"main": qwen}, sampling=LIMITED), execution)
    assert "set models.main.reasoning_parser to 'qwen3'" in words
    assert "budget-forcing with thinking = 64" in words
    check_plan(Plan({"main": qwen}), execution)


def test_a_judge_may_lack_one() -> None:
    """It does not attempt the problem. A pool that attempts it may not."""
    engine = Execution(engine=PluginSpec("test-limits-parsers"))

    def plan(**options: Any) -> Plan:
        pools = {"main": Model("a", reasoning_parser="qwen3"), "other": Model("b")}
        return Plan(pools, PluginSpec("scrutinize", options), sampling=LIMITED)

    check_plan(plan(judge="other"), engine)
    assert refused(plan(model="other"), engine) == "other, 64"


def test_an_engine_that_cannot_end_thinking_is_refused_with_the_remedy() -> None:
    words = refused(Plan(sampling=LIMITED), Execution(engine=PluginSpec("test-without-limits")))
    assert "the engine 'test-without-limits' cannot end the thinking" in words
    assert "budget-forcing with thinking = 64" in words


def test_a_row_is_checked_as_a_plan_is(qwen: Model) -> None:
    require = row_requirement(Plan({"main": qwen}), VLLM)
    with pytest.raises(PlanFault, match=r"set models\.main\.reasoning_parser"):
        require(Settings(sampling={"thinking_tokens": 64}))
    with pytest.raises(PlanFault, match=r"less than sampling\.max_new_tokens"):
        require(Settings(sampling={"thinking_tokens": 600}))


def test_a_row_may_be_shorter_than_the_plans_limit() -> None:
    """It is then cut while it thinks, as it would be without a limit."""
    row_requirement(Plan(sampling=LIMITED), FAKE)(Settings(sampling={"max_new_tokens": 32}))


def test_a_plan_without_a_limit_is_that_of_earlier_versions() -> None:
    """Their jobs must resume: the fingerprint of the default plan is from before this key."""
    assert fingerprint(Plan()) != fingerprint(Plan(sampling=LIMITED))
    assert fingerprint(Plan()) == BEFORE


BEFORE = "acef7bf566aa52f8"
