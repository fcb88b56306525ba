"""Job directories whose files were torn, cut off, changed or removed while no process had them.

A log that is cut off is what a power cut leaves: the job loses its last transactions and no more.
Whatever else happened to a file, commands end with a message, and what is called done is done.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import audit
import cases
from simulation.disk import copied

from hostile import texts
from hostile.campaign import code_of
from orchestrator.core.plan import Plan
from orchestrator.core.values import Problem
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import load_explorer
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import plan_toml
from orchestrator.runtime.api import run_job

_N_PROBLEMS = 8
_ENGINE = {
    "name": "fake",
    "answers": list(cases.ENGINE.answers),
    "n_tokens": cases.ENGINE.n_tokens,
    "spread_tokens": cases.ENGINE.spread_tokens,
    "judge_error": cases.ENGINE.judge_error,
}
_LOG = "journal.db-wal"


def tear(
    folder: Path, seed: int, n: int, strategy: str, echo: Callable[[str], None]
) -> Counter[str]:
    """Tear a file of `n` job directories; return what became of them.

    AssertionError, with the seed, where a command does not end as it must.
    """
    ends = Counter[str]()
    for number in range(seed, seed + n):
        rng = random.Random(number)
        name = strategy or rng.choice(sorted(cases.CASES))
        place = folder / str(number)
        try:
            ends[_torn(rng, place, replace(cases.plan_of(name), seed=number))] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {number}, {name}, {place}: {error}") from error
        shutil.rmtree(place)
        if (number - seed + 1) % 100 == 0 or number == seed + n - 1:
            echo(f"{number - seed + 1} directories torn: {dict(sorted(ends.items()))}")
    return ends


def _torn(rng: random.Random, place: Path, plan: Plan) -> str:
    """Tear a file of a job, run it again, and return the file and the exit code."""
    place.mkdir()
    problems = [Problem(f"q{i}", f"Question {i}?", cases.DOMAIN) for i in range(_N_PROBLEMS)]
    rows = ({"id": p.id, "prompt": p.prompt} for p in problems)
    (place / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = Execution(_ENGINE)
    (place / "plan.toml").write_text(plan_toml(plan, how))
    job, copy = place / "job", place / "copy"
    run = ("run", str(place / "plan.toml"), "--problems", str(place / "p.jsonl"), "--out")
    before = _half_done(rng, job, copy, plan, how, problems)
    file = rng.choice([p.name for p in sorted(copy.iterdir()) if p.stat().st_size] + [_LOG] * 2)
    content = (copy / file).read_bytes()
    is_cut = file == _LOG and rng.random() < 0.7
    if is_cut:
        (copy / file).write_bytes(content[: rng.randrange(len(content) + 1)])
        _require_beginning(copy, before)
    elif rng.random() < 0.1:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(texts.spoiled(rng, content))
    code_of(("show", str(copy)))
    code = code_of((*run, str(copy)))
    assert code == 0 or not is_cut, f"after a power cut the command ends with {code}"
    if code == 0:
        _require_whole(copy, plan, problems)
    return f"{'the log cut off' if is_cut else file}: {code}"


def _half_done(
    rng: random.Random,
    job: Path,
    copy: Path,
    plan: Plan,
    how: Execution,
    problems: list[Problem],
) -> audit.Contents:
    """Run a part of a job, and copy what a process that is killed then would leave."""

    async def work() -> audit.Contents:
        most = rng.randint(1, _N_PROBLEMS - 1)
        factory = registry.load("engines", how.engine)
        with open_job(job, plan, problems) as opened:
            results = run_job(opened, plan, how, factory=factory)
            for _ in range(most):
                await anext(results)
            copied(job, copy)
            before = audit.contents(opened.journal)
            await results.aclose()
            return before

    return asyncio.run(work())


def _require_beginning(copy: Path, before: audit.Contents) -> None:
    """Violation if what is left of a journal is not its beginning, problem by problem."""
    if not (copy / "journal.db").stat().st_size:
        return
    with Journal.for_reading(copy / "journal.db") as journal:
        audit.require_kept(audit.contents(journal), before)


def _require_whole(copy: Path, plan: Plan, problems: list[Problem]) -> None:
    with Journal(copy / "journal.db") as journal:
        audit.require_sound(journal, load_explorer(plan), problems, cases.ENGINE)
        results = sorted(result.problem_id for result in journal.results())
        assert results == [p.id for p in problems], f"results of {results}"
