"""Runs the program that a trace states against public tests, in the sandbox.

The tests stand in a field of the problem's row (`tests`), in one of three forms:

- a text of Python statements, run in the program's names: each `assert` at the top level is one
  test, after what stands above it and is no
  assert; what is done after the last one is one test more. HumanEval's `test` with the line
    `check(NAME)` added is one such, and one test;
- a list of such texts, each one test, as MBPP's `test_list`;
- a list of {"input": TEXT, "output": TEXT}: the program reads the one from standard input and
  must print the other and end with status 0.
  Lines are compared without outer spaces, and a line of numbers by value, as LiveCodeBench does.

The one rule: every test is a fresh process, and what it should print never enters it. The right
outcome of an `assert` is in its process, so a program that sets out to deceive this form can; one
that merely ends early, or exits with status 0, fails.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from orchestrator.core.values import Finish, Problem, Trace, Verdict
from orchestrator.kit.answers.code_blocks import PYTHON, last_program
from verifiers.programs import sandbox
from verifiers.programs.places import together
from verifiers.programs.sandbox import Limits, Outcome

_NAME = "code-tests"
_SHOWN = 60  # characters of what was printed or expected, in a note


@dataclass(frozen=True, slots=True)
class Statements:
    """A test in the program's own names."""

    source: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A test by standard input and output."""

    given: str
    expected: str


Test = Statements | Exchange


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The share of the problem's tests that the trace's Python program passes; `steps` has 1 or 0
    for each.

    The program is the last fenced code block. A trace without one passes no test: score 0. Each
    test runs in a process of its own that cannot write a file (or none but in a folder of its own),
    reach the network, start a process or a thread, or outlive its limits.
    """

    field: str = "tests"  # the field of the problem's row that holds the tests
    fences: tuple[str, ...] = (
        PYTHON  # the languages of the blocks that count, as they stand behind the opening fence
    )
    seconds: int = 10  # CPU time of one test
    wall_seconds: float = 60.0  # and the time it may take in all
    memory_mib: int = 1024  # address space, the interpreter's some 20 MiB included
    output_kib: int = 1024  # what it may print
    files_mib: int = 0  # the files it may write in its folder; 0: none
    # true: where the kernel has no Landlock or seccomp, run programs with the limits alone and your
    # rights
    unprotected: bool = False

    def __post_init__(self) -> None:
        if (
            min(self.seconds, self.output_kib) < 1
            or not 0 < self.wall_seconds < float("inf")
            or self.memory_mib < 64
            or self.files_mib < 0
        ):
            raise ValueError(
                "seconds and output_kib are at least 1, wall_seconds above 0, memory_mib at least 64, files_mib at least 0"
            )
        if (reason := self.lacking()) and not (self.unprotected and sandbox.supported()):
            raise ValueError(
                f"programs cannot be run safely here: {reason}; `unprotected = true` runs them on Linux with your own rights"
            )

    @staticmethod
    def lacking() -> str:
        """Return what this machine lacks to run untrusted programs; "" when nothing."""
        return sandbox.lacking()

    async def score(self, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
        """Return the share of tests passed by each trace's program.

        ValueError when the problem has no tests or they have another form.
        """
        tests = read_tests(problem, self.field)
        return await together([self._verdict(trace, tests) for trace in traces])

    async def _verdict(self, trace: Trace, tests: Sequence[Test]) -> Verdict:
        program = last_program(trace.text, trace.finish is Finish.STOP, self.fences)
        if program is None:
            return Verdict(_NAME, 0.0, (0.0,) * len(tests), "it states no program")
        faults = await together([self._fault(program, test) for test in tests])
        steps = tuple(float(not fault) for fault in faults)
        first = next(
            (f"test {n} of {len(tests)}: {fault}" for n, fault in enumerate(faults, 1) if fault), ""
        )
        return Verdict(_NAME, sum(steps) / len(steps), steps, first)

    async def _fault(self, program: str, test: Test) -> str:
        """What is wrong with the program by this test, "" when nothing is."""
        limits = Limits(
            self.seconds, self.wall_seconds, self.memory_mib, self.output_kib, self.files_mib
        )
        protected = not (self.unprotected and self.lacking())
        if isinstance(test, Statements):
            fault = (
                await sandbox.run(program, test=test.source, limits=limits, protected=protected)
            ).fault
            last = test.source.rpartition("\n")[2]
            return f"{fault} in {_short(last)}" if fault.startswith("AssertionError") else fault
        outcome = await sandbox.run(
            program, test.given.encode(errors="replace"), limits=limits, protected=protected
        )
        return outcome.fault or _difference(outcome, test.expected)


@functools.lru_cache(maxsize=8)  # tests may be megabytes, and the traces of a problem come together
def read_tests(problem: Problem, field: str) -> tuple[Test, ...]:
    """Return the tests that a problem's row carries, at least one.

    ValueError naming problem, field and the forms there are.
    """
    where = f"problem {problem.id!r}, field {field!r}"
    given = json.loads(problem.tags).get(field)
    # a list as text: a CSV's cell, LiveCodeBench's column
    if isinstance(given, str) and given.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            given = json.loads(given)
    if isinstance(given, str):
        tests: list[Test] = list(_split(given, where))
    elif isinstance(given, list) and all(isinstance(item, str) for item in given):
        tests = [Statements(item) for item in given]
    elif isinstance(given, list):
        tests = [_exchange(item, where) for item in given]
    else:
        what = "is not there" if given is None else f"is {given!r:.80}"
        raise ValueError(
            f"{where} {what}; tests are a text of asserts, a list of such, or a list of inputs and outputs"
        )
    if not tests:
        raise ValueError(
            f"{where} holds no test; write at least one assert, or one input with its output"
        )
    return tuple(tests)


def _exchange(item: object, where: str) -> Exchange:
    if isinstance(item, dict):
        given, expected, kind = item.get("input"), item.get("output"), item.get("testtype", "stdin")
        if isinstance(given, str) and isinstance(expected, str) and kind == "stdin":
            return Exchange(given, expected)
    raise ValueError(
        f'{where}: {item!r:.80} is no test; write {{"input": "what it reads", "output": "what it must print"}}, both texts'
    )


def _split(source: str, where: str) -> list[Statements]:
    """Each assert behind all that precedes it but asserts; then what is done after the last assert."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no Python: {error}") from error
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
    """Tell whether a statement can find fault: a definition, an import, an assignment or a
    docstring does not.
    """
    idle = (
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
    )
    return not isinstance(statement, idle) and not (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _difference(outcome: Outcome, expected: str) -> str:
    printed = outcome.output.decode(errors="replace")
    if _same(printed, expected):
        return ""
    return f"printed {_short(printed)}, not {_short(expected)}"


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


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
