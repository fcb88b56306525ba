"""An engine of four pools on a real vLLM: a looped policy, and three that value texts.

Values are compared with plain PyTorch's. The checkpoints are tiny, with random weights, in the
shapes of real ones: what is compared is arithmetic, not judgement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import tiny_rewards as tiny
from open_engine import OpenEngine

from orchestrator.core.plan import Model, Plan
from orchestrator.core.values import (
    Finish,
    Message,
    PluginSpec,
    Problem,
    Purpose,
    Request,
    Sampling,
    Trace,
)
from orchestrator.engines.vllm.engine import VllmEngine
from orchestrator.engines.vllm.options import Vllm
from orchestrator.jobs.job import open_job
from orchestrator.jobs.journal import Arrived
from orchestrator.kit.model_verifier import sigmoid
from orchestrator.plan.execution import Execution
from orchestrator.runtime.api import run_job

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(400),
]

CHAT = (
    Message("user", "What is 2 + 2?"),
    Message("assistant", f"Two and two.{tiny.TAG}It is 4.{tiny.TAG}"),
)
PLAIN = (CHAT[0], Message("assistant", "It is 4."))


@dataclass(frozen=True)
class Pools:
    """The open engine, the models of its pools, and what PyTorch makes of token ids."""

    engine: VllmEngine
    models: Mapping[str, Model]
    logit: Callable[[list[int]], float]
    shares: Callable[[list[int]], list[float]]
    embedding: Callable[[list[int]], list[float]]

    async def values(self, model: str, prompt: Any, **fields: Any) -> Trace:
        return await self.engine.generate(
            Request(
                prompt=prompt,
                model=model,
                problem_id="p",
                ordinal=-2,
                purpose=Purpose.VERIFY,
                **fields,
            )
        )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Write the models of all pools; return them with what PyTorch makes of token ids."""
    folder = tmp_path_factory.mktemp("models")
    rm, logit = tiny.outcome(folder / "rm")
    prm, shares = tiny.process(folder / "prm")
    embedder, embedding = tiny.embedder(folder / "embedder")
    models = {
        "main": Model(str(tiny.policy(folder / "main")), layers="0 (1)*r", max_depth=3),
        "rm": Model(str(rm), task="classify"),
        "prm": Model(str(prm), task="token_classify"),
        "embedder": Model(str(embedder), task="embed"),
    }
    return models, logit, shares, embedding


@pytest_asyncio.fixture(loop_scope="session")
async def pools(shared_engine: Any, checkpoints: tuple[Any, ...]) -> Pools:
    """Return one engine with a policy and three pools that value, with caches of several sizes."""
    options = Vllm(
        dtype="float32",  # as the reference; some CPUs would run in bfloat16
        kv_cache_gib=0.25,
        pools={"rm": {"kv_cache_gib": 0.1}, "prm": {"kv_cache_gib": 0.1}},
        max_num_seqs=16,
        threads=1,
    )
    return Pools(await shared_engine.get(options, checkpoints[0]), *checkpoints)


def ids_of(chat: tuple[Message, ...]) -> list[int]:
    text = "".join(f"<|{m.role}|>{m.content}<|end|>" for m in chat)
    return list(tiny.tokenizer().encode(text, add_special_tokens=False))


async def test_a_looped_policy_serves_depths_and_charges_their_layers(pools: Pools) -> None:
    """Of two layers the second is looped. The trace says the depth it had, the layers are charged,
    prefixes stay apart, too deep is refused.
    """
    prompt = "Count from one to twenty in words, then backwards, and say which are prime. " * 8
    greedy = Sampling(temperature=0.0, max_new_tokens=8)
    request = Request(prompt=prompt, problem_id="p", ordinal=0, seed=1, sampling=greedy)
    first, again, deep, warm, refused = [
        await pools.engine.generate(replace(request, ordinal=i, depth=depth))
        for i, depth in enumerate((None, 1, 3, 3, 4))
    ]
    assert [t.depth for t in (first, again, deep, warm)] == [1, 1, 3, 3]
    assert again.token_ids == first.token_ids
    assert warm.token_ids == deep.token_ids != first.token_ids
    # the last token of a prompt is always computed
    whole_blocks = (first.usage.prompt_tokens - 1) // 32 * 32
    assert whole_blocks > 500
    assert [t.usage.cached_tokens for t in (first, again, deep, warm)] == [
        0,
        whole_blocks,
        0,
        whole_blocks,
    ]
    for trace, n_layers in ((first, 2), (again, 2), (deep, 4), (warm, 4)):
        n_computed = trace.usage.prompt_tokens - trace.usage.cached_tokens
        n_tokens = n_computed + trace.usage.output_tokens
        assert trace.usage.layer_tokens == n_tokens * n_layers
    assert refused.finish is Finish.FAILED
    assert "serves 1 to 3" in refused.error


async def test_a_sequence_classifier_gives_its_raw_logit(pools: Pools) -> None:
    """Without vLLM's sigmoid, through the chat template without a generation prompt; the prompt is
    all that is spent.
    """
    trace = await pools.values("rm", PLAIN)
    assert trace.values == pytest.approx((pools.logit(ids_of(PLAIN)),), abs=1e-3)
    assert (trace.text, trace.finish, trace.usage.prompt_tokens, trace.usage.output_tokens) == (
        "",
        Finish.STOP,
        len(ids_of(PLAIN)),
        0,
    )
    assert trace.usage.layer_tokens == 2 * len(ids_of(PLAIN))


