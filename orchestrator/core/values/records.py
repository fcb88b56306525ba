"""The values that the other modules exchange. Pure: only data and what derives from it.

Everything that crosses a process boundary or is stored in a file is one of these, never a handle, a
lambda or an untyped dict. A `Problem` has no field for the reference answer, so a strategy cannot
leak it; only `orchestrator.studies.evaluate` reads references.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import add
from typing import TypeAlias

from orchestrator.core.values.changes import layout
from orchestrator.core.values.messages import Media, Prompt, ToolCall
from orchestrator.core.values.tokens import TokenLogprob

Span: TypeAlias = tuple[int, int]  # the characters of a text from the first up to the second
Spans: TypeAlias = tuple[Span, ...]


class Finish(StrEnum):
    """Why a trace ended."""

    STOP = "stop"  # end-of-sequence token or one of the request's stop strings
    LENGTH = "length"  # max_new_tokens or the context's end
    RULE = "rule"  # its checkpoint, or a declarative stop rule that fired in the engine process
    CANCELLED = "cancelled"  # by the strategy, a budget, or the user
    FAILED = "failed"  # the engine could not serve it; the reason is in `Trace.error`


class Purpose(StrEnum):
    """The purpose of a request: the account that its tokens are charged to."""

    SOLVE = "solve"
    PRUNED = "pruned"  # no purpose: the account of cancelled or dropped `SOLVE` traces
    PROBE = "probe"
    VERIFY = "verify"
    COMPARE = "compare"
    AGGREGATE = "aggregate"

    @classmethod
    def _missing_(cls, value: object) -> Purpose | None:
        """Read journals of version 0.1, which called this account "judge"."""
        return cls.COMPARE if value == "judge" else None


class Status(StrEnum):
    """How a problem ended."""

    ANSWERED = "answered"
    ABSTAINED = "abstained"  # exploration ended and no trace gave an answer
    FAILED = "failed"  # the strategy or every trace failed; the reason is in `Result.error`
    INVALID = "invalid"  # the input row was not a problem; `Result.error` names file and line


class Capability(StrEnum):
    """An ability of an engine beyond completing a prompt; plugins list theirs in `needs`."""

    SEED = "seed"  # a request's seed decides its randomness
    CANCEL = "cancel"  # an aborted request stops generating at once
    CONTINUE = "continue"  # continuation of a parent by token ids
    LOGPROBS = "logprobs"  # metrics derived from log-probabilities
    RULES = "rules"  # stop rules are enforced beside the tokens
    DEPTH = "depth"  # latent depth per request
    SCORE = "score"  # the metric `prefix_logprob`: how likely inherited tokens are after any prompt
    STOPS = "stops"  # reports the stop string that ended a trace, and leaves it out of the tokens
    ADAPTERS = "adapters"  # model pools that are LoRA adapters of a model
    POOL = "pool"  # model pools with a task (`core.plan.TASKS`), which return values, not text


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plugin's name and its options as the user gave them; validated when the plugin is loaded.

    An option that is itself a plugin (a part) is stored as in plan files: a table with its `name`.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Convert parts to tables."""
        if any(isinstance(value, PluginSpec | list | tuple) for value in self.options.values()):
            object.__setattr__(
                self, "options", {key: _written_out(value) for key, value in self.options.items()}
            )


def _written_out(value: object) -> object:
    if isinstance(value, PluginSpec):
        return {"name": value.name, **value.options}
    if isinstance(value, list | tuple) and any(isinstance(one, PluginSpec) for one in value):
        return [_written_out(one) for one in value]
    return value


@dataclass(frozen=True, slots=True)
class Problem:
    """One question.

    `domain` names the plugin that reads and compares its answers; `tags` contains the row's other
    fields as JSON, `settings` what it sets differently from the plan (`core.plan.with_settings`).
    `media` stand before a prompt that is a text.
    """

    id: str
    prompt: Prompt
    domain: str = "math"
    tags: str = "{}"
    settings: str = ""
    media: tuple[Media, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are sampled; `top_k` 0 means no limit."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    depth: int = 0  # how often the think block of a looped model runs; 0: as the model ships
    latent_noise: float = 0.0  # of an attempt's first latent states, in their root mean square
    thinking_tokens: int = 0  # the most tokens that an attempt thinks before its reply; 0: no limit
    stop: tuple[str, ...] = ()
    system: str = ""  # system message put before the prompt of every problem; "" adds none
    template: str = "{prompt}"  # wraps a plain prompt, as in "{prompt}\nAnswer in \\boxed{}."
    prefill: str = ""  # text with which every attempt at the problem's own prompt begins
    logprobs: bool = False  # whether attempts keep the log-probability of each token
    top_logprobs: int = 0  # and those of this many most likely ones
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)  # by the engine's names


