"""The views of `leadline show` and `leadline compare`, and accuracy by tag; display only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import (
    NONE,
    count,
    counted,
    estimate_text,
    interval,
    one_line,
    percent,
    points,
    share,
)
from orchestrator.cli.view.tables import numbers_table
from orchestrator.core.values import Cluster, Result
from orchestrator.core.votes import VOTING
from orchestrator.kit.answers.thinking import parts_of
from orchestrator.kit.prompts import question
from orchestrator.report.comparison import Change, Difference, JobComparison, TagDifference
from orchestrator.report.scored import Attempt, AttemptState, Outcome, ScoredJob, ScoredProblem
from orchestrator.report.tags import TagAccuracy
from orchestrator.studies.evaluate import share_estimate

_STYLES = {
    Outcome.RIGHT: "green",
    Outcome.WRONG: "red",
    Outcome.UNDECIDED: "red",
    Outcome.FAILED: "red",
    Outcome.INVALID: "red",
    Outcome.ABSTAINED: "yellow",
    Outcome.OPEN: "yellow",
}
_STATES = {
    AttemptState.UNUSED: "has an answer, but the selector gave it no vote",
    AttemptState.ABSTAINED: "abstained: no answer was found in its text",
    AttemptState.CUT_OFF: "cut off before it gave an answer",
}
_LONGEST_ANSWER = 24  # characters of an answer or a reference in a list
_NARROWEST_QUESTION = 16  # where less is left for the questions of a list, they are left out


@dataclass(frozen=True, slots=True)
class _QuestionList:
    """A table with the question of each row in its last column, in one line, if there is room."""

    headings: Sequence[str]
    n_texts: int
    rows: Sequence[Sequence[Text]]
    questions: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        narrow = self._table(0)
        room = options.max_width - Measurement.get(console, options, narrow).maximum - 2
        yield self._table(room) if room >= _NARROWEST_QUESTION else narrow

    def _table(self, width: int) -> Table:
        """Return the table with the first characters of the questions, so that they fit."""
        table = numbers_table(
            self.headings, n_texts=self.n_texts, texts_after=["question"] if width else []
        )
        for row, text in zip(self.rows, self.questions, strict=True):
            table.add_row(*row, *([Text(_short(text, width), style="dim")] if width else []))
        return table


# --- a list of problems


def problems_view(
    job: ScoredJob,
    problems: Sequence[ScoredProblem],
    n_rows: int,
    command: str,
    filters: Sequence[str],
) -> RenderableType:
    """Return a job's outcomes and a list of `problems`, at most `n_rows` of them (0: all).

    `filters` are the names of those that were applied; `command` is the one that shows the job.
    """
    shown = problems[:n_rows] if n_rows else problems
    hint = f"one problem with all its attempts: {command} ID"
    parts: list[RenderableType] = [_headline(job)]
    if shown:
        parts.append(_problems_list(shown, any(p.has_dropped for p in problems)))
    else:
        parts.append(Text(f"no problem is {' or '.join(filters) or 'there'}"))
    if len(shown) < len(problems):
        parts.append(Text(f"{count(len(shown))} of {count(len(problems))}; --rows 0 lists all"))
    if shown:
        parts.append(Text(hint, style="dim"))
    return Group(*parts, *_notes(job.notes))


def _headline(job: ScoredJob) -> Text:
    counts = Counter(p.outcome for p in job.problems)
    text = Text(f"{job.directory}: {counted(len(job.problems), 'problem')}: ", style="bold")
    by_outcome = [
        Text(f"{count(counts[outcome])} {outcome}", style=_STYLES.get(outcome, ""))
        for outcome in Outcome
        if counts[outcome]
    ]
    text.append_text(Text(" · ").join(by_outcome))
    accuracy = share_estimate(list(job.correctness.values()))
    if accuracy is not None:
        text.append(f"\naccuracy {estimate_text(accuracy)}", style="not bold")
    return text


def _problems_list(problems: Sequence[ScoredProblem], has_dropped: bool) -> _QuestionList:
    has_references = any(p.accepted for p in problems)
    shown = {
        "problem": True,
        "outcome": True,
        "answer": True,
        "reference": has_references,
        "votes": True,
        "right": has_references,
        "dropped": has_dropped,
    }
    rows = [list(compress(_problem_cells(p), shown.values())) for p in problems]
    n_texts = 4 if has_references else 3
    headings = list(compress(shown, shown.values()))
    return _QuestionList(headings, n_texts, rows, [_subject(p) for p in problems])


def _problem_cells(problem: ScoredProblem) -> Iterator[Text]:
    result = problem.result
    tie = ", tied" if problem.is_tied else ""
    n_right = sum(bool(a.right) for a in problem.attempts)
    n_dropped = sum(a.state is AttemptState.DROPPED for a in problem.attempts)
    yield Text(problem.problem.id)
    yield Text(f"{problem.outcome}{tie}", style=_STYLES.get(problem.outcome, ""))
    yield Text(_short(result.answer.text) if result and result.answer else NONE)
    yield Text(_short(" or ".join(problem.accepted)) or NONE)
    yield Text(_votes(result, len(problem.attempts)))
    yield Text(count(n_right) if problem.accepted else NONE)
    yield Text(count(n_dropped))


def _votes(result: Result | None, n_attempts: int) -> str:
    """Return the votes for the answer of all attempts, as 9/16."""
    return f"{result.clusters[0].count}/{n_attempts}" if result and result.clusters else NONE


def _subject(problem: ScoredProblem) -> str:
    """Return the error of a problem that has one, else its question."""
    error = problem.result.error if problem.result else ""
    return one_line(error or question(problem.problem.prompt))


def _short(text: str, width: int = _LONGEST_ANSWER) -> str:
    """Return a text in one line of at most `width` cells."""
    short = Text(one_line(text))
    short.truncate(width, overflow="ellipsis")
    return short.plain


def _notes(notes: Sequence[str]) -> list[Text]:
    return [Text(f"note: {note}", style="yellow") for note in notes]


# --- one problem


def problem_view(problem: ScoredProblem, with_thinking: bool) -> RenderableType:
    """Return one problem: question, reference, votes, and every attempt with its text."""
    result = problem.result
    title = Text(problem.problem.id, style="bold")
    tie = ", tied" if problem.is_tied else ""
    title.append(f" · {problem.outcome}{tie}", style=_STYLES.get(problem.outcome, ""))
    title.append(f" · domain {problem.problem.domain}", style="not bold dim")
    asked = question(problem.problem.prompt) or "(the problem file no longer has its text)"
    parts: list[RenderableType] = [title, Padding(Text(asked.strip()), (1, 2)), _facts(problem)]
    if result and result.error:
        parts.append(Text(result.error, style="red"))
    if result and result.clusters:
        parts.append(_votes_table(problem, result.clusters))
    for attempt in problem.attempts:
        parts += _attempt_view(attempt, with_thinking)
    if problem.n_other:
        counts = Counter(t.purpose.value for t in problem.pool)
        others = ", ".join(f"{n:,} {name}" for name, n in counts.items() if name not in VOTING)
        parts.append(Rule(style="dim"))
        parts.append(Text(f"not shown: other traces ({others})", style="dim"))
    return Group(*parts)


def _facts(problem: ScoredProblem) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    result = problem.result
    table.add_row("answer", Text(result.answer.text if result and result.answer else NONE))
    if problem.reference is not None:
        read = " or ".join(problem.accepted)
        differs = read and read != one_line(problem.reference)
        told = f", read as {read}" if differs else "" if read else ", which cannot be read"
        table.add_row("reference", Text(f"{problem.reference.strip()}{told}"))
    states = Counter(a.state.value for a in problem.attempts)
    table.add_row("attempts", " · ".join(f"{n:,} {state}" for state, n in states.items()) or NONE)
    if result and result.stopped_by:
        table.add_row("budget", f"ended by budget.{result.stopped_by}")
    if result and result.tags not in ("", "{}"):
        table.add_row("tags", Text(result.tags))
    return table


def _votes_table(problem: ScoredProblem, clusters: Sequence[Cluster]) -> Table:
    """Return the votes by answer; the share is that of the weight."""
    right = {a.trace.answer.key: a.right for a in problem.attempts if a.trace.answer}
    total = sum(c.weight for c in clusters)
    headings = ("answer", "attempts", "weight", "share")
    table = numbers_table(headings, n_texts=1, texts_after=[""] if problem.accepted else [])
    for cluster in clusters:
        marks = [_mark(right.get(cluster.answer.key))] if problem.accepted else []
        part = percent(cluster.weight / total) if total else NONE
        weight = f"{cluster.weight:.3g}"
        table.add_row(Text(cluster.answer.text), count(cluster.count), weight, part, *marks)
    return table


def _mark(right: bool | None) -> Text:
    words = {True: Text("right", style="green"), False: Text("wrong", style="red")}
    return Text("") if right is None else words[right]


def _attempt_view(attempt: Attempt, with_thinking: bool) -> Iterator[RenderableType]:
    trace = attempt.trace
    title = Text(f"attempt {trace.ordinal} · {_state(attempt)}")
    if trace.answer:
        title.append(f" · answer {_short(trace.answer.text)}")
    if attempt.right is not None:
        title.append(" · ").append_text(_mark(attempt.right))
    title.append(f" · {counted(attempt.usage.output_tokens, 'token')}")
    yield Rule(title, align="left", style="dim")
    scores = {**{v.verifier: v.score for v in trace.verdicts}, **trace.metrics}
    if scores:
        facts = " · ".join(f"{name} {value:.3g}" for name, value in scores.items())
        yield Text(facts, style="dim")
    parts = parts_of(trace)
    thinking, reply = parts.thinking_text, parts.reply_text.strip()
    if thinking and with_thinking:
        yield Text("thinking", style="dim italic")
        yield Text(thinking, style="dim")
    elif thinking:
        yield Text(f"▸ {_length(attempt, thinking)} of thinking (--thinking)", style="dim italic")
    if thinking and with_thinking:
        yield Text("reply" if reply else "(no reply)", style="dim italic")
    if reply:
        yield Text(reply)
    elif not thinking:
        yield Text("(no text)", style="dim")
    for text, style in ((trace.error, "red"), (trace.note, "yellow")):
        if text:
            yield Text(text, style=style)


def _length(attempt: Attempt, thinking: str) -> str:
    n = attempt.usage.reasoning_tokens
    return counted(n, "token") if n else f"{len(thinking):,} characters"


def _state(attempt: Attempt) -> str:
    return _STATES.get(attempt.state, attempt.state.value)


# --- two jobs


def comparison_view(comparison: JobComparison, n_rows: int) -> RenderableType:
    """Return two jobs side by side, with at most `n_rows` of the problems that changed (0: all)."""
    difference = comparison.difference
    names = Table.grid(padding=(0, 2))
    names.add_row(Text("A", style="bold"), Text(comparison.first, overflow="fold"))
    names.add_row(Text("B", style="bold"), Text(comparison.second, overflow="fold"))
    parts: list[RenderableType] = [names, _difference_table(difference)]
    if comparison.tags:
        parts.append(_tag_differences(comparison.tags))
    parts.append(_changes_line(comparison))
    changes = comparison.changes[:n_rows] if n_rows else comparison.changes
    if changes:
        parts.append(_changes_list(changes))
    if len(changes) < len(comparison.changes):
        shown = f"{count(len(changes))} of {count(len(comparison.changes))}"
        parts.append(Text(f"{shown}; --rows 0 lists all"))
    return Group(*parts, *_notes(comparison.notes))


def _difference_table(difference: Difference) -> Table:
    heading = f"over {counted(difference.n, 'problem')}"
    table = numbers_table((heading, "A", "B", "B − A", "95% interval"), n_texts=1)
    table.add_row("accuracy", *_accuracies(difference))
    table.add_row(
        "output tokens per problem",
        count(difference.first_tokens),
        count(difference.second_tokens),
        f"{difference.tokens.value:+,.0f}",
        interval(difference.tokens, "+,.0f"),
    )
    return table


def _accuracies(difference: Difference) -> tuple[str, str, str, str]:
    gain = points(difference.accuracy)
    first, second = share(difference.first.value), share(difference.second.value)
    return first, second, f"{gain.value:+.1f} points", interval(gain, "+.1f")


def _tag_differences(tags: Sequence[TagDifference]) -> Table:
    headings = ("tag", "value", "n", "A", "B", "B − A", "95% interval")
    table = numbers_table(headings, n_texts=2, title="accuracy by tag")
    last = ""
    for one in tags:
        name = one.tag if one.tag != last else ""
        last = one.tag
        table.add_row(
            Text(name), Text(one.value), count(one.difference.n), *_accuracies(one.difference)
        )
    return table


def _changes_line(comparison: JobComparison) -> Text:
    n_gained = sum(change.is_gain for change in comparison.changes)
    n_lost = len(comparison.changes) - n_gained
    text = Text(f"{count(n_lost)} lost", style="red" if n_lost else "")
    text.append_text(Text(" · ", style="default"))
    text.append_text(Text(f"{count(n_gained)} gained", style="green" if n_gained else ""))
    other = (
        f" ({count(comparison.n_other_answer)} with another answer)"
        if comparison.n_other_answer
        else ""
    )
    rest = (
        f" · {count(comparison.n_both_right)} right in both"
        f" · {count(comparison.n_both_wrong)} wrong in both{other}"
    )
    return text.append(rest, style="default")


def _changes_list(changes: Sequence[Change]) -> _QuestionList:
    headings = ("problem", "", "A", "B", "reference")
    rows = [list(_change_cells(change)) for change in changes]
    return _QuestionList(headings, len(headings), rows, [change.question for change in changes])


def _change_cells(change: Change) -> Iterator[Text]:
    yield Text(change.id)
    yield Text("gained", style="green") if change.is_gain else Text("lost", style="red")
    for answer, outcome in (
        (change.first, change.first_outcome),
        (change.second, change.second_outcome),
    ):
        yield Text(outcome.value if answer is None else _short(answer))
    yield Text(_short(change.reference))


# --- accuracy by tag


def tags_table(rows: Sequence[TagAccuracy]) -> Table:
    """Return the accuracy of each value of each tag."""
    headings = ("tag", "value", "accuracy", "95% interval", "n")
    table = numbers_table(headings, n_texts=2)
    last = ""
    for row in rows:
        name = row.tag if row.tag != last else ""
        last = row.tag
        estimate = row.accuracy
        cells = (share(estimate.value), interval(estimate), count(estimate.n))
        table.add_row(Text(name), Text(row.value), *cells)
    return table
