"""The engine that counts money and GPU-seconds: what it starts, what it refuses, what it counts."""

from __future__ import annotations

import asyncio
import gc
import math

import pytest

from orchestrator.core.errors import BudgetSpent, PlanError
from orchestrator.core.values import Finish, Request, Trace, Usage
from orchestrator.engines.metered import MeteredEngine, Terms
from orchestrator.engines.reply import trace_for
from orchestrator.engines.supervised import Outages
from orchestrator.plan.execution import JobBudget, Prices, Spent, TokenPrices

# a request of 100 tokens costs a dollar at most, its prompt nothing
PRICES = Prices(pools={"main": TokenPrices(output=10_000.0)})


class HeldEngine:
    """Holds every request until the test releases it; its replies have 40 tokens."""

    n_gpus = 2.0

    def __init__(self) -> None:
        self.held: dict[int, asyncio.Future[None]] = {}
        self.aborted: list[int] = []

    async def generate(self, request: Request) -> Trace:
        gate = self.held[request.ordinal] = asyncio.get_running_loop().create_future()
        try:
            await gate
        finally:
            del self.held[request.ordinal]
        return trace_for(request, Finish.STOP, usage=Usage(10, 0, 40))

    def abort(self, request: Request) -> None:
        self.aborted.append(request.ordinal)

    def running_tokens(self) -> int:
        return 7 * len(self.held)


def request(ordinal: int) -> Request:
    return Request("q", model="main", max_new_tokens=100, problem_id="p", ordinal=ordinal)


def terms(usd: float = 0.0, gpu_seconds: float = 0.0, before: Spent | None = None) -> Terms:
    return Terms(PRICES, JobBudget(usd, gpu_seconds), before or Spent())


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_money_is_reserved_before_it_is_spent() -> None:
    """Two requests in flight can cost 2 dollars: of 2.50 a third waits until one has cost less."""

    async def work() -> None:
        inner = HeldEngine()
        engine = MeteredEngine(inner, terms(usd=2.5))
        tasks = [asyncio.create_task(engine.generate(request(i))) for i in range(3)]
        await settled()
        assert sorted(inner.held) == [0, 1]
        inner.held[0].set_result(None)  # cost 0.40: 2.10 are left, 1 is reserved
        await settled()
        assert sorted(inner.held) == [1, 2]
        for gate in list(inner.held.values()):
            gate.set_result(None)
        traces = await asyncio.gather(*tasks)
        assert [t.finish for t in traces] == [Finish.STOP] * 3
        assert PRICES.usd(engine.spent()) == pytest.approx(1.2)

    asyncio.run(work())


def test_a_spent_budget_ends_all_that_waits_once_nothing_runs() -> None:
    """Earlier runs count; what runs is finished, because it is paid for."""

    async def work() -> None:
        inner = HeldEngine()
        before = Spent({"main": Usage(output_tokens=100)})
        engine = MeteredEngine(inner, terms(usd=2.1, before=before))
        tasks = [asyncio.create_task(engine.generate(request(i))) for i in range(3)]
        await settled()
        assert sorted(inner.held) == [0]
        inner.held[0].set_result(None)  # 1.40 are spent, and 0.70 are too little for another
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[0], Trace)
        assert [type(one) for one in done[1:]] == [BudgetSpent, BudgetSpent]
        assert "$1.4000 is spent, and the next request can cost up to $1.0000" in str(done[1])

    asyncio.run(work())


def test_a_request_that_waits_can_be_aborted() -> None:
    async def work() -> None:
        inner = HeldEngine()
        engine = MeteredEngine(inner, terms(usd=1.5))
        first, second = (asyncio.create_task(engine.generate(request(i))) for i in range(2))
        await settled()
        engine.abort(request(1))
        assert (await second).finish is Finish.CANCELLED
        engine.abort(request(0))
        assert inner.aborted == [0]
        inner.held[0].set_result(None)
        await first

    asyncio.run(work())


def test_gpu_seconds_end_what_runs() -> None:
    """Two GPUs for five seconds are ten; a request cannot go on after them."""

    async def work() -> None:
        now = 0.0
        inner = HeldEngine()
        engine = MeteredEngine(inner, terms(gpu_seconds=10.0), clock=lambda: now)
        now = 5.0
        with pytest.raises(BudgetSpent, match=r"budget.gpu_seconds = 10 is used up: 10.0 were"):
            await engine.generate(request(0))
        now = 4.99999  # it starts, and is never released
        with pytest.raises(BudgetSpent, match=r"budget.gpu_seconds = 10 is used up"):
            await engine.generate(request(1))
        assert not inner.held

    asyncio.run(work())


