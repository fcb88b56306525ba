"""vLLM's own reasoning parsers on real texts, and the thinking of a trace from its tokens.

No engine starts: a parser needs a tokenizer, and a tiny one with the tags of all families suffices.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Request, Trace, Usage
from orchestrator.engines.vllm.options import Vllm
from orchestrator.engines.vllm.prompts import EngineInput, Prompts, Refused
from orchestrator.engines.vllm.reply import ReplyParser, with_thinking
from orchestrator.engines.vllm.start.parsers import NO_PARSER, PARSERS, reply_parser

pytestmark = pytest.mark.engine  # vLLM is imported

pytest.importorskip("vllm")

TAGS = (
    *("<think>", "</think>", "<seed:think>", "</seed:think>", "<response>", "</response>"),
    *("<tool_call>", "</tool_call>", "<|tool_calls_section_begin|>", "<|im_end|>"),
)
SPECIAL_TAGS = ("[THINK]", "[/THINK]", "[TOOL_CALLS]", "<|channel>", "<channel|>", "<|tool_call>")
OPENS = "{{ messages[0].content }}|<think>\n"
CLOSES = "{{ messages[0].content }}|<think>\n\n</think>\n\n"
PLAIN = "{{ messages[0].content }}|"


def tokenizer(template: str, special: tuple[str, ...] = SPECIAL_TAGS) -> Any:
    """One token a byte, and one a tag."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(ByteLevel.alphabet())
    tiny = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tiny.pre_tokenizer, tiny.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tiny.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tiny.add_special_tokens([AddedToken(tag, normalized=False) for tag in (*special, "<eos>")])
    return PreTrainedTokenizerFast(tokenizer_object=tiny, eos_token="<eos>", chat_template=template)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tokenizer(PLAIN).save_pretrained(path)
    return path


def parser_for(folder: Path, family: str, name: str = "") -> ReplyParser | None:
    config = SimpleNamespace(
        hf_config=SimpleNamespace(model_type=family),
        tokenizer=str(folder),
        skip_tokenizer_init=False,
        runner_type="generate",
        tokenizer_mode="hf",
        tokenizer_revision=None,
        trust_remote_code=False,
    )
    return reply_parser("main", Model("tiny", reasoning_parser=name), config)


FORMATS = {
    "gemma4": ("<|channel>thought\n", "<channel|>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "seed_oss": ("<seed:think>", "</seed:think>"),
    "hunyuan_a13b": ("<think>\n", "\n</think>\n<answer>\n"),
}


@pytest.mark.parametrize("family", PARSERS)
def test_the_parser_of_a_family_splits_its_texts(folder: Path, family: str) -> None:
    """Guessed, it is not asked about texts without a tag: most would call them thinking."""
    parser = parser_for(folder, family)
    assert parser is not None
    assert parser.guessed
    opening, closing = FORMATS.get(parser.name, ("<think>", "</think>"))
    whole = parser.split(f"{opening}40 and 2.{closing}The answer is 42.", ())
    assert whole is not None
    assert (whole.thinking_text, whole.reply_text) == ("40 and 2.", "The answer is 42.")
    assert parser.split("The answer is 42.", ()) is None
    cut = parser.split(f"{opening}The answer is 41.", ())
    assert cut is None or (cut.thinking_text, cut.reply_text) == ("The answer is 41.", "")


def test_every_family_exists() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    unknown = {family for family in PARSERS if family not in CONFIG_MAPPING_NAMES}
    assert unknown <= set(_CONFIG_REGISTRY)


def test_an_unknown_family_and_none_leave_it_to_tags(folder: Path) -> None:
    assert parser_for(folder, "llama") is None
    assert parser_for(folder, "qwen3", NO_PARSER) is None


def test_a_named_parser_is_believed_without_a_tag(folder: Path) -> None:
    """As by `vllm serve --reasoning-parser`: the thinking was opened in the prompt."""
    parser = parser_for(folder, "llama", "deepseek_r1")
    assert parser is not None
    found = parser.split("40 and 2.", ())
    assert found is not None
    assert (found.thinking_text, found.reply_text) == ("40 and 2.", "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen33", r"did you mean 'qwen3'\?"),
        ("minimax_m3", "cannot serve 'tiny'"),  # the tokenizer has none of its tags
    ],
)
def test_a_parser_that_cannot_serve_a_model_is_an_error_of_the_plan(
    folder: Path, name: str, reason: str
) -> None:
    with pytest.raises(PlanError, match=rf"models.main.reasoning_parser.*{reason}"):
        parser_for(folder, "llama", name)


