"""The Plan, which holds every setting that decides answers, its fingerprint, and derived seeds.

Settings that decide only speed belong in `orchestrator.plan.execution.Execution`, never here. Two
plans with the same fingerprint describe the same work; a job continues under another plan only if
its traces remain of use (`jobs.growth`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from orchestrator.core.errors import PlanFault
from orchestrator.core.values import Message, PluginSpec, Problem, Prompt, Sampling

# The tasks of a model pool that does not generate text, by vLLM's names of its pooling tasks, and
# the contents of a trace's `values` for each. Numbers are raw: the logit of a head with one label;
# of a head with two, the second's logit minus the first's (its sigmoid is the softmax of the two).
TASKS: Mapping[str, str] = {
    "classify": "one number for the whole text (sequence classifiers, most reward models)",
    "token_classify": "one number at each requested token, or at the last one "
    "(process reward models, and reward models like Qwen2.5-Math-RM)",
    "embed": "the text's embedding, of length one (sentence-embedding models)",
}
EMBEDDED_MODELS = ("smollm2", "sounder", "fathom")  # `orchestrator.plan.models` finds them
SCHEMA = 1  # raise when the meaning of a plan or a journal row changes


@dataclass(frozen=True, slots=True)
class Model:
    """A model: `path` is an embedded name (EMBEDDED_MODELS), a local folder or a hub name.

    - `layers`: a layer schedule (`core.layers`) that replaces the model's own.
    - `max_depth`: the largest depth that a request may have; memory is reserved for it.
    - `damped`: each of r iterations moves the state 1/r of the way (arXiv 2605.23872).
    - `residual`: the share of the previous state that each iteration keeps (arXiv 2506.08552).
    - `exit`: an exit rule (`core.layers`) by which a token stops before its request's depth.
    - `cascade`: a cascade (`core.layers`) by which an early iteration predicts some tokens.
    - `kv_iterations`: KV slots that iterations share; `kv_writes`: which write, "first" or "last".
    - `warm_start`: the share of the last state of the token before in a new token's first state.
    - `task`: one of `TASKS`, for a model that returns values instead of text.
    - `lora`: an adapter, as a local folder or a hub name, that is applied to the model at `path`.
    - `chat_template`: a chat template (Jinja) that replaces the model's own.
    - `reasoning_parser`, `tool_parser`: vLLM's parsers of thinking and of calls; or "none".
    """

    path: str
    revision: str = ""
    max_context_tokens: int = 0  # 0: as the model ships
    layers: str = ""  # "": as the model ships
    max_depth: int = 0  # 0: as the model ships, else 1
    damped: bool = False
    residual: float = 0.0  # in [0, 1); 0: the plain loop
    exit: str = ""  # "": every token runs to its request's depth
    cascade: str = ""  # "": the request's depth predicts every token
    kv_iterations: int = 0  # 0: every iteration has a KV slot of its own
    kv_writes: str = ""  # "": "first", if iterations share slots
    warm_start: float = 0.0  # in [0, 1]; 0: every token starts by itself
    task: str = ""  # "": it generates text
    reasoning_parser: str = ""  # "": by the model's family
    tool_parser: str = ""  # "": by the model's chat template
    chat_template: str = ""  # "": as the model ships
    lora: str = ""  # "": no adapter


def same_weights(a: Model, b: Model) -> bool:
    """Tell whether two models differ at most in reserved memory and in how replies are split."""
    return replace(a, **_BESIDE_WEIGHTS) == replace(b, **_BESIDE_WEIGHTS)


_BESIDE_WEIGHTS: Mapping[str, Any] = {
    **dict.fromkeys(("max_depth", "max_context_tokens"), 0),
    **dict.fromkeys(("reasoning_parser", "tool_parser", "chat_template"), ""),
}


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example: a question as a problem has it, and a reply to it, a text or a message."""

    id: str
    prompt: Prompt
    reply: str | Message

    def is_of(self, problem: Problem) -> bool:
        """Tell whether it is the problem itself."""
        same = self.prompt == problem.prompt
        if isinstance(self.prompt, str) and isinstance(problem.prompt, str):
            same = self.prompt.strip() == problem.prompt.strip()
        return same or self.id == problem.id