@dataclass(frozen=True, slots=True)
class WordLimit:
    """Stop rule: end the trace when `count` of these words have appeared in its text.

    Only whole words match; case is ignored.
    """

    words: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class ConfidenceFloor:
    """Stop rule: end the trace when the mean confidence of a full window falls below `floor`.

    From DeepConf (arXiv 2508.15260). The confidence of a token is minus the mean natural
    log-probability of its `top_k` most likely alternatives, in nats.
    """

    floor: float
    window_tokens: int = 2048
    top_k: int = 20


@dataclass(frozen=True, slots=True)
class Delimiter:
    """Stop rule: end the trace after the `count`-th `text` in its own, not its inherited, text."""

    text: str
    count: int = 1


StopRule: TypeAlias = WordLimit | ConfidenceFloor | Delimiter


@dataclass(frozen=True, slots=True)
class Request:
    """One completion: the unit of seeding, journalling and cancellation.

    `problem_id` and `ordinal` identify it. A strategy sets the fields it needs. The Session sets
    `problem_id`, `ordinal`, `seed`, `prefix_ids` and `prefix_text`, and fills every field left at
    its default from the plan.

    A request with a `parent` continues after the parent's tokens, with `suffix` forced between
    them. A request with a `checkpoint` ends by rule (`Finish.RULE`) after about that many of its
    own tokens, however many its attempt has left; an engine may end it up to half earlier if it is
    cheaper to continue from there. `subjects` are the ordinals of the traces that the request
    verifies or compares (`kit.verdicts`), or that its prompt shows as attempts to improve on.

    For a model pool with a task (`core.plan.TASKS`), a request is a text or a conversation to
    evaluate; of the other fields only `read_at` is used.
    """

    prompt: Prompt = ""
    parent: int | None = None
    suffix: str = ""
    model: str = ""
    depth: int | None = None
    max_new_tokens: int | None = None
    checkpoint: int | None = None
    sampling: Sampling | None = None
    stop: tuple[str, ...] = ()
    rules: tuple[StopRule, ...] = ()
    metrics: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()
    purpose: Purpose = Purpose.SOLVE
    subjects: tuple[int, ...] = ()
    problem_id: str = ""
    ordinal: int = -1
    seed: int = 0
    prefix_ids: tuple[int, ...] = ()  # token ids of all ancestors, their suffixes included
    prefix_text: str = ""  # the same as text
    read_at: str = ""  # "token_classify" pools: the token at which values are read; "": the last

    @property
    def identity(self) -> tuple[str, int]:
        """The request's identity in every process: its problem's id and its ordinal."""
        return self.problem_id, self.ordinal


