"""The engine `replay`: a whole job (journal, annotation, display, resume) on recorded traces.

To compare strategies use `leadline replay`, which is faster and has a simulated clock. This engine
serves the same recordings through the protocol of all engines. The one rule: a reply is a function
of the request alone. A request draws a trace by its seed, with replacement. A continuation finds
its trace by the token ids it inherits, so that a resumed job continues as if it had not been
interrupted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from msgspec import Meta

from orchestrator.core.errors import PlanError
from orchestrator.core.plan import Model
from orchestrator.core.values import Answer, Capability, Finish, Prompt, Request, Trace
from orchestrator.engines.paced import PacedEngine
from orchestrator.engines.reply import trace_for
from orchestrator.studies.replay.files import read_recording
from orchestrator.studies.replay.recording import RecordedProblem, Recording, ReplayError
from orchestrator.studies.replay.simulator import Stretch, Tape


@dataclass(frozen=True, slots=True)
class Replay:
    """Serves recorded traces instead of a model, to try a whole job without one.

    Problems are matched by their ids.
    """

    # the plan's models are only names here, and their capabilities are not checked
    loads_models: ClassVar[bool] = False

    source: Annotated[
        str, Meta(description="Recording: a job directory or a file (see docs/replay.md).")
    ]
    probe_tokens: Annotated[
        int, Meta(ge=0, description="Tokens that a probe is charged; recordings do not hold them.")
    ] = 0
    seconds_per_token: Annotated[
        float, Meta(ge=0, description="Simulated seconds per token; 0 replies at once.")
    ] = 0.0

    def capabilities(self) -> frozenset[Capability]:
        """Return the capabilities of recorded traces, without stop rules, which need texts."""
        return frozenset({Capability.SEED, Capability.CANCEL, Capability.CONTINUE})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[RecordedEngine]:
        """Yield the engine; raises PlanError for several models or without a recording."""
        if len(models) != 1:
            raise PlanError(
                f"a recording is of one model; the plan has {', '.join(models) or 'none'}"
            )
        yield RecordedEngine(self, await asyncio.to_thread(read_recording, self.source))


class RecordedEngine(PacedEngine):
    """Serves requests from one recording."""

    def __init__(self, options: Replay, recording: Recording) -> None:
        super().__init__()
        self._options = options
        self._name = recording.name
        self._problems = {p.problem.id: p for p in recording.problems}

    async def generate(self, request: Request) -> Trace:
        """Return the recorded trace that this request's seed draws, or its continuation.

        The trace is FAILED, with the reason, when it is not recorded.
        """
        recorded = self._problems.get(request.problem_id)
        try:
            if recorded is None or not recorded.traces:
                raise ReplayError(
                    f"recording {self._name} contains no traces of problem {request.problem_id!r}"
                )
            tape, index = self._tape(recorded, request)
            trace = tape.play(request)
        except ReplayError as error:
            return trace_for(request, Finish.FAILED, error=str(error))
        n_done = await self.tokens_before_abort(
            request, trace.usage.output_tokens, self._options.seconds_per_token
        )
        return _plain(
            request, trace if n_done is None else tape.cut(request, n_done), recorded, index
        )

    def _tape(self, recorded: RecordedProblem, request: Request) -> tuple[Tape, int]:
        if request.parent is None:
            index = random.Random(request.seed).randrange(len(recorded.traces))
            tape = Tape(recorded, [index], self._options.probe_tokens)
            if _n_turns(request.prompt) == _n_turns(recorded.problem.prompt):
                tape.prompt = request.prompt  # in the wording of a plan, which engines do not see
            return tape, index
        # every token id of a recorded trace is the index of that trace
        index = request.prefix_ids[0] if request.prefix_ids else -1
        if not set(request.prefix_ids) <= {index} or not 0 <= index < len(recorded.traces):
            raise ReplayError(
                f"problem {request.problem_id}: the recording contains nothing that follows trace "
                f"{request.parent}"
            )
        tape = Tape(recorded, [], self._options.probe_tokens)
        tape.prompt = request.prompt  # the prompt of its parent was accepted
        tape.stretches[request.parent] = Stretch(request.parent, index, 0, len(request.prefix_ids))
        return tape, index


def _plain(request: Request, trace: Trace, recorded: RecordedProblem, index: int) -> Trace:
    """Return the raw trace, as engines return it: its answer is only in its text.

    If the text was not recorded, the text is the boxed answer.
    """
    n_tokens = trace.usage.output_tokens
    has_text = recorded.traces[index].text is not None and not request.suffix
    text = trace.text if has_text else _stated(trace.answer)
    n_prompt = 1 + len(request.prefix_ids) + len(request.suffix.split())
    return replace(
        trace,
        text=text,
        token_ids=(index,) * n_tokens,
        answer=None,
        usage=replace(trace.usage, prompt_tokens=n_prompt, layer_tokens=n_prompt + n_tokens),
        suffix_ids=(-1,) * len(request.suffix.split()),
    )


def _n_turns(prompt: Prompt) -> int:
    """Return the number of messages in a prompt, without system messages.

    The conversation of a revision has more messages than its problem.
    """
    return 1 if isinstance(prompt, str) else sum(m.role != "system" for m in prompt)


def _stated(answer: Answer | None) -> str:
    return "" if answer is None else f"\\boxed{{{answer.text}}}"
