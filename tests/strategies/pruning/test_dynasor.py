"""Dynasor: an attempt ends when its probes have settled, and votes for what they state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import Finish, Purpose, Request, Result, Trace
from orchestrator.core.votes import conclude
from orchestrator.testing import PROBLEM, explore, trace
from strategies.pruning.dynasor import Dynasor
from strategies.selectors.majority import Majority


def one_attempt(probes: str, final: str, n_stretches: int, doubt_at: int = -1) -> dict[str, object]:
    """Return what one attempt did whose probes state these letters ("-" none) and which would end
    after so many stretches of 64.
    """
    seen = {"stretch": 0, "probe": 0}

    def reply(request: Request) -> Trace:
        if request.purpose is Purpose.PROBE:
            at, seen["probe"] = seen["probe"], seen["probe"] + 1
            word = probes[at] if at < len(probes) else "-"
            text = "7} \\] Wait, that" if at == doubt_at else "7} \\]"
            return replace(
                trace(request.ordinal, None if word == "-" else word, tokens=20), text=text
            )
        seen["stretch"] += 1
        last = seen["stretch"] == n_stretches
        return trace(
            request.ordinal,
            final if last else None,
            tokens=64,
            finish=Finish.STOP if last else Finish.RULE,
        )

    session = explore(Dynasor(n=1), reply, Plan())
    assert session.error == ""
    result = concluded(session)
    answer = result.answer.key if result.answer else None
    return {"answer": answer, "probes": seen["probe"], "dropped": len(session.dropped)}


def concluded(session: object) -> Result:
    return conclude(PROBLEM, list(session.traces.values()), Majority(), dropped=session.dropped)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("probes", "doubt_at", "expected"),
    [
        (
            "AAA",
            -1,
            ("A", 3, 1),
        ),  # three in a row: it ends there, and the stretch beside the third probe is given up
        ("BAAA", -1, ("A", 4, 1)),  # another answer before them
        ("AABAAA", -1, ("A", 6, 1)),  # and in between
        ("AA-AAA", -1, ("A", 6, 1)),  # a probe without an answer restarts the count
        ("AAAAA", 1, ("A", 5, 1)),  # so does a word of doubt in the second
        ("ABABABABA", -1, ("Z", 9, 0)),  # never settled: its own end counts
    ],
)
def test_an_attempt_ends_where_three_probes_in_a_row_agree_without_doubt(
    probes: str, doubt_at: int, expected: tuple[object, ...]
) -> None:
    """The released rule with its middle setting, (3, 64).

    The attempt's own answer after ten stretches is Z.
    """
    did = one_attempt(probes, "Z", 10, doubt_at)
    assert (did["answer"], did["probes"], did["dropped"]) == expected


def test_what_it_saves_and_what_it_pays_is_on_its_account() -> None:
    """Two attempts: one settles after 4 stretches (the 4th pruned), one ends by itself after 2.

    Probes: 3 and 1, of 20 tokens.
    """
    stretches: dict[int, int] = {}

    def reply(request: Request) -> Trace:
        if request.purpose is Purpose.PROBE:
            return trace(request.ordinal, "A", tokens=20)
        n = stretches[request.ordinal] = 1 + stretches.get(
            -1 if request.parent is None else request.parent, 0
        )
        first = request.ordinal if request.parent is None else root[request.parent]
        root[request.ordinal] = first
        ends = first == 1 and n == 2
        return trace(
            request.ordinal,
            "B" if ends else None,
            tokens=64,
            finish=Finish.STOP if ends else Finish.RULE,
        )

    root: dict[int, int] = {}
    session = explore(Dynasor(n=2), reply)
    result = concluded(session)
    assert {c.answer.key: c.count for c in result.clusters} == {"A": 1, "B": 1}
    assert {account: usage.output_tokens for account, usage in result.usage.items()} == {
        "solve": 3 * 64 + 2 * 64,
        "pruned": 64,
        "probe": 80,
    }


def test_a_budget_leaves_attempts_to_go_on_unprobed_or_ends_it() -> None:
    session = explore(
        Dynasor(n=2),
        lambda request: trace(request.ordinal, None, tokens=64, finish=Finish.RULE),
        Plan(budget=Budget(traces=5)),
    )
    assert (session.error, session.stopped_by) == ("", "traces")
