"""Reads recordings: job directories, recordings with probes, answer pools, pools of full texts.

The one rule: the content of a file is used unchanged, and a note names everything left out. The
kind of a file is detected from its content. Answers that were recorded as answers are compared as
texts, as in their original evaluation, unless a domain is named. Answers of full texts are
extracted and compared by a domain, `math` unless another is named.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.core.lineage import lineage, whole_text
from orchestrator.core.plan import Plan
from orchestrator.core.values import Answer, Finish, Problem, Purpose, Request, Trace, Verdict
from orchestrator.jobs.finished import read_finished
from orchestrator.plan.execution import Execution
from orchestrator.runtime.annotate import Annotator, Classes
from orchestrator.runtime.answer_workers import AnswerWorkers
from orchestrator.studies.evaluate import (
    ReferenceRow,
    References,
    RightAnswers,
    read_references,
    right_keys,
)
from orchestrator.studies.replay.recording import (
    RecordedProblem,
    RecordedTrace,
    Recording,
    ReplayError,
)
from orchestrator.studies.summary import (
    compare_answers,
    references_in,
    unreadable_notes,
)

NO_ANSWER = ("", "ERR", "None")  # as written in recordings with probes and answer pools
_LEFT_OUT = (
    "that were cut short, dropped or built on others are left out; "
    "the cut ones are mostly the longer ones"
)
_KINDS = (
    "a job directory; a list of questions with `each_branch` (probes); "
    "`records` with `traces` of `text` and `tokens` (full texts); "
    "or one JSON object per line with `all_answers` as [answer, tokens] pairs (an answer pool)"
)


@dataclass(frozen=True, slots=True)
class _RawProblem:
    """A problem as it was recorded: every answer's key is its text.

    Answers of full texts are not extracted yet.
    """

    problem: Problem
    traces: tuple[RecordedTrace, ...]
    reference: str


def read_recording(path: str | Path, domain: str = "", problems: str = "") -> Recording:
    """Return the recording in a file or job directory.

    `domain` determines how answers are compared ("": see the module). `problems` names the file
    with a job's references, if it is not the file that the job ran on. Raises ReplayError, with the
    path, when there is no recording.
    """
    path = Path(path)
    if path.is_dir():
        return _read_job(path, problems)
    content = _decoded(path)
    try:
        raws, has_texts = _parsed(content)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ReplayError(
            f"{path}: {type(error).__name__}: {error}; a recording is {_KINDS}"
        ) from error
    if not raws:
        raise ReplayError(f"{path}: it contains no questions")
    name = path.name.split(".json")[0]
    if has_texts or domain:
        return asyncio.run(_annotated(raws, domain or "math", name))
    recorded = [
        RecordedProblem(raw.problem, raw.traces, frozenset({raw.reference})) for raw in raws
    ]
    return Recording(name, tuple(recorded))


def _decoded(path: Path) -> Any:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError) as error:
        raise ReplayError(
            f"{path}: {getattr(error, 'strerror', None) or error}; "
            "name an existing file or job directory"
        ) from error
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError):
        try:
            return [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
        except (msgspec.DecodeError, ValueError) as error:
            raise ReplayError(f"{path}: not JSON: {error}; a recording is {_KINDS}") from error


def _parsed(content: Any) -> tuple[Sequence[_RawProblem], bool]:
    """Return the problems, and whether their answers must still be extracted from texts."""
    if isinstance(content, Mapping) and "problem_num" not in content:
        return [_text_problem(record) for record in content["records"]], True
    rows: Sequence[Any] = [content] if isinstance(content, Mapping) else content
    if rows and "each_branch" in rows[0]:
        return [_probed_problem(i, row) for i, row in enumerate(rows)], False
    return [_pool_problem(row) for row in rows], False


def _probed_problem(index: int, row: Mapping[str, Any]) -> _RawProblem:
    interval = int(row["probe_freq"])
    answers: dict[str, Answer | None] = {}

    def answer(text: object) -> Answer | None:
        return answers.setdefault(str(text), _answer(str(text)))

    traces = tuple(
        RecordedTrace(
            int(n_tokens),
            answer(final),
            {
                interval * (k + 1): answer(text)
                for k, text in enumerate(probes)
                if interval * (k + 1) < n_tokens
            },
        )
        for probes, n_tokens, final in row["each_branch"]
    )
    return _RawProblem(
        Problem(f"q{index:03d}", str(row["question"])), traces, str(row["gold_answer"])
    )


def _pool_problem(row: Mapping[str, Any]) -> _RawProblem:
    if "all_answers" not in row:
        raise ValueError(
            "a row without `all_answers`: counts of answers alone lack their tokens and order"
        )
    traces = tuple(
        RecordedTrace(int(n_tokens), _answer(str(text))) for text, n_tokens in row["all_answers"]
    )
    return _RawProblem(Problem(str(row["problem_num"]), ""), traces, str(row["gold_answer"]))


def _text_problem(record: Mapping[str, Any]) -> _RawProblem:
    traces = tuple(
        RecordedTrace(
            int(t["tokens"]),
            None,
            text=str(t["text"]),
            verdicts=(Verdict("prm", float(t["prm_score"])),),
        )
        for t in record["traces"]
    )
    return _RawProblem(Problem(str(record["problem_id"]), ""), traces, str(record["gold"]))


def _answer(text: str) -> Answer | None:
    return None if text in NO_ANSWER else Answer(text, text)


async def _annotated(raws: Sequence[_RawProblem], domain: str, name: str) -> Recording:
    """Return the problems with answers in the classes that a live job would assign."""
    rows = {raw.problem.id: ReferenceRow(i, raw.reference) for i, raw in enumerate(raws, start=1)}
    async with aclosing(AnswerWorkers()) as workers:
        annotator = Annotator(Plan(domain=domain), workers)
        read = await read_references(rows, dict.fromkeys(rows, domain), annotator)
        recorded = [await _annotated_problem(raw, domain, read.answers, annotator) for raw in raws]
    return _with_notes(Recording(name, tuple(recorded)), read, name)


def _with_notes(recording: Recording, read: References, source: str) -> Recording:
    """Return the recording with the references that cannot be read, and notes on them."""
    notes = (*recording.notes, *unreadable_notes(read, source))
    unreadable = frozenset(reference.problem_id for reference in read.unreadable)
    return replace(recording, notes=notes, unreadable=unreadable)


async def _annotated_problem(
    raw: _RawProblem, domain: str, references: RightAnswers, annotator: Annotator
) -> RecordedProblem:
    problem, classes = replace(raw.problem, domain=domain), Classes()
    answers: dict[str, Answer | None] = {}  # by text; many traces have the same ending

    async def extracted(text: str, finish: Finish) -> Answer | None:
        if text not in answers:
            trace = Trace(0, text=text, finish=finish)
            answers[text] = (await annotator.annotate(problem, Request(), trace, classes)).answer
        return answers[text]

    async def classed(answer: Answer | None) -> Answer | None:
        return None if answer is None else await extracted(f"\\boxed{{{answer.text}}}", Finish.STOP)

    traces = [
        replace(
            trace,
            answer=await classed(trace.answer)
            if trace.text is None
            else await extracted(trace.text, trace.finish),
            probes={n: await classed(a) for n, a in trace.probes.items()},
        )
        for trace in raw.traces
    ]
    pool = [Trace(i, answer=answer) for i, answer in enumerate(answers.values())]
    id = problem.id
    right = await right_keys({id: pool}, references, {id: domain}, annotator.accepts)
    return RecordedProblem(problem, tuple(traces), right.get(id))


def _read_job(path: Path, problems: str) -> Recording:
    if not (path / "journal.db").is_file():
        raise ReplayError(f"{path}: no journal.db in it; a recording is {_KINDS}")
    job = read_finished(path)
    if not job.pools:
        raise ReplayError(
            f"{path}: its journal contains no problems; run the job first, or name another file"
        )
    rows, note = job.problems(problems)
    source = problems or (job.source.problems if job.source else "")
    domains = {id: row.domain for id, row in rows.items()}
    read = References({})
    if source and Path(source).is_file():
        read = references_in(source, domains, job.plan, Execution())
    right = compare_answers(
        job.plan,
        Execution(),
        lambda annotator: right_keys(job.pools, read.answers, domains, annotator.accepts),
    )
    recorded, n_cut = [], 0
    for problem_id, pool in job.pools.items():
        result = job.results.get(problem_id)
        whole, cut = _chains(pool, result.dropped if result else ())
        n_cut += cut
        recorded.append(RecordedProblem(rows[problem_id], tuple(whole), right.get(problem_id)))
    n_cut_notes = (f"{n_cut} attempts {_LEFT_OUT}",) if n_cut else ()
    notes = (*n_cut_notes, *note, *([job.damage] if job.damage else []))
    recording = Recording(path.name, tuple(recorded), notes)
    return _with_notes(recording, read, source)


def _chains(pool: Sequence[Trace], dropped: Collection[int]) -> tuple[list[RecordedTrace], int]:
    """Return the attempts that ended by themselves, by ordinal, and the number of all others.

    Each attempt includes its continuations. An attempt that was dropped or that saw others is not
    returned, because a fresh draw would not produce it.
    """
    by_ordinal = {t.ordinal: t for t in pool}
    solving = [t for t in sorted(pool, key=lambda t: t.ordinal) if t.purpose is Purpose.SOLVE]
    continued = {t.parent for t in solving}
    probes = {t.parent: t.answer for t in pool if t.purpose is Purpose.PROBE and not t.lost}
    chains = [lineage(t, by_ordinal) for t in solving if t.ordinal not in continued]
    whole = [
        links
        for links in chains
        if _ended(links[-1]) and not any(t.subjects or t.ordinal in dropped for t in links)
    ]
    return [_joined(links, probes) for links in whole], len(chains) - len(whole)


def _ended(leaf: Trace) -> bool:
    if leaf.finish is Finish.LENGTH:  # a job's own limit ends whole attempts, a checkpoint does not
        return leaf.answer is not None or leaf.parent is None
    return leaf.finish not in (Finish.CANCELLED, Finish.RULE)


def _joined(links: Sequence[Trace], probes: Mapping[int | None, Answer | None]) -> RecordedTrace:
    leaf, n_tokens = links[-1], 0
    seen: dict[int, Answer | None] = {}
    for link in links:
        n_tokens += link.usage.output_tokens
        if link.ordinal in probes:
            seen[n_tokens] = probes[link.ordinal]
    text = whole_text(links)
    return RecordedTrace(
        n_tokens, leaf.answer, seen, text, leaf.finish, leaf.metrics, leaf.verdicts, leaf.error
    )
