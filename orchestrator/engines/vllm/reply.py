"""Converts vLLM's last output for a request to a trace: its text, cost and metrics.

Also computes the log-probability of given tokens (the metric `prefix_logprob`). For this vLLM reads
the whole prompt without its prefix cache, which stores no log-probabilities. Does not import vllm:
it receives vLLM's objects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.core.metrics import PREFIX, prefix_value
from orchestrator.core.values import Finish, Request, Trace, Usage
from orchestrator.engines.reply import trace_for, without_stop
from orchestrator.engines.vllm.depth import IterationCounts
from orchestrator.engines.vllm.prompts import EngineInput, Refused
from orchestrator.engines.vllm.watch import TokenWatch

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "abort": Finish.CANCELLED}


def completed(
    request: Request,
    data: EngineInput,
    output: Any,
    watch: TokenWatch | None,
    counts: IterationCounts | None,
    n_layers: float,
    seconds: float,
    text_of: Callable[[Sequence[int]], str],
) -> Trace:
    """Return the trace of vLLM's last output for a request.

    Each of its tokens passed `n_layers` decoder layers, on average; `text_of` decodes tokens.
    """
    last = output.outputs[0]
    text, ids = last.text, tuple(last.token_ids)
    finish = _FINISHES.get(last.finish_reason, Finish.FAILED)
    if watch is not None and watch.text is not None:
        text, ids = watch.text, watch.ids
        finish = Finish.RULE if watch.fired else finish
    if data.ends_by_rule and finish is Finish.LENGTH:
        finish = Finish.RULE
    n_prompt, n_cached = len(data.prompt_ids), output.num_cached_tokens or 0
    # A request cancelled before its first token is charged its whole prompt: an upper bound.
    n_layer_tokens = round((n_prompt - n_cached + len(ids)) * n_layers)
    # vLLM removes the final stop string only from the text. None at the end of the sequence, a
    # number for a stop token.
    stop = last.stop_reason if isinstance(last.stop_reason, str) and finish is Finish.STOP else ""
    logprobs = inherited_logprobs(request, output.prompt_logprobs, len(data.suffix_ids))
    metrics = {**mean_depth(counts), **prefix_value(request.metrics, logprobs)}
    if watch is not None:
        metrics |= watch.metrics(request.metrics, output, len(ids), lambda id: text_of((id,)))
    failed = finish is Finish.FAILED
    return trace_for(
        request,
        finish,
        text=text,
        stop=stop,
        token_ids=without_stop(ids, stop, text_of) if stop else ids,
        usage=Usage(n_prompt, n_cached, len(ids), n_layer_tokens, seconds),
        metrics=metrics,
        suffix_ids=data.suffix_ids,
        error=f"vLLM ended the request with {last.finish_reason!r}" if failed else "",
    )


def mean_depth(counts: IterationCounts | None) -> dict[str, float]:
    """Return the metric `mean_depth` of a request under an exit rule.

    {} if no rule is set, or no token was generated.
    """
    return {} if counts is None or not counts.tokens else {"mean_depth": counts.mean_depth}


def with_prompt_logprobs(template: Any, request: Request) -> Any:
    """Return a copy of the parameters, with prompt log-probabilities if metrics need them.

    Refused together with stop rules.
    """
    params = copy.copy(template)
    if PREFIX in request.metrics:
        if request.rules:
            raise Refused(
                f"{PREFIX} cannot be computed together with stop rules: request it separately"
            )
        params.prompt_logprobs = 0  # of the tokens themselves, without alternatives
        params.skip_reading_prefix_cache = True
    return params


def inherited_logprobs(request: Request, prompt_logprobs: Any, n_suffix: int) -> Sequence[float]:
    """Return the log-probability of each token that the request inherits; () if there are none.

    vLLM's list for the whole prompt has first the prompt's own tokens, then the inherited ones,
    then `n_suffix` of the suffix.
    """
    n_inherited = len(request.prefix_ids)
    if not prompt_logprobs or not n_inherited:
        return ()
    end = len(prompt_logprobs) - n_suffix
    starts = prompt_logprobs.start_indices[end - n_inherited : end]
    return [prompt_logprobs.logprobs[start] for start in starts]  # the token itself comes first
