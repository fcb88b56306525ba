"""Tables of a run's summary, an answer, an evaluation and similarities; display only.

All other tables of numbers use `numbers_table` from here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, zip_longest

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import (
    NONE,
    count,
    counted,
    duration,
    interval,
    one_line,
    percent,
    share,
    usd,
)
from orchestrator.core.values import Cluster, Purpose, Result, Status, Trace, Usage
from orchestrator.core.votes import AttemptState
from orchestrator.kit.answers.thinking import parts_of
from orchestrator.report.losses import LossCause
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.evaluate import Report, Savings
from orchestrator.studies.scaling import Point
from orchestrator.studies.similarity import Quality
from orchestrator.studies.summary import Ranking, Summary, failed_note, undecided_note

_ACCOUNTS = {
    Purpose.SOLVE: "attempts that voted or could have",
    Purpose.PRUNED: "attempts that were cancelled or dropped",
    Purpose.PROBE: "short probes of an attempt's current answer",
    Purpose.VERIFY: "checking attempts",
    Purpose.COMPARE: "comparing attempts",
    Purpose.AGGREGATE: "merging attempts",
}


def numbers_table(
    headings: Sequence[str], *, n_texts: int = 0, texts_after: Sequence[str] = (), title: str = ""
) -> Table:
    """Return an empty table of numbers.

    The first `n_texts` columns and those headed by `texts_after` contain text.
    """
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=Text(title, style="bold") if title else None,
        title_justify="left",
    )
    for heading in headings[:n_texts]:
        table.add_column(heading, overflow="fold")
    for heading in headings[n_texts:]:
        table.add_column(heading, justify="right")  # wraps where the terminal is narrow
    for heading in texts_after:
        table.add_column(heading, overflow="fold")
    return table


def _facts() -> Table:
    """Return an empty table with the columns name, number and meaning."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=10)
    table.add_column(justify="left")
    table.add_column(overflow="fold")
    return table


# --- the end of a run


def summary_table(summary: Summary, losses: Sequence[LossCause]) -> RenderableType:
    """Return the table at the end of a run, with the causes of lost accuracy."""
    report = summary.report
    n_problems = count(report.n_results + summary.n_open)
    facts = _facts()
    facts.add_row("problems", n_problems, _by_status(report, summary))
    if report.accuracy is not None or report.n_unreadable:
        value = share(report.accuracy.value if report.accuracy else None)
        facts.add_row("accuracy", value, _accuracy_bounds(report))
    if note := failed_note(report):
        facts.add_row("", "", Text(note, style="yellow"))
    if doubt := undecided_note(report, summary.directory):
        facts.add_row("", "", Text(doubt, style="yellow"))
    _add_traces(facts, report)
    rate = summary.tokens_per_second
    per_second = f" · {count(rate)} a second" if rate else ""
    n_thinking = report.total.reasoning_tokens
    thinking = f" ({count(n_thinking)} of thinking)" if n_thinking else ""
    generated = f"generated{thinking}, from {_prompt_tokens(report.total)}{per_second}"
    facts.add_row("tokens", count(report.total.output_tokens), generated)
    _add_accounts(facts, report.usage)
    facts.add_row("wall-clock", duration(report.wall_seconds), _time_notes(summary))
    if report.savings is not None:
        _add_savings(facts, report.savings)
    _add_spent(facts, summary)
    for loss in losses:
        facts.add_row(Text(loss.cause, style="yellow"), count(loss.n), loss.text)
    _add_doubts(facts, report, summary)
    if summary.chosen:
        facts.add_row("auto", "", Text(f"chose {summary.chosen}"))
    faults = [
        _faults(status, errors, report.n_by_status[status])
        for status, errors in (
            (Status.FAILED, [f"{fault.id}: {fault.error}" for fault in summary.failed]),
            (Status.INVALID, [fault.error for fault in summary.invalid]),
        )
        if errors
    ]
    files = _facts()
    files.add_row("results", Text(summary.results, overflow="fold"))
    if summary.batch_output:
        files.add_row("batch output", Text(summary.batch_output, overflow="fold"))
    command = shlex.join(("leadline", "show", summary.directory, *_filters(report)))
    files.add_row("look closer", Text(command, overflow="fold"))
    return Group(facts, *faults, files)


