"""Why accuracy was lost, as far as counts tell, each cause with its remedy.

The one rule: a cause is named where something can be done about it, while a job runs and afterwards
alike. The counts are those of results (`Result.attempts`, ties), so no text is read. Not covered:
answers that are wrong.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.plan import Plan
from orchestrator.core.votes import AttemptState
from orchestrator.runtime.progress import Progress
from orchestrator.studies.evaluate import Report

# of all attempts; below it, what could be won is within the noise of most evaluations
_LEAST_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Losses:
    """What the causes are found from: counts of attempts by state, and of problems."""

    attempts: Mapping[str, int]
    n_problems: int
    n_tied: int = 0
    n_scattered: int = 0

    @property
    def n_attempts(self) -> int:
        """The number of attempts, cancelled and dropped ones included."""
        return sum(self.attempts.values())


@dataclass(frozen=True, slots=True)
class LossCause:
    """A cause of lost accuracy: `n` of `of` attempts or problems (`noun`), and what to do.

    `meaning` follows the noun: "were cut ..., and have no vote". `hint` is the remedy in short.
    """

    cause: str
    n: int
    of: int
    noun: str
    meaning: str
    remedy: str
    hint: str

    @property
    def brief(self) -> str:
        """The number and the hint, for a line of a running job."""
        return f"{self.n:,} of {self.of:,} {self.noun}; {self.hint}"

    @property
    def text(self) -> str:
        """The meaning and the remedy, without the number `n`."""
        return f"of {self.of:,} {self.noun} {self.meaning}. Remedy: {self.remedy}"


def losses_of(report: Report) -> Losses:
    """Return the counts of a finished job."""
    return Losses(report.attempts, report.n_results, report.n_tied, report.n_scattered)


def losses_so_far(progress: Progress) -> Losses:
    """Return the counts of a running job."""
    n_done = progress.n_done - progress.n_resumed
    attempts = dict(progress.attempts)  # a copy: another thread counts
    return Losses(attempts, n_done, progress.n_tied, progress.n_scattered)


def loss_causes(
    losses: Losses, plan: Plan, directory: str | Path, n_least: int = 1
) -> list[LossCause]:
    """Return the causes that are worth naming, of at least `n_least` attempts or problems."""
    at_least = max(n_least, _LEAST_SHARE * losses.n_attempts)
    folder = shlex.quote(str(directory))
    causes = [one for one in _of_attempts(losses, plan, folder) if one.n >= at_least]
    return causes + [one for one in _of_votes(losses, folder) if one.n >= n_least]


def _of_attempts(losses: Losses, plan: Plan, directory: str) -> Iterator[LossCause]:
    def cause(state: AttemptState, meaning: str, remedy: str, hint: str) -> LossCause:
        n = losses.attempts.get(state.value, 0)
        return LossCause(state.value, n, losses.n_attempts, "attempts", meaning, remedy, hint)

    limit = f"sampling.max_new_tokens = {plan.sampling.max_new_tokens:,}"
    yield cause(
        AttemptState.CUT_OFF,
        f"were cut at {limit} before they gave an answer, and have no vote",
        "raise sampling.max_new_tokens",
        "raise sampling.max_new_tokens",
    )
    yield cause(
        AttemptState.ABSTAINED,
        "came to their end, and no answer was found in them",
        f"leadline answers --job {directory} shows how they were read; ask for the form of "
        "the answer in sampling.template",
        f"see leadline answers --job {directory}",
    )
    yield cause(
        AttemptState.FAILED,
        "failed, and have no vote",
        f"leadline show {directory} ID shows the reason",
        "the last error has the reason",
    )


def _of_votes(losses: Losses, directory: str) -> Iterator[LossCause]:
    yield LossCause(
        "no agreement",
        losses.n_scattered,
        losses.n_problems,
        "problems",
        "have no two attempts with the same answer, so the vote decides nothing",
        f"leadline answers --job {directory} shows which answers count as one; choose another "
        "domain, a lower sampling.temperature or a verifier",
        f"see leadline answers --job {directory}",
    )
    yield LossCause(
        "ties",
        losses.n_tied,
        losses.n_problems,
        "problems",
        "have two first answers of the same weight: the larger count decided, then the earlier "
        "attempt",
        "more attempts, an odd number of them, or a selector that weighs them",
        "more attempts decide",
    )