@pytest.mark.parametrize(
    ("budget", "prices"),
    [(JobBudget(gpu_seconds=5), Prices()), (JobBudget(usd=5), Prices(gpu_hour=2.0))],
)
def test_a_budget_that_nothing_counts_against_is_refused(budget: JobBudget, prices: Prices) -> None:
    class OnCpu(HeldEngine):
        n_gpus = 0.0

    with pytest.raises(PlanError, match="nothing would count against it"):
        MeteredEngine(OnCpu(), Terms(prices, budget, Spent()))


def test_lost_and_abandoned_tokens_are_spent_too() -> None:
    """A server charges for what it generated, whether or not it arrived."""

    async def work() -> None:
        inner = HeldEngine()
        engine = MeteredEngine(inner, terms(), outages=Outages(lost_tokens=5))
        task = asyncio.create_task(engine.generate(request(0)))
        await settled()
        assert engine.running_tokens() == 7
        assert engine.usd() == pytest.approx((5 + 7) * 0.01)
        inner.held[0].set_result(None)
        await task
        spent = engine.spent(abandoned_tokens=3)
        assert spent.usage == {"main": Usage(10, 0, 48)}
        assert spent.n_requests == 1

    asyncio.run(work())


def test_usages_are_summed_even_if_nobody_reads_what_was_spent() -> None:
    """A job of ten million rows reads it once an hour: 100 bytes a request were a gigabyte."""

    class AtOnce(HeldEngine):
        async def generate(self, request: Request) -> Trace:
            return trace_for(request, Finish.STOP, usage=Usage(10, 0, 40))

    def n_usages() -> int:
        return sum(type(one) is Usage for one in gc.get_objects())

    async def work() -> None:
        engine = MeteredEngine(AtOnce(), Terms(Prices(), JobBudget(), Spent()))
        n_before = n_usages()
        for ordinal in range(5000):
            await engine.generate(request(ordinal))
        assert n_usages() - n_before < 2000
        assert engine.spent().usage == {"main": Usage(50_000, 0, 200_000)}

    asyncio.run(work())


def test_prices_count_cached_tokens_at_their_own_price() -> None:
    prices = TokenPrices(input=2.0, cached_input=0.5, output=8.0)
    usage = Usage(prompt_tokens=1_000_000, cached_tokens=400_000, output_tokens=500_000)
    assert prices.usd(usage) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.5 * 8)
    assert TokenPrices(input=2.0).usd(usage) == pytest.approx(2.0)
    hour = Prices(gpu_hour=3.6)
    assert hour.usd(Spent(gpu_seconds=1000.0)) == pytest.approx(1.0)


def test_a_fleet_that_is_smaller_than_it_may_be_has_the_time_that_it_really_uses() -> None:
    """Two GPUs would have used 0.4 GPU-seconds after 0.2 s; one that comes and goes has not."""

    class Elastic(HeldEngine):
        n_read = 0

        def gpu_seconds(self) -> float:
            self.n_read += 1
            return 0.0 if self.n_read < 8 else 0.4

    async def work() -> None:
        inner = Elastic()
        engine = MeteredEngine(inner, terms(gpu_seconds=0.4, before=Spent(gpu_seconds=0.001)))
        with pytest.raises(BudgetSpent, match=r"budget.gpu_seconds = 0.4 is used up: 0.4 were"):
            await engine.generate(request(0))
        assert inner.n_read >= 8
        assert engine.spent().gpu_seconds == pytest.approx(0.401)

    asyncio.run(work())


def test_time_without_a_place_adds_up_over_the_runs_of_a_job() -> None:
    """The report of a resumed job names what an earlier run waited for."""

    class Unplaced(HeldEngine):
        def unplaced(self) -> tuple[float, str]:
            return 5.0, "no GPU is free"

    before = Spent(unplaced_seconds=7.0, unplaced_reason="no node")
    spent = MeteredEngine(Unplaced(), terms(before=before)).spent()
    assert (spent.unplaced_seconds, spent.unplaced_reason) == (12.0, "no GPU is free")
    spent = MeteredEngine(HeldEngine(), terms(before=before)).spent()
    assert (spent.unplaced_seconds, spent.unplaced_reason) == (7.0, "no node")


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_not_counted(seconds: float) -> None:
    """JSON has no such number: with it the account of a job could not be read again."""

    class Odd(HeldEngine):
        async def generate(self, request: Request) -> Trace:
            return trace_for(request, Finish.STOP, usage=Usage(10, 0, 40, seconds=seconds))

    engine = MeteredEngine(Odd(), terms())
    asyncio.run(engine.generate(request(0)))
    assert engine.spent().total == Usage(10, 0, 40)
