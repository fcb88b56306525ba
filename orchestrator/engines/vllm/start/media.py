"""Prompts with images, sounds and videos: what a model takes, and vLLM's input for it.

The one rule: vLLM loads and places media itself, by its own renderer; media are data or http
addresses, since it opens no file of this machine unless the plan's `args` let it. Imports vllm only
when called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.plan import Model
from orchestrator.core.values import Prompt, media_of
from orchestrator.engines.vllm.prompts import Refused
from orchestrator.engines.vllm.start.arguments import parsed
from orchestrator.kit.prompts import chat_messages
from orchestrator.plan.check import no_media
from orchestrator.plan.models import known_config, resolve_model


def require_media(
    kinds: frozenset[str],
    pool: str,
    model: Model,
    args: Mapping[str, object],
    import_vllm: Callable[[], None],
) -> None:
    """Raise PlanFault unless a pool takes media of these kinds.

    A model that is not on this machine is unknown: then the engine refuses the requests.
    """
    import_vllm()
    if known_config(model.path) is None:
        return
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.multimodal import MULTIMODAL_REGISTRY

    engine_args = AsyncEngineArgs(model=resolve_model(model.path), **parsed(args, pool))
    config = engine_args.create_model_config()
    can: frozenset[str] = frozenset()
    if config.is_multimodal_model:
        can = _kinds(MULTIMODAL_REGISTRY.create_processor(config))
    if kinds - can:
        raise no_media(kinds - can, model.path, can)


def _kinds(processor: Any) -> frozenset[str]:
    return frozenset(kind for kind, most in processor.info.allowed_mm_limits.items() if most)


async def rendered(llm: Any, prompt: Prompt, arguments: Mapping[str, Any], pool: str) -> Any:
    """Return vLLM's input for a prompt with media; `arguments` are those of the chat template.

    Refused if the model does not take them, or one of them cannot be loaded.
    """
    processor = llm.renderer.mm_processor
    can = frozenset() if processor is None else _kinds(processor)
    kinds = {one.modality for one in media_of(prompt)}
    if kinds - can:
        raise Refused(str(no_media(kinds - can, f"the model of pool {pool}", can)))
    from vllm.renderers import ChatParams

    own = dict(arguments)
    params = ChatParams(
        chat_template=own.pop("chat_template", None),
        chat_template_kwargs={
            "add_generation_prompt": True,
            "continue_final_message": False,
            "tokenize": False,
            **own,
        },
    )
    try:
        _, [found] = await llm.renderer.render_chat_async([chat_messages(prompt)], params)
    except Exception as error:  # a decoder may raise anything on odd data
        what = " and ".join(sorted(kinds))
        raise Refused(f"its {what} cannot be used: {str(error) or repr(error)}") from error
    return found
