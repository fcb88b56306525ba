"""The verifier `function`: the user's own check, which may raise, hang, crash or eat memory without
hurting the job.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import orchestrator
from orchestrator.core.errors import NoVerdict, PluginError
from orchestrator.core.plan import Model, Plan
from orchestrator.core.protocols import Engine
from orchestrator.core.values import Answer, Capability, PluginSpec, Problem, Trace, Verdict
from orchestrator.engines.fake.engine import Fake
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.runtime.isolated_verifiers import IsolatedVerifiers

CHECKS = """
import json, os, time

def right(problem, trace):
    print("this breaks no frame")
    return trace.answer is not None and trace.answer.text == json.loads(problem.tags)["wanted"]

def share(problem, trace):
    return len(trace.text) / 10

def pid(problem, trace):
    open(trace.text, "a").write(f"{os.getpid()}\\n")
    return 1

def raises(problem, trace):
    raise KeyError("no such thing")

def hangs(problem, trace):
    time.sleep(1000)

def notes_and_hangs(problem, trace):
    open(trace.text, "x").write(str(os.getpid()))
    os.rename(trace.text, trace.text + ".done")
    time.sleep(1000)

def crashes(problem, trace):
    os.abort()

def leaves(problem, trace):
    raise SystemExit(3)

def eats(problem, trace):
    return len(bytearray(10 << 30))

def none(problem, trace):
    pass

def two(problem, trace):
    return 2.0

def words(problem, trace):
    return "1"

def alone(problem):
    return 1.0

async def later(problem, trace):
    return 1.0

number = 3
"""
PROBLEM = Problem("p", "?", tags='{"wanted": "42"}')


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of functions, in the folder from which the job is started."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checks.py"
    path.write_text(CHECKS)
    return path


def verifiers(function: str, **options: object) -> aclosing[IsolatedVerifiers]:
    spec = PluginSpec("function", {"function": function, **options})
    return aclosing(IsolatedVerifiers([spec]))


async def scores(function: str, traces: Sequence[Trace], **options: object) -> list[Verdict]:
    async with verifiers(function, **options) as running:
        return list(
            await asyncio.gather(*(running.verdict("function", PROBLEM, t) for t in traces))
        )


async def test_its_number_is_the_score(checks: Path) -> None:
    """A truth value is 1 or 0; it sees the problem's other fields, the answer and the text; the
    order is that of the traces.
    """
    traces = [
        Trace(0, "xxx", answer=Answer("42", "42")),
        Trace(1, "xxxxx", answer=Answer("7", "7")),
        Trace(2, ""),
    ]
    assert await scores("checks.py:right", traces) == [
        Verdict("function", s) for s in (1.0, 0.0, 0.0)
    ]
    assert await scores(f"{checks}:share", traces) == [
        Verdict("function", s) for s in (0.3, 0.5, 0.0)
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", "KeyError: 'no such thing'"),
        ("hangs", "took more than 0.3 s"),
        ("crashes", "the worker process was killed by SIGABRT"),
        ("leaves", "SystemExit: 3"),
        ("eats", "needed more than 512 MiB of memory"),
        ("none", "TypeError"),
        ("two", "it returned 2.0; a number from 0 to 1, True or False is needed"),
        ("words", "it returned '1'"),
    ],
)
async def test_what_gives_no_number_gives_no_score(checks: Path, name: str, reason: str) -> None:
    """It is an error, which becomes the trace's note; a wrong 0 would be worse.

    The next trace is checked as if nothing had been.
    """
    seconds = 0.3 if name == "hangs" else 60
    async with verifiers(f"checks.py:{name}", seconds=seconds, memory_mib=512) as running:
        for _ in range(2):
            with pytest.raises(NoVerdict) as raised:
                await running.verdict("function", PROBLEM, Trace(0, "x"))
            assert reason in str(raised.value)
    assert await scores("checks.py:share", [Trace(0, "x")]) == [Verdict("function", 0.1)]


@registry.engine("must-not-start")
@dataclass(frozen=True, slots=True)
class MustNotStart:
    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Engine]:
        raise AssertionError("the engine was started")
        yield


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("nowhere.py:right", "there is no file"),
        ("checks.py:wrong", "has no attribute 'wrong'"),
        ("checks.py:number", "is not a plain function"),
        ("checks.py:later", "is not a plain function"),
        ("checks.py:alone", "too many positional arguments"),
        ("checks.py", "write 'checks.py:NAME'"),
        ("no.such.module:right", "ModuleNotFoundError"),
        ("broken.py:right", "SyntaxError"),
        ("hostile.py:right", "SystemExit"),
    ],
)
def test_what_cannot_be_called_is_refused_before_an_engine_starts(
    checks: Path, function: str, reason: str
) -> None:
    """With the reason, and before the job has a directory that its plan would claim; loading the
    user's module cannot end the job either.
    """
    (checks.parent / "broken.py").write_text("def right(:")
    (checks.parent / "hostile.py").write_text("raise SystemExit(0)")
    plan = Plan(
        strategy=PluginSpec("consistency", {"n": 1}),
        verifiers=(PluginSpec("function", {"function": function}),),
    )
    execution, out = Execution(engine=PluginSpec("must-not-start")), checks.parent / "job"
    with pytest.raises(orchestrator.PlanError, match="verifier 'function'") as raised:
        orchestrator.run(["?"], plan, execution, out=out)
    assert reason in str(raised.value)
    assert not out.exists()


@pytest.mark.parametrize("options", [{"seconds": 0}, {"memory_mib": 128}])
def test_limits_out_of_range_are_refused(checks: Path, options: dict[str, object]) -> None:
    with pytest.raises(PluginError, match=next(iter(options))):
        registry.load(
            "verifiers", PluginSpec("function", {"function": "checks.py:right"} | options)
        )


async def test_a_module_is_named_by_its_dots() -> None:
    """A function that is installed needs no path; a problem never equals a trace."""
    assert await scores("operator:eq", [Trace(0, "x")]) == [Verdict("function", 0.0)]


def change(path: Path) -> None:
    path.write_text(CHECKS.replace("return 1\n", "return 0.25\n"))


async def test_processes_are_kept_and_a_changed_file_is_read_again(
    checks: Path, tmp_path: Path
) -> None:
    """What the module imports is imported once a process, not once a trace."""
    log = tmp_path / "pids"
    async with verifiers("checks.py:pid") as running:
        await running.load()
        for _ in range(5):
            await running.verdict("function", PROBLEM, Trace(0, str(log)))
        assert len(set(log.read_text().split())) == 1
        change(checks)
        verdict = await running.verdict("function", PROBLEM, Trace(0, str(log)))
    assert verdict == Verdict("function", 0.25)
    assert len(set(log.read_text().split())) == 2


async def test_cancelling_kills_the_process(checks: Path, tmp_path: Path) -> None:
    """A job that is stopped while a check hangs leaves nothing behind."""
    note = tmp_path / "pid.done"
    async with verifiers("checks.py:notes_and_hangs", seconds=1000) as running:
        task = asyncio.create_task(
            running.verdict("function", PROBLEM, Trace(0, str(tmp_path / "pid")))
        )
        while not note.exists():  # noqa: ASYNC110  # another process sets no Event here
            await asyncio.sleep(0.01)
        worker = psutil.Process(int(note.read_text()))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert psutil.wait_procs([worker], timeout=60)[1] == []
