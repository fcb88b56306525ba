"""What `run` and `solve` return: results with their tables for notebooks.

Everything in a table that is not ours is escaped: a model's text never becomes markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.api import html
from orchestrator.api.problems import Questions
from orchestrator.api.race import race
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem, Result, Trace
from orchestrator.kit.prompts import question
from orchestrator.plan.execution import Execution

_N_ROWS = 100  # of a table; a notebook with more of them becomes slow
_N_CAPTION = 120  # characters of the answer in a caption


class Results(list[Result]):
    """The results of `run`, a list in the order of the problems, shown as a table in notebooks.

    `questions`, `plan` and `execution` are what was run.
    """

    def __init__(
        self, results: Iterable[Result], questions: Questions, plan: Plan, execution: Execution
    ) -> None:
        """Make the list."""
        super().__init__(results)
        self.questions = questions
        self.plan = plan
        self.execution = execution

    def _repr_html_(self) -> str:
        """Return the table that notebooks show."""
        by_id = {problem.id: problem for problem in self.questions.problems}
        rows = [_problem_row(r, by_id.get(r.problem_id)) for r in self[:_N_ROWS]]
        counts = Counter(result.status.value for result in self)
        caption = f"{len(self):,} problems: " + " · ".join(f"{n:,} {k}" for k, n in counts.items())
        if len(self) > _N_ROWS:
            caption += f"; the first {_N_ROWS} are shown"
        return html.table(caption, ("problem", "status", "answer", "votes", "question"), rows)


@dataclass(frozen=True, slots=True)
class Solution:
    """The return value of `solve`: the result and all its traces, by ordinal."""

    result: Result
    traces: tuple[Trace, ...]

    @property
    def answer(self) -> str | None:
        """The text of the winning answer, or None."""
        return self.result.answer.text if self.result.answer else None

    def _repr_html_(self) -> str:
        """Return the answer, its votes as bars and the race of the attempts, for notebooks."""
        clusters = self.result.clusters
        total = sum(cluster.weight for cluster in clusters)
        rows = [
            (html.text(c.answer.text), f"{c.count:,}", html.bar(c.weight / total) if total else "")
            for c in clusters[:_N_ROWS]
        ]
        tokens = sum(usage.output_tokens for usage in self.result.usage.values())
        answer = self.answer if self.answer is not None else self.result.error or "no answer"
        facts = f"({self.result.n_traces:,} traces, {tokens:,} tokens)"
        caption = f"{answer[:_N_CAPTION]} {facts}"
        votes = html.markup_table(caption, ("answer", "attempts", "share"), rows)
        return f"<div>{votes}{html.race_svg(race(self.result, self.traces))}</div>"


def _problem_row(result: Result, problem: Problem | None) -> tuple[str, ...]:
    n_votes = sum(cluster.count for cluster in result.clusters)
    votes = f"{result.clusters[0].count}/{n_votes}" if result.clusters else ""
    answer = result.answer.text if result.answer else ""
    text = result.error or (question(problem.prompt) if problem else "")
    return (result.problem_id, result.status.value, answer, votes, text)
