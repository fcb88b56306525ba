"""One history: a job whose processes are killed, cancelled and starved, until it is done.

`play(seed)` draws everything from the seed: the plan, the execution, what befalls each life of a
process, and the order in which things happen. The last life has no faults, and must finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import audit
import cases

from orchestrator.core.errors import (
    BudgetSpent,
    EngineError,
    JournalError,
    TooManyFailed,
)
from orchestrator.core.plan import Budget, Plan
from orchestrator.core.session import Session
from orchestrator.core.values import PluginSpec, Problem, Request, Result, Status, Trace
from orchestrator.engines.supervised import Clock
from orchestrator.jobs.job import Job, open_job, spent_by
from orchestrator.jobs.journal import Journal
from orchestrator.jobs.sessions import Explorer, load_explorer
from orchestrator.plan.execution import Execution, JobBudget, Prices, Supervision, TokenPrices
from orchestrator.runtime.api import run_job
from orchestrator.runtime.progress import Progress
from simulation.disk import Disk, copied, mounted
from simulation.engine import Faults, FaultyFactory
from simulation.loop import Killed, SimulatedLoop, live

_COMPARED = 0.5  # share of the histories that are compared with an undisturbed one
_NAMED = (EngineError, TooManyFailed, JournalError)  # that a run may end with
_ROOT = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a life ends before its time: at a step of the loop, a statement, or a result."""

    what: str = ""  # "kill", "cancel", "before", "after", "full", "io", "leave"; "": it does not
    at: int = 0


@dataclass(slots=True)
class World:
    """A history as it is being played."""

    seed: int
    name: str
    plan: Plan
    explorer: Explorer
    problems: Sequence[Problem]
    execution: Execution
    rng: random.Random
    root: Path
    directory: Path
    n_lives: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    is_disturbed: bool = False  # whether a reply failed, so that results may differ
    tried_again: set[str] = field(default_factory=set)  # problems that failed in earlier lives
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


@dataclass(frozen=True, slots=True)
class Played:
    """What a history came to; the same seed gives the same digest."""

    name: str
    n_lives: int
    ends: Counter[str]
    digest: str


def play(seed: int, name: str = "") -> Played:
    """Play one history, of a given strategy if one is named; AssertionError where one fails."""
    rng = random.Random(seed)
    name, plan = cases.drawn_plan(rng, name)
    problems = cases.problems(rng, plan, rng.randint(1, 3))
    with tempfile.TemporaryDirectory(prefix="leadline-chaos-", dir=_ROOT) as root:
        directory = Path(root) / "0"
        execution = _drawn_execution(rng)
        explorer = load_explorer(plan)
        world = World(seed, name, plan, explorer, problems, execution, rng, Path(root), directory)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            _live(world, _drawn_ending(rng), _drawn_faults(rng, world))
        _finish(world)
        results = _require_end(world)
        if _is_settled(world) and rng.random() < _COMPARED:
            _require_same(world, results)
    return Played(name, world.n_lives, world.ends, world.digest.hexdigest()[:16])


def _drawn_execution(rng: random.Random) -> Execution:
    kind, budget, prices = rng.random(), JobBudget(), Prices()
    if kind < 0.08:
        budget = JobBudget(job_tokens=rng.randint(10, 400))
    elif kind < 0.14:
        budget = JobBudget(job_seconds=rng.uniform(0.1, 20.0))
    elif kind < 0.2:
        budget = JobBudget(usd=rng.uniform(0.001, 0.05))
        prices = Prices(pools={name: TokenPrices(1.0, None, 20.0) for name in cases.MODELS})
    elif kind < 0.24:
        budget = JobBudget(gpu_seconds=rng.uniform(0.1, 20.0))
    return Execution(
        engine=PluginSpec("fake"),
        window=rng.choice((1, 2, 3, 8)),
        strategy_seconds=math.inf,  # no thread that watches: its time is real
        open_problems=rng.choice((0, 0, 1, 2)),
        budget=budget,
        prices=prices,
        supervision=Supervision(rng.choice((0.0, 1.0, 30.0, 600.0)), rng.choice((1.0, 0.3))),
    )


def _drawn_ending(rng: random.Random) -> Ending:
    what = rng.choice(
        ("kill", "kill", "cancel", "before", "after", "before", "after", "full", "io", "leave", "")
    )
    if what in ("kill", "cancel"):
        return Ending(what, int(2 ** rng.uniform(0, 10)))
    if what == "leave":
        return Ending(what, 1)
    return Ending(what, int(2 ** rng.uniform(0, 7)) if rng.random() < 0.8 else rng.randrange(12))


