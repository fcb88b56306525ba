"""The values that everything else passes around. Pure: standard library only, no behaviour beyond
derivation.

What crosses a process or a file is one of these, never a handle, a lambda or a loose dict. A
`Problem` holds no reference answer: a strategy cannot leak what its type lacks
(`orchestrator.studies.evaluate` is the only reader of references).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import TypeAlias, TypeVar

T = TypeVar("T")


class Finish(StrEnum):
    """Why a trace ended."""

    STOP = "stop"  # end-of-sequence token or one of the request's stop strings
    LENGTH = "length"  # max_new_tokens or the context's end
    RULE = "rule"  # its checkpoint, or a declarative stop rule that fired in the engine process
    CANCELLED = "cancelled"  # by the strategy, a budget, or the user
    FAILED = "failed"  # the engine could not serve it; `Trace.error` says why


class Purpose(StrEnum):
    """What a request is for: the account its tokens are charged to.

    `PRUNED` is never requested: it is the account of `SOLVE` traces that were cancelled or dropped.
    """

    SOLVE = "solve"
    PRUNED = "pruned"
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
    ABSTAINED = "abstained"  # it ran to its end and no trace stated an answer
    FAILED = "failed"  # the strategy or every trace failed; `Result.error` says why
    INVALID = "invalid"  # the input row was not a problem; `Result.error` names file and line


class Capability(StrEnum):
    """What an engine can do beyond completing a prompt.

    A strategy lists what it needs in `needs`.
    """

    SEED = "seed"  # a request's seed decides its randomness
    CANCEL = "cancel"  # an aborted request stops generating at once
    CONTINUE = "continue"  # continuation of a parent by token ids
    LOGPROBS = "logprobs"  # metrics derived from log-probabilities
    RULES = "rules"  # stop rules are enforced beside the tokens
    DEPTH = "depth"  # latent depth per request
    SCORE = "score"  # the metric `prefix_logprob`: how likely inherited tokens are after any prompt
    # says which stop string ended a trace, and leaves that out of its tokens, so that it can be
    # gone on from
    STOPS = "stops"
    POOL = "pool"  # model pools with a task (`core.plan.TASKS`), which give values instead of text


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: str
    content: str


Prompt: TypeAlias = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """A plugin by name, with its options as the user gave them (validated when it is loaded).

    An option that is a PluginSpec itself, a part, is kept as a plan file writes it: as a table with
    its `name`.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write out parts."""
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
    """One question. `domain` names how its answers are read and compared; `tags` are the row's
    other fields as JSON text.
    """

    id: str
    prompt: Prompt
    domain: str = "math"
    tags: str = "{}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `top_k` 0 means no limit."""

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 512
    depth: int = 0  # how often the think block of a looped model runs; 0: as the model ships
    stop: tuple[str, ...] = ()
    system: str = ""  # system message put before the prompt of every problem; "" adds none
    template: str = (
        "{prompt}"  # wraps a plain prompt, e.g. "{prompt}\nPut the final answer in \\boxed{}."
    )


@dataclass(frozen=True, slots=True)
class WordLimit:
    """Stop rule: end the trace when `count` of these whole words (case-insensitive) have appeared
    in its text.
    """

    words: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class ConfidenceFloor:
    """Stop rule: end the trace when the mean confidence of a full window falls below `floor`
    (DeepConf, arXiv 2508.15260).

    Confidence of a token: minus the mean natural log-probability of its `top_k` likeliest
    alternatives, in nats.
    """

    floor: float
    window_tokens: int = 2048
    top_k: int = 20


@dataclass(frozen=True, slots=True)
class Delimiter:
    """Stop rule: end the trace after the `count`-th occurrence of `text` in its own (not the
    inherited) text.
    """

    text: str
    count: int = 1


StopRule: TypeAlias = WordLimit | ConfidenceFloor | Delimiter


