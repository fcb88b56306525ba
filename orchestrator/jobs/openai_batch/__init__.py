"""The OpenAI batch format: its rows, the object `leadline` in their bodies, and its output."""

from orchestrator.jobs.openai_batch.body import (
    NO_POOLS,
    REFUSAL,
    is_batch_row,
    named_pools,
    pools_of_rows,
    problem_fields,
    settings_of,
)
from orchestrator.jobs.openai_batch.choices import choice_of, usage_counts
from orchestrator.jobs.openai_batch.output import (
    best_attempts,
    output_line,
    returned_attempts,
    write_batch_output,
    write_split_output,
)

__all__ = [
    "NO_POOLS",
    "REFUSAL",
    "best_attempts",
    "choice_of",
    "is_batch_row",
    "named_pools",
    "output_line",
    "pools_of_rows",
    "problem_fields",
    "returned_attempts",
    "settings_of",
    "usage_counts",
    "write_batch_output",
    "write_split_output",
]