def _drawn_faults(rng: random.Random, world: World) -> Faults:
    def sometimes(share: float, most: float) -> float:
        return rng.uniform(0, most) if rng.random() < share else 0.0

    ends = bool(world.plan.budget.seconds or world.execution.budget.job_seconds)
    begin = rng.expovariate(0.5)
    return Faults(
        slow=sometimes(0.5, 0.3),
        late=sometimes(0.5, 0.5),
        refused=sometimes(0.3, 0.6),
        failed=sometimes(0.2, 0.5),
        raises=sometimes(0.15, 0.4),
        malformed=sometimes(0.15, 0.4),
        hangs=sometimes(0.3, 0.3) if ends else 0.0,
        dies_at=rng.randrange(1, 30) if rng.random() < 0.15 else 0,
        outages=((begin, begin + rng.expovariate(0.05)),) if rng.random() < 0.2 else (),
        loses_replica=sometimes(0.2, 0.2),
    )


def _finish(world: World) -> None:
    """Live without faults, and with means for everything that a run would end for.

    Afterwards nothing remains to be done.
    """
    budget = replace(world.execution.budget, usd=0.0, gpu_seconds=0.0)
    supervision = Supervision(600.0, 1.0)
    world.execution = replace(world.execution, budget=budget, supervision=supervision)
    end = _live(world, Ending(), Faults(late=0.2, slow=0.1))
    assert end == "", f"a life without faults ended: {end}"


