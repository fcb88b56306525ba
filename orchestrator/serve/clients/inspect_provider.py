"""The model provider `leadline` of Inspect.

    inspect eval TASK.py --model leadline/MODEL -M plan=plan.toml

Inspect finds it by its entry point. MODEL is a name of `leadline serve`, which may have a depth and
a strategy. The one rule: an engine starts with the first request of an event loop, and stops with
that loop or when the model is closed. Needs the packages inspect_ai and openai.
"""

from __future__ import annotations

import asyncio
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    messages_to_openai,
    model_output_from_openai,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from orchestrator.serve.clients.local import LocalService, loaded_plan, local_service
from orchestrator.serve.protocol.faults import Fault

# fields of Inspect's configuration, and their names in the protocol
_FIELDS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logit_bias": "logit_bias",
    "seed": "seed",
    "stop_seqs": "stop",
    "num_choices": "n",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "reasoning_effort": "reasoning_effort",
}


@modelapi(name="leadline")
class LeadlineAPI(ModelAPI):  # type: ignore[misc]  # Inspect is no part of the checks
    """Answers by a plan's strategy, in this process."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # as Inspect declares it
        plan: str = "",
    ) -> None:
        """Read the plan; PlanError if it cannot run."""
        super().__init__(model_name, base_url, api_key, [], config)
        self._loaded = loaded_plan(plan)
        self._service: asyncio.Future[LocalService] | None = None
        self._owner: asyncio.Task[None] | None = None

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Return the reply; its metadata has the object `leadline`."""
        body = {"model": self.model_name, "messages": await messages_to_openai(input)}
        body |= _settings(config) | (_tools(tools, tool_choice) if tools else {})
        service = await self._running()
        try:
            reply = await service.answer(body)
        except Fault as fault:
            if fault.code != "context_length_exceeded":
                raise
            return ModelOutput.from_content(self.model_name, fault.message, "model_length")
        output = await model_output_from_openai(reply)
        output.metadata = {"leadline": reply["leadline"]}
        return output

    def max_connections(self) -> int:
        """Return how many samples may run at once: as many as the plan's window."""
        return int(self._loaded.execution.window)

    async def aclose(self) -> None:
        """Stop the engine."""
        owner, self._owner, self._service = self._owner, None, None
        if owner is not None and owner.get_loop() is asyncio.get_running_loop():
            owner.cancel()
            await asyncio.gather(owner, return_exceptions=True)

    async def _running(self) -> LocalService:
        """Return the service of this event loop."""
        loop = asyncio.get_running_loop()
        if self._service is None or self._service.get_loop() is not loop:
            self._service = loop.create_future()
            self._owner = loop.create_task(self._own(self._service))
        return await asyncio.shield(self._service)

    async def _own(self, started: asyncio.Future[LocalService]) -> None:
        """Open and close the service in one task, as async context managers may require."""
        try:
            async with local_service(self._loaded) as service:
                started.set_result(service)
                await asyncio.Event().wait()  # until this task is cancelled
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)


def _settings(config: GenerateConfig) -> dict[str, Any]:
    values = {name: getattr(config, field, None) for field, name in _FIELDS.items()}
    return {k: v for k, v in values.items() if v is not None} | (config.extra_body or {})


def _tools(tools: list[ToolInfo], choice: ToolChoice) -> dict[str, Any]:
    functions = [
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters.model_dump(exclude_none=True),
        }
        for tool in tools
    ]
    named: Any = {"any": "required"}.get(choice, choice) if isinstance(choice, str) else None
    return {
        "tools": [{"type": "function", "function": function} for function in functions],
        "tool_choice": named or {"type": "function", "function": {"name": choice.name}},
    }
