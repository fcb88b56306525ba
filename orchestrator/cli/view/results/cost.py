"""The expected cost of a run as a table; display only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.view.numbers import count, counted, duration, usd
from orchestrator.core.plan import Plan
from orchestrator.plan.execution import Execution
from orchestrator.report.cost import Costs, Expected


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run writes: its directory, its files, and how many problems are done there."""

    directory: str
    files: tuple[str, ...]
    n_done: int
    exists: bool
    note: str = ""


def costs_table(costs: Costs, place: Place, plan: Plan, execution: Execution) -> RenderableType:
    """Return what the rest of a job is expected to cost, and what it writes where."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    done = f"; {place.n_done:,} are done" if place.n_done else ""
    table.add_row("problems", count(costs.n_problems), f"to be done{done}")
    for name, expected, write, meaning in _rows(costs, plan, execution):
        table.add_row(name, expected_text(expected, write), Text(meaning))
    state = "is continued" if place.n_done else "exists" if place.exists else "new"
    table.add_row("directory", Text(place.directory), state)
    table.add_row("files", "", Text(", ".join(place.files)))
    notes = [Text(f"note: {note}", style="yellow") for note in (*costs.notes, place.note) if note]
    how = (
        f"extrapolated from {counted(costs.n_measured, 'finished problem')}; in brackets 95% "
        "intervals"
        if costs.n_measured
        else "bounds of the strategy; nothing was started or written. --pilot 5 measures"
    )
    return Group(table, *notes, Text(how, style="dim"))


def _rows(
    costs: Costs, plan: Plan, execution: Execution
) -> list[tuple[str, Expected, Callable[[float], str], str]]:
    limit, is_measured = plan.sampling.max_new_tokens, bool(costs.n_measured)
    budget, prices = execution.budget, execution.prices
    meanings = {
        "requests": "few if the attempts agree, many if they do not"
        if not is_measured and costs.requests.low != costs.requests.high
        else "",
        "prompt": "tokens" if is_measured else "tokens, about: by the length of the prompts",
        "output": "tokens"
        if is_measured
        else f"tokens: sampling.max_new_tokens = {limit:,} of each attempt",
        "time": "to serve them: with the window full, to the pace so far" if is_measured else "",
        "money": "by [prices]" if prices else "[prices] has none",
    }
    if budget.usd:
        meanings["money"] += f"; budget.usd = {budget.usd:,.10g} ends the job there"
    rows: list[tuple[str, Expected, Callable[[float], str], str]] = [
        ("requests", costs.requests, count, meanings["requests"]),
        ("prompt", costs.prompt_tokens, count, meanings["prompt"]),
        ("output", costs.output_tokens, count, meanings["output"]),
        ("time", costs.seconds, duration, meanings["time"]),
        ("money", costs.usd, usd, meanings["money"]),
    ]
    if budget.gpu_seconds or costs.gpu_seconds.high:
        limited = f"budget.gpu_seconds = {budget.gpu_seconds:,.10g} ends the job there"
        row = ("GPU time", costs.gpu_seconds, duration, limited if budget.gpu_seconds else "")
        rows.insert(-1, row)
    return rows


def expected_text(expected: Expected, write: Callable[[float], str]) -> str:
    """Return an expected number as 120 (90 to 150), 90 to 150, at most 150, or unknown."""
    value, low, high = expected.value, expected.low, expected.high
    if value is not None and low is not None and high is not None and low < high:
        return f"{write(value)} ({write(low)} to {write(high)})"
    if value is not None:
        return write(value)
    if low is not None and high is not None:
        return write(low) if low == high else f"{write(low)} to {write(high)}"
    return f"at most {write(high)}" if high is not None else "unknown"
