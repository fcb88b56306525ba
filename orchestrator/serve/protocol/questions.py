"""From the body of a request to a problem: as a row of an OpenAI batch, so that both say the same.

The one rule: what a request asks for is honoured, listed under `ignored`, or refused with the field
and the remedy. The budget of the plan is the most that a request may set.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, cast

import msgspec
from pydantic import BaseModel

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Plan, Settings, with_settings
from orchestrator.core.values import Problem, media_of
from orchestrator.jobs.openai_batch import pools_of_rows, problem_fields, settings_of
from orchestrator.jobs.problems import problem_from_row
from orchestrator.jobs.rows import Format, row_from
from orchestrator.plan import keys, registry
from orchestrator.plan.check import RowRequirement, row_requirement
from orchestrator.plan.execution import Execution
from orchestrator.plan.spec_syntax import spelled
from orchestrator.serve.protocol.bodies import ChatBody, CompletionBody
from orchestrator.serve.protocol.faults import invalid
from orchestrator.serve.protocol.names import pool_and_settings

JSON = dict[str, Any]
_MAX_CHECKED = 4096  # settings of requests whose check is remembered
# of the protocol, and without meaning for what is answered here
_WITHOUT_EFFECT = (
    *("model", "user", "metadata", "store", "service_tier"),
    *("prompt_cache_key", "safety_identifier", "truncation", "include"),
)
_KNOWN = (
    *("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "response_format", "reasoning_effort", "structured_outputs"),
    *("min_tokens", "bad_words", "stop_token_ids", "allowed_token_ids", "ignore_eos"),
)
_OF_THE_SERVICE = ("model", "stream", "stream_options", "n", "leadline")
_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True, slots=True)
class Question:
    """A request as a problem, with what its reply needs; `row` is the row that reads as it."""

    problem: Problem
    row: JSON
    model: str
    n_choices: int = 1
    n_planned: int | None = None
    strategy: str = ""
    is_shown_early: bool = False  # the text of its only request is the reply, as it comes
    usd: float = 0.0
    wants_progress: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether it is a chat, rather than a text to be continued."""
        return bool(self.row["url"] == _CHAT)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What settings come to: the attempts planned and the strategy, or why they cannot be run."""

    n_planned: int | None = None
    strategy: str = ""
    is_shown_early: bool = False
    fault: str = ""


@dataclass(slots=True)
class QuestionReader:
    """Reads the requests to one plan; `max_attempts` is the most that one may plan."""

    plan: Plan
    execution: Execution
    max_attempts: int
    pools: Mapping[str, str] = field(init=False)
    _require: RowRequirement = field(init=False)
    _terms: Callable[[str, frozenset[str]], _Terms] = field(init=False)

    def __post_init__(self) -> None:
        """Prepare the checks, which are made once for equal settings."""
        self.pools = pools_of_rows(self.plan.models)
        self._require = row_requirement(self.plan, self.execution)
        self._terms = lru_cache(_MAX_CHECKED)(self._checked)

    def read(self, body: ChatBody | CompletionBody, id: str) -> Question:
        """Return the question of a body; Fault if it cannot be honoured."""
        row, usd = self.row(body.model_dump(exclude_unset=True, exclude_none=True), id)
        # attempts are drawn by the id of the request too, which no other one has
        unused = [name for name in ("seed",) if row["body"].pop(name, None) is not None]
        n_choices = body.n or 1
        settings, ignored = self._settings(row)
        refuse_near_misses((*ignored, *_passed(settings)), type(body))
        problem = self._problem(row)
        media = frozenset(one.modality for one in media_of(problem.prompt))
        terms = self._terms_of(settings, media)
        if n_choices > 1 and terms.n_planned is not None and terms.n_planned < n_choices:
            row["body"]["n"] = n_choices  # as many attempts as choices, at least
            problem, (settings, _) = self._problem(row), self._settings(row)
            terms = self._terms_of(settings, media)
        self._require_allowed(settings, terms, usd)
        return Question(
            problem,
            row,
            body.model,
            n_choices,
            terms.n_planned,
            terms.strategy,
            terms.is_shown_early,
            usd,
            body.leadline is not None and body.leadline.progress,
            tuple(name for name in (*unused, *ignored) if name not in _WITHOUT_EFFECT),
        )

    def batch_row(self, body: Mapping[str, Any], id: str) -> JSON:
        """Return a row of a client's batch as the job reads it; Fault as in `read`."""
        row, usd = self.row(body, id)
        if usd:
            raise invalid("leadline.budget.usd is for single requests; remove it")
        if body.get("n") is not None:
            row["body"]["n"] = body["n"]
        if body.get("stream"):
            row["body"]["stream"] = True  # refused with its reason where the row is read
        settings, _ = self._settings(row)
        self._require_allowed(settings, self._terms_of(settings, frozenset()), usd)
        return row

    def row(self, body: Mapping[str, Any], id: str) -> tuple[JSON, float]:
        """Return a body as a row of a batch, its model as a pool, and its budget of US dollars.

        Fault for an unknown model, a medium elsewhere, or a plugin that would read a file here.
        """
        extension = dict(body.get("leadline") or {})
        pool, in_name = pool_and_settings(str(body.get("model")), self.plan)
        if both := sorted(in_name.keys() & extension.keys()):
            raise invalid(f"{both[0]} is in the model's name and in leadline.{both[0]}", "model")
        extension |= in_name
        extension.pop("progress", None)
        budget = {k: v for k, v in (extension.pop("budget", None) or {}).items() if v is not None}
        usd = float(budget.pop("usd", 0.0))
        extension |= {"budget": budget} if budget else {}
        domain = extension.pop("domain", None)
        own = {name: value for name, value in body.items() if name not in _OF_THE_SERVICE}
        if isinstance(own.get("prompt"), list):
            [own["prompt"]] = own["prompt"]
        _refuse_addresses(own.get("messages"))
        _refuse_files(extension)
        own |= {"leadline": extension} if extension else {}
        own |= {"model": pool} if pool in self.pools else {}
        row = {"custom_id": id, "method": "POST", "url": _url(own), "body": own}
        return row | ({"domain": domain} if domain is not None else {}), usd

    def _problem(self, row: JSON) -> Problem:
        fields, fault = problem_fields(row)
        if fault:
            raise invalid(fault)
        try:
            plan, request = self.plan, replace(row_from(fields), format=Format.OPENAI_BATCH)
            return problem_from_row(request, plan.domain, plan.domains, pools=self.pools)
        except PlanError as error:  # "problem 'ID': the reason"
            raise invalid(str(error).partition("': ")[2] or str(error)) from error

    def _settings(self, row: JSON) -> tuple[Settings, tuple[str, ...]]:
        try:
            body = {k: v for k, v in row["body"].items() if k not in ("messages", "prompt")}
            return settings_of(body, pools=self.pools)
        except (ValueError, TypeError) as error:
            raise invalid(str(error).removeprefix("its body ")) from error

    def _terms_of(self, settings: Settings, media: frozenset[str]) -> _Terms:
        terms = self._terms(settings.encoded(), media)
        if terms.fault:
            raise invalid(terms.fault)
        return terms

    def _require_allowed(self, settings: Settings, terms: _Terms, usd: float) -> None:
        """Refuse what is more than the service allows, or could not be kept."""
        most = self.plan.budget
        for name, limit in (("tokens", most.tokens), ("traces", most.traces)):
            _require_within(name, settings.budget.get(name), limit)
        _require_within("seconds", settings.budget.get("seconds"), most.seconds)
        if terms.n_planned is not None and terms.n_planned > self.max_attempts:
            raise invalid(
                f"{terms.strategy} plans {terms.n_planned:,} attempts; the service allows "
                f"{self.max_attempts:,}",
                code="too_many_attempts",
            )
        if usd and not self.execution.prices.pools:
            name = "leadline.budget.usd"
            raise invalid(
                f"{name} = {usd:g}: the service knows no prices, so it cannot keep it", name
            )

    def _checked(self, encoded: str, media: frozenset[str]) -> _Terms:
        settings = Settings(**msgspec.json.decode(encoded)) if encoded else Settings()
        try:
            keys.read_section("sampling", settings.sampling)
            self._require(settings, media)
            plan = with_settings(self.plan, encoded)
            strategy = registry.load("strategies", plan.strategy)
        except (PlanError, TypeError, ValueError) as error:
            return _Terms(fault=str(error))
        # a call is read from the whole text, and a prefill is part of the reply
        is_changed = bool(plan.sampling.extra.get("tools") or plan.sampling.prefill)
        return _Terms(
            getattr(strategy, "n_planned", None),
            spelled(plan.strategy),
            bool(getattr(strategy, "is_one_request", False)) and not is_changed,
        )


