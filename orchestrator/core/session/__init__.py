"""One problem's exploration (`session`), and the prompt that it begins with (`prompts`)."""

from orchestrator.core.session.prompts import prepared_prompt
from orchestrator.core.session.session import (
    MAX_COMMANDS,
    MAX_REQUESTS,
    Abort,
    Effect,
    Session,
    Start,
)

__all__ = [
    "MAX_COMMANDS",
    "MAX_REQUESTS",
    "Abort",
    "Effect",
    "Session",
    "Start",
    "prepared_prompt",
]
