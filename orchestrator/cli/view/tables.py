"""Tables for people: the end of a run, one answer, an evaluation, the plugins.

Drawing only; every number comes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.live import duration, one_line
from orchestrator.core.values import Cluster, Purpose, Result, Status, Trace, Usage
from orchestrator.studies.evaluate import Estimate, Report, Savings
from orchestrator.studies.scaling import Point
from orchestrator.studies.similarity import Quality
from orchestrator.studies.summary import Fault, Ranking, Summary

_ACCOUNTS = {
    Purpose.SOLVE: "attempts that voted or might have",
    Purpose.PRUNED: "attempts cancelled on the way",
    Purpose.PROBE: "short looks at where an attempt stands",
    Purpose.VERIFY: "checking attempts",
    Purpose.COMPARE: "comparing attempts",
    Purpose.AGGREGATE: "merging attempts",
}


def summary_table(summary: Summary) -> RenderableType:
    """Return the table at the end of a run."""
    report = summary.report
    table = _rows()
    table.add_row("problems", f"{report.n_results + summary.n_open:,}", _by_status(report, summary))
    if report.accuracy is not None:
        table.add_row(
            "accuracy",
            f"{report.accuracy.value:.1%}",
            _accuracy(report.accuracy, report.n_without_reference),
        )
    n_whole = report.n_traces - report.n_cancelled - report.n_failed
    table.add_row(
        "traces",
        f"{report.n_traces:,}",
        f"{n_whole:,} finished · {report.n_cancelled:,} cancelled · {report.n_failed:,} failed",
    )
    rate = f" · {summary.tokens_per_second:,.0f} a second" if summary.tokens_per_second else ""
    table.add_row(
        "tokens",
        f"{report.total.output_tokens:,}",
        f"generated, from {_prompt(report.total)}{rate}",
    )
    _add_accounts(table, report.usage)
    table.add_row("wall-clock", duration(report.wall_seconds), _resumed(summary))
    if report.savings is not None:
        table.add_row("saved", f"{report.savings.tokens.value:z.0%}", _saved(report.savings))
    _add_doubts(table, report, summary)
    if summary.chosen:
        table.add_row("auto", "", Text(f"chose {summary.chosen}"))
    lines: list[RenderableType] = [table]
    lines += (
        [_faults("failed", summary.failed, report.n_by_status[Status.FAILED])]
        if summary.failed
        else []
    )
    lines += (
        [_faults("invalid", summary.invalid, report.n_by_status[Status.INVALID])]
        if summary.invalid
        else []
    )
    where = _rows()
    where.add_row("results", Text(summary.results, overflow="fold"))
    if summary.batch_output:
        where.add_row("batch output", Text(summary.batch_output, overflow="fold"))
    return Group(*lines, where)


def _rows() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=10)
    table.add_column(justify="left")
    table.add_column(overflow="fold")
    return table


def _by_status(report: Report, summary: Summary) -> Text:
    styles = {Status.ANSWERED: "green", Status.FAILED: "red", Status.INVALID: "red"}
    parts = [
        Text(f"{n:,} {name}", style=styles.get(Status(name), "") if n else "")
        for name, n in report.n_by_status.items()
        if n or name == Status.ANSWERED
    ]
    if summary.n_open:
        parts.append(Text(f"{summary.n_open:,} not done yet", style="yellow"))
    return Text(" · ").join(parts)


def _accuracy(estimate: Estimate, n_without: int) -> str:
    without = f"; {n_without:,} without a reference" if n_without else ""
    return f"{_interval(estimate)}, n = {estimate.n:,}{without}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval: too few problems that differ"
    return f"95% interval {estimate.low:.1%} to {estimate.high:.1%}"


def _prompt(usage: Usage) -> str:
    cached = f" ({usage.cached_tokens:,} from the cache)" if usage.cached_tokens else ""
    return f"{usage.prompt_tokens:,} prompt tokens{cached}"


def _add_accounts(table: Table, usage: Mapping[str, Usage]) -> None:
    if list(usage) != [Purpose.SOLVE]:
        for purpose, meaning in _ACCOUNTS.items():
            if purpose in usage:
                table.add_row(
                    Text(f"  {purpose}", style="not bold"),
                    f"{usage[purpose].output_tokens:,}",
                    Text(meaning, style="dim"),
                )


def _resumed(summary: Summary) -> str:
    start = (
        f"{duration(summary.start_seconds)} of them to start the engine"
        if summary.start_seconds > 1
        else ""
    )
    before = (
        f"this run alone: {summary.n_resumed:,} problems were done before"
        if summary.n_resumed
        else ""
    )
    return "; ".join(filter(None, (start, before)))


def _saved(savings: Savings) -> str:
    tokens, traces = savings.tokens, savings.traces
    if not tokens.value and not traces.value:
        return f"every problem was sampled in full; n = {tokens.n:,} problems"
    interval = (
        ""
        if tokens.low is None or tokens.high is None
        else f" ({tokens.low:z.0%} to {tokens.high:z.0%})"
    )
    return (
        f"of the tokens{interval} and {traces.value:z.0%} of the traces that the whole plan takes: an estimate, each trace not taken "
        f"priced at its problem's mean of those not cut; n = {tokens.n:,} problems"
    )


def _add_doubts(table: Table, report: Report, summary: Summary) -> None:
    if report.n_tied:
        table.add_row(
            "ties",
            f"{report.n_tied:,}",
            "problems whose first two answers weigh the same: the larger count, then the earlier trace decided",
        )
    for reason, n in report.n_stopped_by.items():
        table.add_row("budget", f"{n:,}", f"problems ended by budget.{reason}")
    if summary.n_undecided:
        text = f"traces where something could not be decided, e.g.: {one_line(summary.undecided)}"
        table.add_row("undecided", Text(f"{summary.n_undecided:,}", style="yellow"), text)


def _faults(what: str, faults: Sequence[Fault], n: int) -> RenderableType:
    lines = [
        f"{fault.error if what == 'invalid' else f'{fault.id}: {fault.error}'}" for fault in faults
    ]
    more = [f"and {n - len(faults):,} more, in the results"] if n > len(faults) else []
    table = _rows()
    for position, line in enumerate([*lines, *more]):
        table.add_row(
            Text(what if not position else "", style="red"), Text(one_line(line), overflow="fold")
        )
    return table


def solution_table(result: Result, seconds: float) -> RenderableType:
    """Return one question's answer, its votes and its cost."""
    spent = sum(result.usage.values(), Usage())
    answer = (
        Text(result.answer.text, style="bold green")
        if result.answer
        else Text(_no_answer(result), style="bold red")
    )
    tie = " · the first two answers weigh the same" if result.tied else ""
    stop = f" · ended by budget.{result.stopped_by}" if result.stopped_by else ""
    cut = f", {result.n_cancelled} cancelled" if result.n_cancelled else ""
    failed = f", {result.n_failed} failed" if result.n_failed else ""
    cost = f"{result.n_traces} traces{cut}{failed} · {spent.output_tokens:,} tokens · {duration(seconds)}{stop}{tie}"
    votes = [votes_table(result.clusters, result.n_traces)] if result.clusters else [Text("")]
    return Group(answer, *votes, Text(cost, style="dim"))


