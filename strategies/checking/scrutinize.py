"""Self-verification: Sample, Scrutinize and Scale (Zhao et al., arXiv 2502.01839), Algorithm 1 with
the preliminary scoring of B.2.

Sample candidates; ask a verifier k times whether each is correct; where the best are within the tie
band and disagree, compare them in pairs. A verdict takes three turns of one conversation (B.3):
rewrite the candidate as theorem, lemmas and proofs; scan every step for errors; conclude. The
prompts are ours, in the gist of the paper's.

Where we differ: the preliminary verdicts count among the k of a candidate that stays, where the
paper draws k new ones; candidates of one answer at the cut are taken by the lower ordinal, not at
random; a comparison is asked in both orders in turn.

Which candidates verdicts favour, and who wins a contest of comparisons: Sample, Scrutinize and
Scale (arXiv 2502.01839), Algorithm 1.

Pure functions over a pool's verdicts, used twice: by the strategy, to decide whom to compare, and
by the selector, to rank from the finished pool. Both therefore come to the same view, also when a
pool is read again later.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from orchestrator.core.steps import Command, Reply, Steps, depth_needs, next_trace, sample, submit
from orchestrator.core.values import (
    Capability,
    Cluster,
    Finish,
    PluginSpec,
    Problem,
    Prompt,
    Purpose,
    Request,
    Trace,
)
from orchestrator.core.votes import rank, tally, voters
from orchestrator.kit.compose import gather
from orchestrator.kit.prompts import next_turn, question, visible_text
from orchestrator.kit.verdicts import VERDICT_FORM, WINNER_FORM, Match, matches, opinions

REWRITE = (
    "Below are a question and a proposed solution. Rewrite the solution as a theorem that states its final answer, the lemmas it rests on, "
    "and a proof of each. Keep every step and every number of the solution, also where you think that it is wrong; leave nothing out.\n\n"
    "Question:\n{question}\n\nProposed solution:\n{solution}"
)
SCAN = (
    "Now go through your rewritten solution step by step. For each step say what it claims, check that claim by itself, and say whether it "
    "holds. Look for wrong arithmetic, unproven assumptions, misread conditions and cases left out."
)
CONCLUDE = f"Given what you found, is the final answer of the proposed solution the correct answer to the question? {VERDICT_FORM}"
COMPARE = (
    "Below are a question and two proposed solutions whose final answers differ, so that at most one of them is right. Find each place "
    "where they part ways. At each, work out which of the two is right there. Then name the solution whose final answer is correct.\n\n"
    f"Question:\n{{question}}\n\nSolution 1:\n{{first}}\n\nSolution 2:\n{{second}}\n\n{WINNER_FORM}"
)

TIE_BAND = 0.05  # Algorithm 1, line 9


@dataclass(frozen=True, slots=True)
class Scrutinize:
    """Samples `n` traces, judges each `verdicts` times, and compares the best `comparisons` times a
    pair where they are tied.

    The paper's sizes are n 200, verdicts 50, comparisons 100, preliminary 10, per_answer 15; the
    defaults are a tenth of its cost and less. `preliminary` 0 judges every candidate in full.
    `judge` and `judge_depth` name the model pool and the latent depth that judge (as for the
    candidates when not set).
    """

    n: int = 16
    verdicts: int = 8
    comparisons: int = 8
    preliminary: int = 2
    floor: float = 0.2
    per_answer: int = 15
    band: float = TIE_BAND
    model: str = ""
    depth: int | None = None
    judge: str = ""
    judge_depth: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "n": (self.n >= 1, "at least 1"),
            "verdicts": (self.verdicts >= 1, "at least 1"),
            "comparisons": (self.comparisons >= 0, "at least 0; 0 leaves ties to the mean verdict"),
            "preliminary": (
                0 <= 2 * self.preliminary <= self.verdicts,
                "at least 0 and at most half of `verdicts`",
            ),
            "floor": (0 <= self.floor <= 1, "a share, 0 to 1"),
            "per_answer": (self.per_answer >= 1, "at least 1"),
            "band": (0 <= self.band <= 1, "a share, 0 to 1"),
        }
        for name, (held, need) in checks.items():
            if not held:
                raise ValueError(f"{name} = {getattr(self, name)!r}: it must be {need}")

    @property
    def pools(self) -> tuple[str, ...]:
        """The model pools it names besides `model`."""
        return (self.judge,)

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth, self.judge_depth)

    @property
    def selector(self) -> PluginSpec:
        """The vote that reads its judges."""
        return PluginSpec("scrutinized", {"band": self.band})

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Sample, judge (a little, then in full), compare."""
        traces = yield from sample(self.n, Request(model=self.model, depth=self.depth))
        stated = voters(traces)
        asked = self.preliminary or self.verdicts
        verdicts = yield from self._judge(problem.prompt, stated, asked)
        if self.preliminary:
            stated = self._promising(stated, verdicts)
            verdicts += yield from self._judge(problem.prompt, stated, self.verdicts - asked)
        by_ordinal = {t.ordinal: t for t in traces}
        contest = [by_ordinal[c.ordinal] for c in tied(candidates([*traces, *verdicts]), self.band)]
        yield from self._compare(problem.prompt, contest)

    def _judge(
        self, prompt: Prompt, subjects: Sequence[Trace], n: int
    ) -> Generator[Command, Reply, list[Trace]]:
        """Return `n` verdicts on each, all conversations side by side; one that failed half-way
        gives none.
        """
        given = yield from gather(
            self._verdict(prompt, subject) for subject in subjects for _ in range(n)
        )
        return [trace for trace in given if trace is not None]

    def _verdict(self, prompt: Prompt, subject: Trace) -> Generator[Command, Reply, Trace | None]:
        talk: Prompt = REWRITE.format(question=question(prompt), solution=visible_text(subject))
        for asked in (SCAN, CONCLUDE):
            said = yield from self._ask(talk, Purpose.VERIFY, ())
            if said.finish in (Finish.FAILED, Finish.CANCELLED):
                return None
            talk = next_turn(talk, visible_text(said), asked)
        return (yield from self._ask(talk, Purpose.VERIFY, (subject.ordinal,)))

    def _ask(
        self, talk: Prompt, purpose: Purpose, subjects: tuple[int, ...]
    ) -> Generator[Command, Reply, Trace]:
        model, depth = (
            self.judge or self.model,
            self.depth if self.judge_depth is None else self.judge_depth,
        )
        ordinals = yield from submit(
            [Request(talk, model=model, depth=depth, purpose=purpose, subjects=subjects)]
        )
        return (yield from next_trace(ordinals))

    def _promising(self, subjects: Sequence[Trace], verdicts: Sequence[Trace]) -> list[Trace]:
        """Return who is judged in full: with a mean of at least `floor`, of each answer the
        `per_answer` best; if nobody, the best one.
        """
        means = {ordinal: sum(given) / len(given) for ordinal, given in opinions(verdicts).items()}
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
        asked = []
        for one, other in combinations(contest, 2):
            for i in range(self.comparisons):
                first, second = (one, other) if i % 2 == 0 else (other, one)
                text = COMPARE.format(
                    question=question(prompt),
                    first=visible_text(first),
                    second=visible_text(second),
                )
                asked.append(self._ask(text, Purpose.COMPARE, (first.ordinal, second.ordinal)))
        yield from gather(asked)


