"""Layer schedules: their text form, invalid text, and their layers at a depth.

Exit rules as text: parsing, formatting and invalid rules.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PlanError
from orchestrator.core.layers import (
    CASCADES,
    OF_PREDICTIONS,
    OF_STATES,
    DepthCascade,
    ExitRule,
    Schedule,
    kept_places,
    parse_cascade,
    parse_exit,
    parse_schedule,
    require_layers,
)

layers = st.lists(st.integers(0, 40), max_size=12).map(tuple)


def test_a_think_block_runs_as_often_as_the_depth_says() -> None:
    schedule = parse_schedule("0-1 (2-3)*r 4")
    assert schedule == Schedule((0, 1), (2, 3), (4,))
    assert schedule.order(3) == (0, 1, 2, 3, 2, 3, 2, 3, 4)
    assert schedule.n_layers_run(3) == 9


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("0-3", (0, 1, 2, 3)),
        ("0, 2,2 , 3", (0, 2, 2, 3)),
        ("0 (1 2)*2 3", (0, 1, 2, 1, 2, 3)),
        ("3 - 4", (3, 4)),
        ("(0-1) * r", (0, 1)),
    ],
)
def test_skips_loops_and_fixed_blocks_are_written_out(text: str, order: tuple[int, ...]) -> None:
    assert parse_schedule(text).order(1) == order


@given(head=layers, think=layers, tail=layers)
def test_a_schedule_reads_back_from_its_text(
    head: tuple[int, ...], think: tuple[int, ...], tail: tuple[int, ...]
) -> None:
    """Plans and result files contain the text."""
    if not think:
        head, tail = head + tail, ()
    if head or think:
        schedule = Schedule(head, think, tail)
        assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "names no layer"),
        ("0-3 x", "cannot read 'x'"),
        ("5-3", "runs backwards"),
        ("(0)*r (1)*r", "only one block may have [*]r"),
        ("(0)*0", "1 to 256 times"),
        ("0-99999", "longer than any model"),
        ("()*r", "neither a layer nor a range"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(text: str, part: str) -> None:
    with pytest.raises(PlanError, match=part):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("kept", "order", "places"),
    [
        ("0-1 3", "0-3", (0, 1, 3)),
        ("2", "0-3", (2,)),
        ("0 (1)*2 2", "0 (1)*4 2", (0, 1, 2, 5)),
        ("1 0", "0 1 0 1", (1, 2)),
    ],
)
def test_the_layers_that_are_kept_are_the_first_that_fit(
    kept: str, order: str, places: tuple[int, ...]
) -> None:
    """So a layer that runs several times keeps the caches of its first visits."""
    assert kept_places(parse_schedule(kept), parse_schedule(order).head) == places


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("0-3", "'0-3' leaves out no layer"),
        ("0 2 1", "'0 2 1' is not '0-3' with layers left out"),
        ("0 0", "'0 0' is not"),
        ("0-2 4", "'0-2 4' is not"),
        ("0 (1)*r", "is not"),
    ],
)
def test_what_keeps_other_layers_is_refused(kept: str, said: str) -> None:
    with pytest.raises(PlanError, match=re.escape(said)):
        kept_places(parse_schedule(kept), (0, 1, 2, 3))


@given(order=layers.filter(lambda own: len(own) > 1), data=st.data())
def test_whatever_is_left_out_the_others_are_found(order: tuple[int, ...], data: Any) -> None:
    """Ascending places with the layers that were kept."""
    masks = st.lists(st.booleans(), min_size=len(order), max_size=len(order))
    mask = data.draw(masks.filter(lambda mask: any(mask) and not all(mask)))
    kept = tuple(itertools.compress(order, mask))
    places = kept_places(Schedule(kept), order)
    assert [order[i] for i in places] == [*kept]
    assert sorted(set(places)) == [*places]


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(PlanError, match="names layer 30; the model has 30 layers, 0 to 29"):
        require_layers(parse_schedule("0-30"), 30)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("state<0.03", ExitRule("state", 0.03)),
        ("kl<5e-4", ExitRule("kl", 5e-4)),
        (" state < .5  after 4 ", ExitRule("state", 0.5, 4)),
        ("kl<1 after 2", ExitRule("kl", 1.0, 2)),
        ("acceleration<0.02", ExitRule("acceleration", 0.02)),
        ("entropy < 1e-2", ExitRule("entropy", 0.01)),
        ("agreement >= 3 after 4", ExitRule("agreement", 3.0, 4)),
    ],
)
def test_a_rule_is_read(text: str, rule: ExitRule) -> None:
    """Spaces are ignored; without `after` the first iteration may be the last."""
    assert parse_exit(text) == rule


@given(
    st.builds(
        ExitRule,
        st.sampled_from([one for one in (*OF_STATES, *OF_PREDICTIONS) if one != "agreement"]),
        st.sampled_from([1e-6, 5e-4, 0.03, 1.0, 12.5]),
        st.integers(1, 64),
    )
    | st.builds(ExitRule, st.just("agreement"), st.sampled_from([2.0, 3.0, 12.0]), st.integers(1))
)
def test_what_is_written_is_read_back(rule: ExitRule) -> None:
    """Plans are written to files, so text and rule must agree."""
    assert parse_exit(str(rule)) == rule


@given(
    st.builds(
        DepthCascade,
        st.sampled_from(sorted(CASCADES)),
        st.sampled_from([0.0, 0.05, 1.0]),
        st.integers(1),
    )
    | st.builds(DepthCascade, st.just("diff"), st.just(-1.0), st.integers(1))
    | st.builds(DepthCascade, st.just("opt"), st.sampled_from([-3.5, 2.0]), st.integers(1))
)
def test_a_cascade_that_is_written_is_read_back(cascade: DepthCascade) -> None:
    """Plans are written to files, so text and cascade must agree."""
    assert parse_cascade(str(cascade)) == cascade


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("diff<0.1", "cannot be read"),
        ("diff 0.1", "cannot be read"),
        ("best 0.1 at 2", "write a rule .chow, diff, opt, token."),
        ("diff 1e at 2", "'1e' is not a number"),
        ("diff 1.5 at 2", "the threshold of diff is at least -1 and at most 1, not 1.5"),
        ("token -0.1 at 2", "the threshold of token is at least 0 and at most 1"),
        ("opt 1e999 at 2", "the threshold of opt is a finite number, not 1e999"),
        ("chow 0.1 at 0", "the first iteration is 1"),
    ],
)
def test_a_cascade_that_cannot_be_is_refused(text: str, reason: str) -> None:
    """It is refused before an engine starts, with the reason."""
    with pytest.raises(PlanError, match=reason):
        parse_cascade(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ("state", "cannot be read"),
        ("surprise<0.1", "cannot be read"),
        ("agreement<3", "cannot be read"),
        ("agreement>=2.5", "cannot be read"),
        ("agreement>=1", "at least 2 iterations can agree"),
        ("state>0.1", "cannot be read"),
        ("state<0.1 after", "cannot be read"),
        ("state<1e", "'1e' is not a number"),
        ("state<0", "must be above 0"),
        ("state<-0.1", "must be above 0"),
        ("state<0.1 after 0", "at least 1 iteration"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(text: str, reason: str) -> None:
    """It is refused before an engine starts, with the reason."""
    with pytest.raises(PlanError, match=reason):
        parse_exit(text)