def _filters(report: Report) -> Iterator[str]:
    """Yield the options of `leadline show` that list the problems that are not right."""
    n, accuracy = report.n_by_status, report.accuracy
    if accuracy is not None and n[Status.ANSWERED] > round(accuracy.value * accuracy.n):
        yield "--wrong"
    if n[Status.ABSTAINED]:
        yield "--abstained"
    if n[Status.FAILED] or n[Status.INVALID]:
        yield "--failed"


def _by_status(report: Report, summary: Summary) -> Text:
    styles = {Status.ANSWERED: "green", Status.FAILED: "red", Status.INVALID: "red"}
    parts = [
        Text(f"{n:,} {name}", style=styles.get(Status(name), "") if n else "")
        for name, n in report.n_by_status.items()
        if n or name == Status.ANSWERED
    ]
    if summary.n_open:
        n_old = summary.n_outdated
        old = f" ({n_old:,} with the result of the plan before)" if n_old else ""
        parts.append(Text(f"{summary.n_open:,} not done yet{old}", style="yellow"))
    return Text(" · ").join(parts)


def _accuracy_bounds(report: Report) -> str:
    bounds = interval(report.accuracy, missing="")
    n = report.accuracy.n if report.accuracy else 0
    bounds = f"95% interval {bounds}" if bounds else "no interval: too few problems that differ"
    parts = [
        f"{bounds}, n = {count(n)}" if n else "unknown",
        f"{count(report.n_without_reference)} without a reference",
        f"{count(report.n_unreadable)} with a reference that cannot be read",
    ]
    shown = (True, report.n_without_reference > 0, report.n_unreadable > 0)
    return "; ".join(compress(parts, shown))


def _prompt_tokens(usage: Usage) -> str:
    cached = f" ({count(usage.cached_tokens)} from the cache)" if usage.cached_tokens else ""
    return f"{count(usage.prompt_tokens)} prompt tokens{cached}"


def _add_accounts(table: Table, usage: Mapping[str, Usage]) -> None:
    if list(usage) == [Purpose.SOLVE]:
        return
    for purpose, meaning in _ACCOUNTS.items():
        if purpose in usage:
            name = Text(f"  {purpose}", style="not bold")
            table.add_row(name, count(usage[purpose].output_tokens), Text(meaning, style="dim"))


def _time_notes(summary: Summary) -> str:
    notes = []
    if summary.start_seconds > 1:
        notes.append(f"{duration(summary.start_seconds)} of it to start the engine")
    if summary.n_resumed:
        notes.append(f"this run alone: {count(summary.n_resumed)} problems were done before")
    return "; ".join(notes)


def _add_traces(table: Table, report: Report) -> None:
    """Add the attempts by state, and all traces if there are others or no states are known."""
    attempts = report.attempts
    n_attempts = sum(attempts.values())
    if n_attempts:
        by_state = [f"{count(n)} {s}" for s in AttemptState if (n := attempts.get(s, 0))]
        table.add_row("attempts", count(n_attempts), " · ".join(by_state))
    if n_attempts != report.n_traces:
        meaning = "requests: parts of attempts, probes and verdicts" if n_attempts else ""
        table.add_row("traces", count(report.n_traces), meaning)


def _add_savings(table: Table, savings: Savings) -> None:
    """Add what was saved against full sampling, or what was spent beyond it."""
    tokens, n = savings.tokens, f"n = {count(savings.tokens.n)} problems"
    if not tokens.value and not savings.traces.value:
        table.add_row("saved", "0%", f"nothing against full sampling; {n}")
        return
    estimate = f"an estimate that prices each skipped attempt at the mean of its problem's; {n}"
    share_skipped = percent(abs(savings.traces.value))
    comparison = "fewer" if savings.traces.value > 0 else "more"
    skipped = f" and {share_skipped} {comparison} attempts" if share_skipped != "0%" else ""
    bounds = interval(_turned(tokens) if tokens.value < 0 else tokens, "z.0%", missing="")
    name, verb = ("extra", "more") if tokens.value < 0 else ("saved", "fewer")
    meaning = f"{verb} tokens than full sampling{f' ({bounds})' if bounds else ''}{skipped}"
    table.add_row(name, percent(abs(tokens.value)), f"{meaning}: {estimate}")


