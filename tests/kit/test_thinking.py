"""Where thinking ends and the reply begins, in the formats of all families of models."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.lineage import whole
from orchestrator.core.values import Finish, Purpose, Request, Trace
from orchestrator.kit.answers import find
from orchestrator.kit.answers.tags import closes_thinking, is_tag, opening_tag
from orchestrator.kit.answers.thinking import merged, parts_of, reading, refined, split
from orchestrator.kit.prompts import visible_text

HARMONY = "<|channel|>{}<|message|>"
ANALYSIS = HARMONY.format("analysis")
FINAL = "<|start|>assistant" + HARMONY.format("final")

FORMATS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thinking>", "</think>"),
    ("<THINK>", "</THINK>"),
    ("<Thought>", "</Thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<ifm|think_fast>", "</ifm|think_fast>"),
    ("<think:6124c78e>", "</think:6124c78e>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<antThinking>", "</antThinking>"),
    ("<thoughts>", "</thoughts>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<start_working_out>", "<end_working_out>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|think|>", "<|end|><|begin|>assistant<|content|>"),
    ("[THINK]", "[/THINK]"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n<|begin_of_solution|>"),
    ("<|content_thinking|>", "<|end_message|><|message_model|><|content_text|>"),
    ("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    (ANALYSIS, f"<|end|>{FINAL}"),
    (ANALYSIS, FINAL),  # a model that forgot to end its message
    ("Here is my thought process:", "Here is my response:"),
    ("Here's my thought process:", "Here's my response:"),
    ("analysis", "assistantfinal"),  # gpt-oss, without its special tokens
    ("<think>\n", "\n</think>\n\n<response>\n"),
]
by_format = pytest.mark.parametrize(("opening", "closing"), FORMATS)
THOUGHT = "Maybe the answer is 41. Let me recheck."


@by_format
def test_thinking_is_told_from_the_reply_in_every_format(opening: str, closing: str) -> None:
    parts = split(f"{opening}{THOUGHT}{closing}So 40 + 2 = 42.")
    assert (parts.thinking_text, parts.is_open) == (THOUGHT, False)
    assert parts.reply_text.strip() == "So 40 + 2 = 42."


@by_format
@pytest.mark.parametrize("finished", [True, False])
def test_of_a_thinking_that_was_cut_nothing_is_the_reply(
    opening: str, closing: str, finished: bool
) -> None:
    parts = split(f"{opening}{THOUGHT}", finished)
    assert (parts.thinking_text, parts.reply_text, parts.is_open) == (THOUGHT, "", True)
    again = split(f"{opening}{THOUGHT}{parts.closing}So 42.")
    assert (again.thinking_text, again.reply_text) == (THOUGHT, "So 42.")


@pytest.mark.parametrize(
    ("text", "thinking", "reply"),
    [
        ("It is 42.", "", "It is 42."),
        ("", "", ""),
        # opened in the prompt
        ("6*7</think>It is 42.", "6*7", "It is 42."),
        ("6*7[/THINK]It is 42.", "6*7", "It is 42."),
        # stray closing tags
        ("<think>6*7</think>It is 42.\n\n</think>\n\nDone.", "6*7", "It is 42.\n\n\n\nDone."),
        ("6*7</think>It is 42.\n</think>", "6*7", "It is 42.\n"),
        ("It is 42.\n</think>", "", "It is 42.\n"),
        ("<think>6*7</think>\n</think>\nIt is 42.", "6*7", "\n\nIt is 42."),
        # thinking that comes again, and text in front of it
        ("<think>a</think>b\n<think>c</think>d", "ac", "b\nd"),
        ("I guess 41.\n<think>6*7</think>It is 42.", "6*7", "It is 42."),
        ("It is 42.\n<think>check</think>\n", "check", "It is 42.\n\n"),
        ("It is 42.\n<think>Wait", "Wait", "It is 42.\n"),
        # tags of another family within the thinking
        ("<think>a [THINK] b <reasoning>c</reasoning></think>d", None, "d"),
        ("<think>one <think> more</think>d", "one <think> more", "d"),
        # several analyses, a preamble, a call
        (f"{ANALYSIS}a<|end|><|start|>assistant{ANALYSIS}b<|end|>{FINAL}c<|return|>", "ab", "c"),
        (f"{HARMONY.format('commentary')}Let me see.<|end|>{FINAL}c", "", "Let me see.c"),
        (f"{HARMONY.format('commentary to=functions.f')}{{}}<|call|>", "{}", ""),
        (f"{HARMONY.format('final')}c", "", "c"),
        # mentions
        ("Close `<think>` with `</think>`.", "", "Close `<think>` with `</think>`."),
        ('s.split("</think>")[-1]', "", 's.split("</think>")[-1]'),
        (r're.sub(r"<think>.*?</think>", "", s)', "", r're.sub(r"<think>.*?</think>", "", s)'),
        ("The tag <think> is missing: 42", "", "The tag <think> is missing: 42"),
        ('<think>not "</think>" yet</think>42', 'not "</think>" yet', "42"),
        # frames that are not those of a format
        ("<response>42</response>", "", "<response>42</response>"),
        ("<think>a</think>So <response>42</response>", "a", "So <response>42</response>"),
        ("analysis shows that 42", "", "analysis shows that 42"),
        ("[thinking] 42", "", "[thinking] 42"),
    ],
)
def test_texts_are_split(text: str, thinking: str | None, reply: str) -> None:
    parts = split(text)
    assert parts.reply_text == reply
    assert thinking is None or parts.thinking_text == thinking


def test_a_closing_tag_at_the_end_of_a_cut_text_ends_thinking() -> None:
    """The model was about to reply; a finished text with that tag has nothing to come."""
    assert split("The answer is 41.</think>", finished=False).reply_text == ""
    assert find.reply("The answer is 41.</think>", finished=False).text == ""


_PIECES = [t for pair in FORMATS for t in pair] + ["\n", "a", " ", '"', "`", "</response>", "42"]


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join), st.booleans())
def test_spans_are_in_order_and_apart_and_a_reply_has_no_thinking(
    text: str, finished: bool
) -> None:
    parts = split(text, finished)
    spans = sorted([*parts.thinking, *parts.reply])
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert list(parts.thinking) == sorted(parts.thinking)
    assert list(parts.reply) == sorted(parts.reply)
    assert bool(parts.closing) == parts.is_open


_TAGGED = [p for p in _PIECES if not p.startswith(("Here", "analysis", '"', "`"))]


@given(st.lists(st.sampled_from(_TAGGED), max_size=8).map("".join), st.booleans())
def test_a_reply_is_all_reply(text: str, finished: bool) -> None:
    """Domains split what they are given, and the annotator gives them replies."""
    parts = split(text, finished)
    assert split(parts.reply_text, finished and not parts.is_open).reply_text == parts.reply_text


@given(st.text(alphabet="ab <>[]/|\n\"'", max_size=60))
def test_a_text_without_tags_is_the_reply(text: str) -> None:
    assert split(text).reply_text == text


def test_a_prompt_shows_whether_it_opens_or_closes_thinking() -> None:
    for opening, _ in FORMATS[:3]:
        assert opening_tag(f"<|im_start|>assistant\n{opening}\n") == opening
    assert opening_tag("<|turn>model\n<|channel>thought\n") == "<|channel>thought"
    assert opening_tag("<think>\n\n</think>\n\n") == ""
    assert closes_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not closes_thinking("</think>It is 42.<|im_start|>assistant\n")
    assert opening_tag("What does <think> mean?") == ""


def test_special_tokens_are_known_as_tags() -> None:
    """vLLM leaves special tokens out of the text, which would hide the thinking."""
    assert all(map(is_tag, ("[THINK]", "◁/think▷", "<|START_THINKING|>", "<|channel|>")))
    assert not any(map(is_tag, ("<|im_end|>", "<|end|>", "<s>", "[INST]", "</s>")))


def test_what_a_parser_left_in_the_reply_is_taken_out() -> None:
    text = "<think>a</think>b\n</think>c"
    parts = refined(text, ((7, 8),), ((16, len(text)),))
    assert (parts.thinking_text, parts.reply_text) == ("a", "b\nc")
    assert merged([(0, 2), (2, 3), (5, 6)]) == ((0, 3), (5, 6))


# --- what is read of an attempt


def read(
    trace: Trace, request: Request | None = None, in_thinking: bool = False
) -> tuple[str, bool]:
    part = reading(request or Request(), trace, in_thinking)
    return part.text, part.finished


CUT = Trace(0, "<think>So the answer is 41. Or", finish=Finish.LENGTH)
SILENT = Trace(0, "<think>So the answer is 41.</think>\n")


@pytest.mark.parametrize("trace", [CUT, SILENT], ids=["cut", "without a reply"])
def test_thinking_is_read_only_where_the_plan_says_so(trace: Trace) -> None:
    assert read(trace)[0].strip() == ""
    text, finished = read(trace, in_thinking=True)
    assert text.startswith("So the answer is 41.")
    assert not finished  # only what it states explicitly counts


def test_a_reply_is_read_before_any_thinking() -> None:
    trace = Trace(0, "<think>41?</think>It is 42.")
    assert read(trace) == read(trace, in_thinking=True) == ("It is 42.", True)


def test_a_probe_is_read_inside_the_thinking() -> None:
    """It asks for the answer that the attempt would give now, while that still thinks."""
    probe = Request(
        parent=0, prefix_text="<think>6*7", suffix="\nThe answer is ", purpose=Purpose.PROBE
    )
    assert read(Trace(1, "42.", parent=0), probe) == ("6*7\nThe answer is 42.", False)


def test_a_continuation_is_split_with_what_it_continues() -> None:
    """Its own text has no tag; the thinking began earlier, and a forced tag ended it."""
    closed = Request(parent=0, prefix_text="<think>6*7", suffix="</think>\n")
    part = reading(closed, trace := Trace(1, "It is 42.", parent=0), False)
    assert part.text.strip() == "It is 42."
    own = part.with_parts(trace)
    assert (own.thinking, own.reply) == ("", "It is 42.")
    goes_on = Request(parent=0, prefix_text="<think>6*7")
    own = reading(goes_on, more := Trace(1, " = 42</think>So 42.", parent=0), False).with_parts(
        more
    )
    assert (own.thinking, own.reply) == ("= 42", "So 42.")
    attempt = reading(goes_on, more, False).attempt(more)
    assert (attempt.thinking, attempt.reply) == ("6*7 = 42", "So 42.")


def test_an_engine_that_has_split_a_trace_is_believed() -> None:
    """The tags may be part of what it thinks, or missing."""
    trace = Trace(0, "</think> it says. 42", thinking_spans=((0, 18),), reply_spans=((18, 20),))
    assert read(trace) == ("42", True)
    assert parts_of(trace).thinking_text == "</think> it says."


def test_a_whole_lineage_keeps_its_parts() -> None:
    links = [
        Trace(0, "<think>6*7", thinking_spans=((7, 10),), reply_spans=()),
        Trace(1, "It is 42.", parent=0),
    ]
    merged_trace = whole(links)
    assert merged_trace.text == "<think>6*7It is 42."
    assert (merged_trace.thinking, merged_trace.reply) == ("6*7", "It is 42.")
    assert visible_text(merged_trace) == "It is 42."
    assert whole([Trace(0, "a"), Trace(1, "b")]).reply_spans is None
