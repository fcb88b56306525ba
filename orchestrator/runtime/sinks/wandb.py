"""Reports runs to Weights & Biases. Imported only where it is used.

The id of a job's run is derived from the job, so a resumed job continues it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from orchestrator.runtime.sinks.events import Event, ProblemFinished, Receive, RunEnded, RunStarted
from orchestrator.runtime.sinks.numbers import Counts, final_numbers, settings

_STEP = "problems_done"


@dataclass(frozen=True, slots=True)
class WeightsAndBiases:
    """Report runs to Weights & Biases, or to files for `wandb sync` with mode = "offline"."""

    project: Annotated[str, Meta(min_length=1, description="The project of the runs.")] = "leadline"
    entity: Annotated[
        str, Meta(description="The user or team; empty: as W&B's own settings say.")
    ] = ""
    mode: Annotated[
        Literal["", "online", "offline"],
        Meta(description="Whether to send or to keep; empty: as WANDB_MODE says."),
    ] = ""
    folder: Annotated[
        str, Meta(description="Where W&B keeps its files; empty: as W&B's own settings say.")
    ] = ""
    events: ClassVar[tuple[type, ...]] = (ProblemFinished, RunEnded)
    packages: ClassVar[dict[str, str]] = {"wandb": "leadline[wandb]"}

    @contextmanager
    def open(self, run: RunStarted) -> Iterator[Receive]:
        """Begin or continue the W&B run of a job."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        own = wandb.init(
            entity=self.entity or None,
            project=self.project,
            mode=self.mode or None,
            dir=self.folder or None,
            id=run.job_id[:16],
            name=run.name,
            config=settings(run),
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            save_code=False,
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        own.define_metric("*", step_metric=_STEP)
        counts = Counts(run)

        def receive(events: Sequence[Event]) -> None:
            if row := counts.row(events):
                own.log(row)
            if isinstance(last := events[-1], RunEnded):
                own.summary.update(final_numbers(last))
                own.finish(exit_code=0 if last.reason == "done" else 1)

        yield receive
