"""How likely vLLM finds tokens that it is given: the metric `prefix_logprob`. Imports no vllm: it is given its objects.

vLLM reads the whole prompt for it, without its prefix cache (`skip_reading_prefix_cache`): what stands there has no log-probabilities left.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from orchestrator.backends.vllm_prompts import Refused
from orchestrator.core.folds import PREFIX
from orchestrator.core.types import Request


def parameters(template: Any, request: Request) -> Any:
    """Return a copy of sampling parameters that asks for the prompt's log-probabilities too, where the request wants them."""
    params = copy.copy(template)
    if PREFIX in request.metrics:
        if request.rules:
            raise Refused(f"{PREFIX} cannot be had together with stop rules: ask for it in a request of its own")
        params.prompt_logprobs = 0  # of the tokens themselves, and of no alternatives
        params.skip_reading_prefix_cache = True
    return params


def inherited_logprobs(request: Request, prompt_logprobs: Any, n_suffix: int) -> Sequence[float]:
    """Return the log-probability of each token that the request inherits, from vLLM's for the whole prompt; () without them.

    The prompt's tokens are followed by the inherited ones, and those by `n_suffix` of the suffix.
    """
    n_inherited = len(request.prefix_ids)
    if not prompt_logprobs or not n_inherited:
        return ()
    end = len(prompt_logprobs) - n_suffix
    starts = prompt_logprobs.start_indices[end - n_inherited : end]
    return [prompt_logprobs.logprobs[start] for start in starts]  # the token itself comes first
