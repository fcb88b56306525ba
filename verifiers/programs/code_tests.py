"""Runs the program that a trace states against public tests, in the sandbox.

The tests are in a field of the problem's row (`tests`), in one of three forms:

- a text of Python statements that use the program's names: each `assert` at the top level is one
  test, after the statements above it that are no asserts; what follows the last assert is one more
  test. HumanEval's `test` with the line `check(NAME)` added is such a text, and one test;
- a list of such texts, each one test, as MBPP's `test_list`;
- a list of {"input": TEXT, "output": TEXT}: the program reads the input from standard input, must
  print the output and must exit with status 0. Lines are compared without outer spaces, and lines
  of numbers by value, as LiveCodeBench does.

The one rule: every test runs the program in a fresh process, and what the test expects never enters
that process: an output is compared here, and a test of statements runs in a process of its own
(`judge.py`).
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import json
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated

from msgspec import Meta

from orchestrator.core.values import Finish, Problem, Trace, Verdict
from orchestrator.kit.answers.code_blocks import PYTHON, last_program
from orchestrator.kit.answers.thinking import parts_of
from verifiers.programs import sandbox
from verifiers.programs.judge import fault_found
from verifiers.programs.sandbox import Limits, ProgramOutcome

_NAME = "code-tests"
_NOTE_CHARS = 60  # of what was printed or expected
_DEFINITIONS = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign),
)


@dataclass(frozen=True, slots=True)
class Statements:
    """A test that uses the program's names."""

    source: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A test by standard input and output."""

    stdin: str
    expected: str


Test = Statements | Exchange


@dataclass(frozen=True, slots=True)
class CodeTests:
    """Share of the problem's tests that the trace's Python program passes.

    The program is the last fenced code block; a trace without one passes no test: score 0. `steps`
    has 1 or 0 for each test. Each test runs in a separate process that cannot write files (except,
    if allowed, in a temporary folder), use the network, start processes or threads, or exceed its
    limits.
    """

    field: Annotated[
        str, Meta(description="Field of the problem's row that contains the tests.")
    ] = "tests"
    fences: Annotated[
        tuple[str, ...],
        Meta(description="The languages of the code blocks that count, as on the opening fence."),
    ] = PYTHON
    seconds: Annotated[int, Meta(ge=1, description="The CPU seconds of one test.")] = 10
    wall_seconds: Annotated[
        float,
        Meta(gt=0, le=86_400, description="The seconds one test may take on the wall clock."),
    ] = 60.0
    memory_mib: Annotated[
        int,
        Meta(
            ge=64,
            description="The address space of one test in MiB, some 20 MiB of which the "
            "interpreter takes.",
        ),
    ] = 1024
    output_kib: Annotated[int, Meta(ge=1, description="What one test may print, in KiB.")] = 1024
    files_mib: Annotated[
        int,
        Meta(
            ge=0,
            description="The size of the files that one test may write in its folder, in MiB; "
            "0 allows none.",
        ),
    ] = 0
    unprotected: Annotated[
        bool,
        Meta(
            description="If the kernel has no Landlock or seccomp, run programs with your own "
            "rights, protected by the limits alone."
        ),
    ] = False

    def __post_init__(self) -> None:
        if (reason := self.lacking()) and not (self.unprotected and sandbox.supported()):
            raise ValueError(
                f"programs cannot be run safely here: {reason}; `unprotected = true` runs them on "
                "Linux with your own rights"
            )

    @staticmethod
    def lacking() -> str:
        """Return what this machine lacks for running untrusted programs; "" if nothing."""
        return sandbox.lacking()

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        """Return the share of tests that each trace's program passes.

        ValueError when the problem has no tests or they have another form.
        """
        tests = read_tests(problem, self.field)
        return [await self._verdict(trace, tests) for trace in traces]

    async def _verdict(self, trace: Trace, tests: Sequence[Test]) -> Verdict:
        parts = parts_of(trace)
        finished = trace.finish is Finish.STOP and not parts.is_open
        program = last_program(parts.reply_text, finished, self.fences)
        if program is None:
            return Verdict(_NAME, 0.0, (0.0,) * len(tests), "it states no program")
        faults = await _gather(self._fault(program, test) for test in tests)
        steps = tuple(float(not fault) for fault in faults)
        notes = (f"test {n} of {len(tests)}: {fault}" for n, fault in enumerate(faults, 1) if fault)
        return Verdict(_NAME, sum(steps) / len(steps), steps, next(notes, ""))

    async def _fault(self, program: str, test: Test) -> str:
        """Return the fault that this test finds in the program; "" if it passes."""
        limits = Limits(
            self.seconds, self.wall_seconds, self.memory_mib, self.output_kib, self.files_mib
        )
        protected = not (self.unprotected and self.lacking())
        if isinstance(test, Exchange):
            stdin = test.stdin.encode(errors="replace")
            outcome = await sandbox.run(program, stdin, limits=limits, protected=protected)
            return outcome.fault or _difference(outcome, test.expected)
        fault = await fault_found(program, test.source, limits=limits, protected=protected)
        if fault.startswith("AssertionError"):
            last = test.source.rpartition("\n")[2]
            return f"{fault} in {_shortened(last)}"
        return fault


async def _gather(work: Iterable[Coroutine[object, object, str]]) -> list[str]:
    """Return results in order; when one raises, the others are cancelled and waited for."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@functools.lru_cache(maxsize=8)  # tests may be megabytes, and the traces of a problem come together
