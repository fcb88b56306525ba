"""The fixed keys of a plan: their table (`table`), how sections are read (`reading`), flags and
short forms (`flags`), and the description of any field (`fields`). `python -m
orchestrator.plan.keys` prints the table.
"""

from orchestrator.core.errors import PlanFault
from orchestrator.plan.keys.fields import FieldInfo, field_infos, unknown_options
from orchestrator.plan.keys.reading import (
    key_type,
    keys,
    markdown_table,
    near,
    read_budgets,
    read_prices,
    read_section,
    refuse_unknown,
    require_pools,
    table_of,
)
from orchestrator.plan.keys.table import (
    KEYS,
    POOL,
    PRICE,
    SECTIONS,
    TABLES,
    Columns,
    OutputFormat,
    TopLevel,
)

__all__ = [
    "KEYS",
    "POOL",
    "PRICE",
    "SECTIONS",
    "TABLES",
    "Columns",
    "FieldInfo",
    "OutputFormat",
    "PlanFault",
    "TopLevel",
    "field_infos",
    "key_type",
    "keys",
    "markdown_table",
    "near",
    "read_budgets",
    "read_prices",
    "read_section",
    "refuse_unknown",
    "require_pools",
    "table_of",
    "unknown_options",
]
