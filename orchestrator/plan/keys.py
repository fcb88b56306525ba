"""Every fixed key of a plan file, with its type, default and help: one table for the loader, the
command line and the documentation.

Types and defaults come from the dataclasses; only the help is written here, and a test keeps it
complete. Options of plugins are not fixed keys: `orchestrator.plan.registry.options` has them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from orchestrator.core.plan import Budget, Plan
from orchestrator.core.values import Sampling
from orchestrator.plan import registry
from orchestrator.plan.document import toml_value
from orchestrator.plan.execution import Execution

OutputFormat: TypeAlias = Literal["auto", "jsonl", "openai-batch"]


@dataclass(frozen=True, slots=True)
class Files:
    """The keys of a plan file that are neither plan nor fleet: where the job reads and writes."""

    problems: str = ""
    out: str = ""
    format: OutputFormat = "auto"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One fixed key, for flags and help. `type` is a Python annotation; `default` is TOML."""

    name: str
    type: str
    default: str
    help: str


SECTIONS: Mapping[str, type] = {"sampling": Sampling, "budget": Budget, "execution": Execution}
TOP = (
    *("problems", "out", "format", "model", "models", "domain", "domains", "seed"),
    *("strategy", "selector", "verifiers", "sampling", "budget", "execution"),
)

HELP: Mapping[str, str] = {
    "problems": "file of problems: JSONL, CSV, Parquet or OpenAI batch JSONL; in a plan file, relative to that file",
    "out": "directory of the job, relative to the current one; the same again resumes it",
    "format": "what is written beside results.jsonl: 'openai-batch', nothing ('jsonl'), or as the problems came ('auto')",
    "model": "the model: 'smollm2' or 'sounder' (embedded), a local folder, or a hub name",
    "domain": "how answers are read and compared, for problems that do not say: math, number, choice, text, json",
    "seed": "all randomness derives from it, the problem's id and the trace's ordinal",
    "strategy": "how a problem is explored: consistency, adaptive, short-m@k, ... (`leadline plugins` lists all)",
    "selector": "how the pool is voted on: majority, weighted, best, ... (`leadline plugins` lists all)",
    "verifiers": "what scores each trace, by name",
    "sampling.temperature": "0 takes the likeliest token, and so the same trace every time; 1 samples as the model predicts",
    "sampling.top_p": "sample among the likeliest tokens that hold this share of the probability",
    "sampling.top_k": "sample among this many likeliest tokens; 0: no limit",
    "sampling.min_p": "drop tokens less likely than this share of the likeliest one's probability",
    "sampling.repetition_penalty": "above 1, tokens that have appeared become less likely",
    "sampling.max_new_tokens": "the longest a trace may get",
    "sampling.depth": "latent depth: how often the think block of a looped model runs; 0: as the model ships",
    "sampling.stop": "texts that end a trace",
    "sampling.system": "system message put before every problem; empty: none",
    "sampling.template": "what a plain prompt is put into, where {prompt} stands",
    "budget.traces": "most traces a problem may take; 0: no limit",
    "budget.tokens": "most output tokens a problem may take; 0: no limit",
    "budget.seconds": "longest a problem may take, from its first request; 0: no limit",
    "execution.engine": "what runs the model: ray (vLLM on one or many machines), vllm, openai (any such server), fake (a dry run)",
    "execution.window": "requests in flight at once",
    "execution.open_problems": "problems explored at once; 0: as many as keep the window full",
    "execution.checkers": "processes that compare answers",
    "execution.checker_seconds": "longest one comparison may take",
    "execution.strategy_seconds": "longest a strategy may compute between two traces before its problem fails",
}


def keys() -> list[KeyInfo]:
    """Return every fixed key with its type, default and help, in the order of the file."""
    plan, execution = Plan(), Execution()
    found: list[KeyInfo] = []

    def add(name: str, type: str, default: object) -> None:
        found.append(KeyInfo(name, type, toml_value(default), HELP[name]))

    for field in dataclasses.fields(Files):
        add(field.name, "str", field.default)
    add("model", "str", plan.models[plan.default_model].path)
    add("domain", "str", plan.domain)
    add("seed", "int", plan.seed)
    add("strategy", "str", plan.strategy.name)
    add("selector", "str", plan.selector.name)
    add("verifiers", "tuple[str, ...]", [])
    add("execution.engine", "str", execution.engine.name)
    for section, cls in SECTIONS.items():
        for field in dataclasses.fields(cls):
            if field.name != "engine":  # above, by its name
                add(f"{section}.{field.name}", str(field.type), field.default)
    return found


def near_key(key: str, known: Collection[str]) -> str:
    """Return the near match among these keys, or else where at another level such a key belongs; ""
    without one.
    """
    hint = registry.near(key, known)
    if hint:
        return hint
    homes = {info.name.rpartition(".")[2]: info.name for info in keys()}
    match = difflib.get_close_matches(key, homes, n=1, cutoff=0.8)
    return f" (did you mean {homes[match[0]]!r}?)" if match else ""
