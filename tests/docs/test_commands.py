"""Every command that README, docs, help and example plans print is run, and the Python of pages, in
a directory that has the files and jobs they name. The engine is the fake one.
"""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import click
import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.main import leadline

ROOT = Path(__file__).parents[2]
# A change log names commands of its time; tests/docs/test_tutorial.py follows the tutorial.
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")})
PAGES = [page for page in PAGES if page.name not in ("CHANGELOG.md", "tutorial.md")]
# The plan.toml of a page, where it is not the one of all.
PLANS = {
    "docs/composing.md": """
problems = "problems.jsonl"
execution.engine = "fake"
verifiers = [{name = "reward", model = "prm"}]
[strategy]
name = "refine"
rounds = 1
inner = {name = "consistency", n = 8}
[models]
main = {path = "m"}
small = {path = "m"}
large = {path = "n"}
prm = {path = "r", task = "classify"}
"""
}
# What stands for an argument in a mention.
STANDS_FOR = {
    "PLAN": ["plan.toml"],
    "DIR": ["runs/arithmetic"],
    "ID": ["apples"],
    "JOB...": ["runs/ensemble"],
    "SOURCE": ["runs/wide"],
    "SOURCE...": ["runs/wide"],
    "POOL...": ["pool.json"],
    "SPEC": ["consistency n=2"],
    "A": ["runs/plain"],
    "B": ["runs/arithmetic"],
    "FILE": ["problems.jsonl"],
    "FORMAT": ["csv"],
    "TAG": ["level"],
    "TEXT": ["The answer is 5."],
    "NAME": ["adaptive"],
    "K": ["4"],
    "N": ["4"],
}
# What is not run, by how it begins, and why.
NOT_RUN = {
    "depth probe": "loads the weights of a model into torch",
    "depth search": "loads the weights of a model into torch",
    "depth calibrate": "needs tokens that stop early: tests/engine has it",
    "sweep examples/fathom.toml": "156 puzzles at four or five depths: `make run` runs it",
    "sweep examples/sounder.toml": "119 puzzles at four depths, with a real engine",
    "resume DIR --budget.usd": "of a job with prices: tests/cli has it",
    "run --problems s3://": "needs the network; tests/jobs/rows reads URIs",
    'run --problems "hf://': "needs the network; tests/jobs/rows reads the layout of the hub",
    "run --problems gsm8k": "needs the network; tests/cli has the recipes on copies",
    "choose plan.toml --pilot": "runs every strategy of its choice; tests/studies has the pilot",
    'solve "What is 17 * 23?" --server': "needs a running server: tests/serve has it",
    "run plan.toml --server": "needs a running server: tests/serve has it",
    "view ": "serves until it is interrupted: tests/report/live has it",
    "choose PLAN --pilot": "runs every strategy of its choice; tests/studies has the pilot",
}
OTHER_PROGRAMS = {  # of the first word of a line in a block
    "git": "needs the network",
    "make": "makes an environment, or runs this test suite",
    "pip": "needs a package index",
    "nohup": "of the shell",
    ".venv/bin/python": "runs this test suite, or a benchmark",
    "python": "a benchmark or the model's training: minutes to hours",
    "cd": "of the shell",
}


def blocks(text: str) -> Iterator[str]:
    """Yield the lines of the blocks that a reader would type, joined where a backslash ends one."""
    fences = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    for _, language, block in fences:
        if language in ("", "console", "sh", "bash"):
            yield from block.replace("\\\n", " ").splitlines()


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def in_pages() -> Iterator[tuple[str, str]]:
    """Yield what follows `leadline` in blocks and, where it has an argument, in backquotes."""
    for page in PAGES:
        text, name = page.read_text(), str(page.relative_to(ROOT))
        indented = re.findall(r"^ {4}(leadline .*)$", prose(text), re.MULTILINE)
        for line in [*blocks(text), *indented]:
            if match := re.match(r"(?:\s|\$ )*leadline (.*)", line):
                yield name, match[1]
        for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(text)):
            for command in " ".join(span.split()).split("; "):
                match = re.match(r"leadline (.*)", command)
                if match and is_whole(match[1]):
                    yield name, match[1]


def is_whole(command: str) -> bool:
    """Whether a mention has what its command needs, so that a reader could type it."""
    is_group = command.startswith(("depth ", "similarity "))
    words = command.split()[is_group:]
    return len(words) > 1 and not words[0].startswith("...") and not words[1].startswith("-")


