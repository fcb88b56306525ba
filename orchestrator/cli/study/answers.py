"""`leadline answers`: what is read in a text, where, and when two answers are one.

With it a user sees, and reports, a misreading. Answers are read and compared as in a job, in worker
processes with a job's limits. No engine is started and nothing is written.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import msgspec

from orchestrator.cli.console import print_json, results_console
from orchestrator.cli.inputs import references_and_notes
from orchestrator.cli.options import debug_option, json_option
from orchestrator.cli.view.answers import (
    Comparison,
    Place,
    Reading,
    ReferenceReading,
    comparison_view,
    reading_view,
    readings_view,
)
from orchestrator.core.errors import PlanError
from orchestrator.core.lineage import lineage, whole_text
from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, PluginSpec, Problem, Purpose, Request, Trace
from orchestrator.jobs.finished import FinishedJob, read_finished
from orchestrator.plan.execution import Execution
from orchestrator.plan.spec_syntax import one_spec
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.runtime.workers import CallFailed, plugin_reference
from orchestrator.studies.evaluate import is_right
from orchestrator.studies.scaling import attempts

DIFFERENT = 1  # exit code, as of diff and cmp


@dataclass(frozen=True, slots=True)
class _Text:
    """A text to read, as an attempt at the problem `group`; `recorded` is the answer in a journal.

    `references` are right answers as they were written.
    """

    name: str
    text: str
    domain: str
    finished: bool = True
    group: str = ""
    references: tuple[str, ...] = ()
    recorded: str | None = None


def _no_options(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the texts: -1/2 is one, and --comprae is not."""
    for text in value:
        if re.match(r"--[A-Za-z]", text):
            raise click.NoSuchOption(text, ctx=ctx)
    return value


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("texts", nargs=-1, metavar="[TEXT]...", callback=_no_options)
@click.option(
    "--domain",
    metavar="SPEC",
    help="The domain, with its options after spaces.  [default: math, or the job's]",
)
@click.option("--compare", is_flag=True, help="Compare two answers: give them as two TEXTs.")
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="TEXT",
    help="Also tell whether the answer is right by this reference; may be repeated (aliases).",
)
@click.option("--cut-off", is_flag=True, help="The texts were cut off, e.g. by max_new_tokens.")
@click.option(
    "--file",
    "path",
    type=click.Path(),
    metavar="FILE",
    help="Read the text in this file; of a .jsonl file, the text (or field `text`) of each row.",
)
@click.option(
    "--job", "directory", type=click.Path(), metavar="DIR", help="Read the attempts of this job."
)
@click.option("--problem", default="", metavar="ID", help="With --job: only those at this problem.")
@json_option
@debug_option
def answers(
    texts: tuple[str, ...],
    domain: str | None,
    compare: bool,
    references: tuple[str, ...],
    cut_off: bool,
    path: str | None,
    directory: str | None,
    problem: str,
    as_json: bool,
) -> int:
    """Show which answer is read in a text, where, and its class; or why two answers are one or not.

    Each TEXT is read as a reply; "-" is the standard input. Several are read as attempts at one
    problem: those with the same key vote together. With --job, answers are read again, and those
    that differ from the journal are marked. Attach the output of this command when you report a
    misreading.

    \b
    Examples:
      leadline answers "So the answer is $\\frac{1}{2}$."
      leadline answers --compare "x>3" "(3,\\infty)"
      leadline answers --domain number "The total is 18 pens." --reference "#### 18"
      leadline answers --domain "choice letters=ABCD" - < reply.txt
      leadline answers --job runs/arithmetic --problem q7

    \b
    Exit codes: 0 done (with --compare: equal); 1 with --compare: different; 2 invalid input.
    """
    _require_one_source(texts, path, directory)
    spec = one_spec("--domain", domain or "math")
    plan = Plan(domain=spec.name, domains={spec.name: spec})
    if compare:
        _refuse("--compare", reference=references, cut_off=cut_off, problem=problem)
        return _compare(plan, texts, as_json)
    if directory is not None:
        _refuse("--job", reference=references, cut_off=cut_off)
        job = read_finished(Path(directory))
        plan = _job_plan(job.plan, spec) if domain else job.plan
        read = list(_attempts(job, plan, problem, is_forced=domain is not None))
    else:
        _refuse("TEXT and --file", problem=problem)
        given = [_Text("", _stdin_or(text), spec.name) for text in texts]
        rows = given if path is None else _rows(Path(path), spec.name)
        read = [
            replace(t, finished=t.finished and not cut_off, references=references) for t in rows
        ]
    return _show(_readings(plan, read), as_json)


