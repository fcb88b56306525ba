"""The endpoints of one engine: what each sets for itself, and which model pools it serves.

The one rule: what an endpoint does not set is the engine's option of the same name. Not covered:
the choice of an endpoint for a request (`pool`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.engines.openai.secrets import require_public
from orchestrator.plan.registry import near

KEY_VARIABLE = "OPENAI_API_KEY"
ServerKind: TypeAlias = Literal["any", "openai", "vllm"]
Address: TypeAlias = Annotated[str, Meta(pattern="^https?://")]
_AtLeastOne: TypeAlias = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """Options that the engine sets for all endpoints, and each endpoint for itself."""

    organization: Annotated[
        str, Meta(description="The header OpenAI-Organization; if empty, $OPENAI_ORG_ID, if set.")
    ] = ""
    project: Annotated[
        str, Meta(description="The header OpenAI-Project; if empty, $OPENAI_PROJECT_ID, if set.")
    ] = ""
    headers: Annotated[
        Mapping[str, str],
        Meta(description="Further headers of each request. They are recorded with the job."),
    ] = field(default_factory=dict)
    headers_env: Annotated[
        Mapping[str, str],
        Meta(
            description="Headers with secret values: by the header's name, the environment "
            "variable that holds its value."
        ),
    ] = field(default_factory=dict)
    requests_per_minute: Annotated[
        _AtLeastOne | None, Meta(description="Requests that are started in a minute, evenly.")
    ] = None
    tokens_per_minute: Annotated[
        _AtLeastOne | None,
        Meta(
            description="Tokens of prompts and replies in a minute. A request reserves all that it "
            "may generate, and gives back what it did not."
        ),
    ] = None
    max_in_flight: Annotated[
        _AtLeastOne | None,
        Meta(description="Requests in flight; unset, execution.window is the limit."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(EndpointOptions):
    """One server of several; options that are unset are the engine's."""

    base_url: Annotated[Address | None, Meta(description="Address of the API.")] = None
    api_key_env: Annotated[
        str | None,
        Meta(description="Name of the environment variable that holds this endpoint's key."),
    ] = None
    model: Annotated[
        str, Meta(description="Name of the model there; if empty, the `path` in the plan.")
    ] = ""
    pool: Annotated[
        str, Meta(description="The one model pool of the plan that it serves; if empty, all.")
    ] = ""
    server: Annotated[ServerKind | None, Meta(description="What may be sent.")] = None

    def __post_init__(self) -> None:
        """Refuse secrets."""
        url, key = self.base_url or "", self.api_key_env or ""
        require_public(url, key, self.headers, self.headers_env)

    def options(self, engine: Any) -> dict[str, Any]:
        """Return the options of an engine for this endpoint alone.

        A key that the engine does not name, the default, is not sent to another address.
        """
        names = ("base_url", "server", "organization", "project")
        limits = ("requests_per_minute", "tokens_per_minute", "max_in_flight")
        values = {name: getattr(self, name) for name in (*names, *limits)}
        options = {name: value for name, value in values.items() if value}
        if self.api_key_env is not None:
            options["api_key_env"] = self.api_key_env
        elif self.base_url and engine.api_key_env == KEY_VARIABLE:
            options["api_key_env"] = ""
        own = {name.lower() for name in (*self.headers, *self.headers_env)}
        for name in ("headers", "headers_env"):
            inherited = {k: v for k, v in getattr(engine, name).items() if k.lower() not in own}
            options[name] = inherited | dict(getattr(self, name))
        return options


def served(endpoints: Sequence[Endpoint], models: Mapping[str, Model]) -> list[dict[str, Model]]:
    """Return the model pools that each endpoint serves, with the names of their models there.

    PlanError for a pool that the plan lacks, or that no endpoint serves.
    """
    pools = [_served(f"endpoints[{i}]", endpoint, models) for i, endpoint in enumerate(endpoints)]
    for name in models:
        if endpoints and not any(name in own for own in pools):
            raise PlanError(f"no endpoint serves models.{name}; add one with pool = {name!r}")
    return pools or [dict(models)]


def _served(at: str, endpoint: Endpoint, models: Mapping[str, Model]) -> dict[str, Model]:
    if endpoint.pool and endpoint.pool not in models:
        raise PlanError(
            f"{at}.pool = {endpoint.pool!r}{near(endpoint.pool, models)} is no model of the plan; "
            f"those are: {', '.join(models)}"
        )
    own = {name: model for name, model in models.items() if endpoint.pool in ("", name)}
    if endpoint.model and len(own) > 1:
        raise PlanError(
            f"{at}.model = {endpoint.model!r} names one model, and the plan has {len(own)}: "
            f"{', '.join(own)}; set {at}.pool to the one that it is"
        )
    if not endpoint.model:
        return own
    return {name: replace(model, path=endpoint.model) for name, model in own.items()}