# --- traces


def trace_of(tokens: Any, text: str, **fields: Any) -> Trace:
    ids = tuple(tokens.encode(text, add_special_tokens=False))
    return Trace(0, text, ids, usage=Usage(output_tokens=len(ids)), **fields)


def finished_by(
    template: str,
    text: str,
    request: Request | None = None,
    parser: ReplyParser | None = None,
    **fields: Any,
) -> Trace:
    tokens = tokenizer(template)
    request = request or Request("2+2?")
    trace = trace_of(tokens, text, **fields)
    prompts = Prompts(tokens, "main")
    suffix_ids = prompts.suffix_ids(request.suffix)
    ids = [*prompts.ids(request.prompt), *request.prefix_ids, *suffix_ids]
    return with_thinking(trace, request, EngineInput(ids, suffix_ids, None, ""), prompts, parser)


def test_a_thinking_that_the_prompt_opened_begins_with_its_tag() -> None:
    """Without it, nothing would show that a text that was cut is thinking."""
    cut = finished_by(OPENS, "so 41", finish=Finish.LENGTH)
    assert (cut.text, cut.thinking, cut.reply) == ("<think>so 41", "so 41", "")
    assert cut.usage.reasoning_tokens == 5
    whole = finished_by(OPENS, "so 41</think>It is 42.")
    assert (whole.thinking, whole.reply, whole.usage.reasoning_tokens) == ("so 41", "It is 42.", 5)


def test_a_prompt_that_closes_the_thinking_leaves_a_reply() -> None:
    """Even where a parser would take all of it for thinking."""
    believing = ReplyParser("any", lambda text, _: (text, None), guessed=False)
    trace = finished_by(CLOSES, "It is 42.", parser=believing)
    assert (trace.text, trace.reply, trace.usage.reasoning_tokens) == ("It is 42.", "It is 42.", 0)


def test_a_trace_without_thinking_stays_as_it_is() -> None:
    trace = finished_by(PLAIN, "It is 42.")
    assert (trace.text, trace.thinking_spans, trace.reply_spans) == ("It is 42.", (), None)


def test_the_tokens_of_thinking_are_counted_without_tags_and_the_end() -> None:
    """`<eos>` is a token of the trace and not in its text."""
    tokens = tokenizer(PLAIN)
    trace = trace_of(tokens, "<think>žluťoučký</think>ok")
    ended = Trace(0, trace.text, (*trace.token_ids, tokens.eos_token_id), usage=trace.usage)
    found = with_thinking(
        ended, Request("2+2?"), EngineInput([], (), None, ""), Prompts(tokens, "main"), None
    )
    assert found.usage.reasoning_tokens == len("žluťoučký".encode())


def test_a_continuation_has_its_own_part_of_the_thinking() -> None:
    request = Request("2+2?", parent=0, prefix_text="<think>so 41", prefix_ids=(1, 2))
    trace = finished_by(OPENS, " or 42</think>It is 42.", request)
    assert trace.text == " or 42</think>It is 42."
    assert (trace.thinking, trace.reply) == ("or 42", "It is 42.")
    closed = Request("2+2?", parent=0, prefix_text="<think>so 41", suffix="</think>")
    trace = finished_by(OPENS, "It is 42.", closed)
    assert (trace.thinking, trace.reply, trace.usage.reasoning_tokens) == ("", "It is 42.", 0)