def read_tests(problem: Problem, field: str) -> tuple[Test, ...]:
    """Return the tests that a problem's row carries, at least one.

    ValueError naming problem, field and the forms there are.
    """
    where = f"problem {problem.id!r}, field {field!r}"
    value = json.loads(problem.tags).get(field)
    # a list as text: a CSV's cell, LiveCodeBench's column
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    tests: Sequence[Test]
    if isinstance(value, str):
        tests = _split(value, where)
    elif isinstance(value, list):
        are_texts = all(isinstance(item, str) for item in value)
        tests = [Statements(item) if are_texts else _exchange(item, where) for item in value]
    else:
        what = "is not there" if value is None else f"is {value!r:.80}"
        raise ValueError(
            f"{where} {what}; tests are a text of asserts, a list of such, or a list of inputs and "
            "outputs"
        )
    if not tests:
        raise ValueError(
            f"{where} holds no test; write at least one assert, or one input with its output"
        )
    return tuple(tests)


def _exchange(item: object, where: str) -> Exchange:
    if isinstance(item, dict) and item.get("testtype", "stdin") == "stdin":
        stdin, expected = item.get("input"), item.get("output")
        if isinstance(stdin, str) and isinstance(expected, str):
            return Exchange(stdin, expected)
    raise ValueError(
        f"{where}: {item!r:.80} is not a test; write "
        '{"input": "what it reads", "output": "what it must print"}, both texts'
    )


def _split(source: str, where: str) -> list[Statements]:
    """Return each assert behind the other statements above it; then what follows the last one."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not Python: {error}") from error
    others: list[ast.stmt] = []
    tests: list[Statements] = []
    n_used = 0
    for statement in tree.body:
        if isinstance(statement, ast.Assert):
            tests.append(_statements([*others, statement]))
            n_used = len(others)
        else:
            others.append(statement)
    return [*tests, _statements(others)] if any(map(_does_something, others[n_used:])) else tests


def _statements(body: list[ast.stmt]) -> Statements:
    return Statements(ast.unparse(ast.Module(body, [])))


def _does_something(statement: ast.stmt) -> bool:
    """Tell whether a statement can fail a program: one that only defines something cannot."""
    return not isinstance(statement, _DEFINITIONS) and not (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _difference(outcome: ProgramOutcome, expected: str) -> str:
    printed = outcome.output.decode(errors="replace")
    if _same(printed, expected):
        return ""
    return f"printed {_shortened(printed)}, not {_shortened(expected)}"


def _same(printed: str, expected: str) -> bool:
    ours, theirs = _lines(printed), _lines(expected)
    return len(ours) == len(theirs) and all(
        a == b or _equal_numbers(a, b) for a, b in zip(ours, theirs, strict=True)
    )


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _equal_numbers(a: str, b: str) -> bool:
    try:
        return [Decimal(word) for word in a.split()] == [Decimal(word) for word in b.split()]
    except InvalidOperation:
        return False


def _shortened(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _NOTE_CHARS else text[:_NOTE_CHARS] + "…")
