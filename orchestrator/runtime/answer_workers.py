"""Killable processes for what may hang, crash or eat memory: comparing answers, and untrusted
domains that read them.

The one rule: whatever a domain does, a call here returns within its limits and the pool works
afterwards; what could not be decided is named in the reply, never guessed. A process starts when
first needed. No signals, no threads, and no `multiprocessing`, which would import the user's
`__main__` again. Which class an answer belongs to is decided in `orchestrator.runtime.annotate`,
not here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from orchestrator.core.errors import PluginError
from orchestrator.core.values import PluginSpec
from orchestrator.runtime import worker_child as child

# starting Python and importing sympy takes 2 s on an idle machine; a busy one may need many times
# that
_START_SECONDS = 120.0
_CACHE_SIZE = 65_536  # comparisons: some 20 MB of short answers
# different partners; an answer that sympy cannot parse would else cost a limit for every class
_BLAMED = 2
_STDERR_BYTES = 2_000
# a killed process is gone in milliseconds; one in uninterruptible sleep is left to the kernel
_SETTLE_SECONDS = 5.0
_CHILD = "import sys; from orchestrator.runtime.worker_child import main; main(int(sys.argv[1]), int(sys.argv[2]))"


@dataclass(frozen=True, slots=True)
class DomainRef:
    """A domain by value: its name and options, and "module:Class" where it is found ("": by its
    name's entry point).
    """

    spec: PluginSpec
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Undecided:
    """A representative that could not be compared, and why. It counts as not equivalent."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Match:
    """`index` of the first equivalent representative, or None.

    `undecided`: those before it that were not decided.
    """

    index: int | None
    undecided: tuple[Undecided, ...] = ()

    @property
    def note(self) -> str:
        """What was not decided, in one line; "" when everything was."""
        return "; ".join(
            f"not compared with answer {item.index}: {item.reason}" for item in self.undecided
        )


@dataclass(frozen=True, slots=True)
class Examined:
    """What a domain read. Both None: it abstained, or `note` says why it could not read."""

    answer: str | None
    canonical: str | None
    note: str = ""


class AnswerWorkers:
    """A pool of processes. Belongs to one event loop; not for use from several threads.

    `limit_seconds` bounds one comparison or one reading, `memory_bytes` the address space of one
    process.
    """

    def __init__(
        self, *, n_workers: int = 2, limit_seconds: float = 10.0, memory_bytes: int = 2 << 30
    ) -> None:
        """Start nothing yet. ValueError for limits under which no process could work."""
        if n_workers < 1 or limit_seconds <= 0 or memory_bytes < 256 << 20:
            raise ValueError(
                "AnswerWorkers needs n_workers >= 1, limit_seconds > 0 and memory_bytes >= 256 MiB"
            )
        self._limit_seconds = limit_seconds
        self._memory_bytes = memory_bytes
        self._places = asyncio.Semaphore(n_workers)
        self._idle: list[_Worker] = []
        self._alive: set[_Worker] = set()
        self._known: OrderedDict[tuple[str, bytes, str, str, str], child.Compared] = OrderedDict()
        self._partners: dict[tuple[str, str], set[str]] = {}
        self._closed = False

    async def match(self, domain: DomainRef, answer: str, representatives: Sequence[str]) -> Match:
        """The first representative that is equivalent to `answer`, and those that could not be
        decided.

        A pair that reaches its limit costs its process; the pairs after it are compared in a new
        one. PluginError when the domain does not load.
        """
        undecided: list[Undecided] = []
        task = child.MatchTask(
            domain.spec.name, _options(domain), _origin(domain), _encodable(answer), ()
        )
        representatives = [_encodable(representative) for representative in representatives]
        at = 0
        while at < len(representatives):
            known = self._recall(task, representatives[at])
            for compared in (
                [known] if known else await self._compare(self._unknown(task, representatives[at:]))
            ):
                if compared.equal:
                    return Match(at, tuple(undecided))
                if compared.error:
                    undecided.append(Undecided(at, compared.error))
                at += 1
        return Match(None, tuple(undecided))

    async def examine(self, domain: DomainRef, text: str, finished: bool) -> Examined:
        """What the domain reads in a text, with its canonical form.

        PluginError when the domain does not load.
        """
        task = child.ExamineTask(
            domain.spec.name, _options(domain), _origin(domain), _encodable(text), finished
        )
        async with self._asked(task) as worker:
            try:
                reply = await worker.reply(self._limit_seconds)
            except _Lost as lost:
                return Examined(None, None, lost.reason)
        assert isinstance(reply, child.Read)
        return Examined(reply.answer, reply.canonical, reply.error)

    async def aclose(self) -> None:
        """Kill all processes and wait for their end. Calls that still run see their process end."""
        self._closed = True
        self._idle.clear()
        await asyncio.gather(*(worker.end() for worker in list(self._alive)))
        self._alive.clear()

    async def _compare(self, task: child.MatchTask) -> list[child.Compared]:
        """Results in order, up to the first that is equal or that cost the process."""
        results: list[child.Compared] = []
        async with self._asked(task) as worker:
            for representative in task.representatives:
                try:
                    compared = await worker.reply(self._limit_seconds)
                except _Lost as lost:
                    compared = child.Compared(False, lost.reason)
                    if lost.again:
                        self._remember(task, representative, compared)
                        self._blame(task, representative)
                    return [*results, compared]
                assert isinstance(compared, child.Compared)
                self._remember(task, representative, compared)
                results.append(compared)
                if compared.equal:
                    break
        return results

    @contextlib.asynccontextmanager
    async def _asked(self, question: child.Question) -> AsyncIterator[_Worker]:
        """A process that has the question and its domain; kept afterwards if the body took all
        replies, else killed.
        """
        async with self._places:
            worker = await self._next_worker()
            try:
                try:
                    await worker.ask(question)
                except _Gone:
                    self._alive.discard(worker)
                    await worker.end()
                    worker = await self._fresh_worker()
                    await worker.ask(question)
                yield worker
            except BaseException:  # a cancellation too: its reply would reach the next caller
                worker.kill()
                raise
            finally:
                if worker.is_alive and not self._closed:
                    self._idle.append(worker)
                else:
                    self._alive.discard(worker)
                    await worker.end()

    async def _next_worker(self) -> _Worker:
        if self._closed:
            raise RuntimeError("these Checkers are closed")
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            self._alive.discard(worker)
            await worker.end()
        return await self._fresh_worker()

    async def _fresh_worker(self) -> _Worker:
        worker = await _Worker.start(self._memory_bytes)
        self._alive.add(worker)
        return worker

    def _unknown(self, task: child.MatchTask, representatives: Sequence[str]) -> child.MatchTask:
        """The task for the representatives up to the next one whose result is known."""
        unknown = itertools.takewhile(
            lambda representative: self._recall(task, representative) is None, representatives
        )
        return msgspec.structs.replace(task, representatives=tuple(unknown))

    def _recall(self, task: child.MatchTask, representative: str) -> child.Compared | None:
        pair = (task.domain, task.options, task.origin, task.answer, representative)
        if pair in self._known:
            self._known.move_to_end(pair)
            return self._known[pair]
        if any(
            len(self._partners.get((task.origin, text), ())) >= _BLAMED
            for text in (task.answer, representative)
        ):
            return child.Compared(
                False, f"one of the two answers has reached a limit {_BLAMED} times before"
            )
        return None

    def _blame(self, task: child.MatchTask, representative: str) -> None:
        """Note who reached a limit with whom.

        Blame falls on the one that does so with several others.
        """
        self._partners.setdefault((task.origin, task.answer), set()).add(representative)
        self._partners.setdefault((task.origin, representative), set()).add(task.answer)

    def _remember(
        self, task: child.MatchTask, representative: str, compared: child.Compared
    ) -> None:
        self._known[task.domain, task.options, task.origin, task.answer, representative] = compared
        if len(self._known) > _CACHE_SIZE:
            self._known.popitem(last=False)


class _Lost(Exception):
    """The process had to be killed or ended by itself.

    `again`: asked again it would end the same way.
    """

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again


class _Gone(Exception):
    """An idle process died, unseen until it was asked again: nothing that it was asked has been
    begun.
    """


class _Worker:
    """One process. Every failure of it is a `_Lost`, after which it is dead."""

    def __init__(self, process: asyncio.subprocess.Process, memory_bytes: int) -> None:
        self._process = process
        self._memory_bytes = memory_bytes
        self._decoder: msgspec.msgpack.Decoder[child.Reply] = msgspec.msgpack.Decoder(child.Reply)
        self._killed = False
        self._has_served = False
        self._errors = b""
        self._draining = asyncio.create_task(self._drain())

    @classmethod
    async def start(cls, memory_bytes: int) -> _Worker:
        """A running process that has loaded no domain yet.

        It sees the modules that this process sees, whatever the working folder; its own session
        keeps Ctrl-C away from it.
        """
        folders = [folder or os.getcwd() for folder in sys.path]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-c",
            _CHILD,
            str(os.getpid()),
            str(memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            start_new_session=True,
        )
        return cls(process, memory_bytes)

    @property
    def is_alive(self) -> bool:
        """Whether it can take a question."""
        return not self._killed and self._process.returncode is None

    async def ask(self, question: child.Question) -> None:
        """Hand over a question and wait until its domain is loaded.

        PluginError when that fails; _Gone when it has died.
        """
        name = f"domain {question.domain!r}"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(child.framed(question))
            reply = await self.reply(_START_SECONDS)
        except (_Lost, ConnectionError) as error:
            if self._has_served:
                raise _Gone from error
            raise PluginError(f"{name} does not load in a checker process: {error}") from error
        if isinstance(reply, child.Unloadable):
            raise PluginError(f"{name} does not load in a checker process: {reply.error}")
        self._has_served = True

    async def reply(self, limit_seconds: float) -> child.Reply:
        """The next message."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(limit_seconds):
                head = await self._process.stdout.readexactly(4)
                body = await self._process.stdout.readexactly(int.from_bytes(head, "big"))
            return self._decoder.decode(body)
        except TimeoutError:
            await self.end()
            raise _Lost(f"took more than {limit_seconds:g} s", again=True) from None
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.DecodeError):
            await self._settle()
            await self.end()
            raise self._lost() from None

    def kill(self) -> None:
        """Kill it and everything it started. Safe to repeat."""
        self._killed = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and wait until it is gone. Safe to repeat."""
        self.kill()
        await self._settle()
        self._draining.cancel()

    async def _settle(self) -> None:
        """Wait for its end and its last words, but not for a stray process that keeps its pipes
        open.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self._process.wait()
                await asyncio.wait([self._draining])

    def _lost(self) -> _Lost:
        status = self._process.returncode
        if status == child.OUT_OF_MEMORY:
            return _Lost(f"needed more than {self._memory_bytes >> 20} MiB of memory", again=True)
        killed = status is not None and status < 0
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if killed and status
            else f"exited with status {status}"
        )
        words = self._errors.decode(errors="replace").strip().rpartition("\n")[2]
        return _Lost(f"the checker process {how}" + (f": {words}" if words else ""), again=False)

    async def _drain(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(4096):
            self._errors = (self._errors + chunk)[-_STDERR_BYTES:]


def _encodable(text: str) -> str:
    """The text with `?` for lone surrogates, which UTF-8 cannot carry."""
    return text.encode(errors="replace").decode()


def _options(domain: DomainRef) -> bytes:
    return msgspec.msgpack.encode(dict(domain.spec.options), order="sorted")


def _origin(domain: DomainRef) -> str:
    """The origin, if another process can import it. PluginError otherwise."""
    if domain.origin.startswith("__main__:"):
        raise PluginError(
            f"domain {domain.spec.name!r} is defined in the script itself, so the checker processes cannot import it: "
            "move the class to a module and import it from there"
        )
    return domain.origin