def test_a_forced_beginning_is_part_of_the_thinking_that_the_prompt_opened() -> None:
    trace = finished_by(OPENS, "41</think>42", Request("2+2?", suffix="Perhaps "))
    assert (trace.text, trace.thinking, trace.reply) == ("41</think>42", "41", "42")


def test_a_trace_without_text_has_no_tag() -> None:
    """It was cancelled before its first token."""
    assert finished_by(OPENS, "", finish=Finish.CANCELLED).text == ""


def test_special_tokens_are_kept_in_the_text_where_they_are_tags() -> None:
    assert Prompts(tokenizer(PLAIN), "main").keeps_special
    assert not Prompts(tokenizer(PLAIN, special=("<|im_start|>",)), "main").keeps_special


SWITCH = "{% for m in messages %}{{ m.content }}{% endfor %}{% if deep %}<think>{% endif %}"


def test_arguments_and_another_template_reach_the_prompt() -> None:
    own = Prompts(tokenizer(SWITCH), "main")
    assert own.text_of(own.ids("2+2?")) == "2+2?"
    assert own.text_of(own.ids("2+2?", '{"deep": true}')) == "2+2?<think>"
    assert own.thinking(own.ids("2+2?", '{"deep": true}')) == ("<think>", False)
    other = Prompts(tokenizer(SWITCH), "main", "{{ messages[0].content }}!")
    assert other.text_of(other.ids("2+2?")) == "2+2?!"


def test_an_argument_that_the_template_does_not_use_is_refused() -> None:
    with pytest.raises(Refused, match="pool 'main' does not use 'enable_thinking'"):
        Prompts(tokenizer(SWITCH), "main").ids("2+2?", '{"enable_thinking": false}')


def test_what_only_a_parser_sees_gets_a_tag() -> None:
    """A continuation of it, and whoever reads the text alone, must see it too."""
    believing = ReplyParser("any", lambda text, _: (text, None), guessed=False)
    trace = finished_by(PLAIN, "so 41", parser=believing)
    assert (trace.text, trace.thinking, trace.reply) == ("<think>so 41", "so 41", "")
    assert trace.usage.reasoning_tokens == 5


def test_a_parser_that_fails_leaves_a_note_and_the_tags() -> None:
    def parse(text: str, ids: object) -> tuple[str | None, str | None]:
        raise KeyError(text)

    trace = finished_by(PLAIN, "<think>a</think>b", parser=ReplyParser("odd", parse, guessed=False))
    assert (trace.thinking, trace.reply) == ("a", "b")
    assert "reasoning parser: KeyError" in trace.note


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deepseek_v3", "does not know the tags of models.main.reasoning_parser = 'deepseek_v3'"),
        ("qwen33", "did you mean 'qwen3'"),
        ("openai_gptoss", "models.main.reasoning_parser = 'openai_gptoss'"),
    ],
)
def test_a_limit_of_thinking_needs_a_parser_with_tags(folder: Path, name: str, words: str) -> None:
    """Those of deepseek_v3 depend on the template's options; without them it splits nothing."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    Vllm().require_thinking(64, {"main": Model(str(folder), reasoning_parser="qwen3")})
    with pytest.raises(PlanError, match=re.escape(words)):
        Vllm().require_thinking(64, {"main": Model(str(folder), reasoning_parser=name)})


def test_strings_of_the_plan_need_no_parser(folder: Path) -> None:
    own = {"reasoning_config": {"reasoning_start_str": "<a>", "reasoning_end_str": "</a>"}}
    Vllm(args=own).require_thinking(64, {"main": Model(str(folder))})


def test_the_page_lists_the_parser_of_every_family() -> None:
    page = (Path(__file__).parents[3] / "docs" / "thinking.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    listed = {
        family.strip("` "): parser.strip("` ")
        for families, parser in rows
        for family in families.split(",")
        if family.strip("` ") in PARSERS
    }
    assert listed == PARSERS
