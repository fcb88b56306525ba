"""Tables of `leadline depth` for probes, searches and calibrated exits; display only."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.view.numbers import (
    count,
    counted,
    estimate_text,
    interval,
    percent,
    share,
)
from orchestrator.cli.view.tables import numbers_table
from orchestrator.core.layers import Schedule
from orchestrator.studies.estimates import Estimate
from orchestrator.studies.layers.exits import ExitCalibration
from orchestrator.studies.layers.scoring import OrderScore, SearchReward
from orchestrator.studies.layers.search import OrderComparison, SearchResult
from orchestrator.studies.layers.think_block import LayerProbe, LoopEffect

_KINDS = {
    "accuracy": "accuracy against reference answers",
    "oracle": (
        "ORACLE: accuracy on the same problems that guided the search; expect a lower accuracy "
        "on others"
    ),
    "agreement": (
        "agreement with the model's own vote: not accuracy, since there are no reference answers"
    ),
}
_GUIDES = {
    SearchReward.ACCURACY: "led by accuracy against reference answers",
    SearchReward.AGREEMENT: (
        "led without references, by agreement with the majority of replies sampled from the "
        "model as it ships"
    ),
}
_LOSSES = {
    "answers": "the share of answers that differ from those at full depth",
    "tokens": "the share of an attempt's tokens from the first that differs from full depth on",
}
_BAR_WIDTH = 24


def probe_view(probe: LayerProbe, folder: Path) -> RenderableType:
    """Return the table of layers, the proposal, and what looping does."""
    table = numbers_table(
        ("layer", "distance"),
        texts_after=("part", ""),
        title=f"{probe.model}: angular distance by layer, {count(probe.n_tokens)} tokens",
    )
    largest = max(probe.distances) or 1.0
    for layer, distance in enumerate(probe.distances):
        bar = "█" * round(_BAR_WIDTH * distance / largest)
        table.add_row(str(layer), f"{distance:.4f}", _part(probe.schedule, layer), bar)
    proposal: list[RenderableType] = [
        Text(
            "no schedule is proposed: the curve does not go flat both from the front and "
            "from the back",
            style="yellow",
        )
    ]
    if probe.schedule is not None:
        proposal = [Text(f"proposed: {probe.schedule}", style="bold"), _loops(probe.loops)]
    return Group(table, *proposal, Text(f"written to {folder}", style="dim"))


def search_view(search: SearchResult, folder: Path) -> RenderableType:
    """Return the Pareto set and the comparison of the winner with the model's own order."""
    table = numbers_table(
        ("layers run", str(search.reward)),
        texts_after=("order",),
        title=(
            f"{search.reward} against layers run, {search.n_problems} problems that led the search"
        ),
    )
    own = search.own
    for scored in search.front if own in search.front else (*search.front, own):
        name = " (the model's own)" if scored.order == own.order else ""
        style = "" if scored in search.front else "dim"
        row = (str(len(scored.order)), _share(scored), f"{Schedule(scored.order)}{name}")
        table.add_row(*row, style=style)
    remarks = [Text(line) for line in search_remarks(search)]
    if search.interrupted:
        remarks.append(Text("interrupted: the same command continues", style="yellow"))
    files = (
        f"schedule: {folder / 'schedule.toml'} (for leadline run); all orders tried: "
        f"{folder / 'orders.jsonl'}"
    )
    return Group(table, *remarks, Text(files, style="dim"))


def search_remarks(search: SearchResult) -> list[str]:
    """Return what a reader of the result must know, in lines without markup."""
    orders = f"{search.n_orders} orders tried, {search.n_whole} of them on all problems"
    lines = [f"{_GUIDES[search.reward]}, {search.n_problems} problems; {orders}"]
    if search.n_unvoted:
        lines.append(f"{search.n_unvoted} problems were left out: no sampled reply had an answer")
    if search.winner.order == search.own.order:
        lines.append("no order did better than the model's own")
    return lines + _comparison_lines(search.comparison, search)


