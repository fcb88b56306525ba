"""Rows of problem files, wherever they are and however they are written.

Formats, places, columns and ids belong here; `orchestrator.jobs.problems` builds Problems.
"""

from orchestrator.jobs.rows.columns import no_question as no_question
from orchestrator.jobs.rows.reading import Row as Row
from orchestrator.jobs.rows.reading import Rows as Rows
from orchestrator.jobs.rows.reading import has_problem_suffix as has_problem_suffix
from orchestrator.jobs.rows.reading import is_problem_file as is_problem_file
from orchestrator.jobs.rows.reading import row_from as row_from
from orchestrator.jobs.rows.record import Format as Format
