"""The verifier `function`: the user's own check, which may raise, hang, crash or eat memory without
hurting the job.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from orchestrator.core.errors import PluginError
from orchestrator.core.values import Answer, PluginSpec, Problem, Trace, Verdict
from orchestrator.plan import registry
from verifiers.programs.function import Function

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


async def test_its_number_is_the_score(checks: Path) -> None:
    """A truth value is 1 or 0; it sees the problem's other fields, the answer and the text; the
    order is that of the traces.
    """
    traces = [
        Trace(0, "xxx", answer=Answer("42", "42")),
        Trace(1, "xxxxx", answer=Answer("7", "7")),
        Trace(2, ""),
    ]
    assert await Function("checks.py:right").score(PROBLEM, traces) == [
        Verdict("function", s) for s in (1.0, 0.0, 0.0)
    ]
    assert await Function(f"{checks}:share").score(PROBLEM, traces) == [
        Verdict("function", s) for s in (0.3, 0.5, 0.0)
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "KeyError: 'no such thing'"),
        ("hangs", "took more than 0.3 s"),
        ("crashes", "its process was ended by SIGABRT"),
        ("leaves", "SystemExit: 3"),
        ("eats", "needed more than 512 MiB of memory"),
        ("none", "TypeError"),
        ("two", "it returned 2.0; a number from 0 to 1, True or False is due"),
        ("words", "it returned '1'"),
    ],
)
async def test_what_gives_no_number_gives_no_score(checks: Path, name: str, said: str) -> None:
    """It is an error, which becomes the trace's note; a wrong 0 would be worse.

    The next trace is judged as if nothing had been.
    """
    with pytest.raises(RuntimeError, match=f"checks.py:{name}: ") as raised:
        await Function(
            f"checks.py:{name}", seconds=0.3 if name == "hangs" else 60, memory_mib=512
        ).score(PROBLEM, [Trace(0, "x")])
    assert said in str(raised.value)
    assert await Function("checks.py:share").score(PROBLEM, [Trace(0, "x")]) == [
        Verdict("function", 0.1)
    ]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("nowhere.py:right", "there is no file"),
        ("checks.py:wrong", "has no attribute 'wrong'"),
        ("checks.py:number", "is no plain function"),
        ("checks.py:later", "is no plain function"),
        ("checks.py:alone", "too many positional arguments"),
        ("checks.py", "write 'checks.py:NAME'"),
        ("no.such.module:right", "ModuleNotFoundError"),
        ("broken.py:right", "SyntaxError"),
        ("hostile.py:right", "SystemExit"),
    ],
)
def test_what_cannot_be_called_is_refused_when_the_plan_is_loaded(
    checks: Path, function: str, said: str
) -> None:
    """Before any engine starts, with the reason; loading the user's module cannot end the job
    either.
    """
    (checks.parent / "broken.py").write_text("def right(:")
    (checks.parent / "hostile.py").write_text("raise SystemExit(0)")
    with pytest.raises(PluginError) as raised:
        registry.load("verifiers", PluginSpec("function", {"function": function}))
    assert said in str(raised.value)


async def test_a_module_is_named_by_its_dots() -> None:
    """A function that is installed needs no path; a problem never equals a trace."""
    assert await Function("operator:eq").score(PROBLEM, [Trace(0, "x")]) == [
        Verdict("function", 0.0)
    ]


def change(path: Path) -> None:
    path.write_text(CHECKS.replace("return 1\n", "return 0.25\n"))


async def test_processes_are_kept_and_a_changed_file_is_read_anew(
    checks: Path, tmp_path: Path
) -> None:
    """What the module imports is imported once a process, not once a trace."""
    log = tmp_path / "pids"
    judge = Function("checks.py:pid")
    for _ in range(5):
        await judge.score(PROBLEM, [Trace(0, str(log))])
    assert len(set(log.read_text().split())) == 1
    change(checks)
    assert await judge.score(PROBLEM, [Trace(0, str(log))]) == [Verdict("function", 0.25)]
    assert len(set(log.read_text().split())) == 2


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended
        return []


async def test_cancelling_kills_the_process(checks: Path) -> None:
    """A job that is stopped while a check hangs leaves nothing behind."""
    judge = Function("checks.py:hangs", seconds=1000)
    task = asyncio.create_task(judge.score(PROBLEM, [Trace(0, "x")]))
    await asyncio.sleep(0.2)
    children = [
        p for p in psutil.Process().children(recursive=True) if f"{checks}:hangs" in arguments(p)
    ]
    assert len(children) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert psutil.wait_procs(children, timeout=60)[1] == []
