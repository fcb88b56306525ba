"""What the pages show is run: code, plans, command lines, names, paths and links.

Code runs on the fake engine. A plan is loaded and checked, a command line is parsed, and nothing is
started. What a block leaves out (a model pool, a verifier) stands in `MISSING`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import click
import pytest

import orchestrator
from orchestrator.cli.main import leadline
from orchestrator.core.plan import Plan
from orchestrator.core.values import PluginSpec, Purpose
from orchestrator.plan import registry
from orchestrator.plan.file import load_plan
from orchestrator.plan.keys import keys, markdown_table
from orchestrator.testing import PROBLEM, trace

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
PAGES += sorted((ROOT / "orchestrator" / "plan" / "shipped").glob("*/README.md"))
COLUMNS = 150  # of a line of text; tables and code may be wider


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, without the indentation of the list they are in."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [dedent(body) for _, body in found]


def text_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(page: Path) -> list[str]:
    """Return what stands in backquotes, each on one line."""
    found = re.findall(r"(?<!`)`` ?(.+?) ?``(?!`)|(?<!`)`([^`]+)`(?!`)", text_of(page), re.DOTALL)
    return [" ".join((double or single).split()) for double, single in found]


def test_the_pages_are_found() -> None:
    """Else the tests below would check nothing."""
    assert {"README.md", "docs/plugins.md", "benchmarks/README.md"} <= set(map(name_of, PAGES))


# --- Python


@pytest.fixture
def engine_is_fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default engine is the fake one, and what a block registers is forgotten afterwards."""
    decorated = {group: dict(names) for group, names in registry._decorated.items()}
    decorated["engines"]["ray"] = registry.plugin_class("engines", "fake")
    monkeypatch.setattr(registry, "_decorated", decorated)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module to run a page's blocks in, one after another: classes of it can be pickled."""
    made = types.ModuleType("a_page")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def execute(code: str, module: types.ModuleType) -> None:
    """Run a block as a script would: what is below `if __name__ == "__main__"` too."""
    code = code.replace('__name__ == "__main__"', "True")
    exec(compile(code, module.__name__, "exec", dont_inherit=True), module.__dict__)