def _turned(estimate: Estimate) -> Estimate:
    """Return an estimate of the opposite."""
    low, high = (None if end is None else -end for end in (estimate.high, estimate.low))
    return Estimate(-estimate.value, low, high, estimate.n)


def _add_spent(table: Table, summary: Summary) -> None:
    """Add what the job has spent over all its runs, where there are prices or GPUs."""
    spent, budget = summary.spent, summary.budget
    if summary.usd is not None:
        limit = f"of budget.usd = {budget.usd:,.10g}; " if budget.usd else ""
        usage = spent.total
        tokens = f"{count(usage.prompt_tokens)} prompt and {count(usage.output_tokens)} output"
        table.add_row("spent", usd(summary.usd), f"{limit}{tokens} tokens, over all runs")
    if spent.gpu_seconds:
        limit = (
            f"of budget.gpu_seconds = {budget.gpu_seconds:,.10g}; " if budget.gpu_seconds else ""
        )
        meaning = f"{limit}GPU-seconds, over all runs"
        table.add_row("GPU time", f"{spent.gpu_seconds:,.1f} s", meaning)


def _add_doubts(table: Table, report: Report, summary: Summary) -> None:
    if summary.n_retries:
        paused = summary.paused_seconds
        pauses = f", with {duration(paused)} of pauses" if paused >= 1 else ""
        table.add_row(
            "sent again",
            count(summary.n_retries),
            f"requests that were refused or lost{pauses}; the last reason: "
            f"{one_line(summary.retry_reason)}",
        )
    if unplaced := summary.spent.unplaced_seconds:
        reason = f"replicas for a place, over all runs: {one_line(summary.spent.unplaced_reason)}"
        table.add_row("waited", duration(unplaced), reason)
    for reason, n in report.n_stopped_by.items():
        table.add_row("budget", count(n), f"problems ended by budget.{reason}")
    if summary.n_undecided:
        table.add_row(
            "undecided",
            Text(count(summary.n_undecided), style="yellow"),
            f"traces where something could not be decided, e.g.: {one_line(summary.undecided)}",
        )


def _faults(status: Status, errors: Sequence[str], n: int) -> RenderableType:
    more = [f"and {count(n - len(errors))} more, in the results"] if n > len(errors) else []
    table = _facts()
    for name, line in zip_longest([status], [*errors, *more], fillvalue=""):
        table.add_row(Text(name, style="red"), Text(one_line(line), overflow="fold"))
    return table


# --- one problem


def solution_table(result: Result, seconds: float) -> RenderableType:
    """Return one problem's answer, its votes and its cost."""
    spent = sum(result.usage.values(), Usage())
    answer = (
        Text(result.answer.text, style="bold green")
        if result.answer
        else Text(one_line(result.error) or "no answer: no attempt gave one", style="bold red")
    )
    n_attempts = sum(result.attempts.values()) or result.n_traces  # of an older version
    silent = [s for s in AttemptState if s is not AttemptState.VOTED and result.attempts.get(s)]
    states = "".join(f", {result.attempts[state]} {state}" for state in silent)
    others = f" in {result.n_traces} traces" if result.n_traces != n_attempts else ""
    cost = [
        f"{counted(n_attempts, 'attempt')}{others}{states}",
        _tokens(spent),
        duration(seconds),
    ]
    if result.stopped_by:
        cost.append(f"ended by budget.{result.stopped_by}")
    if result.tied:
        cost.append("the first two answers have the same weight")
    votes = votes_table(result.clusters, n_attempts) if result.clusters else Text("")
    return Group(answer, votes, Text(" · ".join(cost), style="dim"))


