"""An engine that counts what its requests cost, and serves them only within the job's budget.

The one rule: money is reserved before it is spent. A request waits until what it can cost at most
fits what is left of `budget.usd`, beside the requests in flight; when nothing is in flight and it
still does not fit, the budget is spent and BudgetSpent ends the run. GPU-seconds pass by
themselves: at their end running requests are ended. Not covered: budgets of a problem
(`core.session`), and what the tokens of a server's refused requests cost.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.core.errors import BudgetSpent, PlanFault
from orchestrator.core.protocols import Engine
from orchestrator.core.values import Finish, Prompt, Request, Trace, Usage, changed
from orchestrator.core.votes import total_usage
from orchestrator.engines.reply import trace_for
from orchestrator.engines.supervised import Outages
from orchestrator.plan.execution import JobBudget, Prices, Spent

_TEMPLATE_TOKENS = 64  # that a chat template adds to a prompt, generously
_BYTES_PER_TOKEN = 4  # of English text, on the average
_N_UNSUMMED = 1000  # usages of a pool at most: each takes 100 bytes
_LEAST_SECONDS = 0.1  # of a budget of time that are worth another look


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a job: prices, budget, and what its earlier runs have spent."""

    prices: Prices
    budget: JobBudget
    before: Spent
    start_seconds: float = 0.0  # until the engine was open: its GPUs were taken by then


@dataclass(slots=True)
class _Waiting:
    """A request that waits until its price fits."""

    usd: float
    admitted: asyncio.Future[bool]  # False: it was aborted

    @property
    def is_admitted(self) -> bool:
        """Whether its price is reserved."""
        future = self.admitted
        has_result = future.done() and not future.cancelled() and future.exception() is None
        return has_result and future.result()


