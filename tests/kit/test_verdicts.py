"""Verdicts are read where they are stated, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.values import Finish, Purpose, Request, Trace
from orchestrator.engines.reply import validated
from orchestrator.kit.verdicts import Comparison, matches, opinions, rating, verdict, winner


def judge(ordinal: int, text: str, *subjects: int, finish: Finish = Finish.STOP) -> Trace:
    purpose = Purpose.COMPARE if len(subjects) == 2 else Purpose.VERIFY
    return Trace(ordinal, text, purpose=purpose, subjects=subjects, finish=finish)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("All steps hold.\nVerdict: correct", 1.0),
        ("Verdict: Incorrect.", 0.0),
        ("**Verdict:** incorrect", 0.0),
        ("## Verdict: **correct**", 1.0),
        ("Verdict: not correct", 0.0),
        ("verdict is right", 1.0),
        ("Verdict: \\boxed{1}", 1.0),
        ("Verdict: correct\nWait, step 2 fails.\nVerdict: incorrect", 0.0),
        ("<think>Verdict: correct?</think>\nVerdict: wrong", 0.0),
        ("The solution is correct.", None),
        ("Verdict: correctly derived", None),
        ("Verdict: 10", None),
        ("Verdict: unsure", None),
        ("", None),
    ],
)
def test_a_binary_verdict_is_read_where_it_is_stated(text: str, value: float | None) -> None:
    """The last statement counts; prose that merely contains the word does not."""
    assert verdict(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score: 1/10", 0.0),
        ("Score: 10/10", 1.0),
        ("**Score:** 5.5", 0.5),
        ("Score: 0/10", None),
        ("Score: 11", None),
        ("Score: 7/100", None),
    ],
)
def test_a_score_from_1_to_10_becomes_a_share(text: str, value: float | None) -> None:
    """(n - 1) / 9; what is out of range is no score, never cut to it."""
    assert rating(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Winner: 1", 1.0),
        ("**Winner:** Solution 2", 0.0),
        ("Winner: tie", 0.5),
        ("Winner: 12", None),
        ("1", None),
    ],
)
def test_a_winner_is_read_as_the_share_of_the_first(text: str, value: float | None) -> None:
    """1.0 for the first of the two, 0.0 for the second."""
    assert winner(text) == value


@given(st.text(max_size=200))
def test_no_text_makes_reading_fail(text: str) -> None:
    """Judges say anything."""
    for read in (verdict, rating, winner):
        assert read(text) in (None, 0.0, 0.5, 1.0) or read is rating


def test_opinions_are_by_subject_and_leave_out_what_is_no_verdict() -> None:
    """Unreadable, cancelled and failed judges say nothing; a reply that states both a verdict and a
    score contradicts its form.
    """
    pool = [
        judge(9, "Verdict: incorrect", 1),
        judge(5, "Verdict: correct", 1),
        judge(6, "hm", 1),
        judge(7, "Score: 10", 2),
        judge(8, "Verdict: correct", 2, finish=Finish.CANCELLED),
        judge(10, "Verdict: correct\nScore: 1", 2),
        judge(11, "Verdict: correct"),
        replace(judge(12, "Verdict: correct", 2), purpose=Purpose.SOLVE),
    ]
    assert opinions(pool) == {1: [1.0, 0.0], 2: [1.0]}


def test_matches_name_both_sides() -> None:
    """The order of the subjects is that in which the judge saw them."""
    assert matches(
        [judge(4, "Winner: 2", 3, 1), judge(3, "Winner: 1", 1, 3), judge(5, "?", 1, 3)]
    ) == [Comparison(1, 3, 1.0), Comparison(3, 1, 0.0)]


def test_a_reply_carries_the_subjects_of_its_request() -> None:
    """Else an engine plugin that builds its own traces would lose who was judged."""
    request = Request(ordinal=3, subjects=(0, 2), purpose=Purpose.COMPARE)
    assert validated(request, Trace(3, "Winner: 1", purpose=Purpose.COMPARE)).subjects == (0, 2)
    assert validated(request, "rubbish").subjects == (0, 2)
