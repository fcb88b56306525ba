"""Self-verification: Sample, Scrutinize and Scale (Zhao et al., arXiv 2502.01839), Algorithm 1.

Includes the preliminary scoring of B.2. Sample candidates; ask an LLM judge k times whether each is
correct; if the best are within the tie band and disagree, compare them in pairs. A verdict takes
three turns of one conversation (B.3): rewrite the candidate as theorem, lemmas and proofs; check
every step for errors; conclude. The prompts are ours and follow the paper's.

Where we differ: the preliminary verdicts count among the k of a candidate that stays, where the
paper draws k new ones; candidates of one answer at the cut are taken by the lower ordinal, not at
random; comparisons alternate between the two orders.

Pure functions read the favoured candidates and the winner from the pool. The strategy uses them to
decide which candidates to compare, and the selector to rank the finished pool. So both agree, even
when a pool is read again later.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps, ask, depth_needs, sample
from orchestrator.core.values import (
    Capability,
    Cluster,
    PluginSpec,
    Problem,
    Prompt,
    Purpose,
    Request,
    Trace,
)
from orchestrator.core.votes import rank, tally, voters
from orchestrator.kit.compose import gather
from orchestrator.kit.options import LatentDepth, ModelOptions
from orchestrator.kit.prompts import next_turn, question, visible_text
from orchestrator.kit.verdicts import VERDICT_FORM, WINNER_FORM, Comparison, matches, opinions

TIE_BAND = 0.05  # Algorithm 1, line 9
MAX_TIED = 3  # section 3.1: the three highest scoring candidates
_ROUNDING = 1e-9  # .95 - .05 is not .9 in floating point; a closed band includes its edge
REWRITE = (
    "Below are a question and a proposed solution. Rewrite the solution as a theorem that states "
    "its final answer, the lemmas it rests on, and a proof of each. Keep every step and every "
    "number of the solution, also where you think that it is wrong; leave nothing out.\n\n"
    "Question:\n{question}\n\nProposed solution:\n{solution}"
)
SCAN = (
    "Now go through your rewritten solution step by step. For each step say what it claims, check "
    "that claim by itself, and say whether it holds. Look for wrong arithmetic, unproven "
    "assumptions, misread conditions and cases left out."
)
CONCLUDE = (
    "Given what you found, is the final answer of the proposed solution the correct answer to the "
    f"question? {VERDICT_FORM}"
)
COMPARE = (
    "Below are a question and two proposed solutions whose final answers differ, so that at most "
    "one of them is right. Find each place where they part ways. At each, work out which of the "
    "two is right there. Then name the solution whose final answer is correct.\n\n"
    f"Question:\n{{question}}\n\nSolution 1:\n{{first}}\n\nSolution 2:\n{{second}}\n\n{WINNER_FORM}"
)

_BAND = Meta(
    ge=0,
    le=1,
    description="Distance from the best mean verdict within which candidates are tied and "
    "compared in pairs.",
)


@dataclass(frozen=True, slots=True)
class Scrutinize(ModelOptions):
    """Verifies each attempt with a model and compares the best in pairs.

    The paper's sizes are n 200, verdicts 50, comparisons 100, preliminary 10, per_answer 15; the
    defaults cost a tenth of that or less.
    """

    n: Annotated[int, Meta(ge=1, description="Number of candidates to sample.")] = 16
    verdicts: Annotated[
        int, Meta(ge=1, description="Number of verdicts on a candidate that is verified in full.")
    ] = 8
    comparisons: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of comparisons of each tied pair; 0 leaves ties to the mean of "
            "verdicts.",
        ),
    ] = 8
    preliminary: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of preliminary verdicts, which decide the candidates to verify in "
            "full; at most half of `verdicts`; 0 verifies every candidate in full.",
        ),
    ] = 2
    floor: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Mean of the preliminary verdicts below which a candidate is dropped.",
        ),
    ] = 0.2
    per_answer: Annotated[
        int,
        Meta(ge=1, description="Largest number of candidates of one answer verified in full."),
    ] = 15
    band: Annotated[float, _BAND] = TIE_BAND
    judge: Annotated[
        str,
        Meta(description="Model pool of the plan that judges; empty for the candidates' pool."),
    ] = ""
    judge_depth: LatentDepth = None

    def __post_init__(self) -> None:
        if 2 * self.preliminary > self.verdicts:
            raise ValueError(
                f"preliminary = {self.preliminary}: at most half of `verdicts`, {self.verdicts}"
            )

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools that this strategy names in addition to `model`."""
        return (self.judge,)

    @property
    def needs(self) -> frozenset[Capability]:
        """The capabilities the engine must have: latent depth, if one is set."""
        return depth_needs(self.depth, self.judge_depth)

    @property
    def selector(self) -> PluginSpec:
        """The selector that uses the verdicts and comparisons of this strategy."""
        return PluginSpec("scrutinized", {"band": self.band})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample, verify (first preliminarily, then in full), compare."""
        traces = yield from sample(self.n, self.request)
        subjects = voters(traces)
        n_first = self.preliminary or self.verdicts
        verdicts = yield from self._verify(problem.prompt, subjects, n_first)
        if self.preliminary:
            subjects = self._promising(subjects, verdicts)
            verdicts += yield from self._verify(problem.prompt, subjects, self.verdicts - n_first)
        by_ordinal = {t.ordinal: t for t in traces}
        contest = [by_ordinal[c.ordinal] for c in tied(candidates([*traces, *verdicts]), self.band)]
        yield from self._compare(problem.prompt, contest)

    def _verify(
        self, prompt: Prompt, subjects: Sequence[Trace], n: int
    ) -> Generator[Command, Reply, list[Trace]]:
        """Return `n` verdicts on each candidate; all conversations run concurrently.

        A conversation that failed before its verdict yields none.
        """
        verdicts = yield from gather(
            self._verdict(prompt, subject) for subject in subjects for _ in range(n)
        )
        return [trace for trace in verdicts if trace is not None]

    def _verdict(self, prompt: Prompt, subject: Trace) -> Generator[Command, Reply, Trace | None]:
        talk: Prompt = REWRITE.format(question=question(prompt), solution=visible_text(subject))
        for message in (SCAN, CONCLUDE):
            reply = yield from self._judge(talk, Purpose.VERIFY, ())
            if reply.lost:
                return None
            talk = next_turn(talk, visible_text(reply), message)
        return (yield from self._judge(talk, Purpose.VERIFY, (subject.ordinal,)))

    def _judge(
        self, talk: Prompt, purpose: Purpose, subjects: tuple[int, ...]
    ) -> Generator[Command, Reply, Trace]:
        """Return the judge's reply to a conversation."""
        model = self.judge or self.model
        depth = self.depth if self.judge_depth is None else self.judge_depth
        request = Request(talk, model=model, depth=depth, purpose=purpose, subjects=subjects)
        return (yield from ask(request))

    def _promising(self, subjects: Sequence[Trace], verdicts: Sequence[Trace]) -> list[Trace]:
        """Return the candidates to verify in full, best first; at least the best one.

        They have a mean of at least `floor` and are among the `per_answer` best of their answer.
        """
        means = {ordinal: sum(own) / len(own) for ordinal, own in opinions(verdicts).items()}
        ranked = sorted(
            (t for t in subjects if t.ordinal in means),
            key=lambda t: (-means[t.ordinal], t.ordinal),
        )
        n_kept: Counter[str] = Counter()
        kept: list[Trace] = []
        for trace in ranked:
            assert trace.answer is not None
            if means[trace.ordinal] >= self.floor and n_kept[trace.answer.key] < self.per_answer:
                n_kept[trace.answer.key] += 1
                kept.append(trace)
        return kept or ranked[:1]

    def _compare(self, prompt: Prompt, contest: Sequence[Trace]) -> Generator[Command, Reply, None]:
        replies = []
        for one, other in combinations(contest, 2):
            for i in range(self.comparisons):
                first, second = (one, other) if i % 2 == 0 else (other, one)
                text = COMPARE.format(
                    question=question(prompt),
                    first=visible_text(first),
                    second=visible_text(second),
                )
                replies.append(self._judge(text, Purpose.COMPARE, (first.ordinal, second.ordinal)))
        yield from gather(replies)


