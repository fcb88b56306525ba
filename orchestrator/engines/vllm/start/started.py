"""What starting an engine leads to, for the engine that then serves requests with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.engines.vllm.reply import ReplyParser
from orchestrator.engines.vllm.start.tools import ToolParser
from orchestrator.plan.looped import Latent


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """A started AsyncLLM and the schedule of its model."""

    llm: Any
    latent: Latent | None  # None: the stock model
    task: str = ""  # one of `core.plan.TASKS`; "": it generates text
    parser: ReplyParser | None = None  # tells thinking from reply; None: tags do
    chat_template: str = ""  # "": the model's own
    adapters: Mapping[str, Any] = field(default_factory=dict)  # vLLM's LoRARequest, by pool
    tool_parser: ToolParser | None = None  # reads calls of tools; None: there are none
