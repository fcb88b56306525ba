"""A service without HTTP: a plan with its engine, which answers bodies of the protocol in process.

The one rule: a body gets the reply that `leadline serve` would send. Not covered: keys and limits,
which are of those who ask from elsewhere.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.core.errors import PlanError
from orchestrator.jobs.rows.examples import with_examples
from orchestrator.plan.file import LoadedPlan, load_plan
from orchestrator.runtime.isolated_verifiers import check_isolated
from orchestrator.serve.protocol.bodies import ChatBody
from orchestrator.serve.protocol.faults import invalid
from orchestrator.serve.protocol.questions import QuestionReader
from orchestrator.serve.protocol.replies import answered, completion
from orchestrator.serve.running.service import GONE, Service, running_service

JSON = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LocalService:
    """A running service of this process; made by `local_service`, and used from its event loop."""

    service: Service
    reader: QuestionReader

    async def answer(self, body: Mapping[str, Any]) -> JSON:
        """Return the reply to a body of /v1/chat/completions; Fault if it cannot be answered.

        What is cancelled stops everything that it caused.
        """
        try:
            chat = ChatBody.model_validate(dict(body))
        except ValidationError as error:
            first = error.errors()[0]
            raise invalid(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        question = self.reader.read(chat, f"chatcmpl-{uuid.uuid4().hex}")
        exchange = self.service.submit(question)
        try:
            result = await exchange.result
        finally:
            self.service.stop(exchange, GONE)
        prices = self.service.execution.prices
        return completion(answered(question, result, exchange.traces, int(time.time()), prices))


def loaded_plan(place: str | Path) -> LoadedPlan:
    """Return the plan of a file, ready to run; PlanError if it cannot."""
    if not place:
        raise PlanError("name a plan file with the argument plan, as in plan=plan.toml")
    loaded = load_plan(place)
    return replace(loaded, plan=with_examples(loaded.plan))


@asynccontextmanager
async def local_service(loaded: LoadedPlan) -> AsyncIterator[LocalService]:
    """Yield the service of a plan, whose engine is up; EngineError when it cannot start."""
    plan, execution = loaded.plan, loaded.execution
    await check_isolated(plan.verifiers)
    async with running_service(plan, execution, max_waiting=sys.maxsize) as service:
        yield LocalService(service, QuestionReader(plan, execution, max_attempts=sys.maxsize))
