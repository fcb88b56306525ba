"""Folds: metrics against their definitions, and stop rules that do not depend on chunking."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import PlanError
from orchestrator.core.metrics import (
    RuleFold,
    entropy,
    group_means,
    logprobs_needed,
    metric_values,
    parse_metric,
    prefix_value,
)
from orchestrator.core.values import ConfidenceFloor, Delimiter, StopRule, WordLimit

confidences = st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=60)
windows = st.integers(1, 20)


def naive_groups(series: Sequence[float], window: int) -> list[float]:
    """DeepConf's group means (section 3.1): the mean over every window of `window` tokens.

    The mean of the whole trace if it is shorter.
    """
    if len(series) <= window:
        return [math.fsum(series) / len(series)]
    return [math.fsum(series[i : i + window]) / window for i in range(len(series) - window + 1)]


@given(confidences, windows)
def test_groups_are_sliding_means(series: list[float], window: int) -> None:
    """The running sum agrees with the definition up to rounding.

    60 additions of values up to 30 have an error below 1e-11.
    """
    assert group_means(series, window) == pytest.approx(naive_groups(series, window), abs=1e-11)


@given(confidences, windows)
def test_metrics_are_deepconfs(series: list[float], window: int) -> None:
    """The metrics are mean, tail, lowest group, and the mean of the lowest tenth of the groups.

    The lowest tenth has max(1, int(0.1 n)) groups, as in the released code.
    """
    groups = sorted(naive_groups(series, window))
    n_lowest = max(1, int(0.1 * len(groups)))
    names = (
        "mean_logprob",
        "mean_confidence",
        f"tail_confidence@{window}",
        f"lowest_confidence@{window}",
        f"bottom10_confidence@{window}",
    )
    logprobs = [-c for c in series]
    tail = series[-window:]
    expected = (
        -math.fsum(series) / len(series),
        math.fsum(series) / len(series),
        math.fsum(tail) / len(tail),
        groups[0],
        math.fsum(groups[:n_lowest]) / n_lowest,
    )
    values = metric_values(names, logprobs, series)
    assert tuple(values) == names
    assert tuple(values.values()) == pytest.approx(expected, abs=1e-11)


def test_a_worked_example() -> None:
    """Window 2 over 4, 2, 6, 8 gives groups 3, 4, 7."""
    names = ("tail_confidence@2", "lowest_confidence@2", "bottom10_confidence@2", "mean_confidence")
    assert metric_values(names, (), (4.0, 2.0, 6.0, 8.0)) == dict(
        zip(names, (7.0, 3.0, 3.0, 5.0), strict=True)
    )


def test_a_word_that_a_trace_may_begin_with_has_the_probability_of_all_its_spellings() -> None:
    """Two spellings of Yes with .3 and .1 give .4; case matters.

    A word that is not among the likely ones has no value, rather than 0.
    """
    first = [(" Yes", math.log(0.3)), ("yes", math.log(0.2)), ("Yes", math.log(0.1))]
    names = ("first_token_logprob@Yes", "first_token_logprob@No", "mean_logprob")
    values = metric_values(names, [-1.0], [2.0], first)
    assert values == {"first_token_logprob@Yes": pytest.approx(math.log(0.4)), "mean_logprob": -1.0}
    assert logprobs_needed(names[:1], ()) == 20
    assert parse_metric("first_token_logprob@Yes") == ("first_token_logprob", 0)


@pytest.mark.parametrize(
    "name", ["first_token_logprob", "first_token_logprob@", "first_token_logprob@ "]
)
def test_a_first_token_without_a_word_is_no_metric(name: str) -> None:
    with pytest.raises(PlanError, match="first_token_logprob@WORD"):
        parse_metric(name)


def test_deepconfs_metrics_on_a_series_worked_by_hand() -> None:
    """Twelve tokens with window 3 have ten group means, so the bottom 10 % is the lowest one.

    With twenty-two tokens it is the two lowest.
    """
    series = [
        9.0,
        6.0,
        3.0,
        6.0,
        9.0,
        9.0,
        9.0,
        6.0,
        6.0,
        6.0,
        9.0,
        12.0,
    ]  # groups 6 5 6 8 9 8 7 6 7 9
    names = ("lowest_confidence@3", "bottom10_confidence@3", "tail_confidence@3", "mean_confidence")
    assert metric_values(names, (), series) == dict(zip(names, (5.0, 5.0, 9.0, 7.5), strict=True))
    # then groups 12 x 8, 11, 9, and the ten: the lowest two of twenty are 5 and 6
    longer = [12.0] * 10 + series
    assert metric_values(names[:2], (), longer) == {
        "lowest_confidence@3": 5.0,
        "bottom10_confidence@3": 5.5,
    }
    short = [4.0, 8.0]  # fewer tokens than a window: one group, the whole
    assert set(metric_values(names, (), short).values()) == {6.0}


def test_entropy_counts_the_unseen_tokens_as_one() -> None:
    """A half, a quarter and a quarter unseen give (1/2) ln 2 + 2 (1/4) ln 4.

    A certain token has no entropy; 20 of 100 equal ones give a bound.
    """
    assert entropy([math.log(0.5), math.log(0.25)]) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(4)
    )
    assert entropy([0.0, -math.inf]) == 0.0
    assert entropy([math.log(0.01)] * 20) == pytest.approx(
        0.2 * math.log(100) - 0.8 * math.log(0.8)
    )
    assert metric_values(["mean_entropy"], [-1.0], [2.0], (), [0.5, 1.0]) == {"mean_entropy": 0.75}


def test_what_is_inherited_has_a_sum_and_nothing_has_none() -> None:
    """The sum over inherited tokens is None without any, never 0.

    It is not a metric of the sampled tokens and needs none of their log-probabilities.
    """
    assert prefix_value(["prefix_logprob"], [-1.0, -0.5]) == {"prefix_logprob": -1.5}
    assert prefix_value(["prefix_logprob"], []) == prefix_value(["mean_logprob"], [-1.0]) == {}
    assert metric_values(["prefix_logprob"], [-1.0], [2.0]) == {}
    assert logprobs_needed(["prefix_logprob"], ()) is None


def test_without_tokens_there_are_no_metrics() -> None:
    """Metrics are absent, never 0: a selector must be able to tell the difference."""
    assert metric_values(("mean_logprob", "lowest_confidence"), (), ()) == {}


@pytest.mark.parametrize(
    ("name", "parsed"),
    [("mean_logprob", ("mean_logprob", 0)), ("tail_confidence", ("tail_confidence", 2048))],
)
def test_the_window_is_2048_unless_given(name: str, parsed: tuple[str, int]) -> None:
    """This is DeepConf's window."""
    assert parse_metric(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "",
        "mean",
        "mean_confidence@5",
        "mean_logprob@",
        "tail_confidence@",
        "tail_confidence@0",
        "tail_confidence@-1",
        "lowest_confidence@²",
    ],
)
def test_an_unknown_metric_is_refused_at_plan_time(name: str) -> None:
    """A misspelt metric must not be silently absent."""
    with pytest.raises(PlanError, match="is not known; the known ones are"):
        parse_metric(name)


