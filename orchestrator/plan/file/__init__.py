"""Plan files: loading, recording, and where their problems come from."""

from orchestrator.plan.file.loader import LoadedPlan as LoadedPlan
from orchestrator.plan.file.loader import load_plan as load_plan
from orchestrator.plan.file.loader import read_tables as read_tables
from orchestrator.plan.file.record import plan_document as plan_document
from orchestrator.plan.file.record import plan_toml as plan_toml