@dataclass(frozen=True, slots=True)
class FewShot:
    """The worked examples that come before each question.

    `n` of them, the first ones of the file or drawn for each problem; with a `template` as text,
    else as turns of a conversation. `columns` maps the file's columns. `content` is the digest of
    `examples`, which are read from the file: only it decides answers.
    """

    file: str = field(default="", compare=False)
    n: int = 0
    choice: Literal["first", "random"] = "first"
    template: str = ""
    columns: Mapping[str, object] = field(default_factory=dict, compare=False)
    content: str = ""
    examples: tuple[Example, ...] = field(default=(), compare=False, repr=False)

    def chosen(self, problem: Problem, seed: int) -> list[Example]:
        """Return the examples of a problem, never the problem itself; fewer if there are not n.

        Those that are drawn depend on the seed and the problem's id.
        """
        if self.choice == "first":
            return list(islice((e for e in self.examples if not e.is_of(problem)), self.n))
        n_all, drawn = len(self.examples), derive_seed(seed, problem.id, "few-shot")
        found: list[Example] = []
        for n_drawn in (min(n_all, 2 * self.n), n_all):
            places = random.Random(drawn).sample(range(n_all), n_drawn)
            found = [self.examples[i] for i in places if not self.examples[i].is_of(problem)]
            if len(found) >= self.n:
                break
        return found[: self.n]

    @property
    def stop(self) -> tuple[str, ...]:
        """The text with which an attempt would begin another example.

        What is before {prompt} in the template, on a line of its own; if that is nothing, what is
        behind {answer}, or a blank line if no example has one.
        """
        if not (self.template and self.examples):
            return ()
        label = self.template.partition("{prompt}")[0].strip().partition("\n")[0]
        behind = self.template.rpartition("{answer}")[2]
        if label:
            return (f"\n{label}",)
        if behind.strip():
            return (behind.strip(),)
        is_clear = "\n\n" in behind and not any("\n\n" in str(e.reply) for e in self.examples)
        return ("\n\n",) if is_clear else ()


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for each problem; 0 means none.

    When a limit is reached, exploration ends, running requests are cancelled, and the vote uses the
    traces so far. `tokens` counts the output tokens of all traces that have arrived; requests in
    flight are then cancelled and charged too. `seconds` count from the problem's first request.
    """

    traces: int = 0
    tokens: int = 0
    seconds: float = 0.0


_MAJORITY = PluginSpec("majority")
# a plugin as a plan file writes it: its name, or a table with its name and options
SpecLike: TypeAlias = PluginSpec | str | Mapping[str, object]


class PathLike(Protocol):
    """A path as an object, such as `pathlib.Path`."""

    def __fspath__(self) -> str:
        """Return the path as text."""


def plugin_spec(value: SpecLike, key: str, default_name: str = "") -> PluginSpec:
    """Return the plugin that a value names; PlanError, naming the key, when it names none."""
    if isinstance(value, PluginSpec):
        return value
    if isinstance(value, str) and value:
        return PluginSpec(value)
    if isinstance(value, Mapping):
        options = dict(value)
        name = options.pop("name", default_name)
        if isinstance(name, str) and name:
            return PluginSpec(name, options)
    raise PlanFault(
        key,
        f"{key} = {value!r}: it must be the name of a plugin, {{'name': ..., OPTION: ...}} or a "
        "PluginSpec",
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides answers.

    `models` maps the names of model pools to models; the first is the default pool. Plugins and
    models may be given as plan files write them: `strategy="adaptive"`,
    `strategy={"name": "adaptive", "n": 32}`, `models="smollm2"`. A plan that names no selector is
    run with its strategy's own.
    """

    models: Mapping[str, Model] = field(default_factory=lambda: {"main": Model("smollm2")})
    strategy: PluginSpec = PluginSpec("consistency")
    selector: PluginSpec = _MAJORITY
    sampling: Sampling = Sampling()
    few_shot: FewShot = FewShot()
    budget: Budget = Budget()
    verifiers: tuple[PluginSpec, ...] = ()
    # options of domains, by the name that rows use
    domains: Mapping[str, PluginSpec] = field(default_factory=dict)
    domain: str = "math"  # of rows that name none
    seed: int = 0
    answers_in_thinking: bool = False  # whether an answer counts that is only in the thinking

    if TYPE_CHECKING:  # what the generated one accepts

        def __init__(
            self,
            models: Mapping[str, Model] | Mapping[str, str] | str = ...,
            strategy: SpecLike = ...,
            selector: SpecLike = ...,
            sampling: Sampling = ...,
            few_shot: FewShot = ...,
            budget: Budget = ...,
            verifiers: Iterable[SpecLike] | SpecLike = ...,
            domains: Mapping[str, SpecLike] = ...,
            domain: str = ...,
            seed: int = ...,
            answers_in_thinking: bool = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Convert what is written as in a plan file; PlanError for what cannot be."""
        several: Any = self.verifiers
        if isinstance(several, PluginSpec | str | Mapping):
            several = (several,)
        values = {
            "models": _models(self.models),
            "strategy": plugin_spec(self.strategy, "strategy"),
            "selector": plugin_spec(self.selector, "selector"),
            "verifiers": tuple(plugin_spec(one, "verifiers") for one in several),
            "domains": {k: plugin_spec(v, f"domains.{k}", k) for k, v in self.domains.items()},
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for name, kind in (("sampling", Sampling), ("few_shot", FewShot), ("budget", Budget)):
            if not isinstance(getattr(self, name), kind):
                value = getattr(self, name)
                raise PlanFault(name, f"{name} = {value!r}: write {kind.__name__}(...)")

    @property
    def default_model(self) -> str:
        """The model pool of requests that name none."""
        return next(iter(self.models))

    @property
    def names_selector(self) -> bool:
        """Whether the plan was made with a selector."""
        return self.selector is not _MAJORITY

    @staticmethod
    def load(path: str | PathLike) -> Plan:
        """Return the plan of a plan file, checked; its [execution] is `Execution.load(path)`.

        PlanError for any mistake, with the file and its line or key.
        """
        return cast(Plan, import_module("orchestrator.plan.file").load_plan(path).plan)


def _models(models: object) -> dict[str, Model]:
    """Return model pools; one path alone is the pool "main"."""
    pools = models if isinstance(models, Mapping) else {"main": models}
    if not pools:
        raise PlanFault("models", "models = {}: it must name at least one model")
    return {name: _model(model, f"models.{name}") for name, model in pools.items()}


def _model(model: object, key: str) -> Model:
    if isinstance(model, str) and model:
        return Model(model)
    if isinstance(model, Model):
        return model
    raise PlanFault(
        key,
        f"{key} = {model!r}: it must be an embedded model ({', '.join(EMBEDDED_MODELS)}), a local "
        "folder, a hub name, or a Model with such a path",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """What one problem sets differently from the plan.

    `n` is an option of the strategy, `sampling` has fields of `Sampling`; its `extra` is added to
    the plan's. `strategy` and `selector` are plugins as tables, {"name": ..., OPTION: ...}: whoever
    sets a strategy sets a selector too. `model` is the model pool of requests that name none,
    `budget` has fields of `Budget`.
    """

    n: int | None = None
    seed: int | None = None
    sampling: Mapping[str, object] = field(default_factory=dict)
    model: str = ""
    strategy: Mapping[str, object] | None = None
    selector: Mapping[str, object] | None = None
    budget: Mapping[str, object] = field(default_factory=dict)

    def encoded(self) -> str:
        """Return these settings as `Problem.settings`: JSON, or "" where nothing is set."""
        nothing: tuple[object, ...] = (None, {}, "")
        set_here = {name: value for name, value in asdict(self).items() if value not in nothing}
        return json.dumps(set_here, sort_keys=True) if set_here else ""


def with_settings(plan: Plan, settings: str) -> Plan:
    """Return the plan of a problem with these settings, which `Settings.encoded` gave."""
    values = Settings(**json.loads(settings)) if settings else Settings()
    changes = dict(values.sampling)
    if "extra" in changes:
        changes["extra"] = {**plan.sampling.extra, **cast(Mapping[str, object], changes["extra"])}
    if "stop" in changes:
        changes["stop"] = tuple(cast(Sequence[str], changes["stop"]))
    strategy = plugin_spec(values.strategy or plan.strategy, "strategy")
    if values.n is not None:
        strategy = PluginSpec(strategy.name, {**strategy.options, "n": values.n})
    models = plan.models
    if values.model in models:
        models = {values.model: models[values.model], **models}
    return replace(
        plan,
        models=models,
        sampling=replace(plan.sampling, **cast(dict[str, Any], changes)),
        seed=plan.seed if values.seed is None else values.seed,
        strategy=strategy,
        selector=plugin_spec(values.selector or plan.selector, "selector"),
        budget=replace(plan.budget, **cast(dict[str, Any], values.budget)),
    )


def fingerprint(plan: Plan) -> str:
    """Return 16 hex digits that are equal exactly when two plans describe the same work."""
    text = json.dumps({"schema": SCHEMA, **document(plan)}, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def document(plan: Plan) -> dict[str, object]:
    """Return a plan as the nested mappings from which its fingerprint is computed."""
    models = {name: asdict(model) for name, model in plan.models.items()}
    whole = {**asdict(replace(plan, few_shot=FewShot())), "models": models}
    few_shot = {name: getattr(plan.few_shot, name) for name in _FEW_SHOT}
    whole["few_shot"] = few_shot if plan.few_shot != FewShot() else {}
    # jobs begun before these existed must resume
    for model in models.values():
        _drop_unset(model, "task", "reasoning_parser", "tool_parser", "chat_template", "lora")
        _drop_unset(model, "cascade", "kv_iterations", "kv_writes", "warm_start")
    _drop_unset(whole, "answers_in_thinking", "few_shot")
    _drop_unset(whole["sampling"], "extra", "prefill", "thinking_tokens", "latent_noise")
    _drop_unset(whole["sampling"], "logprobs", "top_logprobs")
    # the order of `models` decides which pool is the default; a mapping hides it
    return {**whole, "default_model": plan.default_model}


_FEW_SHOT = ("n", "choice", "template", "content")  # what of it decides answers


def _drop_unset(table: dict[str, object], *keys: str) -> None:
    for key in [key for key in keys if not table[key]]:
        del table[key]


def differences(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str = ""
) -> list[str]:
    """Return one line for each key in which two plans, as nested mappings, differ.

    For example `strategy.n: 8 -> 16`: keys are written as in a plan file.
    """
    lines: list[str] = []
    for key in sorted({*old, *new}):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}".replace(".options.", ".")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {a!r} -> {b!r}")
    return lines


def derive_seed(run_seed: int, *parts: str | int) -> int:
    """Return a seed in [0, 2**53) for these parts: valid as a JSON number, in vLLM and in NumPy."""
    text = repr((run_seed, *parts))  # unambiguous for texts and whole numbers
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest(), "big"
        )
        >> 11
    )
