"""Mind Evolution: a genetic search over whole solutions (Lee et al., arXiv 2501.09891), guided by a
programmatic evaluator.

Islands of solutions evolve apart from each other. In each generation every island holds
conversations: a few of its solutions, drawn by their scores, are shown with what the evaluator says
of them; a critic (the model) analyses them, an author (the model) writes a better one, which is
evaluated and criticised in turn. The best emigrate to the next island; now and then the worst
islands begin anew from the best solutions of all. It ends when a solution is solved. The prompts
are ours, in the gist of the paper's.

Where we differ: islands evolve side by side and migrate after each generation, where the paper's
take turns; an island that begins anew is given solutions with different answers, where the paper
asks the model which ones differ. The numbers are the paper's as remembered.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from orchestrator.core.steps import Command, Reply, Steps, ask, depth_needs
from orchestrator.core.values import Capability, Finish, Problem, Prompt, Purpose, Request, Trace
from orchestrator.kit.compose import gather
from orchestrator.kit.prompts import question, visible_text, with_question

CRITIC = (
    "{question}\n\nBelow are candidate solutions to this problem, with what a checker says of each.\n\n{candidates}\n\nYou are the critic. "
    "Analyse them: which requirements does each meet, which does it miss, and why? What should a better solution take from them, what must "
    "it change? Do not write the solution."
)
AUTHOR = (
    "{question}\n\nBelow are candidate solutions to this problem, with what a checker says of each.\n\n{candidates}\n\nA critic's analysis:"
    "\n{critique}\n\nYou are the author. Write a better solution, complete and in the form that was asked for."
)


@dataclass(frozen=True, slots=True)
class Solution:
    """An attempt, the evaluator's score of it in [0, 1], and what the evaluator said."""

    attempt: Trace
    score: float
    note: str = ""


Island = list[Solution]