class MeteredEngine:
    """Counts and limits the requests of one job. Safe to share between tasks of one loop."""

    def __init__(
        self,
        engine: Engine,
        terms: Terms,
        opened: object = None,
        outages: Outages | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use an engine; `opened` is the one that serves its requests, if that is another.

        PlanFault for a budget that nothing would count against.
        """
        opened = opened or engine
        self._n_gpus = float(getattr(opened, "n_gpus", 0.0))
        self._gpu_seconds: Callable[[], float] | None = getattr(opened, "gpu_seconds", None)
        _require_countable(terms, self._n_gpus)
        self.running_tokens: Callable[[], int] = getattr(opened, "running_tokens", lambda: 0)
        self.notices: Callable[[], tuple[str, ...]] = getattr(opened, "notices", tuple)
        self._unplaced: Callable[[], tuple[float, str]]
        self._unplaced = getattr(opened, "unplaced", lambda: (0.0, ""))
        self._engine = engine
        self._terms = terms
        self._is_limited = bool(terms.budget.usd or terms.budget.gpu_seconds)
        self._outages = outages or Outages()
        self._clock = clock
        self._began = clock()
        # by pool: what was spent, one by one since it was last summed
        self._usage = defaultdict[str, list[Usage]](list)
        for pool, usage in terms.before.usage.items():
            self._usage[pool].append(usage)
        self._n_requests = 0
        self._n_running = 0
        self._reserved = 0.0  # US dollars that the requests in flight can cost
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._limits: set[asyncio.Timeout] = set()  # of running requests, that may move

    async def generate(self, request: Request) -> Trace:
        """Return the trace; BudgetSpent when the budget allows no more."""
        if not self._is_limited:
            self._n_requests += 1
            trace = await self._engine.generate(request)
            self._count(request, trace)
            return trace
        most = self._most(request)
        if not await self._admission(request, most):
            return trace_for(request, Finish.CANCELLED)
        try:
            key, seconds = self._time_left()
            limit = asyncio.timeout(seconds)
            async with limit:
                if self._gpu_seconds and seconds is not None:
                    self._limits.add(limit)
                    self._prolong(limit)
                trace = await self._engine.generate(request)
                self._count(request, trace)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._spent(key) from None
        finally:
            self._limits.discard(limit)
            self._reserved -= most
            self._n_running -= 1
            self._settle()
        return trace

    def abort(self, request: Request) -> None:
        """Stop a request, also one that waits: its `generate` returns a CANCELLED trace."""
        waiting = self._waiting.get(request.identity)
        if waiting is None:
            self._engine.abort(request)
        elif not waiting.admitted.done():
            waiting.admitted.set_result(False)

    def usd(self) -> float | None:
        """Return the price of what the job has spent, running requests included.

        None without prices.
        """
        prices = self._terms.prices
        return prices.usd(self.spent(self.running_tokens())) if prices else None

    def spent(self, abandoned_tokens: int = 0) -> Spent:
        """Return what the job has spent until now, over all its runs.

        `abandoned_tokens` were generated for requests whose traces will not arrive.
        """
        before, seconds = self._terms.before, self._clock() - self._began
        unplaced, reason = self._unplaced()
        for usages in self._usage.values():
            usages[:] = [total_usage(usages)]
        usage = {pool: total for pool, [total] in self._usage.items()}
        if lost := abandoned_tokens + self._outages.lost_tokens:
            prices = self._terms.prices  # of which model is unknown: at the highest price
            pools = prices.pools or usage
            pool = max(pools, key=lambda name: prices.of(name).output, default="")
            usage[pool] = usage.get(pool, Usage()) + Usage(output_tokens=lost)
        return Spent(
            usage,
            before.n_requests + self._n_requests,
            before.seconds + seconds,
            before.gpu_seconds + self._own_gpu_seconds(seconds),
            self._n_gpus,
            before.n_retries + self._outages.n_retries,
            self._outages.reason or before.retry_reason,
            before.unplaced_seconds + unplaced,
            reason or before.unplaced_reason,
        )

    def _own_gpu_seconds(self, seconds: float) -> float:
        """Return the GPU-seconds of this run, whose engine has been open for `seconds`."""
        if self._gpu_seconds is not None:  # their number changes
            return self._gpu_seconds()
        return (self._terms.start_seconds + seconds) * self._n_gpus

    def _most(self, request: Request) -> float:
        """Return the most US dollars that a request can cost: a token is at least one byte."""
        n_prompt = _n_bytes(request.prompt) + len(request.suffix.encode()) + _TEMPLATE_TOKENS
        usage = Usage(
            prompt_tokens=n_prompt + len(request.prefix_ids),
            output_tokens=request.max_new_tokens or 0,
        )
        return self._terms.prices.of(request.model).usd(usage)

    async def _admission(self, request: Request, most: float) -> bool:
        """Wait until a request may start; False if it was aborted."""
        if not self._waiting and self._fits(most):
            self._start(most)
            return True
        waiting = _Waiting(most, asyncio.get_running_loop().create_future())
        self._waiting[request.identity] = waiting
        self._settle()
        try:
            return await waiting.admitted
        except asyncio.CancelledError:
            if waiting.is_admitted:  # in the same step of the loop
                self._reserved -= most
                self._n_running -= 1
            raise
        finally:
            self._waiting.pop(request.identity, None)

    def _settle(self) -> None:
        """Start waiting requests that fit, in their order; refuse them all if none ever will."""
        for waiting in self._waiting.values():
            if waiting.admitted.done():
                continue
            if self._fits(waiting.usd):
                self._start(waiting.usd)
                waiting.admitted.set_result(True)
        if not self._n_running:
            for waiting in self._waiting.values():
                if not waiting.admitted.done():
                    waiting.admitted.set_exception(self._spent(self._key(), waiting.usd))

    def _start(self, most: float) -> None:
        self._n_requests += 1
        self._n_running += 1
        self._reserved += most

    def _fits(self, most: float) -> bool:
        budget, spent = self._terms.budget, self.spent()
        if self._key() == "gpu_seconds":
            return False
        return not budget.usd or self._usd(spent) + self._reserved + most <= budget.usd

    def _usd(self, spent: Spent) -> float:
        return self._terms.prices.usd(spent)

    def _key(self) -> str:
        """Return which budget is spent, if one is."""
        most = self._terms.budget.gpu_seconds
        return "gpu_seconds" if most and self.spent().gpu_seconds >= most else "usd"

    def _time_left(self) -> tuple[str, float | None]:
        """Return the budget that the time on GPUs will use up first, and the seconds until then.

        None without such a budget.
        """
        budget, prices, spent = self._terms.budget, self._terms.prices, self.spent()
        left = []
        if budget.gpu_seconds:
            seconds = (budget.gpu_seconds - spent.gpu_seconds) / self._n_gpus
            left.append((max(0.0, seconds), "gpu_seconds"))
        per_second = prices.gpu_hour * self._n_gpus / 3600
        if budget.usd and per_second:
            seconds = (budget.usd - self._usd(spent) - self._reserved) / per_second
            left.append((max(0.0, seconds), "usd"))
        seconds_left, key = min(left, default=(None, ""))
        return key, seconds_left

    def _prolong(self, limit: asyncio.Timeout) -> None:
        """Move the end of a request while fewer GPUs are there than may be."""
        loop, (_, left) = asyncio.get_running_loop(), self._time_left()
        if limit in self._limits and left is not None and left > _LEAST_SECONDS:
            limit.reschedule(loop.time() + left)
            loop.call_later(left / 2, self._prolong, limit)

    def _count(self, request: Request, reply: object) -> None:
        if not isinstance(reply, Trace):  # `engines.reply` makes a failure of it
            return
        usage = reply.usage
        if not math.isfinite(usage.seconds):  # the sum would be no number, which JSON has not
            usage = changed(usage, seconds=0.0)
        if not usage.prompt_tokens and self._terms.prices.pools:  # some servers report none
            usage = changed(usage, prompt_tokens=likely_prompt_tokens(request))
        usages = self._usage[request.model]
        usages.append(usage)
        if len(usages) >= _N_UNSUMMED:
            usages[:] = [total_usage(usages)]

    def _spent(self, key: str, next_usd: float = 0.0) -> BudgetSpent:
        budget, spent = self._terms.budget, self.spent()
        if key == "gpu_seconds":
            return BudgetSpent(
                "gpu_seconds",
                f"budget.gpu_seconds = {budget.gpu_seconds:,.10g} is used up: "
                f"{spent.gpu_seconds:,.1f} were",
            )
        more = f", and the next request can cost up to ${next_usd:,.4f}" if next_usd else ""
        return BudgetSpent(
            "usd",
            f"budget.usd = {budget.usd:,.10g} allows no more requests: ${self._usd(spent):,.4f} is "
            f"spent{more}",
        )


def _require_countable(terms: Terms, n_gpus: float) -> None:
    budget, prices = terms.budget, terms.prices
    no_gpu = "the engine uses no GPU of this machine or cluster, so nothing would count against it"
    if budget.gpu_seconds and not n_gpus:
        raise PlanFault(
            "budget.gpu_seconds",
            f"budget.gpu_seconds = {budget.gpu_seconds:g}: {no_gpu}; remove it, or set budget.usd",
        )
    if budget.usd and not prices.pools and not n_gpus:
        raise PlanFault(
            "budget.usd",
            f"budget.usd = {budget.usd:g} with prices.gpu_hour alone: {no_gpu}; give prices of "
            "tokens: [prices.main] input, output",
        )


def likely_prompt_tokens(request: Request) -> int:
    """Return about how many prompt tokens a request has, for English text."""
    return _n_bytes(request.prompt) // _BYTES_PER_TOKEN + len(request.prefix_ids)


def _n_bytes(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return len(prompt.encode("utf-8", "replace"))
    return sum(len(message.content.encode("utf-8", "replace")) for message in prompt)
