"""vLLM's scheduler with steps that end before the deepest requests have run all iterations.

Such a request is scheduled again in the next step, with the same tokens, and the worker continues
where it stopped. For vLLM it is as if a prompt had been computed in part: nothing is sampled, and
nothing counts as computed.

The one rule: a block of the KV cache is offered to other requests only in the step that completes
it. Steps end early only while requests wait for a seat, because otherwise nobody fills the place of
those that are done. As of vllm 0.32, without asynchronous scheduling.
"""

from __future__ import annotations

import itertools
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from orchestrator.core.layers import parse_schedule
from orchestrator.engines.vllm.latent.runner import requested_depth
from orchestrator.engines.vllm.latent.spans.hooks import SPANS
from orchestrator.engines.vllm.latent.spans.length import step_length

_FOLLOWING = 64  # waiting requests whose depths are looked at


class SpanScheduler(Scheduler):  # type: ignore[misc]  # vllm is untyped to us
    """Schedules a span of iterations for each request of a step."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Begin without requests."""
        super().__init__(*arguments, **named)
        config = self.vllm_config.model_config.hf_config
        schedule = parse_schedule(config.latent["layers"])
        self._default = int(config.latent["depth"])
        self._deepest = int(config.latent["max_depth"])
        self._n_think = len(schedule.think)
        self._n_outside = len(schedule.head) + len(schedule.tail) + _head_layers(config)
        self._length = 0  # iterations of the current step
        # by request: the tokens of its last step, if it is not done, and their iterations so far
        self._begun: dict[str, tuple[int, int]] = {}
        self._allocate = self.kv_cache_manager.allocate_slots
        self.kv_cache_manager.allocate_slots = self._allocate_slots

    def schedule(self, throttle_prefills: bool = False) -> Any:
        """Return vLLM's SchedulerOutput, with the spans of its requests."""
        self._length = self._step_length()
        return super().schedule(throttle_prefills)

    def _step_length(self) -> int:
        """Return the iterations of the next step; the largest depth if it runs to the end."""
        running = [self._remaining(request) for request in self.running]
        if not self.waiting or not running:
            return self._deepest
        following = itertools.islice(self.waiting, _FOLLOWING)
        waiting = [self._depth(request) for request in following]
        return step_length(running, waiting, self._n_outside, self._n_think)

    def _depth(self, request: Any) -> int:
        return requested_depth(request.sampling_params, self._default)

    def _remaining(self, request: Any) -> int:
        return self._depth(request) - self._begun.get(request.request_id, (0, 0))[1]

    def _span(self, request: Any, n_tokens: int) -> tuple[int, int]:
        """Return the first iteration of a request in this step, and the one after its last.

        A request with another number of tokens than in its last step begins anew.
        """
        n_before, start = self._begun.get(request.request_id, (n_tokens, 0))
        if n_before != n_tokens:
            start = 0
        depth = self._depth(request)
        # log-probabilities of a prompt are taken from each step that has some of its tokens
        whole = request.sampling_params.prompt_logprobs is not None
        return start, depth if whole else min(depth, start + self._length)

    def _allocate_slots(
        self, request: Any, num_new_tokens: int, *arguments: Any, **named: Any
    ) -> Any:
        """Reserve the slots of a request; its full blocks can be hit if it ends in this step."""
        if self._span(request, num_new_tokens)[1] < self._depth(request):
            named["delay_cache_blocks"] = True
        return self._allocate(request, num_new_tokens, *arguments, **named)

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        super()._update_after_schedule(scheduler_output)
        spans = {}
        for name, n_tokens in scheduler_output.num_scheduled_tokens.items():
            request = self.requests[name]
            spans[name] = span = self._span(request, n_tokens)
            if span[1] < self._depth(request):
                self._begun[name] = n_tokens, span[1]
                request.num_computed_tokens -= n_tokens
                request.is_prefill_chunk = True
            else:
                self._begun.pop(name, None)
        setattr(scheduler_output, SPANS, spans)

    def _preempt_request(self, request: Any, *arguments: Any, **named: Any) -> None:
        self._begun.pop(request.request_id, None)
        super()._preempt_request(request, *arguments, **named)

    def _free_request(self, request: Any, *arguments: Any, **named: Any) -> Any:
        self._begun.pop(request.request_id, None)
        return super()._free_request(request, *arguments, **named)


def _head_layers(config: Any) -> float:
    """Return how many layers of a model have as many weights as its language-model head."""
    width = config.hidden_size
    return float(config.vocab_size * width / (4 * width**2 + 3 * width * config.intermediate_size))
