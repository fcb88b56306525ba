"""`leadline answers`: what is read in a text, where, and when two answers are one.

With it a user sees, and reports, a misreading. Answers are read and compared as in a job, in worker
processes with a job's limits. No engine is started and nothing is written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec

from orchestrator.cli.console import message, print_json, results_console
from orchestrator.cli.inputs import references_and_notes
from orchestrator.cli.options import debug_option, json_option
from orchestrator.cli.study.answers.reader import ReplyText, comparison, readings
from orchestrator.cli.view.answers import (
    Reading,
    comparison_view,
    reading_view,
    readings_view,
)
from orchestrator.core.errors import PlanError
from orchestrator.core.lineage import lineage, whole
from orchestrator.core.plan import Plan
from orchestrator.core.values import Finish, PluginSpec, Purpose, Trace
from orchestrator.jobs.finished import FinishedJob, read_finished
from orchestrator.plan.execution import Execution
from orchestrator.plan.spec_syntax import one_spec
from orchestrator.studies.scaling import attempts

DIFFERENT = 1  # exit code, as of diff and cmp


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
        if job.damage:
            message(f"note: {job.damage}")
        plan = _job_plan(job.plan, spec) if domain else job.plan
        read = list(_attempts(job, plan, problem, is_forced=domain is not None))
    else:
        _refuse("TEXT and --file", problem=problem)
        end = Finish.LENGTH if cut_off else Finish.STOP
        given = [ReplyText("", _trace(_stdin_or(text), end), spec.name) for text in texts]
        rows = given if path is None else _rows(Path(path), spec.name, end)
        read = [replace(text, references=references) for text in rows]
    return _show(readings(plan, read), as_json)


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


def _show(read: Sequence[Reading], as_json: bool) -> int:
    if as_json:
        print_json(read)
    elif len(read) == 1:
        results_console().print(reading_view(read[0]))
    else:
        results_console().print(readings_view(read))
    return 0


# --- the texts


def _trace(text: str, finish: Finish) -> Trace:
    return Trace(0, text=text, finish=finish)


def _stdin_or(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _rows(path: Path, domain: str, end: Finish) -> Iterator[ReplyText]:
    """Yield the text of a file, or of each row of a .jsonl file."""
    try:
        content = path.read_bytes().decode()
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: byte {error.start + 1} is not UTF-8") from error
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        yield ReplyText(path.name, _trace(content, end), domain)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _row(f"{path.name}:{number}", line, domain, end)


def _row(name: str, line: str, domain: str, end: Finish) -> ReplyText:
    try:
        row: Any = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise PlanError(f"{name}: not JSON: {error}") from error
    row = {"text": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise PlanError(f"{name}: a row is a text, or an object with the field `text`")
    end = Finish.LENGTH if row.get("finished", True) is False else end
    return ReplyText(name, _trace(row["text"], end), domain)


def _attempts(job: FinishedJob, plan: Plan, problem: str, is_forced: bool) -> Iterator[ReplyText]:
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
            yield ReplyText(
                f"{id} #{trace.ordinal}",
                replace(whole(lineage(trace, by_ordinal)), parent=None, answer=None, note=""),
                domain,
                id,
                known.get(id, ()),
                # the journal lacks what was forced between the traces of an attempt
                recorded if trace.parent is None else None,
            )


def _compare(plan: Plan, texts: Sequence[str], as_json: bool) -> int:
    if len(texts) != 2:
        raise PlanError(f"--compare takes two answers, not {len(texts)}")
    compared = comparison(plan, texts[0], texts[1])
    if as_json:
        print_json(compared)
    else:
        results_console().print(comparison_view(compared))
    return 0 if compared.equal else DIFFERENT
