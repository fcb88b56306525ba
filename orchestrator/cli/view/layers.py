"""Tables of a probe and of a search. Drawing only; every number comes in."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.core.layers import Schedule
from orchestrator.studies.evaluate import Estimate
from orchestrator.studies.layers.scoring import OrderScore, SearchReward
from orchestrator.studies.layers.search import Comparison, SearchResult, SearchTask
from orchestrator.studies.layers.think_block import LayerProbe, LoopEffect

_KINDS = {
    "accuracy": "accuracy against reference answers",
    "oracle": "ORACLE: accuracy on the very problems whose answers led the search, so no accuracy to expect elsewhere",
    "agreement": "agreement with the model's own vote: not accuracy, since no answers were given",
}


def probe_view(found: LayerProbe, folder: Path) -> RenderableType:
    """Return the table of layers, the proposal, and what looping does."""
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{found.model}: angular distance by layer, {found.n_tokens:,} tokens",
        title_justify="left",
    )
    table.add_column("layer", justify="right")
    table.add_column("distance", justify="right")
    table.add_column("part")
    table.add_column("")
    largest = max(found.distances) or 1.0
    for layer, distance in enumerate(found.distances):
        table.add_row(
            str(layer),
            f"{distance:.4f}",
            _part(found.schedule, layer),
            "█" * round(24 * distance / largest),
        )
    lines: list[RenderableType] = [table]
    if found.schedule is None:
        lines.append(
            Text(
                "no schedule is proposed: the curve does not go flat both from the front and from the back",
                style="yellow",
            )
        )
    else:
        lines.append(Text(f"proposed: {found.schedule}", style="bold"))
        lines.append(_loops(found.loops))
    lines.append(Text(f"written to {folder}", style="dim"))
    return Group(*lines)


def search_view(found: SearchResult, folder: Path, task: SearchTask) -> RenderableType:
    """Return the Pareto set and the comparison of the winner with the model's own order."""
    title = f"{found.reward} against layers run, {found.n_problems} problems that led the search"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("layers run", justify="right")
    table.add_column(str(found.reward), justify="right")
    table.add_column("order", overflow="fold")
    for scored in found.front:
        mark = " (the model's own)" if scored.order == found.own.order else ""
        table.add_row(str(len(scored.order)), _share(scored), f"{Schedule(scored.order)}{mark}")
    if found.own not in found.front:
        table.add_row(
            str(len(found.own.order)),
            _share(found.own),
            f"{Schedule(found.own.order)} (the model's own)",
            style="dim",
        )
    remarks = [Text(line) for line in search_remarks(found)]
    where = Text(
        f"schedule: {folder / 'schedule.toml'} (leadline run takes it); every order tried: {folder / 'orders.jsonl'}",
        style="dim",
    )
    again = (
        [Text("interrupted: the same command goes on where it was", style="yellow")]
        if found.interrupted
        else []
    )
    return Group(table, *remarks, *again, where)


def search_remarks(found: SearchResult) -> list[str]:
    """Return what has to be said of a search in any form, in lines without markup."""
    led = {
        SearchReward.ACCURACY: "led by accuracy against reference answers",
        SearchReward.AGREEMENT: "led without references, by agreement with the majority of replies drawn from the model as it ships",
    }
    lines = [
        f"{led[found.reward]}, {found.n_problems} problems; {found.n_orders} orders tried, {found.n_whole} of them on all problems"
    ]
    if found.n_unvoted:
        lines.append(f"{found.n_unvoted} problems were left out: no drawn reply stated an answer")
    if found.winner.order == found.own.order:
        lines.append("no order did better than the model's own")
    lines += _compared(found.comparison, found)
    return lines


def _compared(comparison: Comparison | None, found: SearchResult) -> list[str]:
    if comparison is None:
        return ["not compared on problems held out: the search was interrupted"]
    where = (
        "on the same problems" if comparison.kind == "oracle" else f"on {comparison.own.n} problems"
    )
    return [
        f"{where}, {_KINDS[comparison.kind]}:",
        f"  the model's own order, {len(found.own.order)} layers: {estimate_text(comparison.own)}",
        f"  the order found, {len(found.winner.order)} layers: {estimate_text(comparison.winner)}",
        f"  right only with the order found: {comparison.n_gained}; right only with the model's own: {comparison.n_lost}",
    ]


def estimate_text(estimate: Estimate) -> str:
    """Return a share as 41.7% (19.3% to 68.0%, n = 12)."""
    interval = (
        ""
        if estimate.low is None or estimate.high is None
        else f"{estimate.low:.1%} to {estimate.high:.1%}, "
    )
    return f"{estimate.value:.1%} ({interval}n = {estimate.n})"


def _share(scored: OrderScore) -> str:
    return f"{scored.reward:.1%} ({sum(scored.right)}/{len(scored.right)})"


def _part(schedule: Schedule | None, layer: int) -> str:
    if schedule is None:
        return ""
    return "think" if layer in schedule.think else "encode" if layer in schedule.head else "decode"


def _loops(loops: tuple[LoopEffect, ...]) -> RenderableType:
    table = Table(
        box=SIMPLE_HEAD,
        title="what looping the think block does to the likelihood of the text",
        title_justify="left",
    )
    for name in (
        "r",
        "loop",
        "layers run",
        "nats a token",
        "change against r = 1 (95% interval over windows)",
    ):
        table.add_column(name, justify="left" if name == "loop" else "right")
    for loop in loops:
        kind = "" if loop.change is None else "damped" if loop.damped else "plain"
        table.add_row(
            str(loop.depth),
            kind,
            str(loop.n_layers_run),
            f"{loop.nll.value:.3f}",
            _change(loop.change),
        )
    better = [
        loop
        for loop in loops
        if loop.change is not None and loop.change.high is not None and loop.change.high < 0
    ]
    verdict = (
        "looping helps where the whole interval is below 0"
        if better
        else "no loop makes this text likelier: lower would be better"
    )
    return Group(table, Text(verdict))


def _change(change: Estimate | None) -> str:
    if change is None:
        return ""
    interval = (
        "" if change.low is None else f" ({change.low:+.3f} to {change.high:+.3f}, n = {change.n})"
    )
    return f"{change.value:+.3f}{interval}"
