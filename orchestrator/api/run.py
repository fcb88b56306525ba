"""Runs problems under a Plan and an Execution: all at once, as they finish, or one question.

The one rule: a plan that cannot run is rejected before any engine starts. A job directory from here
is like one of `leadline run`, and each continues the other's. Not covered: what a caller may give
as problems (`api.problems`), and display (`api.progress`).
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from orchestrator.api.problems import Problems, Questions, is_location, questions_of
from orchestrator.api.progress import progress_display
from orchestrator.api.results import Results, Solution
from orchestrator.api.traces import traces
from orchestrator.core.errors import PluginError
from orchestrator.core.plan import Budget, Model, Plan, SpecLike, plugin_spec
from orchestrator.core.values import Message, PluginSpec, Problem, Result
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.rows.examples import with_examples
from orchestrator.jobs.source import job_source, require_same_file, write_source
from orchestrator.plan import auto, registry
from orchestrator.plan.check import check_plan, row_requirement
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import load_plan
from orchestrator.plan.file.recipes import RECIPES
from orchestrator.plan.file.sources import recipe_named, source_of, with_recipe
from orchestrator.plan.keys import Columns, read_section
from orchestrator.runtime.api import blocking, run_job
from orchestrator.runtime.isolated_verifiers import check_isolated
from orchestrator.runtime.progress import Progress
from orchestrator.runtime.sinks.reporting import reporting

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Run:
    """Everything about a run, checked."""

    questions: Questions
    plan: Plan
    execution: Execution


async def arun(
    problems: Problems,
    plan: Plan | str | Path | None = None,
    execution: Execution | None = None,
    *,
    out: str | Path | None = None,
    columns: Mapping[str, object] | None = None,
    retry_failed: bool = True,
    progress: bool | None = None,
) -> AsyncGenerator[Result]:
    """Yield the results of problems as they finish, in order of conclusion.

    Arguments and errors are those of `run`. Existing results of an interrupted run are yielded at
    once, except those of problems that are tried again.
    """
    checked = _checked(_inputs(problems, plan, execution, columns))
    results = _results(checked, out, retry_failed=retry_failed, progress=progress)
    async with contextlib.aclosing(results) as each:
        async for result in each:
            yield result


def run(
    problems: Problems,
    plan: Plan | str | Path | None = None,
    execution: Execution | None = None,
    *,
    out: str | Path | None = None,
    columns: Mapping[str, object] | None = None,
    retry_failed: bool = True,
    progress: bool | None = None,
) -> Results:
    """Return the results of problems, in the order of the problems. Works in notebooks too.

    `problems` is a problem file, a folder, pattern or address of such files, "-" for the standard
    input, the name of a recipe, a question, a row, a Problem, or a list of these; invalid rows of a
    file become results with the reason. `columns` maps the columns of files and rows, as [columns]
    of a plan does. `plan` may be a plan file, whose [columns] and [execution] count unless others
    are given. A recipe sets what the plan leaves at its default. `out` is the job directory. With
    it, an interrupted run continues where it stopped, and a finished job grows: with more problems,
    a larger n, another selector or another budget, its traces are used again. `retry_failed` tells
    whether problems that failed are tried again. Without `out`, the journal is in a temporary
    directory. `progress` shows the progress on the error stream or in the notebook (None: on a
    terminal and in notebooks only). PlanError, before anything starts, when the plan cannot run or
    the job cannot grow to it.
    """
    checked = _checked(_inputs(problems, plan, execution, columns))

    async def collect() -> list[Result]:
        results = _results(checked, out, retry_failed=retry_failed, progress=progress)
        return [result async for result in results]

    by_id = {r.problem_id: r for r in blocking(collect)}
    in_order = [by_id[id] for id in checked.questions.order if id in by_id]
    return Results(in_order, checked.questions, checked.plan, checked.execution)


async def asolve(
    question: str | Sequence[Message],
    plan: Plan | str | Path | None = None,
    execution: Execution | None = None,
    *,
    model: str | None = None,
    strategy: SpecLike | None = None,
    selector: SpecLike | None = None,
    domain: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    budget: Budget | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Solution:
    """Return the answer to one question, with all its traces.

    Keywords change the plan, which may be a plan file; `n` is the strategy's option of that name.
    """
    inputs = _inputs((), plan, execution)
    plan, execution = inputs.plan, inputs.execution
    spec = plan.strategy if strategy is None else plugin_spec(strategy, "strategy")
    wanted = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    sampling: dict[str, Any] = {k: value for k, value in wanted.items() if value is not None}
    changes: dict[str, Any] = {
        "strategy": spec if n is None else PluginSpec(spec.name, {**spec.options, "n": n}),
        "sampling": replace(plan.sampling, **sampling),
        "models": None if model is None else {"main": Model(model)},
        "selector": selector,
        "domain": domain,
        "seed": seed,
        "budget": budget,
    }
    plan = replace(plan, **{key: value for key, value in changes.items() if value is not None})
    prompt = question if isinstance(question, str) else tuple(question)
    checked = _checked(_inputs(Problem("question", prompt, plan.domain), plan, execution))
    with _directory(out) as directory:
        results = _results(checked, directory, retry_failed=True, progress=progress)
        [result] = [result async for result in results]
        return Solution(result, tuple(traces(directory, "question")))


def _blocking_form(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return the function that waits for this one, for scripts and notebooks."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return blocking(lambda: function(*args, **kwargs))

    call.__name__ = call.__qualname__ = function.__name__.removeprefix("a")
    return call


solve = _blocking_form(asolve)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a caller gave, with what a plan file or a recipe says of it."""

    problems: Problems
    plan: Plan
    execution: Execution
    columns: Columns = Columns()
    override: bool = True  # whether rows of an OpenAI batch may override the plan


