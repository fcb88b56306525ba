"""Reports runs to Trackio, which has W&B's interface and keeps runs on this machine or in a Space.

Imported only where it is used. A job's run is named by its id, so a resumed job continues it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.runtime.sinks.events import Event, ProblemFinished, Receive, RunEnded, RunStarted
from orchestrator.runtime.sinks.numbers import Counts, final_numbers, settings


@dataclass(frozen=True, slots=True)
class Trackio:
    """Report runs to Trackio: on this machine, or in a Space of the Hugging Face hub."""

    project: Annotated[str, Meta(min_length=1, description="The project of the runs.")] = "leadline"
    space: Annotated[
        str, Meta(description="A Space as USER/NAME; empty: on this machine (`trackio show`).")
    ] = ""
    events: ClassVar[tuple[type, ...]] = (ProblemFinished, RunEnded)
    packages: ClassVar[dict[str, str]] = {"trackio": "leadline[trackio]"}

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        """Begin or continue the Trackio run of a job."""
        import trackio

        own = trackio.init(
            self.project,
            name=f"{run.name} [{run.job_id[:8]}]",
            space_id=self.space or None,
            config=settings(run),
            resume="allow",
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        counts = Counts(run)

        def receive(events: Sequence[Event]) -> None:
            row = counts.row(events)
            if isinstance(last := events[-1], RunEnded):
                row |= final_numbers(last)
            if row:
                own.log(row)

        yield receive
        own.finish()
