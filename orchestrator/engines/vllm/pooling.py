"""Pools with a task: the input of vLLM's pooling runner, and its output as a trace's values.

The one rule: values are raw, without vLLM's activation, so that `core.plan.TASKS` means the same
with every engine, and a verifier interprets the values. For "token_classify" vLLM returns the
values of all tokens, and the requested ones are selected here. Does not import vllm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.values import Finish, Request, Trace, Usage
from orchestrator.engines.reply import trace_for
from orchestrator.engines.vllm.prompts import EngineInput, Prompts, Refused


def require_task(pool: str, model: Model, tasks: Collection[str]) -> None:
    """Raise PlanError if vLLM cannot run a pool's model for its task."""
    if (model.task or "generate") not in tasks:
        raise PlanError(
            f"models.{pool}.task = {model.task!r}: {model.path} is no model for that; vLLM runs it "
            f"for {', '.join(map(repr, sorted(tasks)))}"
        )


def input_for(
    request: Request, task: str, prompts: Prompts, context_tokens: int, params: Callable[..., Any]
) -> EngineInput:
    """Return vLLM's input for a request; Refused if it cannot be served.

    `params` creates vLLM's PoolingParams.
    """
    if request.parent is not None or request.suffix:
        raise Refused(f"a pool for {task!r} values texts; it continues none")
    if request.read_at and task != "token_classify":
        raise Refused(f"a pool for {task!r} has no values at single tokens; 'token_classify' does")
    if request.read_at:
        prompts.token_id(request.read_at)  # refuses any text that is not one token
    ids = prompts.valued_ids(request.prompt)
    if not ids or len(ids) > context_tokens:
        raise Refused(f"the text has {len(ids)} tokens; the model values 1 to {context_tokens}")
    return EngineInput(list(ids), (), params(task=task, use_activation=task == "embed"), "")


def valued(
    request: Request,
    task: str,
    data: EngineInput,
    output: Any,
    token_id: Callable[[str], int],
    n_layers: float,
    seconds: float,
) -> Trace:
    """Return the trace of vLLM's output; FAILED unless it has one or two labels."""
    n_prompt, n_cached = len(data.prompt_ids), output.num_cached_tokens or 0
    usage = Usage(n_prompt, n_cached, 0, round((n_prompt - n_cached) * n_layers), seconds)
    numbers = output.outputs.data
    if numbers.numel() == 0:  # vLLM's output for an aborted request
        return trace_for(request, Finish.CANCELLED, usage=usage)
    rows = numbers.float().reshape(-1, numbers.shape[-1]).tolist()
    try:
        if task == "embed":
            values: Sequence[float] = rows[0]
        elif task == "classify":
            values = [raw(rows[0])]
        else:
            read_at = token_id(request.read_at) if request.read_at else None
            values = [raw(row) for row in _read(rows, data.prompt_ids, read_at)]
    except Refused as refusal:
        return trace_for(request, Finish.FAILED, usage=usage, error=str(refusal))
    # float32 has seven digits, and the journal keeps every digit.
    return trace_for(
        request, Finish.STOP, usage=usage, values=tuple(float(f"{value:.7g}") for value in values)
    )


def raw(logits: Sequence[float]) -> float:
    """Return the logit of a single label, or the second minus the first of two.

    Refused for more labels.
    """
    if len(logits) > 2:
        raise Refused(
            f"the model has {len(logits)} labels; one is a score, and two are wrong and right"
        )
    return logits[-1] - (logits[0] if len(logits) == 2 else 0.0)


def _read(
    rows: Sequence[Sequence[float]], ids: Sequence[int], token: int | None
) -> list[Sequence[float]]:
    if len(rows) != len(ids):
        raise Refused(f"vLLM returned values of {len(rows)} tokens for a text of {len(ids)}")
    return (
        [rows[-1]]
        if token is None
        else [row for row, id in zip(rows, ids, strict=True) if id == token]
    )
