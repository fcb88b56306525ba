"""vLLM's own tool parsers: that of a pool, and what tools are to a request. No engine starts."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.core.errors import PlanError, PlanFault
from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Request, Trace
from orchestrator.engines.vllm.options import Vllm
from orchestrator.engines.vllm.prompts import Prompts, Refused, template_settings
from orchestrator.engines.vllm.start.tools import tool_parser, tool_use, with_calls

pytest.importorskip("vllm")

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ADD = {"type": "function", "function": {"name": "add", "parameters": SCHEMA, "strict": True}}
HERMES = "{{ messages[0].content }}{% if tools %}{{ tools | tojson }}<args-json-object>{% endif %}"
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def tokenizer(template: str) -> Any:
    """One token a byte, and one each for what begins and ends a call."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(ByteLevel.alphabet())
    tiny = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tiny.pre_tokenizer, tiny.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ("<tool_call>", "</tool_call>")
    tiny.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    tiny.add_special_tokens([AddedToken("<eos>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tiny, eos_token="<eos>", chat_template=template)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that has a tokenizer and a configuration, and no weights."""
    path = tmp_path_factory.mktemp("tiny")
    tokenizer(HERMES).save_pretrained(path)
    (path / "config.json").write_text('{"model_type": "llama"}')
    return path


def use_of(folder: Path, extra: dict[str, Any], model: Model | None = None) -> Any:
    config = SimpleNamespace(
        hf_config=SimpleNamespace(model_type="llama"),
        tokenizer=str(folder),
        skip_tokenizer_init=False,
        tokenizer_mode="auto",
        tokenizer_revision=None,
        trust_remote_code=False,
        runner_type="generate",
    )
    parser = tool_parser("main", model or Model(str(folder)), config)
    return tool_use({"tools": [ADD]} | extra, parser, "main")


def test_calls_are_read_by_the_parser_of_the_templates_format(folder: Path) -> None:
    """The text before them is the reply; ids are the same in every run."""
    use = use_of(folder, {})
    request = Request("1+?", problem_id="p", ordinal=3)
    text = f"<think>Add.</think>I add. {CALL}{CALL}"
    traces = [with_calls(Trace(3, text, (1,)), request, use) for _ in range(2)]
    assert traces[0] == traces[1]
    calls = traces[0].calls
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("add", {"a": 1})] * 2
    assert len({call.id for call in calls}) == 2
    assert (traces[0].text, traces[0].reply) == (text, "I add.")
    alone = with_calls(Trace(3, CALL, (1,)), request, use)
    assert (len(alone.calls), alone.reply) == (1, "")


def test_a_call_that_was_cut_off_stays_text(folder: Path) -> None:
    cut = Trace(0, CALL[:30], (1,), Finish.LENGTH)
    assert with_calls(cut, Request("1+?"), use_of(folder, {})) == cut


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_choice_that_must_be_made_is_structure(folder: Path, choice: object) -> None:
    use = use_of(folder, {"tool_choice": choice})
    assert use.forced is not None
    assert "add" in str(use.forced)
    assert use_of(folder, {"tool_choice": "none"}) is None


def test_tools_are_in_the_prompt(folder: Path) -> None:
    prompts = Prompts(tokenizer(HERMES), "main")
    settings = template_settings({"tools": [ADD]})
    assert '"name": "add"' in prompts.text_of(prompts.ids("1+?", settings))
    with pytest.raises(Refused, match="does not use 'tools', which"):
        Prompts(tokenizer("{{ messages[0].content }}"), "main").ids("1+?", settings)


def test_what_a_model_cannot_call_is_refused_before_it_starts(folder: Path) -> None:
    extra = {"tools": [ADD]}
    Vllm().require_tools(extra, {"main": Model(str(folder))})
    for template, reason in (
        ("{{ messages[0].content }}", "has no tools; set models.main.chat_template"),
        ("{{ tools }}", "is not known; set models.main.tool_parser"),
    ):
        with pytest.raises(PlanFault, match=reason):
            Vllm().require_tools(extra, {"main": Model(str(folder), chat_template=template)})
    with pytest.raises(PlanFault, match=r"did you mean 'hermes'\?"):
        Vllm().require_tools(extra, {"main": Model(str(folder), tool_parser="herms")})
    named = {**extra, "tool_choice": {"type": "function", "function": {"name": "sub"}}}
    with pytest.raises(PlanFault, match="vLLM does not take them"):
        Vllm().require_tools(named, {"main": Model(str(folder))})


def test_an_unknown_parser_is_an_error_of_the_plan(folder: Path) -> None:
    with pytest.raises(PlanError, match=r"models.main.tool_parser.*did you mean 'hermes'\?"):
        use_of(folder, {}, Model(str(folder), tool_parser="herms"))
