"""Opens the client of a server, and requires that the server is there and serves the models.

The one rule: what waiting may mend, such as a busy server, is no error here.
"""

from __future__ import annotations

from collections.abc import Mapping
from json import JSONDecodeError
from typing import TYPE_CHECKING

from orchestrator.core.errors import EngineError, PlanError
from orchestrator.core.plan import Model
from orchestrator.engines.openai import limits
from orchestrator.engines.openai.refusals import cause, is_temporary
from orchestrator.engines.openai.secrets import secret
from orchestrator.engines.openai.wire import MalformedReply

if TYPE_CHECKING:
    import openai

    from orchestrator.engines.openai.engine import HttpEngine, OpenAI


class Unreachable(EngineError):
    """No server answers at an address."""


def require_remote(models: Mapping[str, Model]) -> None:
    """Raise PlanError for what only an engine that loads models can decide."""
    for name, model in models.items():
        if model.revision or model.max_context_tokens:
            raise PlanError(
                f"models.{name}: revision and max_context_tokens are decided by the remote server; "
                "remove them"
            )
        if model.chat_template:
            raise PlanError(
                f"models.{name}: the remote server has the chat template (vLLM: vllm serve "
                "--chat-template FILE); remove chat_template"
            )
        if model.reasoning_parser:
            raise PlanError(
                f"models.{name}: the remote server splits thinking from reply (vLLM: vllm serve "
                "--reasoning-parser NAME); remove reasoning_parser"
            )


def client(options: OpenAI, headers: Mapping[str, str]) -> openai.AsyncOpenAI:
    """Return a client of one server; `headers` are its secret ones. PlanError without the extra."""
    try:
        import openai
    except ImportError as error:
        raise PlanError(
            'the engine "openai" needs the official client: pip install "leadline[http]"'
        ) from error
    return openai.AsyncOpenAI(
        base_url=options.base_url,
        api_key=secret(options.api_key_env) or "none",
        organization=options.organization or None,
        project=options.project or None,
        max_retries=0,
        # No timeout for a free connection: the window limits the requests in flight.
        timeout=openai.Timeout(options.timeout_seconds, connect=options.connect_seconds, pool=None),
        default_headers={**limits.HEADERS, **options.headers, **headers},
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [limits.limit_reply]}),
    )


async def require_served(engine: HttpEngine) -> None:
    """Return once the server is known to serve its models, or is too busy to say.

    Otherwise raises EngineError with the remedy; Unreachable if nothing answers.
    """
    with engine.mask.errors():
        await _require_served(engine)


async def _require_served(engine: HttpEngine) -> None:
    import openai

    url = engine.options.base_url
    names = sorted({model.path for model in engine.models.values()})
    try:
        served = await engine.served()
        if engine.options.server == "vllm":
            for name in names:
                if name in served:
                    await engine.tokenize(name, {"prompt": "a"})
    except openai.APIConnectionError as error:
        raise Unreachable(
            f"no server answers at {url} ({cause(error)}); start one there (`python -m "
            "vllm.entrypoints.openai.api_server --model MODEL --port PORT`) or set base_url"
        ) from error
    except openai.APIStatusError as error:
        if is_temporary(error.status_code):
            return  # it is there, and requests are sent until it serves them
        raise EngineError(
            f"{engine.refusal(error)}; check base_url (most end in /v1), server and api_key_env"
        ) from error
    except (MalformedReply, JSONDecodeError) as error:
        raise EngineError(
            f"{url} is no OpenAI-compatible API: {error}; check base_url (most end in /v1) and "
            "server"
        ) from error
    missing = [name for name in names if name not in served]
    if missing:
        raise EngineError(
            f"{url} does not serve {', '.join(missing)}; it serves: "
            f"{', '.join(served) or 'nothing'}"
        )
