"""One engine made of several endpoints: each request goes to the least busy one that may take it.

The one rule: nothing is sent again here. A refusal is raised as `Unavailable`, and while another
endpoint is fit to serve the request it says `elsewhere`, so that `orchestrator.engines.supervised`
sends it again at once; only when all refuse does it count towards a pause. A request waits for the
rates and places of the fit endpoints, in order of arrival within its model pool.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence, Set

from orchestrator.core.errors import EngineError, Unavailable
from orchestrator.core.values import Finish, Request, Sampling, Trace
from orchestrator.engines.metered import likely_prompt_tokens
from orchestrator.engines.openai.opening import Rejected, Unreachable, require_served
from orchestrator.engines.openai.running import ROUNDING, Entry, RunningEndpoint
from orchestrator.engines.reply import trace_for
from orchestrator.engines.supervised import Clock

logger = logging.getLogger(__name__)


class EndpointPool:
    """Several endpoints as one engine. Safe to share between tasks of one event loop."""

    def __init__(self, endpoints: Sequence[RunningEndpoint], clock: Clock) -> None:
        """Use open endpoints; sends nothing."""
        self._endpoints = endpoints
        self._clock = clock
        self._turns = defaultdict[str, asyncio.Lock](asyncio.Lock)  # by model pool
        self._changed = asyncio.Event()  # a place became free, or an endpoint refused
        self._waiting: dict[tuple[str, int], asyncio.Timeout] = {}
        self._running: dict[tuple[str, int], RunningEndpoint] = {}
        self._listeners: dict[tuple[str, int], Callable[[str], None]] = {}
        # endpoints that refused a request which is to be sent again at once
        self._refused_by: dict[tuple[str, int], set[RunningEndpoint]] = {}

    async def check(self) -> None:
        """Return once every endpoint is known to be usable, or to be down while others are up.

        EngineError for a wrong address, key or model, and if no endpoint of a model pool is up.
        """
        checks = (require_served(endpoint.engine) for endpoint in self._endpoints)
        outcomes = await asyncio.gather(*checks, return_exceptions=True)
        errors = [error for error in outcomes if error is not None]
        wrong = [error for error in errors if not isinstance(error, Unreachable)]
        up = {
            name
            for endpoint, error in zip(self._endpoints, outcomes, strict=True)
            if error is None
            for name in endpoint.engine.models
        }
        if errors and (wrong or any(set(e.engine.models) - up for e in self._endpoints)):
            raise (wrong or errors)[0]
        now = self._clock.now()
        for endpoint, error in zip(self._endpoints, outcomes, strict=True):
            if error is not None:
                logger.warning("%s; the other endpoints serve", error)
                endpoint.refused(Entry(0, 0), Unavailable(str(error)), now)

    async def generate(self, request: Request) -> Trace:
        """Return the trace; Unavailable if the endpoint that was chosen refuses.

        EngineError if every one that is able rejects all requests.
        """
        able = [endpoint for endpoint in self._endpoints if endpoint.serves(request)]
        if not able:
            return await self._endpoints[0].engine.generate(request)  # a trace with the reason
        refused_by = self._refused_by.pop(request.identity, set())
        admitted = await self._admission(request, able, refused_by)
        if admitted is None:
            return trace_for(request, Finish.CANCELLED)
        endpoint, entry = admitted
        try:
            return await self._send(request, endpoint, entry)
        except Rejected as error:
            if not endpoint.rejection:
                logger.warning("%s; nothing more is sent there", error)
            endpoint.rejection = str(error)
            _not_given_up(able)
            raise Unavailable(str(error), elsewhere=True) from error
        except Unavailable as error:
            raise self._refusal(request, able, {*refused_by, endpoint}, error) from error

    def listen(self, request: Request, on_text: Callable[[str], None]) -> None:
        """Report the text of a request's next `generate` as it arrives from its endpoint."""
        self._listeners[request.identity] = on_text

    async def _send(self, request: Request, endpoint: RunningEndpoint, entry: Entry) -> Trace:
        if on_text := self._listeners.pop(request.identity, None):
            endpoint.engine.listen(request, on_text)
        self._running[request.identity] = endpoint
        used = entry.tokens
        try:
            trace = await endpoint.engine.generate(request, lambda: self._accepted(endpoint, entry))
            n_prompt = trace.usage.prompt_tokens or likely_prompt_tokens(request)
            used = n_prompt + trace.usage.output_tokens
            if trace.finish is not Finish.CANCELLED:
                endpoint.accepted(entry)
            return trace
        except Unavailable as error:
            used = error.lost_tokens
            endpoint.refused(entry, error, self._clock.now())
            raise
        finally:
            self._running.pop(request.identity, None)
            endpoint.leave(entry, used, self._clock.now())
            self._changed.set()

    def abort(self, request: Request) -> None:
        """Stop a request, also one that waits: its `generate` returns a CANCELLED trace."""
        if waiting := self._waiting.pop(request.identity, None):
            waiting.reschedule(asyncio.get_running_loop().time())
        elif endpoint := self._running.get(request.identity):
            endpoint.engine.abort(request)

    def running_tokens(self) -> int:
        """Return the tokens that have arrived of the requests that run."""
        return sum(endpoint.engine.running_tokens() for endpoint in self._endpoints)

    def _accepted(self, endpoint: RunningEndpoint, entry: Entry) -> None:
        endpoint.accepted(entry)
        self._changed.set()

    async def _admission(
        self,
        request: Request,
        able: Sequence[RunningEndpoint],
        refused_by: Set[RunningEndpoint],
    ) -> tuple[RunningEndpoint, Entry] | None:
        """Wait until an endpoint may take the request; None if it was aborted."""
        tokens = likely_prompt_tokens(request) + _most_output(request)
        try:
            async with asyncio.timeout(None) as stop:  # no timeout: `abort` makes it expire
                self._waiting[request.identity] = stop
                async with self._turns[request.model]:
                    while (endpoint := self._free(_not_given_up(able), refused_by, tokens)) is None:
                        await self._change(able, tokens)
                    if request.identity not in self._waiting:  # aborted in this step of the loop
                        return None
                    return endpoint, endpoint.enter(tokens, self._clock.now())
        except TimeoutError:
            if not stop.expired():
                raise
            return None
        finally:
            self._waiting.pop(request.identity, None)

    def _free(
        self, able: Sequence[RunningEndpoint], refused_by: Set[RunningEndpoint], tokens: int
    ) -> RunningEndpoint | None:
        """Return the endpoint that takes a request now: the least busy fit one.

        None if the fit ones have no room. If none is fit, the one whose rest ends first: a request
        that nobody may take would never learn that the outage is over. Ties go to the first.
        """
        now = self._clock.now()
        fit = [endpoint for endpoint in able if not endpoint.is_avoided(now)]
        among = [endpoint for endpoint in fit if endpoint not in refused_by] or fit or able
        free = [endpoint for endpoint in among if not endpoint.seconds_until_free(tokens, now)]
        if not fit:
            return min(free, key=lambda endpoint: endpoint.rests_until, default=None)
        if all(endpoint.is_limited for endpoint in able):
            return min(free, key=lambda endpoint: endpoint.load, default=None)
        return min(free, key=lambda endpoint: endpoint.n_running, default=None)

    async def _change(self, able: Sequence[RunningEndpoint], tokens: int) -> None:
        """Wait until an endpoint may have become free or fit."""
        now = self._clock.now()
        times = [endpoint.seconds_until_free(tokens, now) for endpoint in able]
        times += [endpoint.rests_until - now for endpoint in able]
        seconds = min((time for time in times if time > ROUNDING), default=math.inf)
        self._changed.clear()
        waker = asyncio.create_task(self._wake(seconds)) if math.isfinite(seconds) else None
        try:
            await self._changed.wait()
        finally:
            if waker is not None:
                waker.cancel()

    async def _wake(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._changed.set()

    def _refusal(
        self,
        request: Request,
        able: Sequence[RunningEndpoint],
        refused_by: set[RunningEndpoint],
        error: Unavailable,
    ) -> Unavailable:
        """Return what to raise for a refusal by the last one of `refused_by`."""
        able = [endpoint for endpoint in able if not endpoint.rejection]
        if len(able) == 1:
            return error
        now = self._clock.now()
        if any(e not in refused_by and not e.is_avoided(now) for e in able):
            self._refused_by[request.identity] = refused_by
            return Unavailable(str(error), lost_tokens=error.lost_tokens, elsewhere=True)
        requested = min(able, key=lambda e: e.rests_until).requested_until - now
        return Unavailable(
            f"{error}; no other endpoint serves it now",
            max(0.0, requested) if math.isfinite(requested) else None,
            exhausted=all(e.is_exhausted for e in able),
            lost_tokens=error.lost_tokens,
        )


def _not_given_up(able: Sequence[RunningEndpoint]) -> Sequence[RunningEndpoint]:
    """Return the endpoints that do not reject every request; EngineError if there are none."""
    left = [endpoint for endpoint in able if not endpoint.rejection]
    if not left:
        raise EngineError("; ".join(dict.fromkeys(endpoint.rejection for endpoint in able)))
    return left


def _most_output(request: Request) -> int:
    return request.max_new_tokens or (request.sampling or Sampling()).max_new_tokens
