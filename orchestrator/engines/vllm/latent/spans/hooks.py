"""Hooks in vLLM's V1 runner: for requests that have ended, and for steps that end before them.

The one rule: such a request looks to vLLM like one with a prompt computed in part, but for its
noise, which is drawn once for each token. For our models only, and spans only where
`SpanScheduler` schedules.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

SPANS = "latent_spans"  # of vLLM's SchedulerOutput: first and last iteration by request


def install() -> None:
    """Wrap the methods of vLLM that spans need; may be called again.

    - `_update_states` gives the runner the spans of a step, and the loop forgets requests that have
      ended.
    - `sample_tokens` leaves the generators of requests alone that are not done: vLLM draws from
      them and then rewinds them, which torch's CPU generators cannot.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if getattr(GPUModelRunner._update_states, "spans", False):
        return
    GPUModelRunner._update_states = _wrapped(GPUModelRunner._update_states, _updating)
    GPUModelRunner.sample_tokens = _wrapped(GPUModelRunner.sample_tokens, _sampling)


def _wrapped(stock: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def method(runner: Any, *arguments: Any) -> Any:
        return own(stock, runner, *arguments)

    method.spans = True  # type: ignore[attr-defined]  # a mark for the next call
    return method


def _updating(stock: Any, runner: Any, scheduler_output: Any) -> Any:
    runner.latent_spans = getattr(scheduler_output, SPANS, None)
    loop = getattr(runner.get_model(), "loop", None)
    if loop is not None:
        loop.forget(scheduler_output.finished_req_ids)
    return stock(runner, scheduler_output)


def _sampling(stock: Any, runner: Any, grammar_output: Any) -> Any:
    if not getattr(runner, "latent_spans", None):
        return stock(runner, grammar_output)
    generators = runner.input_batch.generators
    unused = {
        i: generators.pop(i)
        for i in runner.discard_request_mask.np[: runner.input_batch.num_reqs].nonzero()[0].tolist()
        if i in generators
    }
    try:
        return stock(runner, grammar_output)
    finally:
        generators.update(unused)


def spans_of(runner: Any, depths: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return the spans of a step's requests in batch order, () if all run to the end.

    What the runner would sample of those that do not is discarded.
    """
    spans = getattr(runner, "latent_spans", None)
    if not spans:
        return ()
    found = tuple(spans[name] for name in runner.input_batch.req_ids[: len(depths)])
    if all(span == (0, depth) for span, depth in zip(found, depths, strict=True)):
        return ()
    for i, (span, depth) in enumerate(zip(found, depths, strict=True)):
        if span[1] < depth:
            runner.discard_request_mask.np[i] = True
    return found
