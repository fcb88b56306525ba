"""The contract of verifiers: one verdict per trace, in order, with scores in [0, 1]. A verifier need not be deterministic.

Of one that asks models (`ask`): a verdict that its replies alone decide, whatever their order, and none where every request fails.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from orchestrator.core.protocols import AskingVerifier, Verifier
from orchestrator.core.types import Finish, Problem, Trace, Verdict
from orchestrator.testing.asking import check_asking, check_verdict
from orchestrator.testing.pools import PROBLEM, trace
from orchestrator.testing.rules import check_value, no_global_randomness, require

_UNUSUAL = ("", " \n", "\\boxed{", "🙂" * 50, "\x00", "no answer here", "word " * 2000)


async def check_verifier(
    verifier: Verifier | AskingVerifier, *, name: str = "", problem: Problem = PROBLEM, traces: Sequence[Trace] = ()
) -> None:
    """Check the contract of a verifier, on traces of every kind besides those given.

    `name` is the one under which it is registered: its verdicts must carry it, because selectors look for it.
    """
    check_value(verifier)
    plain: Any = verifier
    unusual = [Trace(100 + i, text, finish=finish) for i, text in enumerate(_UNUSUAL) for finish in (Finish.STOP, Finish.LENGTH)]
    usual = [*traces, *(trace(200 + i, answer) for i, answer in enumerate(("42", "41", None)))]
    cancelled = trace(300, "42", finish=Finish.CANCELLED)
    if hasattr(verifier, "ask"):
        check_asking(plain, name, problem, [*usual, cancelled, *unusual])
        return
    with no_global_randomness():
        for batch in ([], usual[:1], usual, unusual, [*usual, cancelled, *unusual]):
            await _checked(plain, name, problem, batch)
        await _check_order(plain, name, problem, usual)


async def _checked(verifier: Verifier, name: str, problem: Problem, batch: Sequence[Trace]) -> list[Verdict]:
    before = copy.deepcopy(list(batch))
    try:
        verdicts = await verifier.score(problem, batch)
    except Exception as error:
        raise AssertionError(
            f"raises nothing: {error!r} for {len(batch)} traces; a trace that cannot be judged gets a low score"
        ) from error
    require(list(batch) == before, "pure", "it changed the traces; build new values")
    returned: object = verdicts
    well_made = isinstance(returned, list) and all(isinstance(v, Verdict) for v in returned)
    require(well_made, "verdicts", f"it returned {verdicts!r:.200}; return a list of Verdicts")
    n = f"{len(verdicts)} verdicts for {len(batch)} traces"
    require(len(verdicts) == len(batch), "one verdict per trace", f"{n}; judge every trace, also one without an answer, and [] for []")
    for verdict in verdicts:
        check_verdict(verdict, name)
    return verdicts


async def _check_order(verifier: Verifier, name: str, problem: Problem, batch: list[Trace]) -> None:
    """Turn the batch round: the verdicts must turn with it, unless the verifier draws."""
    forward = await _checked(verifier, name, problem, batch)
    if forward != await _checked(verifier, name, problem, batch):
        return
    backward = await _checked(verifier, name, problem, batch[::-1])
    scores, turned = [v.score for v in forward], [v.score for v in reversed(backward)]
    require(scores == turned, "verdicts in the order of the traces", f"{scores} forwards, {turned} backwards; keep the order")
