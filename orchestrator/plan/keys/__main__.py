"""Prints the table of keys for docs/plans.md."""

import sys

from orchestrator.plan.keys.reading import markdown_table

sys.stdout.write(markdown_table())
