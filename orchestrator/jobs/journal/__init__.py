"""The journal of a job: its events, the store of these, its writer, and the SQLite file below."""

from orchestrator.jobs.journal.changes import Changes, Place, changes_since, stamp
from orchestrator.jobs.journal.events import (
    LOST_DIGEST,
    Arrived,
    Concluded,
    DamagedRow,
    Event,
    Opened,
    Stopped,
    digest,
)
from orchestrator.jobs.journal.examination import Examination, examination
from orchestrator.jobs.journal.journal import Journal
from orchestrator.jobs.journal.salvage import Repair, repair
from orchestrator.jobs.journal.writer import BatchWriter

__all__ = [
    "LOST_DIGEST",
    "Arrived",
    "BatchWriter",
    "Changes",
    "Concluded",
    "DamagedRow",
    "Event",
    "Examination",
    "Journal",
    "Opened",
    "Place",
    "Repair",
    "Stopped",
    "changes_since",
    "digest",
    "examination",
    "repair",
    "stamp",
]
