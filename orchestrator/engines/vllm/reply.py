"""vLLM's last output for a request, as a trace with what it cost. Imports no vllm.

How likely vLLM finds tokens that it is given: the metric `prefix_logprob`. Imports no vllm: it is
given its objects.

vLLM reads the whole prompt for it, without its prefix cache (`skip_reading_prefix_cache`): what
stands there has no log-probabilities left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.core.metrics import PREFIX, prefix_value
from orchestrator.core.values import Finish, Request, Trace, Usage
from orchestrator.engines.reply import trace_for, without_stop
from orchestrator.engines.vllm.depth import IterationCounts
from orchestrator.engines.vllm.prompts import Refused
from orchestrator.engines.vllm.watch import Watch

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "abort": Finish.CANCELLED}


def completed(
    request: Request,
    prompt_ids: Sequence[int],
    suffix_ids: tuple[int, ...],
    output: Any,
    watch: Watch | None,
    n_layers: float,
    seconds: float,
    measures: Mapping[str, float],
    text_of: Callable[[Sequence[int]], str],
) -> Trace:
    """Return the trace of vLLM's last output for a request whose tokens passed `n_layers` decoder
    layers, each or on average.

    `measures` are metrics that the engine adds unasked; `text_of` is the text of tokens.
    """
    last = output.outputs[0]
    text, ids = last.text, tuple(last.token_ids)
    finish = _FINISHES.get(last.finish_reason, Finish.FAILED)
    if watch is not None and watch.text is not None:
        text, ids = watch.text, watch.ids
        finish = Finish.RULE if watch.fired else finish
    n_prompt, n_cached = len(prompt_ids), output.num_cached_tokens or 0
    # A request that is cancelled before its first token is charged its whole prompt: an upper
    # bound.
    usage = Usage(
        n_prompt, n_cached, len(ids), round((n_prompt - n_cached + len(ids)) * n_layers), seconds
    )
    # vLLM leaves the stop string that ended it out of the text alone. None at the end of the
    # sequence, a number for a stop token.
    stop = last.stop_reason if isinstance(last.stop_reason, str) and finish is Finish.STOP else ""
    return trace_for(
        request,
        finish,
        text=text,
        stop=stop,
        token_ids=without_stop(ids, stop, text_of) if stop else ids,
        usage=usage,
        metrics={
            **measures,
            **prefix_value(
                request.metrics,
                inherited_logprobs(request, output.prompt_logprobs, len(suffix_ids)),
            ),
            **(
                {}
                if watch is None
                else watch.metrics(
                    request.metrics, output, len(ids), lambda token: text_of((token,))
                )
            ),
        },
        suffix_ids=suffix_ids,
        error=""
        if finish is not Finish.FAILED
        else f"vLLM ended the request with {last.finish_reason!r}",
    )


def measured(counts: IterationCounts | None) -> dict[str, float]:
    """Return the metric `mean_depth` of a request whose tokens an exit rule let stop early; {} when
    none did, or it has no token.
    """
    return {} if counts is None or not counts.tokens else {"mean_depth": counts.mean_depth}


def parameters(template: Any, request: Request) -> Any:
    """Return a copy of sampling parameters that asks for the prompt's log-probabilities too, where
    the request wants them.
    """
    params = copy.copy(template)
    if PREFIX in request.metrics:
        if request.rules:
            raise Refused(
                f"{PREFIX} cannot be had together with stop rules: ask for it in a request of its own"
            )
        params.prompt_logprobs = 0  # of the tokens themselves, and of no alternatives
        params.skip_reading_prefix_cache = True
    return params


def inherited_logprobs(request: Request, prompt_logprobs: Any, n_suffix: int) -> Sequence[float]:
    """Return the log-probability of each token that the request inherits, from vLLM's for the whole
    prompt; () without them.

    The prompt's tokens are followed by the inherited ones, and those by `n_suffix` of the suffix.
    """
    n_inherited = len(request.prefix_ids)
    if not prompt_logprobs or not n_inherited:
        return ()
    end = len(prompt_logprobs) - n_suffix
    starts = prompt_logprobs.start_indices[end - n_inherited : end]
    return [prompt_logprobs.logprobs[start] for start in starts]  # the token itself comes first
