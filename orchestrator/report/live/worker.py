"""The process that keeps the indexes: it follows the journals until its standard input ends.

The one rule: the job never waits for it. It has the lowest priority, so on a busy machine the pages
are late and the job is not; and it ends however the process that started it ended.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from orchestrator.jobs.journal import stamp
from orchestrator.plan.execution import Execution
from orchestrator.report.live.index import Index
from orchestrator.report.live.indexer import JobIndexer
from orchestrator.report.page.studies import SURFACE, read_surface, sweep_page
from orchestrator.report.scored import read_scored
from orchestrator.runtime.answer_workers import AnswerWorkers

_PAUSE_SECONDS = 0.5  # between two looks at the journals


async def follow(
    jobs: Sequence[tuple[Path, Path]], problems: str, sweep: Path | None = None
) -> None:
    """Keep the index of each job (directory, file of the index) up to date, for ever.

    The index of the first one has the page of the sweep that they are part of, once it has ended.
    """
    execution = Execution()
    workers = AnswerWorkers(n_workers=execution.checkers, limit_seconds=execution.checker_seconds)
    async with aclosing(workers):
        indexers = [JobIndexer(job, problems, Index(path), workers) for job, path in jobs]
        known: tuple[int, ...] = ()
        while True:
            for indexer in indexers:
                await indexer.look()
            if sweep is not None and any(found := stamp(sweep / SURFACE)) and found != known:
                scored = [(i, read_scored(job, problems)) for i, (job, _) in enumerate(jobs)]
                indexers[0].set_sweep(sweep_page(sweep, read_surface(sweep), scored))
                known = found
            await asyncio.sleep(_PAUSE_SECONDS)


def main() -> None:
    """Follow the jobs that the first argument names, as JSON, until the standard input ends."""
    places, problems, folder, sweep = msgspec.json.decode(
        sys.argv[1], type=tuple[list[tuple[str, str]], str, str, str | None]
    )
    jobs = [(Path(job), Path(path)) for job, path in places]
    os.nice(19)

    def leave() -> None:
        sys.stdin.buffer.read()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=leave, daemon=True).start()
    asyncio.run(follow(jobs, problems, None if sweep is None else Path(sweep)))


if __name__ == "__main__":
    main()
