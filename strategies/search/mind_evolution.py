"""Mind Evolution: a genetic search over whole solutions (Lee et al., arXiv 2501.09891).

A programmatic evaluator guides the search. Islands of solutions evolve independently. In each
generation every island runs conversations: the prompt shows a few of its solutions, drawn by their
scores, with the evaluator's notes on them; a critic (the model) analyses them, and an author (the
model) writes a better one, which is evaluated and criticised in turn. The best solutions migrate to
the next island; at intervals, the worst islands are reset to the best solutions overall. The search
ends when the problem is solved. The prompts are ours and follow the paper's.

Where we differ: islands evolve concurrently and migrate after each generation, where the paper's
take turns; a reset island gets solutions with different answers, where the paper asks the model
which ones differ. The numbers are the paper's as remembered.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from msgspec import Meta

from orchestrator.core.steps import Command, Reply, Steps, ask, note
from orchestrator.core.values import Problem, Prompt, Purpose, Trace, changed
from orchestrator.kit.compose import gather
from orchestrator.kit.options import LARGEST, ModelOptions
from orchestrator.kit.prompts import question, visible_text, with_question

CRITIC = (
    "{question}\n\nBelow are candidate solutions to this problem, with what a checker says of each."
    "\n\n{candidates}\n\nYou are the critic. Analyse them: which requirements does each meet, which"
    " does it miss, and why? What should a better solution take from them, what must it change? Do "
    "not write the solution."
)
AUTHOR = (
    "{question}\n\nBelow are candidate solutions to this problem, with what a checker says of each."
    "\n\n{candidates}\n\nA critic's analysis:\n{critique}\n\nYou are the author. Write a better "
    "solution, complete and in the form that was asked for."
)


@dataclass(frozen=True, slots=True)
class EvaluatedSolution:
    """An attempt, its score in [0, 1] from the evaluator, and the evaluator's note."""

    attempt: Trace
    score: float
    note: str = ""


Island: TypeAlias = list[EvaluatedSolution]