async def test_a_process_reward_model_gives_a_value_at_each_tag_or_at_the_last_token(
    pools: Pools,
) -> None:
    """The difference of its two logits, whose sigmoid is the softmax; the tag is the request's, not
    one that vLLM assumes.
    """
    ids, shares = ids_of(CHAT), pools.shares(ids_of(CHAT))
    tag = tiny.tokenizer().convert_tokens_to_ids(tiny.TAG)
    at_tags = await pools.values("prm", CHAT, read_at=tiny.TAG)
    assert [sigmoid(v) for v in at_tags.values] == pytest.approx(
        [p for p, i in zip(shares, ids, strict=True) if i == tag], abs=1e-3
    )
    assert len(at_tags.values) == 2
    last = await pools.values("prm", CHAT)
    assert [sigmoid(v) for v in last.values] == pytest.approx([shares[-1]], abs=1e-3)


async def test_an_embedding_is_that_of_the_plain_text(pools: Pools) -> None:
    """No chat template around it, length one."""
    text = "Two prefixes of one problem."
    trace = await pools.values("embedder", text)
    assert trace.values == pytest.approx(pools.embedding(tiny.tokenizer().encode(text)), abs=1e-3)


async def test_what_a_pool_cannot_value_fails_and_says_why(pools: Pools) -> None:
    """Before anything runs: an unknown tag, a text beyond the context, a continuation, values at
    tokens of a whole-text pool.
    """
    cases = {
        "'ab' is 2 tokens": ("prm", CHAT, {"read_at": "ab"}),
        "has no values at single tokens": ("rm", CHAT, {"read_at": tiny.TAG}),
        "the model values 1 to 1024": ("embedder", "x" * 2000, {}),
        "it continues none": ("rm", PLAIN, {"parent": 0, "prefix_ids": (1,)}),
    }
    for message, (model, prompt, fields) in cases.items():
        trace = await pools.values(model, prompt, **fields)
        assert trace.finish is Finish.FAILED
        assert message in trace.error


async def test_what_is_aborted_or_cancelled_ends_and_leaves_the_pool_as_it_was(
    pools: Pools,
) -> None:
    """An abort gives a CANCELLED trace (or comes too late); a cancelled task ends; afterwards
    nothing runs, and values are the same.
    """
    before = (await pools.values("rm", PLAIN)).values
    requests = [
        Request(prompt="x" * 1000, model="rm", problem_id="p", ordinal=-10 - i) for i in range(12)
    ]
    tasks = [asyncio.create_task(pools.engine.generate(r)) for r in requests]
    await asyncio.sleep(0)
    for request in requests[4:8]:
        pools.engine.abort(request)
    for task in tasks[8:]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(t, Trace) and t.finish is Finish.STOP for t in ended[:4])
    assert all(
        isinstance(t, Trace) and t.finish in (Finish.STOP, Finish.CANCELLED) for t in ended[4:8]
    )
    assert any(
        isinstance(t, Trace) and t.finish is Finish.CANCELLED and not t.values for t in ended[4:8]
    )
    assert all(isinstance(t, asyncio.CancelledError) for t in ended[8:])
    assert (await pools.values("rm", PLAIN)).values == before
    assert pools.engine.n_running() == 0


async def test_a_job_chooses_by_the_reward_of_another_pool(pools: Pools, tmp_path: Path) -> None:
    """A policy pool and two reward pools in one engine: scores are those of plain PyTorch on each
    text, and are charged to verifying.
    """
    verifiers = (
        PluginSpec("reward", {"model": "rm"}),
        PluginSpec("process-reward", {"model": "prm", "delimiter": " ", "system": ""}),
    )
    plan = Plan(
        models=pools.models,
        strategy=PluginSpec("consistency", {"n": 6}),
        selector=PluginSpec("best", {"by": "verdict:reward"}),
        sampling=Sampling(temperature=1.0, max_new_tokens=24),
        verifiers=verifiers,
    )
    problem = Problem("p", "What is 2 + 2?", "text")
    with open_job(tmp_path, plan, [problem]) as job:
        [result] = [
            r async for r in run_job(job, plan, Execution(), factory=OpenEngine(pools.engine))
        ]
        traces = [e.trace for e in job.journal.events("p") if isinstance(e, Arrived)]
    assert not result.error
    assert result.usage["verify"].prompt_tokens > 0
    assert result.usage["verify"].output_tokens == 0
    texts = [t for t in traces if t.text.strip()]  # a policy of random weights may end at once
    assert len(texts) >= 3
    assert all("the trace has no text" in t.note for t in traces if t not in texts)
    for trace in texts:
        assert [v.verifier for v in trace.verdicts] == ["reward", "process-reward"], trace.note
        text = trace.text.strip()
        assert trace.verdicts[0].score == pytest.approx(
            sigmoid(pools.logit(ids_of((CHAT[0], Message("assistant", text))))), abs=1e-3
        )
        steps = [step.strip() for step in text.split(" ") if step.strip()]
        assert len(trace.verdicts[1].steps) == len(steps)
