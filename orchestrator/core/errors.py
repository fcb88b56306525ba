"""The error tree. A bad trace is data and a bad problem is a row: neither is an error here.

LeadlineError
├── PlanError          the plan, a plugin's options, a model or an input file as a whole is wrong:
│   │                  raised before any engine starts
│   ├── PlanFault      one key is wrong
│   └── PluginError    a plugin is unknown, declared twice, or does not load
├── StrategyError      a strategy broke the protocol (its problem fails, the job continues)
├── NoVerdict          a verifier cannot score a trace (the trace continues without the verdict,
│                      with a note)
├── EngineError        the engine cannot start or cannot recover (the job ends; the journal keeps
│                      what is done)
│   └── BudgetSpent    the job's budget of money or GPU-seconds allows no more requests
├── Unavailable        the engine cannot serve a request now, and may later (it is sent again)
├── TooManyFailed      more problems failed than the plan allows (the job ends)
└── JournalError       the journal cannot be written or belongs to another plan (the job ends)
    └── JobBusyError   another process works on this job directory
"""

from __future__ import annotations

import re

# C0, DEL, C1, and the codes that reverse the direction of text (CVE-2021-42574)
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class LeadlineError(Exception):
    """Base class of all errors that Leadline raises on purpose.

    The message is meant for the user: it names the field, the value and the remedy.
    """


class PlanError(LeadlineError):
    """The plan cannot be run as written."""


class PlanFault(PlanError):
    """One key of the plan, `key`, is wrong; a loader can add where it was written."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class PluginError(PlanError):
    """A plugin is unknown, ambiguous or broken."""


class StrategyError(LeadlineError):
    """A strategy broke the protocol of `core.steps`."""


class NoVerdict(LeadlineError):
    """A verifier cannot score this trace; the error's message becomes the trace's note."""


class EngineError(LeadlineError):
    """The engines cannot serve requests and cannot recover."""


class BudgetSpent(EngineError):
    """The job has spent its budget `key` ("usd", "gpu_seconds"); it continues with a larger one."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Unavailable(LeadlineError):
    """An engine cannot serve a request now, as under a rate limit, and may later.

    `retry_after_seconds` is the pause that the engine requested, None if it requested none. With
    `exhausted`, nobody is served before somebody acts, as when a quota is used up. With
    `elsewhere`, another part of the engine can serve the request at once. `lost_tokens` had been
    generated for this request.
    """

    def __init__(
        self,
        message: str,
        retry_after_seconds: float | None = None,
        *,
        exhausted: bool = False,
        elsewhere: bool = False,
        lost_tokens: int = 0,
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.exhausted = exhausted
        self.elsewhere = elsewhere
        self.lost_tokens = lost_tokens


class TooManyFailed(LeadlineError):
    """More problems failed than `supervision.max_failed` allows; the message has the last error."""


class JournalError(LeadlineError):
    """The journal cannot be written or belongs to another plan."""


class JobBusyError(JournalError):
    """Another process is running a job in this directory."""


def printable(text: str) -> str:
    """Return a text without control characters other than line feeds and tabs.

    A terminal obeys them: they move the cursor, or change its title or the clipboard.
    """
    return CONTROLS.sub("", text)


def describe(error: BaseException) -> str:
    """Return an error as one line, with the file and line of its innermost frame."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = (
        f" ({frame.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.tb_lineno})"
        if frame
        else ""
    )
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
