"""`leadline depth calibrate`: what it runs, prints, writes and refuses. The statistics, and the
exits themselves, have tests of their own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import Result

from orchestrator.core.layers import parse_exit
from orchestrator.core.plan import Model
from orchestrator.core.values import Capability, Finish, Request, Trace, Usage
from orchestrator.engines.reply import trace_for
from orchestrator.plan import registry
from orchestrator.plan.file import load_plan

Run = Callable[..., Result]
opened: list[str] = []  # the rule of each engine that was started


@registry.engine("test-exiting")
@dataclass(frozen=True, slots=True)
class Exiting:
    """An engine whose problems q0, q1, ... change their answer at thresholds 0.1, 0.2, ..."""

    rule: str = ""

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.DEPTH, Capability.SEED})

    @asynccontextmanager
    async def open(self, models: Mapping[str, Model]) -> AsyncIterator[Exiting]:
        opened.append(models["main"].exit)
        yield replace(self, rule=models["main"].exit)

    async def generate(self, request: Request) -> Trace:
        number = int(request.problem_id[1:])
        threshold = parse_exit(self.rule).threshold if self.rule else 0.0
        answer = 7 if number and threshold > 0.1 * number else 8
        if threshold > 5:
            return trace_for(request, Finish.FAILED, error="no")
        text = f"The answer is {answer if number else '8.0' if self.rule else 8}."
        depths = (2, 4) if self.rule else ()
        usage = Usage(1, 0, 2, layer_tokens=20 if self.rule else 40)
        return trace_for(
            request, Finish.STOP, text=text, token_ids=(5, answer), usage=usage, depths=depths
        )

    def abort(self, request: Request) -> None:
        """Nothing runs long enough to be aborted."""


@pytest.fixture
def looped(cli: Run) -> Run:
    """The command with a plan for the engine above, and no engine counted yet."""
    Path("plan.toml").write_text(
        'problems = "p.jsonl"\ndomain = "number"\nmodel = "sounder"\nout = "job"\n'
        '[strategy]\nname = "consistency"\nn = 4\n[execution.engine]\nname = "test-exiting"\n'
    )
    opened.clear()
    return lambda *given: cli("depth", "calibrate", "plan.toml", *given)


LOSS = ("--loss", "0.4", "--thresholds", "0.1,0.2,0.3,0.8")


def test_the_loosest_threshold_within_the_loss_is_the_line_for_the_plan(looped: Run) -> None:
    """8.0 is the number 8. At 0.2 and 0.3 one and two of ten answers differ: P(Bin(10, 0.4) <= 1)
    = 0.046, and for 2 it is 0.167, which is above 1 - 0.9. So 0.8 is not tried.
    """
    done = looped(*LOSS)
    assert done.exit_code == 0, done.output
    assert opened == ["", "state<0.1", "state<0.2", "state<0.3"]
    assert 'exit = "state<0.2"   # in [models.main]' in done.stdout
    assert "with confidence 90% over the draw of 10 problems" in done.stdout
    table = [line.split() for line in done.stdout.splitlines() if line.startswith(" state<")]
    assert [row[:2] for row in table] == [
        ["state<0.1", "0.0%"],
        ["state<0.2", "10.0%"],
        ["state<0.3", "20.0%"],
    ]
    assert "0.046" in table[1]
    assert "3.00" in table[1]
    found = json.loads(Path("job-exits-state/calibration.json").read_text())
    assert (found["rule"], found["full_depth"], found["full_layer_tokens"]) == ("state<0.2", 8, 40)
    plan = load_plan("job-exits-state/calibrated.toml").plan
    assert plan.models["main"].exit == "state<0.2"
    assert plan.strategy.options["n"] == 4, "the plan is the user's, with the line"


def test_the_same_command_runs_nothing_again(looped: Run) -> None:
    looped(*LOSS)
    opened.clear()
    again = looped(*LOSS, "--json")
    assert opened == []
    assert json.loads(again.stdout)["rule"] == "state<0.2"


def test_tokens_are_another_loss(looped: Run) -> None:
    """Of two tokens the second differs, so the loss is half as large: 10% at 0.3, not 20%."""
    done = looped("--of", "tokens", *LOSS)
    assert done.exit_code == 0, done.output
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith(" state<0.3"))
    assert row[1] == "10.0%"
    assert "the share of an attempt's tokens from the first" in done.stdout


def test_where_no_threshold_is_shown_the_next_step_is(looped: Run) -> None:
    done = looped("--loss", "0.4", "--thresholds", "0.8,0.9")
    assert done.exit_code == 0, done.output
    assert opened == ["", "state<0.8"]
    assert "even state<0.8 is not shown to be within 40.0%" in done.stdout
    assert not Path("job-exits-state/calibrated.toml").exists()


def test_attempts_that_fail_everywhere_are_an_error(looped: Run) -> None:
    """Nothing is known of a rule under which no attempt has a result."""
    done = looped("--loss", "0.4", "--rule", "agreement", "--thresholds", "6")
    assert done.exit_code == 2
    assert "no attempt under exit = 'agreement>=6' has its depths" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--loss", "0.05"), "10 problems cannot show a loss of at most 0.05"),
        (("--loss", "0.4", "--thresholds", "0.3,0.1"), "the strictest first, as in 0.1,0.3"),
        (("--loss", "0.4", "--thresholds", "0.3;0.1"), "give numbers above 0"),
        (("--loss", "0.4", "--thresholds", "-1"), "give numbers above 0"),
        (("--loss", "0.4", "--model", "smollm2"), "models.main has no think block"),
        (("--loss", "0.4", "--execution.engine", "openai"), "'openai'"),
        (("--loss", "0.4", "--rule", "agreement", "--thresholds", "16"), "no token would stop"),
        (("--loss", "0.4", "--rule", "agreement", "--thresholds", "2.5"), "cannot be read"),
        (("--loss", "1"), "--loss"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_an_engine_starts(
    looped: Run, given: tuple[str, ...], said: str
) -> None:
    done = looped(*given)
    assert done.exit_code == 2
    assert said in done.stderr
    assert opened == []