def _no_answer(result: Result) -> str:
    return one_line(result.error) if result.error else "no answer: no trace stated one"


def votes_table(clusters: Sequence[Cluster], n_traces: int) -> Table:
    """Return the votes; the share is that of the weight."""
    total = sum(c.weight for c in clusters)
    weighted = any(c.weight != c.count for c in clusters)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("answer", overflow="fold")
    table.add_column("traces", justify="right")
    if weighted:
        table.add_column("weight", justify="right")
    table.add_column("share", justify="right")
    for cluster in clusters:
        weight = [f"{cluster.weight:.3g}"] if weighted else []
        table.add_row(
            Text(cluster.answer.text),
            str(cluster.count),
            *weight,
            f"{cluster.weight / total:.0%}" if total else "–",
        )
    n_silent = n_traces - sum(c.count for c in clusters)
    if n_silent:
        table.add_row(Text("(no vote)", style="dim"), Text(str(n_silent), style="dim"))
    return table


def print_traces(console: Console, traces: Sequence[Trace]) -> None:
    """Print every trace's text under a rule with its facts."""
    for trace in traces:
        stated = f" · answer {trace.answer.text}" if trace.answer else " · no answer"
        console.rule(
            Text(
                f"trace {trace.ordinal} · {trace.finish} · {trace.usage.output_tokens} tokens{stated}"
            ),
            align="left",
            style="dim",
        )
        console.print(Text(trace.text.strip() or trace.error or "(no text)"))


def rankings_table(rankings: Sequence[Ranking]) -> Table:
    """Return selectors side by side; the first is the job's own."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("selector", "accuracy", "95% interval", "n", "answered", "answers that differ"):
        table.add_column(heading, justify="left" if heading == "selector" else "right")
    for position, ranking in enumerate(rankings):
        known = None if ranking.n_failed == ranking.report.n_results else ranking.report.accuracy
        numbers = (
            [f"{known.value:.1%}", _range(known), f"{known.n:,}"] if known else ["–", "–", "–"]
        )
        table.add_row(
            Text(ranking.selector),
            *numbers,
            f"{ranking.report.n_by_status[Status.ANSWERED]:,}",
            f"{ranking.n_other:,}" if position else "–",
        )
    return table


def points_table(points: Sequence[Point]) -> Table:
    """Return the scaling curve."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("k", "pass@k", "95% interval", "maj@k", "95% interval", "n"):
        table.add_column(heading, justify="right")
    for point in points:
        passed, major = point.pass_at_k, point.maj_at_k
        table.add_row(
            str(point.k),
            f"{passed.value:.1%}",
            _range(passed),
            f"{major.value:.1%}",
            _range(major),
            f"{passed.n:,}",
        )
    return table


def judges_table(found: Mapping[str, Quality]) -> Table:
    """Return how well judges tell pairs of traces that agree from pairs that differ, with their 95%
    intervals.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in (
        "judge",
        "pairs",
        "agree",
        "AUROC",
        "within a problem",
        "TNR at 20% FNR",
        "tau there",
    ):
        table.add_column(heading, justify="left" if heading == "judge" else "right")
    for name, quality in found.items():
        figures = (_figure(e) for e in (quality.auroc, quality.within, quality.tnr))
        table.add_row(
            name,
            f"{quality.n_pairs:,}",
            f"{quality.n_same / quality.n_pairs:.0%}",
            *figures,
            f"{quality.tau:.2f}",
        )
    return table


def _figure(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    interval = (
        ""
        if estimate.low is None or estimate.high is None
        else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    )
    return f"{estimate.value:.2f}{interval}"


def _range(estimate: Estimate) -> str:
    return (
        "–"
        if estimate.low is None or estimate.high is None
        else f"{estimate.low:.1%} to {estimate.high:.1%}"
    )