def in_help(command: click.Command = leadline, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the examples of every command's help; those of two lines as one."""
    text = inspect.cleandoc(command.help or "").replace("\f", "")
    joined = re.sub(r"\n {4,}(?!leadline )(?=\S)", " ", text)
    for line in re.findall(r"^ +leadline (.*)$", joined, re.MULTILINE):
        yield f"leadline {name} --help".replace("  ", " "), line
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, child
            yield from in_help(found, f"{name} {child}".strip())


def in_plans() -> Iterator[tuple[str, str]]:
    """Yield the commands in the comments of example plans."""
    for plan in sorted((ROOT / "examples").glob("*.toml")):
        for line in re.findall(r"^# {2,}leadline (.*)$", plan.read_text(), re.MULTILINE):
            yield f"examples/{plan.name}", line


PLACES: dict[str, str] = {}  # each command once, with the first place that prints it
for place, line in [*in_help(), *in_plans(), *in_pages()]:
    PLACES.setdefault(" ".join(line.split("#")[0].split()) if '"' not in line else line, place)


def test_commands_are_found_everywhere() -> None:
    """Else the tests below would check little."""
    places = set(PLACES.values())
    assert len(PLACES) > 70
    assert {"README.md", "docs/results.md", "docs/replay.md", "examples/sounder.toml"} <= places
    assert {"leadline --help", "leadline run --help", "leadline similarity train --help"} <= places


def reason_not_to_run(command: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def test_every_exception_is_needed() -> None:
    """One that no command begins with any more is removed."""
    assert [s for s in NOT_RUN if not any(c.startswith(s) for c in PLACES)] == []


# Seconds; sweeps and temperatures have tests of their own among the fast ones.
SLOW = ("replay runs/full", "similarity train", "doctor", "sweep", "temperature")
RUN = [
    pytest.param(
        command,
        marks=pytest.mark.slow if command.startswith(SLOW) else (),
        id=f"{place}: {command}",
    )
    for command, place in PLACES.items()
    if reason_not_to_run(command) is None
]


def words_of(command: str) -> tuple[list[str], str | None]:
    """Return the words of a command, and the file that it reads as its standard input."""
    words = [
        w for word in shlex.split(command, comments=True) for w in STANDS_FOR.get(word, [word])
    ]
    if "<" in words:
        return words[: words.index("<")], words[-1]
    return words, None


@pytest.fixture
def service_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`leadline serve` reads its plan and keys; tests/serve has the service."""

    async def serve(*_: object) -> None:
        click.echo("served")

    monkeypatch.setattr("orchestrator.serve.server.serve_until_signal", serve)


@pytest.mark.usefixtures("world", "engine_is_fake", "service_ends_at_once")
@pytest.mark.parametrize("command", RUN)
def test_it_runs(command: str) -> None:
    """With exit code 0 and without a note that something could not be done."""
    if PLACES[command] in PLANS:
        Path("plan.toml").write_text(PLANS[PLACES[command]])
    words, stdin = words_of(command)
    text = None if stdin is None else Path(stdin).read_text()
    done: Result = CliRunner().invoke(leadline, words, input=text)
    assert done.exit_code == 0, done.output
    assert "could not be" not in done.output
    assert done.output


def python_of(page: Path) -> list[str]:
    found = re.findall(r"^( *)```python\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [dedent(body) for _, body in found]


@pytest.mark.usefixtures("world", "engine_is_fake")
@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=lambda p: p.name)
def test_the_python_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks one after another, as a reader would paste them."""
    module = types.ModuleType("a_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # its classes can be pickled
    for code in python_of(page):
        code = code.replace('__name__ == "__main__"', "True")
        exec(compile(code, page.name, "exec", dont_inherit=True), module.__dict__)


def test_other_commands_name_what_exists() -> None:
    """Programs, files of the checkout and targets of make; they are not run, for the reasons in
    `OTHER_PROGRAMS`.
    """
    wrong = []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for line in blocks(page.read_text()):
            words = line.split("#")[0].split()
            if not words or words[0] not in OTHER_PROGRAMS:
                continue
            paths = re.findall(r"(?:tests|benchmarks|examples|docs|locks)/[\w./-]+", line)
            wrong += [path for path in paths if not (ROOT / path).exists()]
            if words[0] == "make":
                wrong += [w for w in words[1:2] if w not in targets]
    assert wrong == []
