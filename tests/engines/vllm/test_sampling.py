"""vLLM's other sampling parameters: what is passed, and what is refused with which reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Sampling
from orchestrator.engines.vllm.prompts import Refused, template_settings
from orchestrator.engines.vllm.reply import ReplyParser
from orchestrator.engines.vllm.sampling import (
    ELSEWHERE,
    parameters,
    parsed,
    without_limit,
)
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution

pytestmark = pytest.mark.engine  # vLLM is imported

pytest.importorskip("vllm")

# One value for every parameter that is passed.
VALUES: dict[str, Any] = {
    "allowed_token_ids": [1, 2],
    "bad_words": ["no"],
    "extra_args": {"a": 1},
    "frequency_penalty": 0.5,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "logit_bias": {"5": -1.0},
    "min_tokens": 3,
    "presence_penalty": -0.5,
    "repetition_detection": {"max_pattern_size": 8, "min_pattern_size": 2, "min_count": 3},
    "skip_reading_prefix_cache": True,
    "stop_token_ids": [7],
    "structured_outputs": {"choice": ["yes", "no"]},
    "watermarking": False,
}


def test_every_parameter_of_vllm_is_passed_or_decided_elsewhere() -> None:
    from vllm import SamplingParams

    assert not set(VALUES) & set(ELSEWHERE)
    assert set(VALUES) | set(ELSEWHERE) == set(SamplingParams.__struct_fields__)


def test_what_is_decided_elsewhere_is_documented() -> None:
    page = Path("docs/engines.md").read_text(encoding="utf-8")
    table = page.partition("### Any other sampling parameter")[2].partition("| not passed |")[2]
    assert set(ELSEWHERE) <= set(re.findall(r"`(\w+)`", table.partition("\n\n")[0]))


@pytest.mark.parametrize("name", VALUES)
def test_a_parameter_is_part_of_a_request(name: str) -> None:
    params = parameters(Sampling(extra={name: VALUES[name]}), (), None, False, True)
    plain = parameters(Sampling(), (), None, False, True)
    assert getattr(params, name) != getattr(plain, name)


def test_a_limit_of_thinking_is_vllms_budget() -> None:
    limited = parameters(Sampling(thinking_tokens=64), (), None, False, True)
    assert limited.thinking_token_budget == 64
    assert parameters(Sampling(), (), None, False, True).thinking_token_budget is None


def test_a_least_length_is_not_compared_with_a_default_one() -> None:
    """vLLM's own limit, where a caller names none, is 16 tokens."""
    params = parameters(Sampling(extra={"min_tokens": 900}), (), None, False, True)
    assert (params.min_tokens, params.max_tokens) == (900, None)


def test_without_tags_a_named_parser_refuses_and_others_limit_nothing() -> None:
    """vLLM would refuse every request of a judge that does not think."""
    sampling = Sampling(thinking_tokens=64)
    named, guessed = (ReplyParser("odd", lambda *_: (None, None), guess) for guess in (False, True))
    assert without_limit(sampling, None, "judge") == Sampling()
    assert without_limit(sampling, guessed, "judge") == Sampling()
    with pytest.raises(Refused, match="does not know the tags of 'odd', the parser of pool 'main'"):
        without_limit(sampling, named, "main")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"presence_penalti": 1}, r"'presence_penalti' \(did you mean 'presence_penalty'\?\)"),
        ({"presence_penalty": "much"}, r"presence_penalty"),
        ({"structured_outputs": {"choise": ["a"]}}, "must use one kind of structured outputs"),
        ({"structured_outputs": {"choice": ["a"], "grammer": "a"}}, "grammer.*'grammar'"),
        ({"n": 4}, "the strategy's n"),
        ({"temperature": 1.0}, r"set sampling\.temperature"),
        ({"max_tokens": 8}, r"set sampling\.max_new_tokens"),
        ({"output_kind": 1}, "Leadline's to choose"),
    ],
)
def test_what_vllm_does_not_take_is_refused_by_name(extra: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        parsed(extra)


def test_dialects_of_servers_are_structured_outputs() -> None:
    schema = {"type": "object"}
    form = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    for extra, field, value in (
        ({"response_format": form}, "json", schema),
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        ({"guided_regex": "[0-9]+"}, "regex", "[0-9]+"),
        ({"guided_choice": ["A", "B"]}, "choice", ["A", "B"]),
    ):
        assert getattr(parsed(extra)["structured_outputs"], field) == value
    assert parsed({"response_format": {"type": "text"}}) == {}
    with pytest.raises(PlanError, match="response_format"):
        parsed({"response_format": {"type": "yaml"}})


def test_arguments_of_the_chat_template_are_no_sampling_parameters() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    assert parsed(extra) == {}
    assert json.loads(template_settings(extra)) == {
        "enable_thinking": False,
        "reasoning_effort": "low",
    }
    with pytest.raises(PlanError, match="must be a table"):
        parsed({"chat_template_kwargs": "no"})


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_a_plan_with_an_unknown_parameter_does_not_start(engine: str) -> None:
    plan = Plan(sampling=Sampling(extra={"temprature": 1}))
    with pytest.raises(PlanError, match="vLLM has no sampling parameter 'temprature'"):
        check_plan(plan, Execution(engine=PluginSpec(engine)))