def _inputs(
    problems: Problems,
    plan: Plan | str | Path | None,
    execution: Execution | None,
    columns: Mapping[str, object] | None = None,
) -> _Inputs:
    """Return what is to be run; problems that the caller names replace those of a plan file."""
    name, place = recipe_named(problems)
    recipe = RECIPES.get(name)
    own, override = Columns(), True
    if isinstance(plan, str | Path):
        is_named = recipe is not None or is_location(problems)
        loaded = load_plan(plan, {"problems": str(problems)} if is_named else {})
        plan, execution, override = loaded.plan, execution or loaded.execution, loaded.override
        if is_named or not loaded.recipe:  # whose columns are not those of the caller's rows
            own = loaded.columns
    elif recipe is not None:
        plan = with_recipe(recipe, plan or Plan())
        own = Columns(**read_section("columns", dict(recipe.columns)))
    own = replace(own, **read_section("columns", dict(columns or {})))
    if recipe is not None:
        problems = source_of(recipe, place)
    plan = with_examples(plan or Plan())
    return _Inputs(problems, plan, execution or Execution(), own, override)


def _checked(inputs: _Inputs) -> _Run:
    """Return a run with the plan that the command line would make of it; PlanError as in `run`."""
    plan, execution = inputs.plan, inputs.execution
    plan = auto.resolve(plan, execution, plan.selector if plan.names_selector else None)
    if not plan.names_selector:
        with contextlib.suppress(
            PluginError
        ):  # a strategy that does not load; the check reports it
            plan = replace(plan, selector=registry.own_selector(plan.strategy))
    check_plan(plan, execution)
    require = row_requirement(plan, execution)
    questions = questions_of(
        inputs.problems, plan, require, override=inputs.override, columns=inputs.columns
    )
    return _Run(questions, plan, execution)


async def _results(
    checked: _Run, out: str | Path | None, *, retry_failed: bool, progress: bool | None
) -> AsyncGenerator[Result]:
    plan, execution, questions = checked.plan, checked.execution, checked.questions
    await check_isolated(plan.verifiers)
    with _directory(out) as directory, _opened(checked, directory, retry_failed) as job:
        open_ids = {problem.id for problem in job.remaining()}
        for result in job.results():
            if result.problem_id not in open_ids:
                yield result
        with (
            progress_display(progress, len(questions.problems)) as show,
            reporting(job, plan, execution, plan.strategy.name, _warn) as sinks,
        ):
            begun: list[Progress] = []

            def began(counts: Progress) -> None:
                begun.append(counts)
                show(counts)

            running = run_job(job, plan, execution, began, observer=sinks)
            async with contextlib.aclosing(running) as results:
                async for result in results:
                    yield result
            for counts in begun:  # those that failed last, together, did not end the run early
                counts.require_few_failed(execution.supervision)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@contextlib.contextmanager
def _opened(checked: _Run, directory: Path, retry_failed: bool) -> Iterator[Job]:
    questions = checked.questions
    source = None
    if questions.path is not None:
        source = job_source(questions.path, questions.limit, "auto", override=questions.override)
        require_same_file(directory, source)
    with open_job(
        directory,
        checked.plan,
        questions.problems,
        questions.invalid,
        questions.order,
        retry_failed=retry_failed,
    ) as job:
        if source is not None:
            write_source(job, checked.plan, checked.execution, source)
        if job.damage:
            warnings.warn(job.damage, stacklevel=2)
        yield job


@contextlib.contextmanager
def _directory(out: str | Path | None) -> Iterator[Path]:
    """Yield the job directory, or a temporary one if `out` is None."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="leadline-") as directory:
        yield Path(directory)
