"""The fixed keys of a plan in one table: their dataclasses, ranges and meanings.

The one rule: types and defaults come from the dataclasses, ranges and meanings from msgspec's
`Meta`. The loader, its errors, the flags and the documentation are all generated from these, so
they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from msgspec import Meta

from orchestrator.core.plan import EMBEDDED_MODELS, FewShot, Model, Plan
from orchestrator.core.values import PluginSpec, Sampling
from orchestrator.plan.execution import (
    Execution,
    JobBudget,
    Prices,
    Supervision,
    TokenPrices,
)

OutputFormat: TypeAlias = Literal["auto", "jsonl", "openai-batch"]
_PLAN = Plan()
_JOB = JobBudget()


@dataclass(frozen=True, slots=True)
class TopLevel:
    """The keys at the top of a plan file that have one value; plugins and the model by name."""

    problems: str = ""
    out: str = ""
    format: OutputFormat = "auto"
    model: str = _PLAN.models[_PLAN.default_model].path
    domain: str = _PLAN.domain
    seed: int = _PLAN.seed
    answers_in_thinking: bool = _PLAN.answers_in_thinking
    strategy: str = _PLAN.strategy.name
    selector: str = _PLAN.selector.name
    verifiers: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the rows hold the fields of problems; "" is the column of the same name.

    A text with {NAME} is a template over several columns.
    """

    id: str = ""
    prompt: str = ""
    messages: str = ""
    answer: str = ""
    domain: str = ""
    tests: str = ""
    image: str = ""
    media: str = ""
    wrong: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """The table [batch]: what rows of OpenAI batches may do."""

    override: bool = True


@dataclass(frozen=True, slots=True)
class FewShotKeys:
    """The table [few_shot]: a `FewShot` without the examples themselves."""

    file: str = FewShot().file
    n: int = FewShot().n
    choice: Literal["first", "random"] = FewShot().choice
    template: str = FewShot().template
    columns: Mapping[str, object] = field(default_factory=dict)
    content: str = FewShot().content


@dataclass(frozen=True, slots=True)
class BudgetKeys:
    """The table [budget]: the limits of a problem, then those of the job (`JobBudget`)."""

    traces: int = _PLAN.budget.traces
    tokens: int = _PLAN.budget.tokens
    seconds: float = _PLAN.budget.seconds
    usd: float = _JOB.usd
    gpu_seconds: float = _JOB.gpu_seconds
    job_tokens: int = _JOB.job_tokens
    job_seconds: float = _JOB.job_seconds


@dataclass(frozen=True, slots=True)
class PriceKeys:
    """The keys of the table [prices] that have one value; the others are tables of model pools."""

    gpu_hour: float = Prices().gpu_hour


PRICE = "prices.NAME"  # the section of any one model pool
POOL = "models.NAME"  # the section of any one model
SECTIONS: Mapping[str, type] = {
    "": TopLevel,
    "columns": Columns,
    "batch": BatchKeys,
    "sampling": Sampling,
    "few_shot": FewShotKeys,
    "budget": BudgetKeys,
    "execution": Execution,
    "supervision": Supervision,
    "prices": PriceKeys,
    PRICE: TokenPrices,
    POOL: Model,
}
# fields of an Execution that are tables of their own in a plan file, or at its top
NESTED = (Supervision, JobBudget, Prices, tuple[PluginSpec, ...])
TABLES = (
    "columns",
    "batch",
    "models",
    "domains",
    "sampling",
    "few_shot",
    "budget",
    "execution",
    "supervision",
    "prices",
)  # at the top of a plan file

