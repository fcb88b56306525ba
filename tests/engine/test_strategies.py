"""Strategies that read, probe, hint and prune, on a real vLLM, and the contract of engines.

Tokens read back by the engine are as likely as transformers alone computes; what is pruned costs
no more.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from open_engine import OpenEngine

import orchestrator
from orchestrator.core.metrics import entropy
from orchestrator.core.plan import Plan
from orchestrator.core.protocols import Strategy
from orchestrator.core.session import Abort, Effect, Session
from orchestrator.core.values import (
    Capability,
    Delimiter,
    Finish,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Result,
    Sampling,
    Trace,
)
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.jobs.job import open_job
from orchestrator.plan.execution import Execution
from orchestrator.plan.models import resolve_model
from orchestrator.runtime import api
from orchestrator.testing import check_engine
from strategies.search.mits import Mits, pmis
from strategies.thinking.concise_hint import ConciseHint
from strategies.thinking.early_answer import EarlyAnswer

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]

PROBLEM = Problem("ship", "Tell a long story about a ship and the number 7.", "number")
QUESTION, BLANK = "A train travels 120 km in 2 hours. How fast is it?", " "
DRAWN = Sampling(temperature=0.9, top_p=1.0, max_new_tokens=24)


def reference(prompt: str, ids: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Return each token's log-probability after the prompt, and the entropy of its distribution, in
    float32 by transformers alone.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_model("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    chat = [{"role": "user", "content": prompt}]
    before = list(
        tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )
    with torch.inference_mode():
        logits = model(torch.tensor([[*before, *ids]])).logits[0, len(before) - 1 : -1]
    logprobs = torch.log_softmax(logits.double(), -1)
    top = logprobs.topk(20).values
    return [float(row[i]) for row, i in zip(logprobs, ids, strict=True)], [
        entropy(row.tolist()) for row in top
    ]


async def test_drawn_and_read_tokens_have_the_reference_s_log_probabilities(
    vllm_engine: VllmEngine,
) -> None:
    """24 tokens drawn after the question in two parts, and read after the question, after a blank
    one, and with a suffix behind them.
    """
    request = Request(
        QUESTION,
        problem_id="p",
        ordinal=0,
        seed=5,
        sampling=DRAWN,
        metrics=("mean_logprob", "mean_entropy"),
    )
    first = await vllm_engine.generate(replace(request, max_new_tokens=10))
    second = await vllm_engine.generate(
        replace(request, ordinal=1, parent=0, prefix_ids=first.token_ids, max_new_tokens=14)
    )
    ids = (*first.token_ids, *second.token_ids)
    after_question, entropies = reference(QUESTION, ids)
    n = len(first.token_ids)
    assert first.metrics["mean_logprob"] * n == pytest.approx(sum(after_question[:n]), abs=1e-2)
    assert second.metrics["mean_logprob"] * len(second.token_ids) == pytest.approx(
        sum(after_question[n:]), abs=1e-2
    )
    assert first.metrics["mean_entropy"] == pytest.approx(sum(entropies[:n]) / n, abs=1e-3)

    reading = replace(
        request, ordinal=2, parent=1, prefix_ids=ids, max_new_tokens=1, metrics=("prefix_logprob",)
    )
    again = await vllm_engine.generate(reading)
    assert again.metrics == {"prefix_logprob": pytest.approx(sum(after_question), abs=1e-2)}
    assert again.usage.cached_tokens == 0, (
        "what the prefix cache holds has no log-probabilities left"
    )
    blank = await vllm_engine.generate(replace(reading, ordinal=3, prompt=BLANK))
    without, _ = reference(BLANK, ids)
    assert blank.metrics["prefix_logprob"] == pytest.approx(sum(without), abs=1e-2)
    suffixed = await vllm_engine.generate(
        replace(reading, ordinal=4, prompt=BLANK, suffix=" So the answer is")
    )
    assert suffixed.metrics["prefix_logprob"] == pytest.approx(sum(without), abs=1e-2)
    assert sum(after_question) > sum(without), "the question makes its solution more likely"


async def test_stop_rules_beside_it_are_refused(vllm_engine: VllmEngine) -> None:
    """With rules vLLM hands its outputs over piece by piece, and the prompt's log-probabilities
    with the first.
    """
    refused = await vllm_engine.generate(
        Request(
            QUESTION,
            problem_id="p",
            ordinal=9,
            sampling=DRAWN,
            prefix_ids=(1,),
            rules=(Delimiter("x"),),
            metrics=("prefix_logprob",),
        )
    )
    assert refused.finish is Finish.FAILED
    assert "stop rules" in refused.error


async def test_the_engine_keeps_the_contract(vllm_engine: VllmEngine) -> None:
    """All that the fake engine is checked for (`orchestrator.testing.engines`), on the real one."""
    await check_engine(vllm_engine, frozenset(Capability) - {Capability.DEPTH})


async def explored(engine: VllmEngine, strategy: Strategy) -> list[Trace]:
    """Return the pool of one exploration on the engine, as the driver does without annotation and
    journal.
    """
    session = Session(
        Problem("p", QUESTION), strategy, Plan(sampling=replace(DRAWN, max_new_tokens=64))
    )
    tasks: dict[asyncio.Task[Trace], None] = {}

    def perform(effects: list[Effect]) -> None:
        for effect in effects:
            assert not isinstance(effect, Abort), "nothing is cancelled here"
            tasks[asyncio.create_task(engine.generate(effect.request))] = None

    perform(session.start())
    while tasks:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del tasks[task]
            perform(session.receive(task.result()))
    assert not session.error
    assert all(t.finish is not Finish.FAILED for t in session.traces.values()), session.traces
    return sorted(session.traces.values(), key=lambda t: t.ordinal)


async def test_mits_scores_its_solutions_as_the_reference_does(vllm_engine: VllmEngine) -> None:
    """Every step has a PMI; that of a whole solution is what transformers makes of its tokens after
    the question and after a blank.
    """
    pool = await explored(vllm_engine, Mits(n=2, beam=2, steps=3, step_tokens=16, delimiter="."))
    steps = {t.ordinal: t for t in pool if t.purpose is Purpose.SOLVE}
    scores = pmis(pool)
    assert set(scores) == set(steps)
    chain = [pool[max(steps)]]
    while chain[0].parent is not None:
        chain.insert(0, steps[chain[0].parent])
    ids = tuple(i for step in chain for i in step.token_ids)
    (after_question, _), (without, _) = reference(QUESTION, ids), reference(BLANK, ids)
    assert scores[max(steps)] == pytest.approx(
        (sum(after_question) - sum(without)) / len(chain), abs=1e-2
    )


async def test_thinking_is_probed_hinted_at_and_closed(vllm_engine: VllmEngine) -> None:
    """This model does not think in tags; the requests to the engine are the same.

    Two probes settle any threshold this high.
    """
    pool = await explored(
        vllm_engine, EarlyAnswer(n=2, warm_up=0, variance=1e9, thinking=60, answer=8, delimiter=".")
    )
    probes = [t for t in pool if t.purpose is Purpose.PROBE]
    assert probes
    assert all(t.usage.output_tokens == 1 and t.metrics["mean_entropy"] >= 0 for t in probes)
    hinted = await explored(
        vllm_engine, ConciseHint(n=2, interval=8, growth=0.5, thinking=30, answer=8)
    )
    assert [len(t.token_ids) for t in hinted if t.parent is None] == [8, 8]
    assert all(t.suffix_ids for t in hinted if t.parent is not None)


async def solved(
    engine: VllmEngine, tmp_path: Path, strategy: PluginSpec, selector: PluginSpec
) -> tuple[Result, list[Trace]]:
    plan = Plan(
        strategy=strategy,
        selector=selector,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=48),
    )
    with open_job(tmp_path, plan, [PROBLEM]) as job:
        [result] = [
            r async for r in api.run_job(job, plan, Execution(), factory=OpenEngine(engine))
        ]
    return result, orchestrator.traces(tmp_path, PROBLEM.id)


async def test_a_model_compares_prefixes_and_only_chosen_ones_go_on(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    """Prefixes of 12 tokens, verdicts of one token, two traces finish; every request is charged
    to its account.
    """
    options = {
        "n": 4,
        "prefix_tokens": 12,
        "n_words": 0,
        "judge": "llm",
        "n_finished": 2,
        "n_single": 2,
    }
    result, traces = await solved(
        vllm_engine, tmp_path, PluginSpec("deepprune", options), PluginSpec("majority")
    )
    assert not result.error
    comparisons = [t for t in traces if t.purpose is Purpose.COMPARE]
    assert comparisons
    assert {t.usage.output_tokens for t in comparisons} == {1}
    assert sum(t.parent is not None for t in traces) == 2
    assert result.usage[Purpose.PRUNED].output_tokens <= 2 * 12
    # what the prefix left of 48
    assert all(t.usage.output_tokens <= 36 for t in traces if t.parent is not None)
    assert not vllm_engine.n_running()


async def test_traces_below_the_floor_are_stopped_in_the_engine(
    vllm_engine: VllmEngine, tmp_path: Path
) -> None:
    """keep = .1: nine of ten fall below the best of the warm-up; what is stopped ends short of its
    limit and does not vote.
    """
    options = {"n": 10, "n_init": 4, "keep": 0.1, "window_tokens": 4, "wave": 6, "consensus": 1.0}
    by = PluginSpec("weighted", {"by": "lowest_confidence@4"})
    result, traces = await solved(vllm_engine, tmp_path, PluginSpec("deepconf", options), by)
    assert not result.error
    stopped = [t for t in traces if t.finish is Finish.RULE]
    assert all(4 <= t.usage.output_tokens <= 48 for t in stopped)
    assert not {o for c in result.clusters for o in c.ordinals} & {t.ordinal for t in stopped}
    assert {t.ordinal for t in stopped} <= result.dropped.keys()
    assert not vllm_engine.n_running()
