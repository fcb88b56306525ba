"""An event loop in which time passes only when nothing else can happen, all by a seed.

The one rule: whatever a real loop leaves open is drawn from the seed: when a thread's work is done,
which of two timers of the same moment comes first. Callbacks keep their order, as asyncio promises.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

MOST_STEPS = 30_000
MOST_SECONDS = 3_000_000.0  # of virtual time
_RESOLUTION = 1e-6  # timers within it come in any order


class Killed(KeyboardInterrupt):
    """The process ends here. Of this kind, because asyncio lets it through everywhere."""


class Hang(AssertionError):
    """Nothing can happen any more, or it never ends."""


@dataclass(slots=True)
class _Job:
    """Work for a thread; `future` is what the loop waits for."""

    call: Callable[[], Any]
    future: asyncio.Future[Any]
    is_done: bool = False


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs one life of a process. `on_step` is called before each step, with its number."""

    def __init__(self, rng: random.Random, now: float, on_step: Callable[[int], None]) -> None:
        super().__init__()
        self.rng = rng
        self.n_steps = 0
        self.unhandled: list[dict[str, Any]] = []  # what a real loop would have logged
        self._now = self._began = now
        self._on_step = on_step
        self._selector = self
        self._clock_resolution = 1e-9
        self._jobs: dict[int, list[_Job]] = {}
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def time(self) -> float:
        """Return the virtual time."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Let time pass, in place of waiting for files."""
        if timeout is None:
            raise Hang("nothing is left that could happen")
        self._now += timeout
        self.n_steps += 1
        if self.n_steps > MOST_STEPS or self._now - self._began > MOST_SECONDS:
            raise Hang(f"no end after {self.n_steps} steps, {self._now - self._began:.0f} s")
        self._on_step(self.n_steps)
        return []

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """Call at this time, or a little later: as timers are."""
        late = when + self.rng.random() * _RESOLUTION
        return super().call_at(late, callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run a call here at a moment between now and the moment at which its end is seen."""
        job = _Job(lambda: func(*args), self.create_future())
        self._jobs.setdefault(id(executor), []).append(job)
        executor.shutdown = lambda *_, **__: self._drain(executor)  # type: ignore[union-attr, method-assign]
        self.call_later(self._moment(), self._work, job)
        return job.future

    def _moment(self) -> float:
        return self.rng.choice((0.0, 0.0, self.rng.expovariate(1000), self.rng.expovariate(10)))

    def _work(self, job: _Job) -> None:
        if job.is_done or job.future.cancelled():  # a call that has not begun can be taken back
            return
        job.is_done = True
        try:
            result, error = job.call(), None
        except Killed:
            raise
        except BaseException as raised:  # noqa: BLE001 - whoever waits for it raises it
            result, error = None, raised
        self.call_later(self._moment(), self._deliver, job, result, error)

    def _deliver(self, job: _Job, result: Any, error: BaseException | None) -> None:
        if job.future.done():
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    def _drain(self, executor: Executor | None) -> None:
        for job in self._jobs.pop(id(executor), ()):
            self._work(job)

    def _process_events(self, event_list: Any) -> None:
        """Do nothing: no files are watched."""

    def _write_to_self(self) -> None:
        """Do nothing: nobody sleeps."""


def live(loop: SimulatedLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, or until the process is killed.

    What is left of a killed process is taken down afterwards, without effect on the copy of its
    directory that the next life continues with. AssertionError if a task outlives the coroutine.
    """
    asyncio.set_event_loop(loop)
    task = loop.create_task(main)
    loop.main = task  # type: ignore[attr-defined]
    try:
        loop.run_until_complete(task)
        left = [t for t in asyncio.all_tasks(loop) if not t.done()]
        assert not left, f"tasks outlive the run: {left}"
    except Killed:
        _take_down(loop, task)
        raise
    except Hang:
        loop.n_steps = -MOST_STEPS
        _take_down(loop, task)
        raise
    finally:
        _take_down(loop, *(t for t in asyncio.all_tasks(loop) if not t.done()))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        asyncio.set_event_loop(None)


def _take_down(loop: SimulatedLoop, *tasks: asyncio.Task[Any]) -> None:
    loop._on_step = lambda _: None
    for task in tasks:
        task.cancel()
    if tasks:
        with contextlib.suppress(Hang):
            loop.run_until_complete(asyncio.wait(tasks, timeout=1000.0))
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