def calibration_view(found: ExitCalibration, model: str, written: str) -> RenderableType:
    """Return the table of thresholds, the line for the plan, and what it guarantees."""
    table = numbers_table(
        ("exit", "loss", "95% interval", "p", "mean depth", "layer-tokens"),
        n_texts=1,
        texts_after=("",),
        title=f"{_LOSSES[found.of]}, one attempt of each of {count(found.n_problems)} problems",
    )
    full = count(found.full_layer_tokens)
    table.add_row("none", "", "", "", str(found.full_depth), full, "full depth")
    for level in found.levels:
        mark = "" if level.is_shown else f"not shown to be within {share(found.limit)}"
        table.add_row(
            level.rule,
            share(level.loss.value),
            interval(level.loss),
            f"{level.p_value:.2g}",
            f"{level.mean_depth:.2f}",
            count(level.layer_tokens),
            "◆" if level.rule == found.rule else mark,
        )
    lines: list[RenderableType] = [Text(line) for line in calibration_lines(found)]
    if found.rule:
        lines.append(Text(f'exit = "{found.rule}"   # in [models.{model}]', style="bold"))
    return Group(table, *lines, Text(written, style="dim"))


def calibration_lines(found: ExitCalibration) -> list[str]:
    """Return what was shown of the rule, and the next step where nothing was."""
    lines = []
    if found.n_failed:
        lines.append(f"{counted(found.n_failed, 'attempt')} failed and count as lost")
    if not found.rule:
        strictest = found.levels[0]
        lines.append(
            f"even {strictest.rule} is not shown to be within {share(found.limit)} with confidence "
            f"{percent(found.confidence)}: test stricter --thresholds, take more problems, or "
            "allow a larger --loss"
        )
        return lines
    lines.append(
        f"with confidence {percent(found.confidence)} over the draw of {count(found.n_problems)} "
        f"problems: {_LOSSES[found.of]} is at most {share(found.limit)} on problems like these"
    )
    return lines


def _comparison_lines(comparison: OrderComparison | None, search: SearchResult) -> list[str]:
    if comparison is None:
        return ["not compared on held-out problems: the search was interrupted"]
    is_oracle = comparison.kind == "oracle"
    where = "on the same problems" if is_oracle else f"on {comparison.own.n} problems"
    only_winner = f"right only with the order found: {comparison.n_gained}"
    only_own = f"right only with the model's own: {comparison.n_lost}"
    return [
        f"{where}, {_KINDS[comparison.kind]}:",
        f"  the model's own order, {len(search.own.order)} layers: {estimate_text(comparison.own)}",
        f"  the order found, {len(search.winner.order)} layers: {estimate_text(comparison.winner)}",
        f"  {only_winner}; {only_own}",
    ]


def _share(scored: OrderScore) -> str:
    return f"{share(scored.reward)} ({sum(scored.right)}/{len(scored.right)})"


def _part(schedule: Schedule | None, layer: int) -> str:
    if schedule is None:
        return ""
    return "think" if layer in schedule.think else "encode" if layer in schedule.head else "decode"


def _loops(loops: tuple[LoopEffect, ...]) -> RenderableType:
    table = numbers_table(
        (
            "r",
            "loop",
            "layers run",
            "nats a token",
            "change against r = 1 (95% interval over windows)",
        ),
        title="what looping the think block does to the likelihood of the text",
    )
    for loop in loops:
        kind = "" if loop.change is None else "damped" if loop.damped else "plain"
        nats = f"{loop.nll.value:.3f}"
        table.add_row(str(loop.depth), kind, str(loop.n_layers_run), nats, _change(loop.change))
    helps = any(
        loop.change is not None and loop.change.high is not None and loop.change.high < 0
        for loop in loops
    )
    remark = (
        "looping helps where the whole interval is below 0"
        if helps
        else "no loop makes this text more likely: lower would be better"
    )
    return Group(table, Text(remark))


def _change(change: Estimate | None) -> str:
    if change is None:
        return ""
    bounds = interval(change, "+.3f", missing="")
    return f"{change.value:+.3f}{f' ({bounds}, n = {change.n})' if bounds else ''}"