@dataclass(frozen=True, slots=True)
class Scrutinized:
    """Ranks answers by an LLM judge's verdicts; for pools of `scrutinize`.

    Within the tie band, the winner of the comparisons leads (arXiv 2502.01839). A cluster's weight
    is the mean verdict of its best candidate, or 1 plus the number of matchups won if that
    candidate was compared. Answers without a verdict have weight 0. It works on any pool with
    verdicts of LLM judges.
    """

    band: Annotated[float, _BAND] = TIE_BAND

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters ranked by verdicts and comparisons."""
        ranked = candidates(traces)
        weights: dict[str, float] = {}
        for candidate in ranked:
            weights.setdefault(candidate.key, candidate.mean)
        won = matchups_won(matches(traces))
        for contestant in tied(ranked, self.band):
            if contestant.ordinal in won:
                weights[contestant.key] = 1.0 + won[contestant.ordinal]
        return rank(
            replace(c, weight=weights.get(c.answer.key, 0.0)) for c in tally(voters(traces))
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An attempt with an answer and verdicts: the mean and the number of its verdicts."""

    ordinal: int
    key: str
    mean: float
    n_verdicts: int


def candidates(traces: Sequence[Trace]) -> list[Candidate]:
    """Return the candidates of a pool that have verdicts, best first.

    By mean, then number of verdicts, then the lower ordinal. A candidate with at most half of the
    largest number of verdict requests was dropped after preliminary scoring: it is left out,
    because a few lucky verdicts would otherwise beat many.
    """
    verdicts = opinions(traces)
    n_requests = Counter(
        t.subjects[0] for t in traces if t.purpose is Purpose.VERIFY and len(t.subjects) == 1
    )
    most = max(n_requests.values(), default=0)
    pool = []
    for trace in voters(traces):
        own = verdicts.get(trace.ordinal)
        if own and trace.answer is not None and 2 * n_requests[trace.ordinal] > most:
            pool.append(Candidate(trace.ordinal, trace.answer.key, sum(own) / len(own), len(own)))
    return sorted(pool, key=lambda c: (-c.mean, -c.n_verdicts, c.ordinal))