def test_only_what_is_needed_is_asked_of_the_engine() -> None:
    """Log-probabilities are expensive, so only the necessary ones are requested.

    None without metrics, the sampled one for its mean, 20 for a confidence, more if a rule needs
    more.
    """
    floor = ConfidenceFloor(1.0, top_k=32)
    assert logprobs_needed((), ()) is None
    assert logprobs_needed((), (Delimiter("x"),)) is None
    assert logprobs_needed(("mean_logprob",), ()) == 0
    assert logprobs_needed(("mean_logprob", "tail_confidence@8"), ()) == 20
    assert logprobs_needed((), (floor,)) == 32


# --- stop rules


def fires_at(rule: StopRule, chunks: Sequence[str]) -> int | None:
    """Return the number of characters seen when the rule fired."""
    fold, seen = RuleFold([rule]), 0
    for chunk in chunks:
        seen += len(chunk)
        if fold.update(chunk, ()):
            return seen
    return None


def chunked(text: str, cuts: Sequence[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


words = st.lists(
    st.sampled_from(
        [
            "wait",
            "Wait",
            "waiter",
            "await",
            "so",
            "let's",
            "let",
            "hold on",
            "hold",
            " ",
            ", ",
            "-",
            "_",
            "\n",
            "'",
        ]
    ),
    max_size=30,
)
cuts = st.lists(st.integers(0, 1000), max_size=40)
rules: st.SearchStrategy[StopRule] = st.one_of(
    st.builds(
        WordLimit,
        st.sampled_from([("wait",), ("wait", "so"), ("let's",), ("hold on", "so")]),
        st.integers(1, 4),
    ),
    st.builds(Delimiter, st.sampled_from(["so", "\n", ", ", "wait", "ss"]), st.integers(1, 4)),
)


@settings(max_examples=400)
@given(words, cuts, rules)
def test_chunking_changes_when_a_rule_fires_only_within_a_chunk(
    pieces: list[str], places: list[int], rule: StopRule
) -> None:
    """Tokens split words anywhere.

    In chunks, a rule fires in the chunk in which it fires character by character, or not at all.
    """
    text = "".join(pieces)
    exact = fires_at(rule, list(text))
    coarse = fires_at(rule, chunked(text, places))
    if exact is None:
        assert coarse is None
    else:
        assert coarse is not None
        first = next(
            end
            for end in (sum(map(len, chunked(text, places)[:i])) for i in range(1, len(text) + 2))
            if end >= exact
        )
        assert coarse == first


@given(words, st.integers(1, 4))
def test_a_word_limit_counts_whole_words_that_have_ended(pieces: list[str], count: int) -> None:
    """The word is `\\bwait\\b` in any case; at the end it may still grow and does not count yet."""
    text = "".join(pieces)
    ended = [m.end() for m in re.finditer(r"\bwait\b", text, re.IGNORECASE) if m.end() < len(text)]
    assert fires_at(WordLimit(("wait",), count), list(text)) == (
        ended[count - 1] + 1 if len(ended) >= count else None
    )


@given(words, st.integers(1, 4))
def test_a_delimiter_counts_occurrences_that_do_not_overlap(pieces: list[str], count: int) -> None:
    """Occurrences count from the left, as in `str.count`.

    The rule fires at the last character of the occurrence that completes the count.
    """
    text = "".join(pieces)
    expected = next((i for i in range(len(text) + 1) if text[:i].count("so") >= count), None)
    assert fires_at(Delimiter("so", count), list(text)) == expected


def test_a_word_across_chunks_counts_once() -> None:
    """DeepPrune counts words: `wa|it` is one, `wait|er` is none, `wait| wait` is two."""
    rule = WordLimit(("wait",), 1)
    assert fires_at(rule, ["So wa", "it", ", no"]) == 11
    assert fires_at(rule, ["So wait", "er", ", no"]) is None
    assert fires_at(rule, ["So a", "wait", ", no"]) is None
    assert fires_at(WordLimit(("wait",), 2), ["wait", " wait", " "]) == 10
    assert fires_at(WordLimit(("let's",), 1), ["let", "'", "s", " go"]) == 8


def test_a_delimiter_across_chunks_counts_once() -> None:
    """Step delimiters are often two newlines, and tokens split those."""
    assert fires_at(Delimiter("\n\n"), ["a\n", "\nb"]) == 4
    assert fires_at(Delimiter("\n\n", 2), ["\n", "\n", "\n", "x"]) is None, (
        "three newlines are one delimiter"
    )
    assert fires_at(Delimiter("\n\n", 2), ["\n", "\n", "\n", "\n"]) == 4


@given(confidences, windows, st.floats(0, 30), cuts)
def test_a_floor_fires_at_the_first_full_window_below_it(
    series: list[float], window: int, floor: float, places: list[int]
) -> None:
    """DeepConf's online rule.

    Windows within rounding of the floor may fire or not, so the floor is moved away from them.
    """
    groups = [math.fsum(series[i - window : i]) / window for i in range(window, len(series) + 1)]
    if any(abs(g - floor) < 1e-9 for g in groups):
        return
    expected = next((window + i for i, g in enumerate(groups) if g < floor), None)
    fold = RuleFold([ConfidenceFloor(floor, window)])
    fired = next((i + 1 for i, c in enumerate(series) if fold.update("", (c,))), None)
    assert fired == expected
    whole = RuleFold([ConfidenceFloor(floor, window)])
    assert whole.update("", series) == (expected is not None)


def test_any_rule_ends_the_trace_and_each_keeps_its_own_count() -> None:
    """A rule that fires must not prevent the others from seeing the chunk."""
    fold = RuleFold([Delimiter("x", 2), WordLimit(("wait",), 2)])
    assert not fold.update("x wait ", ())
    assert fold.update("x", ())
    assert not RuleFold([]).update("anything", (0.0,))


@pytest.mark.parametrize(
    "rule",
    [
        WordLimit((), 1),
        WordLimit(("",), 1),
        WordLimit(("a",), 0),
        Delimiter("", 1),
        Delimiter("a", 0),
        ConfidenceFloor(1.0, 0),
        ConfidenceFloor(1.0, 4, 0),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: Any) -> None:
    """Early stopping that is silently inactive, or fires at once, would go unnoticed."""
    with pytest.raises(ValueError, match=type(rule).__name__):
        RuleFold([rule])