@dataclass(frozen=True, slots=True)
class Answer:
    """An attempt's answer, with the key of its class within the problem.

    Equal keys mean the same class. Both fields are set once, when the trace is annotated.
    """

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of one or more traces.

    `layer_tokens` is tokens times decoder layers run, prompt included: the unit in which depths
    compare. `seconds` are engine time, so traces that ran in parallel add up. `reasoning_tokens`
    are those output tokens that are thinking, as far as the engine knows. `draft_layer_tokens` are
    layers run in vain or for drafts, beside `layer_tokens`, where a looped model drafts for itself.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    layer_tokens: int = 0
    seconds: float = 0.0
    reasoning_tokens: int = 0
    draft_layer_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Return the sum, field by field."""
        read, _, _ = layout(Usage)
        return Usage(*map(add, read(self), read(other)))


NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's score of one trace, in [0, 1], higher is better.

    `steps`, of shape (n_steps,), are the scores of the trace's steps, or empty. `usage` is the cost
    of the verifier's own model requests, zero if it made none.
    """

    verifier: str
    score: float
    steps: tuple[float, ...] = ()
    note: str = ""
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Trace:
    """One finished completion, annotated with its answer: the only event that a strategy sees.

    `text` and `token_ids` are this request's output, without what it inherited from its parent;
    `answer` is read from the text of the whole lineage (`core.lineage`). `suffix_ids` are the
    tokens of the request's forced suffix, which a continuation of this trace inherits.
    """

    ordinal: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish: Finish = Finish.STOP
    parent: int | None = None
    purpose: Purpose = Purpose.SOLVE
    model: str = ""
    depth: int | None = None
    usage: Usage = Usage()
    answer: Answer | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    error: str = ""
    note: str = ""  # what annotation could not decide within its limits
    subjects: tuple[int, ...] = ()  # its request's
    stop: str = ""  # the stop string that ended it (Capability.STOPS); in neither text nor tokens
    values: tuple[float, ...] = ()  # of a pool with a task, instead of text: `core.plan.TASKS`
    unjudged: Usage = NO_USAGE  # cost of verifications that ended without a verdict
    thinking_spans: Spans = ()  # the thinking in `text`, without tags
    reply_spans: Spans | None = None  # the reply in `text`, without tags; None: all of it
    logprobs: tuple[TokenLogprob, ...] = ()  # of its tokens, where `Sampling.logprobs` is set
    calls: tuple[ToolCall, ...] = ()  # of tools, by its whole lineage; not in `reply_spans`

    @property
    def thinking(self) -> str:
        """The thinking in `text`."""
        return "".join([self.text[start:end] for start, end in self.thinking_spans]).strip()

    @property
    def reply(self) -> str:
        """The reply in `text`, which has no thinking in it."""
        spans = self.reply_spans
        return self.text if spans is None else "".join([self.text[a:b] for a, b in spans])

    @property
    def lost(self) -> bool:
        """Whether the trace failed or was cancelled."""
        return self.finish in (Finish.FAILED, Finish.CANCELLED)

    @property
    def verification_usage(self) -> Usage:
        """The cost of verifying this trace, with or without a verdict: charged to `verify`."""
        if not self.verdicts:
            return self.unjudged
        return sum((v.usage for v in self.verdicts), self.unjudged)

    @property
    def account(self) -> Purpose:
        """The account that this trace's tokens are charged to."""
        if self.purpose is Purpose.SOLVE and self.finish is Finish.CANCELLED:
            return Purpose.PRUNED
        return self.purpose


@dataclass(frozen=True, slots=True)
class Prefix:
    """An unfinished trace as a similarity sees it."""

    ordinal: int
    text: str
    key: str | None = None  # the class of its answer, or of the answer that a probe obtained


@dataclass(frozen=True, slots=True)
class Cluster:
    """The traces that vote for one class of answers, in ascending order of `ordinals`.

    `weight` is the total weight that the selector gave their votes.
    """

    answer: Answer
    ordinals: tuple[int, ...]
    weight: float

    @property
    def count(self) -> int:
        """The number of traces in this cluster."""
        return len(self.ordinals)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one problem: one line of results.jsonl.

    `n_traces` counts the started requests, `n_attempts` the attempts among them, and `attempts`
    these by state (`core.votes`). `n_cancelled` is without dropped traces. `tied`: the leader won
    by the tie rule, at equal weight. `n_planned` and `full_tokens` are what full sampling costs:
    attempts, and output tokens at this problem's own mean length. None is unknown.
    """

    problem_id: str
    status: Status
    answer: Answer | None = None
    clusters: tuple[Cluster, ...] = ()
    usage: Mapping[str, Usage] = field(default_factory=dict)
    n_traces: int = 0
    n_attempts: int | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    n_failed: int = 0
    n_cancelled: int = 0
    dropped: Mapping[int, int | None] = field(default_factory=dict)  # to heir: `core.steps.Drop`
    tied: bool = False
    stopped_by: str = ""  # the budget that ended exploration; "": the strategy ended by itself
    n_planned: int | None = None
    full_tokens: float | None = None
    seconds: float = 0.0
    fingerprint: str = ""
    error: str = ""
    tags: str = "{}"
