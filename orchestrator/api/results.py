"""What `run` and `solve` return: results with their tables for notebooks.

Everything in a table that is not ours is escaped: a model's text never becomes markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.api.problems import Questions
from orchestrator.core.plan import Plan
from orchestrator.core.values import Cluster, Problem, Result, Trace
from orchestrator.kit.prompts import question
from orchestrator.plan.execution import Execution

_N_ROWS = 100  # of a table; a notebook with more of them becomes slow
_N_CHARACTERS = 200  # of a text in a cell


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
        return _table(caption, ("problem", "status", "answer", "votes", "question"), rows)


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
        """Return the answer and its votes, as notebooks show them."""
        clusters = self.result.clusters
        total = sum(cluster.weight for cluster in clusters)
        rows = [(c.answer.text, f"{c.count:,}", _share(c, total)) for c in clusters[:_N_ROWS]]
        tokens = sum(usage.output_tokens for usage in self.result.usage.values())
        answer = self.answer if self.answer is not None else self.result.error or "no answer"
        caption = f"{answer} ({self.result.n_traces:,} traces, {tokens:,} tokens)"
        return _table(caption, ("answer", "traces", "share"), rows)


def _share(cluster: Cluster, total: float) -> str:
    return f"{cluster.weight / total:.0%}" if total else ""


def _problem_row(result: Result, problem: Problem | None) -> tuple[str, ...]:
    n_votes = sum(cluster.count for cluster in result.clusters)
    votes = f"{result.clusters[0].count}/{n_votes}" if result.clusters else ""
    answer = result.answer.text if result.answer else ""
    text = result.error or (question(problem.prompt) if problem else "")
    return (result.problem_id, result.status.value, answer, votes, text)


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f"<table><caption>{escape(_shortened(caption))}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(text: str) -> str:
    return f'<td style="text-align: left">{escape(_shortened(text))}</td>'


def _shortened(text: str) -> str:
    text = " ".join(text[: 10 * _N_CHARACTERS].split())
    return text if len(text) <= _N_CHARACTERS else f"{text[: _N_CHARACTERS - 1]}…"