@dataclass(frozen=True, slots=True)
class Scrutinized:
    """Sample, Scrutinize and Scale (arXiv 2502.01839): the answer of the best judged candidate; in
    the tie band, of the contest's winner.

    A cluster weighs the mean verdict of its best candidate; a contestant that was compared weighs 1
    plus the matchups it won. Answers without a verdict weigh 0. It reads the pool's judges:
    `scrutinize` makes such pools, and any strategy with judges may.
    """

    band: float = TIE_BAND

    def __post_init__(self) -> None:
        if not 0 <= self.band <= 1:
            raise ValueError(f"band = {self.band}: a share, 0 to 1")

    def __call__(self, traces: Sequence[Trace]) -> list[Cluster]:
        """Return clusters by verdict and contest."""
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


MAX_TIED = 3  # section 3.1: the three highest scoring candidates
_ROUNDING = (
    1e-9  # .95 - .05 is not .9 in floating point; a band is closed, so its edge belongs to it
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trace that states an answer and has been judged: the mean of its verdicts and how many
    there are.
    """

    ordinal: int
    key: str
    mean: float
    n_verdicts: int


def candidates(traces: Sequence[Trace]) -> list[Candidate]:
    """Return the judged candidates of a pool, best first: by mean, then number of verdicts, then
    the lower ordinal.

    One about whom judges were asked at most half as often as about the most asked was dropped after
    preliminary scoring: it is left out, because a few lucky verdicts would otherwise beat many.
    """
    on = opinions(traces)
    n_asked = Counter(
        t.subjects[0] for t in traces if t.purpose is Purpose.VERIFY and len(t.subjects) == 1
    )
    most = max(n_asked.values(), default=0)
    found = []
    for trace in voters(traces):
        given = on.get(trace.ordinal)
        if given and trace.answer is not None and 2 * n_asked[trace.ordinal] > most:
            found.append(
                Candidate(trace.ordinal, trace.answer.key, sum(given) / len(given), len(given))
            )
    return sorted(found, key=lambda c: (-c.mean, -c.n_verdicts, c.ordinal))


def tied(
    ranked: Sequence[Candidate], band: float = TIE_BAND, limit: int = MAX_TIED
) -> list[Candidate]:
    """Return who has to be compared: the best candidate of each answer among the `limit` best whose
    mean is within `band` of the best.

    Fewer than two answers need no comparison: then it is [].
    """
    best: dict[str, Candidate] = {}
    for candidate in ranked[:limit]:
        if candidate.mean >= ranked[0].mean - band - _ROUNDING:
            best.setdefault(candidate.key, candidate)
    return list(best.values()) if len(best) > 1 else []


def matchups_won(matches: Iterable[Match]) -> Mapping[int, float]:
    """Return how many matchups each contestant won: of each pair, whoever won more comparisons, one
    half each when neither did.

    The order in which a judge saw the two does not matter. Who was never compared is not in it.
    """
    shares: dict[tuple[int, int], list[float]] = {}
    for match in matches:
        low, high = sorted((match.first, match.second))
        shares.setdefault((low, high), []).append(
            match.share if match.first == low else 1.0 - match.share
        )
    won: dict[int, float] = {}
    for (low, high), given in shares.items():
        lead = sum(given) - len(given) / 2
        point = 0.5 if lead == 0 else float(lead > 0)
        won[low] = won.get(low, 0.0) + point
        won[high] = won.get(high, 0.0) + 1.0 - point
    return won
