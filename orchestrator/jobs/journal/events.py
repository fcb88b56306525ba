"""What a journal contains, and what a row of it is that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

import msgspec

from orchestrator.core.errors import JournalError
from orchestrator.core.values import Problem, Prompt, Result, Trace

DAMAGED = (
    "the file is damaged; leadline doctor checks the job directory and, with --repair, makes a new "
    "journal of what can be read"
)
LOST_DIGEST = ""  # of a problem whose row was lost: any text is taken for its own


@dataclass(frozen=True, slots=True)
class Opened:
    """A problem was opened, or taken over; `digest` fixes its text, `plan` is a fingerprint."""

    problem_id: str
    digest: str
    plan: str | None = None  # None: the job's own


@dataclass(frozen=True, slots=True)
class Arrived:
    """An annotated trace arrived."""

    problem_id: str
    trace: Trace
    elapsed: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """A budget that only the driver can see ended the exploration."""

    problem_id: str
    reason: str
    elapsed: float


@dataclass(frozen=True, slots=True)
class Concluded:
    """A problem has its result."""

    result: Result


class DamagedRow(JournalError):
    """A row of a problem, in this table, changed on the disk or cannot be read."""

    def __init__(self, path: Path, problem_id: str, table: str, fault: str) -> None:
        super().__init__(f"{path}: a row of {table}, of problem {problem_id!r}, {fault}; {DAMAGED}")
        self.problem_id = problem_id
        self.fault = f"a row of {table} in the journal {fault}"


Event: TypeAlias = Opened | Arrived | Stopped | Concluded


def digest(problem: Problem) -> str:
    """Return the digest of a problem's prompt, media, domain and settings."""
    media = msgspec.to_builtins(problem.media)
    fixed = (_fixed(problem.prompt), problem.domain, *filter(None, [problem.settings, media]))
    return blake2b(msgspec.json.encode(fixed), digest_size=16).hexdigest()


def _fixed(prompt: Prompt) -> object:
    """Return a prompt without fields that are not set: jobs begun without them must resume."""
    if isinstance(prompt, str):
        return prompt
    messages = (msgspec.to_builtins(message) for message in prompt)
    return [{k: v for k, v in m.items() if v or k in ("role", "content")} for m in messages]
