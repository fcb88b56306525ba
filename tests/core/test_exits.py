"""Exit rules as text: what is read, what is written back, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PlanError
from orchestrator.core.exits import ExitRule, parse_exit


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("state<0.03", ExitRule("state", 0.03)),
        ("kl<5e-4", ExitRule("kl", 5e-4)),
        (" state < .5  after 4 ", ExitRule("state", 0.5, 4)),
        ("kl<1 after 2", ExitRule("kl", 1.0, 2)),
    ],
)
def test_a_rule_is_read(text: str, rule: ExitRule) -> None:
    """Spaces are free; without `after` the first iteration may be the last."""
    assert parse_exit(text) == rule


@given(st.builds(ExitRule, st.sampled_from(["state", "kl"]), st.sampled_from([1e-6, 5e-4, 0.03, 1.0, 12.5]), st.integers(1, 64)))
def test_what_is_written_is_read_back(rule: ExitRule) -> None:
    """Plans are written out, so text and rule say the same."""
    assert parse_exit(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read"),
        ("state", "cannot be read"),
        ("entropy<0.1", "cannot be read"),
        ("state>0.1", "cannot be read"),
        ("state<0.1 after", "cannot be read"),
        ("state<1e", "'1e' is no number"),
        ("state<0", "must be above 0"),
        ("state<-0.1", "must be above 0"),
        ("state<0.1 after 0", "at least 1 iteration"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(text: str, reason: str) -> None:
    """Before an engine starts, with what is wrong."""
    with pytest.raises(PlanError, match=reason):
        parse_exit(text)
