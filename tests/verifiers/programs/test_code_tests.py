"""The verifier `code-tests`: scores in closed form, the forms of tests, and programs that try to
look up what is wanted.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import PluginError
from orchestrator.core.values import Finish, PluginSpec, Problem, Trace, Verdict
from orchestrator.kit.answers.code_blocks import last_program
from orchestrator.plan import registry
from verifiers.programs.code_tests import CodeTests, Exchange, read_tests

needs_sandbox = pytest.mark.usefixtures("sandboxing")


def problem(tests: object, **more: object) -> Problem:
    return Problem("p", "Write it.", "code", json.dumps({"tests": tests, **more}))


def trace(program: str, finish: Finish = Finish.STOP) -> Trace:
    return Trace(0, f"Here it is:\n```python\n{program}\n```\nDone.", finish=finish)


async def verdict(program: str, tests: object, **options: Any) -> Verdict:
    [one] = await CodeTests(**options).score(problem(tests), [trace(program)])
    return one


@needs_sandbox
async def test_the_score_is_the_share_of_asserts_that_hold() -> None:
    """Each assert is a test of its own: one that fails does not hide those after it."""
    asserts = (
        "import math\nassert f(1) == 1\nassert f(2) == 4\nassert math.isclose(f(3), 9)\n"
        "assert f(0) == 0"
    )
    assert await verdict("def f(x): return x * x", asserts) == Verdict(
        "code-tests", 1.0, (1.0, 1.0, 1.0, 1.0)
    )
    result = await verdict("def f(x): return x", asserts)
    assert (result.score, result.steps) == (0.5, (1.0, 0.0, 0.0, 1.0))
    assert result.note == "test 2 of 4: AssertionError in 'assert f(2) == 4'"


@needs_sandbox
async def test_exchanges_are_compared_by_lines_and_numbers_by_value() -> None:
    """Outer spaces and 1.0 against 1 do not matter; another number, another word or another line
    does.
    """
    tests = [
        {"input": "2 3\n", "output": "5\n"},
        {"input": "1 1", "output": "2.0"},
        {"input": "0 1", "output": "one"},
    ]
    program = "a, b = map(int, input().split())\nprint(' ', a + b, ' ')\nprint()"
    result = await verdict(program, tests)
    assert (result.steps, result.note) == ((1.0, 1.0, 0.0), "test 3 of 3: printed '1', not 'one'")
    assert result.score == pytest.approx(2 / 3)


@needs_sandbox
async def test_humaneval_and_mbpp_as_they_are() -> None:
    """A `check` function with its call is one test; a list of asserts is one test each."""
    check = (
        "METADATA = {}\n\ndef check(candidate):\n    assert candidate(2) == 4\n"
        "    assert candidate(3) == 9\n\ncheck(square)\n"
    )
    assert (await verdict("def square(x): return x * x", check)).steps == (1.0,)
    assert (await verdict("def square(x): return x + 2", check)).steps == (0.0,)
    listed = ["assert square(2) == 4", "assert square(3) == 9"]
    assert (await verdict("def square(x): return x + 2", listed)).steps == (1.0, 0.0)


@needs_sandbox
async def test_what_stands_between_asserts_is_done_before_those_below_it() -> None:
    """State is built up as written; and a check that stands under `__main__` is not skipped in
    silence.
    """
    stack = "class S(list):\n    def add(self, x): self.append(x)"
    assert (
        await verdict(stack, "s = S()\ns.add(1)\nassert s == [1]\ns.add(2)\nassert s == [1, 2]")
    ).steps == (1.0, 1.0)
    main = "def check():\n    assert f() == 1\nif __name__ == '__main__':\n    check()"
    assert (await verdict("def f(): return 2", main)).score == 0.0


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("def f(: pass", "SyntaxError"),
        ("raise SystemExit(0)", "ended before its test was through"),
        ("import os\nos._exit(0)", "ended before its test was through"),
        ("def f(): return 1 / 0", "ZeroDivisionError"),
        ("def g(): return 1", "NameError"),
        pytest.param(
            "def f():\n    while True: pass", "took more than 1 s", marks=pytest.mark.slow
        ),
        ("def f(): return open('/tmp/leadline-test', 'w')", "PermissionError"),
        (
            (
                "import sys\nclass A:\n    def __eq__(self, other): return True\n"
                "def f(): return sys.exit(0)"
            ),
            "ended before its test",
        ),
        ("\x00", "null bytes"),
        ("f = lambda: '\ud800'", "surrogate"),
    ],
)
async def test_a_program_that_fails_passes_nothing_and_says_why(program: str, fault: str) -> None:
    """Whatever it is, the verdict is 0 and no error: the program is wrong, the verifier is not."""
    result = await verdict(program, ["assert f() == 1"], seconds=1)
    assert result.score == 0.0
    assert fault in result.note


@needs_sandbox
async def test_a_trace_without_a_program_passes_no_test() -> None:
    """A program was requested; a trace without one scores like one with a wrong program."""
    result = await CodeTests().score(
        problem(["assert f()", "assert g()"]),
        [Trace(0, "I do not know."), trace("f = g = lambda: 1")],
    )
    assert result[0] == Verdict("code-tests", 0.0, (0.0, 0.0), "it states no program")
    assert result[1].score == 1.0


@needs_sandbox
async def test_what_is_wanted_cannot_be_looked_up() -> None:
    """Of an exchange the expected output is compared outside: no search of the program's own
    process, files or input finds it.
    """
    hunt = """