_MODEL = (
    f"The model: one that is embedded ({', '.join(EMBEDDED_MODELS)}), a local folder, or a name on "
    "the model hub."
)
KEYS: Mapping[str, Meta] = {
    "problems": Meta(
        description="The problems: a file, folder, glob, URI, '-' for standard input, or recipe "
        "(docs/problems.md); a path in a plan file is relative to that file."
    ),
    "out": Meta(
        description="The job's directory, relative to the current one. Naming it again resumes it."
    ),
    "format": Meta(
        description="The output in addition to results.jsonl: none (jsonl), OpenAI batch output "
        "(openai-batch), or the one that matches the problem file (auto)."
    ),
    "model": Meta(description=_MODEL),
    "domain": Meta(
        description="The domain, which reads and compares answers, of problems that name none."
    ),
    "seed": Meta(description="The seed of all randomness, with the problem's id and the ordinal."),
    "answers_in_thinking": Meta(
        description="Whether an answer counts that stands only in thinking without a reply."
    ),
    "strategy": Meta(description="The strategy, which explores problems; see `leadline plugins`."),
    "selector": Meta(description="The selector, which ranks answers; see `leadline plugins`."),
    "verifiers": Meta(description="The verifiers that score each trace, by name."),
    "sinks": Meta(
        extra_json_schema={"range": "NAME or NAME?OPTION=VALUE&..."},
        description="Where the run is reported to as well, such as mlflow (docs/sinks.md).",
    ),
    "columns.id": Meta(
        description="The column with the id, or a template such as {year}-{number}."
    ),
    "columns.prompt": Meta(description="The column with the question, or a template of several."),
    "columns.messages": Meta(description="The column with the messages of a conversation."),
    "columns.answer": Meta(description="The column with the reference answer, or a template."),
    "columns.domain": Meta(description="The column with the domain."),
    "columns.tests": Meta(description="The column with the tests of a program, or a template."),
    "columns.image": Meta(
        description="The column with an image, or a list of them, for models that see: a path, an "
        "address, or bytes as Hugging Face's data sets have them; images stand before the prompt."
    ),
    "columns.media": Meta(
        description="The folder from which images, sounds and videos of rows may be read; without "
        "it, rows may have only data: URIs and http addresses."
    ),
    "columns.wrong": Meta(
        description="Columns of wrong choices: the prompt gets lettered choices, in an order that "
        "the id decides, and the reference is the letter of the right one."
    ),
    "columns.omit": Meta(
        description="Columns that are not kept as tags, such as a worked solution."
    ),
    "batch.override": Meta(
        description="Whether a row of an OpenAI batch may override the plan; if not, what it sets "
        "has no effect, or the row is refused where its output would not be what was requested."
    ),
    "sampling.temperature": Meta(
        ge=0,
        description="0 takes the most likely token, so every trace is the same; 0.6 to 1 is usual.",
    ),
    "sampling.top_p": Meta(
        gt=0,
        le=1,
        description="Sample among the most likely tokens of this total probability; 1 is no limit.",
    ),
    "sampling.top_k": Meta(
        ge=0, description="Sample among this many most likely tokens; 0 is no limit."
    ),
    "sampling.min_p": Meta(
        ge=0,
        lt=1,
        description="Drop tokens less likely than this share of the most likely one; 0 drops none.",
    ),
    "sampling.repetition_penalty": Meta(
        gt=0,
        description="Above 1, tokens that have appeared become less likely; 1 changes nothing.",
    ),
    "sampling.max_new_tokens": Meta(ge=1, description="The most tokens that one trace may have."),
    "sampling.depth": Meta(
        ge=0,
        description="Latent depth: how often a looped model's think block runs; 0 is as it ships.",
    ),
    "sampling.latent_noise": Meta(
        ge=0,
        le=10,
        description="Noise on the latent states that a looped model starts from; 0 is none.",
    ),
    "sampling.thinking_tokens": Meta(
        ge=0,
        description="The most tokens that an attempt thinks before it must reply; 0 is no limit.",
    ),
    "sampling.stop": Meta(
        extra={"item": Meta(min_length=1)}, description="Texts that end a trace."
    ),
    "sampling.system": Meta(description="The system message of every problem; empty for none."),
    "sampling.template": Meta(
        pattern=r"\{prompt\}",
        extra_json_schema={"range": "containing {prompt}"},
        description="The template of plain prompts; {prompt} is replaced by the prompt.",
    ),
    "sampling.prefill": Meta(
        description="A text with which every attempt begins, as in a half-written reply."
    ),
    "sampling.logprobs": Meta(
        description="Whether attempts keep the log-probability of each token (docs/problems.md)."
    ),
    "sampling.top_logprobs": Meta(
        ge=0,
        le=20,
        description="How many of the most likely tokens are kept with each one; needs logprobs.",
    ),
    "sampling.extra": Meta(
        description="The engine's other sampling parameters, by its names: { min_tokens = 8 }."
    ),
    "few_shot.file": Meta(
        description="Worked examples for every prompt, from any place that problems can be in; a "
        "path in a plan file is relative to that file (docs/problems.md)."
    ),
    "few_shot.n": Meta(ge=0, description="How many examples come before each question."),
    "few_shot.choice": Meta(
        description="Which: the first of the file, or a random draw for each problem by the seed; "
        "never the problem itself."
    ),
    "few_shot.template": Meta(
        description="Examples as text, such as 'Q: {prompt}\\nA: {answer}\\n\\n'; if empty, as "
        "turns of a conversation."
    ),
    "few_shot.columns": Meta(
        description="As [columns], of this file; what it does not set is that of the problems."
    ),
    "few_shot.content": Meta(
        description="The digest of the examples, which a job's plan file has: others are refused."
    ),
    "budget.traces": Meta(ge=0, description="The most traces of a problem; 0 is no limit."),
    "budget.tokens": Meta(
        ge=0,
        description="A problem ends once its finished traces have this many output tokens; traces "
        "that are cancelled then cost some more. 0 is no limit.",
    ),
    "budget.seconds": Meta(
        ge=0,
        description="The most seconds of a problem, from its first request; pauses of an outage do "
        "not count. 0 is no limit.",
    ),
    "budget.usd": Meta(
        ge=0,
        description="The most US dollars of the whole job, by [prices]; 0 is no limit. The job "
        "ends before it costs more, and continues with a larger budget.",
    ),
    "budget.gpu_seconds": Meta(
        ge=0,
        description="The most GPU-seconds of the whole job: the time that its engine is up, times "
        "its GPUs; 0 is no limit.",
    ),
    "budget.job_tokens": Meta(
        ge=0,
        description="Output tokens of the whole job, which its problems share: the attempt that is "
        "worth most comes first, and at the end every problem has its best answer so far. 0 is no "
        "limit.",
    ),
    "budget.job_seconds": Meta(
        ge=0,
        description="The same for the seconds in which the job's engine serves.",
    ),
    "prices.gpu_hour": Meta(ge=0, description="US dollars for an hour of one GPU."),
    "prices.NAME.input": Meta(
        ge=0, description="US dollars per million prompt tokens of this model pool."
    ),
    "prices.NAME.cached_input": Meta(
        extra={"item": Meta(ge=0)},
        description="The same for tokens from the prompt cache; unset, the price of the others.",
    ),
    "prices.NAME.output": Meta(
        ge=0, description="US dollars per million output tokens, thinking included."
    ),
    "execution.engine": Meta(
        description="The engine that runs the model: ray (vLLM on any number of machines), vllm, "
        "openai (any OpenAI-compatible server), fake (a dry run)."
    ),
    "execution.window": Meta(ge=1, description="The most requests in flight at once."),
    "execution.open_problems": Meta(
        ge=0, description="The most problems explored at once; 0 is as many as fill the window."
    ),
    "execution.checkers": Meta(ge=1, description="The number of processes that compare answers."),
    "execution.checker_seconds": Meta(
        gt=0, description="The longest that one comparison of answers may take, in seconds."
    ),
    "execution.strategy_seconds": Meta(
        gt=0, description="The longest that a strategy may compute between two traces, in seconds."
    ),
    "supervision.patience_seconds": Meta(
        ge=0,
        description="How long refused or lost requests are sent again, in seconds; 0 is never.",
    ),
    "supervision.max_failed": Meta(
        ge=0, le=1, description="The share of problems that may fail; with more the exit code is 3."
    ),
    "models.NAME.path": Meta(
        pattern=r"\S", extra_json_schema={"range": "not empty"}, description=_MODEL
    ),
    "models.NAME.revision": Meta(
        description="The revision on the hub; an empty text is the newest."
    ),
    "models.NAME.max_context_tokens": Meta(
        ge=0, description="The longest context to reserve memory for; 0 is as the model ships."
    ),
    "models.NAME.layers": Meta(
        description="The layer schedule, as in 0-9 (10-19)*r 20-29; an empty text is as it ships."
    ),
    "models.NAME.max_depth": Meta(
        ge=0, description="The largest latent depth to reserve memory for; 0 is as the model ships."
    ),
    "models.NAME.damped": Meta(
        description="Whether each of r iterations moves the state only 1/r of the way."
    ),
    "models.NAME.residual": Meta(
        ge=0,
        lt=1,
        description="The share of the previous state that an iteration keeps; 0 is the plain loop.",
    ),
    "models.NAME.exit": Meta(
        description="The rule by which a token stops iterating early, as in state<0.03."
    ),
    "models.NAME.cascade": Meta(
        description="The rule by which an early iteration predicts a token, as in diff 0.1 at 2."
    ),
    "models.NAME.kv_iterations": Meta(
        ge=0, description="The KV slots that a layer's iterations share; 0 is one for each of them."
    ),
    "models.NAME.kv_writes": Meta(
        description="Which of the iterations that share a slot write it: first, or last."
    ),
    "models.NAME.warm_start": Meta(
        ge=0,
        le=1,
        description="The share of the last state of the token before in a new token's first state.",
    ),
    "models.NAME.task": Meta(
        description="The task of a model that returns values: classify, token_classify or embed."
    ),
    "models.NAME.chat_template": Meta(
        description="A file with a chat template (Jinja), or its text, instead of the model's own."
    ),
    "models.NAME.lora": Meta(
        description="A LoRA adapter of the model at path: a local folder, or a name on the hub."
    ),
    "models.NAME.tool_parser": Meta(
        description="vLLM's parser of this model's calls of tools; empty: by its chat template."
    ),
    "models.NAME.reasoning_parser": Meta(
        description="vLLM's parser of this model's thinking; empty: by its family; none: by tags."
    ),
}