@dataclass(frozen=True, slots=True)
class MindEvolution(ModelOptions):
    """Evolves whole solutions with a critic; needs a programmatic verifier.

    A conversation starts with 0 to `parents` solutions, each number equally likely, drawn with
    weights exp(score / `temperature`).
    """

    verifier: Annotated[
        str, Meta(description="Name of the plan's verifier that evaluates solutions.")
    ]
    islands: Annotated[
        int, Meta(ge=1, description="Number of populations that evolve independently.")
    ] = 4
    conversations: Annotated[
        int, Meta(ge=1, description="Number of conversations of an island in one generation.")
    ] = 5
    turns: Annotated[
        int, Meta(ge=1, description="Largest number of solutions written in one conversation.")
    ] = 4
    generations: Annotated[int, Meta(ge=1, description="Largest number of generations.")] = 10
    parents: Annotated[
        int,
        Meta(ge=1, description="Largest number of solutions with which a conversation starts."),
    ] = 5
    temperature: Annotated[
        float,
        Meta(
            gt=0,
            le=LARGEST,
            description="How evenly parents are drawn: low favours high scores; high draws nearly "
            "at random.",
        ),
    ] = 0.1
    emigrants: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of best solutions copied to the next island after each generation.",
        ),
    ] = 5
    reset_every: Annotated[
        int, Meta(ge=1, description="Number of generations between two resets.")
    ] = 3
    reset_islands: Annotated[
        int,
        Meta(
            ge=0,
            description="Number of worst islands that are reset, at most `islands`; 0 for none.",
        ),
    ] = 2
    candidates: Annotated[
        int,
        Meta(
            description="Number of best solutions of all islands from which a reset takes those "
            "with different answers; at least `survivors`."
        ),
    ] = 15
    survivors: Annotated[
        int, Meta(ge=1, description="Number of solutions that a reset island starts with.")
    ] = 5
    solved: Annotated[
        float, Meta(description="Smallest score at which a solution counts as solving the problem.")
    ] = 1.0

    def __post_init__(self) -> None:
        if self.reset_islands > self.islands:
            raise ValueError(
                f"reset_islands = {self.reset_islands}: there are only {self.islands} islands"
            )
        if self.candidates < self.survivors:
            raise ValueError(
                f"candidates = {self.candidates}: at least survivors = {self.survivors} are needed"
            )

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The evaluator."""
        return (self.verifier,)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Evolve until a conversation solves the problem, then stop the others."""
        islands: list[Island] = [[] for _ in range(self.islands)]
        solved: list[EvaluatedSolution] = []
        for generation in range(1, self.generations + 1):
            groups = [
                (number, self.draw_parents(island, rng))
                for number, island in enumerate(islands, 1)
                for _ in range(self.conversations)
            ]
            conversations = [
                _placed(self._conversation(problem.prompt, parents, solved), number, generation)
                for number, parents in groups
            ]
            written = yield from gather(conversations)
            for i, solutions in enumerate(written):
                islands[i // self.conversations] += solutions
            if solved or generation == self.generations:
                return
            islands = self.migrated(islands)
            if generation % self.reset_every == 0:
                islands = self.reset(islands)

    def draw_parents(
        self, island: Sequence[EvaluatedSolution], rng: random.Random
    ) -> list[EvaluatedSolution]:
        """Return the solutions with which a conversation starts.

        Drawn without replacement: a Boltzmann tournament.
        """
        n = min(rng.randint(0, self.parents), len(island))
        left, drawn = list(island), []
        for _ in range(n):
            top = max(s.score for s in left)
            weights = [math.exp((s.score - top) / self.temperature) for s in left]
            drawn.append(left.pop(rng.choices(range(len(left)), weights)[0]))
        return drawn

    def migrated(self, islands: Sequence[Island]) -> list[Island]:
        """Return the islands, each extended by the best of the previous one, in a ring.

        Solutions that it already has are not copied.
        """
        return [
            _united(island, _best(islands[i - 1], self.emigrants))
            for i, island in enumerate(islands)
        ]

    def reset(self, islands: Sequence[Island]) -> list[Island]:
        """Return the islands; those with the lowest mean scores are reset to good solutions of all.

        Among islands with equal means, the later one is reset.
        """
        everything: Island = []
        for island in islands:
            everything = _united(everything, island)
        founders = different(_best(everything, self.candidates), self.survivors)
        worst = sorted(range(len(islands)), key=lambda i: (_mean(islands[i]), -i))[
            : self.reset_islands
        ]
        return [list(founders) if i in worst else island for i, island in enumerate(islands)]

    def _conversation(
        self, prompt: Prompt, parents: Sequence[EvaluatedSolution], solved: list[EvaluatedSolution]
    ) -> Generator[Command, Reply, list[EvaluatedSolution]]:
        """Return the solutions of one conversation, each made from the previous one.

        The first is made from the parents. A failure ends the conversation.
        """
        written: list[EvaluatedSolution] = []
        subjects = parents
        while len(written) < self.turns and not solved:
            request = changed(self.request, verifiers=(self.verifier,))
            if subjects:
                text = _prompt(CRITIC, prompt, subjects)
                critique = yield from ask(
                    changed(self.request, prompt=text, purpose=Purpose.VERIFY)
                )
                if critique.lost or solved:
                    break
                request = changed(
                    request,
                    prompt=_prompt(AUTHOR, prompt, subjects, critique=visible_text(critique)),
                    purpose=Purpose.AGGREGATE,
                    subjects=tuple(sorted(s.attempt.ordinal for s in subjects)),
                )
            attempt = yield from ask(request)
            verdicts = [v for v in attempt.verdicts if v.verifier == self.verifier]
            if attempt.lost or not verdicts:
                break
            subjects = [EvaluatedSolution(attempt, verdicts[-1].score, verdicts[-1].note)]
            written += subjects
            solved += [s for s in subjects if s.score >= self.solved]
        return written


def _placed(
    conversation: Generator[Command, Reply, list[EvaluatedSolution]], island: int, generation: int
) -> Generator[Command, Reply, list[EvaluatedSolution]]:
    """Hold a conversation and note on which island its solutions are."""
    written = yield from conversation
    for solution in written:
        yield from note(solution.attempt.ordinal, f"generation {generation}", f"island {island}")
    return written


def different(solutions: Sequence[EvaluatedSolution], n: int) -> list[EvaluatedSolution]:
    """Return `n` of the solutions: first the best of each answer, then the second of each, etc."""
    n_seen: dict[str | None, int] = {}
    rounds = []
    for solution in solutions:
        key = solution.attempt.answer.key if solution.attempt.answer else None
        n_seen[key] = n_seen.get(key, 0) + 1
        rounds.append(n_seen[key])
    return [
        solution
        for _, solution in sorted(zip(rounds, solutions, strict=True), key=lambda pair: pair[0])
    ][:n]


def _best(solutions: Sequence[EvaluatedSolution], n: int) -> Island:
    return sorted(solutions, key=lambda s: (-s.score, s.attempt.ordinal))[:n]


def _united(island: Sequence[EvaluatedSolution], others: Sequence[EvaluatedSolution]) -> Island:
    here = {s.attempt.ordinal for s in island}
    return [*island, *(s for s in others if s.attempt.ordinal not in here)]


def _mean(island: Sequence[EvaluatedSolution]) -> float:
    return math.fsum(s.score for s in island) / len(island) if island else 0.0


def _prompt(
    form: str, prompt: Prompt, solutions: Sequence[EvaluatedSolution], critique: str = ""
) -> Prompt:
    candidates = "\n\n".join(
        f"Candidate {i}:\n{visible_text(s.attempt)}\nChecker: Score {s.score:.2f} of 1."
        + (f" {s.note}" if s.note else "")
        for i, s in enumerate(solutions, 1)
    )
    return with_question(
        prompt, form.format(question=question(prompt), candidates=candidates, critique=critique)
    )