def tied(
    ranked: Sequence[Candidate], band: float = TIE_BAND, limit: int = MAX_TIED
) -> list[Candidate]:
    """Return the candidates to compare: the best one of each answer within the tie band.

    Only the `limit` best count, and only means within `band` of the best. Returns [] for fewer than
    two answers, which need no comparison.
    """
    best: dict[str, Candidate] = {}
    for candidate in ranked[:limit]:
        if candidate.mean >= ranked[0].mean - band - _ROUNDING:
            best.setdefault(candidate.key, candidate)
    return list(best.values()) if len(best) > 1 else []


def matchups_won(matches: Iterable[Comparison]) -> Mapping[int, float]:
    """Return how many matchups each contestant won.

    The winner of a pair has won more of its comparisons; with equal numbers each gets one half. The
    order in which a judge saw the two does not matter. Candidates that were never compared are not
    included.
    """
    shares: dict[tuple[int, int], list[float]] = {}
    for match in matches:
        low, high = sorted((match.first, match.second))
        shares.setdefault((low, high), []).append(
            match.share if match.first == low else 1.0 - match.share
        )
    won: dict[int, float] = {}
    for (low, high), of_low in shares.items():
        lead = sum(of_low) - len(of_low) / 2
        point = 0.5 if lead == 0 else float(lead > 0)
        won[low] = won.get(low, 0.0) + point
        won[high] = won.get(high, 0.0) + 1.0 - point
    return won