@dataclass(frozen=True, slots=True)
class Request:
    """One completion: the unit of seed, journal and cancellation. Its identity is (`problem_id`,
    `ordinal`).

    A strategy fills what it wants; the Session sets `problem_id`, `ordinal`, `seed`, `prefix_ids`,
    `prefix_text` and whatever is left at its default from the plan. A continuation (`parent`) goes
    on after the parent's tokens, with `suffix` put between. One with a `checkpoint` ends by rule
    (`Finish.RULE`) after about so many of its own tokens, however many its attempt has left: an
    engine may end it earlier, by less than half, where going on is cheaper. `subjects` are the
    ordinals of the traces that it is to judge (see `core.verdicts`) or to go beyond (see
    `core.generations`).

    To a pool with a task (`core.plan.TASKS`) a request is a text or a conversation to be valued,
    and of the rest only `read_at` counts.
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
    # of a "token_classify" pool: the token at each of which a value is read; "": the last token
    read_at: str = ""

    @property
    def identity(self) -> tuple[str, int]:
        """What names this request in every process that sees it: its problem and its ordinal."""
        return self.problem_id, self.ordinal


@dataclass(frozen=True, slots=True)
class Answer:
    """A stated answer. Equal keys mean the same equivalence class within a problem; chosen once, at
    dressing.
    """

    text: str
    key: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What was spent. `layer_tokens` is tokens x decoder layers run, prompt included: the unit in
    which depths compare.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    layer_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Return the sum, field by field (`seconds` are engine-seconds: they add up over parallel
        traces).
        """
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.layer_tokens + other.layer_tokens,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement of one trace. `score` in [0, 1], higher is better; `steps` has shape
    (n_steps,) or is empty.

    `usage` is what models spent on coming to it (`core.asking`); nothing where none was asked.
    """

    verifier: str
    score: float
    steps: tuple[float, ...] = ()
    note: str = ""
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Trace:
    """One finished completion, dressed with its answer: the only event a strategy sees.

    `text` and `token_ids` are this request's own, without what it inherited from its parent;
    `answer` is read from the whole. `suffix_ids` are the tokens of the request's forced suffix,
    which a continuation of this trace inherits.
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
    note: str = ""  # what dressing could not decide in its limits; never empty silently
    # ordinals of the traces that it judges (`core.verdicts`) or goes beyond (`core.generations`)
    subjects: tuple[int, ...] = ()
    # the stop string that ended it, where the engine tells (Capability.STOPS); in neither its text
    # nor its tokens
    stop: str = ""
    # what a pool with a task gave instead of text: see `core.plan.TASKS`
    values: tuple[float, ...] = ()
    unjudged: Usage = Usage()  # what verifiers spent on it without coming to a verdict

    @property
    def verifying(self) -> Usage:
        """What its verifiers spent, with or without a verdict: on the account `verify`, in none of
        its own numbers.
        """
        return sum((v.usage for v in self.verdicts), self.unjudged)

    @property
    def account(self) -> Purpose:
        """The account its tokens are charged to."""
        if self.purpose is Purpose.SOLVE and self.finish is Finish.CANCELLED:
            return Purpose.PRUNED
        return self.purpose


@dataclass(frozen=True, slots=True)
class Prefix:
    """An unfinished trace as a judge sees it.

    `key` is the class of the answer it states or, when probed, would state; None if none.
    """

    ordinal: int
    text: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Traces whose answers are equivalent.

    `ordinals` ascend; `weight` is what the selector gave, `count` is `len(ordinals)`.
    """

    answer: Answer
    ordinals: tuple[int, ...]
    weight: float

    @property
    def count(self) -> int:
        """How many traces it holds."""
        return len(self.ordinals)


@dataclass(frozen=True, slots=True)
class Result:
    """One line of results.jsonl: the outcome of one problem.

    `n_traces` counts everything started, `n_attempts` the solving traces among it that continue no
    other (None: not counted, as by older versions). `tied` tells that the leader won by the tie
    rule alone (equal weight). `n_planned` and `full_tokens` state what the plan's full sampling
    would have cost, in traces and in output tokens at this problem's own mean length; None where
    that is unknown.
    """

    problem_id: str
    status: Status
    answer: Answer | None = None
    clusters: tuple[Cluster, ...] = ()
    usage: Mapping[str, Usage] = field(default_factory=dict)
    n_traces: int = 0
    n_attempts: int | None = None
    n_failed: int = 0
    n_cancelled: int = 0
    # ordinal -> heir: see `core.steps.Drop`
    dropped: Mapping[int, int | None] = field(default_factory=dict)
    tied: bool = False
    stopped_by: str = ""  # "" when the strategy ended by itself, else which budget ended it
    n_planned: int | None = None
    full_tokens: float | None = None
    seconds: float = 0.0
    fingerprint: str = ""
    error: str = ""
    tags: str = "{}"


def changed(value: T, **changes: object) -> T:
    """Return what `dataclasses.replace` returns, in a third of its time: it runs several times per
    trace.
    """
    read, places = _layout(type(value))  # type: ignore[arg-type]  # mypy does not count a class as hashable
    values = list(read(value))
    for name, new in changes.items():
        values[places[name]] = new
    return type(value)(*values)


@cache
def _layout(cls: type) -> tuple[Callable[[object], tuple[object, ...]], dict[str, int]]:
    names = [f.name for f in fields(cls)]
    return attrgetter(*names), {name: place for place, name in enumerate(names)}