@dataclass(frozen=True, slots=True)
class MindEvolution:
    """Evolves `islands` islands over `generations`, each by `conversations` of up to `turns`
    solutions. `verifier` names the evaluator.

    A conversation begins with 0 to `parents` solutions, each number as likely, drawn with weights
    exp(score / `temperature`). `emigrants` are copied to the next island; every `reset_every`
    generations the `reset_islands` worst get `survivors` of the `candidates` best of all. It ends
    when a score reaches `solved`.
    """

    verifier: str
    islands: int = 4
    conversations: int = 5
    turns: int = 4
    generations: int = 10
    parents: int = 5
    temperature: float = 0.1
    emigrants: int = 5
    reset_every: int = 3
    reset_islands: int = 2
    candidates: int = 15
    survivors: int = 5
    solved: float = 1.0
    model: str = ""
    depth: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "islands",
            "conversations",
            "turns",
            "generations",
            "parents",
            "reset_every",
            "survivors",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: at least 1")
        if (
            not 0 <= self.reset_islands <= self.islands
            or self.emigrants < 0
            or self.candidates < self.survivors
        ):
            given = f"reset_islands = {self.reset_islands}, emigrants = {self.emigrants}, candidates = {self.candidates}"
            raise ValueError(
                f"{given}: 0 to islands = {self.islands}, at least 0, at least survivors = {self.survivors}"
            )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature}: above 0 and finite")

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The evaluator."""
        return (self.verifier,)

    @property
    def needs(self) -> frozenset[Capability]:
        """What the engine must be able to do: latent depth, if one is asked for."""
        return depth_needs(self.depth)

    def explore(self, problem: Problem, rng: random.Random) -> Steps:
        """Evolve; a conversation that stands when another has solved the problem takes no further
        turn.
        """
        islands: list[Island] = [[] for _ in range(self.islands)]
        solved: list[Solution] = []
        for generation in range(1, self.generations + 1):
            casts = [
                self.cast(island, rng) for island in islands for _ in range(self.conversations)
            ]
            made = yield from gather(
                [self._conversation(problem.prompt, parents, solved) for parents in casts]
            )
            for i, solutions in enumerate(made):
                islands[i // self.conversations] += solutions
            if solved or generation == self.generations:
                return
            islands = self.migrated(islands)
            if generation % self.reset_every == 0:
                islands = self.reset(islands)

    def cast(self, island: Sequence[Solution], rng: random.Random) -> list[Solution]:
        """Return the solutions that a conversation begins with, drawn without replacement: a
        Boltzmann tournament.
        """
        n = min(rng.randint(0, self.parents), len(island))
        left, drawn = list(island), []
        for _ in range(n):
            top = max(s.score for s in left)
            weights = [math.exp((s.score - top) / self.temperature) for s in left]
            drawn.append(left.pop(rng.choices(range(len(left)), weights)[0]))
        return drawn

    def migrated(self, islands: Sequence[Island]) -> list[Island]:
        """Return the islands, each with the best of the one before it (in a ring) beside its own;
        what it has already is not copied.
        """
        return [
            _united(island, _best(islands[i - 1], self.emigrants))
            for i, island in enumerate(islands)
        ]

    def reset(self, islands: Sequence[Island]) -> list[Island]:
        """Return the islands, those with the lowest mean scores replaced by good solutions of all;
        of equal ones the later are.
        """
        everybody: Island = []
        for island in islands:
            everybody = _united(everybody, island)
        founders = different(_best(everybody, self.candidates), self.survivors)
        worst = sorted(range(len(islands)), key=lambda i: (_mean(islands[i]), -i))[
            : self.reset_islands
        ]
        return [list(founders) if i in worst else island for i, island in enumerate(islands)]

    def _conversation(
        self, prompt: Prompt, parents: Sequence[Solution], solved: list[Solution]
    ) -> Generator[Command, Reply, list[Solution]]:
        """Return the solutions of one conversation, each made of the one before, the first of the
        parents; a failure ends it.
        """
        made: list[Solution] = []
        seen = parents
        while len(made) < self.turns and not solved:
            request = Request(model=self.model, depth=self.depth, verifiers=(self.verifier,))
            if seen:
                critique = yield from _one(
                    Request(
                        _asked(CRITIC, prompt, seen),
                        model=self.model,
                        depth=self.depth,
                        purpose=Purpose.VERIFY,
                    )
                )
                if critique is None or solved:
                    break
                request = Request(
                    _asked(AUTHOR, prompt, seen, critique=visible_text(critique)),
                    model=self.model,
                    depth=self.depth,
                    verifiers=(self.verifier,),
                    purpose=Purpose.AGGREGATE,
                    subjects=tuple(sorted(s.attempt.ordinal for s in seen)),
                )
            attempt = yield from _one(request)
            verdicts = (
                []
                if attempt is None
                else [v for v in attempt.verdicts if v.verifier == self.verifier]
            )
            if attempt is None or not verdicts:
                break
            made.append(Solution(attempt, verdicts[-1].score, verdicts[-1].note))
            solved += [s for s in made[-1:] if s.score >= self.solved]
            seen = made[-1:]
        return made


def different(solutions: Sequence[Solution], n: int) -> list[Solution]:
    """Return `n` of these, best first: first the best of each answer, then the second of each, and
    so on.
    """
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


def _best(solutions: Sequence[Solution], n: int) -> Island:
    return sorted(solutions, key=lambda s: (-s.score, s.attempt.ordinal))[:n]


def _united(island: Sequence[Solution], others: Sequence[Solution]) -> Island:
    here = {s.attempt.ordinal for s in island}
    return [*island, *(s for s in others if s.attempt.ordinal not in here)]


def _mean(island: Sequence[Solution]) -> float:
    return math.fsum(s.score for s in island) / len(island) if island else 0.0


def _asked(form: str, prompt: Prompt, solutions: Sequence[Solution], critique: str = "") -> Prompt:
    said = (f"Score {s.score:.2f} of 1." + (f" {s.note}" if s.note else "") for s in solutions)
    candidates = "\n\n".join(
        f"Candidate {i}:\n{visible_text(s.attempt)}\nChecker: {verdict}"
        for i, (s, verdict) in enumerate(zip(solutions, said, strict=True), 1)
    )
    return with_question(
        prompt, form.format(question=question(prompt), candidates=candidates, critique=critique)
    )


def _one(request: Request) -> Generator[Command, Reply, Trace | None]:
    trace = yield from ask(request)
    return None if trace.finish in (Finish.FAILED, Finish.CANCELLED) else trace
