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
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from orchestrator.api.problems import Problems, Questions, questions_of
from orchestrator.api.progress import progress_display
from orchestrator.api.results import Results, Solution
from orchestrator.api.traces import traces
from orchestrator.core.errors import PluginError
from orchestrator.core.plan import Budget, Model, Plan, SpecLike, plugin_spec
from orchestrator.core.values import Message, PluginSpec, Problem, Result
from orchestrator.jobs.job import Job, open_job
from orchestrator.jobs.source import job_source, require_same_file, write_source
from orchestrator.plan import auto, registry
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import load_plan
from orchestrator.runtime.api import blocking, run_job
from orchestrator.runtime.isolated_verifiers import check_isolated

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
    retry_failed: bool = True,
    progress: bool | None = None,
) -> AsyncGenerator[Result]:
    """Yield the results of problems as they finish, in order of conclusion.

    Arguments and errors are those of `run`. Existing results of an interrupted run are yielded at
    once, except those of problems that are tried again.
    """
    checked = _checked(problems, plan, execution)
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
    retry_failed: bool = True,
    progress: bool | None = None,
) -> Results:
    """Return the results of problems, in the order of the problems. Works in notebooks too.

    `problems` is a problem file, a question, a row, a Problem, or a list of these; invalid rows of
    a file become results with the reason. `plan` may be a plan file, whose [execution] counts
    unless one is given. `out` is the job directory. With it, an interrupted run continues where it
    stopped, and a finished job grows: with more problems, a larger n, another selector or another
    budget, its traces are used again. `retry_failed` tells whether problems that failed are tried
    again. Without `out`, the journal is in a temporary directory. `progress` shows the progress on
    the error stream or in the notebook (None: on a terminal and in notebooks only). PlanError,
    before anything starts, when the plan cannot run or the job cannot grow to it.
    """
    checked = _checked(problems, plan, execution)

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
    plan, execution = _plan_and_execution(plan, execution)
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
    checked = _checked(Problem("question", prompt, plan.domain), plan, execution)
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


def _plan_and_execution(
    plan: Plan | str | Path | None, execution: Execution | None
) -> tuple[Plan, Execution]:
    if isinstance(plan, str | Path):
        loaded = load_plan(plan)
        return loaded.plan, execution or loaded.execution
    return plan or Plan(), execution or Execution()


def _checked(
    problems: Problems, plan: Plan | str | Path | None, execution: Execution | None
) -> _Run:
    """Return a run with the plan that the command line would make of it; PlanError as in `run`."""
    plan, execution = _plan_and_execution(plan, execution)
    plan = auto.resolve(plan, execution, plan.selector if plan.names_selector else None)
    if not plan.names_selector:
        with contextlib.suppress(
            PluginError
        ):  # a strategy that does not load; the check reports it
            plan = replace(plan, selector=registry.own_selector(plan.strategy))
    questions = questions_of(problems, plan)
    check_plan(plan, execution)
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
        with progress_display(progress, len(questions.problems)) as show:
            async with contextlib.aclosing(run_job(job, plan, execution, show)) as results:
                async for result in results:
                    yield result


@contextlib.contextmanager
def _opened(checked: _Run, directory: Path, retry_failed: bool) -> Iterator[Job]:
    questions = checked.questions
    source = None
    if questions.path is not None:
        source = job_source(questions.path, questions.limit, "auto")
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
