"""Gives commands hostile plans, problem files and replies of models, thousands in one process.

After each there is an exit code and a message; of replies, also a finished job that can be shown,
evaluated and exported.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import tomllib
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cases
from click.testing import CliRunner

from hostile import texts
from orchestrator.cli.main import leadline
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Finish, Request, ToolCall, Trace, Usage
from orchestrator.engines.fake.engine import Fake, FakeEngine
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry
from orchestrator.plan.execution import Execution
from orchestrator.plan.file import plan_toml

_SECONDS = 120  # for one command, on however busy a machine
_CODES = {0, 1, 2, 3, 4}
_EXAMPLES = Path(__file__).parents[3] / "examples"
_DOMAINS = ("number", "math", "choice", "text", "json", "code")
_FAKE = ("--execution.engine", "fake")
_EXPORTS = ("parquet", "csv", "jsonl", "openai-batch", "sft", "preference")
_N_REPLIES = 40


@registry.engine("chaos-hostile")
@dataclass(frozen=True, slots=True)
class Hostile:
    """Replies with hostile texts, drawn by the seed of each request."""

    loads_models: ClassVar[bool] = False
    seed: int = 0

    def capabilities(self) -> frozenset[Capability]:
        return Fake().capabilities()

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[FakeEngine]:
        yield HostileEngine(self.seed)


class HostileEngine(FakeEngine):
    def __init__(self, seed: int) -> None:
        super().__init__(Fake())
        self._seed = seed

    async def generate(self, request: Request) -> Trace:
        rng = random.Random(f"{self._seed} {request.seed}")
        calls = ()
        if rng.random() < 0.1:
            calls = (ToolCall(texts.text(rng, 2), texts.text(rng, 4), texts.text(rng, 1)),)
        n_tokens = rng.choice((0, 3, 10**9))
        return trace_for(
            request,
            rng.choice((Finish.STOP, Finish.STOP, Finish.LENGTH, Finish.FAILED)),
            text=texts.text(rng),
            error=texts.text(rng, 2),
            usage=Usage(rng.choice((0, 5, 2**53)), 0, n_tokens),
            calls=calls,
        )


@dataclass(frozen=True, slots=True)
class Input:
    """One input: its kind, and the commands that get it."""

    kind: str
    commands: tuple[tuple[str, ...], ...]
    n: int = 1


def give(
    folder: Path, seed: int, n: int, strategy: str, echo: Callable[[str], None]
) -> Counter[str]:
    """Give `n` inputs; return how the commands ended.

    AssertionError at the end, with their seeds, where some did not end as they must.
    """
    ends, failures, n_given, number = Counter[str](), dict[str, str](), 0, seed
    while n_given < n:
        one = _input(random.Random(number), folder, number)
        for command in one.commands:
            try:
                ends[f"{one.kind} {code_of(command)}"] += 1
            except AssertionError as error:  # the same fault is reported once
                if _fault(error) not in failures:
                    failures[_fault(error)] = f"seed {number}: {error}"
                    echo(failures[_fault(error)])
                ends["failed"] += 1
                break
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        before, n_given, number = n_given, n_given + one.n, number + 1
        if n_given // 1000 > before // 1000 or n_given >= n:
            echo(f"{n_given:,} inputs, seeds {seed} to {number - 1}: {dict(sorted(ends.items()))}")
    assert not failures, f"{len(failures)} kinds of failures: {'; '.join(failures)}"
    return ends


def give_replies(folder: Path, seed: int, domain: str) -> None:
    """Run a job of a domain with hostile replies; AssertionError as in `give`."""
    for command in _replies(random.Random(seed), folder, seed, domain).commands:
        code_of(command)
    shutil.rmtree(folder / "job")


def _fault(error: AssertionError) -> str:
    """Return the last two places of a traceback and its error, without what is quoted."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ")]
    return "; ".join([*places[-2:], lines[-1][:40]])


def code_of(command: tuple[str, ...]) -> int:
    """Run a command here; return its exit code.

    AssertionError for a code that no command has, a traceback, and silence after a failure.
    """
    with _limited():
        ended = CliRunner().invoke(leadline, command, catch_exceptions=True)
    error = ended.exception
    if error is not None and not isinstance(error, SystemExit):
        lines = "".join(traceback.format_exception(error))
        raise AssertionError(f"{command}: {lines}") from error
    where = f"{command}: {ended.output[-2000:]}"
    assert ended.exit_code in _CODES, f"{ended.exit_code}; {where}"
    assert "Traceback (most recent call last)" not in ended.output, where
    assert ended.exit_code == 0 or ended.output.strip(), f"no message; {where}"
    return ended.exit_code


