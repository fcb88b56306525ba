"""Prompts made of prompts keep what the plan put round the question."""

from __future__ import annotations

from orchestrator.core.values import Message, Trace
from orchestrator.kit.prompts import next_turn, question, visible_text, with_question

CHAT = (Message("system", "Box it."), Message("user", "Q?"))


def test_a_conversation_grows_by_turns() -> None:
    """What the model said goes in between, as its own message."""
    first = next_turn("Q?", "A.", "Sure?")
    assert [m.role for m in first] == ["user", "assistant", "user"]
    assert next_turn(first, "Yes.", "Really?")[3:] == (
        Message("assistant", "Yes."),
        Message("user", "Really?"),
    )
    assert next_turn(CHAT, "A.", "Sure?")[:2] == CHAT


def test_a_judge_is_shown_the_question_without_the_system_message() -> None:
    """A chat of several turns by role."""
    assert question("Q?") == question(CHAT) == "Q?"
    assert (
        question((*CHAT, Message("assistant", "A?"), Message("user", "B.")))
        == "[user] Q?\n\n[assistant] A?\n\n[user] B."
    )


def test_reasoning_is_not_shown() -> None:
    """A judge reads what was concluded; open reasoning is all there is, so it is shown."""
    assert visible_text(Trace(0, "<think>hm, 4?</think>\n\nIt is 5.")) == "It is 5."
    assert visible_text(Trace(0, "<think>hm, 4?")) == "<think>hm, 4?"


def test_another_text_takes_the_place_of_the_question_alone() -> None:
    """The system message stays, or a revised answer would not be stated as the plan wants it."""
    assert with_question("Q?", "R?") == "R?"
    assert with_question(CHAT, "R?") == (CHAT[0], Message("user", "R?"))
    assert with_question((CHAT[0],), "R?") == (CHAT[0], Message("user", "R?"))