@pytest.mark.usefixtures("engine_is_fake")
def test_the_code_from_python_runs(
    module: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/python.md: a question, then two problems as a job."""
    asked, several = blocks(ROOT / "docs" / "python.md", "python")
    execute(asked, module)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 8, "the answer, then every trace"
    execute(several, module)
    assert [result.error for result in module.results] == ["", ""]
    assert Path("runs/two/results.jsonl").exists()


@pytest.mark.usefixtures("engine_is_fake")
def test_the_plugins_of_the_guide_run(module: types.ModuleType) -> None:
    """docs/plugins.md: the strategy, the verifier and the test of the contract, as
    they stand.
    """
    for code in blocks(ROOT / "docs" / "plugins.md", "python"):
        execute(code, module)
    module.test_contract()
    plan = Plan(strategy=PluginSpec("two-rounds"), verifiers=(PluginSpec("three-of"),))
    [result] = orchestrator.run([PROBLEM], plan, out="job")
    assert result.error == ""
    traces = [t for t in orchestrator.traces("job", PROBLEM.id) if t.purpose is Purpose.SOLVE]
    assert len(traces) in (4, 16)
    assert all(t.verdicts for t in traces)


@pytest.mark.usefixtures("engine_is_fake")
def test_options_of_the_guide_have_a_range(module: types.ModuleType) -> None:
    """docs/plugins.md: the guide's own options keep the guide's rule."""
    for code in blocks(ROOT / "docs" / "plugins.md", "python"):
        execute(code, module)
    with pytest.raises(orchestrator.PluginError, match="first"):
        registry.load("strategies", PluginSpec("two-rounds", {"first": 0}))


def test_the_function_of_verifiers_page_runs(module: types.ModuleType) -> None:
    """docs/verifiers.md: on a short reply with an answer, and on one that is too long."""
    [code] = blocks(ROOT / "docs" / "verifiers.md", "python")
    execute(code, module)
    problem = dataclasses.replace(PROBLEM, tags=json.dumps({"words": 3}))
    reply = trace(0, "A")
    assert module.score(problem, dataclasses.replace(reply, text="a b c")) is True
    assert module.score(problem, dataclasses.replace(reply, text="a b c d")) is False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_code_imports_is_there(page: Path) -> None:
    """In every block, also where the rest of it needs a job that is not here."""
    for code in blocks(page, "python"):
        compile(code, name_of(page), "exec", dont_inherit=True)
        for line in re.findall(r"^(?:from|import) .*$", code, re.MULTILINE):
            exec(line, {})


# --- plans

PRM = '[models.prm]\npath = "m"\ntask = "token_classify"\n'
MISSING = {  # a text of a block: what stands before the block and after it
    'judge = "large"': ("", '[models.main]\npath = "m"\n[models.large]\npath = "m"\n'),
    "verdict:reward": (
        'verifiers = [{name = "reward", model = "prm"}]\n',
        f'[models.main]\npath = "m"\n{PRM}',
    ),
    'verifier = "process-reward"': (
        'verifiers = [{name = "process-reward", model = "prm"}]\n',
        f'[models.main]\npath = "m"\n{PRM}',
    ),
}
PLANS = [
    (name_of(page), block)
    for page in PAGES
    for block in blocks(page, "toml")
    if "[project" not in block
]


@pytest.mark.parametrize(("page", "block"), PLANS, ids=[page for page, _ in PLANS])
def test_a_plan_loads(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key, option and plugin of it exists, and its values are in range."""
    tomllib.loads(block)
    monkeypatch.chdir(tmp_path)
    Path("checks.py").write_text("def score(problem, trace):\n    return 1.0\n")
    before, after = "", ""
    for text, (above, below) in MISSING.items():
        if text in block:
            before, after = above, below
    Path("plan.toml").write_text(f"{before}{block}\n{after}")
    assert load_plan("plan.toml", {"execution.engine": "fake"}).execution.engine.name == "fake"


def test_the_table_of_keys_is_that_of_the_code() -> None:
    """docs/plans.md. Mend by the output of `python -m orchestrator.plan.keys`."""
    assert markdown_table().strip() in (ROOT / "docs" / "plans.md").read_text()


# --- command lines

PLACEHOLDERS = {"K": "8", "N": "8", "FORMAT": "csv"}


def command_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words after `leadline` of every command: in blocks, indented and in backquotes."""
    code = [b for language in ("", "console", "sh", "bash") for b in blocks(page, language)]
    lines = [line for block in code for line in block.splitlines()]
    lines += re.findall(r"^ {4}leadline .*$", text_of(page), re.MULTILINE)
    for line in [*lines, *(command for span in spans(page) for command in span.split("; "))]:
        if match := re.match(r"(?:\s|\$ )*leadline (.*)", line):
            words = shlex.split(match[1], comments=True)
            if words and words[0] != "...":
                yield [PLACEHOLDERS.get(word, word) for word in words]


def parse(words: list[str]) -> click.Context:
    """Return the context of a command line, parsed and not run."""
    context = click.Context(leadline, info_name="leadline")
    command: click.Command = leadline
    while isinstance(command, click.Group) and words:
        name, words = words[0], words[1:]
        child = command.get_command(context, name)
        assert child is not None, f"there is no command {name!r}"
        command, context = child, click.Context(child, info_name=name, parent=context)
    return command.make_context(command.name, words, parent=context.parent)


def unknown_options(words: list[str]) -> list[str]:
    """Return the options of plugins in a command line that no plugin has."""
    pairs = list(itertools.pairwise(words))
    unknown = []
    for group, flag in (("strategies", "--strategy"), ("selectors", "--selector")):
        specs = [shlex.split(spec) for name, spec in pairs if name == flag]
        named = [spec[0] for spec in specs if spec[0] != "SPEC"] or registry.names(group)
        options = {option.name for name in named for option in registry.options(group, name)}
        written = [word.partition("=")[0] for spec in specs for word in spec[1:]]
        written += [word.split(".")[1] for word in words if word.startswith(f"{flag}.")]
        unknown += [name for name in written if name not in options]
    return unknown


COMMANDS = [(name_of(page), words) for page in PAGES for words in command_lines(page)]


def test_command_lines_are_found() -> None:
    """Else the test below would check little."""
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page}: {shlex.join(words)}" for page, words in COMMANDS]
)
def test_a_command_line_is_accepted(page: str, words: list[str]) -> None:
    """The command and each of its options exist. A mention may leave out arguments."""
    assert unknown_options(words) == []
    mention = (click.MissingParameter, click.exceptions.NoArgsIsHelpError, click.exceptions.Exit)
    with contextlib.suppress(*mention):
        parse(words)


# --- names, paths, links, lines


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_and_paths_of_the_project_exist(page: Path) -> None:
    """Modules, functions, files, and the options of scripts that stand in backquotes."""
    wrong = []
    for span in spans(page):
        if re.fullmatch(r"orchestrator(\.\w+)+(\(.*\))?", span) and not _resolves(
            span.partition("(")[0]
        ):
            wrong.append(span)
        for path in re.findall(
            r"(?<![\w/.-])(?:(?:orchestrator|strategies|verifiers|tests|docs|benchmarks|examples|locks)/[\w./-]+)",
            span,
        ):
            if path.endswith("/KIND/my_strategy.py") or "KIND" in path:
                continue
            if not (ROOT / path).exists():
                wrong.append(path)
        if match := re.match(r"python ((?:benchmarks|examples)/\S+\.py)(.*)", span):
            source = (ROOT / match[1]).read_text()
            script = match[2].partition(";")[0]
            wrong += [
                f"{match[1]} {o}"
                for o in re.findall(r"--[a-z-]+", script)
                if f'"{o}"' not in source and f'"{o[2:]}"' not in source
            ]
    assert wrong == []


GROUPS = {f"orchestrator.{group}" for group in registry.GROUPS}  # entry points


def _resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    if name in GROUPS or hasattr(orchestrator, name.removeprefix("orchestrator.")):
        return True
    module, _, attribute = name.rpartition(".")
    try:
        import_module(name)
    except ModuleNotFoundError:
        try:
            return hasattr(import_module(module), attribute)
        except ModuleNotFoundError:
            return False
    return True


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's titles, as the common forges make them."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a title of it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_text_are_short(page: Path) -> None:
    """Tables are not counted."""
    long = [line for line in text_of(page).splitlines() if len(line) > COLUMNS and "|" not in line]
    assert long == []


KEY = re.compile(r"(?:--)?((?:fleet|execution|sampling|budget|supervision)\.[\w.]+)(?: .*)?")


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=name_of)
def test_keys_of_plans_that_a_page_names_exist(page: Path) -> None:
    """In backquotes, alone or with a value; options of engines among them."""
    known = {info.name for info in keys()}
    engines = {
        o.name for name in registry.names("engines") for o in registry.options("engines", name)
    }
    known |= {f"execution.engine.{option}" for option in engines} | {"execution.engine"}
    named = {match[1] for span in spans(page) if (match := KEY.fullmatch(span))}
    assert {key for key in named if key not in known} == set()
