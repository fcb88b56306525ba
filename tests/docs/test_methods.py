"""What docs/methods says of defaults and of cost in calls, compared with the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import Finish, PluginSpec, Purpose, Request, Trace, Usage, Verdict
from orchestrator.plan import registry
from orchestrator.testing import explore, trace
from website import methods

TEXTS = ("'last'", "'gaussian'", "'beta'")  # values of options that are words


def counted() -> dict[str, dict[str, str]]:
    """Return the parts of each strategy whose cost is given in calls."""
    return {
        entry.name: entry.parts
        for entry in methods.entries()
        if entry.group == "strategies" and "calls" in entry.units
    }


def test_a_default_of_an_entry_is_that_of_the_code() -> None:
    """Each "option value" in the sentences on defaults whose first word is an option."""
    wrong, n_compared = [], 0
    for entry in methods.entries():
        options = {o.name: o.default for o in registry.options(entry.group, entry.name)}
        text = " ".join(entry.parts.get("Defaults", "").split())
        value = r"(\d[\d,]*(?:\.\d+)?(?:e-?\d+)?|[a-z]+)"
        for option, written in re.findall(rf"\b([a-z_]+) (?:[α-ω] )?`?{value}\b`?", text):
            default = options.get(option, "")
            if default.replace(".", "").replace("-", "").replace("e", "").isdigit():
                n_compared += 1
                if not written[0].isdigit() or float(written) != float(default):
                    wrong.append((entry.name, option, written, default))
            elif repr(written) in TEXTS:
                n_compared += 1
                wrong += [(entry.name, option, written, default)] * (repr(written) != default)
    assert wrong == []
    assert n_compared > 60, "else this test checks little"


# --- cost in calls

STEPPING = replace(trace(0, finish=Finish.RULE), verdicts=(Verdict("v", 0.5),))


def plain(request: Request) -> Trace:
    """A step ends at its delimiter, everything else answers A, and a verifier gives one half."""
    return STEPPING if request.rules else replace(trace(0, "A"), verdicts=(Verdict("v", 0.5),))


def read(request: Request) -> Trace:
    """As `plain`, with the log-probabilities that are requested."""
    return replace(plain(request), metrics=dict.fromkeys(request.metrics, -1.0))


def split(request: Request) -> Trace:
    """Attempts disagree."""
    return trace(0, "AB"[request.ordinal % 2])


def judged(request: Request) -> Trace:
    """Attempts disagree; judges find all of them right and prefer the first in every comparison."""
    text = {Purpose.VERIFY: "Verdict: correct", Purpose.COMPARE: "Winner: 1"}.get(
        request.purpose, ""
    )
    return (
        replace(split(request), text=text) if request.purpose is Purpose.SOLVE else Trace(0, text)
    )


def thinking(finish: Finish, stop: str) -> Callable[[Request], Trace]:
    """Thinking ends in this way; a request to answer is answered."""

    def world(request: Request) -> Trace:
        ended = Trace(0, "Hm.", (1,), finish, stop=stop, usage=Usage(output_tokens=1))
        return ended if request.stop else trace(0, "A")

    return world


def musing(request: Request) -> Trace:
    """A paragraph or a stretch of thinking takes what it may, one token at the most, and does not
    end; then it answers.
    """
    if request.purpose is Purpose.PROBE or not request.stop:
        return trace(0, "A", tokens=1)
    return Trace(
        0,
        "Hm.",
        (1,),
        Finish.RULE if request.rules or request.checkpoint else Finish.LENGTH,
        usage=Usage(output_tokens=1),
    )


def lines(reply: str) -> Callable[[Request], Trace]:
    """Every request but the last writes a line of ten tokens, and a probe or the large model writes
    `reply`.
    """

    def world(request: Request) -> Trace:
        aside = request.purpose is Purpose.PROBE or request.model == "large"
        return Trace(
            0,
            reply if aside else "So.",
            (1,),
            Finish.LENGTH if aside else Finish.RULE,
            usage=Usage(output_tokens=10),
        )

    return world


@dataclass(frozen=True, slots=True)
class Cost:
    """Options, the world they are run in, and the calls that the entry's formula gives."""

    options: dict[str, object]
    world: Callable[[Request], Trace]
    calls: int


