"""A job's problems as a list, and one problem with its attempts; display only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from orchestrator.api.race import PROBED, Lane, race
from orchestrator.cli.view.numbers import NONE, count, counted, estimate_text, one_line, percent
from orchestrator.cli.view.results.lists import QuestionList, notes_view, shortened
from orchestrator.cli.view.tables import numbers_table
from orchestrator.core.values import Cluster, Result, Trace
from orchestrator.core.votes import AttemptState
from orchestrator.kit.answers.thinking import parts_of
from orchestrator.kit.prompts import question
from orchestrator.report.losses import loss_causes
from orchestrator.report.scored import Attempt, Outcome, ScoredJob, ScoredProblem
from orchestrator.studies.estimates import share_estimate

_STYLES = {
    Outcome.RIGHT: "green",
    Outcome.WRONG: "red",
    Outcome.UNDECIDED: "red",
    Outcome.FAILED: "red",
    Outcome.INVALID: "red",
    Outcome.ABSTAINED: "yellow",
    Outcome.OPEN: "yellow",
}
_RACE_WIDTH = 32  # characters
_STATES = {
    AttemptState.UNUSED: "has an answer, but no vote",
    AttemptState.ABSTAINED: "abstained: no answer was found in its text",
    AttemptState.CUT_OFF: "cut off before it gave an answer",
    AttemptState.STOPPED: "stopped by a rule before it gave an answer",
}


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
    causes = loss_causes(job.losses, job.plan, job.directory)
    parts += [Text(f"{one.cause}: {one.n:,} {one.text}", style="yellow") for one in causes]
    if shown:
        parts.append(_problems_list(shown, any(p.has_dropped for p in problems)))
    else:
        parts.append(Text(f"no problem is {' or '.join(filters) or 'there'}"))
    if len(shown) < len(problems):
        parts.append(Text(f"{count(len(shown))} of {count(len(problems))}; --rows 0 lists all"))
    if shown:
        parts.append(Text(hint, style="dim"))
    return Group(*parts, *notes_view(job.notes))


def _headline(job: ScoredJob) -> Text:
    counts = Counter(p.outcome for p in job.problems)
    text = Text(f"{job.directory}: {counted(len(job.problems), 'problem')}", style="bold")
    by_outcome = [
        Text(f"{count(counts[outcome])} {outcome}", style=_STYLES.get(outcome, ""))
        for outcome in Outcome
        if counts[outcome]
    ]
    if by_outcome:
        text.append(": ").append_text(Text(" · ").join(by_outcome))
    accuracy = share_estimate(list(job.correctness.values()))
    if accuracy is not None:
        text.append(f"\naccuracy {estimate_text(accuracy)}", style="not bold")
        if n_failed := sum(p.outcome is Outcome.FAILED and bool(p.accepted) for p in job.problems):
            verb = "counts" if n_failed == 1 else "count"
            text.append(f"; {counted(n_failed, 'failed problem')} {verb} as wrong", style="red")
    return text


def _problems_list(problems: Sequence[ScoredProblem], has_dropped: bool) -> QuestionList:
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
    return QuestionList(
        headings, n_texts, ("answer", "reference"), rows, [_subject(p) for p in problems]
    )


def _problem_cells(problem: ScoredProblem) -> Iterator[Text]:
    result = problem.result
    tie = ", tied" if problem.is_tied else ""
    n_right = sum(bool(a.right) for a in problem.attempts)
    n_dropped = sum(a.state is AttemptState.DROPPED for a in problem.attempts)
    yield Text(problem.problem.id)
    yield Text(f"{problem.outcome}{tie}", style=_STYLES.get(problem.outcome, ""))
    yield Text(result.answer.text if result and result.answer else NONE)
    yield Text(" or ".join(problem.accepted) or NONE)
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


# --- one problem


def problem_view(problem: ScoredProblem, with_thinking: bool, with_others: bool) -> RenderableType:
    """Return one problem: question, reference, votes, and every attempt with its text.

    `with_others`: also the traces that belong to no attempt.
    """
    result = problem.result
    title = Text(problem.problem.id, style="bold")
    tie = ", tied" if problem.is_tied else ""
    title.append(f" · {problem.outcome}{tie}", style=_STYLES.get(problem.outcome, ""))
    title.append(f" · domain {problem.problem.domain}", style="not bold dim")
    parts: list[RenderableType] = [title]
    if problem.outcome is not Outcome.INVALID:
        asked = question(problem.problem.prompt) or "(the problem file no longer has its text)"
        parts += [Padding(Text(asked.strip()), (1, 2)), _facts(problem)]
    if problem.note:
        parts.append(Text(f"note: {problem.note}", style="yellow"))
    if result and result.error:
        parts.append(Text(result.error, style="red"))
    if result and result.clusters:
        parts.append(_votes_table(problem, result.clusters))
    if len(lanes := race(result, problem.pool)) > 1:
        parts.append(_race_view(lanes))
    for attempt in problem.attempts:
        parts += _attempt_view(attempt, with_thinking)
    others = problem.others
    if others and with_others:
        parts += [one for trace in others for one in _trace_view(trace, with_thinking)]
    elif others:
        counts = Counter(trace.purpose.value for trace in others)
        listed = ", ".join(f"{n:,} {name}" for name, n in counts.items())
        parts += [Rule(style="dim"), Text(f"other traces: {listed} (--others)", style="dim")]
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
        reading = f", read as {read}" if differs else "" if read else ", which cannot be read"
        table.add_row("reference", Text(f"{problem.reference.strip()}{reading}"))
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


def _race_view(lanes: Sequence[Lane]) -> Table:
    """Return the race: a bar for each attempt over its tokens, o a probe, | a checkpoint."""
    longest = max(lane.tokens for lane in lanes) or 1
    table = Table.grid(padding=(0, 1))
    for lane in lanes:
        track = ["─"] * max(1, round(_RACE_WIDTH * lane.tokens / longest))
        for mark in lane.marks:
            place = round(_RACE_WIDTH * mark.tokens / longest) - 1
            track[min(max(place, 0), len(track) - 1)] = "o" if mark.what == PROBED else "|"
        bar = Text("".join(track), style="cyan" if lane.state is AttemptState.VOTED else "dim")
        answer = shortened(lane.answer) if lane.answer is not None else NONE
        table.add_row(str(lane.ordinal), lane.state.value, bar, count(lane.tokens), Text(answer))
    return table


def _mark(right: bool | None) -> Text:
    words = {True: Text("right", style="green"), False: Text("wrong", style="red")}
    return Text("") if right is None else words[right]


def _attempt_view(attempt: Attempt, with_thinking: bool) -> Iterator[RenderableType]:
    trace = attempt.trace
    title = Text(f"attempt {trace.ordinal} · {_state(attempt)}")
    if trace.answer:
        title.append(f" · answer {shortened(trace.answer.text)}")
    if attempt.right is not None:
        title.append(" · ").append_text(_mark(attempt.right))
    title.append(f" · {counted(attempt.usage.output_tokens, 'token')}")
    yield Rule(title, align="left", style="dim")
    scores = {**{v.verifier: v.score for v in trace.verdicts}, **trace.metrics}
    if scores:
        facts = " · ".join(f"{name} {value:.3g}" for name, value in scores.items())
        yield Text(facts, style="dim")
    yield from _text_view(trace, attempt.usage.reasoning_tokens, with_thinking)


def _trace_view(trace: Trace, with_thinking: bool) -> Iterator[RenderableType]:
    about = f" of {', '.join(map(str, trace.subjects))}" if trace.subjects else ""
    about = about or (f" of {trace.parent}" if trace.parent is not None else "")
    title = f"trace {trace.ordinal} · {trace.purpose}{about} · {trace.finish}"
    title += f" · answer {shortened(trace.answer.text)}" if trace.answer else ""
    title += f" · {counted(trace.usage.output_tokens, 'token')}"
    yield Rule(Text(title), align="left", style="dim")
    yield from _text_view(trace, trace.usage.reasoning_tokens, with_thinking)


def _text_view(trace: Trace, n_thinking: int, with_thinking: bool) -> Iterator[RenderableType]:
    """Yield the thinking, folded unless `with_thinking`, the reply, and what went wrong."""
    parts = parts_of(trace)
    thinking, reply = parts.thinking_text, parts.reply_text.strip()
    if thinking and with_thinking:
        yield Text("thinking", style="dim italic")
        yield Text(thinking, style="dim")
        yield Text("reply" if reply else "(no reply)", style="dim italic")
    elif thinking:
        length = counted(n_thinking, "token") if n_thinking else f"{len(thinking):,} characters"
        yield Text(f"▸ {length} of thinking (--thinking)", style="dim italic")
    if reply:
        yield Text(reply)
    for call in trace.calls:
        yield Text("call ", style="dim italic").append(f"{call.name}({call.arguments})", "not dim")
    if not (reply or thinking or trace.calls):
        yield Text("(no text)", style="dim")
    for text, style in ((trace.error, "red"), (trace.note, "yellow")):
        if text:
            yield Text(text, style=style)


def _state(attempt: Attempt) -> str:
    return _STATES.get(attempt.state, attempt.state.value)
