"""The model `leadline` of the LM Evaluation Harness, registered when this module is imported.

    python -m orchestrator.serve.clients.lm_eval_model --model leadline \\
        --model_args plan=plan.toml --tasks gsm8k --apply_chat_template

is the harness's own command with it. The one rule: a strategy answers, so tasks that compare
likelihoods are refused. The temperature is the plan's unless the task samples: attempts at
temperature 0, which most tasks name, are all the same. Needs the package lm_eval.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from orchestrator.serve.clients.local import loaded_plan, local_service

_OWN = {"until", "max_gen_toks", "do_sample", "temperature"}


class ChatPrompt(str):
    """The messages of a chat as JSON: the harness passes prompts as texts."""

    __slots__ = ()


@register_model("leadline")
class LeadlineLM(LM):  # type: ignore[misc]  # the harness is no part of the checks
    """Answers by a plan's strategy, in this process; `model` is a name of `leadline serve`."""

    tokenizer_name = "leadline"  # the model's own template is applied where it runs

    def __init__(self, plan: str = "", model: str = "", **others: object) -> None:
        """Read the plan; PlanError if it cannot run. Batch size and device mean nothing here."""
        super().__init__()
        unknown = others.keys() - {"batch_size", "max_batch_size", "device"}
        if unknown:
            raise ValueError(f"there is no argument {min(unknown)!r}; there are: plan, model")
        self._loaded = loaded_plan(plan)
        self._model = model or next(iter(self._loaded.plan.models))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> ChatPrompt:
        """Return a chat as it is passed to `generate_until`."""
        return ChatPrompt(json.dumps(chat_history))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the reply to each request; a cache of the harness gets all that arrive."""
        replies = asyncio.run(self._replies([self._body(*one.args) for one in requests]))
        for request, reply in zip(requests, replies, strict=True):
            if isinstance(reply, str):  # the others' work is kept where one has failed
                self.cache_hook.add_partial("generate_until", request.args, reply)
        texts = [reply for reply in replies if isinstance(reply, str)]
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Refuse, since a strategy writes answers and has no likelihood."""
        raise TypeError(
            "a strategy answers, and this task compares likelihoods: choose one whose output_type "
            "is generate_until"
        )

    loglikelihood_rolling = loglikelihood

    def _body(self, context: str, options: Mapping[str, Any]) -> dict[str, Any]:
        is_chat = isinstance(context, ChatPrompt)
        messages = json.loads(context) if is_chat else [{"role": "user", "content": context}]
        body = {"model": self._model, "messages": messages}
        body |= {k: v for k, v in options.items() if k not in _OWN}
        if options.get("do_sample") and "temperature" in options:
            body["temperature"] = options["temperature"]
        until = options.get("until") or []
        stop = [until] if isinstance(until, str) else list(until)
        body |= {"stop": stop} if stop else {}
        body |= {"max_tokens": options["max_gen_toks"]} if "max_gen_toks" in options else {}
        return body

    async def _replies(self, bodies: Sequence[Mapping[str, Any]]) -> list[str | BaseException]:
        async def text(body: Mapping[str, Any]) -> str:
            reply = await service.answer(body)
            return reply["choices"][0]["message"]["content"] or ""

        async with local_service(self._loaded) as service:
            return await asyncio.gather(*map(text, bodies), return_exceptions=True)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
