"""What `leadline replay` does, once its arguments are parsed; returns its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from orchestrator.cli.view.live import Screen
from orchestrator.cli.view.replay import replay_tables
from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget
from orchestrator.plan import registry
from orchestrator.plan.spec_syntax import several_specs, spelled
from orchestrator.studies.replay.experiment import Conditions, ReplayRow, ReplaySetting, play_all
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import Draw


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of `leadline replay`, as it was typed."""

    sources: Sequence[str]
    strategies: Sequence[str]
    selectors: Sequence[str] = ()
    n_seeds: int = 100
    draw: Draw = "shuffled"
    domain: str = ""
    problems: str = ""
    probe_tokens: int = 0
    max_tokens: int = 0
    n_processes: int = 0
    plot: str = ""
    as_json: bool = False


def replay(asked: Asked) -> int:
    """Replay strategies on recordings, print the table and, if asked, draw the plot."""
    settings = _settings(asked.strategies, asked.selectors)
    recordings = [read_recording(source, asked.domain, asked.problems) for source in asked.sources]
    for recording in recordings:
        for note in recording.notes:
            sys.stderr.write(f"note: {recording.name}: {note}\n")
    conditions = Conditions(
        asked.n_seeds, asked.draw, asked.probe_tokens, Budget(tokens=asked.max_tokens)
    )
    rows = play_all(recordings, settings, conditions, asked.n_processes)
    if asked.as_json:
        sys.stdout.write(
            msgspec.json.format(
                msgspec.json.encode([_document(row) for row in rows]), indent=2
            ).decode()
            + "\n"
        )
    else:
        console = Screen(file=sys.stdout, highlight=False)
        for source in dict.fromkeys(row.source for row in rows):
            console.print(
                replay_tables(
                    [row for row in rows if row.source == source], _title(source, recordings, asked)
                )
            )
    if asked.plot:
        try:
            from orchestrator.cli.view.plots import draw_plot
        except ImportError as error:
            raise PlanError(
                f"--plot needs matplotlib: pip install 'leadline[plot]' ({error})"
            ) from error
        last = rows[-1].source
        draw_plot(
            [row for row in rows if row.source == last],
            Path(asked.plot),
            _title(last, recordings, asked),
        )
    return 0


def _settings(strategies: Sequence[str], selectors: Sequence[str]) -> list[ReplaySetting]:
    """Return every strategy with every selector, all of them checked; without selectors each
    strategy with its own.
    """
    specs = [spec for text in strategies for spec in several_specs("--strategy", text)]
    votes = [spec for text in selectors for spec in several_specs("--selector", text)]
    for spec in votes:
        registry.load("selectors", spec)
    settings = []
    for spec in specs:
        own = registry.own_selector(spec)  # loads the strategy, and so checks its options
        settings += [ReplaySetting(spec, vote) for vote in votes or [own]]
    if not settings:
        raise PlanError(
            "nothing to replay: give at least one --strategy, e.g. --strategy 'consistency n=16'"
        )
    return settings


def _title(source: str, recordings: Sequence[object], asked: Asked) -> str:
    name = f"all {len(recordings)} sources" if source == "all" and len(recordings) > 1 else source
    order = (
        "in the order of recording"
        if asked.draw == "recorded"
        else f"{asked.n_seeds:,} draws, {asked.draw}"
    )
    return f"{name} · {order} · {'probes free' if not asked.probe_tokens else f'{asked.probe_tokens} tokens a probe'}"


def _document(row: ReplayRow) -> dict[str, object]:
    plain = msgspec.to_builtins(replace(row, units={}))
    assert isinstance(plain, dict)
    plain.pop("units")
    return {
        **plain,
        "setting": {
            "strategy": spelled(row.setting.strategy),
            "selector": spelled(row.setting.selector),
        },
    }
