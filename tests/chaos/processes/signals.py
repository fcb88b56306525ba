"""Signals at random moments over every strategy: jobs are ended, and continued until they are done.

Each strategy in turn has a job, in real processes of `leadline run`. After each of them everything
that was journalled is there, nothing of it is generated again, each trace is its request's, and
what was printed is no traceback.
"""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import audit
import cases

from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Problem, Status
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import load_explorer
from orchestrator.plan.execution import Execution, Supervision
from orchestrator.plan.file import plan_toml
from processes.command import Command, Ended, run, served

N_PROBLEMS = 6
# how a process may end by each; -15: before it could handle one
_CODES = {
    "kill": {-9, 0},
    "term": {143, -15, 0},
    "int": {130, 0},
    "twice": {130, 0},
    "hup": {129, -1, 0},
    "worker": {0},
}
_NUMBERS = {
    "kill": signal.SIGKILL,
    "term": signal.SIGTERM,
    "int": signal.SIGINT,
    "twice": signal.SIGINT,
    "hup": signal.SIGHUP,
}


@dataclass(slots=True)
class JobFolder:
    """A job that is to be ended again and again."""

    folder: Path
    name: str
    domain: str
    plan: Plan = field(init=False)
    n_runs: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.plan = replace(cases.plan_of(self.name), domain=self.domain)
        rows = ({"id": p.id, "prompt": p.prompt} for p in self.problems)
        (self.folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        engine = PluginSpec("chaos-logging", {"log": str(self.log)})
        how = Execution(engine, window=4, supervision=Supervision(max_failed=1.0))
        (self.folder / "plan.toml").write_text(plan_toml(self.plan, how))

    @property
    def problems(self) -> list[Problem]:
        return [Problem(f"q{i}", f"Question {i}?", self.domain) for i in range(N_PROBLEMS)]

    @property
    def out(self) -> Path:
        return self.folder / "job"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def arguments(self) -> list[str]:
        place = ["--problems", str(self.folder / "p.jsonl"), "--out", str(self.out)]
        return ["run", str(self.folder / "plan.toml"), *place]

    @property
    def output(self) -> Path:
        self.n_runs += 1
        return self.folder / f"output-{self.n_runs}"

    def contents(self) -> audit.Contents:
        """Return what its journal has; nothing before there is one."""
        if not (self.out / "journal.db").exists():
            return audit.Contents({}, {}, frozenset())
        with Journal.for_reading(self.out / "journal.db") as journal:
            return audit.contents(journal)

    def check(self, before: audit.Contents, n_served: int) -> None:
        """Violation if what a process left is not what it found, and more."""
        audit.require_kept(before, self.contents())
        again = {*served(self.log)[n_served:]} & before.finished
        assert not again, f"generated again although journalled: {again}"
        if (self.out / "journal.db").exists():
            with Journal.for_reading(self.out / "journal.db") as journal:
                explorer, tried = load_explorer(self.plan), before.unsettled
                audit.require_sound(journal, explorer, self.problems, cases.ENGINE, tried)

    def check_end(self) -> None:
        """Violation if a problem of a job that is done has no result."""
        results = self.contents().results
        assert sorted(results) == [p.id for p in self.problems], f"results of {sorted(results)}"
        failed = [r for r in results.values() if r.status is Status.FAILED]
        assert not failed, f"{failed[0].problem_id} failed: {failed[0].error}"
        n_lines = len((self.out / "results.jsonl").read_bytes().splitlines())
        assert n_lines == N_PROBLEMS, f"results.jsonl has {n_lines} lines"


def end_and_resume(
    directory: Path, seed: int, n: int, strategy: str, echo: Callable[[str], None]
) -> Counter[str]:
    """End `n` processes, over all strategies in turn; return how they ended.

    AssertionError, with the seed and the job's folder, where one did not end as it must.
    """
    rng, ends = random.Random(seed), Counter[str]()
    names = [strategy] if strategy else sorted(cases.CASES)
    n_jobs = 0
    while ends["signals"] < n:
        name = names[n_jobs % len(names)]
        domain = "last-number" if n_jobs % 3 == 2 else cases.DOMAIN
        job = JobFolder(directory / f"{n_jobs}-{name.replace('@', '')}", name, domain)
        n_jobs += 1
        share = max(1, n // len(names) if len(names) < n else 1)
        try:
            _end_one(job, rng, min(share, n - ends["signals"]), ends)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {job.folder}: {error}") from error
        if n_jobs % 10 == 0 or ends["signals"] >= n:
            echo(f"{n_jobs} jobs, {ends['signals']} signals: {dict(ends)}")
    return ends


def _end_one(job: JobFolder, rng: random.Random, n: int, ends: Counter[str]) -> None:
    for _ in range(n):
        before, n_served = job.contents(), len(served(job.log))
        what = rng.choice(["kill", "kill", "kill", "term", "int", "twice", "hup", "worker"])
        ended = _run_and_signal(job, rng, what)
        ends["signals"] += 1
        ends[f"{what} {ended.code}"] += 1
        assert not ended.has_traceback, f"{what}: {ended.output[-3000:]}"
        # before there is a command, click answers
        is_early = ended.code == 1 and ended.output.strip() == "Aborted!"
        assert ended.code in _CODES[what] or is_early, (
            f"{what}: it ended with {ended.code}: {ended.output}"
        )
        job.check(before, n_served)
        if ended.code == 0:
            job.check_end()
            break
    ended = run(job.arguments, job.output)
    assert (ended.code, ended.has_traceback) == (0, False), ended.output
    job.check_end()
    n_served = len(served(job.log))
    ended = run(["resume", str(job.out)], job.output)
    assert ended.code == 0, ended.output
    assert len(served(job.log)) == n_served, "a job that is done generates again"


def _run_and_signal(job: JobFolder, rng: random.Random, what: str) -> Ended:
    command = Command(job.arguments, job.output)
    if not command.ends_within(rng.choice((rng.uniform(0, 0.1), rng.uniform(0, 1.5)))):
        if what == "worker":
            command.kill_worker(rng.randrange(8))
        else:
            command.send(_NUMBERS[what])
        if what == "twice" and not command.ends_within(rng.uniform(0, 0.02)):
            command.send(_NUMBERS[what])
    return command.end()