def _url(body: Mapping[str, Any]) -> str:
    return _CHAT if "messages" in body else _TEXT


def _refuse_addresses(messages: object) -> None:
    """Refuse media by their address: who may ask the service may not send it elsewhere."""
    for message in messages if isinstance(messages, list) else ():
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else ():
            body = part.get(str(part.get("type"))) if isinstance(part, dict) else None
            url = body.get("url") if isinstance(body, dict) else body
            if isinstance(url, str) and part["type"] != "text" and url[:5].lower() != "data:":
                raise invalid(
                    f"{part['type']}: the service fetches nothing; send a data: URI", "messages"
                )


def _refuse_files(value: object) -> None:
    """Refuse options of plugins that name files: they would be files of this machine."""
    if isinstance(value, Mapping):
        if "file" in value:
            raise invalid("a request may not name a file of the service", "leadline")
        for inner in value.values():
            _refuse_files(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_files(inner)


def _passed(settings: Settings) -> Mapping[str, object]:
    """Return the fields that are the engine's to honour."""
    return cast(Mapping[str, object], settings.sampling.get("extra", {}))


def refuse_near_misses(names: Iterable[str], body: type[BaseModel]) -> None:
    """Refuse a field that is not known here, and whose name is nearly that of one that is."""
    for name in names:
        match = difflib.get_close_matches(name, [*body.model_fields, *_KNOWN], n=1, cutoff=0.8)
        if match and match[0] != name and name not in _WITHOUT_EFFECT:
            raise invalid(f"there is no field {name!r} (did you mean {match[0]!r}?)", name)


def _require_within(name: str, value: object, limit: float) -> None:
    key = f"leadline.budget.{name}"
    if limit and isinstance(value, int | float) and value > limit:
        raise invalid(f"{key} = {value:,}: the service allows at most {limit:,}", key)