CLOSED, ENDED, CUT = (
    thinking(Finish.STOP, "</think>"),
    thinking(Finish.STOP, ""),
    thinking(Finish.LENGTH, ""),
)
COSTS: list[tuple[str, Cost]] = [
    (
        "scrutinize",
        Cost(
            {"n": 4, "verdicts": 4, "preliminary": 1, "comparisons": 6},
            judged,
            4 + 3 * 1 * 4 + 3 * (4 - 1) * 4 + 6 * 1,
        ),
    ),
    (
        "scrutinize",
        Cost({"n": 4, "verdicts": 4, "preliminary": 0, "comparisons": 0}, judged, 4 + 3 * 4 * 4),
    ),
    ("beam", Cost({"verifier": "v", "n": 6, "width": 3, "steps": 4}, plain, 6 * 4)),
    ("dvts", Cost({"verifier": "v", "n": 6, "width": 3, "steps": 4}, plain, 6 * 4)),
    ("particles", Cost({"verifier": "v", "n": 5, "steps": 4}, plain, 5 * 4)),
    ("ab-mcts", Cost({"verifier": "v", "n": 7, "parallel": 3}, plain, 7)),
    ("revise", Cost({"chains": 3, "revisions": 2}, plain, 3 * (2 + 1))),
    ("rsa", Cost({"n": 5, "k": 2, "steps": 4}, plain, 5 * 4)),
    ("cascade", Cost({"models": ["main", "large"], "n": 4, "agreement": 0.75}, split, 4 * 2)),
    ("cascade", Cost({"models": ["main", "large"], "n": 4, "agreement": 0.5}, split, 4)),
    ("ensemble", Cost({"models": ["main", "large"], "n": 9}, split, 9)),
    ("budget-forcing", Cost({"n": 3, "ignore": 2}, CLOSED, 3 * (2 + 2))),
    ("budget-forcing", Cost({"n": 3, "ignore": 2}, CUT, 3 * 2)),
    ("budget-forcing", Cost({"n": 3, "ignore": 2}, ENDED, 3 * 1)),
    ("ab-mcts-m", Cost({"verifier": "v", "n": 7, "parallel": 3}, plain, 7)),
    # Fresh at their first turn; a critic before each other one.
    (
        "mind-evolution",
        Cost(
            {"verifier": "v", "islands": 2, "conversations": 3, "turns": 4, "generations": 1},
            plain,
            24 + 2 * 3 * 3,
        ),
    ),
    ("mits", Cost({"n": 3, "beam": 2, "steps": 3}, read, 2 * (3 + 3 * 2 * (3 - 1)))),
    (
        "early-answer",
        Cost({"n": 2, "thinking": 5}, musing, 2 * (2 * 4 + 1 + 1)),
    ),  # the last paragraph, cut, is not probed
    (
        "concise-hint",
        Cost({"n": 2, "interval": 1, "growth": 0.0, "thinking": 4}, musing, 2 * (4 + 1)),
    ),
    ("refine", Cost({"inner": "consistency n=3", "rounds": 2}, plain, (2 + 1) * 3)),
    ("staged", Cost({"stages": ["consistency n=4", "revise chains=2 revisions=1"]}, split, 4 + 4)),
    ("staged", Cost({"stages": ["consistency n=4", "revise chains=2 revisions=1"]}, plain, 4)),
    ("compute-optimal", Cost({}, split, 4 + 16)),
    ("compute-optimal", Cost({}, plain, 4 + 4)),
    # Three lines of ten tokens: each a chunk and a probe, but for the last, with which the tokens
    # end.
    (
        "speculative-thinking",
        Cost({"large": "large", "n": 1, "tokens": 30}, lines("So."), 3 * 2 - 1),
    ),
    # Lines of a chunk and a piece of the large model each: five pieces of ten tokens, a probe after
    # each of the three chunks but the last.
    (
        "speculative-thinking",
        Cost({"large": "large", "n": 1, "tokens": 50}, lines("Hold on."), 5 + 2),
    ),
]


@pytest.mark.parametrize(("name", "cost"), COSTS)
def test_it_makes_as_many_calls_as_its_entry_says(name: str, cost: Cost) -> None:
    """The sum as the entry has it."""
    strategy = registry.load("strategies", PluginSpec(name, cost.options))
    session = explore(strategy, cost.world, Plan(models={"main": Model("a"), "large": Model("b")}))
    assert not session.error
    assert len(session.traces) == cost.calls


def test_every_cost_in_calls_is_counted() -> None:
    """A strategy whose cost is given and never counted fails."""
    assert counted().keys() == {name for name, _ in COSTS}