@contextmanager
def _limited() -> Iterator[None]:
    """Raise TimeoutError in a block that takes too long."""

    def expire(*_: object) -> None:
        raise TimeoutError("it hangs")

    former = signal.signal(signal.SIGALRM, expire)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def _input(rng: random.Random, folder: Path, seed: int) -> Input:
    kind = rng.random()
    if kind < 0.5:
        return _plan(rng, folder)
    if kind < 0.994:
        return _problems(rng, folder)
    return _replies(rng, folder, seed, rng.choice(_DOMAINS))


def _plan(rng: random.Random, folder: Path) -> Input:
    """Return a plan file that was valid, changed; it is checked and priced."""
    if rng.random() < 0.3:
        source = rng.choice(sorted(_EXAMPLES.glob("*.toml"))).read_text()
    else:
        _, plan = cases.drawn_plan(rng)
        source = plan_toml(plan, Execution("fake"), problems="problems.jsonl")
    if rng.random() < 0.4:
        content = texts.spoiled(rng, source.encode())
    else:
        tree = tomllib.loads(source)
        for _ in range(rng.choice((1, 1, 2, 4))):
            changed = texts.mutated(rng, tree)
            tree = changed if isinstance(changed, dict) else tree
        content = texts.toml(tree).encode("utf-8", "surrogatepass")
    (folder / "plan.toml").write_bytes(content)
    (folder / "problems.jsonl").write_text('{"id": "a", "prompt": "What?", "domain": "number"}\n')
    command = ["run", str(folder / "plan.toml"), "--dry-run", "--out", str(folder / "job")]
    if rng.random() < 0.7:
        command += _FAKE
    if rng.random() < 0.7:
        command += ["--problems", str(folder / "problems.jsonl")]
    return Input("plan", (tuple(command),))


def _problems(rng: random.Random, folder: Path) -> Input:
    """Return a problem file, changed; its job is run, shown and evaluated."""
    rows: list[Any] = [_row(rng, i) for i in range(rng.randint(1, 4))]
    if rng.random() < 0.7:
        rows = [texts.mutated(rng, row) if rng.random() < 0.5 else row for row in rows]
    suffix = rng.choice((".jsonl", ".jsonl", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet"))
    if suffix == ".json":
        content = json.dumps(rows).encode()
    elif suffix in (".csv", ".tsv", ".txt"):
        by = "\t" if suffix == ".tsv" else ","
        lines = [by.join(map(str, r.values())) if isinstance(r, dict) else str(r) for r in rows]
        text = "\n".join([f"id{by}prompt{by}answer", *lines])
        content = text.encode("utf-8", "surrogatepass")
    else:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if rng.random() < 0.5:
        content = texts.spoiled(rng, content)
    path = folder / f"p{suffix}"
    path.write_bytes(content)
    job = str(folder / "job")
    run = ("run", "--problems", str(path), "--out", job, *_FAKE, "--strategy.n", "1")
    run = (*run, "--domain", "number")
    if rng.random() < 0.7:
        return Input("problems", ((*run, "--dry-run"),))
    return Input("problems", (run, ("show", job), ("eval", job), ("resume", job)))


def _row(rng: random.Random, i: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"r{i}", "prompt": f"What is {i}?", "answer": str(i)}
    if rng.random() < 0.3:
        row["domain"] = rng.choice(("number", "choice", "text", "json", "code"))
    if rng.random() < 0.2:
        row["messages"] = [{"role": "user", "content": "What?"}]
        del row["prompt"]
    if rng.random() < 0.1:
        row["choices"] = ["a", "b"]
    if rng.random() < 0.1:
        row = {
            "custom_id": f"c{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "main", "messages": [{"role": "user", "content": "What?"}], "n": 2},
        }
    return row


def _replies(rng: random.Random, folder: Path, seed: int, domain: str) -> Input:
    """Return a job with hostile replies; it is shown, evaluated and exported."""
    n = _N_REPLIES // 4
    rows = ({"id": f"q{i}", "prompt": texts.text(rng, 3) or "?", "answer": "1"} for i in range(n))
    path, job = folder / "p.jsonl", str(folder / "job")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = ("--execution.engine", "chaos-hostile", "--execution.engine.seed", str(seed))
    run = ("run", "--problems", str(path), "--out", job, *engine, "--strategy.n", "4")
    run = (*run, "--domain", domain, "--supervision.max_failed", "1")
    after = (
        ("show", job),
        ("show", job, "q0"),
        ("eval", job),
        ("export", job, "--to", rng.choice(_EXPORTS)),
        ("report", job, "--out", str(folder / "report.html")),
    )
    return Input("replies", (run, *after), _N_REPLIES)