def votes_table(clusters: Sequence[Cluster], n_attempts: int) -> Table:
    """Return the votes; the share is that of the weight."""
    total = sum(c.weight for c in clusters)
    is_weighted = any(c.weight != c.count for c in clusters)
    weight_heading = ["weight"] if is_weighted else []
    table = numbers_table(("answer", "attempts", *weight_heading, "share"), n_texts=1)
    for cluster in clusters:
        weight = [f"{cluster.weight:.3g}"] if is_weighted else []
        part = percent(cluster.weight / total) if total else NONE
        table.add_row(Text(cluster.answer.text), str(cluster.count), *weight, part)
    n_silent = n_attempts - sum(c.count for c in clusters)
    if n_silent > 0:
        table.add_row(Text("(no vote)", style="dim"), Text(str(n_silent), style="dim"))
    return table


def print_traces(console: Console, traces: Sequence[Trace]) -> None:
    """Print every trace under a rule with its facts: its thinking, dim, and then its reply."""
    for trace in traces:
        answer = f"answer {trace.answer.text}" if trace.answer else "no answer"
        facts = f"trace {trace.ordinal} · {trace.finish} · {_tokens(trace.usage)} · {answer}"
        console.rule(Text(facts), align="left", style="dim")
        parts = parts_of(trace)
        reply = parts.reply_text.strip()
        if parts.thinking:
            console.print(Text("thinking", style="dim italic"))
            console.print(Text(parts.thinking_text, style="dim"))
            console.print(Text("reply" if reply else "(no reply)", style="dim italic"))
        if reply or not parts.thinking:
            console.print(Text(reply or trace.error or "(no text)"))


def _tokens(usage: Usage) -> str:
    thinking = f", {count(usage.reasoning_tokens)} of thinking" if usage.reasoning_tokens else ""
    return f"{count(usage.output_tokens)} tokens{thinking}"


# --- an evaluation


def rankings_table(rankings: Sequence[Ranking]) -> Table:
    """Return selectors side by side; the first is the job's own."""
    table = numbers_table(
        ("selector", "accuracy", "95% interval", "n", "answered", "answers that differ"), n_texts=1
    )
    for position, ranking in enumerate(rankings):
        has_failed = ranking.n_failed == ranking.report.n_results
        accuracy = None if has_failed else ranking.report.accuracy
        table.add_row(
            Text(ranking.selector),
            share(accuracy.value if accuracy else None),
            interval(accuracy),
            count(accuracy.n) if accuracy else NONE,
            count(ranking.report.n_by_status[Status.ANSWERED]),
            count(ranking.n_other) if position else NONE,
        )
    return table


def points_table(points: Sequence[Point]) -> Table:
    """Return the scaling curve."""
    table = numbers_table(("k", "pass@k", "95% interval", "maj@k", "95% interval", "n"))
    for point in points:
        estimates = (point.pass_at_k, point.maj_at_k)
        cells = (cell for e in estimates for cell in (share(e.value), interval(e)))
        table.add_row(str(point.k), *cells, count(point.pass_at_k.n))
    return table


# --- similarities


def similarities_table(qualities: Mapping[str, Quality]) -> Table:
    """Return the quality of similarities at telling agreeing from differing pairs of traces."""
    table = numbers_table(
        (
            "similarity",
            "pairs",
            "agree",
            "AUROC",
            "within a problem",
            "TNR at 20% FNR",
            "tau there",
        ),
        n_texts=1,
    )
    for name, quality in qualities.items():
        table.add_row(
            name,
            count(quality.n_pairs),
            percent(quality.n_same / quality.n_pairs),
            *map(_decimal, (quality.auroc, quality.within, quality.tnr)),
            f"{quality.tau:.2f}",
        )
    return table


def _decimal(estimate: Estimate | None) -> str:
    if estimate is None:
        return NONE
    bounds = interval(estimate, ".2f", missing="")
    return f"{estimate.value:.2f}{f' ({bounds})' if bounds else ''}"
