"""Tokens read back by a real vLLM are as likely as plain transformers says: the numbers that MITS is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.backends.vllm_engine import VllmEngine
from orchestrator.core.folds import entropy
from orchestrator.core.types import Delimiter, Finish, Request, Sampling
from orchestrator.embedded import resolve_model

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

QUESTION, BLANK = "A train travels 120 km in 2 hours. How fast is it?", " "
DRAWN = Sampling(temperature=0.9, top_p=1.0, max_new_tokens=24)


def reference(prompt: str, ids: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Return each token's log-probability after the prompt, and the entropy of its distribution, in float32 by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_model("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    chat = [{"role": "user", "content": prompt}]
    before = list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False))
    with torch.inference_mode():
        logits = model(torch.tensor([[*before, *ids]])).logits[0, len(before) - 1 : -1]
    logprobs = torch.log_softmax(logits.double(), -1)
    top = logprobs.topk(20).values
    return [float(row[i]) for row, i in zip(logprobs, ids, strict=True)], [entropy(row.tolist()) for row in top]


async def test_drawn_and_read_tokens_have_the_reference_s_log_probabilities(vllm_engine: VllmEngine) -> None:
    """24 tokens drawn after the question in two parts, and read after the question, after a blank one, and with a suffix behind them."""
    asked = Request(QUESTION, problem_id="p", ordinal=0, seed=5, sampling=DRAWN, metrics=("mean_logprob", "mean_entropy"))
    first = await vllm_engine.generate(replace(asked, max_new_tokens=10))
    second = await vllm_engine.generate(replace(asked, ordinal=1, parent=0, prefix_ids=first.token_ids, max_new_tokens=14))
    ids = (*first.token_ids, *second.token_ids)
    after_question, entropies = reference(QUESTION, ids)
    n = len(first.token_ids)
    assert first.metrics["mean_logprob"] * n == pytest.approx(sum(after_question[:n]), abs=1e-2)
    assert second.metrics["mean_logprob"] * len(second.token_ids) == pytest.approx(sum(after_question[n:]), abs=1e-2)
    assert first.metrics["mean_entropy"] == pytest.approx(sum(entropies[:n]) / n, abs=1e-3)

    reading = replace(asked, ordinal=2, parent=1, prefix_ids=ids, max_new_tokens=1, metrics=("prefix_logprob",))
    again = await vllm_engine.generate(reading)
    assert again.metrics == {"prefix_logprob": pytest.approx(sum(after_question), abs=1e-2)}
    assert again.usage.cached_tokens == 0, "what the prefix cache holds has no log-probabilities left"
    blank = await vllm_engine.generate(replace(reading, ordinal=3, prompt=BLANK))
    without, _ = reference(BLANK, ids)
    assert blank.metrics["prefix_logprob"] == pytest.approx(sum(without), abs=1e-2)
    suffixed = await vllm_engine.generate(replace(reading, ordinal=4, prompt=BLANK, suffix=" So the answer is"))
    assert suffixed.metrics["prefix_logprob"] == pytest.approx(sum(without), abs=1e-2)
    assert sum(after_question) > sum(without), "the question makes its solution likelier"


async def test_stop_rules_beside_it_are_refused(vllm_engine: VllmEngine) -> None:
    """With rules vLLM hands its outputs over piece by piece, and the prompt's log-probabilities with the first."""
    refused = await vllm_engine.generate(
        Request(QUESTION, problem_id="p", ordinal=9, sampling=DRAWN, prefix_ids=(1,), rules=(Delimiter("x"),), metrics=("prefix_logprob",))
    )
    assert refused.finish is Finish.FAILED
    assert "stop rules" in refused.error
