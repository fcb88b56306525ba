"""TURN: the sampling temperature at the turning point of a model's entropy curve.

The method is from Du, Yang and Welleck (arXiv 2502.05234). As the temperature rises, the log of the
mean token entropy first grows more and more slowly and then rises steeply: from there on, the text
of the model becomes arbitrary. The turning point is a good temperature for sampling many traces,
and finding it requires no reference answers. Follows the released code (github.com/StigLidu/TURN):
the same grid, the second difference, and the first interior point where it is positive.

Differs: the released code computes the entropy of the 1000 most likely tokens at each position. We
use the negative log-probability of the sampled token, whose mean is that entropy (without bias, but
with more noise), so that the engine returns only one number per token. Both need log-probabilities
at the sampling temperature: `execution.engine` "vllm" with `processed_logprobs = true`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import PluginSpec, Problem, Trace
from orchestrator.jobs.job import Job, open_job
from orchestrator.plan.check import check_plan
from orchestrator.plan.execution import Execution
from orchestrator.runtime.api import blocking, run_job

# 0.1 to 1.4 in steps of 0.1, as in the released code (range up to 1.5, exclusive)
GRID = tuple(round(0.1 * i, 1) for i in range(1, 15))
N_SAMPLES = 32  # in total, at each temperature
MAX_NEW_TOKENS = 1024
_ROUNDING = 1e-9  # second differences of a straight curve are not exactly 0
FOR_VOTING = 0.0  # offset from the turning point: for a majority vote, and
FOR_BEST = 0.1  # for best-of-n, which gains from more diversity


@dataclass(frozen=True, slots=True)
class TemperatureChoice:
    """The chosen temperature and the measured entropy curve.

    Entropies are means over tokens in nats, of shape (n_temperatures,). `turn` is the turning
    point; `temperature` adds the offset for the use of the samples.
    """

    temperature: float
    turn: float
    temperatures: tuple[float, ...]
    entropies: tuple[float, ...]


def turning_point(temperatures: Sequence[float], entropies: Sequence[float]) -> float:
    """Return the first interior temperature at which the log entropy is convex.

    If there is none, return the last interior temperature. Temperatures must ascend, entropies must
    be positive, and there must be at least three of each. Raises ValueError otherwise.
    """
    t, h = np.asarray(temperatures, dtype=float), np.asarray(entropies, dtype=float)
    if t.shape != h.shape or t.size < 3 or not (np.diff(t) > 0).all():
        raise ValueError(
            f"{t.size} temperatures and {h.size} entropies: give as many, at least three, "
            "temperatures ascending"
        )
    if not (np.isfinite(h) & (h > 0)).all():
        raise ValueError(f"entropies {h.tolist()}: each must be positive and finite")
    curvature = np.gradient(np.gradient(np.log(h), t), t)
    convex = np.flatnonzero(curvature[1:-1] > _ROUNDING)
    return float(t[1 + convex[0]] if convex.size else t[-2])


def choose_temperature(
    problems: Sequence[Problem],
    plan: Plan,
    execution: Execution,
    *,
    temperatures: Sequence[float] = GRID,
    n_samples: int = N_SAMPLES,
    offset: float = FOR_VOTING,
) -> TemperatureChoice:
    """Return the temperature that TURN chooses for the plan's model on problems without references.

    Costs `n_samples` traces of at most 1024 tokens at each temperature: one for each of the first
    `n_samples` problems, or several per problem if there are fewer problems. All other sampling
    parameters are those of the plan, without truncation of the tail (top_p 1, no top_k, no min_p).
    """
    require_processed(execution)
    chosen = list(problems)[:n_samples]
    if not chosen:
        raise PlanError("a temperature is chosen on problems: give at least one")
    entropies = tuple(
        _entropy(chosen, plan_at(plan, t, n_samples // len(chosen)), execution)
        for t in temperatures
    )
    return chosen_from(temperatures, entropies, offset)


def chosen_from(
    temperatures: Sequence[float], entropies: Sequence[float], offset: float
) -> TemperatureChoice:
    """Return the choice for a measured curve.

    Raises ValueError as `turning_point` does.
    """
    turn = turning_point(temperatures, entropies)
    return TemperatureChoice(round(turn + offset, 6), turn, tuple(temperatures), tuple(entropies))


def require_processed(execution: Execution) -> None:
    """Raise PlanError for a vLLM engine that would report the log-probabilities of the raw model.

    Their mean is a cross-entropy, which has its turning point elsewhere.
    """
    name, options = execution.engine.name, execution.engine.options
    if name == "ray" and options.get("backend", "vllm") == "vllm":
        name, options = "vllm", options.get("options") or {}  # type: ignore[assignment]  # of an option's value only the plugin knows the type
    if name == "vllm" and not options.get("processed_logprobs"):
        raise PlanError(
            "TURN measures entropies at the temperature sampled at: "
            "set the vLLM engine's option processed_logprobs = true "
            '(behind Ray: engine = {name = "ray", options = {processed_logprobs = true}})'
        )


def plan_at(plan: Plan, temperature: float, n: int) -> Plan:
    """Return the plan that samples `n` traces of each problem at a temperature.

    Each trace has its mean log-probability.
    """
    sampling = replace(
        plan.sampling,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    return replace(
        plan,
        sampling=sampling,
        strategy=PluginSpec("consistency", {"n": n}),
        selector=PluginSpec("weighted", {"by": "mean_logprob"}),
        verifiers=(),
        budget=Budget(),
    )


def _entropy(problems: Sequence[Problem], plan: Plan, execution: Execution) -> float:
    check_plan(plan, execution)
    with (
        tempfile.TemporaryDirectory(prefix="leadline-") as directory,
        open_job(Path(directory), plan, problems) as job,
    ):
        blocking(lambda: _completed(job, plan, execution))
        pools = [job.journal.traces(problem.id) for problem in problems]
    return mean_entropy(pools, plan.sampling.temperature)


async def _completed(job: Job, plan: Plan, execution: Execution) -> None:
    async with contextlib.aclosing(run_job(job, plan, execution)) as results:
        async for _ in results:
            pass


def mean_entropy(pools: Sequence[Sequence[Trace]], temperature: float) -> float:
    """Return the mean over traces of the mean over tokens; traces without tokens are ignored.

    Raises PlanError when no trace has log-probabilities.
    """
    means = [
        -t.metrics["mean_logprob"] for pool in pools for t in pool if "mean_logprob" in t.metrics
    ]
    if not means:
        raise PlanError(
            f"no trace at temperature {temperature} has log-probabilities: "
            "every one failed or was empty"
        )
    return sum(means) / len(means)
