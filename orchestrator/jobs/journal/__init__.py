"""The journal of a job: its events, the store of these, and the SQLite file below it."""

from orchestrator.jobs.journal.events import (
    Arrived,
    Concluded,
    DamagedRow,
    Event,
    Opened,
    Stopped,
    digest,
)
from orchestrator.jobs.journal.journal import Journal

__all__ = [
    "Arrived",
    "Concluded",
    "DamagedRow",
    "Event",
    "Journal",
    "Opened",
    "Stopped",
    "digest",
]