class Watcher:
    """Observes a driver: what it sees must be in the journal already."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.violations: list[str] = []
        self._seen: set[tuple[str, int]] = set()

    def arrived(self, session: Session, trace: Trace) -> None:
        identity = session.problem.id, trace.ordinal
        if identity in self._seen:
            self.violations.append(f"{identity} arrived twice")
        self._seen.add(identity)
        query = "SELECT 1 FROM events WHERE problem = ? AND ordinal = ?"
        if not self._journal._db.execute(query, identity).fetchone():
            self.violations.append(f"{identity} was delivered before it was journalled")

    def concluded(self, result: Result) -> None:
        if self._journal.conclusion(result.problem_id)[1] is None:
            self.violations.append(f"{result.problem_id} was concluded without its result")


def _live(world: World, ending: Ending, faults: Faults) -> str:
    """Live once; return the name of the error that ended it, "" where none did."""
    world.n_lives += 1
    life = _Life(world, ending, faults)
    error = ""
    try:
        with mounted(life.disk), open_job(world.directory, world.plan, world.problems) as job:
            life.run(job)
    except (Exception, asyncio.CancelledError, Killed) as failure:  # noqa: BLE001 - `reason` raises what nothing explains
        error = life.reason(failure)
    if life.is_dead:
        error, world.directory = "killed", life.copy
    life.check(error)
    world.ends[error or "done"] += 1
    world.digest.update(f"{error} {life.n_steps} {life.factory.log.n_requests}\n".encode())
    return error


class _Life:
    """One process."""

    def __init__(self, world: World, ending: Ending, faults: Faults) -> None:
        self.world = world
        self.ending = ending
        self.copy = world.root / str(world.n_lives)
        self.is_dead = False
        self.before: audit.Contents | None = None
        self.progress = Progress()
        self.watcher: Watcher | None = None
        self.n_steps = 0
        self.spent_before = 0
        self.disk = Disk(on_kill=self._die)
        if ending.what in ("before", "after", "full", "io"):
            self.disk.at, self.disk.what = ending.at, ending.what
        options = replace(
            cases.ENGINE,
            seconds_per_token=world.rng.choice((0.0, 0.01, 0.3)),
            gpus=1.0 if world.execution.budget.gpu_seconds else 0.0,
        )
        self.options = options
        self.faults = faults
        self.factory = FaultyFactory(options, faults, world.rng, self._must_not)

    def _require_no_violation(self) -> None:
        seen = [*self.factory.log.violations, *(self.watcher.violations if self.watcher else ())]
        if seen:
            raise audit.Violation("; ".join(seen))

    def _must_not(self, request: Request) -> str:
        assert self.before is not None
        if self.is_dead or request.ordinal < 0:  # a verifier's
            return ""
        return "generated again" if request.identity in self.before.finished else ""

    def _die(self) -> None:
        if not self.is_dead:
            self.is_dead = True
            self.world.directory.mkdir(exist_ok=True)
            copied(self.world.directory, self.copy)

    def run(self, job: Job) -> None:
        self.job = job
        self.before = audit.contents(job.journal)
        self.spent_before = job.spent.total.output_tokens
        self.watcher = Watcher(job.journal)
        rng = self.world.rng
        loop = SimulatedLoop(rng, rng.choice((0.0, 5.0, rng.uniform(0, 1e6))), self._step)
        self.loop = loop
        try:
            live(loop, self._main(job, loop))
        finally:
            if not self.is_dead:
                self.n_steps = max(0, loop.n_steps)
                assert not loop.unhandled, f"nobody handled {loop.unhandled}"

    def _step(self, number: int) -> None:
        self._require_no_violation()
        if number != self.ending.at:
            return
        if self.ending.what == "kill":
            self.n_steps = number
            self._die()
            raise Killed
        if self.ending.what == "cancel":
            self.loop.main.cancel()  # type: ignore[attr-defined]

    async def _main(self, job: Job, loop: SimulatedLoop) -> None:
        clock = Clock(loop.time, asyncio.sleep, self.world.rng.random)

        def watch(progress: Progress) -> None:
            self.progress = progress

        work = run_job(
            job,
            self.world.plan,
            self.world.execution,
            watch,
            factory=self.factory,
            clock=clock,
            observer=self.watcher,
        )
        async with contextlib.aclosing(work) as results:
            async for result in results:
                if job.journal.conclusion(result.problem_id)[1] is not result.status:
                    raise audit.Violation(f"{result.problem_id}: a result before it is durable")
                if self.ending.what == "leave":
                    return

    def reason(self, error: BaseException) -> str:
        """Return the name of an error that ended this life; raise it if nothing explains it."""
        faults, what = self.faults, self.ending.what
        if self.is_dead:  # what a process says that is being taken down, nobody hears
            return "killed"
        if isinstance(error, asyncio.CancelledError):
            explained = what == "cancel"
        elif not isinstance(error, _NAMED):
            explained = False
        elif isinstance(error, BudgetSpent):
            explained = bool(self.world.execution.budget.usd or self.options.gpus)
        elif isinstance(error, JournalError):
            explained = what in ("full", "io")
        elif isinstance(error, TooManyFailed):
            explained = True
        else:
            explained = bool(faults.dies_at or faults.outages or faults.refused)
        if not explained:
            raise error
        return type(error).__name__

    def check(self, error: str) -> None:
        """Check what the life left behind."""
        world, log = self.world, self.factory.log
        faults = self.faults
        may_fail = faults.refused or faults.outages or faults.raises
        world.is_disturbed |= bool(log.n_lost or may_fail)
        if not self.is_dead:
            self._require_no_violation()
        with Journal(world.directory / "journal.db") as journal:
            after = audit.contents(journal)
            if self.before is not None:
                audit.require_kept(self.before, after)
            world.tried_again |= self.before.unsettled if self.before else set()
            audit.require_sound(
                journal, world.explorer, world.problems, cases.ENGINE, world.tried_again
            )
        if error == "" and self.ending.what != "leave" and self.progress.n_problems:
            self._check_counts()

    def _check_counts(self) -> None:
        """Check, of a life that ended by itself, what it counted."""
        progress, log, world = self.progress, self.factory.log, self.world
        counts = progress.n_done, progress.n_open, progress.n_running
        assert counts == (len(world.problems), 0, 0), f"it counts {counts} done, open, running"
        with Journal.for_reading(world.directory / "journal.db") as journal:
            spent = spent_by(journal).total.output_tokens - self.spent_before
        expected = log.output_tokens + log.lost_tokens
        assert spent == expected, f"{spent} tokens are counted as spent, {expected} were generated"


def _lacks_verdicts(world: World, journal: Journal, problem_id: str) -> bool:
    """Tell whether a problem failed because none of its attempts has a verdict.

    A budget or a fault ended the verifications, which are not repeated: as docs/verifiers.md says.
    """
    result, budget = journal.result(problem_id), world.plan.budget
    may_end = world.is_disturbed or budget != Budget() or world.execution.budget.is_shared_out
    return may_end and result is not None and "verdict" in result.error


def _is_settled(world: World) -> bool:
    """Tell whether the results do not depend on what happened, nor on the order of arrival."""
    is_bounded = world.plan.budget != Budget() or world.execution.budget.is_shared_out
    return not (world.is_disturbed or is_bounded or cases.CASES[world.name].is_ordered)


def _require_same(world: World, results: dict[str, Result]) -> None:
    """Violation if an undisturbed job of the same plan has other results."""
    world.directory = world.root / "undisturbed"
    _finish(world)
    for id, result in _require_end(world).items():
        for name in ("status", "answer", "clusters", "n_traces", "tied"):
            one, other = getattr(results[id], name), getattr(result, name)
            if one != other:
                raise audit.Violation(f"{id}: {name} is {one!r:.300}, undisturbed {other!r:.300}")


def _require_end(world: World) -> dict[str, Result]:
    """Return the results of a job that is done; AssertionError if they are not all there."""
    with Journal.for_reading(world.directory / "journal.db") as journal:
        results = {r.problem_id: r for r in journal.results()}
        assert sorted(results) == [p.id for p in world.problems], f"results of {sorted(results)}"
        every = [r for r in results.values() if r.status is Status.FAILED]
        failed = [r for r in every if not _lacks_verdicts(world, journal, r.problem_id)]
        assert not failed, f"{failed[0].problem_id} failed without a fault: {failed[0].error}"
        assert journal.notes()[0] == 0 or world.plan.verifiers, journal.notes()
        for row in sorted(results.items()):
            world.digest.update(repr(row).encode())
    n_lines = len((world.directory / "results.jsonl").read_bytes().splitlines())
    assert n_lines == len(world.problems), f"results.jsonl has {n_lines} lines"
    shutil.rmtree(world.directory)
    return results