def _require_one_source(texts: Sequence[str], path: str | None, directory: str | None) -> None:
    if sum((bool(texts), path is not None, directory is not None)) != 1:
        raise PlanError("give one of: TEXT (- for the standard input), --file FILE, --job DIR")


def _refuse(source: str, **settings: object) -> None:
    """Refuse an option that would have no effect."""
    for name, value in settings.items():
        if value:
            raise PlanError(
                f"--{name.replace('_', '-')} has no meaning with {source}; leave it out"
            )


def _job_plan(plan: Plan, spec: PluginSpec) -> Plan:
    """Return a job's plan with another domain: one of its own by name, unless options are given."""
    own = {} if spec.name in plan.domains and not spec.options else {spec.name: spec}
    return replace(plan, domain=spec.name, domains={**plan.domains, **own})


def _show(readings: Sequence[Reading], as_json: bool) -> int:
    if as_json:
        print_json(readings)
    elif len(readings) == 1:
        results_console().print(reading_view(readings[0]))
    else:
        results_console().print(readings_view(readings))
    return 0


# --- the texts


def _stdin_or(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _rows(path: Path, domain: str) -> Iterator[_Text]:
    """Yield the text of a file, or of each row of a .jsonl file."""
    try:
        content = path.read_bytes().decode()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: byte {error.start + 1} is not UTF-8") from error
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        yield _Text(path.name, content, domain)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _row(f"{path.name}:{number}", line, domain)


def _row(name: str, line: str, domain: str) -> _Text:
    try:
        row: Any = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise PlanError(f"{name}: not JSON: {error}") from error
    row = {"text": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise PlanError(f"{name}: a row is a text, or an object with the field `text`")
    return _Text(name, row["text"], domain, row.get("finished", True) is not False)


def _attempts(job: FinishedJob, plan: Plan, problem: str, is_forced: bool) -> Iterator[_Text]:
    """Yield the attempts of a job with the references of their problems."""
    if problem and problem not in job.pools:
        raise PlanError(f"{job.directory} has no problem {problem!r}")
    rows, _ = job.problems()
    domains = {
        id: plan.domain if is_forced else rows[id].domain for id in job.pools if problem in ("", id)
    }
    known: dict[str, tuple[str, ...]] = {}
    if job.source is not None and Path(job.source.problems).is_file():
        read = references_and_notes(job.source.problems, domains, plan, Execution())
        known.update(read.answers)
    for id, domain in domains.items():
        by_ordinal = {trace.ordinal: trace for trace in job.pools[id]}
        for trace in attempts(job.pools[id]):
            if trace.finish is Finish.FAILED or trace.purpose is not Purpose.SOLVE:
                continue
            recorded = trace.answer.text if trace.answer else ""
            yield _Text(
                f"{id} #{trace.ordinal}",
                whole_text(lineage(trace, by_ordinal)),
                domain,
                trace.finish is Finish.STOP,
                id,
                known.get(id, ()),
                # the journal lacks what was forced between the traces of an attempt
                recorded if trace.parent is None else None,
            )


# --- reading


def _readings(plan: Plan, texts: Sequence[_Text]) -> list[Reading]:
    async def read() -> list[Reading]:
        async with aclosing(_workers()) as workers:
            reader = _Reader(plan, workers)
            return [await reader.reading(text) for text in texts]

    return asyncio.run(read())


def _workers() -> AnswerWorkers:
    return AnswerWorkers(n_workers=1, limit_seconds=Execution().checker_seconds)


class _Reader:
    """Reads and describes answers by the domains of a plan."""

    def __init__(self, plan: Plan, workers: AnswerWorkers) -> None:
        self._plan = plan
        self._workers = workers
        self._annotator = Annotator(replace(plan, verifiers=()), workers)
        self._classes: dict[str, Classes] = {}

    async def reading(self, text: _Text) -> Reading:
        """Return what the domain reads in a text, in its class among the texts of its group."""
        problem = Problem(text.group or "text", "", text.domain)
        finish = Finish.STOP if text.finished else Finish.LENGTH
        classes = self._classes.setdefault(text.group, Classes())
        trace = await self._annotator.annotate(
            problem, Request(), Trace(0, text=text.text, finish=finish), classes
        )
        note, answer = trace.note, None if trace.answer is None else trace.answer.text

        async def read(part: str, finished: bool) -> str | None:
            return await self._extract(text.domain, part, finished)

        kind = ""
        if answer is not None:
            kind, doubt = await self._described(text.domain, answer)
            note = "; ".join(filter(None, (note, doubt)))
        elif not text.finished and await read(text.text, True) is not None:
            note = "the text was cut off before it gave an answer explicitly"
        return Reading(
            name=text.name,
            problem=text.group,
            domain=text.domain,
            answer=answer,
            place=None if answer is None else await _place(text.text, answer, read),
            type=kind,
            key=None if trace.answer is None else trace.answer.key,
            note=note,
            references=tuple(
                [await self._reference(text.domain, answer, r) for r in text.references]
            ),
            recorded=text.recorded,
        )

    async def comparison(self, domain: str, a: str, b: str) -> Comparison:
        """Return two answers' types and keys, whether they are one, and why."""
        keys = [await self._key(domain, answer) for answer in (a, b)]
        kinds = [(await self._described(domain, answer))[0] for answer in (a, b)]
        equal, doubt = await self._annotator.compare(domain, a, b)
        return Comparison(domain, (a, b), (kinds[0], kinds[1]), (keys[0], keys[1]), equal, doubt)

    async def _extract(self, domain: str, text: str, finished: bool) -> str | None:
        loaded = self._annotator.domain(domain)
        if loaded.in_process:
            return loaded.extract(text, finished)
        load = plugin_reference("domains", self._spec(domain))
        return (await self._workers.examine(load, text, finished)).answer

    async def _described(self, domain: str, answer: str) -> tuple[str, str]:
        """Return the type and value of an answer in one line, and why there is none."""
        if not hasattr(self._annotator.domain(domain), "describe"):
            return "", ""
        return await self._applied(domain, "describe", answer)

    async def _key(self, domain: str, answer: str) -> str:
        has_keys = hasattr(self._annotator.domain(domain), "resolve")
        key, doubt = await self._applied(domain, "resolve" if has_keys else "canonical", answer)
        return key or doubt

    async def _applied(self, domain: str, method: str, answer: str) -> tuple[str, str]:
        load = plugin_reference("domains", self._spec(domain))
        try:
            return await self._workers.apply(load, method, answer, kind=str), ""
        except CallFailed as failure:
            return "", f"{method} of the domain failed: {failure}"

    async def _reference(self, domain: str, answer: str | None, text: str) -> ReferenceReading:
        read, note = await self._annotator.read_reference(domain, text)
        if read is None:
            return ReferenceReading(text, None, False, note)
        accepts = self._annotator.accepts
        right = answer is not None and await is_right(domain, answer, (read,), accepts)
        return ReferenceReading(text, read, right, note)

    def _spec(self, domain: str) -> PluginSpec:
        return self._plan.domains.get(domain, PluginSpec(domain))


async def _place(
    text: str, answer: str, read: Callable[[str, bool], Awaitable[str | None]]
) -> Place:
    """Return the line that gives the answer.

    An explicit answer is given by the last line without which a cut-off text would not give it; the
    search takes about 2 log2(lines) readings. Any other answer was read at the end of the text.
    """
    lines = text.split("\n")
    is_explicit = await read(text, False) == answer
    without, last = 0, len(lines)  # the first `last` lines give the answer
    step = 1
    while is_explicit and last - without > 1:
        middle = max(without + 1, last - step) if not without else (without + last) // 2
        if await read("\n".join(lines[:middle]), False) == answer:
            last, step = middle, 2 * step
        else:
            without = middle
    while last > 1 and not lines[last - 1].strip():
        last -= 1
    line = lines[last - 1].strip()
    found = list(re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", line))
    return Place(last, is_explicit, line, found[-1].start() + 1 if found else None)


def _compare(plan: Plan, texts: Sequence[str], as_json: bool) -> int:
    if len(texts) != 2:
        raise PlanError(f"--compare takes two answers, not {len(texts)}")

    async def compared() -> Comparison:
        async with aclosing(_workers()) as workers:
            return await _Reader(plan, workers).comparison(plan.domain, texts[0], texts[1])

    comparison = asyncio.run(compared())
    if as_json:
        print_json(comparison)
    else:
        results_console().print(comparison_view(comparison))
    return 0 if comparison.equal else DIFFERENT
