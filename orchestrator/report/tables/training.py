"""Training data from a job: examples of right attempts, and pairs of a right and a wrong one.

The one rule: an example is what the model saw and wrote. So an attempt counts only if nothing was
forced into it and its question was the problem's own; a continuation, a revision or a merger of
other attempts does not. Cancelled, cut-off and failed attempts do not count either.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from orchestrator.core.errors import PlanError
from orchestrator.core.session import prepared_prompt
from orchestrator.core.values import Finish, Purpose
from orchestrator.kit.answers.thinking import parts_of
from orchestrator.kit.prompts import chat_calls, chat_messages
from orchestrator.report.scored import Attempt, ScoredJob, ScoredProblem
from orchestrator.report.tables.rows import Row


def sft_rows(job: ScoredJob, per_problem: int = 0) -> Iterator[Row]:
    """Yield a conversation for each right attempt: `id`, `attempt`, `messages`.

    Equal texts of a problem count once. `per_problem` limits them, lowest ordinals first; 0: all.
    PlanError when no reference is known.
    """
    _require_references(job)
    for problem in job.problems:
        prompt = _prompt(job, problem)
        for attempt in islice(_examples(problem, right=True), per_problem or None):
            yield {
                "id": problem.problem.id,
                "attempt": attempt.trace.ordinal,
                "messages": [*prompt, _reply(attempt)],
            }


def preference_rows(job: ScoredJob, per_problem: int = 0) -> Iterator[Row]:
    """Yield pairs: `prompt`, `chosen` (a right attempt) and `rejected` (a wrong one), as messages.

    Each attempt is in at most one pair of its problem: the first right one with the first wrong
    one, and so on. Otherwise as `sft_rows`.
    """
    _require_references(job)
    for problem in job.problems:
        prompt = _prompt(job, problem)
        pairs = zip(_examples(problem, right=True), _examples(problem, right=False), strict=False)
        for chosen, rejected in islice(pairs, per_problem or None):
            yield {
                "id": problem.problem.id,
                "prompt": prompt,
                "chosen": [_reply(chosen)],
                "rejected": [_reply(rejected)],
            }


def _require_references(job: ScoredJob) -> None:
    if not any(problem.accepted for problem in job.problems):
        raise PlanError(
            f"{job.directory} has no references, so right attempts are not known; "
            "give a file with them: --problems FILE"
        )


def _examples(problem: ScoredProblem, *, right: bool) -> Iterator[Attempt]:
    texts = set()
    if not problem.problem.prompt:
        return
    for attempt in problem.attempts:
        trace = attempt.trace
        if (
            attempt.right is right
            and attempt.is_as_generated
            and trace.purpose is Purpose.SOLVE
            and trace.finish is Finish.STOP
            and (said := (trace.text, trace.calls)) not in texts
        ):
            texts.add(said)
            yield attempt


def _prompt(job: ScoredJob, problem: ScoredProblem) -> list[Row]:
    return chat_messages(prepared_prompt(problem.problem, job.plan))


def _reply(attempt: Attempt) -> Row:
    """Return the assistant's message, with its thinking apart, as servers return it."""
    parts = parts_of(attempt.trace)
    thinking = {"reasoning_content": parts.thinking_text} if parts.thinking else {}
    content = parts.reply_text.strip()
    calls = chat_calls(attempt.trace.calls)
    message: Row = {"role": "assistant", "content": content, **thinking}
    return message | ({"content": content or None, "tool_calls": calls} if calls else {})
