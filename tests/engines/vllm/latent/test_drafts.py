"""How many tokens a looped model drafts for itself."""

from __future__ import annotations

import pytest

from orchestrator.engines.vllm.latent.speculation.drafts import DraftLengths

FREE = 10**9  # a pass over any number of tokens costs the same


def lengths(step_tokens: int = FREE) -> DraftLengths:
    """Return the rule for up to 4 drafts at depth 1, by a model whose layers all iterate."""
    return DraftLengths(4, lambda depth: depth, 1, step_tokens)


def lengths_left_out(n_kept: int, n_layers: int) -> DraftLengths:
    """Return the rule of a CPU for a draft with layers left out, whose depth is 0."""
    return DraftLengths(4, lambda depth: n_layers if depth else n_kept, 0, 12)


def after(rule: DraftLengths, depth: int, *steps: tuple[int, int]) -> DraftLengths:
    """Return the rule when it has seen these steps (drafted, kept) many times."""
    for _ in range(400):
        for drafted, kept in steps:
            rule.count(depth, drafted, kept)
    return rule


@pytest.mark.parametrize(
    ("steps", "length"), [(((4, 4),), 4), (((3, 2),), 1), (((1, 0), (1, 0), (2, 1)), 0)]
)
def test_more_is_drafted_the_more_is_kept(steps: tuple[tuple[int, int], ...], length: int) -> None:
    """By the closed form, c = 1/4 + 0.12. a = 1: k drafts give (k + 1) / (1 + 0.37 k), growing.
    a = 2/3: 1.67 / 1.37 = 1.217 for one draft, 2.11 / 1.74 = 1.213 for two. a = 1/4: 1.25 / 1.37.
    """
    assert after(lengths(), 4, *steps).of_step([4]) == [length]


def test_the_depth_of_the_request_counts() -> None:
    """A draft costs a request of depth 2 half a pass, one of depth 16 a sixteenth, and 0.12 more:
    a third of the drafts kept is worth none of the former, one of the latter (1.33 / 1.18 = 1.13).
    A request no deeper than the draft has none.
    """
    rule = lengths()
    for depth in (2, 16):
        after(rule, depth, (2, 1), (2, 0))
    assert rule.of_step([2, 16, 1]) == [0, 1, 0]


def test_fewer_layers_are_a_smaller_depth() -> None:
    """For requests of depth 1, with c = 1/3 and passes of 1 + n/12. At a = 0.8 two drafts give 2.44
    / 2.21 = 1.10 tokens where none gives 1 / 1.08 = 0.92, three 2.95 / 2.78 = 1.06. With 2/3 of
    the layers, the most that a plan may keep, four drafts that are all kept give 5 / 4.79 = 1.04, a
    gain of 1.13, so that they are tried; at 22 of 30, a gain of 1.07, they never are.
    """
    assert lengths_left_out(10, 30).of_step([1]) == [2]
    for n_kept, tried in ((20, True), (22, False)):
        rule = after(lengths_left_out(n_kept, 30), 1, (1, 0))
        assert any(rule.of_step([1])[0] for _ in range(32)) == tried


def test_a_full_batch_drafts_nothing() -> None:
    """With c = 1/16, a = 1 and passes of 1 + n/20: one request gains by all four drafts. For 64,
    four drafts each give 5 tokens where a pass of 4.2 grows to one of 17, with the drafting 5 x 4.2
    / 18.5 = 1.13 of the speed. At a = 0.8 no length gives 1.1, so all that is left are trials; and
    none of these where no draft would pay if all were kept.
    """
    rule = after(lengths(20), 16, (4, 4))
    assert rule.of_step([16] * 64)[0] == 4
    rule = after(rule, 16, (4, 4), (4, 0))
    assert rule.of_step([16]) == [4]
    assert [rule.of_step([16] * 64)[0] for _ in range(32)].count(0) == 30
    rule = lengths(4)
    assert {tuple(rule.of_step([2] * 64)) for _ in range(32)} == {(0,) * 64}


def test_where_no_draft_pays_some_are_tried() -> None:
    """In one step of sixteen; and a change for the better is noticed."""
    rule = after(lengths(), 2, (4, 0))
    assert [rule.of_step([2])[0] for _ in range(32)].count(1) == 2
    assert after(rule, 2, (1, 1)).of_step([2]) == [4]