import gc, os, sys
result = [str(x) for x in gc.get_objects() if isinstance(x, (str, bytes))]
result += [repr(sys.argv), repr(os.environ), sys.stdin.read()]
frame = sys._getframe()
while frame:
    result.append(repr(frame.f_locals) + repr(frame.f_globals))
    frame = frame.f_back
parent = "/proc/%d/cmdline" % os.getppid()
for path in ("/proc/self/mem", "/proc/self/cmdline", parent, "problems.jsonl", "../problems.jsonl"):
    try:
        result.append(open(path).read())
    except OSError:
        pass
text = "".join(result)
at = text.find("wanted" + "-")
print(text[at:at + 20] if at >= 0 else "nothing")
"""
    result = await verdict(hunt, [{"input": "x", "output": "wanted-8213"}])
    assert result.score == 0.0
    assert result.note == "test 1 of 1: printed 'nothing', not 'wanted-8213'"


@needs_sandbox
@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        (None, "is not there"),
        ({"inputs": ["1"], "outputs": ["2"]}, "a list of inputs and outputs"),
        (7, "is 7"),
        ([], "holds no test"),
        ("def check(c): pass", "holds no test"),
        ("assert f(", "is not Python"),
        (["assert f()", 3], "is not a test"),
        ([{"input": "1"}], "is not a test"),
        ([{"input": "[1]", "output": "2", "testtype": "functional"}], "is not a test"),
    ],
)
async def test_other_forms_of_tests_are_refused(tests: object, reason: str) -> None:
    """Such a problem has no score, least of all 0: the error becomes the trace's note."""
    with pytest.raises(ValueError, match=r"problem 'p', field 'tests'") as raised:
        await CodeTests().score(problem(tests), [trace("print(1)")])
    assert reason in str(raised.value)


def test_a_list_may_come_as_text() -> None:
    """A cell of a CSV file, and a column of LiveCodeBench, hold JSON."""
    text = json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}])
    assert read_tests(problem(text), "tests") == (Exchange("1", "2"),)


@pytest.mark.parametrize(
    "options",
    [{"seconds": 0}, {"wall_seconds": 0}, {"memory_mib": 8}, {"files_mib": -1}, {"output_kib": 0}],
)
def test_limits_out_of_range_are_refused_when_the_plan_is_loaded(
    options: dict[str, object],
) -> None:
    with pytest.raises(PluginError, match=f"{next(iter(options))} = "):
        registry.load("verifiers", PluginSpec("code-tests", options))


@pytest.mark.parametrize(
    ("text", "finished", "program"),
    [
        ("```python\na\n```\nso\n```python\nb\n```", True, "b"),
        ("```python\na\n```\nIt prints\n```\n3\n```", True, "a"),
        ("```\na\n```", True, "a"),
        ("```text\na\n```", True, None),
        ("```python\na\n```\n```python\nb", True, "b"),
        ("```python\na\n```\n```python\nb", False, "a"),
        ("```python\na", False, None),
        ("```python\n\n```", True, None),
        ("````python\n```\na\n````", True, "```\na"),
        ("~~~py\na\n~~~", True, "a"),
        ("1. So\n   ```python\n   if a:\n       b\n   ```", True, "if a:\n    b"),
        ("<think>\n```python\na\n```\n</think>\nI give up.", True, None),
        ("Use ```f()``` here", True, None),
        ("```Python title=x\na\n```", True, "a"),
    ],
)
def test_which_block_is_the_program(text: str, finished: bool, program: str | None) -> None:
    """The last that says it is Python; examples of output after it, blocks of thought and blocks
    that are cut off are not it.
    """
    assert last_program(text, finished) == program


@given(
    st.lists(
        st.text(st.characters(exclude_characters="`~\r", exclude_categories=["Cs"]), min_size=1),
        min_size=1,
        max_size=4,
    ),
    st.text(st.characters(exclude_characters="`~<", exclude_categories=["Cs"])),
)
def test_any_program_is_read_back_as_it_was_written(programs: list[str], prose: str) -> None:
    """Whatever stands in a block, line by line, is what is run; and the last block wins."""
    text = f"{prose}\n" + f"\n{prose}\n".join(f"```python\n{program}\n```" for program in programs)
    stated = [program for program in programs if program.strip()]
    assert last_program(text, True) == (stated[-1] if stated else None)
